"""The evaluators of a sweep, one or more for each kind of evaluation, and the checkpoints they are working on."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from eval_workers.warm_evaluators import WarmAnswering, WarmReward, WarmSuite
from mmpo_train.config import ONLINE_OBJECTIVES, TrialConfig, to_dict
from mmpo_train.events import Finished
from mmpo_train.storage.mirror import name_of
from mmpo_train.training import Trial
from mmpo_train.trial.places import AnyTrial, Places
from sweeps.ledger.journal import FILE_NAME, judged_suites, read_entries
from sweeps.plan.options import SweepEvaluation
from sweeps.trials.reasons import one_line
from sweeps.trials.work import Work

REWARD = "reward"


class Judgement(NamedTuple):
    """An evaluation in progress."""

    digest: str
    finished: Finished
    suite: str


class Workplace(Protocol):
    """Where evaluators work: `eval_workers.actors.Actors`, or `in_process.Here`."""

    def start(self, kind: type, *arguments: Any) -> Any: ...
    def ask(self, method: Any, *arguments: Any) -> Any: ...
    def results(
        self, asked: Collection[Any], timeout_seconds: float
    ) -> Iterable[tuple[Any, Any, Exception | None]]: ...
    def value(self, reference: Any) -> Any: ...
    def close(self) -> None: ...


class Evaluators:
    """Evaluates the checkpoints of trials."""

    def __init__(self, work: Work, workplace: Workplace) -> None:
        self.workplace = workplace
        self.judged = [(trial, places) for trial, places in work.trials.values() if isinstance(trial, TrialConfig)]
        """Trials with checkpoints to evaluate. Instruction tuning is evaluated by its own loop."""
        self.waiting: dict[Any, Judgement] = {}
        """By the reference of what will come of it."""
        if not self.judged:
            return
        trials = [trial for trial, _ in self.judged]
        self.storage, self.judge = name_of(work.options.folder), work.judge
        self.judge_prompt = work.options.evaluation.judge_prompt
        settings, first = work.options.evaluation, trials[0]
        tiny = first.model == "tiny"
        self.reward = workplace.start(WarmReward)
        self.answering: Any = None
        if _answering_needed(trials, work.judge):
            generator = settings.generator_for(tiny)
            self.answering = workplace.start(WarmAnswering, f"{self.storage}/verdicts.sqlite", generator)
        common = settings.plain(), self.storage, tiny, first.precision
        self.suites = {
            # The actors take turns: all checkpoints of a sweep cost about the same.
            suite: cycle([workplace.start(WarmSuite, suite, *common) for _ in range(settings.actors_per_suite)])
            for suite in suites_of(trials)
        }

    def close(self) -> None:
        """Give their GPUs back for what the same command does next."""
        self.workplace.close()

    def starting_models(self) -> dict[str, Any]:
        """Digest -> a reference to the starting model's metrics by the trial's objective."""
        ask = self.workplace.ask
        return {
            trial.digest: ask(self.reward.starting_model, to_dict(trial), *_validation(places))
            for trial, places in self.judged
        }

    def submit(self, trial: TrialConfig, places: Places, finished: Finished, known: Collection[str] = ()) -> None:
        """Send a checkpoint to all its evaluators but those whose results are `known`."""
        for suite in wanted_suites(trial, finished.epoch):
            if suite not in known:
                self.waiting[self._ask(suite, trial, places, finished)] = Judgement(trial.digest, finished, suite)

    def _ask(self, suite: str, trial: TrialConfig, places: Places, finished: Finished) -> Any:
        ask, model, tokens = self.workplace.ask, name_of(places.model), name_of(places.tokens)
        artifacts = name_of(artifacts_folder(places, trial, finished.epoch))
        if suite != REWARD:
            request = {"checkpoint": finished.checkpoint, "starting_model": model, "artifacts": artifacts}
            return ask(next(self.suites[suite]).evaluate, request)
        scores = ask(self.reward.evaluate, finished.checkpoint, *_validation(places), f"{artifacts}/{REWARD}")
        if self.judge:
            about = finished.checkpoint, model, tokens, self.judge, f"{self.storage}/answers", self.judge_prompt
            scores = ask(self.answering.add_win_rate, scores, *about)
        return scores

    def results(self, timeout_seconds: float) -> Iterator[tuple[Judgement, dict[str, Any] | None, str]]:
        """The evaluations that end within the time, with their scores, or with None and the reason."""
        for reference, scores, error in self.workplace.results(self.waiting, timeout_seconds):
            yield self.waiting.pop(reference), scores, one_line(error) if error is not None else ""

    def are_judging(self, digest: str) -> bool:
        """Whether a checkpoint of the trial is still being evaluated."""
        return any(one.digest == digest for one in self.waiting.values())


def actors_needed(trials: Sequence[TrialConfig], settings: SweepEvaluation, judge: str = "") -> int:
    """The number of evaluators that `Evaluators` starts for these trials."""
    return 1 + _answering_needed(trials, judge) + settings.actors_per_suite * len(suites_of(trials))


def wanted_suites(trial: TrialConfig, epoch: int) -> list[str]:
    """What judges the checkpoint of an epoch."""
    others = epoch % trial.evaluate_every_epochs == 0 or epoch == trial.epochs
    return [REWARD, *(suites_of([trial]) if others else ())]


def judged_epochs(trial: Trial, places: Places) -> list[int]:
    """The epochs whose checkpoints have been judged by all that judge them, and are not needed again. Those of an
    instruction tuning stay needed: they are its result."""
    if not isinstance(trial, TrialConfig):
        return []
    known = judged_suites(read_entries(places.trial(trial) / FILE_NAME))
    epochs = range(1, trial.epochs + 1)
    return [epoch for epoch in epochs if set(wanted_suites(trial, epoch)) <= known.get(epoch, set())]


def artifacts_folder(places: Places, trial: AnyTrial, epoch: int) -> Path:
    """Folder for the tables and samples of an epoch's evaluations."""
    return places.trial(trial).resolve() / "evaluations" / f"epoch-{epoch:04d}"


def suites_of(trials: Iterable[TrialConfig]) -> list[str]:
    """The evaluations of the trials besides reward accuracy."""
    return sorted({suite for trial in trials for suite in trial.evaluations} - {REWARD})


def _answering_needed(trials: Sequence[TrialConfig], judge: str) -> bool:
    """Whether answers are made and ranked: for online objectives, or for a study's win rate by a `judge`."""
    return bool(judge) or any(trial.objective in ONLINE_OBJECTIVES for trial in trials)


def _validation(places: Places) -> tuple[str, str]:
    return name_of(places.tokens), name_of(places.reference)

"""The evaluators of a sweep's checkpoints: warm actors, one for each kind, that work while training goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval_workers.actors import reserve, start_answering, start_reward_accuracy, start_suite
from mmpo_train.config import ONLINE_OBJECTIVES, TrialConfig, to_dict
from mmpo_train.storage.mirror import name_of

if TYPE_CHECKING:
    from mmpo_train.events import Finished
    from mmpo_train.trial.places import Places
    from sweeps.cluster.evaluator_seats import Seat
    from sweeps.plan.options import SweepEvaluation

REWARD = "reward"


class Evaluators:
    """Actors for what the trials ask for, and what each checkpoint is sent to."""

    def __init__(
        self,
        trials: Sequence[tuple[TrialConfig, Places]],
        storage: Path,
        settings: SweepEvaluation,
        *,
        seat: Seat,
        judge: str = "",
    ) -> None:
        """With a `judge`, the reward suite also compares answers with the starting model's (a study's win rate).

        Returns when there is a place for evaluators with GPUs of their own: no trial may take it first and then wait
        for them.
        """
        self.storage, self.judge = name_of(storage), judge
        options: Mapping[str, Any] = seat.options
        self.give_back: Callable[[], None] | None = None
        if seat.gpus >= 1:
            options, self.give_back = reserve(options, seat.actors)
        self.reward = start_reward_accuracy(options)
        self.answering: Any = None
        if judge or any(trial.objective in ONLINE_OBJECTIVES for trial, _ in trials):
            generator = settings.generator_for(trials[0][0].model == "tiny")
            self.answering = start_answering(f"{self.storage}/verdicts.sqlite", options, generator)
        first, count = trials[0][0], settings.actors_per_suite
        one: dict[str, Any] = {"tiny": first.model == "tiny", "precision": first.precision, "seat": options}
        self.suites = {
            # They take turns: checkpoints of a sweep cost about the same.
            suite: cycle([start_suite(suite, settings, self.storage, **one) for _ in range(count)])
            for suite in suites_of(trial for trial, _ in trials)
        }

    def close(self) -> None:
        """Give their GPUs back, to what the same command does next."""
        if self.give_back is not None:
            self.give_back()

    def starting_model(self, trial: TrialConfig, places: Places) -> Any:
        """A reference to what the starting model scores by the trial's objective."""
        return self.reward.starting_model.remote(to_dict(trial), *_validation(places))

    def submit(self, trial: TrialConfig, places: Places, finished: Finished) -> dict[Any, str]:
        """Send a checkpoint to all that judge it. Gives a reference to each result, and whose it is."""
        scores = self.reward.evaluate.remote(finished.checkpoint, *_validation(places))
        model, tokens = name_of(places.model), name_of(places.tokens)
        if self.judge:
            folder = f"{self.storage}/answers"
            scores = self.answering.add_win_rate.remote(scores, finished.checkpoint, model, tokens, self.judge, folder)
        sent = {scores: REWARD}
        if finished.epoch % trial.evaluate_every_epochs == 0 or finished.epoch == trial.epochs:
            artifacts = name_of(artifacts_folder(places, trial, finished.epoch))
            request = {"checkpoint": finished.checkpoint, "starting_model": model, "artifacts": artifacts}
            for suite in suites_of([trial]):
                sent[next(self.suites[suite]).evaluate.remote(request)] = suite
        return sent


def actors_needed(trials: Sequence[TrialConfig], settings: SweepEvaluation, judge: str = "") -> int:
    """How many actors `Evaluators` starts for these trials."""
    answering = bool(judge) or any(trial.objective in ONLINE_OBJECTIVES for trial in trials)
    return 1 + answering + settings.actors_per_suite * len(suites_of(trials))


def artifacts_folder(places: Places, trial: TrialConfig, epoch: int) -> Path:
    """Where the suites put an epoch's tables and samples."""
    return places.trial(trial).resolve() / "evaluations" / f"epoch-{epoch:04d}"


def suites_of(trials: Iterable[TrialConfig]) -> list[str]:
    """What the trials' checkpoints are judged by beside reward accuracy."""
    return sorted({suite for trial in trials for suite in trial.evaluations} - {REWARD})


def _validation(places: Places) -> tuple[str, str]:
    return name_of(places.tokens), name_of(places.reference)

"""The evaluators of a sweep's checkpoints: warm actors, one for each kind, that work while training goes on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval_workers.actors import start_answering, start_reward_accuracy, start_suite
from mmpo_train.config import ONLINE_OBJECTIVES, TrialConfig, to_dict

if TYPE_CHECKING:
    from eval_workers.suites import EvaluationSettings
    from mmpo_train.events import Finished
    from mmpo_train.prepare import Places

REWARD = "reward"


class Evaluators:
    """Actors for what the trials ask for, and what each checkpoint is sent to."""

    def __init__(
        self,
        trials: Sequence[tuple[TrialConfig, Places]],
        storage: Path,
        settings: EvaluationSettings,
        *,
        use_gpu: bool,
        judge: str = "",
    ) -> None:
        """With a `judge`, the reward suite also compares answers with the starting model's (a study's win rate)."""
        gpus, self.storage, self.judge = settings.gpus_per_actor if use_gpu else 0.0, storage.resolve(), judge
        self.reward = start_reward_accuracy(gpus)
        self.answering: Any = None
        if judge or any(trial.objective in ONLINE_OBJECTIVES for trial, _ in trials):
            generator = settings.generator_for(trials[0][0].model == "tiny")
            self.answering = start_answering(str(self.storage / "verdicts.sqlite"), gpus, generator)
        first, count = trials[0][0], settings.actors_per_suite
        one: dict[str, Any] = {"tiny": first.model == "tiny", "precision": first.precision, "gpus": gpus}
        self.suites = {
            # They take turns: checkpoints of a sweep cost about the same.
            suite: cycle([start_suite(suite, settings, str(self.storage), **one) for _ in range(count)])
            for suite in suites_of(trial for trial, _ in trials)
        }

    def starting_model(self, trial: TrialConfig, places: Places) -> Any:
        """A reference to what the starting model scores by the trial's objective."""
        return self.reward.starting_model.remote(to_dict(trial), *_validation(places))

    def submit(self, trial: TrialConfig, places: Places, finished: Finished) -> dict[Any, str]:
        """Send a checkpoint to all that judge it. Gives a reference to each result, and whose it is."""
        scores = self.reward.evaluate.remote(finished.checkpoint, *_validation(places))
        model, tokens = str(places.model.resolve()), str(places.tokens.resolve())
        if self.judge:
            folder = str(self.storage / "answers")
            scores = self.answering.add_win_rate.remote(scores, finished.checkpoint, model, tokens, self.judge, folder)
        sent = {scores: REWARD}
        if finished.epoch % trial.evaluate_every_epochs == 0 or finished.epoch == trial.epochs:
            artifacts = str(artifacts_folder(places, trial, finished.epoch))
            request = {"checkpoint": finished.checkpoint, "starting_model": model, "artifacts": artifacts}
            for suite in suites_of([trial]):
                sent[next(self.suites[suite]).evaluate.remote(request)] = suite
        return sent


def artifacts_folder(places: Places, trial: TrialConfig, epoch: int) -> Path:
    """Where the suites put an epoch's tables and samples."""
    return places.trial(trial).resolve() / "evaluations" / f"epoch-{epoch:04d}"


def suites_of(trials: Iterable[TrialConfig]) -> list[str]:
    """What the trials' checkpoints are judged by beside reward accuracy."""
    return sorted({suite for trial in trials for suite in trial.evaluations} - {REWARD})


def _validation(places: Places) -> tuple[str, str]:
    return str(places.tokens.resolve()), str(places.reference.resolve())

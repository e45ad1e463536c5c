"""Evaluators as warm Ray actors. The door to ray on this side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import ray

from mmpo_train.errors import InputError

if TYPE_CHECKING:
    from eval_workers.suites import EvaluationSettings

# No CPU, so that they never take a trainer's place.
_OPTIONS: dict[str, Any] = {"num_cpus": 0, "max_restarts": 3, "max_task_retries": 3}


class RewardAccuracyActor:
    """Holds validation pairs and a model; scores one checkpoint folder after the other."""

    def __init__(self) -> None:
        from eval_workers.reward_accuracy import RewardAccuracy

        self.reward_accuracy = RewardAccuracy()

    def evaluate(self, checkpoint: str, tokens: str, reference: str) -> dict[str, Any]:
        """Plain numbers, as `RewardAccuracy` gives them."""
        return self.reward_accuracy(checkpoint, tokens, reference)

    def starting_model(self, config: dict[str, Any], tokens: str, reference: str) -> dict[str, float]:
        """Metrics of the model that training starts from, by the config's objective."""
        return self.reward_accuracy.starting_model(config, tokens, reference)


class SuiteActor:
    """Holds one evaluation of `suites`, for one checkpoint folder after the other."""

    def __init__(self, suite: str, settings: dict[str, Any], storage: str, tiny: bool, precision: str) -> None:
        from eval_workers.suites import EvaluationSettings, build

        self.run = build(suite, EvaluationSettings(**settings), Path(storage), tiny=tiny, precision=precision)

    def evaluate(self, request: dict[str, str]) -> dict[str, Any]:
        """Plain numbers, as `suites.build` says."""
        return self.run(request)


class AnsweringActor:
    """Holds a model that answers prompts, and the judges that rank the answers."""

    def __init__(self, verdicts: str, generator: Literal["auto", "own", "vllm"]) -> None:
        from eval_workers.answering import Answering

        self.answering = Answering(Path(verdicts), generator)

    def make_segment(self, request: dict[str, Any]) -> None:
        """Write the segment's folder."""
        from eval_workers.online import make_segment

        make_segment(self.answering, request)

    def add_win_rate(
        self, scores: dict[str, Any], checkpoint: str, model: str, tokens: str, judge: str, folder: str
    ) -> dict[str, Any]:
        """`RewardAccuracyActor.evaluate`'s scores with the win rate against the starting model among them."""
        from eval_workers.win_rate import win_rate

        metrics = win_rate(self.answering, Path(checkpoint), Path(model), Path(tokens), judge, Path(folder))
        return scores | {"metrics": scores["metrics"] | metrics}


def start_reward_accuracy(gpus: float = 0.0) -> Any:
    """A handle to a fresh actor."""
    return ray.remote(**_OPTIONS, num_gpus=gpus)(RewardAccuracyActor).remote()


def start_suite(
    suite: str, settings: EvaluationSettings, storage: str, *, tiny: bool, precision: str, gpus: float = 0.0
) -> Any:
    """A handle to a fresh actor. One that dies is started again and its work done again."""
    actor: Any = ray.remote(**_OPTIONS, num_gpus=gpus)(SuiteActor)
    return actor.remote(suite, vars(settings), storage, tiny, precision)


def start_answering(verdicts: str, gpus: float = 0.0, generator: Literal["auto", "own", "vllm"] = "auto") -> Any:
    """A handle to a fresh actor. It is known by name too: `ask_for_segment` finds it from a training worker."""
    actor: Any = ray.remote(**_OPTIONS, num_gpus=gpus)(AnsweringActor)
    return actor.options(name=_ANSWERING, get_if_exists=True).remote(verdicts, generator)


def ask_for_segment(request: dict[str, Any]) -> Any:
    """Have a segment made; gives a function that says whether it is there, and raises where it could not be made."""
    done: Any = ray.get_actor(_ANSWERING).make_segment.remote(request)

    def is_made() -> bool:
        ready, _ = ray.wait([done], timeout=0)
        if ready:
            try:
                ray.get(done)
            except ray.exceptions.RayTaskError as error:
                # Ray's own kind does not survive the next process border.
                raise error.cause if isinstance(error.cause, InputError) else RuntimeError(str(error)) from None
        return bool(ready)

    return is_made


_ANSWERING = "answering"

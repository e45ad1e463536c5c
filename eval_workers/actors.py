"""Evaluators as warm Ray actors. The door to ray in this package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import ray

from mmpo_train.errors import InputError
from mmpo_train.storage.mirror import need, place_of, publish_files

if TYPE_CHECKING:
    from eval_workers.suites import EvaluationSettings

# No CPU, so that they never take a trainer's place. On a spot market an actor loses its node many times.
_OPTIONS: dict[str, Any] = {"num_cpus": 0, "max_restarts": 20, "max_task_retries": 20}
_ANYWHERE: Mapping[str, Any] = {"num_gpus": 0}


class RewardAccuracyActor:
    """Holds validation pairs and a model, and scores one checkpoint folder after the other."""

    def __init__(self) -> None:
        from eval_workers.reward_accuracy import RewardAccuracy

        self.reward_accuracy = RewardAccuracy()

    def evaluate(self, checkpoint: str, tokens: str, reference: str) -> dict[str, Any]:
        """The checkpoint's scores as plain numbers, as `RewardAccuracy` returns them."""
        return self.reward_accuracy(*_brought(checkpoint, tokens, reference))

    def starting_model(self, config: dict[str, Any], tokens: str, reference: str) -> dict[str, float]:
        """Metrics of the starting model, by the config's objective."""
        return self.reward_accuracy.starting_model(config, *_brought(tokens, reference))


class SuiteActor:
    """Holds one evaluation of `suites`, and runs it on one checkpoint folder after the other."""

    def __init__(self, suite: str, settings: dict[str, Any], storage: str, tiny: bool, precision: str) -> None:
        from eval_workers.suites import EvaluationSettings, build

        self.suite = suite
        self.run = build(suite, EvaluationSettings(**settings), place_of(storage), tiny=tiny, precision=precision)

    def evaluate(self, request: dict[str, str]) -> dict[str, Any]:
        """The checkpoint's results as plain numbers, as `suites.Evaluate` describes them."""
        folders = _brought(request["checkpoint"], request["starting_model"])
        artifacts = place_of(request["artifacts"])
        places = dict(zip(("checkpoint", "starting_model", "artifacts"), (*folders, str(artifacts)), strict=True))
        result = self.run({**request, **places})
        publish_files(artifacts / self.suite)
        return result


class AnsweringActor:
    """Holds a model that answers prompts, and the judges that rank the answers."""

    def __init__(self, verdicts: str, generator: Literal["auto", "own", "vllm"]) -> None:
        from eval_workers.answers.answering import Answering

        self.answering = Answering(place_of(verdicts), generator)

    def make_segment(self, request: dict[str, Any]) -> None:
        """Write the segment's folder."""
        from eval_workers.online import make_segment

        make_segment(self.answering, request)

    def add_win_rate(
        self, scores: dict[str, Any], checkpoint: str, model: str, tokens: str, judge: str, folder: str
    ) -> dict[str, Any]:
        """The scores, with the checkpoint's win rate against the starting model added."""
        from eval_workers.win_rate import win_rate

        metrics = win_rate(self.answering, need(checkpoint), need(model), need(tokens), judge, place_of(folder))
        return scores | {"metrics": scores["metrics"] | metrics}


def _brought(*names: str) -> list[str]:
    """Local paths of folders that another node has named (`mirror.name_of`)."""
    return [str(need(name)) for name in names]


def reserve(seat: Mapping[str, Any], actors: int) -> tuple[dict[str, Any], Callable[[], None]]:
    """Options of actors with whole GPUs, and a function that gives the GPUs back. Waits until all GPUs are reserved.

    They are reserved together and on as few nodes as possible: spread out, they would take GPUs from nodes that trials
    with several workers need.
    """
    from ray.util import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    one = {"GPU": seat["num_gpus"], **seat["resources"]}
    seats = placement_group([one] * actors, strategy="PACK")
    ray.get(seats.ready())
    together = PlacementGroupSchedulingStrategy(seats)
    return {**seat, "scheduling_strategy": together}, lambda: remove_placement_group(seats)


def start_reward_accuracy(seat: Mapping[str, Any] = _ANYWHERE) -> Any:
    """A handle to a new actor. `seat`: where it runs, as options of a Ray actor."""
    return ray.remote(**_OPTIONS, **seat)(RewardAccuracyActor).remote()


def start_suite(
    suite: str,
    settings: EvaluationSettings,
    storage: str,
    *,
    tiny: bool,
    precision: str,
    seat: Mapping[str, Any] = _ANYWHERE,
) -> Any:
    """A handle to a new actor. If it dies it is restarted and its work repeated."""
    actor: Any = ray.remote(**_OPTIONS, **seat)(SuiteActor)
    return actor.remote(suite, settings.plain(), storage, tiny, precision)


def start_answering(
    verdicts: str, seat: Mapping[str, Any] = _ANYWHERE, generator: Literal["auto", "own", "vllm"] = "auto"
) -> Any:
    """A handle to a new actor, which `ask_for_segment` also finds by name from a training worker."""
    actor: Any = ray.remote(**_OPTIONS, **seat)(AnsweringActor)
    return actor.options(name=_ANSWERING, get_if_exists=True).remote(verdicts, generator)


def ask_for_segment(request: dict[str, Any]) -> Any:
    """A function that says whether the requested segment is ready. It raises if the segment could not be made."""
    done: Any = ray.get_actor(_ANSWERING).make_segment.remote(request)

    def is_made() -> bool:
        ready, _ = ray.wait([done], timeout=0)
        if ready:
            try:
                ray.get(done)
            except ray.exceptions.RayTaskError as error:
                # Ray's own class of error does not survive the next process border.
                raise error.cause if isinstance(error.cause, InputError) else RuntimeError(str(error)) from None
        return bool(ready)

    return is_made


_ANSWERING = "answering"

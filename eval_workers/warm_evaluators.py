"""Evaluators that keep their models from one checkpoint to the next, in a Ray actor or without one."""

from pathlib import Path
from typing import Any, Literal

from mmpo_train.storage.mirror import need, place_of, publish_files


class WarmReward:
    """Holds validation pairs and a model, and scores one checkpoint folder after the other."""

    def __init__(self) -> None:
        from eval_workers.reward_accuracy import RewardAccuracy

        self.reward_accuracy = RewardAccuracy()

    def evaluate(self, checkpoint: str, tokens: str, reference: str, kept: str) -> dict[str, Any]:
        """The checkpoint's scores as plain numbers, as `RewardAccuracy` returns them."""
        return self.reward_accuracy(*[*_brought(checkpoint, tokens, reference), str(place_of(kept))])

    def starting_model(self, config: dict[str, Any], tokens: str, reference: str) -> dict[str, float]:
        """Metrics of the starting model, by the config's objective."""
        return self.reward_accuracy.starting_model(config, *_brought(tokens, reference))


class WarmSuite:
    """Holds one evaluation of `suites`, and runs it on one checkpoint folder after the other."""

    def __init__(self, suite: str, settings: dict[str, Any], storage: str, tiny: bool, precision: str) -> None:
        from eval_workers.settings import EvaluationSettings
        from eval_workers.suites import build

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


class WarmAnswering:
    """Holds a model that answers prompts, and the judges that rank the answers."""

    def __init__(self, verdicts: str, generator: Literal["auto", "own", "vllm"]) -> None:
        from eval_workers.answers.answering import Answering

        self.answering = Answering(place_of(verdicts), generator)

    def make_segment(self, request: dict[str, Any]) -> None:
        """Write the segment's folder."""
        from eval_workers.online import make_segment

        make_segment(self.answering, request)

    def add_win_rate(
        self,
        scores: dict[str, Any],
        checkpoint: str,
        model: str,
        tokens: str,
        judge: str,
        folder: str,
        template: Path | None = None,
    ) -> dict[str, Any]:
        """The scores, with the checkpoint's win rate against the starting model added."""
        from eval_workers.win_rate import win_rate

        folders = need(checkpoint), need(model), need(tokens)
        metrics = win_rate(self.answering, *folders, judge, place_of(folder), template)
        return scores | {"metrics": scores["metrics"] | metrics}


def _brought(*names: str) -> list[str]:
    """Local paths of folders that another node has named (`mirror.name_of`)."""
    return [str(need(name)) for name in names]

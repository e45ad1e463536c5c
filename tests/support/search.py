"""The whole search on a real MLflow, only the training itself made up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mmpo_train.config import TrialConfig
from mmpo_train.events import Point
from mmpo_train.terminal import console
from sweeps.ledger.ledger import connect

PAIRS = 40
EXPERIMENT = "tiny on tiny"


def no_picture(path: Path, **_: object) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"no picture")
    return path


def usual(config: TrialConfig) -> int | str:
    """Pairs that a made-up trial gets right: best at 1e-4, beta 0.1, r_eps 0.6 and ratio 1.2, the defaults."""
    right = 20 + 4 * (config.learning_rate == 1e-4) + 2 * (config.beta == 0.1)
    return right + (config.r_eps == 0.6 and config.gamma_over_beta == 1.2) + 2 * (not config.auxiliary)


@dataclass
class Search:
    """A storage, and commands that run in it; `outcome` says how many pairs a trial gets right, or why it has none."""

    storage: Path
    outcome: Callable[[TrialConfig], int | str] = usual
    baseline: Callable[[TrialConfig], float] = lambda config: 0.25
    logratio: Callable[[TrialConfig], float] = lambda config: 0.5
    trained: list[TrialConfig] = field(default_factory=list)

    def __call__(self, script: Any, *more: str) -> str:
        """What the command printed; `trained` is what it trained."""
        self.trained.clear()
        with console.capture() as captured:
            script.main(["--storage", str(self.storage), *more])
        return " ".join(captured.get().split())

    def fails(self, capsys: pytest.CaptureFixture[str], script: Any, *more: str) -> str:
        """The error of a command that ends with code 2."""
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            self(script, *more)
        assert stop.value.code == 2
        return " ".join(capsys.readouterr().err.split())

    def train(self, todo: Sequence[Any], options: Any, ledger: Any, log: Any, **_: Any) -> dict[str, dict[str, float]]:
        """In the place of `train_planned`: each trial is opened, judged after every epoch, and ended."""
        for planned in todo:
            self.trained.append(planned.config)
            trial = log.open_trial(planned.config, planned.run_name, {})
            trial.points([Point(step, 1_000 + step, {"train/loss": 1 / step}) for step in (1, 2, 3)])
            right = self.outcome(planned.config)
            if isinstance(right, str):
                (trial.diverged if right.startswith("loss") else trial.fail)(right)
                continue
            for epoch in range(1, planned.config.epochs + 1):
                correct = [1] * right + [0] * (PAIRS - right)
                share = right / PAIRS
                metrics = {f"validation/{name}_accuracy": share for name in ("reward", "policy")}
                metrics["validation/logratio_accuracy"] = self.logratio(planned.config)
                trial.evaluated(epoch, metrics, correct, f"checkpoints/epoch-{epoch:04d}")
            trial.finish(1)
        return {
            planned.digest: {"reward_accuracy": self.baseline(planned.config), "policy_accuracy": 0.5}
            for planned in todo
        }

    def runs(self, **tags: str) -> list[Any]:
        """MLflow's runs with these tags (`stage_name` is the tag stage.name)."""
        ledger = connect(None, self.storage)
        store = ledger.store
        wanted = {name.replace("_", ".", 1): value for name, value in tags.items()}
        found = store.search(store.experiment_id(EXPERIMENT, create=False), wanted)
        ledger.close()
        return found

    def child(self, script: str, name: str) -> Any:
        """The one run of a stage with this name."""
        [run] = [run for run in self.runs(stage_name=script) if run.info.run_name == name]
        return run

    def tag(self, run: Any, name: str, value: str) -> None:
        """As a person does in MLflow's pages."""
        ledger = connect(None, self.storage)
        ledger.store.client.set_tag(run.info.run_id, name, value)
        ledger.close()

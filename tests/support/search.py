"""The whole search on a real MLflow, only the training itself made up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from eval_workers.warm_evaluators import WarmReward
from mmpo_train.config import TrialConfig
from mmpo_train.events import Point
from mmpo_train.prepare import Inputs
from mmpo_train.terminal import console
from mmpo_train.trial.early_stop import STOP, read_answer
from mmpo_train.trial.metrics import Validation
from mmpo_train.trial.places import Places
from sweeps.cluster.discovery import local_nodes
from sweeps.cluster.placement import TrialResources, place
from sweeps.ledger.ledger import connect
from sweeps.plan.options import SweepOptions
from sweeps.search import sharing
from sweeps.trials.evaluators import Evaluators
from sweeps.trials.in_process import Here
from sweeps.trials.listener import Listener
from sweeps.trials.work import Work

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


def point(step: int, **more: float) -> tuple[int, int, dict[str, float]]:
    """What a step reports; two are an epoch."""
    metrics = {"train/epoch": step / 2, "train/loss": 1 / step, "train/pairs_per_second": 9.0}
    return step, 1_000 + step, metrics | {"train/step_seconds": 1.0} | more


@dataclass
class Kept:
    """In the place of a trial's log: what was logged, and how the trial ended."""

    logged: list[Point] = field(default_factory=list)
    evaluations: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    known: dict[int, set[str]] = field(default_factory=dict)
    """Epoch -> what had judged it before."""
    end: tuple[Any, ...] = ()

    def points(self, points: list[Point]) -> None:
        self.logged += points

    def evaluated(self, epoch: int, metrics: dict[str, float], correct: list[int], checkpoint: str) -> None:
        self.evaluations.append((epoch, metrics))

    def tag(self, tags: dict[str, str]) -> None:
        self.tags |= tags

    def judged(self, epoch: int) -> set[str]:
        return self.known.get(epoch, set())

    def reward_accuracy(self, epoch: int) -> float | None:
        return 0.75 if "reward" in self.judged(epoch) else None

    def judged_by(self, suite: str, epoch: int, metrics: dict[str, float], tags: dict[str, str]) -> None:
        self.logged.append(Point(epoch, 0, metrics))
        self.tag(tags)

    def wait(self, timeout_seconds: float) -> None:
        return None

    def artifacts(self, folder: Path, name: str) -> None:
        self.folders.append(name)

    @property
    def ended(self) -> bool:
        return bool(self.end)

    def __getattr__(self, how: str) -> Callable[..., None]:
        assert how in ("finish", "diverged", "stopped", "fail"), how
        return lambda *about: setattr(self, "end", (how, *about))

    def curve(self, metric: str) -> dict[int, float]:
        return {one.step: one.metrics[metric] for one in self.logged if metric in one.metrics}


@dataclass
class MadeUp(Here):
    """Where made-up checkpoints are judged."""

    search: Search
    work: Work

    def start(self, kind: type, *arguments: Any) -> MadeUp:
        assert kind is WarmReward, "nothing else is made up"
        return self

    def evaluate(self, checkpoint: str, *_: str) -> dict[str, Any]:
        digest = checkpoint.partition("/")[0]
        right, (trial, _places) = self.search.rights[digest], self.work.trials[digest]
        metrics = {f"validation/{name}_accuracy": right / PAIRS for name in ("reward", "policy")}
        metrics["validation/logratio_accuracy"] = self.search.logratio(trial)
        return {"metrics": metrics, "correct": [1] * right + [0] * (PAIRS - right)}


@dataclass(eq=False)
class Search:
    """A storage, and the runner of commands in it, which trains nothing: `outcome` says how many pairs a trial gets
    right, or why it has no result."""

    storage: Path
    outcome: Callable[[TrialConfig], int | str] = usual
    baseline: Callable[[TrialConfig], float] = lambda config: 0.25
    logratio: Callable[[TrialConfig], float] = lambda config: 0.5
    trained: list[TrialConfig] = field(default_factory=list)
    rights: dict[str, int | str] = field(default_factory=dict)
    """Digest -> outcome of what was trained."""

    def __call__(self, script: Any, *more: str) -> str:
        """What the command printed; `trained` is what it trained."""
        self.trained.clear()
        with console.capture() as captured:
            script.main(["--storage", str(self.storage), *more], self)
        return " ".join(captured.get().split())

    def fails(self, capsys: pytest.CaptureFixture[str], script: Any, *more: str) -> str:
        """The error of a command that ends with code 2."""
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            self(script, *more)
        assert stop.value.code == 2
        return " ".join(capsys.readouterr().err.split())

    def place(self, options: SweepOptions, evaluators: int = 0) -> TrialResources:
        return place(options, local_nodes())

    def tokenise(self, inputs: Inputs, *, keep: bool) -> dict:
        return {}

    def prepare(self, inputs: Inputs, resources: TrialResources) -> tuple[Places, dict]:
        return Places(*(self.storage / name for name in ("model", "tokens", "reference", "unrelated", "trials"))), {}

    def train(self, work: Work, listener: Listener) -> dict[str, dict[str, float]]:
        """Each trial reports, is judged after every epoch, and ends."""
        with listener.at_work(Evaluators(work, MadeUp(self, work))):
            for digest, (trial, places) in work.trials.items():
                listener.begun(digest)
                listener.heard(digest, {"workers": 1})
                right = self.rights[digest] = self.outcome(trial)
                self.trained.append(trial)
                if isinstance(right, str):
                    diverged = right.startswith("loss")
                    listener.heard(digest, {"points": [point(1)]} | ({"diverged": right} if diverged else {}))
                    listener.trained(digest, "" if diverged else right)
                    continue
                for epoch in range(1, trial.epochs + 1):
                    curve = {"validation_curve/reward_accuracy": right / PAIRS}
                    points = [point(2 * epoch - 1), point(2 * epoch, **curve)]
                    listener.heard(digest, {"points": points, "finished": (epoch, f"{digest}/epoch-{epoch:04d}")})
                    listener.judged()
                    if listener.goes_on is not None and read_answer(places.trial(trial), epoch) == STOP:
                        listener.heard(digest, {"stopped": f"stopped early, after epoch {epoch}"})
                        break
                listener.trained(digest)
        return {
            digest: {"reward_accuracy": self.baseline(trial), "policy_accuracy": 0.5}
            for digest, (trial, _) in work.trials.items()
        }

    def stop(self) -> None:
        """Nothing is held."""

    def scored(self, trial: Any, logps: Path) -> Validation:
        """In the place of scoring from log-probabilities, which made-up training leaves none of."""
        right = self.outcome(trial.config)
        assert isinstance(right, int), "a diverged training has no checkpoint to score"
        share = right / PAIRS
        metrics = {"reward_accuracy": share, "policy_accuracy": share, "logratio_accuracy": self.logratio(trial.config)}
        return Validation(metrics, [1] * right + [0] * (PAIRS - right))

    def share(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Points of one training are scored as `outcome` says."""
        monkeypatch.setattr(sharing, "scored", self.scored)
        monkeypatch.setattr(sharing, "check_gradients", lambda trials: 0.0)
        monkeypatch.setattr(sharing, "is_here", lambda folder: True)

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

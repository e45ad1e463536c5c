"""What is done with what trials say: recorded, shown, sent to judge once; and how a trial ends."""

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from mmpo_train.config import TrialConfig, replace
from mmpo_train.trial.places import Places
from sweeps.cluster.leaving import GOES_ON, INTERRUPTED
from sweeps.cluster.placement import TrialResources
from sweeps.plan.options import SweepOptions
from sweeps.trials.board import Board, Row
from sweeps.trials.evaluators import Evaluators
from sweeps.trials.in_process import Done, Here
from sweeps.trials.listener import Listener
from sweeps.trials.work import Work
from tests.support.search import Kept, point

TRIAL = replace(TrialConfig(), {"epochs": 2, "evaluations": ("reward", "harness")})
DIGEST = TRIAL.digest


class Judges(Here):
    """Judges of each kind; those of `broken` kinds fail, and all take their time where they are `slow`."""

    def __init__(self, *broken: str, slow: bool = False) -> None:
        self.broken, self.slow, self.asked = broken, slow, []

    def start(self, kind: type, *arguments: Any) -> Any:
        judge = Judges()
        judge.kind = kind.__name__
        return judge

    def evaluate(self, *arguments: Any) -> tuple[str, Any]:
        return self.kind, arguments

    def ask(self, method: Any, *arguments: Any) -> Done:
        self.asked.append(method())
        return Done(self.asked[-1][0])

    def results(self, asked: Any, timeout_seconds: float) -> Any:
        for one in [] if self.slow and not timeout_seconds else list(asked):
            if one.value in self.broken:
                yield one, None, ValueError(f"the {one.value} is broken")
            else:
                metrics = {"validation/reward_accuracy": 0.5} if one.value == "WarmReward" else {"harness/x": 0.25}
                yield one, {"metrics": metrics, "correct": [1, 0]}, None


def hearing(
    folder: Path, judges: Judges, *reports: dict[str, Any], failure: str = "", known: dict[int, set[str]] | None = None
) -> tuple[Kept, str]:
    """What was kept and printed of a trial that said all this and then ended."""
    places = Places(*(folder / name for name in ("model", "tokens", "reference", "unrelated", "trials")))
    options, resources = SweepOptions(storage=str(folder)), TrialResources(1, False, 1, 1)
    work = Work(trials={DIGEST: (TRIAL, places)}, options=options, resources=resources)
    console, log = Console(file=io.StringIO(), width=200), Kept(known=known or {})
    listener = Listener(work, lambda digest: log, Board(console, "mmpo", "beta", {DIGEST: Row("0.1", 2)}, 1))
    with listener.at_work(Evaluators(work, judges)):
        listener.begun(DIGEST)
        for report in reports:
            listener.heard(DIGEST, report)
            assert listener.at_steps() == ({DIGEST} if report.get("points") else set())
            listener.judged()
        listener.trained(DIGEST, failure)
        assert not listener.at_steps()
    return log, console.file.getvalue()


def epoch(number: int) -> dict[str, Any]:
    """A report of an epoch's end."""
    curve = {"validation_curve/reward_accuracy": 0.5}
    return {"points": [point(2 * number, **curve)], "finished": (number, f"checkpoints/epoch-{number:04d}")}


def test_an_epoch_that_is_reported_again_is_judged_once(tmp_path):
    judges = Judges()
    log, printed = hearing(tmp_path, judges, {"workers": 1}, epoch(1), epoch(1), epoch(2))
    assert [kind for kind, _ in judges.asked] == ["WarmReward", "WarmSuite"] * 2
    assert [number for number, _ in log.evaluations] == [1, 2] and log.end[0] == "finish"
    assert printed.count("epoch 1 done") == 1 and "epoch 2: harness done" in printed


def test_what_had_judged_an_epoch_before_an_interruption_is_not_asked_again(tmp_path):
    """Its files are handed over again, as the command may have ended before MLflow had them."""
    judges, known = Judges(), {1: {"reward", "harness"}, 2: {"reward"}}
    log, printed = hearing(tmp_path, judges, {"workers": 1}, epoch(1), epoch(2), known=known)
    assert [kind for kind, _ in judges.asked] == ["WarmSuite"]
    assert log.folders == ["evaluations/epoch-0001/harness", "evaluations/epoch-0002/harness"]
    assert log.evaluations == [] and log.end[0] == "finish" and "0.75" in printed


def test_a_trial_that_was_told_to_go_is_no_finished_one(tmp_path):
    log, printed = hearing(tmp_path, Judges(), {"workers": 1}, {"interrupted": GOES_ON})
    assert log.end == ("fail", INTERRUPTED) and f": {INTERRUPTED} (step" in printed


def test_a_trial_ends_when_its_last_checkpoint_is_judged_and_not_before(tmp_path):
    log, printed = hearing(tmp_path, Judges(slow=True), {"workers": 1}, epoch(1), epoch(2))
    assert printed.index("judging") < printed.index("finished") and len(log.evaluations) == 2


def test_without_reward_accuracy_a_trial_has_failed_and_without_a_suite_it_has_not(tmp_path):
    log, _ = hearing(tmp_path, Judges("WarmReward"), {"workers": 1}, epoch(1))
    assert log.end == ("fail", "epoch 1 could not be judged: ValueError: the WarmReward is broken")
    log, printed = hearing(tmp_path, Judges("WarmSuite"), {"workers": 1}, epoch(1))
    assert log.end[0] == "finish" and "epoch 1 without harness: ValueError: the WarmSuite is broken" in printed
    assert log.tags["evaluation.harness.epoch-0001"] == "ValueError: the WarmSuite is broken"


def test_how_a_trial_ended_is_recorded_with_the_reason(tmp_path):
    diverged = {"diverged": "the loss is nan at step 3"}
    assert hearing(tmp_path, Judges(), {"workers": 1}, diverged)[0].end == ("diverged", "the loss is nan at step 3")
    assert hearing(tmp_path, Judges(), {"workers": 1}, {"stopped": "early"})[0].end[:2] == ("stopped", "early")
    assert hearing(tmp_path, Judges(), {"workers": 1}, failure="OSError: disk full")[0].end == (
        "fail",
        "OSError: disk full",
    )

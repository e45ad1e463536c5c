"""What is done with a tag, and what it is answered, step by step: no training, no MLflow."""

from pathlib import Path
from typing import Any

import pytest

from mmpo_train.config import TrialConfig, replace
from mmpo_train.errors import InputError
from mmpo_train.trial.places import Places
from sweeps.cluster.leaving import GOES_ON
from sweeps.ledger.records import TrialRecord
from sweeps.live.control import Control
from sweeps.live.orders import check_order

CONFIG = replace(TrialConfig(), {"objective": "dpo"})
DIGEST = CONFIG.digest
STOPPED = ("stopped", "stopped by a person after step 7")


class Log:
    """In the place of a trial's log: the answers."""

    def __init__(self, run_id: str) -> None:
        self.run_id, self.answers = run_id, []

    def answer(self, asked: str, tags: dict[str, str]) -> None:
        [(tag, what)] = tags.items()
        self.answers.append((asked, tag, what.rpartition(", ")[0]))


class Trials:
    """In the place of the listener: one trial, whose run is called `run`."""

    def __init__(self, folder: Path) -> None:
        places = Places(*(folder / name for name in ("model", "tokens", "reference", "unrelated", "trials")))
        self.trials, self.logs = {DIGEST: (CONFIG, places)}, {DIGEST: Log("run")}
        self.order_file = places.trial(CONFIG) / "order"
        self.training, self.state, self.said, self.added = True, ("finished", ""), [], []

    def under_way(self) -> set[str]:
        return {DIGEST} if self.training else set()

    def state_of(self, digest: str) -> tuple[str, str]:
        return self.state

    def say(self, digest: str, what: str) -> None:
        self.said.append(what)

    def again(self, digest: str) -> None:
        self.added.append(digest)

    def join(self, parent: str, clone: TrialConfig, label: str) -> None:
        self.trials[clone.digest] = clone, self.trials[parent][1]
        self.added.append(label)

    @property
    def answers(self) -> list[tuple[str, str, str]]:
        return self.logs[DIGEST].answers

    @property
    def order(self) -> str:
        return self.order_file.read_text() if self.order_file.exists() else ""


@pytest.fixture
def trials(tmp_path: Path) -> Trials:
    return Trials(tmp_path)


@pytest.fixture
def control() -> Control:
    return Control()


def ask(control: Control, trials: Trials, text: str, run: str = "run") -> None:
    """The tag is seen, as often as the driver looks before it is removed."""
    control.asked = {run: text}
    for _ in range(3):
        control.obey(trials)


def test_a_stop_is_answered_when_the_training_has_ended_by_it(control, trials):
    ask(control, trials, "stop")
    assert trials.order == "stop" and trials.answers == []
    trials.training, trials.state = False, STOPPED
    control.ended(trials, DIGEST)
    control.obey(trials)
    assert trials.answers == [("stop", "done", "stopped after step 7")] and len(trials.said) == 1


def test_a_stop_that_came_too_late_is_refused_and_one_that_was_interrupted_stays_asked(control, trials):
    ask(control, trials, "stop")
    trials.state = ("interrupted", GOES_ON)
    control.ended(trials, DIGEST)
    assert trials.answers == []
    trials.state = ("finished", "")
    ask(control, trials, "stop")
    control.ended(trials, DIGEST)
    assert trials.answers == [("stop", "refused", "its training ended first: finished")]


def test_an_order_of_an_earlier_command_is_not_obeyed(control, trials):
    trials.order_file.parent.mkdir(parents=True)
    trials.order_file.write_text("stop")
    control.begun(trials, DIGEST)
    assert trials.order == ""


def test_going_on_is_answered_when_the_trial_begins_so_that_a_kill_before_does_not_lose_it(control, trials):
    ask(control, trials, "stop")
    trials.training, trials.state = False, STOPPED
    control.ended(trials, DIGEST)
    ask(control, trials, "go")
    assert trials.added == [DIGEST] and len(trials.answers) == 1 and trials.order == "stop"
    trials.training = True
    control.begun(trials, DIGEST)
    control.obey(trials)
    assert trials.answers[1:] == [("go", "done", "goes on")] and trials.order == ""


def test_a_clone_is_made_once_however_often_restarted_workers_write_a_state(control, trials):
    ask(control, trials, "clone learning_rate=3e-4")
    assert trials.order.startswith("copy ")
    control.copied(trials, DIGEST, 12)
    control.copied(trials, DIGEST, 14)
    [clone] = set(trials.trials) - {DIGEST}
    assert trials.order == "" and trials.added == ["from step 12, learning_rate 5e-05 -> 0.0003"]
    assert trials.answers == [("clone learning_rate=3e-4", "done", f"cloned at step 12 as trial {clone}")]
    assert trials.trials[clone][0].cloned_from == f"{DIGEST}@12"


def test_the_same_order_is_obeyed_again_once_its_tag_had_gone(control, trials):
    for step in (12, 20):
        ask(control, trials, "clone beta=0.2")
        control.copied(trials, DIGEST, step)
        control.asked = {}
        control.obey(trials)
    assert len(trials.answers) == 2 and len(trials.trials) == 3


def test_an_order_waits_for_the_one_before(control, trials):
    ask(control, trials, "clone beta=0.2")
    ask(control, trials, "stop")
    assert trials.order.startswith("copy ")
    control.copied(trials, DIGEST, 12)
    control.obey(trials)
    assert trials.order == "stop"


def test_runs_of_other_commands_are_left_alone(control, trials):
    ask(control, trials, "stop", run="another")
    assert trials.order == "" and trials.said == []


def test_a_search_that_proposes_its_trials_takes_stop_alone(trials):
    control = Control(stops_only=True)
    ask(control, trials, "clone beta=0.2")
    assert trials.answers[0][1] == "refused" and "ask for stop" in trials.answers[0][2]
    ask(control, trials, "stop")
    assert trials.order == "stop"


def test_nothing_is_begun_when_no_more_trials_are_trained_and_orders_are_taken_back(control, trials):
    with control.watching(trials):
        ask(control, trials, "stop")
        assert trials.order == "stop"
    assert trials.order == ""
    other: Any = Trials(trials.order_file.parents[2])
    ask(control, other, "stop")
    assert other.order == "" and other.answers == []


@pytest.mark.parametrize("text", ["stop", "go", "extend epochs=3"])
def test_a_tuning_is_not_told_that_its_command_listens(text):
    """Nobody looks for tags of stage 0's run: the answer is what does stop it, and what goes on."""
    about = {"stage": "stage0_sft", "status": "running", "params": {}, "config": {}, "evaluations": ()}
    more = {"judged_by": frozenset(), "reason": "", "seconds": None, "read_curve": lambda run, name: []}
    record = TrialRecord(run_id="r", digest="d", name="sft tiny", parent="", **about, **more)
    with pytest.raises(InputError, match="^sft tiny is an instruction tuning: Ctrl-C stops its command"):
        check_order(text, record)

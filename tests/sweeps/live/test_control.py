"""What persons ask of running trials in MLflow: whole stages in this process, tagged while they run."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from mmpo import tagging
from mmpo_train.config import TrialConfig, replace
from mmpo_train.engines.torch_engine import TorchEngine
from mmpo_train.errors import InputError
from mmpo_train.terminal import console
from mmpo_train.trial import orders, outbox
from sweeps import stage1_lr
from sweeps.live import control
from sweeps.live.orders import clone_of, parse_order

STEPS = 18
"""Of an epoch: 36 pairs for training, two a step."""


@pytest.fixture(autouse=True)
def slow_steps_and_no_waiting(monkeypatch):
    monkeypatch.setattr(control, "SECONDS_BETWEEN_LOOKS", 0.05)
    monkeypatch.setattr(orders, "_SECONDS_BETWEEN_LOOKS", 0.0)
    monkeypatch.setattr(outbox, "_SECONDS_BETWEEN_SENDS", 0.0)
    step = TorchEngine.step

    def slower(engine: TorchEngine, learning_rate: float) -> float | None:
        time.sleep(0.05)
        return step(engine, learning_rate)

    monkeypatch.setattr(TorchEngine, "step", slower)


class Person:
    """One who looks at the runs of a storage, and writes tags."""

    def __init__(self, model: Path, rows: list[dict], folder: Path) -> None:
        self.storage, data = folder / "runs", folder / "pairs.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows[:40]))
        words = ["--model", str(model), "--dataset", str(data), "--storage", str(self.storage), "--runner", "process"]
        settings = ("pairs_per_step=2", "epochs=3", "max_prompt_tokens=64", "max_completion_tokens=32")
        words += [word for one in (*settings, "validate_every_steps=1000") for word in ("--set", one)]
        self.words = [*words, "--learning-rates", "1e-3", "5e-4"]

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.storage}/mlflow.db")

    def runs(self) -> dict[str, Any]:
        """The trials by their names."""
        client = self.client
        experiments = [one.experiment_id for one in client.search_experiments()]
        found = client.search_runs(experiments, "tags.`ledger.kind` = 'trial'")
        return {run.info.run_name: run for run in found}

    def run(self, name: str) -> Any:
        return self.runs()[name]

    def losses(self, name: str) -> dict[int, float]:
        history = self.client.get_metric_history(self.run(name).info.run_id, "train/loss")
        return {point.step: point.value for point in history}

    def stage(self, *acts: tuple[Callable[[], Any], Callable[[], Any]]) -> str:
        """What the stage printed, in which the person acts, one act after the other: when, and what."""
        with console.capture() as captured, acting(*acts):
            stage1_lr.main(self.words)
        return " ".join(captured.get().split())

    def has_trained(self, name: str, steps: int = 2) -> Callable[[], bool]:
        def look() -> bool:
            run = self.runs().get(name) if (self.storage / "mlflow.db").exists() else None
            return run is not None and run.data.metrics.get("train/epoch", 0) * STEPS >= steps

        return look

    def tags(self, name: str, text: str) -> Callable[[], None]:
        return lambda: self.client.set_tag(self.run(name).info.run_id, "do", text)


@contextmanager
def acting(*acts: tuple[Callable[[], Any], Callable[[], Any]]) -> Iterator[None]:
    """A block in which, in another thread, each act is done as soon as its time has come."""
    over, failed = threading.Event(), []

    def act() -> None:
        try:
            for is_time, do in acts:
                while not is_time():
                    if over.wait(0.02):
                        raise AssertionError("its time never came")
                do()
        except Exception as error:  # noqa: BLE001 - raised below, in the test's own thread
            failed.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not failed, failed


@pytest.fixture
def person(model_folder: Path, preference_rows: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Person:
    """Whom the stage hears before its next trial, of a few seconds, is over."""
    monkeypatch.setattr("sweeps.live.control.SECONDS_BETWEEN_LOOKS", 0.5)
    return Person(model_folder, preference_rows, tmp_path)


def test_a_stopped_trial_stays_stopped_until_it_is_asked_to_go_on(person, capsys):
    """It has no result in the ranking, and the same command leaves it alone. When it has gone on no step is missing."""
    name = "lr=1e-3"
    printed = person.stage((person.has_trained(name), person.tags(name, " stop ")))
    run = person.run(name)
    step = max(person.losses(name))
    assert 2 <= step < 3 * STEPS and run.info.status == "KILLED"
    assert "do" not in run.data.tags and run.data.tags["trial.state"] == "stopped"
    at = f"epoch {step // STEPS}" if step % STEPS == 0 else f"step {step}"
    assert run.data.tags["done"].startswith(f"stopped after {at}, ")
    assert "learning_rate 1e-3: a person asks for its stop" in printed
    assert f"1e-3 stopped by a person after {at}; to go on: " in printed and "1e-3 stopped before the end." in printed
    assert "5e-4 wins" in printed

    again = person.stage()
    assert "2 trials, 1 of them finished already, 1 stopped by a person: nothing to train" in again
    assert max(person.losses(name)) == step

    tagging.go([run.info.run_id[:12], "--storage", str(person.storage)])
    assert "otherwise with the same command" in capsys.readouterr().out
    assert "stopped by a person" not in person.stage()
    whole = person.run(name)
    assert whole.info.status == "FINISHED" and "do" not in whole.data.tags and "trial.reason" not in whole.data.tags
    assert whole.data.tags["done"].startswith("goes on, ")
    assert sorted(person.losses(name)) == list(range(1, 3 * STEPS + 1))


def test_a_trial_that_is_stopped_with_the_command_goes_on_within_the_same_stage(person, capsys):
    first, second = "lr=1e-3", "lr=5e-4"
    stop = lambda: tagging.stop([person.run(first).info.run_id, "--storage", str(person.storage)])  # noqa: E731
    is_stopped = lambda: person.run(first).data.tags.get("trial.state") == "stopped"  # noqa: E731
    go = person.tags(first, "go")
    printed = person.stage((person.has_trained(first), stop), (is_stopped, go))
    assert "a person asks that it goes on" in printed and "stopped before the end" not in printed
    for name in (first, second):
        assert person.run(name).info.status == "FINISHED"
        assert sorted(person.losses(name)) == list(range(1, 3 * STEPS + 1))


def test_what_cannot_be_done_is_answered_in_the_run_and_on_the_screen_once(person):
    name, seen = "lr=1e-3", []
    wait = lambda: "do" not in person.run(name).data.tags  # noqa: E731
    printed = person.stage(
        (person.has_trained(name), person.tags(name, "halt")),
        (wait, lambda: seen.append(person.run(name).data.tags["refused"])),
        (person.has_trained("lr=5e-4"), person.tags(name, "stop")),
        (wait, lambda: seen.append(person.run(name).data.tags["refused"])),
    )
    first, second = seen
    assert first.startswith("'halt' cannot be done: ask for ") and "comes too late" in second
    assert printed.count("refused: 'halt'") == 1 and printed.count("comes too late") == 1


def test_the_command_refuses_what_no_trial_can_do(person, capsys):
    person.stage()
    run_id = person.run("lr=1e-3").info.run_id
    for program, named, why in (
        (tagging.stop, run_id, "lr=1e-3 is not running: it is finished"),
        (tagging.go, run_id, "lr=1e-3 cannot go on: no person has stopped it, it is finished"),
        (tagging.stop, "xyz", "'xyz' is no run and no digest of a trial; running are: none"),
    ):
        with pytest.raises(SystemExit) as stop:
            program([named, "--storage", str(person.storage)])
        assert stop.value.code == 2 and why in " ".join(capsys.readouterr().err.split())
    assert "do" not in person.run("lr=1e-3").data.tags


def test_tags_are_not_looked_for_more_often_than_every_few_seconds_nor_in_the_driver_s_thread(monkeypatch):
    """A look may take its time: the driver goes on meanwhile."""
    monkeypatch.setattr(control, "SECONDS_BETWEEN_LOOKS", 0.2)
    looks: list[str] = []

    def look() -> dict[str, str]:
        looks.append(threading.current_thread().name)
        return {"run": "stop"}

    class None_:
        logs: dict[str, Any] = {}
        trials: dict[str, Any] = {}

    one = control.Control(look)
    with one.watching(None_()):
        started = time.monotonic()
        while time.monotonic() - started < 1.0:
            one.obey(None_())
            time.sleep(0.01)
    assert 2 <= len(looks) <= 5 and set(looks) == {"tags"}


def test_a_clone_is_a_trial_of_its_own_below_its_parent_and_no_point_of_the_ranking(person, capsys):
    """It begins with its parent's curve and next loss. Stopped, it goes on when it is asked to, as any trial does."""
    name = "lr=1e-3"
    clone = lambda: next((one for one in person.runs() if one.startswith(f"{name} from step ")), "")  # noqa: E731
    ask = lambda: tagging.clone([person.run(name).info.run_id, "learning_rate=1e-2", *storage])  # noqa: E731
    in_training = lambda: clone() and person.has_trained(clone(), 2 * STEPS)()  # noqa: E731
    storage = ["--storage", str(person.storage)]
    printed = person.stage((person.has_trained(name), ask), (in_training, lambda: person.tags(clone(), "stop")()))
    run, parent = person.run(clone()), person.run(name)
    step = int(run.data.tags["cloned.step"])
    assert parent.data.tags["done"].startswith(f"cloned at step {step} as trial {run.data.tags['trial.digest']}, ")
    assert run.data.tags["mlflow.parentRunId"] == run.data.tags["cloned.from"] == parent.info.run_id
    assert run.data.tags["cloned.changes"] == "learning_rate=0.01" and run.data.params["learning_rate"] == "0.01"
    assert run.info.status == "KILLED" and parent.info.status == "FINISHED"
    theirs, ours = person.losses(name), person.losses(clone())
    assert sorted(theirs) == list(range(1, 3 * STEPS + 1)) and step + 1 < max(ours) < 3 * STEPS
    assert {at: ours[at] for at in range(1, step + 2)} == {at: theirs[at] for at in range(1, step + 2)}
    assert ours[max(ours)] != theirs[max(ours)]
    assert f"1e-3 from step {step}, learning_rate=0.01" in printed and "clones: not points of the grid" in printed
    assert "nothing to train" in person.stage() and max(person.losses(clone())) == max(ours)

    tagging.go([run.data.tags["trial.digest"], *storage])
    person.stage()
    assert person.run(clone()).info.status == "FINISHED" and len(person.losses(clone())) == 3 * STEPS
    assert len(person.runs()) == 3 and "nothing to train" in person.stage()


def test_an_extended_trial_trains_to_more_epochs_and_the_trial_itself_to_its_own(person):
    name = "lr=5e-4"
    printed = person.stage((person.has_trained(name, STEPS), person.tags(name, "extend epochs=4")))
    longer = next(one for one in person.runs() if one.startswith(f"{name} from step "))
    assert "epochs 3 -> 4" in printed and person.run(longer).data.params["epochs"] == "4"
    assert len(person.losses(name)) == 3 * STEPS and len(person.losses(longer)) == 4 * STEPS


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "clone pairs_per_step=4",
            "pairs_per_step cannot change in the middle of a trial; those that can are learning_rate",
        ),
        ("clone seed=1 learning_rate=1e-4", "seed cannot change in the middle"),
        ("clone learning_rte=1", "learning_rte cannot change in the middle of a trial; did you mean 'learning_rate'?"),
        ("clone learning_rate=fast", "learning_rate must be a number, got 'fast'"),
        ("clone learning_rate=0.00005", "learning_rate is 5e-05 already"),
        ("clone r_eps=0.9", "r_eps cannot change in the middle"),
        ("clone", "ask for stop, go, clone FIELD=VALUE or extend epochs=N"),
        ("extend epochs=1", "a trial of 2 epochs can be extended, but not cut to 1"),
        ("extend learning_rate=1", "ask for stop"),
        ("stop now", "ask for stop"),
        ("", "ask for stop"),
    ],
)
def test_orders_that_make_no_sense_are_refused_with_what_does(text, why):
    config = replace(TrialConfig(), {"objective": "dpo"})
    with pytest.raises(InputError) as refused:
        clone_of(config, parse_order(text), 12)
    assert why in str(refused.value)


def test_a_clone_has_a_digest_of_its_own_and_takes_the_loss_s_numbers():
    config = replace(TrialConfig(), {"objective": "dpo"})
    clones = [
        clone_of(config, parse_order(f"clone {change}"), step) for change in ("beta=0.2", "epochs=5") for step in (3, 4)
    ]
    assert len({one.digest for one in (config, *clones)}) == 5
    assert clones[0].cloned_from == f"{config.digest}@3" and clones[0].beta == 0.2 and clones[3].epochs == 5
    with pytest.raises(InputError, match="a trial of online_dpo cannot be cloned"):
        clone_of(replace(config, {"objective": "online_dpo"}), parse_order("clone beta=0.2"), 3)

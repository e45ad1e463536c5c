"""Orders of a person to a running trial: what its workers do, and what is on disk afterwards."""

from typing import Any

import pytest

from mmpo_train.config import TrialConfig, replace
from mmpo_train.engines.torch_engine import TorchEngine
from mmpo_train.errors import InputError
from mmpo_train.schedule import learning_rate_at
from mmpo_train.trial import orders
from mmpo_train.trial.early_stop import Stopped
from mmpo_train.trial.orders import COPY, STOP, Orders, give_order
from mmpo_train.trial.run import run_trial


@pytest.fixture(autouse=True)
def at_every_step(monkeypatch):
    monkeypatch.setattr(orders, "_SECONDS_BETWEEN_LOOKS", 0.0)


@pytest.fixture
def config(prepared: Any) -> TrialConfig:
    """Two epochs of six steps, without states in between."""
    changes = {"pairs_per_step": 7, "epochs": 2, "learning_rate": 1e-2, "checkpoint_minutes": 0}
    return replace(prepared.config, changes)


@pytest.fixture
def places(prepared: Any, tmp_path: Any) -> Any:
    return type(prepared.places)(**vars(prepared.places) | {"trials": tmp_path})


def run(config: TrialConfig, places: Any, asked: dict[int, str] | None = None, **more: Any) -> dict[int, float]:
    """Losses by step of a trial that is given orders when it has made these steps."""
    losses: dict[int, float] = {}
    asked = dict(asked or {})

    class Engine(TorchEngine):
        def step(self, learning_rate: float) -> float | None:
            self.made = getattr(self, "made", 0) + 1
            if self.made in asked:
                give_order(places.trial(config), asked.pop(self.made))
            return super().step(learning_rate)

    def send(points: list, finished: Any) -> None:
        losses.update({point.step: point.metrics["train/loss"] for point in points})

    run.losses = losses
    run_trial(config, places, Engine, send, **more)
    return losses


@pytest.mark.parametrize("step", [4, 6])
def test_a_trial_that_is_ordered_to_stop_writes_a_state_and_goes_on_from_it(config, places, step):
    """Within an epoch, and at an epoch's end. Nothing but the order is removed before it goes on."""
    other = type(places)(**vars(places) | {"trials": places.trials / "whole"})
    whole = run(config, other)
    with pytest.raises(Stopped, match=r"^stopped by a person after (step 4|epoch 1)$"):
        run(config, places, {step: STOP})
    first = run.losses
    assert list(first) == list(range(1, step + 1))
    give_order(places.trial(config), "")
    assert first == {step: whole[step] for step in first}
    again = run(config, places)
    assert again == whole


def test_an_order_that_comes_with_the_last_step_changes_nothing(config, places):
    assert len(run(config, places, {12: STOP})) == 12


def test_only_worker_0_looks_and_an_order_is_carried_out_once(tmp_path):
    first, second = Orders(tmp_path, 0), Orders(tmp_path, 1)
    assert not first.stops() and not second.stops()
    give_order(tmp_path, STOP)
    assert first.stops() and not first.copies() and not second.stops()
    first.obey()
    assert not first.stops()
    give_order(tmp_path, "")
    assert not first.stops()


def cloned(config: TrialConfig, step: int, **changes: Any) -> TrialConfig:
    return replace(config, {**changes, "cloned_from": f"{config.digest}@{step}"})


@pytest.mark.parametrize("objective", ["mmpo", "dpo", "bco"])
@pytest.mark.parametrize("step", [4, 6])
def test_a_clone_s_first_loss_is_its_parent_s_next_to_the_last_bit(config, places, objective, step):
    """Its weights, moments, data, reference and running mean are the parent's; the new rate acts on the step after."""
    config = replace(config, {"objective": objective, "learning_rate": 1e-2})
    parent = run(config, places, {step: f"{COPY} 1"})
    assert len(parent) == 12
    clone = run(cloned(config, step, learning_rate=1e-3), places)
    upto = {at: loss for at, loss in parent.items() if at <= step + 1}
    assert {at: loss for at, loss in clone.items() if at <= step + 1} == upto
    assert sorted(clone) == sorted(parent) and all(clone[at] != parent[at] for at in range(step + 2, 13))


def test_a_clone_that_changes_nothing_is_its_parent_and_has_checkpoints_of_its_own_epochs_alone(config, places):
    """Begun after the first epoch it has the second's; killed and begun again, and cloned itself, it loses nothing."""
    parent = run(config, places, {8: f"{COPY} 1"})
    clone, again = cloned(config, 8), {1: STOP}
    with pytest.raises(Stopped):
        run(clone, places, again)
    give_order(places.trial(clone), f"{COPY} 2")
    assert run(clone, places) == parent
    folders = [path.name for path in (places.trial(clone) / "checkpoints").iterdir()]
    assert folders == ["epoch-0002"]
    weights = [places.trial(one) / "checkpoints/epoch-0002/model.safetensors" for one in (config, clone)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert run(cloned(clone, 10), places) == parent


def test_an_extension_follows_the_schedule_of_its_epochs_from_the_next_step_on(config, places):
    rates: dict[int, float] = {}

    def send(points: list, finished: Any) -> None:
        rates.update({point.step: point.metrics["train/learning_rate"] for point in points})

    run(config, places, {4: f"{COPY} 1"})
    run_trial(cloned(config, 4, epochs=4), places, TorchEngine, send)
    expected = [learning_rate_at(at - 1, 12 if at <= 4 else 24, 1e-2, 0.1) for at in range(1, 25)]
    assert list(rates.values()) == expected


def test_a_clone_whose_state_is_missing_says_so_and_does_not_begin_anew(config, places):
    with pytest.raises(InputError, match="the state from which this clone starts is missing or damaged"):
        run(cloned(config, 4), places)


def test_a_copy_is_written_while_the_trial_goes_on_and_no_state_of_its_own_is_lost(config, places):
    copied: list[int] = []
    losses = run(config, places, {4: f"{COPY} 1", 7: f"{COPY} 2"}, copied=copied.append)
    assert copied == [4, 7] and len(losses) == 12
    assert sorted(path.name for path in (places.trial(config) / "copies").iterdir()) == [
        "step-00000004",
        "step-00000007",
    ]

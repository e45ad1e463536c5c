"""What a resume needs: written within epochs, read by other numbers of workers, engines and ZeRO stages."""

import contextlib
import itertools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mmpo_train.config import TrialConfig, replace
from mmpo_train.engines.optimizers import moments
from mmpo_train.engines.torch_engine import TorchEngine
from mmpo_train.errors import InputError, Left
from mmpo_train.storage.manifest import seal, verify
from mmpo_train.trial.run import run_trial
from tests.support.training import EVERY_STEP, job, losses
from tests.support.workers import train_jobs


class Killed(BaseException):
    """Stands for the end of the process."""


def damage(path: Path) -> None:
    """Change the last byte of a file."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def run(config: TrialConfig, places: Any, stop_after_step: int = 10**9, judged: Any = ()) -> dict[str, Any]:
    """Losses by step, finished epochs and safe steps of a trial in this process, and its engine."""
    heard: dict[str, Any] = {"losses": {}, "finished": [], "safe": []}

    def send(points: list, finished: Any) -> None:
        heard["losses"] |= {point.step: point.metrics["train/loss"] for point in points}
        heard["finished"] += [finished.epoch] if finished else []

    def safe(step: int) -> None:
        heard["safe"].append(step)
        if step >= stop_after_step:
            raise Killed

    def make_engine(*made_of: Any) -> TorchEngine:
        heard["engine"] = TorchEngine(*made_of)
        return heard["engine"]

    with contextlib.suppress(Killed):
        run_trial(config, places, make_engine, send, safe=safe, judged=judged)
    return heard


@pytest.fixture
def config(prepared: Any) -> TrialConfig:
    """Two epochs of six steps, the last of them partial."""
    return replace(prepared.config, {"pairs_per_step": 7, "epochs": 2, "learning_rate": 1e-2, **EVERY_STEP})


@pytest.fixture
def places(prepared: Any, tmp_path: Path) -> Any:
    return type(prepared.places)(**vars(prepared.places) | {"trials": tmp_path})


@pytest.mark.parametrize(
    "fields", [{}, {"optimizer": "adamw_8bit"}, {"lora_rank": 2, "lora_dropout": 0.1}, {"precision": "bf16"}], ids=str
)
def test_a_trial_goes_on_from_within_an_epoch_as_if_nothing_had_been(config, places, fields):
    config = replace(config, fields)
    resume = places.trial(config) / "resume"
    whole = run(config, places)
    assert whole["safe"] == list(range(13)) and [path.name for path in resume.iterdir()] == ["step-00000012"]
    assert not list(resume.glob("*/*.safetensors")), "nothing goes on from a trial's end"
    again = run(config, places)
    assert (again["safe"], again["finished"], again["losses"]) == ([12], [1, 2], whole["losses"])
    shutil.rmtree(places.trial(config))
    for stop, begun in ((4, 0), (6, 4), (9, 6)):
        assert run(config, places, stop)["safe"] == list(range(begun, stop + 1))
        assert [path.name for path in resume.iterdir()] == [f"step-{stop:08d}"]
    last = run(config, places)
    assert last["safe"][0] == 9 and last["finished"] == [1, 2] and last["losses"] == whole["losses"]
    for ours, theirs in zip(last["engine"].masters.tensors, whole["engine"].masters.tensors, strict=True):
        assert torch.equal(ours, theirs)
        both = (moments(one["engine"].optimizer, tensor) for one, tensor in ((last, ours), (whole, theirs)))
        assert all(torch.equal(*pair) for pair in zip(*both, strict=True))


@pytest.mark.parametrize(
    ("minutes", "written"),
    [(2.0, [0, 2, 4, 6, 8, 10, 12]), (2.5, [0, 3, 6, 9, 12]), (1e6, [0, 6, 12]), (0.0, [0, 6, 12])],
)
def test_states_are_written_at_epochs_ends_and_as_often_as_asked_between_them(
    config, places, monkeypatch, minutes, written
):
    """A clock of which every look takes half a minute: a step takes two, and writing a third."""
    looks = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: 30.0 * next(looks))
    monkeypatch.setattr("mmpo_train.trial.loop.time", clock)
    assert run(replace(config, {"checkpoint_minutes": minutes}), places)["safe"] == written


def test_a_state_that_a_kill_has_left_beside_a_newer_one_is_removed(config, places, tmp_path):
    """Between the sealing of the newer one and the removal of the other."""
    run(config, places, 4)
    older = places.trial(config) / "resume" / "step-00000004"
    shutil.copytree(older, tmp_path / "older")
    run(config, places)
    (tmp_path / "older").rename(older)
    assert run(config, places)["safe"] == [12]
    assert [path.name for path in older.parent.iterdir()] == ["step-00000012"]


def test_a_damaged_state_is_passed_over(config, places):
    run(config, places, 5)
    damage(places.trial(config) / "resume" / "step-00000005" / "weights.safetensors")
    assert run(config, places)["safe"] == list(range(13))


@pytest.mark.parametrize("older", ["another name", "another format"])
def test_a_state_of_another_version_is_refused_and_stays_as_it_is(config, places, older):
    run(config, places, 7)
    state = places.trial(config) / "resume" / "step-00000007"
    if older == "another name":
        strange = state.rename(state.with_name("epoch-0001"))
    else:
        strange = state
        facts = json.loads((state / "trial.json").read_text())
        assert facts["format"] == 1
        (state / "trial.json").write_text(json.dumps(facts | {"format": 2}))
        staging = state.rename(state.with_name(".partial-step-00000007"))
        seal(staging, state)
    before = {path: path.stat().st_mtime_ns for path in places.trial(config).rglob("*.safetensors")}
    with pytest.raises(InputError, match=f"another version of this program has written {strange}, from which this one"):
        run(config, places)
    assert {path: path.stat().st_mtime_ns for path in places.trial(config).rglob("*.safetensors")} == before


@pytest.mark.parametrize(("stop", "begun"), [(6, 6), (9, 0), (10**9, 0)])
@pytest.mark.parametrize("lost", ["damaged", "deleted"])
def test_a_checkpoint_that_is_lost_before_it_was_judged_is_made_again(config, places, stop, begun, lost):
    """Of the epoch of six steps. The state at its end holds its weights; with a later one the trial goes back."""
    checkpoint = places.trial(config) / "checkpoints" / "epoch-0001"
    whole = run(config, places)["losses"]
    weights = (checkpoint / "model.safetensors").read_bytes()
    shutil.rmtree(places.trial(config))
    run(config, places, stop)
    shutil.rmtree(checkpoint) if lost == "deleted" else damage(checkpoint / "model.safetensors")
    again = run(config, places)
    assert again["safe"][0] == begun and again["finished"] == [1, 2] and again["losses"] == whole
    verify(checkpoint)
    assert (checkpoint / "model.safetensors").read_bytes() == weights


def test_a_checkpoint_that_is_lost_after_it_was_judged_is_not_made_again(config, places):
    run(config, places, 9)
    checkpoint = places.trial(config) / "checkpoints" / "epoch-0001"
    shutil.rmtree(checkpoint)
    assert run(config, places, judged=[1])["safe"][0] == 9 and not checkpoint.exists()


VARIANTS: dict[str, dict[str, Any]] = {
    "adamw": {},
    "lora": {"lora_rank": 4, "lora_dropout": 0.0},
    "8 bits": {"optimizer": "adamw_8bit"},
    "bf16": {"precision": "bf16"},
    "bf16 lora": {"precision": "bf16", "lora_rank": 4, "lora_dropout": 0.0},
}


@pytest.mark.slow
def test_a_trial_goes_on_with_another_number_of_workers_another_stage_and_another_engine(
    prepared: Any, bf16_prepared: Any, tmp_path: Path
) -> None:
    """Two workers at ZeRO-2, then one at ZeRO-0, two at ZeRO-3, one at ZeRO-1, and plain torch to the end.

    8-bit moments are rounded in blocks that lie elsewhere then: their losses differ as much between one worker and two.
    In bf16 ZeRO-3 rounds elsewhere, as it runs the head as a module.
    """
    values = {"pairs_per_step": 5, "pairs_per_group": 4, "epochs": 3, "learning_rate": 1e-3, **EVERY_STEP}
    config = replace(prepared.config, values)

    def jobs(folder: str, stop_after_step: int = 10**9, **fields: Any) -> list[dict]:
        return [
            job(
                config,
                (bf16_prepared if "bf16" in name else prepared).places,
                tmp_path / folder / name,
                stop_after_step,
                **fields | variant,
            )
            for name, variant in VARIANTS.items()
        ]

    plain = train_jobs(jobs("plain"), workers=1, engine="torch")
    two = train_jobs(jobs("two"), workers=2)
    legs = [(2, 2, "deepspeed", 5), (1, 0, "deepspeed", 10), (2, 3, "deepspeed", 15), (1, 1, "deepspeed", 20)]
    for workers, stage, engine, last in legs:
        for result in train_jobs(jobs("legs", last, zero_stage=stage), workers, engine):
            assert result["error"] == "killed" and result["safe"] == list(range(max(0, last - 6), last)), result
    for name, result, expected, other in zip(VARIANTS, train_jobs(jobs("legs"), 1, "torch"), plain, two, strict=True):
        assert result["finished"][-1][0] == 3 and sorted(losses(result)) == sorted(losses(expected))
        tolerance = {"8 bits": 2 * difference(other, expected), "bf16": 1e-2, "bf16 lora": 1e-2}.get(name, 1e-6)
        assert difference(result, expected) < tolerance, name


def difference(ours: dict, theirs: dict) -> float:
    """Largest difference of two trials' losses, relative to losses above 1."""
    expected = losses(theirs)
    return max(abs(loss - expected[step]) / max(1.0, abs(expected[step])) for step, loss in losses(ours).items())


@pytest.mark.parametrize("step", [4, 6, 12])
def test_a_trial_that_is_told_to_go_writes_a_state_and_repeats_no_step(config, places, step):
    """Within an epoch, at an epoch's end, and at the trial's own, where nothing is left to be interrupted."""
    config, heard = replace(config, {"checkpoint_minutes": 0}), []
    whole = run(config, places)["losses"]
    shutil.rmtree(places.trial(config))

    def send(points: list, finished: Any) -> None:
        heard.extend(point.step for point in points)

    looks = itertools.count(1)
    told = {"told_to_go": lambda: next(looks) >= step}
    with contextlib.nullcontext() if step == 12 else pytest.raises(Left):
        run_trial(config, places, TorchEngine, send, **told)
    assert sorted(set(heard)) == list(range(1, step + 1))
    again = run(config, places)
    assert again["safe"][0] == step and again["losses"] == whole

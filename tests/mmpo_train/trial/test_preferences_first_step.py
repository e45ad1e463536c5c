"""The policy of a trial's first step is its reference, whatever the trial starts from, or the trial does not begin."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmpo_train.config import replace
from mmpo_train.engines.torch_engine import TorchEngine
from mmpo_train.errors import InputError
from mmpo_train.trial import outbox, run
from mmpo_train.trial.preferences import _require_reference
from tests.support import workers
from tests.support.training import EVERY_STEP, job, losses

FIELDS = {"objective": "dpo", "pairs_per_step": 20, "epochs": 1, "validate_every_steps": 100}


def of_another_model(factor: float) -> Any:
    """What the store would hold of a model whose log-probabilities are so many times as large."""
    read = run.read_reference
    return lambda folder, split: (read(folder, split) * np.float32(factor)).astype(np.float32)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("fields", [{}, {"lora_rank": 2}], ids=str)
def test_a_store_of_another_model_is_refused_before_the_first_step_and_its_own_is_not(
    prepared: Any, bf16_prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, fields: Any
) -> None:
    own = prepared if precision == "fp32" else bf16_prepared
    config = replace(own.config, FIELDS | fields)
    assert len(losses(workers._run(job(config, own.places, tmp_path / "own"), TorchEngine))) == 2
    monkeypatch.setattr(run, "read_reference", of_another_model(1.1))
    heard: list[Any] = []
    with pytest.raises(InputError, match="nats a token off those stored of its reference"):
        places = type(own.places)(**vars(own.places) | {"trials": tmp_path / "other"})
        run.run_trial(config, places, TorchEngine, lambda points, finished: heard.extend(points))
    assert not heard, "nothing was learned or reported"


def test_later_steps_are_not_compared(prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy that has learned is not its reference any more: a resumed trial goes on."""
    monkeypatch.setattr(outbox, "_SECONDS_BETWEEN_SENDS", 0.0)  # the second step is heard of before its state is kept
    config = replace(prepared.config, FIELDS | EVERY_STEP | {"pairs_per_step": 10})
    killed = workers._run(job(config, prepared.places, tmp_path, 2), TorchEngine)
    assert killed["error"] == "killed"
    monkeypatch.setattr(run, "read_reference", of_another_model(1.1))
    goes_on = workers._run(job(config, prepared.places, tmp_path), TorchEngine)
    assert goes_on["safe"][0] == 1 and max(losses(goes_on)) == 4


def test_rounding_is_allowed_and_what_is_no_number_is_left_to_the_loop() -> None:
    for off, precision in ((5e-4, "fp32"), (2e-2, "bf16"), (np.inf, "fp32"), (np.nan, "bf16")):
        _require_reference(off, precision)
    with pytest.raises(InputError, match="0.002 nats a token"):
        _require_reference(2e-3, "fp32")

"""Forecasts worked by hand, and what they are made from."""

import dataclasses
import json
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mmpo_train.config import replace
from mmpo_train.errors import InputError
from mmpo_train.events import Point
from mmpo_train.model import layer_speed
from mmpo_train.model.layer_speed import layer_flop_per_second
from sweeps.cluster.accelerators import accelerator_name
from sweeps.cluster.placement import TrialResources, hardware
from sweeps.cost.arithmetic import (
    ONLINE,
    Forecast,
    Lengths,
    ModelSize,
    Speed,
    Work,
    compared,
    elapsed,
    forward_flop,
    measured_speed,
    modelled_speed,
    timed_speed,
    total,
    work_of,
)
from sweeps.cost.lengths import lengths_of
from sweeps.cost.of_trials import forecast_trials, hours_of, read_size, work_on
from sweeps.ledger.experiments import experiment_name
from sweeps.ledger.ledger import connect
from sweeps.ledger.tags import HARDWARE
from sweeps.plan.options import SweepOptions
from sweeps.plan.trials import Planned

SIZE = ModelSize(parameters=100, layers=2, width=8)
TRAIN = Lengths(np.array([3, 2]), np.array([[4, 1], [2, 0]]))
VALIDATION = Lengths(np.array([1]), np.array([[1, 1]]))


def test_tokens_are_counted_behind_every_completion_and_computed_with_each_prompt_once():
    """7 + 4 + 4 = 3+4, 3+1 and 2+2; once: 3+4+1 and 2+2."""
    assert TRAIN.tokens == 7 + 4 + 4
    assert TRAIN.computed == 8 + 4
    assert TRAIN.first(1).tokens == 7 + 4


def test_attention_sees_the_prompt_once_and_each_completion_behind_it():
    """Prompt 3: 9 pairs; completions 7² - 3² = 40 and 4² - 3² = 7; the other prompt alone with one: 4² = 16."""
    assert TRAIN.attended == 9 + 40 + 7 + 16


def test_work_of_two_epochs_by_hand():
    """Forward: weights 2·100·12 = 2400, attention 2·2·8·72 = 2304. Validation: 2·100·3 = 600 and pairs 1+3+3 = 7: 224.

    One step an epoch; validated in the loop at steps 1 and 2.
    """
    assert forward_flop(SIZE, TRAIN) == (2400, 2304) and forward_flop(SIZE, VALIDATION) == (600, 224)
    settings = {"epochs": 2, "pairs_per_step": 2, "validate_every_steps": 64}
    work = work_of(SIZE, TRAIN, VALIDATION, lora=False, **settings)
    assert (work.steps, work.tokens) == (2, 30)
    assert work.training_flop == 2 * (3 * 2400 + 3 * 2304)
    assert work.scoring_flop == 2 * 824
    frozen = work_of(SIZE, TRAIN, VALIDATION, lora=True, **settings)
    assert frozen.training_flop == 2 * (2 * 2400 + 3 * 2304), "4 N a token, of which 2 N are the forward pass"


def test_validations_between_epochs_are_counted_and_none_twice():
    """Five steps an epoch for two epochs: at 2, 4, 6, 8, 10 and at the ends 5 and 10."""
    train = Lengths(np.ones(10, dtype=int), np.ones((10, 2), dtype=int))
    work = work_of(SIZE, train, VALIDATION, epochs=2, pairs_per_step=2, validate_every_steps=2, lora=False)
    assert work.scoring_flop == 6 * 824


def test_speed_from_flop_is_the_assumed_share_of_the_peak():
    """1e15 tokens of 6 FLOP each on two H100: 0.35 · 2 · 989e12 / 6 tokens a second."""
    work = Work(steps=10, tokens=10**15, training_flop=6e15, scoring_flop=0.0)
    speed = modelled_speed(work, ("H100",), 2)
    assert speed.tokens_per_second == pytest.approx(0.35 * 2 * 989e12 / 6)
    assert speed.seconds(work) == pytest.approx(5 + 6e15 / (0.7 * 989e12))
    assert "35%" in speed.source and "H100" in speed.source
    assert "L40S" in modelled_speed(work, ("X9000",), 1).source, "an unknown one says whose peak was taken"
    assert (
        "L4," not in modelled_speed(work, (), 1).source and "of a L4" in modelled_speed(work, ("H100", "L4"), 1).source
    )


def test_a_measured_speed_foresees_what_such_trials_took():
    """1,000 tokens and scoring of half the FLOP are worth 1,500: at 100 a second 15 s, so 20 s are 5 of start-up."""
    work = Work(steps=5, tokens=1000, training_flop=2.0, scoring_flop=1.0)
    speed = measured_speed([(100.0, 20.0, work)] * 3)
    assert (speed.tokens_per_second, speed.start_up_seconds) == (100, pytest.approx(5))
    assert speed.seconds(work) == pytest.approx(20)
    assert speed.source == "measured: 100 tokens per second in 3 finished trials"
    assert measured_speed([(100.0, 3.0, work)]).start_up_seconds == 0, "a resumed trial took less than its work"


def test_trials_fill_the_places_that_are_free():
    """3, 1, 1, 4 in two places: 3+… and 1+1, then 4 behind the two."""
    assert elapsed([3, 1, 1, 4], 2) == 6 and elapsed([], 2) == 0 and elapsed([2, 2], 1) == 4


def test_money_is_shown_where_there_is_a_price_and_a_gpu():
    forecast = Forecast(2, 100, 1.5, 3600.0, "GPU", "counted")
    assert "1.50 GPU-hours" in str(forecast) and "give --price-per-gpu-hour" in str(forecast)
    priced = Forecast(2, 100, 1.5, 3600.0, "GPU", "counted", 2.4)
    assert priced.money == pytest.approx(3.6) and "3.60 at 2.4 per GPU-hour" in str(priced)
    assert Forecast(2, 100, 1.5, 3600.0, "CPU", "counted", 2.4).money is None
    whole = total([priced, priced])
    assert (whole.trials, whole.steps, whole.hours, whole.money) == (4, 200, 3.0, pytest.approx(7.2))


def test_evaluation_is_a_part_of_the_hours_and_none_of_the_trials_own_but_for_online_answers():
    """0.25 + 0.5 of 2 hours are the evaluators'; the answers of online training, 0.125, are waited for."""
    parts = {"scores": 0.25, "harness": 0.5, ONLINE: 0.125}
    one = Forecast(2, 100, 2.0, 3600.0, "GPU", "counted", evaluation=parts, checkpoints=1)
    assert one.trial_hours == 1.25
    kinds = "scores 0.25, harness 0.50, answers of online training 0.12"
    assert one.evaluation_text == f"of it evaluation of 1 checkpoint: 0.88 GPU-hours ({kinds})"
    whole = total([one, Forecast(1, 1, 1.0, 1.0, "GPU", "", evaluation={"scores": 0.75}, checkpoints=2)])
    assert (whole.checkpoints, whole.evaluation["scores"], whole.trial_hours) == (3, 1.0, 1.5)
    assert compared(one, 2.5) == "cost: 2.50 GPU-hours without evaluation, 2 times the forecast"
    assert Forecast(1, 1, 1.0, 1.0, "GPU", "").evaluation_text == ""


def test_cost_is_said_beside_the_forecast():
    assert compared(Forecast(1, 1, 2.0, 1.0, "GPU", ""), 3.0) == "cost: 3.00 GPU-hours, 1.5 times the forecast"
    assert compared(Forecast(1, 1, 2.0, 1.0, "GPU", ""), 2.02) == "cost: 2.02 GPU-hours, as forecast"


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA H200", "H200"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA GeForce RTX 5090", "GeForce-RTX-5090"),
    ],
)
def test_accelerators_are_named_as_ray_names_them(driver, name):
    manager = pytest.importorskip("ray._private.accelerators.nvidia_gpu").NvidiaGPUAcceleratorManager
    assert accelerator_name(driver) == name == manager._gpu_name_to_accelerator_type(driver)


def test_a_trial_asks_for_gpus_of_a_named_type():
    gpus = TrialResources(2, True, 1, 4, ("H100",))
    assert (str(gpus), str(hardware(gpus))) == ("2 workers of 1 GPU (H100)", "2 x H100")
    cpus = TrialResources(1, False, 1, 2)
    assert (str(cpus), str(hardware(cpus))) == ("1 worker of 1 CPU", "1 x CPU")


def test_a_models_size_is_read_from_headers_alone(tmp_path):
    """Two tensors of 2 x 3 and 4; the file ends after its header."""
    header = json.dumps({"a": {"shape": [2, 3]}, "b": {"shape": [4]}, "__metadata__": {"format": "pt"}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    config = {"num_hidden_layers": 5, "num_attention_heads": 4, "hidden_size": 24}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_size(tmp_path) == ModelSize(10, 5, 24)
    (tmp_path / "config.json").write_text(json.dumps({**config, "head_dim": 8}))
    assert read_size(tmp_path).width == 32


def test_a_model_that_is_not_there_has_its_recipes_size(tmp_path):
    assert read_size(tmp_path / "none", "llama-3-8b").parameters == 8_030_261_248
    with pytest.raises(InputError, match="so the model's size cannot be read"):
        read_size(tmp_path, "any")


def test_the_random_models_size_is_that_of_the_model(model_folder):
    from mmpo_train.model.policy import load_model

    model = load_model(model_folder)
    size = read_size(model_folder)
    assert size.parameters == sum(one.numel() for one in model.parameters())
    assert (size.layers, size.width) == (2, 32)


def test_lengths_come_from_the_token_tables_or_from_the_text(prepared, tmp_path):
    from mmpo_train.data.tokens import read_table

    train, validation, said = lengths_of(prepared.inputs)
    table = read_table(prepared.inputs.tokens, "train")
    assert said == "tokens counted" and train.computed == table.together.sum()
    assert len(validation.prompts) == len(prepared.inputs.data.validation)
    elsewhere = dataclasses.replace(prepared.inputs, storage=tmp_path)
    counted, of_validation, said = lengths_of(dataclasses.replace(elsewhere, counts=prepared.counts))
    assert said == "tokens counted"  # by a dry run, which keeps no tables
    assert abs(counted.tokens - train.tokens) <= 1 and abs(of_validation.tokens - validation.tokens) <= 1
    guessed, _, said = lengths_of(elsewhere)
    first = prepared.inputs.data.train[0]
    assert said == "4 characters per token assumed"
    assert guessed.completions[0].tolist() == [min(32, -(-len(text) // 4)) for text in first.completions]


def timed(size, work):
    return timed_speed(work, layer_flop_per_second(size.parameters, size.layers, size.width, "fp32", 1), 1)


def test_speed_from_a_timed_layer_is_by_flop():
    """1e12 tokens of 6 FLOP each, by two workers of 3e10 a second: 1e10 tokens a second."""
    work = Work(steps=10, tokens=10**12, training_flop=6e12, scoring_flop=0.0)
    assert timed_speed(work, 3e10, 2) == Speed(1e10, 5.0, "from FLOP, at 3e+10 per second, timed here on one layer")


def test_a_layer_is_timed_only_for_trials_of_this_machine_s_cpu(prepared, monkeypatch):
    planned, calls = Planned(prepared.config, prepared.inputs, "a", "a"), []
    monkeypatch.setattr(layer_speed, "layer_flop_per_second", lambda *shape: calls.append(shape) or 1e9)
    forecast_trials([planned], SweepOptions(), TrialResources(2, True, 1, 1, ("H100",)), None)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert "35%" in forecast_trials([planned], SweepOptions(), TrialResources(2, False, 3, 1), None).source
    assert not calls
    monkeypatch.delenv("RAY_ADDRESS")
    assert "1e+09" in forecast_trials([planned], SweepOptions(), TrialResources(2, False, 3, 1), None).source
    [(_, layers, width, precision, threads)] = calls
    assert (layers, width, precision, threads) == (2, 32, "fp32", 3)


def test_without_a_ledger_a_forecast_counts_flop(prepared):
    resources = TrialResources(1, False, 1, 2)
    planned = Planned(prepared.config, prepared.inputs, "a", "a")
    options = SweepOptions(model=prepared.config.model)
    one = forecast_trials([planned], options, resources, None)
    two = forecast_trials([planned] * 2, options, resources, None)
    size, (train, validation, _) = read_size(prepared.inputs.model_folder), lengths_of(prepared.inputs)
    work = work_on(size, train, validation, prepared.config)
    assert one.trial_hours == pytest.approx(timed(size, work).seconds(work) / 3600)
    assert two.trial_hours == pytest.approx(2 * one.trial_hours)
    # Two run at a time; evaluation is on the places of both.
    longer = (two.evaluation["scores"] - one.evaluation["scores"]) * 3600 / 2
    assert two.elapsed_seconds == pytest.approx(one.elapsed_seconds + longer)
    assert (one.kind, one.steps) == ("CPU", work.steps) and "from FLOP" in one.source
    assert forecast_trials([], options, resources, None).hours == 0


def test_where_nothing_is_tokenised_the_reference_pass_is_counted_too(prepared, tmp_path):
    resources = TrialResources(1, False, 1, 1)
    model = Path(prepared.inputs.model_folder)
    fresh = dataclasses.replace(prepared.inputs, storage=tmp_path, model_folder=model)
    forecast = forecast_trials([Planned(prepared.config, fresh, "a", "a")], SweepOptions(), resources, None)
    size, (train, validation, _) = read_size(model), lengths_of(fresh)
    work = work_on(size, train, validation, prepared.config)
    without = timed(size, work).seconds(work)
    assert forecast.trial_hours * 3600 == pytest.approx(without) and forecast.evaluation["reference pass"] > 0
    known = forecast_trials([Planned(prepared.config, fresh, "a", "a")], SweepOptions(), resources, None, prepared=True)
    assert known.evaluation == {"scores": forecast.evaluation["scores"]}


@pytest.fixture
def ledger(tmp_path):
    """A real MLflow."""
    opened = connect(None, tmp_path / "ledger")
    yield opened
    opened.close()


def test_finished_trials_of_the_same_model_and_hardware_are_the_measure(prepared, ledger):
    """Curves 90, 100, 500: the median counts. A trial on other hardware, one unfinished and one of LoRA do not."""
    config, resources = prepared.config, TrialResources(1, False, 1, 1)
    log = ledger.open_stage(experiment_name(config), "stage1_lr", "mmpo", "k", title="t", params={}, note="")
    size, (train, validation, _) = read_size(prepared.inputs.model_folder), lengths_of(prepared.inputs)

    def trial(number: int, tokens_per_second: tuple[float, ...], ran_on: str, seconds: float | None, **fields) -> None:
        own = replace(config, {"learning_rate": 10.0**-number, "epochs": number, **fields})
        opened = log.open_trial(own, f"lr {number}", {HARDWARE: ran_on})
        speeds = enumerate(tokens_per_second, 1)
        opened.points([Point(step, 1_000 + step, {"train/tokens_per_second": speed}) for step, speed in speeds])
        if seconds is None:
            opened.fail("interrupted")
        else:
            work = work_on(size, train, validation, own)
            opened.finish(seconds + work.equivalent_tokens / 100)

    trial(1, (90.0, 100.0, 500.0), "1 x CPU", 7.0)
    trial(3, (100.0,), "1 x CPU", 7.0)
    trial(4, (9e9,), "1 x H100", 1.0)
    trial(5, (9e9,), "1 x CPU", None)
    trial(6, (9e9,), "1 x CPU", 1.0, lora_rank=8)
    ledger.flush(30)
    planned = Planned(replace(config, {"epochs": 2}), prepared.inputs, "a", "a")
    forecast = forecast_trials([planned], SweepOptions(), resources, ledger)
    assert forecast.source == "measured: 100 tokens per second in 2 finished trials"
    work = work_on(size, train, validation, planned.config)
    assert forecast.trial_hours * 3600 == pytest.approx(7 + work.equivalent_tokens / 100)
    elsewhere = forecast_trials([planned], SweepOptions(), TrialResources(2, True, 1, 1, ("H200",)), ledger)
    assert "from FLOP" in elsewhere.source and elsewhere.kind == "GPU"


def test_hours_are_known_only_where_every_trial_finished():
    records = {"a": SimpleNamespace(seconds=1800.0), "b": SimpleNamespace(seconds=None)}
    assert hours_of(records, ["a"], 2) == 1.0
    assert hours_of(records, ["a", "b"], 2) is None and hours_of(records, ["a", "c"], 2) is None

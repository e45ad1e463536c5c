"""Stage 0's forecast: worked by hand, and what it is made from."""

import json

import numpy as np
import pytest

from mmpo_train.events import Point
from mmpo_train.model.layer_speed import layer_flop_per_second
from mmpo_train.sft.prepare import identify_sft, materialise_sft
from mmpo_train.sft.trial import SFTTrial, change
from sweeps.cluster.placement import TrialResources
from sweeps.cost.arithmetic import Lengths, ModelSize, modelled_speed, timed_speed
from sweeps.cost.lengths import lengths_of
from sweeps.cost.of_trials import forecast_trials, read_size, work_on
from sweeps.ledger.experiments import experiment_name
from sweeps.ledger.ledger import connect
from sweeps.ledger.tags import HARDWARE
from sweeps.plan.options import SFTOptions
from sweeps.search.instruction_tuning import Tuning

ONE_CPU = TrialResources(1, False, 1, 1)


@pytest.fixture
def inputs(model_folder, preference_rows, tmp_path):
    """The random model and forty conversations of one question, identified and not tokenised."""
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in preference_rows]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {"model": str(model_folder), "dataset": (str(path),), "precision": "fp32", "max_tokens": 64}
    return identify_sft(change(SFTTrial(), values | {"conversations_per_step": 8}), tmp_path / "storage")


def forecast_of(inputs, resources, ledger=None):
    options = SFTOptions(model=inputs.config.model, price_per_gpu_hour=3.0)
    return forecast_trials([Tuning(inputs.config, inputs)], options, resources, ledger)


def test_a_tuning_of_two_epochs_by_hand():
    """Conversations of 3 and 2 tokens. Forward: weights 2·100·5 = 1000, attention 2·2·8·(9 + 4) = 416, three times
    that to train. Validation on one of 2 tokens: 2·100·2 + 2·2·8·4 = 528, at the two steps and by no evaluator."""
    train = Lengths(np.zeros(2, dtype=int), np.array([[3], [2]]))
    validation = Lengths(np.zeros(1, dtype=int), np.array([[2]]))
    trial = change(SFTTrial(), {"epochs": 2, "conversations_per_step": 2})
    work = work_on(ModelSize(parameters=100, layers=2, width=8), train, validation, trial)
    assert (work.steps, work.tokens) == (2, 10)
    assert work.training_flop == 2 * 3 * (1000 + 416)
    assert work.scoring_flop == 2 * 528


def test_lengths_are_guessed_from_the_text_until_there_are_token_tables(inputs):
    train, validation, said = lengths_of(inputs)
    first = next(iter(inputs.data.conversations("train")))
    characters = sum(len(turn.content) for turn in first.turns)
    assert said == "4 characters per token assumed" and train.computed > 0
    assert train.completions[0, 0] == min(64, -(-characters // 4))
    _, counts = materialise_sft(inputs, lambda what, share: None)
    train, validation, said = lengths_of(inputs)
    assert said == "tokens counted"
    assert (train.tokens, validation.computed) == (counts["train"].tokens, counts["validation"].tokens)


def test_without_a_finished_tuning_a_forecast_counts_flop(inputs):
    train, validation, _ = lengths_of(inputs)
    work = work_on(read_size(inputs.model_folder), train, validation, inputs.config)
    one = forecast_of(inputs, ONE_CPU)
    size = read_size(inputs.model_folder)
    speed = layer_flop_per_second(size.parameters, size.layers, size.width, "fp32", 1)
    assert one.hours == pytest.approx(timed_speed(work, speed, 1).seconds(work) / 3600)
    assert (one.kind, one.steps) == ("CPU", 5) and "from FLOP" in one.source and "4 characters" in one.source
    four = forecast_of(inputs, TrialResources(4, True, 1, 1, ("H100",)))
    seconds = modelled_speed(work, ("H100",), 4).seconds(work)
    assert (four.kind, four.elapsed_seconds) == ("GPU", pytest.approx(seconds))
    assert four.money == pytest.approx(4 * seconds / 3600 * 3.0)


def test_a_finished_tuning_of_the_same_data_on_the_same_hardware_is_the_measure(inputs, tmp_path):
    """50 tokens a second and 9 s of start-up, in one epoch; foreseen for three. Another GPU's is not asked."""
    ledger = connect(None, tmp_path / "ledger")
    train, validation, _ = lengths_of(inputs)
    size = read_size(inputs.model_folder)
    for ran_on, speed, values in (("1 x CPU", 50.0, {}), ("1 x H100", 9e9, {"learning_rate": 1e-3})):
        trial = change(inputs.config, values)
        opened = {
            "kind": "opened",
            "timestamp_ms": 1,
            "experiment": experiment_name(trial),
            "parent": "",
            "name": "sft",
        }
        opened |= {"name": "sft", "tags": {HARDWARE: ran_on}, "config": vars(trial)}
        log = ledger.open_trial(opened, trial.digest)
        log.points([Point(step, step, {"train/tokens_per_second": speed}) for step in (1, 2, 3)])
        log.finish(9 + work_on(size, train, validation, trial).equivalent_tokens / 50)
    ledger.flush(30)
    longer = type(inputs)(change(inputs.config, {"epochs": 3}), inputs.data, inputs.model_folder, inputs.storage)
    forecast = forecast_of(longer, ONE_CPU, ledger)
    assert forecast.source == "measured: 50 tokens per second in 1 finished trial"
    work = work_on(size, train, validation, longer.config)
    assert forecast.elapsed_seconds == pytest.approx(9 + work.equivalent_tokens / 50)
    ledger.close()

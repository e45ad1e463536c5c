"""The loop itself, in one process: what the numbers of the engines' tests do not show."""

import numpy as np
import pytest
import torch

from mmpo_train.config import replace
from mmpo_train.data.tokens import read_table
from mmpo_train.engines.passes import Passes
from mmpo_train.engines.torch_engine import TorchEngine
from mmpo_train.model.batches import consecutive, epoch_order
from mmpo_train.model.logps import CompletionLogps
from mmpo_train.model.policy import load_model
from mmpo_train.model.reference import read_reference
from mmpo_train.model.scoring import ScoredTable
from mmpo_train.trial.loop import train
from mmpo_train.trial.preferences import Preferences
from mmpo_train.trial.segments import Segment


@pytest.fixture
def tables(ranked_prepared):
    places = ranked_prepared.places
    return {
        split: ScoredTable(read_table(places.tokens, split), read_reference(places.reference, split))
        for split in ("train", "validation")
    }


def run(config, tables, **arguments):
    """Points and published epochs of a run, and the trained weights."""
    torch.manual_seed(0)
    engine = TorchEngine(CompletionLogps(load_model(arguments.pop("model"))), config)
    task, points, published = Preferences(config, tables["train"], tables["validation"], engine, **arguments), [], []
    train(
        config,
        task,
        engine,
        Passes("shared", 512),
        report=lambda metrics, step: points.append((step, metrics)),
        publish=lambda *finished: published.append((*finished, task.reference_point)),
    )
    return points, published, [parameter.detach().clone() for parameter in engine.masters.parameters]


def test_a_step_whose_prompts_were_all_dropped_teaches_nothing_and_is_counted(ranked_prepared, tables):
    """The prompts of the second step and half of the third's are not in the segment."""
    config = replace(
        ranked_prepared.config,
        {"objective": "online_dpo", "pairs_per_step": 5, "epochs": 1, "segments": 1, "learning_rate": 1e-2},
    )
    prompts = len(tables["train"].table)
    steps = list(consecutive(epoch_order(prompts, config.seed, 1), 5))
    dropped = {*steps[1].tolist(), *steps[2][:2].tolist()}
    kept = np.array([prompt for prompt in range(prompts) if prompt not in dropped])
    both = np.zeros((len(kept), 2), dtype=np.int64)
    both[:, 1] = 1

    def make_segment(number, asked):
        assert number == 0 and asked.tolist() == list(range(prompts))
        return Segment(tables["train"].take(kept, both), kept, {"online/prompts": float(len(kept))})

    points, published, _ = run(config, tables, model=ranked_prepared.places.model, make_segment=make_segment)
    assert [step for step, _ in points] == list(range(1, len(steps) + 1)) and len(published) == 1
    assert "train/loss" not in points[1][1] and points[1][1]["train/pairs_per_second"] == 0
    assert all("train/loss" in metrics for step, metrics in points if step != 2)
    assert [step for step, metrics in points if "online/prompts" in metrics] == [1]
    assert "validation_curve/reward_accuracy" in points[-1][1]


def test_the_running_mean_of_bco_is_that_of_the_steps_before(ranked_prepared, tables):
    """Delta of step t is the mean, over steps before t, of the step's mean score of chosen and rejected."""
    config = replace(ranked_prepared.config, {"objective": "bco_original", "pairs_per_step": 5, "learning_rate": 1e-2})
    points, [(_, _, last)], _ = run(config, tables, model=ranked_prepared.places.model)
    deltas = [metrics["train/reference_point"] for _, metrics in points]
    assert deltas[0] == 0 and abs(deltas[1]) < 1e-5, "an untrained policy scores 0 everywhere"
    assert last.steps == len(points) and last.mean not in deltas and abs(last.mean) > 1e-3


def test_the_reference_point_of_kto_is_the_divergence_on_other_prompts_answers(ranked_prepared, tables):
    """Step 1: the policy is the reference, so 0; later beta times the mean log-ratio, or 0 where that is negative."""
    from mmpo_train.model.reference import UNRELATED, read_split

    places = ranked_prepared.places
    unrelated = ScoredTable(read_split(places.tokens, UNRELATED), read_reference(places.unrelated, UNRELATED))
    train_table = tables["train"].table
    for row in range(len(train_table)):
        [completion] = unrelated.table.completions[row]
        assert not any(completion is own for own in train_table.completions[row])
    config = replace(
        ranked_prepared.config, {"objective": "kto", "pairs_per_step": 5, "learning_rate": 1e-2, "beta": 0.5}
    )
    points, [(_, _, last)], _ = run(config, tables, model=places.model, unrelated=unrelated)
    deltas = [metrics["train/reference_point"] for _, metrics in points]
    assert abs(deltas[0]) < 1e-5 and all(delta >= 0 for delta in deltas) and max(deltas) > 1e-3
    assert last.mean == deltas[-1]


@pytest.mark.parametrize("choice", ["max", "min"])
@pytest.mark.parametrize("negatives", [1, 2])
def test_mc_po_trains_on_the_candidates_that_the_policy_prefers_to_the_reference(
    ranked_prepared, tables, negatives, choice, monkeypatch
):
    """With reference = policy - r the log-ratios are r, so that the first step's loss can be told from r alone."""
    monkeypatch.setattr("mmpo_train.trial.preferences._OFF_REFERENCE", {"fp32": np.inf})
    table, reference = tables["train"].table, tables["train"].ref_logps
    ratios = np.where(table.completion_tokens > 0, np.random.default_rng(1).normal(0, 5, reference.shape), 0)
    scored = {**tables, "train": ScoredTable(table, (reference - ratios).astype(np.float32))}
    fields = {"objective": "mc_po", "negative_choice": choice, "negatives": negatives, "beta": 0.5}
    config = replace(ranked_prepared.config, fields | {"pairs_per_step": 7})
    expected = []
    for prompt in epoch_order(len(table), config.seed, 1)[:7]:
        chosen, *others = (0.5 * ratios[prompt, : len(table.completions[prompt])]).tolist()
        some = sorted(others, reverse=choice == "max")[:negatives]
        expected.append(np.log(1 + sum(np.exp(other - chosen) for other in some)))
    points, _, _ = run(config, scored, model=ranked_prepared.places.model)
    assert points[0][1]["train/loss"] == pytest.approx(np.mean(expected), rel=1e-4)

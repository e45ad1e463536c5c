"""A trial as a value: what its digest depends on, and how bad fields are refused."""

import ast
import dataclasses
import hashlib
import itertools
import json
import math
import sys
from pathlib import Path

import pytest

from mmpo_train import config as config_module
from mmpo_train.config import (
    OBJECTIVE_FIELDS,
    TrialConfig,
    digest_of,
    from_dict,
    identity,
    nearest,
    parse_assignments,
    replace,
    to_dict,
)
from mmpo_train.errors import InputError

# For every field a valid value that is not the default.
OTHER_VALUES = {
    "model": "somewhere/else",
    "model_fingerprint": "f" * 64,
    "dataset": ("pairs.json", "more.json"),
    "data_fingerprint": "e" * 64,
    "negatives_from_rank": 2,
    "worst_negatives": 1,
    "pair_every_negative": True,
    "noise_candidate": "added",
    "holdout_seed": 7,
    "objective": "dpo",
    "beta": 0.05,
    "r_eps": 0.9,
    "gamma_over_beta": 1.6,
    "length_normalised": True,
    "pairs_per_group": 4,
    "auxiliary": False,
    "in_batch_normalised": False,
    "entropy": True,
    "gamma": 5.0,
    "sft_weight": 0.5,
    "label_smoothing": 0.01,
    "desirable_weight": 1.3,
    "undesirable_weight": 1.3,
    "negatives": 3,
    "negative_choice": "max",
    "chosen_is_candidate": True,
    "segments": 2,
    "answer_temperatures": (0.7, 1.0),
    "judge": "openai:gpt",
    "learning_rate": 1e-5,
    "epochs": 5,
    "pairs_per_step": 64,
    "warmup_share": 0.2,
    "optimizer": "adamw_8bit",
    "weight_decay": 0.01,
    "max_gradient_norm": 0.5,
    "lora_rank": 64,
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "lora_targets": ("q_proj", "v_proj"),
    "max_prompt_tokens": 100,
    "max_completion_tokens": 100,
    "truncation": "total",
    "completion_rendering": "alone",
    "reference_length_normalised": True,
    "precision": "bf16",
    "seed": 7,
    "evaluations": ("reward", "harness"),
    "evaluate_every_epochs": 2,
    "validate_every_steps": 3,
    "checkpoint_minutes": 3.0,
    "tokens_per_pass": 1000,
    "layout": "packed",
    "compile": "true",
    "zero_stage": 3,
    "gradient_checkpointing": "always",
    "cloned_from": "0123456789abcdef@7",
}
RUNTIME = {"model", "dataset", "negatives_from_rank", "worst_negatives", "pair_every_negative", "holdout_seed"}
RUNTIME |= {
    "evaluations",
    "evaluate_every_epochs",
    "validate_every_steps",
    "checkpoint_minutes",
    "tokens_per_pass",
    "layout",
    "compile",
    "zero_stage",
    "gradient_checkpointing",
}
NEEDED_BY = {
    "r_eps": "mmpo",
    "pairs_per_group": "mmpo",
    "auxiliary": "mmpo",
    "in_batch_normalised": "mmpo",
    "entropy": "mmpo",
    "gamma_over_beta": "simpo",
    "length_normalised": "simpo",
    "gamma": "cpo",
    "sft_weight": "rpo",
    "label_smoothing": "exo_original",
    "desirable_weight": "kto_original",
    "undesirable_weight": "kto_original",
    "negatives": "mc_po",
    "negative_choice": "mc_po",
    "chosen_is_candidate": "mc_po",
    "segments": "on_mc_po",
    "answer_temperatures": "on_mc_po",
    "judge": "on_mc_po",
}
LORA_DETAILS = {"lora_alpha", "lora_dropout", "lora_targets"}


def refusal(values, base=None):
    with pytest.raises(InputError) as caught:
        replace(base or TrialConfig(), values)
    return str(caught.value)


def test_every_field_is_looked_at_here():
    filled_in = {"plugins"}  # by the objective and the judge: tests/mmpo_train/typed/test_plugins.py
    assert set(OTHER_VALUES) | filled_in == {spec.name for spec in dataclasses.fields(TrialConfig)}


@pytest.mark.parametrize("name", sorted(set(OTHER_VALUES) - RUNTIME))
def test_a_field_that_changes_the_result_changes_the_digest(name):
    lora = {"lora_rank": 8} if name in LORA_DETAILS else {}
    length = {"length_normalised": True} if name == "reference_length_normalised" else {}
    base = replace(TrialConfig(), {"objective": NEEDED_BY.get(name, "mmpo")} | lora | length)
    assert replace(base, {name: OTHER_VALUES[name]}).digest != base.digest


@pytest.mark.parametrize("name", sorted(RUNTIME))
def test_a_field_that_changes_only_how_a_trial_runs_leaves_the_digest(name):
    assert replace(TrialConfig(), {name: OTHER_VALUES[name]}).digest == TrialConfig().digest


@pytest.mark.parametrize("objective", OBJECTIVE_FIELDS)
def test_other_objectives_fields_leave_the_digest(objective):
    """Stage 2's beta = 0.1 is stage 1's winner, whatever r_eps the command line had for a DPO trial."""
    base = replace(TrialConfig(), {"objective": objective})
    foreign = {name for names in OBJECTIVE_FIELDS.values() for name in names} - set(OBJECTIVE_FIELDS[objective])
    assert replace(base, {name: OTHER_VALUES[name] for name in foreign}).digest == base.digest


def test_lora_details_leave_the_digest_without_lora():
    changed = replace(TrialConfig(), {name: OTHER_VALUES[name] for name in LORA_DETAILS})
    assert changed.digest == TrialConfig().digest


def test_digest_is_that_of_the_identity_as_sorted_compact_json():
    """Computed here from its parts; pinned, since folders and MLflow tags of years are named by it."""
    text = json.dumps(identity(TrialConfig()), sort_keys=True, separators=(",", ":"))
    assert TrialConfig().digest == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert TrialConfig().digest == "8a740b7460076034"


def test_digest_of_does_not_depend_on_the_order_of_keys():
    assert (
        digest_of({"a": 1, "b": [2, "ä"]}) == digest_of({"b": [2, "ä"], "a": 1}) != digest_of({"a": 1, "b": [2, "a"]})
    )


def test_digest_of_a_whole_number_given_as_a_float_is_the_same():
    """`--learning-rate 1` and `1.0`, `epochs=2` and `2.0`: the same trial."""
    given = [{"max_gradient_norm": 1, "epochs": 2}, {"max_gradient_norm": 1.0, "epochs": 2.0}]
    given.append({"max_gradient_norm": "1", "epochs": "2"})
    assert {replace(TrialConfig(), values).digest for values in given} == {TrialConfig().digest}


def test_config_survives_json():
    config = replace(TrialConfig(), OTHER_VALUES)
    again = from_dict(json.loads(json.dumps(to_dict(config))))
    assert again == config and again.digest == config.digest


def test_config_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrialConfig().beta = 1.0


def test_defaults_are_those_of_the_paper():
    config = TrialConfig()
    assert (config.beta, config.r_eps, config.gamma_over_beta) == (0.1, 0.6, 1.2)
    assert (config.epochs, config.pairs_per_step, config.pairs_per_group) == (2, 128, 8)
    assert (config.warmup_share, config.max_prompt_tokens, config.max_completion_tokens) == (0.1, 1800, 512)
    assert (config.lora_alpha, config.lora_dropout) == (64, 0.01)


def test_all_bad_fields_are_reported_at_once():
    message = refusal({"betta": 1, "epochs": "two", "length_normalised": "perhaps", "seed": True})
    assert "'betta' is not a field of TrialConfig; did you mean 'beta'?" in message
    assert "epochs must be a whole number, got 'two'" in message
    assert "length_normalised must be true or false, got 'perhaps'" in message
    assert "seed must be a whole number, got True" in message


def test_all_values_out_of_range_are_reported_at_once():
    values = {"learning_rate": 0, "epochs": 0, "warmup_share": 1, "zero_stage": 4, "precision": "fp16", "seed": -1}
    message = refusal(values | {"lora_rank": 2, "lora_targets": ()})
    for name in values:
        assert f"\n  {name} must be " in message
    assert "lora_targets must name at least one projection" in message


@pytest.mark.parametrize("name", ["learning_rate", "beta"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "0", "-0.1", math.nan])
def test_learning_rate_and_beta_must_be_finite_and_above_zero(name, value):
    assert f"{name} must be a finite number above 0" in refusal({name: value})


@pytest.mark.parametrize("name", ["r_eps", "gamma_over_beta", "weight_decay", "max_gradient_norm"])
def test_margins_and_regularisers_may_be_zero_but_not_negative_nor_nan(name):
    assert getattr(replace(TrialConfig(), {name: 0}), name) == 0.0
    for value in (-0.1, math.nan, math.inf):
        assert f"{name} must be a finite number of at least 0" in refusal({name: value})


@pytest.mark.parametrize("name", ["warmup_share", "lora_dropout"])
def test_shares_are_from_zero_to_below_one(name):
    assert getattr(replace(TrialConfig(), {name: 0}), name) == 0.0
    for value in (-0.1, 1, math.nan, math.inf):
        assert f"{name} must be at least 0 and below 1" in refusal({name: value})


@pytest.mark.parametrize("value", [-1, 2**32, "1.5", "inf"])
def test_seed_is_one_that_every_random_generator_takes(value):
    """numpy's refuses negative seeds, at the first epoch: too late to be told."""
    assert "seed must be" in refusal({"seed": value})


def test_large_whole_numbers_are_not_rounded():
    assert replace(TrialConfig(), {"tokens_per_pass": 2**53 + 1}).tokens_per_pass == 2**53 + 1


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("beta", "5e-2", 0.05),
        ("epochs", "3", 3),
        ("epochs", "3.0", 3),
        ("length_normalised", "yes", True),
        ("length_normalised", "False", False),
        ("lora_targets", "q_proj, v_proj", ("q_proj", "v_proj")),
        ("dataset", "owner/name:train:test", ("owner/name:train:test",)),
        ("precision", "bf16", "bf16"),
    ],
)
def test_text_of_a_command_line_becomes_the_fields_type(name, text, value):
    converted = getattr(replace(TrialConfig(), {name: text}), name)
    assert converted == value and type(converted) is type(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 2.5), ("epochs", None), ("beta", "a tenth"), ("beta", True), ("model", 3), ("dataset", 5)],
)
def test_ill_typed_values_are_refused_by_name(name, value):
    assert f"{name} must be " in refusal({name: value})


def test_unknown_objective_names_the_nearest():
    assert "objective 'simpoo' is unknown; did you mean 'simpo'?" in refusal({"objective": "simpoo"})


def test_nearest_lists_everything_where_nothing_is_near():
    assert nearest("zzz", ["mmpo", "dpo"]) == "; known are mmpo, dpo"


def test_assignments_are_split_at_the_first_equals_sign():
    assert parse_assignments(["beta=0.2", " model = a=b "]) == {"beta": "0.2", "model": "a=b"}


@pytest.mark.parametrize("text", ["beta", "=0.2", ""])
def test_assignment_without_a_name_or_a_value_is_refused(text):
    with pytest.raises(InputError, match="--set expects FIELD=VALUE"):
        parse_assignments([text])


@pytest.mark.parametrize("module", ["config", "errors", "events", "recipes"])
def test_what_describes_a_trial_imports_no_heavy_library(module):
    """Command lines and drivers build, check and compare trials without torch. A recipe may be named in a folder that
    lies in an object store."""
    tree = ast.parse((Path(config_module.__file__).parent / f"{module}.py").read_text())
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    outside = {name for name in names if name.split(".")[0] not in sys.stdlib_module_names}
    light = {"mmpo_train.config", "mmpo_train.errors"}
    if module == "recipes":
        light |= {"mmpo_train.storage.mirror", "mmpo_train.storage.object_store", "mmpo_train.tiny.recipe"}
    assert outside <= light


def test_noise_belongs_to_the_digest_only_where_there_is_some():
    """So that trials of before the field keep the digest they had: the one pinned above."""
    assert "noise_candidate" not in identity(TrialConfig())
    digests = {replace(TrialConfig(), {"noise_candidate": name}).digest for name in ("none", "added", "only")}
    assert len(digests) == 3 and TrialConfig().digest in digests


ABLATIONS = ("auxiliary", "in_batch_normalised", "length_normalised", "entropy")


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_of_mmpo_belongs_to_the_digest_only_where_it_is_made(name):
    """As the noise; SimPO, whose length normalisation was there from the start, has it in every digest."""
    assert name not in identity(TrialConfig())
    assert identity(replace(TrialConfig(), {name: OTHER_VALUES[name]}))[name] is OTHER_VALUES[name]
    simpo = identity(replace(TrialConfig(), {"objective": "simpo"}))
    assert (name in simpo) == (name == "length_normalised")


def test_ablations_of_mmpo_are_as_many_trials_as_there_are_combinations_of_them():
    choices = [(getattr(TrialConfig(), name), OTHER_VALUES[name]) for name in ABLATIONS]
    digests = {replace(TrialConfig(), dict(zip(ABLATIONS, some))).digest for some in itertools.product(*choices)}
    assert len(digests) == 16


def test_groups_leave_the_digest_where_rewards_are_not_normalised_in_them():
    changed = [{"in_batch_normalised": False, "pairs_per_group": size} for size in (2, 8)]
    assert len({replace(TrialConfig(), values).digest for values in changed}) == 1


@pytest.mark.parametrize(
    ("values", "digest"),
    [
        ({}, "8a740b7460076034"),
        ({"objective": "dpo"}, "36e1db3bcc99d567"),
        ({"objective": "simpo"}, "36cc90a292948a87"),
        ({"objective": "simpo", "length_normalised": True}, "a4756dc2f1c7a57c"),
        ({"objective": "kto_original"}, "69f85e5f8f3c176e"),
        ({"objective": "on_mc_po"}, "8280e1547d5ac41f"),
    ],
)
def test_trials_of_before_a_field_keep_the_digest_they_had(values, digest):
    """Pinned as they were before MMPO's ablations became fields."""
    assert replace(TrialConfig(), values).digest == digest


def test_all_bad_choices_of_candidates_are_reported_at_once():
    values = {"negatives_from_rank": 1, "worst_negatives": -1, "noise_candidate": "some", "holdout_seed": -1}
    message = refusal(values)
    for name in values:
        assert f"\n  {name} must be " in message


@pytest.mark.parametrize("written, meant", [(False, "false"), (True, "true"), ("auto", "auto")])
def test_a_trial_written_when_compile_was_a_switch_opens(written, meant):
    assert from_dict(to_dict(TrialConfig()) | {"compile": written}).compile == meant

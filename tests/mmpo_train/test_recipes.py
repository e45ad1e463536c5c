"""The recipes' numbers, pinned to the paper, and which model gets which."""

import json
import math

import pytest

from mmpo_train.config import TrialConfig, digest_of, replace
from mmpo_train.errors import InputError
from mmpo_train.options import Options, base_config
from mmpo_train.recipes import RECIPES, SETTINGS, find_recipe, recipe_for
from mmpo_train.sft.trial import SFTTrial, change, sft_trial

PAPER = ("smollm2-135m", "smollm2-360m", "llama-3.2-1b", "llama-3-8b")


def options(model, **fields):
    return Options(model=model, **fields)


@pytest.mark.parametrize("name", PAPER)
def test_batch_lengths_and_schedule_are_those_of_appendix_b1(name):
    """Appendix B.1: 2 a device x 16 x 4 devices, 1800 + 512 tokens, 10% warm-up."""
    trial = recipe_for("folder", name)
    assert trial.pairs_per_step == 2 * 16 * 4
    assert (trial.max_prompt_tokens, trial.max_completion_tokens) == (1800, 512)
    assert trial.warmup_share == 0.1
    assert (trial.truncation, trial.completion_rendering) == ("separate", "whole")


@pytest.mark.parametrize("name", ["smollm2-135m", "smollm2-360m"])
def test_smollm2_trains_all_parameters_with_adamw(name):
    """Appendix B.1."""
    trial = recipe_for("folder", name)
    assert (trial.lora_rank, trial.optimizer) == (0, "adamw")


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("llama-3.2-1b", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        ("llama-3-8b", {"q_proj", "k_proj", "v_proj", "o_proj"}),
    ],
)
def test_llamas_train_lora_of_rank_64_with_8_bit_adam(name, targets):
    """Appendix B.1: r = alpha = 64, dropout 0.01; the 8B model on its attention projections alone."""
    trial = recipe_for("folder", name)
    assert (trial.lora_rank, trial.lora_alpha, trial.lora_dropout) == (64, 64, 0.01)
    assert trial.optimizer == "adamw_8bit" and set(trial.lora_targets) == targets


@pytest.mark.parametrize("name", PAPER)
def test_preference_data_is_orca_and_ultrafeedback_for_all_four(name):
    """Section 4.1: 12,359 + 61,135 pairs, in 128s 575 steps an epoch."""
    sources = base_config(options("folder", recipe=name)).dataset
    assert [source.split(":")[0].lower() for source in sources] == [
        "huggingfaceh4/orca_dpo_pairs",
        "huggingfaceh4/ultrafeedback_binarized",
    ]
    assert {source.split(":", 1)[1] for source in sources} == {"train_prefs:test_prefs"}
    assert math.ceil((12_359 + 61_135) / 128) == 575


@pytest.mark.parametrize(
    ("name", "data", "epochs", "learning_rate"),
    [
        ("smollm2-135m", {"HuggingFaceTB/smol-smoltalk"}, 2, 1e-3),
        ("smollm2-360m", {"HuggingFaceTB/smol-smoltalk"}, 2, 1e-3),
        ("llama-3.2-1b", {"HuggingFaceH4/ultrachat_200k", "JunxiongWang/sftdatasetv3"}, 3, 2e-5),
        ("llama-3-8b", {"HuggingFaceH4/ultrachat_200k"}, 1, 2e-5),
    ],
)
def test_instruction_tuning_is_that_of_section_4_1(name, data, epochs, learning_rate):
    """Data and epochs: Section 4.1. The rates are none of the paper's but those that the data's authors published."""
    trial = sft_trial(find_recipe("", name), "folder", {})
    assert {source.split(":")[0] for source in trial.dataset} == data
    assert (trial.epochs, trial.learning_rate, trial.conversations_per_step) == (epochs, learning_rate, 128)
    assert trial.recipe == name


def test_the_authors_llamas_trained_on_three_merged_splits_of_ultrafeedback():
    """195,764 = 12,359 + 3 x 61,135, 1530 steps of 128; SmolLM2 ran on what the paper says."""
    assert 12_359 + 3 * 61_135 == 195_764 and math.ceil(195_764 / 128) == 1530
    for name in ("llama-3.2-1b", "llama-3-8b"):
        sources = base_config(options("folder", recipe=name, settings="author")).dataset
        assert [source.split(":")[1] for source in sources] == ["train_prefs", "train_prefs", "train_sft", "train_gen"]
    for name in ("smollm2-135m", "smollm2-360m"):
        paper, author = (base_config(options("folder", recipe=name, settings=one)) for one in SETTINGS)
        assert paper.dataset == author.dataset


@pytest.mark.parametrize("name", RECIPES)
def test_author_cuts_the_total_renders_turns_alone_with_two_ends_and_groups_the_pairs_of_a_device(name):
    paper, author = (recipe_for("folder", name, settings) for settings in SETTINGS)
    texts = {"truncation": "separate", "completion_rendering": "whole"}
    assert replace(author, {**texts, "pairs_per_group": 8, "reference_length_normalised": False}) == paper
    assert (author.truncation, author.completion_rendering) == ("total", "alone_with_eos")
    assert author.pairs_per_group == 2 and author.reference_length_normalised
    assert author.digest != paper.digest


def test_models_are_recognised_by_hub_id_in_any_case_and_nothing_else():
    for model, name in (
        ("HuggingFaceTB/SmolLM2-135M", "smollm2-135m"),
        ("huggingfacetb/smollm2-360m-instruct", "smollm2-360m"),
        ("meta-llama/Llama-3.2-1B", "llama-3.2-1b"),
        ("princeton-nlp/Llama-3-Base-8B-SFT", "llama-3-8b"),
        ("tiny", "tiny"),
        ("models/SmolLM2-135M", "any"),
        ("somebody/SmolLM2-135M", "any"),
    ):
        assert find_recipe(model).name == name, model
    assert find_recipe("models/mine", "Llama-3-8B").name == "llama-3-8b"


def test_a_tuned_folder_names_its_recipe_and_a_broken_note_none(tmp_path):
    (tmp_path / "sft.json").write_text(json.dumps({"config": {"recipe": "llama-3.2-1b"}}))
    assert find_recipe(str(tmp_path)).name == "llama-3.2-1b"
    for broken in ("{", "[]", '{"config": {"recipe": 3}}'):
        (tmp_path / "sft.json").write_text(broken)
        assert find_recipe(str(tmp_path)).name == "any"


def test_other_models_start_from_the_papers_batch_on_tinys_data():
    assert recipe_for("folder") == replace(TrialConfig(), {"model": "folder"})
    assert base_config(options("folder")).dataset == ("tiny",)
    assert recipe_for("tiny").pairs_per_step == 16


def test_what_the_user_sets_goes_before_the_recipe():
    config = base_config(options("folder", recipe="llama-3-8b", dataset=("p.jsonl",), set=("lora_rank=8",)))
    assert (config.dataset, config.lora_rank, config.lora_alpha) == (("p.jsonl",), 8, 64)


def test_unknown_recipes_and_settings_are_refused():
    with pytest.raises(InputError, match="did you mean 'smollm2-135m'"):
        find_recipe("tiny", "smollm-135m")
    with pytest.raises(InputError, match="--settings 'authors' is unknown; did you mean 'author'"):
        recipe_for("tiny", settings="authors")


def test_every_field_of_a_recipe_exists():
    for recipe in RECIPES.values():
        for settings in SETTINGS:
            recipe_for("folder", recipe.name, settings)
        sft_trial(recipe, "folder", {})


# --- an instruction tuning as a value


def test_an_sft_trials_digest_depends_on_its_result_alone():
    trial = SFTTrial()
    other = {"learning_rate": 1e-4, "epochs": 2, "max_tokens": 9, "turns": "last", "data_fingerprint": "e", "seed": 1}
    digests = {change(trial, {name: value}).digest for name, value in other.items()} | {trial.digest}
    assert len(digests) == len(other) + 1
    same = {"model": "x", "dataset": "y", "recipe": "tiny", "tokens_per_pass": 9, "zero_stage": 3, "layout": "padded"}
    assert change(trial, same).digest == trial.digest != digest_of({})


def test_an_engine_reads_the_trials_own_settings():
    trial = change(SFTTrial(), {"learning_rate": 1e-3, "optimizer": "adamw_8bit", "precision": "bf16", "zero_stage": 3})
    config = trial.engine_config()
    for name in ("learning_rate", "optimizer", "precision", "zero_stage", "max_gradient_norm", "layout", "seed"):
        assert getattr(config, name) == getattr(trial, name)
    assert (config.lora_rank, config.pairs_per_step) == (0, trial.conversations_per_step)


def test_all_bad_fields_of_an_sft_trial_are_named_at_once():
    bad = {"epochs": 0, "turns": "some", "learning_rate": -1, "warmup_share": 1, "optimizer": "sgd"}
    with pytest.raises(InputError) as refused:
        change(SFTTrial(), bad)
    assert all(name in str(refused.value) for name in bad)
    with pytest.raises(InputError, match="'epoch' is not a field of SFTTrial; did you mean 'epochs'"):
        change(SFTTrial(), {"epoch": 1})

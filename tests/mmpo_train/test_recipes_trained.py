"""Every recipe's full path on small models of its architecture: SFT, preference training, resume, merge. Nothing faked.

Real DeepSpeed ZeRO-2 over gloo, LoRA and 8-bit Adam; one group of workers walks all paths.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmpo_train.config import replace, to_dict
from mmpo_train.errors import InputError
from mmpo_train.merge import main as merge_main
from mmpo_train.metric_names import ACCURACY_CURVE
from mmpo_train.recipes import RECIPES, find_recipe, recipe_for
from tests.support.workers import train_jobs

ROPE_32 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
# Heads and key-value heads in the models' own ratios; width 8 a head.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "smollm2-135m": {"heads": 9, "kv": 3, "tied": True, "rope": {"rope_type": "default", "rope_theta": 100_000.0}},
    "smollm2-360m": {"heads": 15, "kv": 5, "tied": True, "rope": {"rope_type": "default", "rope_theta": 100_000.0}},
    "llama-3.2-1b": {"heads": 8, "kv": 2, "tied": True, "rope": ROPE_32},
    "llama-3-8b": {"heads": 8, "kv": 2, "tied": False, "rope": {"rope_type": "default", "rope_theta": 500_000.0}},
}
ADAPTED = {
    "llama-3.2-1b": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "llama-3-8b": {"q_proj", "k_proj", "v_proj", "o_proj"},
}
SAID = (("user", "prompt"), ("assistant", "chosen"))
SMALL_SFT = {
    "conversations_per_step": 8,
    "epochs": 2,
    "max_tokens": 96,
    "precision": "fp32",
    "learning_rate": 1e-3,
    "tokens_per_pass": 300,
}
SMALL = {
    "pairs_per_step": 8,
    "epochs": 2,
    "max_prompt_tokens": 64,
    "max_completion_tokens": 32,
    "precision": "fp32",
    "tokens_per_pass": 512,
    "learning_rate": 1e-3,
}


def test_every_recipe_of_the_paper_has_an_architecture_here():
    assert set(ARCHITECTURES) == set(RECIPES) - {"tiny", "any"}


def base_model(name: str, tokenizer: Any, folder: Path) -> Path:
    """A random model of the recipe's architecture, two layers of it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = ARCHITECTURES[name]
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=8 * shape["heads"],
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv"],
        max_position_embeddings=512,
        rope_parameters=shape["rope"],
        tie_word_embeddings=shape["tied"],
        initializer_range=0.1,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / name)
    return folder / name


def conversations(rows: list[dict], path: Path) -> Path:
    """Twenty-four conversations, every third of two rounds."""
    with path.open("w") as stream:
        for number, (row, other) in enumerate(zip(rows[:24], rows[16:])):
            turns = [row, other][: 2 if number % 3 == 0 else 1]
            said = [(role, turn[column]) for turn in turns for role, column in SAID]
            messages = [{"role": role, "content": text} for role, text in said]
            stream.write(json.dumps({"messages": messages}) + "\n")
    return path


def in_worker(job: dict[str, Any], run: Any) -> dict[str, Any]:
    """One path, in a worker: SFT, its checkpoint prepared, preference training on it; each `whole`, and where asked for
    `cut` in the middle of its second epoch and `resumed`."""
    import torch.distributed as dist

    from mmpo_train.config import from_dict
    from mmpo_train.model.reference import in_process
    from mmpo_train.prepare import identify, materialise

    storage = Path(job["storage"])
    results = {"sft": _ways(job, job["sft_job"], run)}
    dist.barrier()
    answer = storage / "prepared.json"
    if dist.get_rank() == 0:
        checkpoint = results["sft"]["whole"]["finished"][-1][1]
        inputs = identify(replace(from_dict(job["trial"]), {"model": checkpoint}), storage)
        places, _ = materialise(inputs, in_process, lambda what, share: None)
        paths = {name: str(path) for name, path in vars(places).items()}
        answer.write_text(json.dumps([to_dict(inputs.config), paths]))
    dist.barrier()
    config, paths = json.loads(answer.read_text())
    results["preference"] = _ways(job, {"config": config, "places": paths}, run)
    return results | {"config": config, "places": paths}


def _ways(job: dict[str, Any], one: dict[str, Any], run: Any) -> dict[str, Any]:
    from safetensors.torch import load_file

    results = {"whole": run(one)}
    if job["interrupted"]:
        last = results["whole"]["points"][-1][0]
        again = one | {"places": one["places"] | {"trials": one["places"]["trials"] + "-again"}}
        results["cut"] = run(again | {"stop_after_step": last - 1})
        states = Path(again["places"]["trials"]).glob("*/resume/step-*/*.safetensors")
        results["cut"]["state"] = sorted({str(value.dtype) for path in states for value in load_file(path).values()})
        results["resumed"] = run(again)
    return results


def path_jobs(names: Any, tokenizer: Any, rows: list[dict], folder: Path, interrupted: bool) -> list[dict[str, Any]]:
    """A job for each recipe: instruction tuning prepared, the preference trial as the recipe has it, but small."""
    from mmpo_train.sft.prepare import identify_sft, materialise_sft
    from mmpo_train.sft.trial import sft_trial

    chats, pairs = conversations(rows, folder / "chats.jsonl"), folder / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    jobs = []
    for name in names:
        storage = folder / f"runs-{name}"
        model = base_model(name, tokenizer, folder)
        trial = sft_trial(find_recipe("", name), str(model), {**SMALL_SFT, "dataset": str(chats)})
        inputs = identify_sft(trial, storage)
        places, _ = materialise_sft(inputs, lambda what, share: None)
        paths = {place: str(path) for place, path in vars(places).items()}
        jobs.append(
            {
                "call": "tests.mmpo_train.test_recipes_trained",
                "storage": str(storage),
                "places": {"trials": str(folder)},
                "sft_job": {"sft": True, "config": to_dict(inputs.config), "places": paths},
                "trial": to_dict(replace(recipe_for("tuned", name), {**SMALL, "dataset": (str(pairs),)})),
                "interrupted": interrupted,
            }
        )
    return jobs


@pytest.fixture(scope="module")
def paths(tokenizer, preference_rows, tmp_path_factory) -> dict[str, dict[str, Any]]:
    """Recipe -> what came of its path on one worker."""
    folder = tmp_path_factory.mktemp("paths")
    jobs = path_jobs(ARCHITECTURES, tokenizer, preference_rows, folder, interrupted=True)
    return dict(zip(ARCHITECTURES, train_jobs(jobs, workers=1), strict=True))


def losses(result: dict) -> dict[int, float]:
    return {step: metrics["train/loss"] for step, _, metrics in result["points"]}


def checkpoint_of(result: dict) -> Path:
    return Path(result["finished"][-1][1])


def logps(folder: Path, tokens: str) -> np.ndarray:
    """Log-probabilities of the validation pairs, by the model as a folder has it."""
    from mmpo_train.data.tokens import read_table
    from mmpo_train.model.logps import CompletionLogps
    from mmpo_train.model.policy import load_model
    from mmpo_train.model.scoring import model_forward, score_pairs

    table = read_table(Path(tokens), "validation")
    forward = model_forward(CompletionLogps(load_model(folder)), torch.device("cpu"), "fp32")
    return score_pairs(forward, table, range(len(table)), 4096)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_sft_learns_and_its_checkpoint_names_its_recipe(paths, name):
    tuned = paths[name]["sft"]["whole"]
    of_steps = losses(tuned)
    assert list(of_steps) == list(range(1, 7)) and of_steps[6] < of_steps[1]
    assert tuned["points"][-1][2]["validation_curve/loss"] < tuned["points"][2][2]["validation_curve/loss"]
    assert find_recipe(str(checkpoint_of(tuned))).name == name
    assert paths[name]["config"]["model"] == str(checkpoint_of(tuned))


@pytest.mark.parametrize("part", ["sft", "preference"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_interrupted_path_ends_as_an_uninterrupted_one(paths, name, part):
    ways = paths[name][part]
    assert ways["cut"]["error"] == "killed" and not ways["resumed"]["error"]
    assert losses(ways["resumed"]) == losses(ways["whole"])
    ours, theirs = checkpoint_of(ways["resumed"]), checkpoint_of(ways["whole"])
    assert ours != theirs
    for path in theirs.glob("*.safetensors"):
        assert (ours / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_preference_training_moves_the_validation_margin_its_way(paths, name):
    points = paths[name]["preference"]["whole"]["points"]
    curve = [metrics[ACCURACY_CURVE] for _, _, metrics in points if ACCURACY_CURVE in metrics]
    assert curve[-1] >= curve[0]
    folder, tokens = checkpoint_of(paths[name]["preference"]["whole"]), paths[name]["places"]["tokens"]
    before = logps(Path(paths[name]["places"]["model"]), tokens)
    after = logps(folder, tokens)
    assert (after - before)[:, 0].mean() > (after - before)[:, 1].mean()


@pytest.mark.parametrize("name", ADAPTED)
def test_llamas_train_adapters_on_the_papers_projections_with_8_bit_states(paths, name):
    from safetensors.torch import load_file

    folder = checkpoint_of(paths[name]["preference"]["whole"])
    adapter = json.loads((folder / "adapter_config.json").read_text())
    assert (adapter["r"], adapter["lora_alpha"], adapter["lora_dropout"]) == (64, 64, 0.01)
    weights = load_file(folder / "adapter_model.safetensors")
    assert {key.split(".")[-3] for key in weights} == ADAPTED[name]
    assert "torch.uint8" in paths[name]["preference"]["cut"]["state"]


@pytest.mark.parametrize("name", ADAPTED)
def test_merged_adapters_are_a_whole_model_with_the_same_log_probabilities(paths, name, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    checkpoint, merged = checkpoint_of(paths[name]["preference"]["whole"]), tmp_path / "merged"
    merge_main([str(checkpoint), str(merged)])
    assert not (merged / "adapter_config.json").exists()
    _, found = AutoModelForCausalLM.from_pretrained(merged, output_loading_info=True)
    assert not found["missing_keys"] and AutoTokenizer.from_pretrained(merged).chat_template
    tokens = paths[name]["places"]["tokens"]
    assert logps(merged, tokens) == pytest.approx(logps(checkpoint, tokens), abs=2e-4)
    assert np.abs(logps(merged, tokens) - logps(Path(paths[name]["places"]["model"]), tokens)).max() > 0.01


def test_a_merge_refuses_what_it_cannot_merge(paths, tmp_path, capsys):
    whole = checkpoint_of(paths["smollm2-135m"]["preference"]["whole"])
    adapters = checkpoint_of(paths["llama-3-8b"]["preference"]["whole"])
    for arguments, reason in (
        ([whole, tmp_path / "a"], "no LoRA adapters"),
        ([adapters, tmp_path], "exists already"),
        ([tmp_path / "nowhere", tmp_path / "a"], "does not exist"),
    ):
        with pytest.raises(SystemExit):
            merge_main(list(map(str, arguments)))
        assert reason in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_paths_on_two_workers_give_the_losses_of_one(paths, tokenizer, preference_rows, tmp_path):
    """Dropout draws differ from worker to worker, so that LoRA's losses agree in SFT alone."""
    jobs = path_jobs(ARCHITECTURES, tokenizer, preference_rows, tmp_path, interrupted=True)
    for name, result in zip(ARCHITECTURES, train_jobs(jobs, workers=2), strict=True):
        parts = ("sft",) if name in ADAPTED else ("sft", "preference")
        for part in parts:
            assert losses(result[part]["whole"]) == pytest.approx(losses(paths[name][part]["whole"]), rel=2e-4)
        for part in ("sft", "preference"):
            assert losses(result[part]["resumed"]) == losses(result[part]["whole"])


def test_an_unknown_recipe_is_refused():
    with pytest.raises(InputError, match="did you mean 'llama-3-8b'"):
        find_recipe("tiny", "llama3-8b")

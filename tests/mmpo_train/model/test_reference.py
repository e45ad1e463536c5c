"""The reference store: its numbers, and when it is made, reused, made anew and not found."""

import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from mmpo_train.config import replace
from mmpo_train.data.tokens import read_table
from mmpo_train.engines.torch_engine import TorchEngine
from mmpo_train.model.logps import CompletionLogps
from mmpo_train.model.policy import load_model
from mmpo_train.model.reference import ensure_reference, in_process, read_reference, reference_key
from mmpo_train.model.scoring import score_pairs
from mmpo_train.prepare import identify, materialise
from mmpo_train.storage.manifest import DamagedFolder


def silent(what, share):
    """Nobody watches."""


class Counting:
    """`in_process`, counting the shards."""

    def __init__(self):
        self.shards = 0

    def __call__(self, function, work):
        self.shards += len(work)
        return in_process(function, work)


def build(prepared, folder, **options):
    """A store of the session's tokens in `folder`; whether it was built, and in how many shards."""
    counting = Counting()
    places = prepared.places
    built = ensure_reference(folder, places.model, places.tokens, "fp32", 512, counting, **options)
    return built, counting.shards


@pytest.mark.parametrize("split", ["train", "validation"])
def test_store_holds_the_models_own_log_probabilities(prepared, split):
    """Each completion by the unmodified model, alone, in float64."""
    table, stored = read_table(prepared.places.tokens, split), read_reference(prepared.places.reference, split)
    model = AutoModelForCausalLM.from_pretrained(prepared.places.model, dtype=torch.float64).eval()
    expected = np.zeros(stored.shape)
    for pair, (prompt, completions) in enumerate(zip(table.prompts, table.completions, strict=True)):
        for side, completion in enumerate(completions):
            sequence = torch.from_numpy(np.concatenate([prompt, completion]).astype(np.int64))
            with torch.no_grad():
                log_probabilities = model(sequence[None]).logits[0].log_softmax(-1)
            for place in range(len(prompt), len(sequence)):
                expected[pair, side] += log_probabilities[place - 1, sequence[place]].item()
    assert stored.dtype == np.float32 and stored.shape == (len(table), 2)
    np.testing.assert_allclose(stored, expected, rtol=1e-5, atol=1e-4)


def test_an_untrained_policy_has_log_ratios_of_zero(prepared):
    places = prepared.places
    engine = TorchEngine(CompletionLogps(load_model(places.model, config=prepared.config)), prepared.config)
    table = read_table(places.tokens, "train")
    policy = score_pairs(engine.logps, table, range(len(table)), 4096)
    np.testing.assert_allclose(policy, read_reference(places.reference, "train"), atol=1e-3)


def test_any_number_of_shards_gives_the_same_values(prepared, tmp_path, monkeypatch):
    """Three shards and one for the validation pairs, against the session's store of one for each split."""
    monkeypatch.setattr("mmpo_train.model.reference.PAIRS_PER_SHARD", 13)
    assert build(prepared, tmp_path / "store") == (True, 4)
    for split in ("train", "validation"):
        values = read_reference(tmp_path / "store", split)
        np.testing.assert_allclose(values, read_reference(prepared.places.reference, split), atol=1e-3)


def test_shards_cover_each_pair_once_and_nothing_is_made_where_they_fail(prepared, tmp_path, monkeypatch):
    """36 training pairs in shards of 10: the last has 6."""

    def failing(function, work):
        assert [arguments[4:] for arguments in work] == [
            ("train", 0, 10),
            ("train", 10, 20),
            ("train", 20, 30),
            ("train", 30, 36),
            ("validation", 0, 4),
        ]
        raise RuntimeError("a worker was lost")

    places = prepared.places
    monkeypatch.setattr("mmpo_train.model.reference.PAIRS_PER_SHARD", 10)
    with pytest.raises(RuntimeError, match="a worker was lost"):
        ensure_reference(tmp_path / "store", places.model, places.tokens, "fp32", 512, failing)
    assert not list(tmp_path.iterdir())


def test_store_is_built_once_and_then_reused(prepared):
    """By materialising the same inputs again: nothing is tokenised, nothing is scored."""
    counting = Counting()
    before = [path.stat().st_mtime_ns for path in sorted(prepared.storage.rglob("*.parquet"))]
    places, counts = materialise(prepared.inputs, counting, silent)
    assert counting.shards == 0 and (places, counts) == (prepared.places, prepared.counts)
    assert [path.stat().st_mtime_ns for path in sorted(prepared.storage.rglob("*.parquet"))] == before


def test_other_hyper_parameters_share_the_store(prepared):
    """Objective, learning rate, seed of the order and epochs have no part in the reference model's numbers."""
    values = {"objective": "dpo", "learning_rate": 1e-5, "beta": 0.5, "epochs": 5}
    inputs = identify(replace(prepared.config, values), prepared.storage)
    counting = Counting()
    places, _ = materialise(inputs, counting, silent)
    assert counting.shards == 0 and places.reference == prepared.places.reference


def damage(folder):
    path = folder / "train.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("harm", [damage, shutil.rmtree], ids=["damaged", "deleted"])
def test_store_is_built_anew_when_it_is_gone_or_one_bit_has_flipped(prepared, tmp_path, harm):
    folder = tmp_path / "store"
    assert build(prepared, folder) == (True, 2)
    assert build(prepared, folder) == (False, 0)
    expected = read_reference(folder, "train")
    harm(folder)
    with pytest.raises(DamagedFolder):
        read_reference(folder, "train")
    assert build(prepared, folder) == (True, 2)
    assert np.array_equal(read_reference(folder, "train"), expected)


def test_other_weights_do_not_find_the_store(prepared, tmp_path):
    """One weight of the model changed by the smallest step of float32."""
    model = load_model(prepared.places.model)
    folder = shutil.copytree(prepared.places.model, tmp_path / "model")
    with torch.no_grad():
        norm = model.model.norm.weight
        norm[0] = torch.nextafter(norm[0], torch.tensor(10.0))
    model.save_pretrained(folder)
    inputs = identify(replace(prepared.config, {"model": str(folder)}), prepared.storage)
    counting = Counting()
    places, _ = materialise(inputs, counting, silent)
    assert places.reference != prepared.places.reference and counting.shards == 2


def test_other_tokens_do_not_find_the_store(prepared):
    """The same model and data, prompts cut shorter."""
    inputs = identify(replace(prepared.config, {"max_prompt_tokens": 10}), prepared.storage)
    counting = Counting()
    places, counts = materialise(inputs, counting, silent)
    assert places.reference != prepared.places.reference and counting.shards == 2
    assert counts["train"].prompts_cut > 0


def test_another_precision_does_not_find_the_store(prepared):
    inputs = identify(replace(prepared.config, {"precision": "bf16"}), prepared.storage)
    counting = Counting()
    places, _ = materialise(inputs, counting, silent)
    assert places.reference != prepared.places.reference and counting.shards == 2
    rounded, exact = (read_reference(folder.reference, "train") for folder in (places, prepared.places))
    assert not np.array_equal(rounded, exact)
    np.testing.assert_allclose(rounded, exact, rtol=0.2)


def test_key_depends_on_weights_tokens_and_precision(prepared, tmp_path):
    tokens = prepared.places.tokens
    (tmp_path / "manifest.json").write_text('{"sha256": {}}')
    keys = {
        reference_key("w", tokens, "fp32"),
        reference_key("v", tokens, "fp32"),
        reference_key("w", tmp_path, "fp32"),
        reference_key("w", tokens, "bf16"),
    }
    assert len(keys) == 4 and reference_key("w", tokens, "fp32") in keys

"""Models and tokenizers: what is refused and how, what names them, and how weights are exchanged."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from mmpo_train.config import TrialConfig, replace
from mmpo_train.errors import InputError
from mmpo_train.model.folders import fingerprint, local_folder
from mmpo_train.model.policy import load_model, load_tokenizer, load_weights, save_model
from mmpo_train.model.precision import dtype_of, round_weights
from tests.support.models import PACKABLE, SIZES, random_model


@pytest.fixture
def folder(model_folder, tmp_path):
    """A copy of the session's model that may be harmed."""
    return shutil.copytree(model_folder, tmp_path / "model")


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refusal(function, *arguments, **options):
    with pytest.raises(InputError) as caught:
        function(*arguments, **options)
    return str(caught.value)


def logits(model, folder):
    with torch.no_grad():
        return model(load_tokenizer(folder)("Add 1 and 3.", return_tensors="pt").input_ids).logits


# --- where a model comes from


def test_a_folder_is_its_own_place(model_folder):
    assert local_folder(str(model_folder)) == model_folder


def test_a_file_is_refused_with_what_to_give_instead(model_folder):
    message = refusal(local_folder, str(model_folder / "config.json"))
    assert "is a file; give the folder that holds config.json and *.safetensors" in message


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all", "a/b/c"])
def test_a_missing_folder_is_not_looked_for_on_the_hub(name):
    assert "does not exist; give a folder, a hub id (owner/name) or 'tiny'" in refusal(local_folder, name)


def test_a_name_that_is_no_hub_id_is_refused():
    assert "is neither a folder, nor a hub id (owner/name), nor 'tiny'" in refusal(local_folder, "what is this?")


def test_an_unreachable_hub_is_told_in_seconds_with_what_to_do(tmp_path):
    """A real request to a port of this machine on which nobody listens."""
    program = (
        "from mmpo_train.model.folders import local_folder\n"
        "from mmpo_train.errors import InputError\n"
        "try: local_folder('owner/name')\n"
        "except InputError as error: print(error)\n"
    )
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    started = time.monotonic()
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert "model 'owner/name' could not be loaded from the hub" in run.stdout
    assert "check the name and the network" in run.stdout and "give a local folder" in run.stdout
    assert time.monotonic() - started < 30


# --- what a folder must hold


def harm(*names):
    return lambda folder: [(folder / name).unlink(missing_ok=True) for name in names]


def pickle_weights(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def truncate_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def add_a_token(folder):
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens(["<|new|>"])
    tokenizer.save_pretrained(folder)


BAD_TOKENIZERS = {
    "no config": (harm("config.json"), "has no config.json; give a folder written by save_pretrained"),
    "no tokenizer": (harm("tokenizer.json", "tokenizer_config.json"), "has no tokenizer; save it there with"),
    "no chat template": (harm("chat_template.jinja"), "has no chat template.*chat_template.jinja"),
    "broken tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{"), "could not be read"),
    "foreign tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text('{"model": {"type": "New"}, "added_tokens": []}'),
        "could not be read",
    ),
    "more tokens than the model": (add_a_token, r"has \d+ tokens and its model \d+: put the model's own tokenizer"),
    "no eos": (lambda folder: edit(folder / "tokenizer_config.json", eos_token=None), "has no eos_token; set it in"),
}
BAD_MODELS = {
    "no safetensors": (harm("model.safetensors"), "has no model.safetensors.*; pickled weights are not read"),
    "pickled only": (pickle_weights, "has no model.safetensors.*; pickled weights are not read: convert them first"),
    "foreign names": (
        lambda folder: (folder / "model.safetensors").rename(folder / "consolidated.safetensors"),
        "has no model.safetensors.*; pickled weights are not read: convert them first",
    ),
    "truncated": (truncate_weights, "could not be loaded .*incomplete metadata"),
    "no config": (harm("config.json"), "could not be loaded"),
    "unknown architecture": (
        lambda folder: edit(folder / "config.json", model_type="llama9", architectures=["Llama9"]),
        "could not be loaded .*llama9",
    ),
    "another width": (
        lambda folder: edit(folder / "config.json", intermediate_size=80),
        "do not fit its config.json: 6 tensors are missing or of another shape .*mlp",
    ),
    "layers missing": (
        lambda folder: edit(folder / "config.json", num_hidden_layers=3),
        "do not fit its config.json: 9 tensors are missing .*layers.2.*copy the whole folder again",
    ),
}


@pytest.mark.parametrize("case", BAD_TOKENIZERS)
def test_a_tokenizer_that_cannot_be_used_is_refused_with_a_remedy(folder, case):
    spoil, message = BAD_TOKENIZERS[case]
    spoil(folder)
    with pytest.raises(InputError, match=message):
        load_tokenizer(folder)


@pytest.mark.parametrize("case", BAD_MODELS)
def test_a_model_that_cannot_be_used_is_refused_with_a_remedy(folder, case):
    """Missing tensors among them: transformers alone would fill them with random numbers and train on."""
    spoil, message = BAD_MODELS[case]
    spoil(folder)
    with pytest.raises(InputError, match=message):
        load_model(folder)


def test_lora_targets_that_the_model_does_not_have_are_refused(model_folder):
    config = replace(TrialConfig(), {"lora_rank": 4, "lora_targets": ("c_attn",)})
    assert "lora_targets c_attn do not fit this model" in refusal(load_model, model_folder, config=config)


# --- what is loaded


def test_a_model_is_loaded_in_fp32_whatever_its_files_are_in(folder):
    load_model(folder).to(torch.bfloat16).save_pretrained(folder)
    assert {parameter.dtype for parameter in load_model(folder).parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("architecture", "values"),
    [
        ("llama", {"attention_dropout": 0.5, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}),
        ("gpt2", {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5, "n_embd": 16, "n_head": 2}),
    ],
)
def test_a_model_has_no_dropout_of_its_own(tmp_path, architecture, values):
    """Not in training either: the reference is scored without, so log-ratios must begin at 0."""
    sizes = {"vocab_size": 50, "num_hidden_layers": 1, "initializer_range": 0.3}
    AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **sizes | values)).save_pretrained(tmp_path)
    model, ids = load_model(tmp_path).train(), torch.arange(12)[None]
    assert torch.equal(model(ids).logits, model(ids).logits)


def test_lora_begins_as_the_model_itself_and_is_drawn_by_the_seed(model_folder):
    def adapted(seed):
        return load_model(model_folder, config=replace(TrialConfig(), {"lora_rank": 4, "seed": seed}))

    first, again, other = adapted(1), adapted(1), adapted(2)
    torch.testing.assert_close(logits(first.eval(), model_folder), logits(load_model(model_folder), model_folder))
    drawn = [{n: p for n, p in model.named_parameters() if "lora_A" in n} for model in (first, again, other)]
    assert drawn[0] and all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    assert not any(torch.equal(drawn[0][name], drawn[2][name]) for name in drawn[0])
    assert {name.split(".")[-1] for name, p in first.named_parameters() if p.requires_grad} == {"weight"}
    assert all("lora_" in name for name, p in first.named_parameters() if p.requires_grad)


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_a_saved_model_is_loaded_as_it_was(model_folder, tmp_path, lora_rank):
    """Weights, or the adapter with the base model's place."""
    model = load_model(model_folder, config=replace(TrialConfig(), {"lora_rank": lora_rank}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    save_model(model, load_tokenizer(model_folder), tmp_path)
    assert (tmp_path / "adapter_config.json").is_file() == bool(lora_rank)
    again = load_model(tmp_path)
    torch.testing.assert_close(logits(again, model_folder), logits(model.eval(), model_folder))
    assert not torch.allclose(logits(again, model_folder), logits(load_model(model_folder), model_folder))


def test_weights_are_exchanged_in_place(model_folder, folder):
    """Tied input and output embeddings included; a bf16 model stays bf16, its parameters stay where they are."""
    other = load_model(folder)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    other.save_pretrained(folder)
    model = load_model(model_folder)
    places = [parameter.data_ptr() for parameter in model.parameters()]
    load_weights(model, folder)
    assert [parameter.data_ptr() for parameter in model.parameters()] == places
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(logits(model, folder), logits(load_model(folder), folder))


def test_weights_of_another_architecture_are_not_exchanged(folder):
    model = load_model(folder)
    edit(folder / "config.json", num_hidden_layers=1)
    load_model(folder).save_pretrained(folder)
    with pytest.raises(AssertionError, match="do not fit the architecture"):
        load_weights(model, folder)


# --- what names a model


def test_fingerprint_does_not_depend_on_the_folders_place(model_folder, folder, tmp_path):
    cache = tmp_path / "fingerprints.json"
    assert fingerprint(model_folder, cache) == fingerprint(folder, cache)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
)
def test_fingerprint_changes_with_weights_tokenizer_and_template(folder, tmp_path, name):
    before = fingerprint(folder, tmp_path / "cache.json")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(folder / name, ns=(0, 1))
    assert fingerprint(folder, tmp_path / "cache.json") != before


@pytest.mark.parametrize("damage", [lambda text: "", lambda text: text[:-9], lambda text: text.replace("1", "2")])
def test_fingerprint_does_not_depend_on_its_cache(folder, tmp_path, damage):
    cache = tmp_path / "cache.json"
    before = fingerprint(folder, cache)
    cache.write_text(damage(cache.read_text()))
    assert fingerprint(folder, cache) == before


def test_fingerprint_passes_over_what_does_not_make_the_model(folder, tmp_path):
    before = fingerprint(folder, tmp_path / "cache.json")
    for name in ("README.md", "trial.json", "manifest.json", "optimizer.pt"):
        (folder / name).write_text("{}")
    assert fingerprint(folder, tmp_path / "cache.json") == before


def test_files_are_hashed_once(folder, tmp_path, monkeypatch):
    hashed, real = [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda stream, name: hashed.append(stream.name) or real(stream, name))
    cache = tmp_path / "made" / "cache.json"
    first = fingerprint(folder, cache)
    assert len(hashed) == len(set(hashed)) > 3
    hashed.clear()
    assert fingerprint(folder, cache) == first and not hashed
    os.utime(folder / "config.json", ns=(0, 1))
    assert fingerprint(folder, cache) == first and [os.path.basename(name) for name in hashed] == ["config.json"]


# --- how it is loaded


@pytest.mark.parametrize("architecture", [*PACKABLE, "gemma2"])
@pytest.mark.parametrize("kept_in", ["bf16", "fp32"])
def test_weights_read_in_bf16_are_those_read_in_fp32_and_rounded_and_frequencies_are_not(
    architecture, kept_in, tmp_path
):
    extra = {"head_dim": 8} if architecture == "gemma2" else {}
    random_model(architecture, **extra).to(dtype_of(kept_in)).save_pretrained(tmp_path)
    read, rounded = load_model(tmp_path, precision="bf16"), load_model(tmp_path)
    round_weights(rounded, "bf16")
    expected = dict(rounded.named_parameters())
    for name, value in read.named_parameters():
        assert value.dtype == torch.bfloat16 and torch.equal(value, expected[name]), name
    expected = dict(rounded.named_buffers())
    for name, value in read.named_buffers():  # Gemma rounds its embedding's scale itself, wherever it is used
        assert torch.equal(value, expected[name].to(value.dtype)), name
        assert "inv_freq" not in name or value.dtype == torch.float32, name


def test_lora_begins_the_same_on_a_base_read_in_bf16_and_on_one_that_is_rounded(model_folder):
    config = replace(TrialConfig(), {"lora_rank": 2, "precision": "fp32"})
    rounded = load_model(model_folder, config=config)
    round_weights(rounded, "bf16")
    read = load_model(model_folder, config=replace(config, {"precision": "bf16"}))
    round_weights(read, "bf16")
    expected = dict(rounded.named_parameters())
    assert all(torch.equal(value, expected[name]) for name, value in read.named_parameters())


MEASURE = """
import sys
from pathlib import Path
from transformers import LlamaForCausalLM  # noqa: what every process holds
from mmpo_train.config import TrialConfig, replace
from mmpo_train.engines.torch_engine import TorchEngine
from mmpo_train.model.logps import CompletionLogps
from mmpo_train.model.policy import load_model

def held():  # KiB that this process alone has: files that are mapped are shared by all
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0])

config = replace(TrialConfig(), {"lora_rank": 2, "precision": sys.argv[2]})
load_model(Path(sys.argv[3]), config=config)  # peft and what else is imported then
before = held()
engine = TorchEngine(CompletionLogps(load_model(Path(sys.argv[1]), config=config)), config)
print((held() - before) * 1024)
"""


def test_a_frozen_base_is_read_without_a_copy_for_each_worker(model_folder, tmp_path):
    """60 MB of bf16 weights: in bf16 next to nothing is the process's own; in fp32 twice the file is."""
    sizes = SIZES | {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 6, "vocab_size": 12_000}
    config = AutoConfig.for_model("llama", **sizes)
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(tmp_path)
    size = (tmp_path / "model.safetensors").stat().st_size
    assert size > 50e6

    def own(precision):
        words = [sys.executable, "-c", MEASURE, str(tmp_path), precision, str(model_folder)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
        return int(subprocess.run(words, capture_output=True, text=True, env=environment, check=True).stdout)

    assert own("bf16") < 0.25 * size < 1.8 * size < own("fp32")

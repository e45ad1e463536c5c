"""What is hashed is what is loaded: the weights that transformers chooses, and nothing that only lies beside them."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmpo_train.config import TrialConfig, replace
from mmpo_train.errors import InputError
from mmpo_train.model.folders import copy_model, fingerprint, model_files, starting_model, weight_files
from mmpo_train.model.policy import load_model, load_tokenizer, load_weights, save_model
from mmpo_train.storage.manifest import write_folder


@pytest.fixture
def folder(model_folder, tmp_path):
    """A copy of the session's model that may be changed."""
    return shutil.copytree(model_folder, tmp_path / "model")


@pytest.fixture
def adapters(model_folder, tmp_path):
    """LoRA adapters on the session's model, with their tokenizer."""
    model = load_model(model_folder, config=replace(TrialConfig(), {"lora_rank": 4}))
    save_model(model, load_tokenizer(model_folder), tmp_path / "adapters")
    return tmp_path / "adapters"


def in_parts(folder):
    """The folder's weights in several files, as large models have them."""
    model = load_model(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="30KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2 and not (folder / "model.safetensors").exists()


def turned(folder, name):
    """Other weights of the same shapes, in a file of this name."""
    whole = {key: value for path in weight_files(folder) for key, value in load_file(path).items()}
    save_file({key: value.flip(0).contiguous() for key, value in whole.items()}, folder / name)


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("parts", [False, True])
def test_what_lies_beside_the_weights_is_neither_loaded_nor_hashed(folder, tmp_path, parts):
    """Pickles, a consolidated file, an average, parts of another saving: the model and its name stay what they are."""
    if parts:
        in_parts(folder)
    before, loaded = fingerprint(folder, tmp_path / "cache.json"), weights(load_model(folder))
    for name in ("consolidated.safetensors", "ema.safetensors", "model-00001-of-00009.safetensors"):
        turned(folder, name)
    torch.save(load_file(folder / "ema.safetensors"), folder / "pytorch_model.bin")
    (folder / "adapter_model.safetensors").write_bytes((folder / "ema.safetensors").read_bytes())
    assert fingerprint(folder, tmp_path / "cache.json") == before
    assert same(weights(load_model(folder)), loaded)
    model = load_model(folder)
    for parameter in model.parameters():
        parameter.data.zero_()
    load_weights(model, folder)
    assert same(weights(model), loaded)
    (tmp_path / "copy").mkdir()
    copy_model(folder, tmp_path / "copy")
    assert fingerprint(tmp_path / "copy", tmp_path / "cache.json") == before
    assert not (tmp_path / "copy" / "ema.safetensors").exists()


def test_a_template_for_tools_is_part_of_the_model(folder, tmp_path):
    before, further = fingerprint(folder, tmp_path / "cache.json"), folder / "additional_chat_templates"
    further.mkdir()
    (further / "tool_use.jinja").write_text("{{ tools }}")
    (tmp_path / "copy").mkdir()
    copy_model(folder, tmp_path / "copy")
    after, copied = (fingerprint(one, tmp_path / "cache.json") for one in (folder, tmp_path / "copy"))
    assert before != after == copied


def test_one_file_goes_before_parts_and_a_file_named_in_config_json_before_both(folder):
    """As transformers chooses."""
    in_parts(folder)
    turned(folder, "model.safetensors")
    assert [path.name for path in weight_files(folder)] == ["model.safetensors"]
    assert torch.equal(
        weights(load_model(folder))["model.norm.weight"], load_file(folder / "model.safetensors")["model.norm.weight"]
    )
    turned(folder, "other.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": "other.safetensors"}))
    assert [path.name for path in weight_files(folder)] == ["other.safetensors"]
    name = "model.embed_tokens.weight"
    assert torch.equal(weights(load_model(folder))[name], load_file(folder / "other.safetensors")[name])


@pytest.mark.parametrize("name", ["../model.safetensors", "lost.safetensors", "/etc/hostname", "sub/model.safetensors"])
def test_an_index_names_files_beside_it(folder, name):
    (folder / "sub").mkdir()
    for place in (folder.parent, folder / "sub"):
        shutil.copy(folder / "model.safetensors", place)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": name}}))
    for use in (load_model, weight_files, lambda folder: fingerprint(folder, folder.parent / "cache.json")):
        with pytest.raises(InputError, match="index.json names files that are not beside it .*; copy them too"):
            use(folder)


def test_a_folder_of_whole_weights_and_adapters_is_refused_wherever_it_is_used(folder, adapters, tmp_path):
    """Trained with LoRA, the policy had other weights than its reference; without, it had nothing to train."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(adapters / name, folder)
    for use in (
        load_model,
        load_tokenizer,
        lambda folder: starting_model(str(folder)),
        lambda folder: fingerprint(folder, tmp_path / "cache.json"),
    ):
        with pytest.raises(InputError, match="whole model .* and LoRA adapters .*mmpo merge"):
            use(folder)


def test_adapters_alone_are_no_starting_model_and_can_be_judged(adapters):
    with pytest.raises(InputError, match=f"merge {adapters} FOLDER"):
        starting_model(str(adapters))
    assert [path.name for path in weight_files(adapters)] == ["adapter_model.safetensors"]
    assert load_model(adapters)
    (adapters / "adapter_model.safetensors").rename(adapters / "adapter_model.bin")
    with pytest.raises(InputError, match="pickled weights are not read"):
        load_model(adapters)


# --- symbolic links


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer_config.json", "chat_template.jinja", "config.json"])
def test_a_link_out_of_the_folder_is_refused(folder, tmp_path, name):
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    for use in (load_model, load_tokenizer, model_files, lambda folder: fingerprint(folder, tmp_path / "cache.json")):
        with pytest.raises(InputError, match=f"{name} is a symbolic link out of its folder, to .*elsewhere"):
            use(folder)


def test_links_inside_the_folder_and_to_a_hubs_blobs_are_followed(folder, model_folder, tmp_path):
    """A hub's cache holds models--a--b/blobs/HASH and models--a--b/snapshots/COMMIT/NAME -> ../../blobs/HASH."""
    before = fingerprint(folder, tmp_path / "cache.json")
    (folder / "config.json").rename(folder / "config.old")
    (folder / "config.json").symlink_to("config.old")
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(model_folder.iterdir())):
        shutil.copy(path, blobs / f"hash{number}")
        (snapshot / path.name).symlink_to(f"../../blobs/hash{number}")
    (tmp_path / "named").symlink_to(snapshot)
    for place in (folder, snapshot, tmp_path / "named"):
        assert fingerprint(place, tmp_path / "cache.json") == before
        assert load_tokenizer(place) and load_model(place)


def test_links_that_we_made_to_another_models_weights_are_followed(folder, model_folder, tmp_path):
    """As instruction tuning does for a pre-trained model that is lent another one's tokenizer."""

    def fill(staging):
        for path in folder.iterdir():
            if path.name != "model.safetensors":
                shutil.copy(path, staging)
        (staging / "model.safetensors").symlink_to(model_folder / "model.safetensors")

    write_folder(tmp_path / "ours", fill)
    assert same(weights(load_model(tmp_path / "ours")), weights(load_model(model_folder)))
    assert fingerprint(tmp_path / "ours", tmp_path / "cache.json") == fingerprint(folder, tmp_path / "cache.json")
    (tmp_path / "ours" / "tokenizer.json").rename(tmp_path / "elsewhere")
    (tmp_path / "ours" / "tokenizer.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="symbolic link out of its folder"):
        load_tokenizer(tmp_path / "ours")


def test_weights_of_a_checkpoint_that_have_changed_since_are_refused_and_a_changed_template_is_not(
    model_folder, tmp_path
):
    checkpoint = tmp_path / "epoch-0001"
    write_folder(checkpoint, lambda staging: shutil.copytree(model_folder, staging, dirs_exist_ok=True))
    (checkpoint / "chat_template.jinja").write_text("{{ messages[0].content }}")
    before, path = fingerprint(checkpoint, tmp_path / "cache.json"), checkpoint / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="model.safetensors has changed since it was written"):
        fingerprint(checkpoint, tmp_path / "cache.json")
    (checkpoint / "manifest.json").unlink()
    assert fingerprint(checkpoint, tmp_path / "cache.json") != before

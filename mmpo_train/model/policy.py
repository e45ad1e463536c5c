"""Loading, adapting and saving a model. The door to transformers and peft."""

from __future__ import annotations

import json
import os
import shutil
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpo_train.errors import InputError, first_line
from mmpo_train.model.folders import TOKENIZER_FILES, base_of, local_folder, model_files, require_weights, weight_files
from mmpo_train.storage.mirror import address_of
from mmpo_train.tiny.model import train_tokenizer
from mmpo_train.tiny.rows import instruction_examples

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from mmpo_train.config import TrialConfig

_COMPILER = "inductor"
PACKED_ATTENTION = "packed"
"""Its name among transformers' attention implementations."""


def tokenizer_at(model: str, folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model in its folder. That of `tiny` is trained if the folder does not exist yet."""
    return load_tokenizer(folder) if model != "tiny" or folder.is_dir() else _tokenizer_of_tiny()


@cache
def _tokenizer_of_tiny() -> PreTrainedTokenizerBase:
    quieten()
    return train_tokenizer(instruction_examples())


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The folder's tokenizer. Raises InputError where it has none, no chat template, no EOS token, or more tokens than
    its model."""
    quieten()
    from transformers import AutoTokenizer

    if not (folder / "config.json").is_file():
        raise InputError(f"model folder {folder} has no config.json; give a folder written by save_pretrained")
    known = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")
    if not any((folder / name).is_file() for name in known):
        raise InputError(
            f"model folder {folder} has no tokenizer; save it there with tokenizer.save_pretrained({folder.name!r})"
        )
    model_files(folder)  # raises where one of them lies elsewhere
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        config = json.loads((folder / "config.json").read_text())
    except Exception as error:  # tokenizers raises plain Exception
        raise InputError(f"the tokenizer in {folder} could not be read ({first_line(error)}); save it again") from error
    if not tokenizer.chat_template:
        raise InputError(
            f"the tokenizer in {folder} has no chat template, so conversations cannot be rendered; put one into "
            "chat_template.jinja, for example the one of the model's instruction-tuned version"
        )
    if tokenizer.eos_token_id is None:
        raise InputError(f"the tokenizer in {folder} has no eos_token; set it in tokenizer_config.json")
    known_to_model = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
    tokens = max(tokenizer.get_vocab().values()) + 1
    if known_to_model and tokens > known_to_model:
        raise InputError(
            f"the tokenizer in {folder} has {tokens} tokens and its model {known_to_model}: put the model's own "
            f"tokenizer there, or save the model again after model.resize_token_embeddings({tokens})"
        )
    return tokenizer


def load_model(
    folder: Path, *, config: TrialConfig | None = None, precision: str = "fp32", device: torch.device | None = None
) -> PreTrainedModel:
    """The causal language model of a folder in "fp32" or "bf16", without dropout; with `config`, ready to be trained.

    Weights are read in that precision, straight onto the device: files are mapped, not copied, so that the workers of a
    machine share one copy in its memory. `config` says the precision itself and adds LoRA adapters (seeded), on this
    worker's own device. Raises InputError where there are no safetensors weights or the architecture is unknown.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    from mmpo_train.devices import own_device
    from mmpo_train.model.precision import dtype_of

    quieten()
    require_weights(folder)
    if config is not None:
        precision, device = config.precision, device or own_device()
    base = base_of(folder)
    whole = local_folder(base) if base else folder
    require_weights(whole)
    model_files(whole)  # raises where one of them lies elsewhere
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            whole,
            dtype=dtype_of(precision),
            device_map=None if device is None or device.type == "cpu" else {"": device},
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (ValueError, OSError, KeyError, ImportError, SafetensorError) as error:
        raise InputError(f"the model in {folder} could not be loaded ({first_line(error)})") from error
    model, found = loaded
    if base:
        model.load_adapter(str(folder))
    # Transformers would fill these with random numbers and continue.
    unfilled = sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])})
    if unfilled:
        raise InputError(
            f"the weights in {folder} do not fit its config.json: {len(unfilled)} tensors are missing or of another "
            f"shape ({', '.join(unfilled[:3])}); copy the whole folder again"
        )
    _remove_dropout(model)
    use_packed_attention(model)
    if config is not None and config.lora_rank:
        model = _with_lora(model, config)
    return model


def use_packed_attention(model: Any) -> None:
    """Make a model use `attention.packed_attention`, if its architecture allows the choice. Without a packing its
    attention is as before."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(PACKED_ATTENTION, _attention())
    AttentionMaskInterface.register(PACKED_ATTENTION, sdpa_mask)
    # A model without SDPA, or one that needs eager attention, keeps its attention and is never packed.
    if getattr(model.config, "_attn_implementation", None) == "sdpa":
        model.set_attn_implementation(PACKED_ATTENTION)


def _attention() -> Any:
    from functools import partial

    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    from mmpo_train.model.attention import packed_attention

    return partial(packed_attention, otherwise=sdpa_attention_forward)


def _remove_dropout(model: PreTrainedModel) -> None:
    """Set every dropout of the model to 0, in its modules, since they have read the configuration already."""
    from torch.nn import Dropout

    for module in model.modules():
        for name, value in list(vars(module).items()):
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
        if isinstance(module, Dropout):
            module.p = 0.0


def compile_layers(model: Any, wanted: bool) -> None:
    """Compile a model's layers, or undo it. Layer by layer, for rows of any length: all layers share the code, and
    a new length compiles nothing. Attention is not compiled: its pieces differ from pass to pass."""
    import torch
    from transformers import AttentionInterface
    from transformers.modeling_layers import GradientCheckpointingLayer

    if wanted:
        AttentionInterface.register(PACKED_ATTENTION, torch.compiler.disable(_attention()))
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            if wanted:
                module.compile(dynamic=True, backend=_COMPILER)
            else:
                module._compiled_call_impl = None


def _with_lora(model: PreTrainedModel, config: TrialConfig) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(config.seed)
    adapter = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=list(config.lora_targets),
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, adapter)
    except ValueError as error:
        raise InputError(
            f"lora_targets {', '.join(config.lora_targets)} do not fit this model: {first_line(error)}"
        ) from error


def save_model(
    model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, state: dict[str, torch.Tensor] | None = None
) -> None:
    """Save weights (or adapters) as safetensors, with tokenizer and template; `state` replaces the model's weights."""
    model.save_pretrained(folder, state_dict=state, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    described = folder / "adapter_config.json"
    if described.is_file():
        adapters = json.loads(described.read_text())
        base = Path(adapters["base_model_name_or_path"] or "")
        if address := address_of(base):  # where it lies on this node says nothing to another one
            described.write_text(json.dumps(adapters | {"base_model_name_or_path": address}, indent=2))


def merge_adapters(checkpoint: Path, target: Path, base: Path | None = None, precision: str = "fp32") -> None:
    """Write a full model W + (lora_alpha / lora_rank) B A and its tokenizer to `target`, from a checkpoint of adapters.

    The sum is computed in fp32 and saved in `precision`. `base` is the adapted model, if it is not where the checkpoint
    says. Raises InputError if there are no adapters, or no such model.
    """
    import torch

    if not (checkpoint / "adapter_config.json").is_file() or not weight_files(checkpoint):
        raise InputError(f"{checkpoint} holds no LoRA adapters (adapter_config.json), so there is nothing to merge")
    adapted = base or local_folder(base_of(checkpoint))
    from peft import PeftModel

    merged: Any = PeftModel.from_pretrained(load_model(adapted), str(checkpoint)).merge_and_unload()
    if precision == "bf16":
        merged = merged.to(torch.bfloat16)
    has_own = any((checkpoint / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    for path in {path for pattern in TOKENIZER_FILES for path in (checkpoint if has_own else adapted).glob(pattern)}:
        shutil.copy(path, target / path.name)
    merged.save_pretrained(target, safe_serialization=True)


def load_weights(model: PreTrainedModel, folder: Path) -> None:
    """Replace a model's weights by those of another checkpoint of the same architecture, in place."""
    from safetensors.torch import load_file

    state = {name: value for path in require_weights(folder) for name, value in load_file(path).items()}
    result = model.load_state_dict(state, strict=False)
    tied = set(model.all_tied_weights_keys)
    unknown = [*result.unexpected_keys, *(name for name in result.missing_keys if name not in tied)]
    assert not unknown, f"weights that do not fit the architecture: {unknown[:5]}"
    model.tie_weights()


def import_transformers() -> None:
    """Import what loading a model and its tokenizer needs, for the processes that are forked from this one."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig  # noqa: F401
    from transformers.integrations import sdpa_attention  # noqa: F401

    quieten()


def quieten() -> None:
    """Switch off progress bars and advice of transformers and what it imports; the program has its own."""
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed, where installed, announces what it found
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()

"""The inputs of instruction tuning, made from what the user named: the pre-trained model, the conversations as
tokens."""

import json
import shutil
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mmpo_train.config import digest_of
from mmpo_train.data.rendering import check_template
from mmpo_train.data.tokens import ensure_tokens, read_counts, write_counts
from mmpo_train.errors import InputError
from mmpo_train.events import Say
from mmpo_train.model.folders import (
    TOKENIZER_FILES,
    fingerprint,
    for_all_nodes,
    local_folder,
    starting_model,
    weight_files,
)
from mmpo_train.model.policy import load_tokenizer, quieten, tokenizer_at
from mmpo_train.sft.data import ChatData, load_chats
from mmpo_train.sft.tokens import ChatCount, chats_key, encode_chats, write_split
from mmpo_train.sft.trial import SFTTrial, change
from mmpo_train.storage.manifest import seal, stage
from mmpo_train.storage.mirror import ensure, ensure_once
from mmpo_train.tiny.model import build_untrained
from mmpo_train.tiny.recipe import fingerprint as tiny_fingerprint
from mmpo_train.trial.places import Places


@dataclass(frozen=True)
class SFTInputs:
    """Model and data of an instruction tuning, named by content."""

    config: SFTTrial
    """The trial, fingerprints included."""
    data: ChatData
    model_folder: Path
    storage: Path
    counts: dict[str, ChatCount] = field(default_factory=dict, compare=False)
    """What tokenisation has counted, by split; empty until then."""

    @property
    def tokens(self) -> Path:
        """Folder of the token tables, whether it exists or not."""
        trial = self.config
        key = chats_key(trial.data_fingerprint, trial.model_fingerprint, trial.max_tokens, trial.turns)
        return self.storage / "tokens" / key


def identify_sft(trial: SFTTrial, storage: Path, *, strict: bool = False, drop_bad_rows: bool = False) -> SFTInputs:
    """The inputs, after finding the model and reading the data. Raises InputError for a problem with either."""
    if trial.model == "tiny":
        name = f"tiny-untrained-{tiny_fingerprint()}"
        model_folder, model_fingerprint = storage / "models" / name, name
    else:
        model_folder = starting_model(trial.model)
        if trial.tokenizer_of and not _has_template(model_folder):
            model_folder = _with_tokenizer(model_folder, local_folder(trial.tokenizer_of, TOKENIZER_FILES), storage)
        check_template(load_tokenizer(model_folder))
        model_fingerprint = fingerprint(model_folder, storage / "fingerprints.json")
    data = load_chats(trial.dataset, trial.validation_conversations, strict=strict, drop_bad_rows=drop_bad_rows)
    named = {"model_fingerprint": model_fingerprint, "data_fingerprint": data.fingerprint}
    return SFTInputs(change(trial, named), data, model_folder, storage)


def _has_template(folder: Path) -> bool:
    settings = folder / "tokenizer_config.json"
    inside = settings.is_file() and json.loads(settings.read_text()).get("chat_template")
    return bool(inside) or (folder / "chat_template.jinja").is_file()


def _with_tokenizer(model: Path, other: Path, storage: Path) -> Path:
    """The folder of a pre-trained model's weights with another model's tokenizer, template and EOS. This is how the
    paper gets a chat template for SmolLM2 (Section 4.1). Raises InputError if the vocabularies differ."""
    cache = storage / "fingerprints.json"
    name = f"{model.name}-{digest_of([fingerprint(model, cache), fingerprint(other, cache)])}"
    target = storage / "models" / name

    def fill(staging: Path) -> None:
        for path in {path for pattern in TOKENIZER_FILES for path in other.glob(pattern)}:
            shutil.copy(path, staging / path.name)
        config = json.loads((model / "config.json").read_text())
        (staging / "config.json").write_text(json.dumps(config, indent=1))
        try:
            tokenizer = load_tokenizer(staging)
        except InputError as error:
            raise InputError(
                f"the tokenizer of {other} does not fit {model}: {error}; name one with the same vocabulary by --set "
                "tokenizer_of=…"
            ) from error
        config |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        (staging / "config.json").write_text(json.dumps(config, indent=1))
        for path in (*weight_files(model), *model.glob("*.safetensors.index.json")):
            (staging / path.name).symlink_to(path.resolve())

    ensure(target, fill)
    return target


def materialise_sft(inputs: SFTInputs, say: Say) -> tuple[Places, dict[str, ChatCount]]:
    """Places of model and token tables, made if missing or damaged, and how much tokenisation cut."""
    trial, storage, model = inputs.config, inputs.storage, inputs.model_folder
    counts, tokens = count_chat_tokens(inputs, say), inputs.tokens
    if trial.model == "tiny":
        quieten()
        ensure_once(model, build_untrained)
    model = for_all_nodes(model, trial.model, storage, say)
    unused = storage / "reference"  # instruction tuning reads no reference log-probabilities
    return Places(model, tokens, unused, unused, storage / "trials"), counts


def count_chat_tokens(inputs: SFTInputs, say: Say, *, keep: bool = True) -> dict[str, ChatCount]:
    """How much tokenisation cuts, as `prepare.count_tokens` returns it."""
    folder = inputs.tokens
    if keep:
        return ensure_tokens(folder, ChatCount, lambda: _write_tokens(inputs, folder), say)
    known = read_counts(folder, ChatCount)
    if known is None:
        say("tokenising", 0.0)
        known = _tokenise(inputs, lambda split, encoded: deque(encoded, maxlen=0))
    return known


def _write_tokens(inputs: SFTInputs, folder: Path) -> dict[str, ChatCount]:
    staging = stage(folder)
    counts = _tokenise(inputs, partial(write_split, staging))
    write_counts(staging, counts)
    seal(staging, folder)
    return counts


def _tokenise(inputs: SFTInputs, take: Callable[[str, Iterable[Any]], object]) -> dict[str, ChatCount]:
    """What was kept and cut; `take` receives each split's encoded conversations as they come."""
    trial, tokenizer = inputs.config, tokenizer_at(inputs.config.model, inputs.model_folder)
    counts = {split: ChatCount() for split in ("train", "validation")}
    for split, count in counts.items():
        chats = inputs.data.conversations(split)
        take(split, encode_chats(chats, tokenizer, trial.max_tokens, trial.turns, count))
        if not count.kept:
            raise InputError(f"no {split} conversation is left after tokenisation:\n" + "\n".join(count.lines(split)))
    return counts

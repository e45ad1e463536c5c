"""The inputs of trials, made from what the user named: starting model, token tables, reference store.

`identify` is cheap and does not import torch: it parses the data and names everything by content. `materialise` makes
what is missing; everything that it makes is kept and found again by that name.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmpo_train.config import NEEDS_UNRELATED, TrialConfig, replace
from mmpo_train.data.preferences import PreferenceData, load_preferences
from mmpo_train.data.rendering import Tokenizer, check_template
from mmpo_train.data.rows import PreferenceExample
from mmpo_train.data.templates import EncodedExample, Encoding
from mmpo_train.data.tokens import CutCount, ensure_tokens, read_counts, tables_key, tokenise, write_tables
from mmpo_train.errors import InputError
from mmpo_train.events import Say
from mmpo_train.model.folders import fingerprint, for_all_nodes, starting_model
from mmpo_train.model.policy import load_tokenizer, tokenizer_at
from mmpo_train.model.reference import UNRELATED, MapShards, ensure_reference, reference_key
from mmpo_train.storage.manifest import MANIFEST, lock
from mmpo_train.storage.mirror import ensure_once
from mmpo_train.tiny.recipe import fingerprint as tiny_fingerprint
from mmpo_train.trial.places import Places


@dataclass(frozen=True)
class Inputs:
    """The inputs that the trials of a sweep share, named by content."""

    config: TrialConfig
    """The base config with its fingerprints filled in."""
    data: PreferenceData
    model_folder: Path
    storage: Path
    counts: dict[str, CutCount] = field(default_factory=dict, compare=False)
    """What tokenisation has counted, by split; empty until then."""

    @property
    def tokens(self) -> Path:
        """Folder of the token tables, whether it exists or not."""
        config = self.config
        key = tables_key(config.data_fingerprint, config.model_fingerprint, Encoding.of(config))
        return self.storage / "tokens" / key

    @property
    def most_completions(self) -> int:
        """The most completions that a training prompt has in the data."""
        return max(self.data.audit.completions_per_prompt, default=2)


def identify(config: TrialConfig, storage: Path, *, strict: bool = False, drop_bad_rows: bool = False) -> Inputs:
    """The inputs, after finding the model and reading the data. Raises InputError for a problem with either."""
    if config.model == "tiny":
        model_fingerprint = f"tiny-{tiny_fingerprint()}"
        model_folder = storage / "models" / model_fingerprint
    else:
        model_folder = starting_model(config.model)
        check_template(load_tokenizer(model_folder))
        model_fingerprint = fingerprint(model_folder, storage / "fingerprints.json")
    data = load_preferences(
        config.dataset,
        strict=strict,
        drop_bad_rows=drop_bad_rows,
        seed=config.holdout_seed,
        negatives_from_rank=config.negatives_from_rank,
        worst_negatives=config.worst_negatives,
        pair_every_negative=config.pair_every_negative,
    )
    if len(data.train) < config.pairs_per_step:
        raise InputError(
            f"{', '.join(config.dataset)} has {len(data.train)} training prompts, fewer than the "
            f"{config.pairs_per_step} of one step; give more data, or for example "
            f"--set pairs_per_step={max(1, len(data.train) // 8)}\n" + "\n".join(data.audit.lines())
        )
    named = {"model_fingerprint": model_fingerprint, "data_fingerprint": data.fingerprint}
    return Inputs(replace(config, named), data, model_folder, storage)


def materialise(inputs: Inputs, map_shards: MapShards, say: Say) -> tuple[Places, dict[str, CutCount]]:
    """Places of model, token tables and reference store, and how much tokenisation cut.

    What is missing or damaged is made. `map_shards` runs the reference model, in this process or in parallel. With an
    object store all of it is uploaded, and downloaded if another machine has made it.
    """
    config, storage = inputs.config, inputs.storage
    counts, tokens = count_tokens(inputs, say), inputs.tokens
    build_starting_model(inputs, say)
    model = for_all_nodes(inputs.model_folder, config.model, storage, say)
    reference = reference_folder(inputs)
    with lock(reference):
        say("reference log-probabilities", 0.0)
        work = model, tokens, config.precision, config.tokens_per_pass, map_shards
        ensure_reference(reference, *work)
        unrelated = reference.with_name(f"{reference.name}-{UNRELATED}")
        if config.objective in NEEDS_UNRELATED:
            ensure_reference(unrelated, *work, splits=(UNRELATED,))
    return Places(model, tokens, reference, unrelated, storage / "trials"), counts


def reference_folder(inputs: Inputs) -> Path:
    """Folder of the reference store of these inputs, whose model and token tables exist, whether it exists or not."""
    weights = fingerprint(inputs.model_folder, inputs.storage / "fingerprints.json")
    return inputs.storage / "reference" / reference_key(weights, inputs.tokens, inputs.config.precision)


def has_reference(inputs: Inputs) -> bool:
    """Whether the reference log-probabilities of these inputs exist."""
    made = inputs.tokens / MANIFEST, inputs.model_folder
    return all(path.exists() for path in made) and reference_folder(inputs).is_dir()


def build_starting_model(inputs: Inputs, say: Say) -> None:
    """Make `tiny` where it is asked for and this machine has not made it yet."""
    if inputs.config.model == "tiny":
        if not inputs.model_folder.is_dir():
            say("making the model tiny", 0.0)  # or waiting for another process that does
        from mmpo_train.sft.tiny import build_tiny  # imports torch

        ensure_once(inputs.model_folder, lambda staging: build_tiny(staging, say))


def tokenizer_of(inputs: Inputs) -> Tokenizer:
    """The tokenizer of the starting model, before the model itself is loaded, or made if it is `tiny`."""
    return tokenizer_at(inputs.config.model, inputs.model_folder)


def count_tokens(inputs: Inputs, say: Say, *, keep: bool = True) -> dict[str, CutCount]:
    """How much tokenisation cuts, without loading the model; the token tables are written if they are to be kept.
    Raises InputError if too few examples are left."""
    folder = inputs.tokens
    if keep:
        return ensure_tokens(folder, CutCount, lambda: _write_tables(inputs, folder, say), say)
    return read_counts(folder, CutCount) or _tokenise(inputs, say)[1]


def _write_tables(inputs: Inputs, folder: Path, say: Say) -> dict[str, CutCount]:
    rows, counts = _tokenise(inputs, say)
    write_tables(folder, rows, counts)
    return counts


def _tokenise(inputs: Inputs, say: Say) -> tuple[dict[str, list[EncodedExample]], dict[str, CutCount]]:
    say("tokenising", 0.0)
    config, tokenizer = inputs.config, tokenizer_of(inputs)
    rows, counts = {}, {}
    for split, examples in (("train", inputs.data.train), ("validation", inputs.data.validation)):
        how = Encoding.of(config)
        how = how if split == "train" else how._replace(noise_candidate="none")
        rows[split], counts[split] = tokenise(_told(examples, split, say), tokenizer, how)
        needed = config.pairs_per_step if split == "train" else 1
        if len(rows[split]) < needed:
            raise InputError(
                f"{len(rows[split])} of {len(examples)} {split} prompts are left after tokenisation, {needed} are "
                "needed:\n" + "\n".join(counts[split].lines(split))
            )
    return rows, counts


def _told(examples: Sequence[PreferenceExample], split: str, say: Say) -> Iterator[PreferenceExample]:
    """The examples, while it is said how many have been taken."""
    for taken, example in enumerate(examples):
        if taken % 256 == 0:
            say(f"tokenising {split}", taken / len(examples))
        yield example

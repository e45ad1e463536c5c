"""One training run as a value: its model, data, objective and hyper-parameters.

Standard library only, so that command lines and drivers can build, check and compare trials without torch.
"""

import dataclasses
import difflib
import hashlib
import json
import math
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from mmpo_train.errors import InputError

ConfigType = TypeVar("ConfigType")

# The hyper-parameters each objective reads. A field outside its objective's row changes nothing, so the trial's
# digest leaves it out.
OBJECTIVE_FIELDS: dict[str, tuple[str, ...]] = {
    "mmpo": (
        *("beta", "r_eps", "pairs_per_group", "auxiliary", "in_batch_normalised", "length_normalised"),
        *("reference_length_normalised", "entropy"),
    ),
    "dpo": ("beta",),
    "simpo": ("beta", "gamma_over_beta", "length_normalised"),
    "rpo": ("beta", "sft_weight"),
    "rpo_trl": ("beta", "sft_weight"),
    "exo": ("beta",),
    "exo_original": ("beta", "label_smoothing"),
    "cpo": ("beta", "gamma", "sft_weight"),
    "cpo_original": ("beta", "sft_weight"),
    "bco": ("beta",),
    "bco_original": ("beta",),
    "kto": ("beta",),
    "kto_original": ("beta", "desirable_weight", "undesirable_weight"),
    "apo": ("beta",),
    "apo_zero": ("beta",),
    "apo_down": ("beta",),
    "sppo": ("beta",),
    "nca": ("beta",),
    "rnce": ("beta", "negatives"),
    "mc_po": ("beta", "negatives", "negative_choice", "chosen_is_candidate"),
    "on_mc_po": (
        *("beta", "negatives", "negative_choice", "chosen_is_candidate"),
        *("segments", "answer_temperatures", "judge"),
    ),
    "online_dpo": ("beta", "segments", "answer_temperatures", "judge"),
}
ONLINE_OBJECTIVES = ("on_mc_po", "online_dpo")
"""Objectives that train on the policy's own answers, ranked by a judge."""
NEEDS_UNRELATED = ("kto", "kto_original")
"""Objectives that estimate their reference point from completions of other prompts."""
EVALUATIONS: tuple[str, ...] = ("reward", "harness", "alpaca", "arena")
PLUGGED: dict[tuple[str, str], str] = {}
"""("objective" or "judge", name) -> the plug-in that has it, as a trial's field `plugins` names it."""
_ANY_OBJECTIVE_FIELDS = frozenset(name for names in OBJECTIVE_FIELDS.values() for name in names)
_LATER_FIELDS = {
    **dict.fromkeys(("noise_candidate", "plugins", "truncation", "completion_rendering"), tuple(OBJECTIVE_FIELDS)),
    **dict.fromkeys(("auxiliary", "in_batch_normalised", "length_normalised", "entropy"), ("mmpo",)),
    "reference_length_normalised": ("mmpo",),
    "chosen_is_candidate": ("mc_po", "on_mc_po"),
}
"""Field -> the objectives that had been trained before the field existed. The digest leaves the field out while it has
its default value, so that older trials keep their digest."""

LAYOUTS = ("shared", "packed", "padded")
FINGERPRINTS = ("model_fingerprint", "data_fingerprint")
"""Fields that are filled in when a trial is prepared."""

TRIAL, SFT = "trial.json", "sft.json"
"""The file that describes a folder of a preference training, and that of an instruction tuning."""


def runtime(default: Any) -> Any:
    """A field that changes how a trial runs and not its result, so that the digest leaves it out."""
    return field(default=default, metadata={"runtime": True})


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """Everything that determines one training run. Defaults are the paper's (Section 4.1, Appendix B.1)."""

    model: str = runtime("tiny")
    """Starting model: `tiny`, a folder, or a hub id. `model_fingerprint` identifies its content."""
    model_fingerprint: str = ""
    """SHA-256 of the starting model's weights, tokenizer and chat template; filled in when the trial is prepared."""
    dataset: tuple[str, ...] = runtime(("tiny",))
    """Preference data: files, folders or hub ids, each `SOURCE[#CONFIG][:TRAIN_SPLIT[:VALIDATION_SPLIT]]`."""
    data_fingerprint: str = ""
    """SHA-256 of the examples, in order; filled in when the trial is prepared."""
    negatives_from_rank: int = runtime(3)
    """Best rank that a negative may have. 3 drops the answers of rank 2, as the MC-PO paper does with Nectar."""
    worst_negatives: int = runtime(0)
    """Keep only this many negatives of each ranked training prompt, those of the lowest rank; 0 keeps all (MC-PO paper,
    Figure 2)."""
    pair_every_negative: bool = runtime(False)
    """Train on every negative of a prompt as a pair of its own, which takes as many times the steps (MC-PO paper,
    Section 5.4: the augmented data)."""
    noise_candidate: str = "none"
    """Use the chosen completion with two tokens swapped as a negative: none, added (beside the others) or only (MC-PO
    paper, Section 5.4)."""
    holdout_seed: int = runtime(42)
    """Seed of the hold-out split of sources without a validation split, and of the rejected completion of each
    validation pair. Like this whole group it changes the digest through `data_fingerprint`."""

    objective: str = "mmpo"
    """Name of the objective, a key of OBJECTIVE_FIELDS."""
    beta: float = 0.1
    """Weight of the reference log-probabilities (MMPO), of the log-ratios (DPO and similar objectives) or of the
    log-probabilities (SimPO, CPO). Objectives of the MC-PO paper start from 0.01."""
    r_eps: float = 0.6
    """MMPO's target reward of the chosen completion; the target of a rejected one is 0.1 (Listing 1)."""
    gamma_over_beta: float = 1.2
    """SimPO's target margin gamma, divided by beta."""
    length_normalised: bool = False
    """Use the mean instead of the sum of token log-probabilities. SimPO: as in SimPO's own paper, while MMPO's Eq. 8
    has sums. MMPO: the policy's log-probabilities, an ablation of Section 5."""
    reference_length_normalised: bool = False
    """With length_normalised, MMPO divides the reference's log-probabilities too, as the paper's author did."""
    pairs_per_group: int = 8
    """Number of consecutive pairs over which MMPO normalises rewards (the paper: 2 per device on 4 devices)."""
    auxiliary: bool = True
    """Keep MMPO's DPO-style term. Without it the loss is the log-sum-exp alone (Section 5)."""
    in_batch_normalised: bool = True
    """Scale MMPO's rewards to (0, 1] within their group. Without it they stay in nats (Section 5)."""
    entropy: bool = False
    """Add beta times the policy's entropy to MMPO's reward, with the gradient of Appendix B.2 (Section 5)."""
    gamma: float = 10.0
    """CPO's target margin, not scaled by beta (MC-PO paper, Table 5)."""
    sft_weight: float = 0.1
    """Weight lambda of the chosen completion's likelihood in RPO and CPO."""
    label_smoothing: float = 1e-3
    """Probability that a preference label is wrong, in exo_original (Ji et al. 2024)."""
    desirable_weight: float = 1.0
    """Weight lambda_D in kto_original."""
    undesirable_weight: float = 1.0
    """Weight lambda_U in kto_original."""
    negatives: int = 1
    """Number M of dispreferred completions per prompt and step in RNCE and MC-PO; fewer if the prompt has fewer."""
    negative_choice: str = "kernel"
    """How MC-PO chooses them: kernel draws from the Monte Carlo kernel (Algorithm 1), max and min take those with the
    largest or smallest weight (Section 5.3)."""
    chosen_is_candidate: bool = False
    """Let MC-PO draw the chosen completion too, as Algorithm 1 writes it (w_0). Drawn, it teaches nothing. Without it
    the negatives alone are candidates."""
    segments: int = 3
    """Number of equal phases of online training. Each trains on answers of the policy with which it starts."""
    answer_temperatures: tuple[float, ...] = (0.6, 0.6, 0.8, 0.8, 1.0, 1.0)
    """Online training: the policy answers each prompt once at each of these temperatures."""
    judge: str = "tiny"
    """Online training: the judge that ranks the answers, `tiny` (the program that marks tiny's answers), openai:MODEL
    or anthropic:MODEL, the last two with @URL for another endpoint of their protocol."""

    learning_rate: float = 5e-5
    """Peak learning rate."""
    epochs: int = 2
    """Passes over the training pairs."""
    pairs_per_step: int = 128
    """Pairs in one optimiser step, over all workers (the paper: 2 x 16 x 4)."""
    warmup_share: float = 0.1
    """Share of all steps in which the learning rate rises linearly; after them it falls to 0 as a cosine."""
    optimizer: str = "adamw"
    """adamw or adamw_8bit (bitsandbytes)."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    max_gradient_norm: float = 1.0
    """Clip gradients to this global 2-norm; 0 does not clip."""

    lora_rank: int = 0
    """Rank of LoRA adapters; 0 trains all parameters."""
    lora_alpha: int = 64
    """LoRA's scale is lora_alpha / lora_rank."""
    lora_dropout: float = 0.01
    """Dropout on the input of LoRA adapters."""
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Names of the projections that get adapters."""

    max_prompt_tokens: int = 1800
    """Longest prompt in tokens; longer ones are cut on the left."""
    max_completion_tokens: int = 512
    """Longest completion in tokens; longer ones are cut on the right and lose their end-of-sequence token."""
    truncation: str = "separate"
    """separate applies both limits; total cuts a completion only if prompt and completion together exceed the sum of
    the limits, as the paper's author ran it."""
    completion_rendering: str = "whole"
    """whole cuts prompt and completion from one rendering of the conversation. alone lets the template render the
    assistant's turn by itself and scores its header too. alone_with_eos also scores what the template prints behind its
    closing token and one more end-of-sequence token, as the paper's author ran it."""
    precision: str = "auto"
    """fp32, bf16 (weights and activations; sums stay in fp32) or auto (bf16 if the hardware has it, else fp32)."""
    seed: int = 42
    """Seed of the order of the pairs, of drawn negatives, and of LoRA's initial weights and dropout."""

    plugins: tuple[str, ...] = ()
    """Plug-ins with the trial's objective or judge, each as NAME@SHA256; filled in."""
    cloned_from: str = ""
    """The trial from whose state a clone starts, and that state's step, as DIGEST@STEP; filled in."""

    evaluations: tuple[str, ...] = runtime(("reward",))
    """Evaluations of the checkpoints: reward, harness, alpaca, arena. reward always runs."""
    evaluate_every_epochs: int = runtime(1)
    """Run the evaluations other than reward every N epochs, and after the last."""
    validate_every_steps: int = runtime(64)
    """Steps between two validations within an epoch. The end of an epoch is always validated."""
    checkpoint_minutes: float = runtime(15.0)
    """Minutes between two saved states within an epoch: the most work that a lost machine costs. 0 saves states at the
    end of an epoch only."""
    tokens_per_pass: int = runtime(0)
    """Most tokens in one forward and backward pass. 0 takes the fastest size that fits, found by trying: on a GPU at
    each trial's start, on a CPU once per machine."""
    layout: str = runtime("shared")
    """Densest layout of a pass to use: shared (each prompt once, no padding), packed (no padding) or padded. A model
    whose attention does not allow it gets the next one."""
    compile: str = runtime("auto")
    """Compile the model's layers with torch.compile, a minute's work at each start: true, false, or auto (on a
    GPU, if training takes more than ten minutes and a try shows that it is faster)."""
    zero_stage: int = runtime(2)
    """DeepSpeed ZeRO stage, 0 to 3."""
    gradient_checkpointing: str = runtime("auto")
    """Recompute activations in the backward pass, which saves memory and takes a third more time: always, never or auto
    (only if the longest example would not fit otherwise)."""

    @property
    def digest(self) -> str:
        """The trial's name: 16 hex digits of the SHA-256 over everything that changes its result."""
        return digest_of(identity(self))


def identity(config: TrialConfig) -> dict[str, Any]:
    """The fields that determine the result. Left out are run-time fields, those that the objective or the trial does
    not use, and later ones that have their default."""
    used = set(OBJECTIVE_FIELDS[config.objective])
    kept = {}
    for spec in fields(config):
        foreign = spec.name in _ANY_OBJECTIVE_FIELDS and spec.name not in used
        idle = spec.name.startswith("lora_") and spec.name != "lora_rank" and config.lora_rank == 0
        idle |= spec.name == "pairs_per_group" and not config.in_batch_normalised
        idle |= spec.name == "reference_length_normalised" and not config.length_normalised
        # Objectives of plug-ins are in no table, and have the other later fields from their first trial on.
        later = spec.name == "cloned_from" or config.objective in _LATER_FIELDS.get(spec.name, ())
        absent = later and getattr(config, spec.name) == spec.default
        if not (foreign or idle or absent or spec.metadata.get("runtime")):
            kept[spec.name] = getattr(config, spec.name)
    return kept


def digest_of(content: Any) -> str:
    """16 hex digits of the SHA-256 of a JSON-able value, independent of key order."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def to_dict(config: object) -> dict[str, Any]:
    """The fields as JSON-able values; the inverse of `from_dict`."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(config).items()}


def from_dict(values: Mapping[str, Any]) -> TrialConfig:
    """A checked config from plain values. Raises InputError naming every unknown or ill-typed field."""
    return replace(TrialConfig(), values)


def replace(config: TrialConfig, values: Mapping[str, Any]) -> TrialConfig:
    """A copy with some fields changed, types converted and everything checked. Raises InputError with every bad field
    at once."""
    changed = replace_checked(config, values, _problems)
    judge = changed.judge if changed.objective in ONLINE_OBJECTIVES else ""
    used = (PLUGGED.get(("objective", changed.objective)), PLUGGED.get(("judge", judge)))
    plugins = tuple(sorted({one for one in used if one}))
    return changed if changed.plugins == plugins else dataclasses.replace(changed, plugins=plugins)


def replace_checked(
    config: ConfigType, values: Mapping[str, Any], problems_of: Callable[[ConfigType], Iterable[str]]
) -> ConfigType:
    """`replace` for any frozen dataclass of plain fields; `problems_of` lists what is wrong with the changed copy."""
    problems, converted = [], {}
    types_by_name = typing.get_type_hints(type(config))
    for name, value in values.items():
        if name not in types_by_name:
            problems.append(f"{name!r} is not a field of {type(config).__name__}{nearest(name, types_by_name)}")
            continue
        try:
            converted[name] = as_type(value, types_by_name[name])
        except (TypeError, ValueError, OverflowError):
            problems.append(f"{name} must be {type_name(types_by_name[name])}, got {value!r}")
    if not problems:
        changed = dataclasses.replace(config, **converted)  # type: ignore[type-var]
        problems = list(problems_of(changed))
    if problems:
        raise InputError("the trial's settings are not valid:\n  " + "\n  ".join(problems))
    return changed


def parse_assignments(assignments: Iterable[str]) -> dict[str, str]:
    """`["beta=0.2", "epochs=1"]` as a dict. Raises InputError for anything without `=`."""
    parsed = {}
    for text in assignments:
        name, separator, value = text.partition("=")
        if not separator or not name.strip():
            raise InputError(f"--set expects FIELD=VALUE, got {text!r}; for example --set beta=0.05")
        parsed[name.strip()] = value.strip()
    return parsed


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'beta'?`, or the whole list if no known word is similar."""
    options = list(known)
    close = difflib.get_close_matches(word, options, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(options)}"


def as_type(value: Any, kind: Any) -> Any:
    """`value` as a field's type: text from a command line or values from JSON. Raises ValueError or TypeError."""
    origin = typing.get_origin(kind)
    if origin is tuple:
        parts = value.split(",") if isinstance(value, str) else value
        [kind_of_part, _] = typing.get_args(kind)
        return tuple(kind_of_part(part.strip() if isinstance(part, str) else part) for part in parts)
    if kind is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        text = str(value).lower()
        return words[text] if text in words else _refuse(value)
    if kind is int:
        if isinstance(value, int):
            return value if not isinstance(value, bool) else _refuse(value)
        number = float(value)
        return int(number) if number == int(number) else _refuse(value)
    if kind is float:
        return float(value) if not isinstance(value, bool) else _refuse(value)
    if isinstance(value, bool):  # what is a word now may have been a switch when it was written
        return str(value).lower()
    return value if isinstance(value, str) else _refuse(value)


def _refuse(value: Any) -> typing.NoReturn:
    raise ValueError(value)


def type_name(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(kind, "a comma-separated list")


# Checks of single fields, of a preference trial or an instruction tuning: names, what holds for their values, in words.
_ONE_OF: dict[str, tuple[Any, ...]] = {
    "optimizer": ("adamw", "adamw_8bit"),
    "precision": ("auto", "fp32", "bf16"),
    "negative_choice": ("kernel", "max", "min"),
    "noise_candidate": ("none", "added", "only"),
    "truncation": ("separate", "total"),
    "completion_rendering": ("whole", "alone", "alone_with_eos"),
    "layout": LAYOUTS,
    "gradient_checkpointing": ("auto", "always", "never"),
    "compile": ("auto", "true", "false"),
    "zero_stage": (0, 1, 2, 3),
    "turns": ("all", "last"),
}
_AT_LEAST_0 = (
    *("r_eps", "gamma_over_beta", "gamma", "sft_weight", "desirable_weight", "undesirable_weight"),
    *("weight_decay", "max_gradient_norm", "checkpoint_minutes"),
)
_AT_LEAST_1 = (
    *("epochs", "pairs_per_step", "conversations_per_step", "pairs_per_group", "negatives", "segments", "lora_alpha"),
    *("max_prompt_tokens", "max_completion_tokens", "max_tokens", "evaluate_every_epochs", "validate_every_steps"),
    "validation_conversations",
)
_BOUNDS: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (("learning_rate", "beta"), lambda value: 0 < value < math.inf, "a finite number above 0"),
    (_AT_LEAST_0, lambda value: 0 <= value < math.inf, "a finite number of at least 0"),
    (("warmup_share", "lora_dropout"), lambda value: 0 <= value < 1, "at least 0 and below 1"),
    (_AT_LEAST_1, lambda value: value >= 1, "at least 1"),
    (("lora_rank",), lambda value: value >= 0, "0 (train everything) or more"),
    (("tokens_per_pass",), lambda value: value >= 0, "0 (chosen by trying) or more"),
    (("worst_negatives",), lambda value: value >= 0, "0 (all) or more"),
    (("seed", "holdout_seed"), lambda value: 0 <= value < 2**32, "at least 0 and below 2**32"),
)


def field_problems(config: object) -> Iterator[str]:
    """What is wrong with single fields of a preference trial or an instruction tuning."""
    for name, values in _ONE_OF.items():
        if hasattr(config, name) and (value := getattr(config, name)) not in values:
            yield f"{name} must be one of {', '.join(map(str, values))}, got {value!r}"
    for names, holds, expected in _BOUNDS:
        for name in names:
            if hasattr(config, name) and not holds(value := getattr(config, name)):
                yield f"{name} must be {expected}, got {value}"


def _problems(config: TrialConfig) -> Iterable[str]:
    if config.objective not in OBJECTIVE_FIELDS:
        yield f"objective {config.objective!r} is unknown{nearest(config.objective, OBJECTIVE_FIELDS)}"
    for name in set(config.plugins) - set(PLUGGED.values()):
        there = [one for one in PLUGGED.values() if one.partition("@")[0] == name.partition("@")[0]]
        other = f"; the one loaded is {there[0]}" if there else ""
        yield f"the trial uses the plug-in {name}: give that file with --plugin{other}"
    yield from field_problems(config)
    for name in config.evaluations:
        if name not in EVALUATIONS:
            yield f"evaluations has {name!r}{nearest(name, EVALUATIONS)}"
    if not 0 < config.label_smoothing < 0.5:
        yield f"label_smoothing must be above 0 and below 0.5, got {config.label_smoothing}"
    if len(config.answer_temperatures) < 2:
        yield "answer_temperatures must have at least two values, since answers are compared"
    if not all(math.isfinite(value) and value >= 0 for value in config.answer_temperatures):
        yield f"answer_temperatures must be finite numbers of at least 0, got {config.answer_temperatures}"
    if config.completion_rendering != "whole" and config.objective in ONLINE_OBJECTIVES:
        yield "completion_rendering must be whole for online objectives: a generated answer is not rendered as a turn"
    if config.lora_rank and not config.lora_targets:
        yield "lora_targets must name at least one projection when lora_rank is above 0"
    if config.negatives_from_rank < 2:
        yield f"negatives_from_rank must be at least 2 (rank 1 is the chosen one), got {config.negatives_from_rank}"
    if not re.fullmatch(r"([0-9a-f]{16}@[1-9]\d*)?", config.cloned_from):
        yield f"cloned_from must be empty or a trial's digest, @ and a step, got {config.cloned_from!r}"
    if not config.model:
        yield "model is empty; it must be tiny, a folder or a hub id"
    if not config.dataset or not all(config.dataset):
        yield "dataset must name at least one source"

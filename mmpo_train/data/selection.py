"""The choice of validation examples and of completions, and the digests of data."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain

from mmpo_train.chat.messages import Turns, as_turn
from mmpo_train.data.rows import PreferenceExample

_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def as_pairs(example: PreferenceExample, seed: int) -> PreferenceExample:
    """The example with two completions: the chosen one, and one of the others drawn by seed and content."""
    chosen, *others = example.completions
    if len(others) == 1:
        return example
    drawn = others[int(_digest(seed, example.prompt, example.completions), 16) % len(others)]
    return replace(example, completions=(chosen, drawn))


def with_worst(example: PreferenceExample, count: int) -> PreferenceExample:
    """The example with the last `count` of its negatives; 0 keeps all."""
    chosen, *others = example.completions
    return replace(example, completions=(chosen, *others[-count:])) if 0 < count < len(others) else example


def every_pair(example: PreferenceExample) -> list[PreferenceExample]:
    """The example once for each of its negatives, with that one alone."""
    chosen, *others = example.completions
    return [replace(example, completions=(chosen, other)) for other in others]


def held_out_prompts(examples: Iterable[PreferenceExample], seed: int, share: float) -> set[Turns]:
    """This share of the distinct prompts, first in the order of their hashes: at least one, never all."""
    prompts = sorted({example.prompt for example in examples}, key=lambda prompt: _digest(seed, prompt))
    count = min(max(1, round(share * len(prompts))), len(prompts) - 1) if share > 0 else 0
    return set(prompts[:count])


def fingerprint_of(train: Iterable[PreferenceExample], validation: Iterable[PreferenceExample]) -> str:
    """The digest of all examples in order, with their splits."""
    digest = hashlib.sha256()
    for split, examples in (("train", train), ("validation", validation)):
        for one in examples:
            tools = (one.tools,) if one.tools else ()
            digest.update(_canonical(split, one.prompt, one.completions, *tools) + b"\n")
    return digest.hexdigest()


def content_of(examples: Iterable[PreferenceExample]) -> str:
    """The digest of examples in order, each with its best and worst completion: what lies between may be chosen."""
    digest = hashlib.sha256()
    for one in examples:
        turns = (*one.prompt, as_turn(one.completions[0]), as_turn(one.completions[-1]))
        digest.update("\x1f".join([one.tools, *chain(*turns)]).encode() + b"\x1e")
    return digest.hexdigest()


def _digest(*content: object) -> str:
    return hashlib.sha256(_canonical(*content)).hexdigest()


def _canonical(*content: object) -> bytes:
    return _ENCODE(content).encode()

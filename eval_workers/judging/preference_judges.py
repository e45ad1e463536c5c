"""Judges of AlpacaEval 2: the preference for the second of two outputs, from 1 to 2, under a cap on the cost."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from eval_workers.judging.clients import DEFAULT_LIMITS, Ask, Limits, open_client
from eval_workers.judging.costs import CapReached, Cost, Purse
from eval_workers.judging.judges import JudgeCount, PromptedJudge, ask_all, repeated
from eval_workers.judging.label_prompts import LEAST_SHARE, LabelPrompt, label_prompt, preference_of, share_of_labels
from eval_workers.judging.preference_specs import PreferenceSpec, check_preference_spec
from eval_workers.judging.specs import DEFAULT_URLS
from eval_workers.judging.verdicts import (
    PROMPT,
    JudgeFailed,
    Verdict,
    VerdictCache,
    read_template,
    shown_second_first,
    verdict_key,
)

POINTS: dict[Verdict, float] = {"a": 1.0, "tie": 1.5, "b": 2.0}

AsShown = Callable[[str, str, str], float]
"""The preference between the two outputs of an instruction, shown in this order."""


class PreferenceJudge(Protocol):
    name: str
    """Its name on a command line, with a mark if its prompt is not the published one."""
    prompt: str
    """The prompt that it is asked with, for the record."""

    def prefer(self, instruction: str, output_1: str, output_2: str) -> float:
        """From 1.0 (output_1 is better) over 1.5 (a draw) to 2.0 (output_2 is). Raises JudgeFailed, InputError."""

    def spent(self) -> Cost:
        """Its cost since it was opened."""


class MarkingJudge:
    """tiny's own judge: the higher mark wins, equal marks are a draw."""

    name = "tiny"
    prompt = "none: marks by rules"
    in_this_process = True

    def prefer(self, instruction: str, output_1: str, output_2: str) -> float:
        from mmpo_train.tiny.tasks import judge

        mark_1, mark_2 = judge(instruction, output_1), judge(instruction, output_2)
        return 1.0 if mark_1 > mark_2 else 2.0 if mark_2 > mark_1 else 1.5

    def spent(self) -> Cost:
        return Cost()


class AskedJudge:
    """A language model that sees both outputs, in random order or in both orders."""

    def __init__(
        self, name: str, prompt: str, as_shown: AsShown, purse: Purse, *, seed: int, both_orders: bool, local: bool
    ) -> None:
        self.name = name
        self.prompt = prompt
        self.seed = seed
        self.both_orders = both_orders
        self.in_this_process = local
        self._as_shown = as_shown
        self._purse = purse

    def prefer(self, instruction: str, output_1: str, output_2: str) -> float:
        """The preference; equal outputs are a draw without a request."""
        if output_1 == output_2:
            return 1.5
        if self.both_orders:
            one_way = self._as_shown(instruction, output_1, output_2)
            return (one_way + 3 - self._as_shown(instruction, output_2, output_1)) / 2
        if shown_second_first(self.seed, instruction, output_1, output_2):
            return 3 - self._as_shown(instruction, output_2, output_1)
        return self._as_shown(instruction, output_1, output_2)

    def spent(self) -> Cost:
        return self._purse.spent()


def open_preference_judge(
    spec: str,
    *,
    seed: int = 0,
    cache: Path | None = None,
    template: Path | None = None,
    both_orders: bool = False,
    cap_usd: float | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> PreferenceJudge:
    """The judge that `spec` names, which several threads may ask.

    The seed decides which output of a pair is shown first; with `both_orders` both orders are shown and averaged.
    `cache` is the file in which preferences are kept (without it each is paid for every time). `template` is a file
    with another prompt: with {instruction}, {output_1} and {output_2} for a judge that names a label, as in
    `verdicts.read_template` for one that gives a verdict. This judge spends at most `cap_usd`. Keys come from
    OPENAI_API_KEY and ANTHROPIC_API_KEY. Raises InputError.
    """
    parts = check_preference_spec(spec)
    if parts.kind == "marks":
        return MarkingJudge()
    purse = Purse(parts.label + parts.address, parts.price, cap_usd)
    kept = VerdictCache(cache) if cache else None
    if parts.kind == "verdict":
        text = read_template(template) if template else PROMPT
        source = f"the file {template}" if template else "our own wording"
        name = parts.label + ("" if text == PROMPT else f"+prompt-{_sha256(text)[:8]}") + parts.address
        prompt = f"verdict in words, {source}, sha256 {_sha256(text)[:12]}"
        ask = open_client(parts.client, limits, purse=purse)
        # Under the name and in the cache that `judges.open_judge` uses, so that the two share what was paid for.
        judge = PromptedJudge(parts.client.name, ask, text, kept, seed, limits.verdict_retries)
        as_shown = _by_verdict(judge)
    else:
        asked = label_prompt(template)
        name = parts.label + asked.suffix + parts.address
        prompt = f"label by log-probability, {asked.source}, sha256 {_sha256(asked.text)[:12]}"
        identity, ask = _open_labels(parts, name, limits, purse, cache)
        as_shown = _by_label(ask, asked, identity, name, kept, limits.verdict_retries)
    if both_orders:
        prompt += ", the mean of both orders"
    local = parts.kind == "local labels"
    return AskedJudge(name, prompt, as_shown, purse, seed=seed, both_orders=both_orders, local=local)


def _open_labels(parts: PreferenceSpec, name: str, limits: Limits, purse: Purse, cache: Path | None) -> tuple[str, Ask]:
    """The name under which the cache keeps a judge that names labels, and the function that asks it."""
    if parts.kind == "labels":
        # At temperature 1, as the published annotators ask: some services scale the log-probabilities by it.
        one_token = replace(limits, max_reply_tokens=1)
        ask = open_client(parts.client, one_token, temperature=1.0, top_logprobs=5, purse=purse)
        return f"{parts.client.model}@{parts.client.url or DEFAULT_URLS[parts.client.service]}", ask
    from eval_workers.judging.local_judge import open_local
    from mmpo_train.model.folders import fingerprint, local_folder

    folder = local_folder(parts.folder)
    return fingerprint(folder, cache.with_suffix(".fingerprints.json")) if cache else name, open_local(folder, purse)


def _by_verdict(judge: PromptedJudge) -> AsShown:
    return lambda instruction, first, second: POINTS[judge.compare_as_shown(instruction, first, second)]


def _by_label(
    ask: Ask, prompt: LabelPrompt, identity: str, name: str, kept: VerdictCache | None, retries: int
) -> AsShown:
    """A function that gives preferences from the first token's log-probabilities, kept by model, prompt and texts."""

    def judgement(instruction: str, first: str, second: str) -> tuple[str, str]:
        """A preference and the candidates from which it was computed, both as JSON."""
        for _ in range(1 + retries):
            reply = ask(prompt.messages(instruction, first, second))
            if reply.ending == "refused":
                raise JudgeFailed("refused to judge", f"judge '{name}' declined")
            if reply.ending == "unreadable":
                continue
            if not reply.first_token:
                raise JudgeFailed("no log-probabilities", f"judge '{name}' replied {reply.text!r} without any")
            return json.dumps(_preference(reply.first_token, name)), json.dumps(reply.first_token)
        raise JudgeFailed("reply unreadable", f"judge '{name}' replied {1 + retries} times")

    def as_shown(instruction: str, first: str, second: str) -> float:
        if kept is None:
            return float(judgement(instruction, first, second)[0])
        key = verdict_key(f"label {identity}", prompt.text, instruction, first, second)
        kept.once(key, name, lambda: judgement(instruction, first, second))
        # By the candidates, not by the number: some were kept before labels had to hold half of the probability.
        return _preference(json.loads(kept.reply(key)), name)

    return as_shown


def _preference(first_token: Mapping[str, float], name: str) -> float:
    """What the candidates for a reply's first token say. Raises JudgeFailed where they say something else."""
    preference, share = preference_of(first_token), share_of_labels(first_token)
    if preference is None:
        raise JudgeFailed("neither label", f"judge '{name}' would say one of {', '.join(first_token)}")
    if share < LEAST_SHARE:
        raise JudgeFailed("labels improbable", f"judge '{name}' gives its labels {share:.1%} of the probability")
    return preference


def prefer_all(
    judge: PreferenceJudge,
    instructions: Sequence[str],
    outputs_1: Sequence[str],
    outputs_2: Sequence[str],
    *,
    concurrency: int = 8,
    attempts: int = 2,
    give_up_after: int = 32,
    progress: Callable[[float], None] = lambda share: None,
) -> tuple[list[float | None], JudgeCount]:
    """The preference of each pair of outputs, None if the judge failed `attempts` times; and the count.

    `concurrency` pairs are judged at the same time. Raises InputError if continuing is useless: key, model or address
    refused, `give_up_after` pairs failed in a row, or the judge's cap reached.
    """
    if not len(instructions) == len(outputs_1) == len(outputs_2):
        raise ValueError(f"{len(instructions)} instructions, {len(outputs_1)} and {len(outputs_2)} outputs")
    finished, counting = 0, threading.Lock()

    def ask(index: int) -> float:
        nonlocal finished
        preference = repeated(lambda: judge.prefer(instructions[index], outputs_1[index], outputs_2[index]), attempts)
        with counting:
            finished += 1
        return preference

    try:
        return ask_all(judge, ask, len(instructions), concurrency, give_up_after, progress)
    except CapReached as reached:
        raise CapReached(
            f"{reached}. {len(instructions) - finished} of {len(instructions)} pairs remain to be judged; raise "
            "the cap and run the command again (verdicts in the cache are not paid for again)"
        ) from None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

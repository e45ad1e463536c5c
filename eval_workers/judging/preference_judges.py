"""Judges of AlpacaEval 2: how far the first of two outputs is preferred, under a cap on the cost."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from eval_workers.judging.clients import DEFAULT_LIMITS, Ask, Limits, open_client
from eval_workers.judging.costs import Cost, Price, Purse
from eval_workers.judging.judges import AsShown, Judge, ProgrammaticJudge, PromptedJudge, in_random_order
from eval_workers.judging.label_prompts import LEAST_SHARE, LabelPrompt, label_prompt, preference_of, share_of_labels
from eval_workers.judging.pairs import Calls, note
from eval_workers.judging.specs import DEFAULT_URLS, PreferenceSpec, check_preference_spec
from eval_workers.judging.verdicts import PROMPT, JudgeFailed, VerdictCache, read_template, verdict_keys


class PreferenceJudge(Judge, Protocol):
    """A judge with a record of its prompt and its cost. Its name has a mark if its prompt is not the published one."""

    prompt: str
    """The prompt that it is asked with, for the record."""

    def spent(self) -> Cost:
        """Its cost since it was opened."""


@dataclass(eq=False)
class AskedJudge:
    """A language model that sees both outputs, in random order or in both orders."""

    name: str
    prompt: str
    compare_as_shown: AsShown
    purse: Purse
    calls: Calls
    seed: int
    both_orders: bool
    in_this_process: bool

    @property
    def price(self) -> Price | None:
        """USD per token; None if not known."""
        return self.purse.price

    def compare(self, question: str, answer_a: str, answer_b: str) -> float:
        """How far answer_a is preferred; equal outputs are a draw without a request."""
        if not self.both_orders or answer_a == answer_b:
            return in_random_order(self.compare_as_shown, self.seed, question, answer_a, answer_b)
        one_way = self.compare_as_shown(question, answer_a, answer_b)
        return (one_way + 1 - self.compare_as_shown(question, answer_b, answer_a)) / 2

    def spent(self) -> Cost:
        return self.purse.spent()


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
        return ProgrammaticJudge(spec)
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
        as_shown: AsShown = judge.compare_as_shown
        calls = judge.calls
    else:
        asked = label_prompt(template)
        name = parts.label + asked.suffix + parts.address
        prompt = f"label by log-probability, {asked.source}, sha256 {_sha256(asked.text)[:12]}"
        identity, ask = _open_labels(parts, name, limits, purse, cache)
        calls = {}
        as_shown = _by_label(ask, asked, identity, name, kept, limits.verdict_retries, calls)
    if both_orders:
        prompt += ", the mean of both orders"
    local = parts.kind == "local labels"
    return AskedJudge(name, prompt, as_shown, purse, calls, seed, both_orders, in_this_process=local)


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


def _by_label(
    ask: Ask, prompt: LabelPrompt, identity: str, name: str, kept: VerdictCache | None, retries: int, calls: Calls
) -> AsShown:
    """A function that compares by the first token's log-probabilities, kept by model, prompt and texts."""

    def judgement(instruction: str, first: str, second: str) -> tuple[str, str]:
        """AlpacaEval's preference, from 1 (the first) to 2, and the candidates behind it, both as JSON."""
        for _ in range(1 + retries):
            reply = ask(prompt.messages(instruction, first, second))
            shown = instruction, first, second
            note(calls, shown, reply.prompt_tokens, reply.completion_tokens, reply.text)
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
            return 2 - float(judgement(instruction, first, second)[0])
        key, before = verdict_keys(f"label {identity}", prompt.text, instruction, first, second)
        kept.once(key, name, lambda: judgement(instruction, first, second), before)
        # By the candidates, not by the number: some were kept before labels had to hold half of the probability.
        return 2 - _preference(json.loads(kept.reply(key)), name)

    return as_shown


def _preference(first_token: Mapping[str, float], name: str) -> float:
    """AlpacaEval's preference, from 1 (the first) to 2, of the candidates for a reply's first token. Raises JudgeFailed
    where they say something else."""
    preference, share = preference_of(first_token), share_of_labels(first_token)
    if preference is None:
        raise JudgeFailed("neither label", f"judge '{name}' would say one of {', '.join(first_token)}")
    if share < LEAST_SHARE:
        raise JudgeFailed("labels improbable", f"judge '{name}' gives its labels {share:.1%} of the probability")
    return preference


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

"""Arena-Hard's judgements: one game with a verdict, or upstream's two games with five labels; and their win rate.

A strong label counts as three games (upstream's weight). The interval is a bootstrap over questions.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eval_workers.judging.clients import DEFAULT_LIMITS, Limits, open_client
from eval_workers.judging.costs import Purse
from eval_workers.judging.judges import Judge, JudgeCount, PromptedJudge, ask_all, judge_pairs, open_judge, repeated
from eval_workers.judging.specs import IN_THIS_PROCESS, check_judge_spec
from eval_workers.judging.verdicts import LOSS, TIE, WIN, VerdictCache, own_prompt, read_template

LABELS = {"A>>B": (WIN, 3), "A>B": (WIN, 1), "A=B": (TIE, 1), "B>A": (LOSS, 1), "B>>A": (LOSS, 3)}
"""Label -> how far the answer shown first is preferred, and games that it counts as."""
_AS_VERDICT, _AS_LABEL = {WIN: "a", TIE: "tie", LOSS: "b"}, {WIN: "A>B", TIE: "A=B", LOSS: "B>A"}

# Upstream's limit for its labels: the judge first writes its own answer, which takes a while too.
LIMITS = replace(DEFAULT_LIMITS, max_reply_tokens=4096, timeout_seconds=180.0)

LABELS_PROMPT = own_prompt("labels")


class Game(NamedTuple):
    """The result of one question."""

    labels: tuple[str, ...]
    """The verdict ('a' is the candidate), or the labels of both games: candidate shown second, then first."""
    points: float
    """Points of the candidate: 1 for each game won and 1/2 for each tie."""
    weight: int
    """Number of games behind the points; a strong label counts as three."""
    plain_points: float
    """The points if every label counts once."""
    games: int


class Rate(NamedTuple):
    """A win rate and its uncertainty."""

    rate: float
    low: float
    high: float
    """Upper end of the middle 95% of the bootstrap; `low` is the lower end."""
    error: float
    """Standard deviation over the bootstrap."""


def read_label(reply: str) -> str | None:
    """The label in a judge's whole reply; None unless it has exactly one of the five, which may be repeated."""
    found = re.findall(r"\[\[([AB<>=\s]*[<>=][AB<>=\s]*)\]\]", reply, re.IGNORECASE)
    labels = {"".join(label.split()) for label in found}
    return labels.pop() if len(labels) == 1 and labels <= LABELS.keys() else None


def open_labels_judge(
    spec: str, *, cache: Path, template: Path | None, limits: Limits = LIMITS, purse: Purse | None = None
) -> Judge:
    """The judge that `spec` names, for `play_two`; `purse` pays for it. Raises InputError."""
    parts = check_judge_spec(spec)
    if parts.service in IN_THIS_PROCESS:
        return open_judge(spec)
    prompt = read_template(template, LABELS) if template else LABELS_PROMPT
    ask = open_client(parts, limits, purse=purse)
    return PromptedJudge(parts.name, ask, prompt, VerdictCache(cache), 0, limits.verdict_retries, read_label)


def play_once(
    judge: Judge, questions: Sequence[str], candidates: Sequence[str], baselines: Sequence[str]
) -> tuple[list[Game | None], JudgeCount]:
    """One game per question (MC-PO paper, Section 5.1), in random order; None if the judge failed."""
    won, count = judge_pairs(judge, questions, candidates, baselines)
    return [None if one is None else Game((_AS_VERDICT[one],), one, 1, one, 1) for one in won], count


def play_two(
    judge: Judge, questions: Sequence[str], candidates: Sequence[str], baselines: Sequence[str]
) -> tuple[list[Game | None], JudgeCount]:
    """Two games per question: first the baseline is A, then the candidate. None if the judge failed one, as upstream.
    Raises InputError as `judge_pairs` does."""

    def ask(index: int) -> Game:
        question, ours, theirs = questions[index], candidates[index], baselines[index]
        first = repeated(lambda: _label(judge, question, theirs, ours))
        second = repeated(lambda: _label(judge, question, ours, theirs))
        return two_games(first, second)

    return ask_all(judge, ask, len(questions))


def two_games(first: str, second: str) -> Game:
    """The result of the labels of both games; the candidate is B in the first and A in the second."""
    (theirs, weight), (ours, other_weight) = LABELS[first], LABELS[second]
    won = (1 - theirs) * weight + ours * other_weight
    return Game((first, second), won, weight + other_weight, 1 - theirs + ours, 2)


def by_label(judge: Judge, question: str, shown_first: str, shown_second: str) -> float:
    """How far the judge's label prefers the answer that is shown first: 1, 0.5 or 0."""
    return LABELS[_label(judge, question, shown_first, shown_second)][0]


def _label(judge: Judge, question: str, shown_first: str, shown_second: str) -> str:
    """The judge's label. tiny's judge never gives the strong labels; equal texts are a tie without a request."""
    if shown_first == shown_second:
        return "A=B"
    if isinstance(judge, PromptedJudge):
        return judge.label(question, shown_first, shown_second)
    return _AS_LABEL[judge.compare(question, shown_first, shown_second)]


def bootstrap(points: Sequence[float], weights: Sequence[float], *, rounds: int, seed: int) -> Rate:
    """sum(points) / sum(weights), and its spread over `rounds` samples of as many questions with replacement. Both have
    shape (Q,). The games of a question stay together, since they are not independent evidence."""
    won, played = np.asarray(points, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(len(won), size=(rounds, len(won)))
    rates = won[drawn].sum(1) / played[drawn].sum(1)
    low, high = np.quantile(rates, (0.025, 0.975))
    return Rate(float(won.sum() / played.sum()), float(low), float(high), float(rates.std(ddof=1)))

"""Judges: which of two answers is better, the most preferred of several, and many questions at once.

A judge is named `tiny`, `openai:MODEL` or `anthropic:MODEL`, the last two also with `@URL` of a compatible service.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

from eval_workers.judging.clients import DEFAULT_LIMITS, Ask, Limits, open_client
from eval_workers.judging.costs import CapReached, Cost, Purse
from eval_workers.judging.pairs import Calls, note
from eval_workers.judging.specs import IN_THIS_PROCESS, check_judge_spec
from eval_workers.judging.verdicts import (
    PROMPT,
    TIE,
    VERDICTS,
    JudgeFailed,
    VerdictCache,
    fill,
    read_template,
    read_verdict,
    shown_second_first,
    verdict_keys,
)
from mmpo_train.config import PLUGGED
from mmpo_train.errors import InputError
from mmpo_train.typed.plugins import judge_of

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
AsShown = Callable[[str, str, str], float]
"""How far the first of two answers to a question is preferred when they are shown in this order, from 0 to 1."""

CONCURRENCY = 8
"""Questions that are judged at the same time."""
ATTEMPTS = 2
"""Attempts at a question before it is dropped."""
GIVE_UP_AFTER = 32
"""Questions dropped in a row after which judging ends."""


class Judge(Protocol):
    """A judge. If its `in_this_process` is true it is asked one question at a time."""

    name: str
    """Its name on a command line."""

    def compare(self, question: str, answer_a: str, answer_b: str) -> float:
        """How far answer_a is preferred: 1 if it is better, 0 if answer_b is, 0.5 for a tie, a probability in between.
        Raises JudgeFailed after the retries, InputError if no question could be judged."""

    def compare_as_shown(self, question: str, first: str, second: str) -> float:
        """How far the first is preferred when the answers are shown in this order."""


class ProgrammaticJudge:
    """A judge that is a function: a plug-in's, or tiny's, which marks answers to its questions by rules."""

    in_this_process = True

    def __init__(self, name: str = "tiny") -> None:
        plugged = judge_of(name)
        self.name, self._compare = name, plugged or _by_marks
        self.prompt = f"none: the plug-in {PLUGGED['judge', name]}" if plugged else "none: marks by rules"

    def compare(self, question: str, answer_a: str, answer_b: str) -> float:
        found = float(self._compare(question, answer_a, answer_b))
        if not 0 <= found <= 1:
            raise InputError(f"the judge {self.name} of a plug-in returned {found:g}; expected a number from 0 to 1")
        return found

    compare_as_shown = compare

    def spent(self) -> Cost:
        return Cost()


def _by_marks(question: str, answer_a: str, answer_b: str) -> float:
    """The higher mark wins; equal marks are a tie."""
    from mmpo_train.tiny.tasks import judge

    mark_a, mark_b = judge(question, answer_a), judge(question, answer_b)
    return TIE if mark_a == mark_b else float(mark_a > mark_b)


def in_random_order(ask: AsShown, seed: int, question: str, answer_a: str, answer_b: str) -> float:
    """How far answer_a is preferred, the order decided by the seed; equal texts are a tie without a request."""
    if answer_a == answer_b:
        return TIE
    if shown_second_first(seed, question, answer_a, answer_b):
        return 1 - ask(question, answer_b, answer_a)
    return ask(question, answer_a, answer_b)


@dataclass(eq=False)
class PromptedJudge:
    """A language model that sees both answers in random order and gives a verdict."""

    name: str
    ask: Ask
    template: str
    cache: VerdictCache | None
    seed: int
    retries: int
    read: Callable[[str], str | None] = read_verdict
    calls: Calls = field(default_factory=dict)
    """The requests so far, until somebody takes them."""

    def compare(self, question: str, answer_a: str, answer_b: str) -> float:
        return in_random_order(self.compare_as_shown, self.seed, question, answer_a, answer_b)

    def compare_as_shown(self, question: str, first: str, second: str) -> float:
        """How far the first is preferred when the answers are shown in this order."""
        return VERDICTS[self.label(question, first, second)]

    def label(self, question: str, first: str, second: str) -> str:
        """The label or verdict that `read` finds in the reply to this order. Raises as `compare` does."""
        if self.cache is None:
            return self._judgement(question, first, second)[0]
        key, before = verdict_keys(self.name, self.template, question, first, second)
        return self.cache.once(key, self.name, lambda: self._judgement(question, first, second), before)

    def _judgement(self, question: str, first: str, second: str) -> tuple[str, str]:
        """A verdict and the reply that contains it."""
        reason = ""
        for _ in range(1 + self.retries):
            reply = self.ask(fill(self.template, question, first, second))
            if reply.ending == "refused":
                raise JudgeFailed("refused to judge", f"judge '{self.name}' declined")
            verdict = self.read(reply.text) if reply.ending == "finished" else None
            shown = question, first, second
            note(self.calls, shown, reply.prompt_tokens, reply.completion_tokens, reply.text)
            if verdict is not None:
                return verdict, reply.text
            reason = {"cut off": "reply cut off", "finished": "no single verdict"}.get(reply.ending, "reply unreadable")
        raise JudgeFailed(reason, f"judge '{self.name}' replied {1 + self.retries} times without a single verdict")


def open_judge(
    spec: str,
    *,
    seed: int = 0,
    cache: Path | None = None,
    template: Path | None = None,
    limits: Limits = DEFAULT_LIMITS,
    purse: Purse | None = None,
) -> Judge:
    """The judge that `spec` names, which several threads may ask; `purse` pays for it.

    The seed decides which answer of a pair is shown first. `cache` is the file in which verdicts are kept (without it
    each is paid for every time), `template` a file with another prompt. Keys come from OPENAI_API_KEY and
    ANTHROPIC_API_KEY. Raises InputError.
    """
    parts = check_judge_spec(spec)
    if parts.service in IN_THIS_PROCESS:
        return ProgrammaticJudge(spec)
    prompt = read_template(template) if template else PROMPT
    ask = open_client(parts, limits, purse=purse)
    return PromptedJudge(parts.name, ask, prompt, VerdictCache(cache) if cache else None, seed, limits.verdict_retries)


def most_preferred(judge: Judge, question: str, answers: Sequence[str]) -> int:
    """Index of the best of L answers by at most L - 1 comparisons: the winner so far meets the next answer.

    (Iterative pairwise ranking, MC-PO Appendix B.1.) A tie keeps the winner so far. A text that has been compared
    already is skipped. Raises JudgeFailed when the judge has failed ATTEMPTS times on this question.
    """
    if not answers:
        raise ValueError("no answers to choose from")
    winner, failures, met = 0, 0, {answers[0]}
    for challenger, answer in enumerate(answers):
        while answer not in met:
            try:
                if judge.compare(question, answers[winner], answer) < TIE:
                    winner = challenger
                met.add(answer)
            except JudgeFailed:
                failures += 1
                if failures >= ATTEMPTS:
                    raise
    return winner


@dataclass
class JudgeCount:
    """How many questions were judged and how many dropped."""

    judged: int = 0
    dropped: int = 0
    """Questions without a winner because the judge failed."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Reason -> dropped questions."""

    def __str__(self) -> str:
        return ", ".join(f"{reason}: {times}" for reason, times in self.reasons.most_common())

    def warn(self, who: str) -> None:
        """Log how many questions were dropped, and why."""
        if self.dropped:
            logger.warning("%s: %d of %d unjudged (%s)", who, self.dropped, self.dropped + self.judged, self)


def judge_all(
    judge: Judge, questions: Sequence[str], answers_of_each: Sequence[Sequence[str]]
) -> tuple[list[int | None], JudgeCount]:
    """Index of each question's best answer, None if the judge failed ATTEMPTS times; and the count.

    Raises InputError if continuing is useless: key, model or address refused, GIVE_UP_AFTER questions dropped in a row,
    or the judge's cap reached.
    """
    if len(questions) != len(answers_of_each):
        raise ValueError(f"{len(questions)} questions and answers of {len(answers_of_each)}")

    def ask(index: int) -> int:
        return most_preferred(judge, questions[index], answers_of_each[index])

    return ask_all(judge, ask, len(questions))


def judge_pairs(
    judge: Judge, questions: Sequence[str], answers_a: Sequence[str], answers_b: Sequence[str]
) -> tuple[list[float | None], JudgeCount]:
    """How far each question's first answer is preferred, None if the judge failed; otherwise as `judge_all`."""
    if not len(questions) == len(answers_a) == len(answers_b):
        raise ValueError(f"{len(questions)} questions, {len(answers_a)} and {len(answers_b)} answers")

    def ask(index: int) -> float:
        return repeated(lambda: judge.compare(questions[index], answers_a[index], answers_b[index]))

    return ask_all(judge, ask, len(questions))


def repeated(question: Callable[[], Result]) -> Result:
    """The result of the first of ATTEMPTS calls that does not raise JudgeFailed."""
    tries = Retrying(retry=retry_if_exception_type(JudgeFailed), stop=stop_after_attempt(ATTEMPTS), reraise=True)
    return tries(question)


def ask_all(judge: Judge, ask: Callable[[int], Result], questions: int) -> tuple[list[Result | None], JudgeCount]:
    """The result of `ask` for each question's index; None, and counted, if it raises JudgeFailed. Raises InputError as
    `judge_all` does."""
    results: list[Result | None] = [None] * questions
    count, in_a_row = JudgeCount(), 0

    def one(index: int) -> str:
        """The reason why the question is dropped; empty if it has a result."""
        try:
            results[index] = ask(index)
        except JudgeFailed as failure:
            return failure.reason
        return ""

    threads = 1 if getattr(judge, "in_this_process", False) else CONCURRENCY
    try:
        for reason in _as_they_end(one, questions, threads):
            if reason:
                count.dropped, in_a_row = count.dropped + 1, in_a_row + 1
                count.reasons[reason] += 1
            else:
                count.judged, in_a_row = count.judged + 1, 0
            if in_a_row >= GIVE_UP_AFTER:
                raise InputError(
                    f"judge '{judge.name}' failed {in_a_row} questions in a row ({count}); check that it is up and "
                    "can judge, then run the command again"
                )
    except CapReached as reached:
        raise CapReached(
            f"{reached}. {results.count(None)} of {questions} pairs remain to be judged; raise the cap and run the "
            "command again (verdicts in the cache are not paid for again)"
        ) from None
    return results, count


def _as_they_end(function: Callable[[int], Result], items: int, threads: int) -> Iterator[Result]:
    """Yields `function` of 0 … items - 1 as the calls end. Closing the generator cancels calls that have not begun."""
    if threads == 1:
        yield from map(function, range(items))
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="judge")
    try:
        for future in as_completed([pool.submit(function, index) for index in range(items)]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)

"""Evaluations, and the answers of online training, in a forecast: their work, judges' prices, and what is not known."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from eval_workers.judging.costs import FREE, PRICES, Price
from eval_workers.judging.specs import USUAL_JUDGES, check_judge_spec, check_preference_spec
from mmpo_train.config import ONLINE_OBJECTIVES
from sweeps.cluster.nodes import counted
from sweeps.cost.arithmetic import CHARACTERS_PER_TOKEN, ONLINE, START_UP_SECONDS, Lengths, ModelSize, forward_flop

if TYPE_CHECKING:
    from sweeps.plan.options import SweepEvaluation
    from sweeps.plan.trials import Planned

_ANSWER_TOKENS, _TOKENS_AROUND, _REPLY_TOKENS = 500, 400, 20
"""Most tokens of an answer, those of a judge's prompt besides its two answers, and those of its reply; all assumed."""
_ALPACA_PROMPTS = 805
_MOST_TOKENS = {"alpaca": (4096, 128), "arena": (4096, 256)}
"""Longest answer, and that of tiny."""
_TOKENS_PER_BATCH = 65_536
_LONGEST = 4
"""How many times as long as the mean the longest answer of a batch is; assumed."""
_SECONDS_PER_LAYER = 0.0008
"""Least time of a layer for one token of each answer: calls of the library, on a GPU and on a CPU; a rough figure."""
_CHECKPOINT_SECONDS, _BYTES_PER_SECOND = 0.5, 1e9
"""Time of an evaluation besides its passes, and the speed at which weights of two bytes are read; rough figures."""


class Part(NamedTuple):
    """The work of one kind of evaluation."""

    flop: float
    seconds: float = 0.0
    """Time of an accelerator that does not depend on its FLOP."""


def evaluation_work(
    todo: Sequence[Planned],
    settings: SweepEvaluation,
    size: ModelSize,
    validation: Lengths,
    judge: str = "",
) -> dict[str, Part]:
    """Kind of evaluation -> the work of all these trials, as far as it is known before anything is loaded.

    Answers are as long as the data's, or as their limit. `judge`: the one that compares the answers of a study with
    the starting model's.
    """
    texts = validation.completions[validation.completions > 0]
    prompt, answer = validation.prompts.mean(), texts.mean()
    epochs, first, shown = sum(one.config.epochs for one in todo), todo[0].config, len(todo[0].inputs.data.validation)

    def part(times: int, flop: float, seconds: float = 0.0) -> Part:
        """An evaluator that starts once and reads a checkpoint so many times, each with these FLOP and seconds."""
        seconds += _CHECKPOINT_SECONDS + 2 * size.parameters / _BYTES_PER_SECOND
        return Part(times * flop, START_UP_SECONDS + times * seconds)

    def answers(prompts: int, times: int, most: int, each: int = 1, passes: int = 1) -> Part:
        """`each` answers to each prompt, so many times; then further passes over them."""
        tokens = min(answer, most)
        steps = math.ceil(prompts * each * (prompt + most) / _TOKENS_PER_BATCH) * min(most, _LONGEST * tokens)
        flop = 2.0 * size.parameters * prompts * (prompt + each * tokens) * passes
        return part(times, flop, steps * size.layers * _SECONDS_PER_LAYER)

    parts = {"scores": part(epochs, sum(forward_flop(size, validation)))}
    online = [one for one in todo if one.config.objective in ONLINE_OBJECTIVES]
    if online:
        each, times = len(online[0].config.answer_temperatures), sum(one.config.epochs for one in online)
        prompts, most = len(online[0].inputs.data.train), online[0].config.max_completion_tokens
        parts[ONLINE] = answers(prompts, times, most, each, passes=2)  # the reference scores them
    if judge:
        parts["answers to the validation prompts"] = answers(shown, epochs + 1, first.max_completion_tokens)
    for suite, checkpoints in _checkpoints(todo).items():
        tiny = first.model == "tiny"
        if suite in _MOST_TOKENS and (prompts := _prompts(suite, settings, tiny, shown)):
            most = settings.max_answer_tokens or _MOST_TOKENS[suite][tiny]
            parts[f"{suite}'s answers"] = answers(prompts, checkpoints + 1, most)  # and the starting model's
        elif suite == "harness" and (characters := _characters(settings, tiny)):
            parts["harness"] = part(checkpoints, 2.0 * size.parameters * characters / CHARACTERS_PER_TOKEN)
    return parts


def left_out(todo: Sequence[Planned], settings: SweepEvaluation, judge: str = "") -> str:
    """A sentence on the work and the money that the forecast of these trials does not count; empty if there is none.

    Online, each prompt is answered once for each temperature and epoch; the best answer is found by knock-out.
    """
    asked: Counter[tuple[str, str, int]] = Counter()
    for config, data in ((trial.config, trial.inputs.data) for trial in todo):
        if config.objective in ONLINE_OBJECTIVES:
            knock_outs = len(data.train) * config.epochs * (len(config.answer_temperatures) - 1)
            asked["online training", config.judge, config.max_completion_tokens] += knock_outs
        if judge:
            asked["win rates", judge, _ANSWER_TOKENS] += len(data.validation) * config.epochs
    parts = [f"{why}, {_calls(one, calls, _price(one), tokens)}" for (why, one, tokens), calls in asked.items()]
    for suite, checkpoints in _checkpoints(todo).items():
        tiny, said = todo[0].config.model == "tiny", f"{suite} on {counted(checkpoints, 'checkpoint')}"
        if suite == "alpaca" and not tiny and not settings.alpaca_prompts:
            calls = checkpoints * _some(_ALPACA_PROMPTS, settings) * (2 if settings.both_orders else 1)
            specs = [check_preference_spec(spec) for spec in settings.judges or USUAL_JUDGES]
            parts.append(", ".join([said, *(_calls(one.label, calls, one.price, _ANSWER_TOKENS) for one in specs)]))
        elif suite in _MOST_TOKENS:
            parts.append(f"{said}, a judge's calls for each prompt")
        elif suite != "harness" or not _characters(settings, tiny):
            parts.append(f"{said}, as its tasks are on the hub" if suite == "harness" else said)
    if not parts:
        return ""
    cap = f"; --evaluation.cap-usd stops each judge at {settings.cap_usd:g} USD" if settings.cap_usd else ""
    return f"not in the forecast, neither in hours nor in money: {'; '.join(parts)}{cap}"


def _calls(judge: str, calls: int, price: Price | None, answer_tokens: int) -> str:
    """The calls of a judge in words, with their price if it is known and not 0."""
    said = f"about {calls:,} call{'' if calls == 1 else 's'} of the judge {judge}"
    tokens = _TOKENS_AROUND + 2 * min(answer_tokens, _ANSWER_TOKENS)
    if price is None:
        return f"{said}, whose price is not known"
    return said if price == FREE else f"{said}, {calls * price.of(tokens, _REPLY_TOKENS):,.2f} USD"


def _prompts(suite: str, settings: SweepEvaluation, tiny: bool, validation: int) -> int:
    """Prompts of a suite that answers; 0 where they are not known."""
    if suite == "alpaca" and settings.alpaca_prompts:
        from eval_workers.alpaca.data import read_prompts

        return _some(len(read_prompts(settings.alpaca_prompts)), settings)
    if suite == "arena" and settings.arena_questions:
        from eval_workers.arena.data import read_questions

        return len(read_questions(settings.arena_questions, settings.limit))
    return _some(validation if tiny else _ALPACA_PROMPTS if suite == "alpaca" else 0, settings)


def _characters(settings: SweepEvaluation, tiny: bool) -> int:
    """Characters that LM Harness reads; 0 where its tasks are on the hub."""
    from eval_workers.harness.tasks import HARNESS_TASKS, TINY_TASKS, characters_of

    tasks = settings.harness_tasks or (TINY_TASKS if tiny else HARNESS_TASKS)
    return characters_of(tasks, settings.task_data, settings.limit)


def _some(prompts: int, settings: SweepEvaluation) -> int:
    return min(settings.limit or prompts, prompts)


def _checkpoints(todo: Sequence[Planned]) -> Mapping[str, int]:
    """Suite -> checkpoints on which it runs: every N epochs', and the last of each trial."""
    found: Counter[str] = Counter()
    for config in (trial.config for trial in todo):
        every, epochs = config.evaluate_every_epochs, config.epochs
        judged = sum(epoch % every == 0 or epoch == epochs for epoch in range(1, epochs + 1))
        found.update({suite: judged for suite in sorted(set(config.evaluations) - {"reward"})})
    return found


def _price(judge: str) -> Price | None:
    """The price of a judge; None if it is not known, as that of a plug-in or of another endpoint."""
    parts = check_judge_spec(judge)
    return FREE if parts.service == "tiny" else None if parts.url else PRICES.get(parts.model)

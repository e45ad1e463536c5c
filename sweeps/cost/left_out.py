"""What a forecast of training leaves out: generated answers, judges' calls with their price, and evaluations."""

from collections import Counter
from collections.abc import Iterator, Sequence

from eval_workers.judging.costs import FREE, PRICES, Price
from eval_workers.judging.preference_specs import USUAL_JUDGES, check_preference_spec
from eval_workers.judging.specs import check_judge_spec
from mmpo_train.config import ONLINE_OBJECTIVES, TrialConfig
from sweeps.cluster.nodes import counted
from sweeps.plan.options import SweepEvaluation
from sweeps.plan.trials import Planned

_ANSWER_TOKENS, _TOKENS_AROUND, _REPLY_TOKENS = 500, 400, 20
"""Most tokens of an answer, those of a judge's prompt besides its two answers, and those of its reply; all assumed."""
_ALPACA_PROMPTS = 805


def left_out(todo: Sequence[Planned], settings: SweepEvaluation, judge: str = "") -> str:
    """A sentence on the work and the money that the forecast of these trials does not count; empty if there is none.

    `judge`: the one that compares the answers of a study with the starting model's.
    """
    parts = [*_online(todo), *_win_rates(todo, judge), *_suites(todo, settings)]
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


def _online(todo: Sequence[Planned]) -> Iterator[str]:
    """Each prompt is answered once for each temperature and epoch; the best answer is found by knock-out."""
    calls: Counter[tuple[str, int]] = Counter()
    answers = 0
    for trial in todo:
        config, each = trial.config, len(trial.config.answer_temperatures)
        if config.objective in ONLINE_OBJECTIVES:
            prompts = len(trial.inputs.data.train) * config.epochs
            answers += prompts * each
            calls[config.judge, config.max_completion_tokens] += prompts * (each - 1)
    if calls:
        asked = (_calls(judge, count, _price(judge), tokens) for (judge, tokens), count in calls.items())
        yield f"{answers:,} answers of online training, {', '.join(asked)}"


def _win_rates(todo: Sequence[Planned], judge: str) -> Iterator[str]:
    if judge and todo:
        calls = sum(len(trial.inputs.data.validation) * trial.config.epochs for trial in todo)
        yield f"answers to the validation prompts, {_calls(judge, calls, _price(judge), _ANSWER_TOKENS)}"


def _suites(todo: Sequence[Planned], settings: SweepEvaluation) -> Iterator[str]:
    for suite in sorted({suite for trial in todo for suite in trial.config.evaluations} - {"reward"}):
        configs = [trial.config for trial in todo if suite in trial.config.evaluations]
        checkpoints = sum(map(_evaluated, configs))
        said = f"{suite} on {counted(checkpoints, 'checkpoint')}"
        if suite == "alpaca" and configs[0].model != "tiny" and not settings.alpaca_prompts:
            said += f", {_alpaca_calls(checkpoints, settings)}"
        elif suite != "harness" and configs[0].model != "tiny":
            said += ", a judge's calls for each prompt"
        yield said


def _alpaca_calls(checkpoints: int, settings: SweepEvaluation) -> str:
    prompts = min(settings.limit or _ALPACA_PROMPTS, _ALPACA_PROMPTS)
    calls = checkpoints * prompts * (2 if settings.both_orders else 1)
    specs = [check_preference_spec(spec) for spec in settings.judges or USUAL_JUDGES]
    return ", ".join(_calls(spec.label, calls, spec.price, _ANSWER_TOKENS) for spec in specs)


def _evaluated(config: TrialConfig) -> int:
    """Checkpoints of a trial on which the other evaluations run: every N epochs', and the last."""
    every = config.evaluate_every_epochs
    return sum(epoch % every == 0 or epoch == config.epochs for epoch in range(1, config.epochs + 1))


def _price(judge: str) -> Price | None:
    """The price of a judge; None if it is not known, as that of a plug-in or of another endpoint."""
    parts = check_judge_spec(judge)
    return FREE if parts.service == "tiny" else None if parts.url else PRICES.get(parts.model)

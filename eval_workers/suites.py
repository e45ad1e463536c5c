"""The evaluations by name, made from their settings."""

from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from eval_workers.settings import EvaluationSettings
from mmpo_train.config import EVALUATIONS
from mmpo_train.errors import InputError
from mmpo_train.typed.plugins import evaluation_of

Request = Mapping[str, str]
"""The folders of one evaluation by their names, FOLDERS."""
FOLDERS = ("checkpoint", "starting_model", "artifacts")
Evaluate = Callable[[Request], dict[str, Any]]
"""Returns {metrics: name -> number, facts: name -> what the numbers depend on besides the model}; the harness adds
`missing`, task -> why it has no result."""


def build(suite: str, settings: EvaluationSettings, storage: Path, *, tiny: bool, precision: str) -> Evaluate:
    """The evaluation, which stays warm from one request to the next. `tiny`: the model is the embedded default. Raises
    InputError for settings with which it cannot run."""
    if plugged := evaluation_of(suite):
        return _plugged(suite, *plugged)
    builders = {"harness": _harness, "alpaca": _alpaca, "arena": _arena}
    if suite not in builders:
        raise InputError(f"suite {suite!r} is unknown; known are {', '.join(EVALUATIONS)}")
    least = {"limit": "all", "checked_pairs": "none", "max_answer_tokens": "the usual length"}
    given = {name: getattr(settings, name) for name in least}
    wrong = [f"{name} is {value}, expected 0 ({least[name]}) or more" for name, value in given.items() if value < 0]
    if wrong:
        raise InputError("; ".join(wrong))
    return builders[suite](settings, storage, tiny, precision)


def _plugged(suite: str, evaluate: Callable[[Path, Path], Mapping[str, float]], label: str) -> Evaluate:
    def run(request: Request) -> dict[str, Any]:
        artifacts = Path(request["artifacts"]) / suite
        artifacts.mkdir(parents=True, exist_ok=True)
        found = evaluate(Path(request["checkpoint"]), artifacts)
        wrong = [name for name, value in found.items() if not (isinstance(value, int | float) and isfinite(value))]
        if wrong or not found:
            what = f"no finite number for {', '.join(wrong)}" if wrong else "no metric"
            raise InputError(f"the evaluation {suite} of the plug-in {label} returned {what}")
        metrics = {f"{suite}/{name}": float(value) for name, value in found.items()}
        return {"metrics": metrics, "facts": {"plugin": label}}

    return run


def _harness(settings: EvaluationSettings, storage: Path, tiny: bool, precision: str) -> Evaluate:
    from eval_workers.harness.evaluation import LMHarness
    from eval_workers.harness.tasks import HARNESS_TASKS, TINY_TASKS

    evaluate = LMHarness(
        tasks=settings.harness_tasks or (TINY_TASKS if tiny else HARNESS_TASKS),
        task_data=settings.task_data,
        chat_template=not settings.no_chat_template,
        limit=settings.limit or None,
        cache=storage / "harness",
    )

    def run(request: Request) -> dict[str, Any]:
        metrics = evaluate(request["checkpoint"], artifacts=Path(request["artifacts"]))
        return {"metrics": metrics, "missing": dict(evaluate.missing), "facts": evaluate.facts}

    return run


def _alpaca(settings: EvaluationSettings, storage: Path, tiny: bool, precision: str) -> Evaluate:
    from eval_workers.alpaca.evaluation import AlpacaEval
    from eval_workers.answers.answering import Answering

    answering = Answering(storage / "verdicts.sqlite", settings.generator_for(tiny))
    evaluate = AlpacaEval(answering, settings, tiny=tiny, precision=precision)
    return _of_answers("alpaca", evaluate)


def _arena(settings: EvaluationSettings, storage: Path, tiny: bool, precision: str) -> Evaluate:
    from eval_workers.answers.answering import Answering
    from eval_workers.arena.evaluation import ArenaHard

    if settings.arena_questions is None and not tiny:
        raise InputError("arena needs the folder with Arena-Hard's questions: give --arena-questions FOLDER")
    judge = settings.arena_judge or (*settings.judges, "tiny" if tiny else "")[0]
    if not judge:
        raise InputError("arena needs a judge: give --arena-judge openai:MODEL or anthropic:MODEL")
    answering = Answering(storage / "verdicts.sqlite", settings.generator_for(tiny))
    evaluate = ArenaHard(answering, settings, judge=judge, precision=precision)
    return _of_answers("arena", evaluate)


def _of_answers(suite: str, evaluate: Any) -> Evaluate:
    """An evaluation of answers, `AlpacaEval` or `ArenaHard`, as a function of a request."""

    def run(request: Request) -> dict[str, Any]:
        checkpoint, starting_model, artifacts = (Path(request[name]) for name in FOLDERS)
        return {"metrics": evaluate(checkpoint, starting_model, artifacts / suite), "facts": evaluate.facts}

    return run

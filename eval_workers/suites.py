"""The evaluations by name (`--suite reward harness alpaca arena`) and their settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from mmpo_train.config import EVALUATIONS
from mmpo_train.errors import InputError
from mmpo_train.typed.plugins import evaluation_of

Request = Mapping[str, str]
"""Folders of one evaluation: checkpoint, starting_model, artifacts."""
Evaluate = Callable[[Request], dict[str, Any]]
"""Returns {metrics: name -> number, facts: name -> what the numbers depend on besides the model}; the harness adds
`missing`, task -> why it has no result."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Settings of the evaluations other than reward accuracy."""

    harness_tasks: tuple[str, ...] = ()
    """LM Harness tasks. Default: the paper's ten; for tiny, its own."""
    task_data: Path | None = None
    """Folder with a file TASK.jsonl for each LM Harness task. Default: the tasks' data on the hub."""
    no_chat_template: bool = False
    """Ask LM Harness's questions as plain text. Without this option the model's chat template renders them, as in the
    paper."""
    alpaca_prompts: str = ""
    """File with the prompts for AlpacaEval. Default: AlpacaEval's 805 prompts; for tiny, its validation prompts."""
    alpaca_difficulty: Path | None = None
    """File with the difficulty of each prompt, for the length control. Default: in the gamed baselines' file."""
    alpaca_gamed: Path | None = None
    """File with verdicts on gamed baselines, for the length control. Default: AlpacaEval's own, from the hub, for its
    805 prompts; none for other prompts."""
    alpaca_gamed_sha256: str = ""
    """SHA-256 that the file with the gamed baselines must have. Default: not checked."""
    judge_prompt: Path | None = None
    """File with another prompt for the judges, or mc_po for the MC-PO paper's in our words. All judges must then reply
    in the same form: with a label or with a verdict. Default: each judge's own prompt."""
    arena_questions: Path | None = None
    """Folder in Arena-Hard's form (question.jsonl, model_answer); the arena suite needs it. Default: none; for tiny,
    its validation prompts."""
    arena_baseline: str = ""
    """The model to compare with: one that model_answer has, or starting_model. Default: Arena-Hard's own baseline."""
    arena_form: Literal["verdict", "labels"] = "verdict"
    """verdict plays one game that ends in a verdict, as in the MC-PO paper; labels plays two games with five labels, as
    Arena-Hard itself does."""
    arena_judge: str = ""
    """Arena-Hard's judge: openai:MODEL or anthropic:MODEL. Default: AlpacaEval's first judge; for tiny, its own."""
    judges: tuple[str, ...] = ()
    """AlpacaEval's judges. Default: gpt-4o-mini weighted by log-probabilities, and claude-haiku-4-5; for tiny, its
    own."""
    both_orders: bool = False
    """Show each pair of AlpacaEval's answers to the judge in both orders, at twice the price. Without this option the
    seed decides which answer comes first."""
    checked_pairs: int = 100
    """Pairs on which each judge is checked: what it gives an answer that only addresses the judge, and how often the
    order of the answers decides. 0 checks none."""
    cap_usd: float = 0.0
    """Stop a judge before it has cost more than this many US dollars. Default: no limit."""
    generator: Literal["auto", "own", "vllm"] = "auto"
    """What generates answers: own (this project's generator), vllm, or auto (vllm if it is installed and there is a
    GPU, else own)."""
    max_answer_tokens: int = 0
    """Longest answer, in tokens; longer ones are cut. Default: 4096; for tiny, 128 (AlpacaEval) or 256 (Arena-Hard)."""
    limit: int = 0
    """Use at most N documents of each LM Harness task, N prompts and N questions. Default: all."""

    def plain(self) -> dict[str, Any]:
        """The settings by name, without the fields that a subclass adds."""
        return {name: getattr(self, name) for name in EvaluationSettings.__dataclass_fields__}

    def generator_for(self, tiny: bool) -> Literal["auto", "own", "vllm"]:
        """The generator to use. tiny gets vLLM only by name: its heads are smaller than vLLM's kernels expect."""
        return "own" if tiny and self.generator == "auto" else self.generator


def build(suite: str, settings: EvaluationSettings, storage: Path, *, tiny: bool, precision: str) -> Evaluate:
    """The evaluation, which stays warm from one request to the next. `tiny`: the model is the embedded default.

    Raises InputError for settings with which it cannot run.
    """
    if plugged := evaluation_of(suite):
        return _plugged(suite, *plugged)
    builders = {"harness": _harness, "alpaca": _alpaca, "arena": _arena}
    if suite not in builders:
        raise InputError(f"suite {suite!r} is unknown; known are {', '.join(EVALUATIONS)}")
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
    import dataclasses

    from eval_workers.alpaca.evaluation import AlpacaEval
    from eval_workers.alpaca.settings import AlpacaSettings, tiny_settings
    from eval_workers.answers.answering import Answering

    given: dict[str, Any] = {
        "prompts": settings.alpaca_prompts,
        "judges": settings.judges,
        "difficulty": settings.alpaca_difficulty,
        "gamed": settings.alpaca_gamed,
        "gamed_sha256": settings.alpaca_gamed_sha256,
        "template": settings.judge_prompt,
        "max_new_tokens": settings.max_answer_tokens,
        "cap_usd": settings.cap_usd,
        "limit": settings.limit,
        "both_orders": settings.both_orders,
        "precision": precision,
    }
    usual = tiny_settings() if tiny else AlpacaSettings()
    named = {name: value for name, value in given.items() if value}
    chosen = dataclasses.replace(usual, **named, checked_pairs=settings.checked_pairs)
    evaluate = AlpacaEval(Answering(storage / "verdicts.sqlite", settings.generator_for(tiny)), chosen)
    return lambda request: {
        "metrics": evaluate(
            Path(request["checkpoint"]),
            baseline=Path(request["starting_model"]),
            artifacts=Path(request["artifacts"]) / "alpaca",
        ),
        "facts": evaluate.facts,
    }


def _arena(settings: EvaluationSettings, storage: Path, tiny: bool, precision: str) -> Evaluate:
    from eval_workers.answers.answering import Answering
    from eval_workers.arena.evaluation import ArenaHard, ArenaSettings

    if settings.arena_questions is None and not tiny:
        raise InputError("arena needs the folder with Arena-Hard's questions: give --arena-questions FOLDER")
    judge = settings.arena_judge or (*settings.judges, "tiny" if tiny else "")[0]
    if not judge:
        raise InputError("arena needs a judge: give --arena-judge openai:MODEL or anthropic:MODEL")
    usual = ArenaSettings()
    chosen = ArenaSettings(
        questions=settings.arena_questions,
        baseline=settings.arena_baseline,
        judge=judge,
        cap_usd=settings.cap_usd or None,
        form=settings.arena_form,
        template=settings.judge_prompt,
        precision=precision,
        limit=settings.limit,
        checked_pairs=settings.checked_pairs,
        max_new_tokens=settings.max_answer_tokens or usual.max_new_tokens,
    )
    evaluate = ArenaHard(Answering(storage / "verdicts.sqlite", settings.generator_for(tiny)), chosen)
    return lambda request: {
        "metrics": evaluate(
            Path(request["checkpoint"]),
            starting_model=Path(request["starting_model"]),
            artifacts=Path(request["artifacts"]) / "arena",
        ),
        "facts": evaluate.facts,
    }

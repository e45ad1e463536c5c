"""The evaluations by name, with what a person may choose of each: `--suite reward harness alpaca arena`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmpo_train.config import EVALUATIONS
from mmpo_train.errors import InputError

Suite = Literal["reward", "harness", "alpaca", "arena"]
Request = Mapping[str, str]
"""Folders of one evaluation: checkpoint, starting_model, tokens, reference, artifacts, and its precision."""
Evaluate = Callable[[Request], dict[str, Any]]
"""Gives {metrics: name -> number}; of the reward suite also `correct`, 0 or 1 for each validation pair; of the harness
also `missing`, task -> why it has no result."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How checkpoints are evaluated beyond reward accuracy."""

    harness_tasks: tuple[str, ...] = ()
    """LM Harness tasks. Default: the paper's ten, for tiny its own."""
    task_data: Path | None = None
    """Folder with TASK.jsonl for each task, instead of the hub."""
    chat_template: bool = True
    """Whether the harness renders its questions with the model's chat template, as the paper does."""
    alpaca_prompts: str = ""
    """Prompt file. Default: the 805 of AlpacaEval, for tiny its validation prompts."""
    alpaca_difficulty: Path | None = None
    """Instruction difficulties, for the length control."""
    alpaca_gamed: Path | None = None
    """Rows of the gamed baselines, for the length control. Default: AlpacaEval's own, from the hub."""
    alpaca_gamed_sha256: str = ""
    """What the gamed rows' file must have; empty for any."""
    judge_prompt: Path | None = None
    """A file with another prompt for the judges, which must then be of one kind."""
    arena_questions: Path | None = None
    """Folder in Arena-Hard's form (question.jsonl, model_answer). Default for tiny: its validation prompts."""
    arena_baseline: str = ""
    """A model of model_answer, or starting_model. Default: Arena-Hard's own."""
    arena_form: Literal["verdict", "labels"] = "verdict"
    """One game with a verdict as in the MC-PO paper, or upstream's two games with five labels."""
    arena_judge: str = ""
    """Arena-Hard's judge, openai:MODEL or anthropic:MODEL. Default: the first of --judges, for tiny its own."""
    judges: tuple[str, ...] = ()
    """AlpacaEval's judges. Default: gpt-4o-mini weighted by log-probabilities and claude-haiku-4-5; tiny's own for
    tiny."""
    both_orders: bool = False
    """Judge each pair of answers in both orders."""
    cap_usd: float = 0.0
    """Stop before a judge has cost so much; 0 for no cap."""
    generator: Literal["auto", "own", "vllm"] = "auto"
    """What answers prompts: vllm, this project's own, or the first where it is installed and there is a GPU."""
    max_answer_tokens: int = 0
    """Answers are cut here; 0 for each suite's own (4096, for tiny 128)."""
    actors_per_suite: int = 1
    """In a sweep: actors of each suite, which share its checkpoints."""
    gpus_per_actor: float = 0.1
    """In a sweep with GPUs: what one of them takes. Below 1 it shares a GPU that trains; 1 is a GPU of its own."""
    accelerator: str = ""
    """In a sweep with GPUs: their type, such as L4, where evaluators are not to sit beside the trials."""
    limit: int = 0
    """Only so many documents of a task, prompts and questions; 0 takes all."""

    def generator_for(self, tiny: bool) -> Literal["auto", "own", "vllm"]:
        """The generator; tiny's heads are smaller than vLLM's kernels expect, so that it is asked for by name only."""
        return "own" if tiny and self.generator == "auto" else self.generator


def build(suite: str, settings: EvaluationSettings, storage: Path, *, tiny: bool, precision: str) -> Evaluate:
    """The evaluation, warm from one request to the next. `tiny` says that the model is the embedded default.

    Raises InputError for what it cannot run with.
    """
    if suite not in EVALUATIONS:
        raise InputError(f"suite {suite!r} is unknown; known are {', '.join(EVALUATIONS)}")
    builders = {"reward": _reward, "harness": _harness, "alpaca": _alpaca, "arena": _arena}
    return builders[suite](settings, storage, tiny, precision)


def _reward(settings: EvaluationSettings, storage: Path, tiny: bool, precision: str) -> Evaluate:
    from eval_workers.reward_accuracy import RewardAccuracy

    evaluate = RewardAccuracy()
    return lambda request: evaluate(request["checkpoint"], request["tokens"], request["reference"])


def _harness(settings: EvaluationSettings, storage: Path, tiny: bool, precision: str) -> Evaluate:
    from eval_workers.harness.evaluation import LMHarness
    from eval_workers.harness.tasks import HARNESS_TASKS, TINY_TASKS

    evaluate = LMHarness(
        tasks=settings.harness_tasks or (TINY_TASKS if tiny else HARNESS_TASKS),
        task_data=settings.task_data,
        chat_template=settings.chat_template,
        limit=settings.limit or None,
        cache=storage / "harness",
    )

    def run(request: Request) -> dict[str, Any]:
        metrics = evaluate(request["checkpoint"], artifacts=Path(request["artifacts"]))
        return {"metrics": metrics, "missing": dict(evaluate.missing)}

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
    chosen = dataclasses.replace(usual, **{name: value for name, value in given.items() if value})
    evaluate = AlpacaEval(Answering(storage / "verdicts.sqlite", settings.generator_for(tiny)), chosen)
    return lambda request: {
        "metrics": evaluate(
            Path(request["checkpoint"]),
            baseline=Path(request["starting_model"]),
            artifacts=Path(request["artifacts"]) / "alpaca",
        )
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
        max_new_tokens=settings.max_answer_tokens or usual.max_new_tokens,
    )
    evaluate = ArenaHard(Answering(storage / "verdicts.sqlite", settings.generator_for(tiny)), chosen)
    return lambda request: {
        "metrics": evaluate(
            Path(request["checkpoint"]),
            starting_model=Path(request["starting_model"]),
            artifacts=Path(request["artifacts"]) / "arena",
        )
    }

"""The settings of the evaluations, as options name them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


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

"""How often a judge prefers a checkpoint's answers to the starting model's."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from eval_workers.answers.answering import Answering
from eval_workers.answers.sampling import Sampling
from eval_workers.judging.judges import judge_pairs
from eval_workers.judging.verdicts import Verdict
from mmpo_train.config import digest_of
from mmpo_train.data.tokens import read_questions, read_table
from mmpo_train.metric_names import ANSWERS, ANSWERS_WIN_RATE, error_of
from mmpo_train.trial.checkpoint import read_trial


def adjusted_win_rate(verdicts: Sequence[Verdict]) -> float:
    """(wins + ties / 2) / all over the verdicts, in which answer a is the candidate's (MC-PO paper, Section 5.1)."""
    counts = Counter(verdicts)
    return (counts["a"] + counts["tie"] / 2) / len(verdicts)


def win_rate(
    answering: Answering, checkpoint: Path, starting_model: Path, tokens: Path, judge: str, answers_folder: Path
) -> dict[str, float]:
    """Metrics of a checkpoint's greedy answers to the validation prompts against the starting model's.

    They are answers/win_rate with its standard error, answers/tokens (mean length), answers/cut (answers longer than
    max_completion_tokens) and answers/unjudged. Questions on which the judge failed count for neither side; without any
    verdict there is no win rate.
    """
    config = read_trial(checkpoint)
    prompts, questions = read_table(tokens, "validation").prompts, read_questions(tokens, "validation")
    greedy = [Sampling(temperature=0.0, max_new_tokens=config.max_completion_tokens)]
    baseline = digest_of([config.model_fingerprint, config.precision])
    folders = starting_model, prompts, greedy, config.precision
    _, theirs = answering.answers(answers_folder / f"{baseline}.jsonl", starting_model, baseline, *folders)
    name = f"{config.digest}-{checkpoint.name}"
    answers, ours = answering.answers(answers_folder / f"{name}.jsonl", checkpoint, name, *folders)
    verdicts, count = judge_pairs(
        answering.judge(judge, 0), questions, [row[0] for row in ours], [row[0] for row in theirs]
    )
    judged = [verdict for verdict in verdicts if verdict is not None]
    metrics = {
        f"{ANSWERS}unjudged": float(count.dropped),
        f"{ANSWERS}cut": float(sum(not row[0].finished for row in answers)),
        f"{ANSWERS}tokens": sum(len(row[0].ids) for row in answers) / len(answers),
    }
    if judged:
        rate = adjusted_win_rate(judged)
        points = [{"a": 1.0, "tie": 0.5, "b": 0.0}[verdict] for verdict in judged]
        spread = sum((point - rate) ** 2 for point in points) / max(1, len(points) - 1)
        metrics |= {ANSWERS_WIN_RATE: rate, error_of(ANSWERS_WIN_RATE): math.sqrt(spread / len(points))}
    return metrics

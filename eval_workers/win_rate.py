"""How often a judge prefers a checkpoint's answers to the starting model's."""

import math
from pathlib import Path
from statistics import mean, stdev

from eval_workers.answers.answering import Answering, Policy
from eval_workers.answers.sampling import Sampling
from eval_workers.judging.checks import PAIRS, judge_checks
from eval_workers.judging.judges import judge_pairs
from mmpo_train.config import digest_of
from mmpo_train.data.tokens import read_questions, read_table
from mmpo_train.metric_names import ANSWERS, ANSWERS_WIN_RATE, error_of
from mmpo_train.trial.checkpoint import read_trial


def win_rate(
    answering: Answering,
    checkpoint: Path,
    starting_model: Path,
    tokens: Path,
    judge: str,
    answers_folder: Path,
    template: Path | None = None,
) -> dict[str, float]:
    """Metrics of a checkpoint's greedy answers to the validation prompts against the starting model's.

    They are answers/win_rate with its standard error, answers/tokens (mean length), answers/cut (answers longer than
    max_completion_tokens) and answers/unjudged. Questions on which the judge failed count for neither side; without any
    verdict there is no win rate. `template` is another prompt of the judge.
    """
    config = read_trial(checkpoint)
    prompts, questions = read_table(tokens, "validation").prompts, read_questions(tokens, "validation")
    greedy = [Sampling(temperature=0.0, max_new_tokens=config.max_completion_tokens)]
    baseline = digest_of([config.model_fingerprint, config.precision])
    start = Policy(starting_model, baseline, starting_model, config.precision)
    policy = start._replace(folder=checkpoint, name=f"{config.digest}-{checkpoint.name}")
    _, theirs = answering.answers(answers_folder / f"{start.name}.jsonl", start, prompts, greedy)
    answers, ours = answering.answers(answers_folder / f"{policy.name}.jsonl", policy, prompts, greedy)
    asked = answering.judge(judge, 0, template)
    texts = questions, [row[0] for row in ours], [row[0] for row in theirs]
    compared, count = judge_pairs(asked, *texts)
    won = [one for one in compared if one is not None]
    metrics = {
        f"{ANSWERS}unjudged": float(count.dropped),
        f"{ANSWERS}cut": float(sum(not row[0].finished for row in answers)),
        f"{ANSWERS}tokens": sum(len(row[0].ids) for row in answers) / len(answers),
    }
    if won:
        # (wins + ties / 2) / all (MC-PO paper, Section 5.1)
        error = stdev(won) / math.sqrt(len(won)) if len(won) > 1 else 0.0
        metrics |= {ANSWERS_WIN_RATE: mean(won), error_of(ANSWERS_WIN_RATE): error}
        checks = judge_checks(asked, *texts, PAIRS)
        metrics |= {f"{ANSWERS}{name}": value for name, value in checks.items()}
    return metrics

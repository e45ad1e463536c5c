"""A segment of online training: the policy answers prompts, a judge ranks the answers, the reference scores them.

The MC-PO paper, Section 3.2 and Appendix B.1 (batched online setup).
"""

from typing import Any

import numpy as np

from eval_workers.answers.answering import Answering, Policy
from eval_workers.answers.generation import Answer
from eval_workers.answers.sampling import Sampling
from eval_workers.judging.judges import judge_all
from mmpo_train.config import digest_of, from_dict
from mmpo_train.data.tokens import TokenTable, read_questions, read_table
from mmpo_train.errors import InputError
from mmpo_train.metric_names import ONLINE
from mmpo_train.model.layouts import FORWARD_TOKENS, best_layout
from mmpo_train.model.scoring import score_pairs
from mmpo_train.storage.mirror import is_here, need, place_of, publish
from mmpo_train.trial.segments import write_segment


def make_segment(answering: Answering, request: dict[str, Any]) -> None:
    """Write the folder that the request (`segments.segment_request`) asks for, unless it exists.

    Answers are saved beside it as they come and verdicts in their cache, so that a second try continues the first. A
    prompt whose answers cannot be judged, or are all the same, is dropped and counted. Raises InputError if no prompt
    is left.
    """
    target = place_of(request["target"])
    if is_here(target):
        publish(target)
        return
    config, places, number = from_dict(request["config"]), np.array(request["prompts"]), request["segment"]
    tokens, model, policy = (need(request[name]) for name in ("tokens", "model", "policy"))
    table, questions = read_table(tokens, "train"), read_questions(tokens, "train")
    prompts = [table.prompts[place] for place in places]
    seed = int(digest_of([config.seed, number]), 16) % 2**32
    samplings = [
        Sampling(temperature=temperature, max_new_tokens=config.max_completion_tokens, seed=seed)
        for temperature in config.answer_temperatures
    ]
    path = target.with_name(f"answers-{number + 1:04d}.jsonl")
    # A trial's policy at the segment's start.
    asked = Policy(policy, f"{config.digest} {number}", model, config.precision)
    answers, texts = answering.answers(path, asked, prompts, samplings)
    judge = answering.judge(config.judge, config.seed)
    winners, count = judge_all(judge, [questions[place] for place in places], texts)
    kept, completions = [], []
    for row, (several, winner) in enumerate(zip(answers, winners, strict=True)):
        # The winner, then the distinct other answers.
        ranked = [] if winner is None else dict.fromkeys(tuple(one.ids) for one in (several[winner], *several))
        if len(ranked) > 1:
            kept.append(row)
            completions.append(tuple(np.array(ids, dtype=np.int32) for ids in ranked))
    if not kept:
        reasons = "; ".join(f"{reason} ({times})" for reason, times in count.reasons.items())
        raise InputError(
            f"segment {number + 1}: all {len(places)} prompts were dropped: {count.dropped} could not be judged"
            f"{f' ({reasons})' if reasons else ''}, and for the others the policy gave the same answer every time; "
            "check the judge, or raise answer_temperatures"
        )
    chosen = TokenTable(tuple(prompts[row] for row in kept), tuple(completions))
    forward = answering.scorer(model, config.precision)
    layout = best_layout(forward, chosen, config.precision, config.layout)
    tokens_per_pass = config.tokens_per_pass or FORWARD_TOKENS[answering.warm.device.type]
    ref_logps = score_pairs(forward, chosen, np.arange(len(chosen)), tokens_per_pass, layout=layout)
    write_segment(target, places[kept].tolist(), chosen, ref_logps, _metrics(answers, winners, completions))
    publish(target)


def _metrics(
    answers: list[list[Answer]], winners: list[int | None], completions: list[tuple[np.ndarray, ...]]
) -> dict[str, float]:
    everything = [answer for row in answers for answer in row]
    unjudged = sum(winner is None for winner in winners)
    return {
        f"{ONLINE}prompts": float(len(completions)),
        f"{ONLINE}unjudged": float(unjudged),
        f"{ONLINE}all_answers_equal": float(len(answers) - unjudged - len(completions)),
        f"{ONLINE}answers_cut": float(sum(not answer.finished for answer in everything)),
        f"{ONLINE}tokens_per_answer": float(np.mean([len(answer.ids) for answer in everything])),
        f"{ONLINE}different_answers": float(np.mean([len(row) for row in completions])) if completions else 0.0,
    }

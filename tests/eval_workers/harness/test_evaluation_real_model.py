"""The harness on SmolLM2-135M-Instruct against lm-eval itself on the same weights; skipped where those are absent."""

import json

import pytest

from eval_workers.harness.evaluation import LMHarness
from tests.support.real_models import real_model
from tests.support.task_rows import rows_of, write_rows

TASKS = ("winogrande", "arc_easy", "piqa", "openbookqa", "commonsense_qa")


@pytest.mark.slow
def test_accuracies_are_those_of_lm_evals_own_run_task_by_task(tmp_path):
    """With its chat template and zero-shot, each option's log-likelihood to 1e-4 of itself."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    folder = real_model("smollm2")
    for task in TASKS:
        write_rows(tmp_path / "data" / f"{task}.jsonl", [rows_of(task, number) for number in range(6)])
    harness = LMHarness(tasks=TASKS, task_data=tmp_path / "data", cache=tmp_path / "cache")
    metrics = harness(str(folder), artifacts=tmp_path)
    theirs = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=4)
    [definitions] = (tmp_path / "cache" / "harness_tasks").iterdir()
    for task in TASKS:
        manager = TaskManager(include_path=str(definitions / task), include_defaults=False)
        found = simple_evaluate(
            theirs, tasks=[task], task_manager=manager, num_fewshot=0, apply_chat_template=True, bootstrap_iters=0
        )
        assert metrics[f"harness/{task}/acc"] == found["results"][task]["acc,none"]
        rows = [
            json.loads(line) for line in (tmp_path / "harness" / "samples" / f"{task}.jsonl").read_text().splitlines()
        ]
        for ours, sample in zip(rows, found["samples"][task], strict=True):
            expected = [score for score, _ in sample["filtered_resps"]]
            assert ours["loglikelihoods"] == pytest.approx(expected, rel=1e-4)

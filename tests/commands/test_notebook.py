"""docs/sweep.ipynb, cell by cell, as a notebook runs it; and the same functions inside a Ray task."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.workers import REPOSITORY

CELLS = """
import json, sys
cells = json.load(open(sys.argv[1]))["cells"]
names = {}
for cell in cells:
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
result, judged = names["result"], names["scores"][str(names["best"])]
print(json.dumps([len(result.frame), result.winner["reward_accuracy"], judged["validation/reward_accuracy"]]))
"""
IN_A_TASK = """
import ray, sys

def task(storage):
    import mmpo
    planned = mmpo.sweep("stage1", storage=storage, learning_rates=[1e-4], dry_run=True)
    try:
        mmpo.sweep("stage1", storage=storage, modle="tiny")
    except mmpo.InputError as error:
        return planned.frame["state"].tolist(), str(error)

ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=40)
print(ray.get(ray.remote(task).remote(sys.argv[1])))
"""


def run(program, *words, folder):
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "MMPO_RUNNER": "process"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


@pytest.mark.slow
def test_the_notebook_runs_and_a_judged_checkpoint_has_the_score_of_its_stage(tmp_path):
    lines = run(CELLS, str(REPOSITORY / "docs" / "sweep.ipynb"), folder=tmp_path)
    rows, won, judged = json.loads(lines[-1])
    assert rows == 2 and won == judged > 0.5
    assert "modle is no option of this program; did you mean 'model'?" in "\n".join(lines)


@pytest.mark.slow
def test_a_ray_task_gets_results_and_errors_as_values(tmp_path):
    [last] = run(IN_A_TASK, str(tmp_path / "runs"), folder=tmp_path)[-1:]
    assert "['new']" in last and "did you mean 'model'" in last

"""The ring of whole stages: Ray, DeepSpeed workers, evaluators and MLflow, from the command line to the winner.

A case is a stage under several faults, one after the other, each at a random moment; the same command is given again
whenever one has ended it.
"""

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from faults.engine import Case, Found, NotFired
from faults.inputs import STEPS_PER_EPOCH, command, write_inputs
from faults.machines import Machines
from faults.stage import Stage
from faults.stage_faults import HERE, Fault, disturb, on

EPOCHS, TRIALS = 40, 2
FAULTS, GAP_SECONDS, GAP_STEPS = 14, 10.0, 60
"""Faults of a case, and the most between two of them: half of them come after seconds, mostly in a start-up, the
others after steps of the trials."""


class Stages:
    """Stage 1 with two learning rates, forty epochs each."""

    name = "stages"

    def __init__(self, folder: Path) -> None:
        self.model, self.data = write_inputs(folder)
        self.kinds = {"on one machine": self._here, "on a cluster": self._on_cluster}

    def _begin(self, case: Case, machines: Machines | None = None) -> Stage:
        words = stage_command(self.model, self.data, case.storage, EPOCHS)
        return Stage(words, case, EPOCHS * STEPS_PER_EPOCH, machines)

    def _here(self, case: Case) -> None:
        self._several(case, self._begin(case), HERE)

    def _on_cluster(self, case: Case) -> None:
        with Machines() as machines:
            stage, faults = self._begin(case, machines), on(machines)
            self._several(case, stage, faults, ["node lost", "node taken away with notice"])

    def _several(self, case: Case, stage: Stage, faults: dict[str, Fault], also: Iterable[str] = ()) -> None:
        """Those of `also` are fired twice as often."""
        kinds, random = case.random.sample([*faults, *also], FAULTS), case.random
        in_start_up = [random.random() < 1 / 2 for _ in kinds]
        seconds = [random.uniform(0, GAP_SECONDS) * early for early in in_start_up]
        steps = [random.randrange(GAP_STEPS) * (not early) for early in in_start_up]
        try:
            disturb(stage, faults, zip(seconds, steps, kinds, strict=True), random)
            stage.finish()
            if stage.machines is not None:
                stage.machines.end()
            if left := stage.left_over():
                raise RuntimeError(f"still running: {left}")
        finally:
            stage.kill()
        if not case.rows:
            raise NotFired("the stage ended before any fault")

    def compare(self, case: Case) -> Found:
        """One finished run for each trial and one for the stage; every step of every metric once; one evaluation of
        each epoch; whole checkpoints, but for those that a fault has damaged after they were judged; no process left;
        and one more run trains nothing."""
        from mmpo_train.storage.manifest import is_whole

        found = _differences(case)
        checkpoints = sorted(case.storage.glob("trials/*/checkpoints/epoch-*"))
        broken = {one for one in checkpoints if not is_whole(one)} - {path.parent for path in case.damaged}
        if len(checkpoints) != TRIALS * EPOCHS or broken:
            found.lost.append(f"checkpoints: {len(checkpoints)}, of them not whole {sorted(broken)}")
        before = _written(checkpoints)
        stage = self._begin(case)
        if stage.end():
            raise RuntimeError(stage.words_said()[-2000:])
        if "nothing to train" not in stage.words_said():
            found.doubled.append("one more run trained")
        if before != _written(checkpoints):
            found.doubled.append("one more run wrote checkpoints")
        again = _differences(case)
        return Found(found.lost + again.lost, found.doubled + again.doubled)


def stage_command(model: Path, data: Path, storage: Path, epochs: int) -> list[str]:
    """Stage 1 with two learning rates, as a person gives it."""
    words = [sys.executable, "sweeps/stage1_lr.py", *command(model, data, storage, epochs)]
    return [*words, "--learning-rates", "1e-3", "1e-4", "--workers-per-trial", "1"]


def _written(checkpoints: list[Path]) -> dict[Path, int]:
    manifests = [one / "manifest.json" for one in checkpoints]
    return {path: path.stat().st_mtime_ns for path in manifests if path.exists()}  # else it is what a fault deleted


def _differences(case: Case) -> Found:
    from mlflow import MlflowClient

    found, client = Found(), MlflowClient(f"sqlite:///{case.storage}/mlflow.db")
    experiments = [one for one in client.search_experiments() if one.name != "Default"]
    runs = client.search_runs([one.experiment_id for one in experiments])
    trials = [run for run in runs if "trial.digest" in run.data.tags and "duplicate_of" not in run.data.tags]
    stages = Counter(run.info.run_name for run in runs if "trial.digest" not in run.data.tags)
    if len({run.data.tags["trial.digest"] for run in trials}) != TRIALS or not stages:
        found.lost.append(f"runs: {[run.info.run_name for run in runs]}")
    if len(trials) > TRIALS or max(stages.values(), default=1) > 1:
        found.doubled.append(f"runs: {[run.info.run_name for run in runs]}")
    first = [run for run in runs if run in trials or run.info.run_name.startswith("stage1")]
    if {run.info.status for run in first} != {"FINISHED"} or "RUNNING" in {run.info.status for run in runs}:
        found.lost.append(f"states {[(run.info.run_name, run.info.status) for run in runs]}")
    for run in trials:
        for name in run.data.metrics:
            steps = Counter(point.step for point in client.get_metric_history(run.info.run_id, name))
            if set(steps.values()) != {1}:
                found.doubled.append(f"{name} of {run.info.run_name}")
            of_epoch, of_step = name.startswith("validation/"), name.startswith("train/")
            wanted = EPOCHS * STEPS_PER_EPOCH if of_step else EPOCHS if of_epoch else len(steps)
            if (of_epoch or of_step) and set(steps) != set(range(1, wanted + 1)):
                found.lost.append(f"{name} of {run.info.run_name}: {len(steps)} of {wanted} steps")
        judged = [item.path for item in client.list_artifacts(run.info.run_id, "validation")]
        if judged != [f"validation/epoch-{epoch:04d}.json" for epoch in range(1, EPOCHS + 1)]:
            found.lost.append(f"evaluations of {run.info.run_name}: {len(judged)}")
    return found

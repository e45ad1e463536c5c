"""Instruction tuning on the cluster: one Ray Train job, with its reports written to the ledger and the terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray.train
from ray import tune
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmpo_train.config import to_dict
from mmpo_train.events import Finished, Point
from mmpo_train.metric_names import EPOCH, LOSS, LOSS_CURVE, TOKENS_PER_SECOND, VALIDATION_LOSS
from mmpo_train.storage.mirror import name_of
from mmpo_train.terminal import console
from sweeps.cluster.connection import ray_storage
from sweeps.cluster.placement import TrialResources
from sweeps.trials.reasons import one_line
from sweeps.trials.train_job import begin, run_job
from sweeps.trials.tune import ON_HEAD, error_of
from sweeps.trials.work_clock import WorkClock

if TYPE_CHECKING:
    from mmpo_train.sft.prepare import SFTPlaces
    from mmpo_train.sft.trial import SFTTrial
    from sweeps.ledger.trial_log import TrialLog


def train_sft(
    trial: SFTTrial, places: SFTPlaces, storage: Path, resources: TrialResources, log: TrialLog
) -> tuple[str, str]:
    """Tune to the end and record it. Returns the final state (finished, diverged or failed) and its reason.

    If it is interrupted the record says so, and the same call continues from the last saved state.
    """
    job = {
        "digest": trial.digest,
        "config": to_dict(trial),
        "places": {name: name_of(path) for name, path in vars(places).items()},
        "ray_storage": ray_storage(storage),
        **resources.job(),
    }
    try:
        with _bar(trial) as show:
            listener = _Listener(log, show, WorkClock(resources.workers))
            tune.Tuner(
                tune.with_resources(drive_sft, ON_HEAD),
                param_space={"job": tune.grid_search([job])},
                tune_config=tune.TuneConfig(
                    trial_name_creator=lambda _: trial.digest, trial_dirname_creator=lambda _: trial.digest
                ),
                run_config=tune.RunConfig(
                    name=f"sft-{time.strftime('%Y%m%d-%H%M%S')}",
                    storage_path=ray_storage(storage),
                    verbose=0,
                    callbacks=[listener],
                    failure_config=tune.FailureConfig(max_failures=0),
                ),
            ).fit()
        state, reason = listener.outcome
        if state == "finished":
            log.finish(listener.clock.seconds())
        elif state == "diverged":
            log.diverged(reason)
        else:
            log.fail(reason)
    finally:
        if not log.ended:
            log.fail("interrupted: the same command goes on from the last state written")
    return state, reason


def drive_sft(space: dict[str, Any]) -> None:
    """Run one instruction tuning to its end. Tune calls this function."""
    run_job(space["job"], tune_worker)


def tune_worker(job: dict[str, Any]) -> None:
    """The function of each DeepSpeed worker."""
    import warnings

    warnings.filterwarnings("ignore")
    from mmpo_train.engines.deepspeed_engine import zero_engine
    from mmpo_train.sft.prepare import SFTPlaces
    from mmpo_train.sft.run import run_sft
    from mmpo_train.sft.trial import SFTTrial, change
    from mmpo_train.storage.mirror import place_of
    from mmpo_train.trial.reports import report_on

    begin(job)
    places = SFTPlaces(**{name: place_of(path) for name, path in job["places"].items()})
    report_on(partial(run_sft, change(SFTTrial(), job["config"]), places, zero_engine), ray.train.report)


class _Listener(tune.Callback):
    """Writes the reports that Tune receives to the ledger and the screen."""

    def __init__(self, log: TrialLog, show: Any, clock: WorkClock) -> None:
        self.log, self.show, self.clock = log, show, clock
        self.losses: dict[int, float] = {}
        """Epoch -> validation loss at its end."""
        self.outcome = ("finished", "")

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for its own way of resuming; ours is the ledger.
        return {}

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        self.clock.hear(result)
        points = [Point(*point) for point in result.get("points", ())]
        self.log.points(points)
        for point in points:
            epoch = point.metrics[EPOCH]
            if LOSS_CURVE in point.metrics and epoch == round(epoch):
                self.losses[round(epoch)] = point.metrics[LOSS_CURVE]
        if points:
            self.show(points[-1])
        if result.get("finished"):
            finished = Finished(*result["finished"])
            loss = self.losses[finished.epoch]
            self.log.evaluated(finished.epoch, {VALIDATION_LOSS: loss}, (), finished.checkpoint)
            console.print(f"epoch {finished.epoch}: validation loss {loss:.4f} nats a token", highlight=False)
        if result.get("said"):
            console.print(result["said"], markup=False, highlight=False)
        if result.get("diverged"):
            self.outcome = ("diverged", result["diverged"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.outcome = ("failed", one_line(error_of(trial)))


@contextmanager
def _bar(trial: SFTTrial) -> Iterator[Any]:
    """A progress bar over the trial's steps; yields a function that takes the newest point."""
    columns = (TextColumn("instruction tuning"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("starting", total=None)

        def show(point: Point) -> None:
            total = round(point.step / point.metrics[EPOCH] * trial.epochs)
            speed = f"{point.metrics[TOKENS_PER_SECOND]:,.0f} tokens/s"
            text = f"steps · loss {point.metrics[LOSS]:.4f} · {speed}"
            progress.update(task, completed=point.step, total=total, description=text)

        yield show

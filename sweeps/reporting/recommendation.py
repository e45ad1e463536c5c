"""What a report opens with: which values and which checkpoint to use, by what, how sure, and at what cost."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmpo_train.metric_names import ARENA_WIN_RATE, LENGTH_CONTROLLED, POLICY_ACCURACY, WIN_RATE
from sweeps.plan.labels import shown, words
from sweeps.plan.order import FINAL_RUNS, search_of, tuned_grids
from sweeps.ranking.effects import Effect, difference_of, in_points
from sweeps.ranking.noise import Measured
from sweeps.reporting.claims import beta_floor, is_one_training
from sweeps.reporting.numbers import length_controlled, metrics_of, peak
from sweeps.reporting.read import Experiment, Point, StageRun, Trial


@dataclass(frozen=True)
class Candidate:
    """The best checkpoint of one objective."""

    objective: str
    stage: str
    values: dict[str, float]
    """Tuned field -> its value."""
    epoch: int
    metric: str
    score: Measured
    next_best: str
    """The best checkpoint of the other points."""
    lead: Effect | None
    """Over that one."""
    checkpoint: str
    is_adapter: bool
    run_id: str
    trained: int
    hours: float
    gpu_hours: float
    one_training: bool
    """Whether the points of its stage are replicates of one training."""

    @property
    def load(self) -> str:
        """The command that loads it."""
        library, name = ("peft", "AutoPeft") if self.is_adapter else ("transformers", "Auto")
        model = f"from {library} import {name}ModelForCausalLM as Model"
        return f"python -c {shlex.quote(f'{model}; Model.from_pretrained({self.checkpoint!r})')}"

    @property
    def sure(self) -> str:
        """How sure it is that this checkpoint is better than the next best."""
        return "the only point of its stage" if self.lead is None else f"over {self.next_best} {in_points(self.lead)}"


def candidates(experiment: Experiment) -> list[Candidate]:
    """The best checkpoint of each objective, by a metric that compares objectives; the best of them first.

    Of the final runs, or where there are none of the last stage that has a result. The metric is the first of these
    that all have: AlpacaEval's win rate, Arena-Hard's, accuracy by plain log-probabilities.
    """
    stages = {name: stage for name in experiment.objectives if (stage := _last(experiment, name)) is not None}
    metric = _metric(list(stages.values()))
    found = [one for name, stage in stages.items() if (one := _best(experiment, name, stage, metric)) is not None]
    return sorted(found, key=lambda one: -one.score.value)


def values_of(one: Candidate) -> str:
    """`learning rate 5e-4, beta 0.05, r_eps 0.6`."""
    return ", ".join(f"{words(name)} {shown(name, value)}" for name, value in one.values.items())


def _last(experiment: Experiment, objective: str) -> StageRun | None:
    names = [stage.name for stage in search_of(objective) if not stage.is_last]
    for name in (FINAL_RUNS.name, *reversed(names)):
        stage = experiment.stage(name, objective)
        if stage is not None and any(_finished(point) for point in stage.points):
            return stage
    return None


def _metric(stages: Sequence[StageRun]) -> str:
    there = [metrics_of([stage]) for stage in stages]
    for metric in (length_controlled(stages), WIN_RATE, ARENA_WIN_RATE):
        if there and all(metric in some for some in there):
            return metric
    return POLICY_ACCURACY


def _best(experiment: Experiment, objective: str, stage: StageRun, metric: str) -> Candidate | None:
    peaks = [one for point in stage.points if (one := peak(stage, metric, [point])) is not None]
    if not peaks:
        return None
    peaks.sort(key=lambda one: -one[2].value)
    point, epoch, score = peaks[0]
    trial = _finished(point)[0]
    axis, config = stage.params.get("axis", ""), trial.record.config
    lead, next_best = None, ""
    if len(peaks) > 1:
        other, at, second = peaks[1]
        lead = difference_of(score, second, beta_floor(stage, metric))
        next_best = f"{words(axis)} {other.label}, epoch {at}"
    seconds = [(one.record.seconds or 0.0, one) for one in _trained(experiment, objective)]
    return Candidate(
        objective=objective,
        stage=stage.name,
        values={name: float(config[name]) for name in tuned_grids(objective)},
        epoch=epoch,
        metric=metric,
        score=score,
        next_best=next_best,
        lead=lead,
        checkpoint=next((one.checkpoint for one in trial.record.evaluations if one.epoch == epoch), ""),
        is_adapter=bool(config.get("lora_rank")),
        run_id=trial.record.run_id,
        trained=len(seconds),
        hours=sum(time for time, _ in seconds) / 3600,
        gpu_hours=sum(time * (one.hardware.gpus if one.hardware else 0) for time, one in seconds) / 3600,
        one_training=is_one_training(stage),
    )


def _finished(point: Point) -> list[Trial]:
    return [trial for trial in point.trials if trial.record.status == "finished"]


def _trained(experiment: Experiment, objective: str) -> list[Trial]:
    """What the search trained for the objective."""
    stages = (stage for stage in experiment.stages if stage.objective == objective)
    return [trial for stage in stages for trial in experiment.trained_in(stage) if not trial.record.shares]


def measure_name(metric: str) -> str:
    """A metric's name in the recommendation."""
    named = {WIN_RATE: "raw win rate", ARENA_WIN_RATE: "Arena-Hard win rate", POLICY_ACCURACY: "policy accuracy"}
    return named.get(metric) or LENGTH_CONTROLLED[metric]


def is_there(checkpoint: str) -> bool | None:
    """Whether a local checkpoint still exists; None for one in a bucket."""
    return None if "://" in checkpoint else Path(checkpoint).is_dir()

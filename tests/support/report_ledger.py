"""A ledger for the tests of the report: stages and trials with made-up numbers, through the project's own Ledger."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpo_train.config import TrialConfig, replace
from mmpo_train.events import Point
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.stage_log import StageLog
from sweeps.ledger.tags import HARDWARE
from sweeps.plan.stages import GridPoint, Stage
from sweeps.ranking.ranked import Candidate
from sweeps.ranking.winners import rank
from sweeps.ranking.wording import columns
from sweeps.search.choices import stage_tags

PAIRS = 100
EXPERIMENT = "SmolLM2-360M on orca+ultrafeedback"

Scores = Mapping[int, Mapping[str, float]]
"""Epoch -> metrics; validation/reward_accuracy must be a multiple of 1 / PAIRS."""


def made(
    ledger: Ledger,
    stage: Stage,
    base: TrialConfig,
    scored: Mapping[str, Scores | str],
    *,
    seeds: int = 1,
    params: Mapping[str, str] | None = None,
    hardware: str = "4 x L40",
    finished: bool = True,
    experiment: str = EXPERIMENT,
    answers: Path | None = None,
    search: str = "",
) -> str:
    """Records a stage as the sweep does, and returns its run. `scored` is by run name (`lr=5e-4`, `final b=0.05 s43`):
    every epoch's metrics, or why the trial diverged (`loss…`) or failed; a name that is not in it was never trained."""
    points = stage.points(base, None, seeds)
    settings = {"axis": stage.axis, "recipe": "smollm2-360m", "settings": "paper", **(params or {})}
    log = ledger.open_stage(
        experiment, stage.name, base.objective, base.digest, title=stage.name, params=settings, note="", search=search
    )
    if stage.tunes:
        log.tag(stage_tags(points[0].trials[0].config, stage.axis, ""))
    listed = [{"label": one.label, "digests": [trial.digest for trial in one.trials]} for one in points]
    log.log_json("points.json", listed)
    for trial in (trial for point in points for trial in point.trials):
        before = ledger.look_up(experiment, trial.digest)
        if before is not None and before.status == "finished":
            log.take(before, trial.run_name)
            continue
        if trial.run_name not in scored:
            continue
        opened = log.open_trial(trial.config, trial.run_name, {HARDWARE: hardware})
        epochs = scored[trial.run_name]
        if isinstance(epochs, str):
            (opened.diverged if epochs.startswith("loss") else opened.fail)(epochs)
            continue
        for epoch, metrics in epochs.items():
            own = {name: value for name, value in metrics.items() if name.startswith("validation/")}
            right = round(own["validation/reward_accuracy"] * PAIRS)
            opened.evaluated(epoch, own, [1] * right + [0] * (PAIRS - right), f"checkpoints/epoch-{epoch:04d}")
            opened.points([Point(epoch, 1_000 + epoch, {k: v for k, v in metrics.items() if k not in own})])
            curve = {"validation_curve/reward_accuracy": own["validation/reward_accuracy"]}
            opened.points([Point(100 * epoch, 2_000 + epoch, curve)])
            if answers is not None:
                opened.artifacts(answers, f"evaluations/epoch-{epoch:04d}")
        opened.finish(1800.0)
    ledger.flush(60)
    if finished:
        _conclude(ledger, stage, points, log, experiment)
    ledger.flush(60)
    return log.run_id


def _conclude(ledger: Ledger, stage: Stage, points: Sequence[GridPoint], log: StageLog, experiment: str) -> None:
    """The winner and its tags, as `sweeps/search/conclusion.py` records them."""
    found: list[Candidate] = []
    records = {}
    for point in points:
        for trial in point.trials:
            record = ledger.look_up(experiment, trial.digest)
            named: dict[str, Any] = {"label": point.label, "value": point.value, "seed": trial.config.seed}
            named["extra"] = {"digest": trial.digest}
            if record is None or record.status != "finished":
                found.append(
                    Candidate(**named, state="diverged" if record and record.status == "diverged" else "failed")
                )
                continue
            records[trial.digest] = record
            found += [Candidate(**named, epoch=one.epoch, correct=one.correct) for one in record.evaluations]
    ranking = rank(found)
    log.log_table("ranking", columns(stage, ranking, records, {}))
    assert ranking.winner is not None
    log.mark_winner([one.extra["digest"] for one in ranking.winner.seeds])
    tags = {f"winner.{stage.axis}": ranking.winner.candidate.value, "winner.reason": ranking.reason}
    log.finish(records[ranking.winner.candidate.extra["digest"]], tags)


def reward(share: float, **more: float) -> dict[str, float]:
    """Metrics of one epoch: reward accuracy, and others with __ for the slash."""
    return {"validation/reward_accuracy": share} | {name.replace("__", "/"): value for name, value in more.items()}


def judged(share: float, harness: float, lc_win_rate: float) -> dict[str, float]:
    """All that a final run is judged by, with errors of 0.01 and 0.02."""
    metrics = reward(share, harness__mean_accuracy=harness, harness__mean_accuracy_error=0.01)
    judges = {f"alpaca/lc_win_rate_error/{judge}": error for judge, error in (("gpt", 0.015), ("claude", 0.025))}
    return metrics | {"alpaca/lc_win_rate": lc_win_rate} | judges


def config(objective: str = "mmpo", **fields: Any) -> TrialConfig:
    """A trial of the experiment."""
    about = {"model": "HuggingFaceTB/SmolLM2-360M", "dataset": ("some/orca", "some/ultrafeedback")}
    return replace(TrialConfig(), {"objective": objective, **about, **fields})


def answers_in(folder: Path, answers: Mapping[str, str], preference: float = 1.75) -> Path:
    """An evaluation's folder with the answers of AlpacaEval and of Arena-Hard."""
    alpaca, arena = folder / "alpaca", folder / "arena" / "model_answer"
    for made_folder in (alpaca, arena):
        made_folder.mkdir(parents=True)
    rows = [{"instruction": asked, "output": said, "generator": "x"} for asked, said in answers.items()]
    (alpaca / "outputs.json").write_text(json.dumps(rows))
    lines = [{"instruction": asked, "judge": "gpt", "preference": preference} for asked in answers]
    (alpaca / "annotations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    turns = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": {"answer": a}}]}
        for q, a in answers.items()
    ]
    for epoch in range(1, 6):
        (arena / f"epoch-{epoch:04d}.jsonl").write_text("".join(json.dumps(turn) + "\n" for turn in turns))
    return folder

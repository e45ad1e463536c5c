"""The first page of a report: the recommendation and the papers' claims, as blocks and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mmpo_train.storage.whole_file import write_whole
from mmpo_train.tables import Table
from sweeps.plan.commands import as_typed
from sweeps.ranking.effects import Effect, difference_of, in_points
from sweeps.reporting.claims import Found, mmpo_claims
from sweeps.reporting.mc_po_claims import mc_po_claims
from sweeps.reporting.page import MISSING, Block, Heading, Sheet, Text
from sweeps.reporting.read import Experiment
from sweeps.reporting.recommendation import Candidate, candidates, is_there, measure_name, values_of
from sweeps.reporting.tables import percent, stage_title

_VERDICTS = (
    "One line for each claim of the papers. An effect is in percentage points, with its 95% interval. Holds: the "
    "interval is on the claim's side of 0; contradicted: on the other side; within noise: it contains 0. An identity "
    "follows from the loss and needs no measurement. The noise is the deviation over seeds where both sides have "
    "several, else the larger of the numbers' own standard errors and the deviation of MMPO's betas, which with "
    "Listing 1 are replicates of one training. Nothing is corrected for the number of lines."
)


def opening(experiments: Sequence[Experiment], out: Path) -> list[Block]:
    """The blocks; writes report.json, with the recommendation and the claims, into `out`."""
    blocks: list[Block] = [Heading(2, "Recommendation")]
    found = {one.name: candidates(one) for one in experiments}
    claims = {one.name: _claims(one) for one in experiments}
    suffixes = {one.name: f"_{number + 1}" if len(experiments) > 1 else "" for number, one in enumerate(experiments)}
    for one in experiments:
        blocks += _recommended(found[one.name], one.name, suffixes[one.name])
    blocks += [Heading(2, "The papers' claims")]
    for one in experiments:
        blocks += [_sheet(claims[one.name], one.name if len(experiments) > 1 else "").named(suffixes[one.name])]
    written = {
        "searches": {one.name: one.search for one in experiments},
        "recommendation": [
            {"experiment": name, **asdict(one), "load": one.load} for name, some in found.items() for one in some
        ],
        "claims": [{"experiment": name, **asdict(one)} for name, some in claims.items() for one in some],
    }
    write_whole(out / "report.json", json.dumps(written, indent=1) + "\n")
    return blocks


def _claims(experiment: Experiment) -> list[Found]:
    studies = [stage for stage in experiment.stages if stage.study]
    has_search = any(stage.objective for stage in experiment.stages)
    return (mmpo_claims(experiment) if has_search or not studies else []) + (
        mc_po_claims(experiment) if studies else []
    )


def _recommended(found: Sequence[Candidate], experiment: str, suffix: str) -> list[Block]:
    about = f"{experiment}: " if suffix else ""
    if not found:
        return [Text(f"{about}nothing yet: no trial of a search has a result.")]
    best, others = found[0], found[1:]
    said = f"Use {best.objective} with {values_of(best)}: the checkpoint of epoch {best.epoch} of "
    said += f"{stage_title(best.stage)}, by its {measure_name(best.metric)}, {percent(best.score)} percent. "
    said += f"Among its points: {best.sure}."
    if best.one_training:
        said += " These points are one training: the choice among them is one of score, or of noise."
    if others:
        lead = in_points(difference_of(best.score, others[0].score))
        said += f" Over the best of {others[0].objective}: {lead}."
    rows = [
        (
            one.objective, values_of(one), str(one.epoch), percent(one.score), one.sure, str(one.trained),
            f"{one.hours:.2f}", f"{one.gpu_hours:.2f}" if one.gpu_hours else MISSING,
        )
        for one in found
    ]  # fmt: skip
    cost = ("trials", "hours", "GPU-hours")
    headers = ("objective", "values", "epoch", measure_name(best.metric), "the next point", *cost)
    caption = "The best checkpoint of each objective, and what its search cost: trials trained and their hours."
    gone = " The folder is not on this machine." if is_there(best.checkpoint) is False else ""
    return [
        Text(about + said),
        Text(f"Load it: `{as_typed(best.load)}`.{gone} Its run in MLflow: `{best.run_id}`."),
        Sheet("recommendation", Table(caption, headers, rows, words=(0, 1, 4))).named(suffix),
    ]


def _sheet(found: Sequence[Found], about: str) -> Sheet:
    rows = [(one.claim, one.verdict, *_numbers(one.effect), f"{one.paper}, {one.place}", one.why) for one in found]
    headers = ("claim", "verdict", "effect", "95% interval", "from", "where", "")
    return Sheet("claims", Table(f"{f'{about}. ' if about else ''}{_VERDICTS}", headers, rows, words=(0, 1, 4, 5, 6)))


def _numbers(effect: Effect | None) -> tuple[str, str, str]:
    if effect is None:
        return MISSING, MISSING, ""
    between = MISSING
    if effect.interval is not None:
        low, high = effect.interval
        between = f"{100 * low:+.2f} to {100 * high:+.2f}"
    return f"{100 * effect.value:+.2f}", between, f"{effect.replicates}; {effect.noise_is}"

"""What the MMPO paper claims (Sections 4 and 5), one line each: our effect, its interval, and what that says of it."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from mmpo_train.metric_names import HARNESS_MEAN, REWARD_ACCURACY, error_of
from sweeps.plan.order import ABLATIONS, FINAL_RUNS, STAGE_2
from sweeps.ranking import paper_numbers
from sweeps.ranking.effects import Effect, Floor, Verdict, difference_of, floor_of, verdict_of
from sweeps.ranking.noise import Measured, spread
from sweeps.reporting.numbers import epochs_of, length_controlled, measure, peak
from sweeps.reporting.read import Experiment, Point, StageRun

IDENTITY = (
    "Listing 1's loss is exactly -s_w: beta, r_eps and the normalisation are in the score and not in the gradient, so "
    "that these are replicates of one training"
)
_PAPERS_BETA = 0.01
_CALLED = {"dpo": "DPO", "simpo": "SimPO"}
Pair = tuple[Measured | None, Measured | None]


@dataclass(frozen=True)
class Found:
    """A claim beside what we measured."""

    paper: str
    place: str
    """Where the paper says it."""
    claim: str
    effect: Effect | None
    """As a share; None where a number is not there."""
    verdict: Verdict
    why: str = ""


def mmpo_claims(experiment: Experiment) -> list[Found]:
    """Every claim, in the paper's order; what our ledger has no numbers for is not measured."""
    final = _stage(experiment, FINAL_RUNS.name, "mmpo")
    rate = length_controlled([final] if final is not None else [])
    metrics = {HARNESS_MEAN: "LM Harness accuracy", rate: "win rate"}
    floors = {metric: beta_floor(final, metric) for metric in metrics}
    found = [_beta_identity(final, metric, name, floors[metric]) for metric, name in metrics.items()]
    for other, called in _CALLED.items():
        betas = _stage(experiment, FINAL_RUNS.name, other)
        for metric, name in metrics.items():
            found.append(_by_spread(f"{called}'s {name} depends on beta", _over_betas(betas, metric), floors[metric]))
    found += _language(experiment, final, floors[HARNESS_MEAN])
    found += _preference(experiment, final, rate, floors)
    found += [_favoured(experiment, objective) for objective in ("mmpo", "dpo", "simpo")]
    return found + list(_ablations(experiment, rate, floors))


def beta_floor(final: StageRun | None, metric: str) -> Floor | None:
    """The noise between equal trainings: how far MMPO's betas differ at the same seed and epoch.

    None where the points differ in more than beta or r_eps, where the loss is not Listing 1's, or where they share one
    training and were not trained by themselves.
    """
    if final is None or not is_one_training(final):
        return None
    groups: dict[tuple[str, int], list[float]] = {}
    for trial in final.trials:
        if trial.record.status == "finished" and not trial.record.shares:
            for epoch in trial.scores.get(metric, {}):
                one = measure(Point("", (trial,), 1), metric, epoch)
                if one is not None:
                    groups.setdefault((trial.record.params.get("seed", ""), epoch), []).append(one.value)
    return floor_of(list(groups.values()))


def is_one_training(stage: StageRun) -> bool:
    """Whether all its points have the same gradients: several betas or targets of MMPO as published."""
    blind = stage.objective == "mmpo" and stage.axis in ("beta", "r_eps")
    return blind and len(stage.points) > 1 and _as_published(stage)


def _as_published(stage: StageRun) -> bool:
    configs = [trial.record.config for trial in stage.trials]
    return all(one.get("auxiliary", True) and not one.get("entropy", False) for one in configs)


def _stage(experiment: Experiment, name: str, objective: str) -> StageRun | None:
    """The stage's run that counts; None if it has no points."""
    stage = experiment.stage(name, objective)
    return stage if stage is not None and stage.points else None


def _beta_identity(final: StageRun | None, metric: str, name: str, floor: Floor | None) -> Found:
    claim = f"MMPO's {name} is stable over beta"
    known = _over_betas(final, metric)
    if final is None or len(known) < 2 or not _as_published(final):
        return _by_spread(claim, known, None)
    said = "; they share one training here, and --train-all trains each" if floor is None else ""
    if floor is not None:
        said = f"; their deviation, {100 * floor.deviation:.2f} points, is the noise of the other lines if it is larger"
    widest = max(one.value for one in known) - min(one.value for one in known)
    return Found("MMPO", "Section 4.2", claim, _plain(widest, known), "an identity", IDENTITY + said)


def _by_spread(claim: str, known: Sequence[Measured], floor: Floor | None) -> Found:
    """By chi squared of the deviation over beta against the noise, or the floor if that is larger."""
    if floor is not None:
        known = [Measured(one.value, max(one.error or 0.0, floor.deviation), one.noise_is) for one in known]
    found = spread(known)
    if found is None:
        return Found("MMPO", "Section 4.2", claim, None, "not measured", "no two betas have it")
    effect = _plain(found.widest, known)
    if found.p_value is None:
        return Found("MMPO", "Section 4.2", claim, effect, "not measured", "its noise is not known")
    verdict: Verdict = "holds" if found.p_value < 0.05 else "within noise"
    return Found("MMPO", "Section 4.2", claim, effect, verdict, f"p = {found.p_value:.2g} by chi squared")


def _plain(widest: float, known: Sequence[Measured]) -> Effect:
    return Effect(widest, None, f"{len(known)} betas, largest minus smallest", known[0].noise_is)


def _language(experiment: Experiment, final: StageRun | None, floor: Floor | None) -> Iterator[Found]:
    place, end = "Section 4.2.1", _at_end(final, HARNESS_MEAN)
    started = experiment.starting_model.get(HARNESS_MEAN)
    start = None if started is None else Measured(started, experiment.starting_model.get(error_of(HARNESS_MEAN)), "")
    kept = "MMPO keeps the starting model's LM Harness accuracy to the last epoch (smallest beta)"
    yield _compared(place, kept, (end, start), 0, floor)
    for other, called in _CALLED.items():
        theirs = _at_end(_stage(experiment, FINAL_RUNS.name, other), HARNESS_MEAN)
        claim = f"at the last epoch MMPO has more LM Harness accuracy than {called} (smallest beta)"
        yield _compared(place, claim, (end, theirs), 1, floor)


def _preference(
    experiment: Experiment, final: StageRun | None, rate: str, floors: dict[str, Floor | None]
) -> Iterator[Found]:
    recipe = experiment.recipe
    for number, metric, name, table in (
        (1, HARNESS_MEAN, "peak LM Harness accuracy", paper_numbers.PEAK_ACCURACY),
        (2, rate, "peak win rate", paper_numbers.PEAK_WIN_RATE),
    ):
        printed = [table[recipe, objective][0] for objective in ("mmpo", "dpo") if (recipe, objective) in table]
        theirs = printed[0] - printed[1] if len(printed) == 2 else None
        more = "more" if theirs is None or theirs > 0 else "less"
        claim = f"MMPO has {more} {name} than DPO" + ("" if theirs is None else f" (the paper: {theirs:+.2f} points)")
        ours = _peaks(experiment, "dpo", metric)
        yield _compared(f"Table {number}", claim, ours, 1 if more == "more" else -1, floors[metric])
    peaks = _peaks(experiment, "simpo", rate)
    yield _compared("Section 4.2.2", "MMPO has more peak win rate than SimPO", peaks, 1, floors[rate])
    falls = recipe == "llama-3.2-1b"
    claim = f"MMPO's win rate {'falls' if falls else 'rises'} from the first epoch to the last (smallest beta)"
    yield _compared("Section 4.2.2", claim, _ends(final, rate), -1 if falls else 1, floors[rate])
    claim = "DPO's win rate falls from the first epoch to the last (smallest beta)"
    yield _compared("Section 4.2.2", claim, _ends(_stage(experiment, FINAL_RUNS.name, "dpo"), rate), -1, floors[rate])


def _favoured(experiment: Experiment, objective: str) -> Found:
    stage = _stage(experiment, STAGE_2.name, objective)
    best = {} if stage is None else {_beta(point): _peak(stage, REWARD_ACCURACY, [point]) for point in stage.points}
    others = [one for beta, one in best.items() if beta != _PAPERS_BETA and one is not None]
    claim = f"reward accuracy favours beta = {_PAPERS_BETA} ({objective})"
    other = max(others, key=lambda one: one.value, default=None)
    found = _compared("Section 4.1", claim, (best.get(_PAPERS_BETA), other), 1, None)
    if objective == "mmpo" and found.effect is not None and stage is not None and _as_published(stage):
        return dataclasses.replace(found, why=f"a choice of score: {IDENTITY}")
    return found


def _ablations(experiment: Experiment, rate: str, floors: dict[str, Floor | None]) -> Iterator[Found]:
    stage = _stage(experiment, ABLATIONS.name, "mmpo")
    points = {} if stage is None else {point.label: [point] for point in stage.points}
    harness, wins = (HARNESS_MEAN, "peak LM Harness accuracy"), (rate, "peak win rate")
    for variant, (metric, name), sign, claim in (
        ("len norm", harness, 1, "length normalisation raises the {}"),
        ("len norm", wins, 0, "length normalisation does not raise the {}"),
        ("entropy", harness, -1, "entropy maximisation lowers the {}"),
        ("entropy", wins, -1, "entropy maximisation lowers the {}"),
        ("no aux", harness, -1, "without the auxiliary term the {} is lower"),
        ("no aux", wins, 1, "without the auxiliary term the {} is higher"),
        ("no norm", harness, -1, "without in-batch normalisation the {} is lower"),
        ("no norm", wins, 1, "without in-batch normalisation the {} is higher"),
    ):
        pair = _peak(stage, metric, points.get(variant, ())), _peak(stage, metric, points.get("full", ()))
        found = _compared("Section 5", claim.format(name), pair, sign, floors[metric])
        is_identity = variant == "no norm" and found.effect is not None
        yield dataclasses.replace(found, verdict="an identity", why=IDENTITY) if is_identity else found


def _compared(place: str, claim: str, pair: Pair, sign: int, floor: Floor | None) -> Found:
    ours, theirs = pair
    if ours is None or theirs is None:
        return Found("MMPO", place, claim, None, "not measured", "a number is not in the ledger")
    effect = difference_of(ours, theirs, floor)
    why = "" if effect.interval is not None else "its noise is not known"
    marks = ", ".join(f"{mark} win rate" for mark in sorted({ours.mark, theirs.mark} - {""}))
    return Found("MMPO", place, claim, effect, verdict_of(effect, sign), why or marks)


def _beta(point: Point) -> float:
    return float(point.label)


def _over_betas(stage: StageRun | None, metric: str) -> list[Measured]:
    """At the last epoch."""
    if stage is None:
        return []
    every = [measure(point, metric, epochs_of(stage)[-1]) for point in stage.points]
    return [one for one in every if one is not None]


def _at_end(stage: StageRun | None, metric: str) -> Measured | None:
    """The stage's last measurement at its smallest beta."""
    return None if stage is None else measure(min(stage.points, key=_beta), metric, epochs_of(stage)[-1])


def _ends(stage: StageRun | None, metric: str) -> Pair:
    """At the last epoch and at the first, of the smallest beta; one epoch alone has no difference."""
    if stage is None or len(epochs_of(stage)) < 2:
        return None, None
    return _at_end(stage, metric), measure(min(stage.points, key=_beta), metric, 1)


def _peaks(experiment: Experiment, other: str, metric: str) -> Pair:
    """MMPO's in the final runs, and the other objective's."""
    ours, theirs = (_peak(_stage(experiment, FINAL_RUNS.name, objective), metric) for objective in ("mmpo", other))
    return ours, theirs


def _peak(stage: StageRun | None, metric: str, points: Iterable[Point] | None = None) -> Measured | None:
    """The most over all points, or these, and epochs, with the noise of the one."""
    found = None if stage is None else peak(stage, metric, points)
    return None if found is None else found[2]

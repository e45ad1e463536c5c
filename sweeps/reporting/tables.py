"""The report's tables, ours beside the paper's: tuned values, peaks, beta-stability."""

import dataclasses
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from eval_workers.tracking.store import param_number
from mmpo_train.metric_names import HARNESS_MEAN, LC_WIN_RATE, LENGTH_CONTROLLED, WIN_RATE, judge_checks_of
from mmpo_train.tables import Table
from sweeps.ledger.tags import WINNER_BY, winner_of
from sweeps.plan.labels import shown, words
from sweeps.plan.order import DECIDED_IN, FINAL_RUNS, SEARCH, tuned_grids
from sweeps.ranking import paper_numbers
from sweeps.ranking.noise import Measured, difference, spread
from sweeps.ranking.study_sheets import from_lines, study_sheets
from sweeps.ranking.win_rates import RAW, RAW_SAID
from sweeps.reporting.numbers import epochs_of, length_controlled, measure, metrics_of, peak
from sweeps.reporting.page import MISSING, Sheet
from sweeps.reporting.read import Experiment, StageRun


def model_name(experiment: Experiment) -> str:
    """The paper's name of the model, or else its folder's."""
    return paper_numbers.MODELS.get(experiment.recipe) or Path(experiment.model).name or experiment.name


def stage_title(name: str) -> str:
    """The stage's title within a sentence, such as `stage 1, learning rate`."""
    if name not in SEARCH:
        return name.replace("_", " ")
    title = SEARCH[name].title.format("margin")
    return title[0].lower() + title[1:]


def percent(measured: Measured | None) -> str:
    """A number in percent with its noise, such as `34.44 ± 0.62`; a dash if it is missing."""
    if measured is None:
        return MISSING
    noise = "" if measured.noise is None else f" ± {100 * measured.noise:.2f}"
    missing = f" [{measured.missing} missing]" if measured.missing else ""
    return f"{100 * measured.value:.2f}{noise}{missing}" + (f" ({measured.mark})" if measured.mark else "")


def _dash(value: float | None, form: str = ".2f", scale: float = 1) -> str:
    return MISSING if value is None else format(scale * value, form)


def tuned_table(experiments: Sequence[Experiment]) -> Sheet:
    """Table 3: the tuned values. Noise says whether the paper's value ties with ours on our own grid."""
    rows = []
    for experiment, objective in _searched(experiments):
        for field in tuned_grids(objective):
            stage = experiment.stage(DECIDED_IN[field], objective)
            theirs = paper_numbers.tuned(experiment.recipe, objective, field)
            ours, how = _choice(stage, field)
            mine, papers = (MISSING if one is None else shown(field, one) for one in (ours, theirs))
            apart_by = _apart(stage, field, ours, theirs)
            rows.append((model_name(experiment), objective, words(field), mine, how, papers, apart_by))
    caption = "Table 3. Tuned values. The paper's beta is not in its table: it says that 0.01 was always favoured."
    headers = ("model", "objective", "tuned", "ours", "chosen", "paper", "difference")
    return Sheet("table3", Table(caption, headers, rows, words=(0, 1, 2, 4, 6)))


def _searched(experiments: Sequence[Experiment]) -> list[tuple[Experiment, str]]:
    return [(experiment, objective) for experiment in experiments for objective in experiment.objectives]


def _choice(stage: StageRun | None, field: str) -> tuple[float | None, str]:
    if stage is None or not stage.points:
        return None, "not run"
    person = stage.persons_choice
    if person is not None:
        return person.number(field), "by a person"
    value = winner_of(stage.tags, field)
    if not stage.finished or value is None:
        return None, f"not decided ({stage.tags.get('stage.state', 'running')})"
    measure = stage.tags.get(WINNER_BY, "reward_accuracy")
    return value, "by rule" if measure == "reward_accuracy" else f"by rule, by {measure}"


def _apart(stage: StageRun | None, field: str, ours: float | None, theirs: float | None) -> str:
    if ours is None or theirs is None:
        return MISSING
    if ours == theirs:
        return "same"
    size = f"× {ours / theirs:g}" if field == "learning_rate" else f"{ours - theirs:+g}"
    row = next((row for row in stage.ranking if row.get(field) == theirs), None) if stage is not None else None
    if stage is not None and stage.persons_choice is not None:
        return f"{size}, by a person's choice"
    if row is None:
        return f"{size}; the paper's was not tried"
    if row.get("state", "finished") != "finished":
        return f"{size}; the paper's {row['state']} here"
    if row.get("place") == 1 or row.get("tie") or row.get("p_value") is None:
        return f"{size}, within noise: the paper's ties with our winner"
    return f"{size}, beyond noise: the paper's loses to our winner"


def peak_table(experiments: Sequence[Experiment], *, by_win_rate: bool) -> Sheet:
    """Table 1 or 2: the checkpoint of the final runs with the highest value of one metric, and its other metric."""
    numbers = paper_numbers.PEAK_WIN_RATE if by_win_rate else paper_numbers.PEAK_ACCURACY
    rows, finals = [], []
    for experiment, objective in _searched(experiments):
        final = experiment.stage(FINAL_RUNS.name, objective)
        finals += [final] if final else []
        rates = length_controlled([final] if final else [])
        metrics = (rates, HARNESS_MEAN) if by_win_rate else (HARNESS_MEAN, rates)
        best = peak(final, metrics[0]) if final is not None else None
        paper = numbers.get((experiment.recipe, objective), (None, None))
        cells: list[str] = []
        judged = WIN_RATE, *judge_checks_of(WIN_RATE)
        there = [best and measure(best[0], metric, best[1]) for metric in (*metrics, *judged)]
        for metric, ours, theirs in zip(metrics, there, paper):
            is_theirs = metric == HARNESS_MEAN or (metric == LC_WIN_RATE and not (ours and ours.mark))
            cells += [percent(ours), _dash(theirs), apart(ours, theirs if is_theirs else None)]
        where = f"beta {best[0].label}, epoch {best[1]}" if best else MISSING
        rows.append((model_name(experiment), objective, *cells, *map(percent, there[2:]), where))
    rate = LENGTH_CONTROLLED[length_controlled(finals)]
    first, second = ("peak win rate", "LM Harness there") if by_win_rate else ("peak LM Harness", "win rate there")
    number = 2 if by_win_rate else 1
    caption = (
        f"Table {number}. In percent, over all betas and epochs of the final runs; the win rate is the {rate} against "
        f"the starting model. A peak is the best of many, and so a little lucky."
    )
    if any(f"({RAW})" in cell for row in rows for cell in row):
        caption += f" {RAW_SAID}."
    headers = (
        "model", "objective", first, "paper", "difference", second, "paper", "difference",
        "raw win rate", "null answer", "order flips", "at",
    )  # fmt: skip
    return Sheet(f"table{number}", Table(caption, headers, rows, words=(0, 1, 11)))


def apart(ours: Measured | None, theirs: float | None) -> str:
    """The difference in percentage points, such as `+1.20, within noise`."""
    off, within = difference(ours, theirs)
    if off is None:
        return MISSING
    verdict = "noise unknown" if within is None else "within noise" if within else "beyond noise"
    return f"{off:+.2f}, {verdict}"


def stability(experiment: Experiment) -> tuple[Sheet, tuple[tuple[object, ...], ...]]:
    """Beta-stability: a table for the last epoch, and rows under SPREAD_HEADERS for every epoch."""
    rows: list[tuple[str, ...]] = []
    every: list[tuple[object, ...]] = []
    over_beta = [name for name, one in SEARCH.items() if "beta" in one.axes]
    for objective, name in product(experiment.objectives, over_beta):
        stage = experiment.stage(name, objective)
        if stage is None or not stage.points:
            continue
        for (metric, called), epoch in product(metrics_of([stage]).items(), epochs_of(stage)):
            measured = {point.label: measure(point, metric, epoch) for point in stage.points}
            known = {label: one for label, one in measured.items() if one is not None}
            found = spread(list(known.values()))
            if found is None:
                continue
            numbers = (found.widest, found.deviation, found.noise, found.ratio, found.p_value, found.noise_is)
            every.append((experiment.name, name, objective, metric, epoch, " ".join(known), *numbers))
            if epoch == epochs_of(stage)[-1]:
                shares = {label: None if one is None else one.value for label, one in measured.items()}
                by_beta = ", ".join(f"{label}: {_dash(share, scale=100)}" for label, share in shares.items())
                shown = (_dash(one, scale=100) for one in (found.widest, found.deviation, found.noise))
                verdict = _dash(found.ratio), _verdict(found.p_value), found.noise_is
                rows.append((objective, stage_title(name), called, by_beta, *shown, *verdict))
    caption = (
        "Beta-stability at the last epoch, in percent: the variation of a metric over beta (widest: largest minus "
        "smallest; deviation: standard deviation over the betas) compared with its noise, the standard error of one "
        "beta's number. If beta had no effect the ratio would be 1; beyond noise means p < 0.05 by chi squared. With "
        "one seed the noise comes from the pairs, documents or prompts. All betas share these, so it is an upper "
        "bound, and it does not include the variation between seeds: use several seeds."
    )
    headers = ("objective", "stage", "metric", "by beta", "widest", "deviation", "noise", "ratio", "", "noise is")
    return Sheet("beta_stability", Table(caption, headers, rows, words=(0, 1, 2, 3, 8, 9))), tuple(every)


def study_tables(experiment: Experiment) -> list[Sheet]:
    """The tables of each study, its last run that finished, beside what the paper prints."""
    found = []
    for study in {stage.name: stage for stage in experiment.stages if stage.study and stage.finished}.values():
        rows, columns = (list(dict.fromkeys(line[name] for line in study.study)) for name in ("row", "column"))
        shown = from_lines(study.study, int(param_number(study.params, "seeds", 1)))
        title = f"Study `{study.name}`"
        for number, one in enumerate(study_sheets(study.name, title, rows, columns, shown), 1):
            named = one if one.title == title else dataclasses.replace(one, title=f"{title}: {one.title}")
            found.append(Sheet(f"{study.name}_{number}", named))
    return found


SPREAD_HEADERS = (
    "experiment", "stage", "objective", "metric", "epoch", "betas",
    "widest", "deviation", "noise", "ratio", "p_value", "noise_is",
)  # fmt: skip


def _verdict(p_value: float | None) -> str:
    return "noise unknown" if p_value is None else "beyond noise" if p_value < 0.05 else "within noise"

"""What the MC-PO paper claims (Section 5), one line each, from the seeds of the studies that repeat its tables."""

from collections.abc import Callable, Sequence
from statistics import mean, stdev

from sweeps.ranking.effects import Effect, Verdict, of_samples, verdict_of
from sweeps.reporting.claims import Found
from sweeps.reporting.read import Experiment

_ONLINE = ("on_mc_po",)
_JUDGED_BY = "win rate"
Samples = Callable[[str, str, str], list[float]]
"""Study, row, column -> the win rate of every seed; empty where it was not measured."""

# (place, claim, study, (row, column) that the claim puts above, below or level with, the other one, sign)
_DIFFERENCES = (
    ("Table 1", "MC-PO is better than DPO", "table1", ("mc_po", "final"), ("dpo", "final"), 1),
    ("Table 1", "OnMC-PO is better than MC-PO", "table1", ("on_mc_po", "final"), ("mc_po", "final"), 1),
    ("Figure 2", "the kernel is better than Max", "figure2", ("MC-PO", "5 negs"), ("Max", "5 negs"), 1),
    ("Figure 2", "the kernel is better than Min", "figure2", ("MC-PO", "5 negs"), ("Min", "5 negs"), 1),
    ("Figure 2", "five candidates are better than one", "figure2", ("MC-PO", "5 negs"), ("MC-PO", "1 neg"), 1),
    ("Table 2", "noise alone as the negative ruins DPO", "table2", ("DPO(-)", "final"), ("DPO", "final"), -1),
    ("Table 2", "with noise MC-PO is better than DPO", "table2", ("MC-PO", "final"), ("DPO", "final"), 1),
    ("Table 3", "MC-PO gains from three negatives", "table3", ("MC-PO", "M = 3"), ("MC-PO", "M = 1"), 1),
    ("Table 3", "RNCE gains nothing notable", "table3", ("RNCE", "M = 3"), ("RNCE", "M = 1"), 0),
    ("Section 5.4", "MC-PO is better than DPO on every pair", "augmented", ("MC-PO", "final"),
     ("DPO, augmented", "final"), 1),
    ("Section 5.4", "OnMC-PO is better than online DPO", "online", ("OnMC-PO", "final"), ("online DPO", "final"), 1),
    ("Table 4", "the second epoch helps", "table4", ("MC-PO", "Epoch 2"), ("MC-PO", "Epoch 1"), 1),
    ("Table 4", "a third epoch does not", "table4", ("MC-PO", "Epoch 3"), ("MC-PO", "Epoch 2"), 0),
)  # fmt: skip


def mc_po_claims(experiment: Experiment) -> list[Found]:
    """Every claim, in the paper's order.

    Our win rate is against the starting model, the paper's against GPT-4: orders can be compared, heights cannot.
    """
    ours = {stage.name.removeprefix("mc_po_"): stage.study for stage in experiment.stages if stage.finished}

    def samples(study: str, row: str, column: str) -> list[float]:
        lines = (line for line in ours.get(study, ()) if (line["row"], line["column"]) == (row, column))
        return [float(line["value"]) for line in lines if line["metric"] == _JUDGED_BY]

    found = [_best_of_all(samples, sorted({line["row"] for line in ours.get("table1", ())}))]
    found += [
        _found(place, claim, samples(study, *above), samples(study, *below), sign)
        for place, claim, study, above, below, sign in _DIFFERENCES
    ]
    order = {"Table 1": 0, "Figure 2": 1, "Table 2": 2, "Table 3": 3, "Section 5.4": 4, "Table 4": 5}
    found += [_varies_most(samples), _one_candidate(samples)]
    return sorted(found, key=lambda one: order[one.place])


def _found(place: str, claim: str, ours: Sequence[float], theirs: Sequence[float], sign: int) -> Found:
    if not ours or not theirs:
        return Found("MC-PO", place, claim, None, "not measured", "the study was not run with a judge")
    effect = of_samples(ours, theirs)
    return Found("MC-PO", place, claim, effect, verdict_of(effect, sign), "" if effect.interval else "one seed alone")


def _best_of_all(samples: Samples, rows: Sequence[str]) -> Found:
    claim = "MC-PO is better than the best of the ten offline methods"
    known = {row: samples("table1", row, "final") for row in rows if row not in ("mc_po", *_ONLINE)}
    known = {row: values for row, values in known.items() if values}
    if not known:
        return _found("Table 1", claim, [], [], 1)
    best = max(known, key=lambda row: mean(known[row]))
    return _found("Table 1", f"{claim} ({best})", samples("table1", "mc_po", "final"), known[best], 1)


def _varies_most(samples: Samples) -> Found:
    """By the F ratio of the seeds' variances."""
    claim = "Min varies more over seeds than the kernel"
    theirs, ours = samples("figure2", "Min", "5 negs"), samples("figure2", "MC-PO", "5 negs")
    if min(len(theirs), len(ours)) < 2:
        return Found("MC-PO", "Figure 2", claim, None, "not measured", "it takes two seeds of each")
    from sweeps.ranking.significance import variance_test

    more, p_value = stdev(theirs) - stdev(ours), variance_test(theirs, ours)
    verdict: Verdict = "within noise" if p_value >= 0.05 else "holds" if more > 0 else "contradicted"
    counts = f"{len(theirs)} against {len(ours)} seeds"
    effect = Effect(more, None, counts, "deviation over seeds")
    return Found("MC-PO", "Figure 2", claim, effect, verdict, f"p = {p_value:.2g} by F")


def _one_candidate(samples: Samples) -> Found:
    claim = "with one candidate the three strategies are the same"
    known = [values for row in ("MC-PO", "Max", "Min") if (values := samples("figure2", row, "1 neg"))]
    if len(known) < 2:
        return Found("MC-PO", "Figure 2", claim, None, "not measured", "the study was not run with a judge")
    means = [mean(values) for values in known]
    effect = Effect(max(means) - min(means), None, f"{len(known)} strategies, largest minus smallest", "none")
    return Found("MC-PO", "Figure 2", claim, effect, "an identity", "there is nothing to choose from: one training")

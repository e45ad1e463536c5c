"""Tables of every epoch of every point."""

from types import SimpleNamespace

from mmpo_train.tables import Table
from sweeps.plan.stages import GridPoint
from sweeps.ranking.epoch_tables import as_markdown, epoch_tables


def point(label: str, *digests: str, epochs: int = 3) -> GridPoint:
    trials = tuple(SimpleNamespace(digest=digest, config=SimpleNamespace(epochs=epochs)) for digest in digests)
    return GridPoint(label, float(label), trials)


def record(**curves: list[float]) -> SimpleNamespace:
    """A trial's record with these metrics, a value for each epoch from the first."""
    named = {"reward": "validation/reward_accuracy", "harness": "harness/mean_accuracy", "alpaca": "alpaca/lc_win_rate"}
    known = {named.get(name, name.replace("__", "/")): list(enumerate(values, 1)) for name, values in curves.items()}
    return SimpleNamespace(curve=lambda metric: known.get(metric, []), logged=frozenset(known))


def test_points_stand_against_epochs_with_each_peak_marked_and_gaps_as_missing():
    records = {"a": record(reward=[0.5, 0.75, 0.75], harness=[0.3]), "b": record(reward=[0.9, 0.8, 0.7])}
    reward, harness = epoch_tables([point("0.01", "a"), point("0.05", "b")], records, "beta")
    assert reward.headers == ("", "epoch 1", "epoch 2", "epoch 3")
    assert reward.rows == [("0.01", "0.5000", "0.7500", "0.7500"), ("0.05", "0.9000", "0.8000", "0.7000")]
    assert reward.best == {(0, 2), (1, 1)}, "of equal epochs the earlier"
    assert harness.title.startswith("LM Harness, mean accuracy, beta by epoch")
    assert harness.rows == [("0.01", "0.3000", "missing", "missing"), ("0.05", "missing", "missing", "missing")]
    assert harness.best == {(0, 1)}


def test_over_seeds_cells_are_mean_and_deviation():
    """0.2 and 0.4: mean 0.3, deviation 0.2 / sqrt(2)."""
    [sheet] = epoch_tables([point("0.01", "a", "b")], {"a": record(alpaca=[0.2]), "b": record(alpaca=[0.4])}, "beta")
    assert sheet.rows[0][:2] == ("0.01", "0.3000 (±0.1414)")


def test_alpaca_eval_on_other_prompts_stands_under_its_own_name_and_raw_where_nothing_was_found():
    """0.5 of the fit is its penalty's; the judgements gave 0.7. In epoch 2 the fit found something."""
    scored = {"alpaca__lc_win_rate_minimal": [0.5, 0.6], "alpaca__win_rate": [0.7, 0.65]}
    scored |= {f"{name}__gpt": values for name, values in scored.items()}
    controlled, raw = epoch_tables([point("0.01", "a", epochs=2)], {"a": record(**scored)}, "beta")
    assert controlled.title.startswith("AlpacaEval, length-controlled win rate without difficulties, beta by epoch")
    assert controlled.rows == [("0.01", "0.7000 (raw)", "0.6000")] and controlled.best == {(0, 1)}
    assert "(raw): the length control found nothing" in controlled.title
    assert raw.title.startswith("AlpacaEval, raw win rate") and raw.rows == [("0.01", "0.7000", "0.6500")]


def test_the_note_has_them_as_markdown():
    sheet = Table("A title", ("", "epoch 1", "epoch 2"), [("0.01", "0.1", "0.2")], best={(0, 2)})
    assert as_markdown([sheet]).splitlines() == [
        "**A title**", "", "|  | epoch 1 | epoch 2 |", "|---|---|---|", "| 0.01 | 0.1 | **0.2** |",
    ]  # fmt: skip
    assert as_markdown([]) == ""

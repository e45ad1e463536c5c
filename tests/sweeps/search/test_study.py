"""Studies: which trials they hold, and what their tables say."""

from types import SimpleNamespace

import pytest

from mmpo_train.config import OBJECTIVE_FIELDS
from mmpo_train.errors import InputError
from sweeps import grids
from sweeps.axis import AxisOptions, axis_stage
from sweeps.mc_po_studies import AUGMENTED, COUNTS, EPOCHS, METHODS, NEGATIVES, NOISE, ONLINE, STUDIES
from sweeps.objectives import study_of
from sweeps.ranking.mc_po_numbers import ALPACA, ARENA, OF_STUDY
from sweeps.ranking.study_sheets import study_sheets
from sweeps.search.study import StudyOptions, plan_study
from sweeps.search.study_tables import Entry, Study, tabulate, with_starting_model, write_tables


def options(tmp_path, **fields):
    return StudyOptions(storage=tmp_path, **fields)


def sheets(study, tables):
    return study_sheets(study.name, study.title, study.rows, study.columns, tables)


def test_appendix_b1_of_mc_po_is_seven_learning_rates_times_three_seeds_for_every_method(tmp_path):
    entries = plan_study(METHODS, options(tmp_path), "fp32")
    assert len(entries) == 12 * 7 * 3 == len({entry.planned.digest for entry in entries})
    assert [f"{rate:g}" for rate in grids.mc_po_learning_rates("some/model")] == [
        "8e-07", "1e-06", "2e-06", "5e-06", "8e-06", "1e-05", "2e-05",
    ]  # fmt: skip
    assert {entry.planned.config.seed for entry in entries} == {42, 43, 44}
    assert {entry.planned.config.beta for entry in entries} == {0.01}
    assert len({entry.planned.config.data_fingerprint for entry in entries}) == 1, "seeds share the data"


def test_simpo_of_table_5_has_mean_log_probabilities_and_a_margin_of_ten(tmp_path):
    entries = plan_study(METHODS, options(tmp_path, seeds=1, learning_rates=(1e-4,)), "fp32")
    [simpo] = [entry.planned.config for entry in entries if entry.row == "simpo"]
    assert simpo.length_normalised and simpo.gamma_over_beta * simpo.beta == pytest.approx(10)


def test_figure_2_has_three_strategies_on_one_to_five_candidates(tmp_path):
    entries = plan_study(NEGATIVES, options(tmp_path, seeds=1), "fp32")
    by_place = {(entry.row, entry.column): entry.planned for entry in entries}
    assert len(by_place) == 15
    for count in range(1, 6):
        column = f"{count} neg{'s' * (count > 1)}"
        several = [by_place[row, column] for row in ("MC-PO", "Max", "Min")]
        assert [one.config.negative_choice for one in several] == ["kernel", "max", "min"]
        assert len({one.config.data_fingerprint for one in several}) == 1
        most = max(len(example.completions) - 1 for example in several[0].inputs.data.train)
        assert most == count
    validation = {tuple(one.inputs.data.validation) for one in by_place.values()}
    assert len(validation) == 1, "all points are scored on the same pairs"


def test_the_noise_study_is_dpo_on_noise_alone_and_dpo_and_mc_po_with_noise_among_others(tmp_path):
    entries = plan_study(NOISE, options(tmp_path, seeds=1), "fp32")
    assert [(entry.row, entry.planned.config.objective, entry.planned.config.noise_candidate) for entry in entries] == [
        ("DPO(-)", "dpo", "only"),
        ("DPO", "dpo", "added"),
        ("MC-PO", "mc_po", "added"),
    ]


def test_table_3_has_one_two_and_three_negatives_and_table_4_three_epochs(tmp_path):
    counts = [entry.planned.config for entry in plan_study(COUNTS, options(tmp_path, seeds=1), "fp32")]
    assert [(one.objective, one.negatives) for one in counts] == [
        (name, count) for name in ("rnce", "mc_po") for count in (1, 2, 3)
    ]
    epochs = plan_study(EPOCHS, options(tmp_path, seeds=1), "fp32")
    assert [entry.planned.config.epochs for entry in epochs] == [1, 2, 3, 3, 3, 3]
    assert len({entry.planned.digest for entry in epochs}) == 3, "the run of three epochs fills a row and a cell"


def test_section_5_4_trains_dpo_on_every_pair_and_both_online_objectives(tmp_path):
    by_row = {entry.row: entry.planned for entry in plan_study(AUGMENTED, options(tmp_path, seeds=1), "fp32")}
    whole, augmented = by_row["DPO"].inputs.data, by_row["DPO, augmented"].inputs.data
    assert len(augmented.train) == sum(len(example.completions) - 1 for example in whole.train)
    assert {len(example.completions) for example in augmented.train} == {2}
    assert augmented.validation == whole.validation and augmented.fingerprint != whole.fingerprint
    assert by_row["DPO"].config.digest == by_row["DPO"].config.digest != by_row["DPO, augmented"].config.digest
    online = [entry.planned.config.objective for entry in plan_study(ONLINE, options(tmp_path, seeds=1), "fp32")]
    assert online == ["online_dpo", "on_mc_po"]


def test_the_papers_numbers_are_those_of_its_tables_and_have_a_place_in_its_studies():
    printed = OF_STUDY[METHODS.name]["Llama-3.1-8B-SFT, AlpacaEval 2"]
    assert printed["mc_po", "final"] == (35.84, 0.31) and printed["dpo", "final"] == (33.74, 2.51)
    assert OF_STUDY[COUNTS.name]["Llama-3.1-8B-SFT, Arena-Hard"]["MC-PO", "M = 3"] == (66.16, 0.13)
    assert OF_STUDY[EPOCHS.name]["Llama-3.1-8B-SFT, AlpacaEval 2"]["MC-PO", "Epoch 2"] == printed["mc_po", "final"]
    for study in STUDIES.values():
        assert all(set(numbers) <= set(study.cells) for numbers in OF_STUDY.get(study.name, {}).values())
    assert NEGATIVES.name not in OF_STUDY, "Figure 2 has no numbers"


def test_the_papers_numbers_stand_beside_ours(tmp_path):
    """In the same table where the study has one column, else in a table for each model and benchmark."""
    [noise] = sheets(NOISE, tabulate(NOISE, [entry("DPO", "final", 1e-4, "a")], {"a": record(e2=0.4)}))
    assert noise.headers[1:] == ["win rate", *(f"paper: Llama-3.1-8B-SFT, {one}, %" for one in (ALPACA, ARENA))]
    assert noise.rows[1] == ("DPO", "0.4000", "23.62 (±2.81)", "50.51 (±5.59)")
    counts = tabulate(COUNTS, [entry("RNCE", "M = 1", 1e-4, "a")], {"a": record(e2=0.4)})
    ours, alpaca, arena = sheets(COUNTS, counts)
    assert ours.rows[0] == ("RNCE", "0.4000", "missing", "missing")
    assert alpaca.rows[1] == ("MC-PO", "35.84 (±0.31)", "36.73 (±0.59)", "37.40 (±0.13)")
    assert "Compare the order" in write_tables(NOISE, [], tmp_path)[0].read_text()


def test_the_table_of_objectives_has_all_of_them(tmp_path):
    entries = plan_study(study_of(tuple(OBJECTIVE_FIELDS)), options(tmp_path, seeds=1), "fp32")
    assert [entry.row for entry in entries] == list(OBJECTIVE_FIELDS)


def test_what_a_study_varies_cannot_be_set(tmp_path):
    with pytest.raises(InputError, match="negatives=… is what the study mc_po_table3 varies"):
        plan_study(COUNTS, options(tmp_path, set=("negatives=4",)), "fp32")


SMALL = Study(
    name="small",
    title="A study",
    cells={(row, column): {"objective": "dpo"} for row in "AB" for column in ("left", "right")},
    settings={},
)


def record(status="finished", **epochs):
    """A ledger's record with the win rates of some epochs."""
    evaluations = [
        SimpleNamespace(epoch=int(name[1:]), metrics={"answers/win_rate": value}) for name, value in epochs.items()
    ]
    return SimpleNamespace(status=status, evaluations=evaluations, reason="")


def entry(row, column, rate, digest, epochs=2):
    planned = SimpleNamespace(digest=digest, config=SimpleNamespace(epochs=epochs))
    return Entry(planned, row, column, rate)


def test_a_cell_is_mean_and_deviation_of_the_final_checkpoints_at_the_best_learning_rate():
    """At 1e-4 0.2 and 0.4 (mean 0.3), at 1e-5 0.5 and 0.6: mean 0.55, sample deviation 0.0707. Epoch 1 is not shown."""
    entries = [entry("A", "left", 1e-4, "a"), entry("A", "left", 1e-4, "b")]
    entries += [entry("A", "left", 1e-5, "c"), entry("A", "left", 1e-5, "d")]
    records = {"a": record(e1=0.9, e2=0.2), "b": record(e2=0.4), "c": record(e2=0.5), "d": record(e1=0.9, e2=0.6)}
    [table] = tabulate(SMALL, entries, records)
    assert str(table.cells["A", "left"]) == "0.5500 (±0.0707), lr 1e-05"


def test_points_without_a_result_are_missing_and_never_filled(tmp_path):
    entries = [entry("A", "left", 1e-4, "a"), entry("A", "left", 1e-4, "b"), entry("B", "right", 1e-4, "c")]
    records = {"a": record(e2=0.25), "b": record(status="diverged", e1=0.9)}
    [table] = tabulate(SMALL, entries, records)
    assert str(table.cells["A", "left"]) == "0.2500 [1 missing]" and list(table.cells) == [("A", "left")]
    markdown, as_csv = write_tables(SMALL, [table], tmp_path)
    assert "| A | **0.2500 [1 missing]** | missing |" in markdown.read_text()
    assert "| B | missing | missing |" in markdown.read_text()
    assert as_csv.read_text().splitlines()[1:] == ["win rate,A,left,0.0001,0.25"]


def test_epochs_as_columns_are_one_trials_checkpoints():
    row = "MC-PO, one run of three epochs"
    entries = [entry(row, column, 1e-4, "a", epochs=3) for column in EPOCHS.columns]
    entries.append(entry("MC-PO", "Epoch 2", 1e-4, "b", epochs=2))
    [table] = tabulate(EPOCHS, entries, {"a": record(e1=0.1, e2=0.3, e3=0.2), "b": record(e1=0.9, e2=0.5)})
    assert [str(table.cells[row, column]) for column in EPOCHS.columns] == ["0.1000", "0.3000", "0.2000"]
    assert str(table.cells["MC-PO", "Epoch 2"]) == "0.5000" and ("MC-PO", "Epoch 1") not in table.cells


@pytest.mark.parametrize("objective", list(OBJECTIVE_FIELDS))
def test_every_objective_has_its_own_axes_as_a_grid(objective):
    axes = [name for name in OBJECTIVE_FIELDS[objective] if name not in ("judge", "answer_temperatures")]
    for axis in axes:
        stage = axis_stage(AxisOptions(objective=objective, axis=axis))
        assert len(stage.values) > 1 and stage.axis == axis


def test_an_axis_that_the_objective_does_not_have_is_refused_with_those_it_has():
    with pytest.raises(InputError, match="dpo has no axis 'gamma'; known are learning_rate, beta"):
        axis_stage(AxisOptions(objective="dpo", axis="gamma"))
    with pytest.raises(InputError, match="did you mean 'mc_po'"):
        axis_stage(AxisOptions(objective="mcpo", axis="beta"))


def test_values_of_an_axis_are_read_as_its_field_is():
    assert axis_stage(AxisOptions(objective="mc_po", axis="negatives", values=("1", "4"))).values == (1, 4)
    assert axis_stage(AxisOptions(objective="mc_po", axis="negative_choice")).values == ("kernel", "max", "min")
    with pytest.raises(InputError, match="negatives must be a whole number, got 'many'"):
        axis_stage(AxisOptions(objective="mc_po", axis="negatives", values=("many",)))


def test_the_starting_models_number_stands_before_the_trained_ones(tmp_path):
    """Scores that are all equal before training are ties: 0.5. A metric that the starting model lacks stands alone."""
    study = study_of(("dpo", "simpo"))
    entries = [entry("dpo", "trained", 1e-4, "a", epochs=1), entry("simpo", "trained", 1e-4, "b", epochs=1)]
    records = {
        "a": SimpleNamespace(status="finished", reason="", evaluations=[scored(0.8, 0.4)]),
        "b": SimpleNamespace(status="finished", reason="", evaluations=[scored(0.7, 0.6)]),
    }
    started = {
        "dpo": {"validation/reward_accuracy": 0.0, "validation/reward_margin": 0.0},
        "simpo": {"validation/reward_accuracy": 0.6, "validation/reward_margin": -0.1},
    }
    tables = [with_starting_model(table, started) for table in tabulate(study, entries, records)]
    [sheet] = sheets(study, tables)
    assert sheet.headers == ["", "win rate", "reward accuracy"]
    assert sheet.rows == [("dpo", "0.4000", "0.5000 → 0.8000"), ("simpo", "0.6000", "0.6000 → 0.7000")]
    assert sheet.best == {(1, 1), (0, 2)}


def scored(reward_accuracy, win_rate):
    metrics = {"answers/win_rate": win_rate, "validation/reward_accuracy": reward_accuracy}
    return SimpleNamespace(epoch=1, metrics=metrics)

"""The report of a made-up search on a real MLflow: every number of the tables by hand, what is missing, the page."""

import csv
import json
import re
from pathlib import Path

import pytest

from mmpo_train.config import replace
from sweeps.ablations import AblationOptions, ablations
from sweeps.final_runs import FinalOptions, final_runs
from sweeps.ledger.ledger import connect
from sweeps.ranking import paper_numbers
from sweeps.report import main
from sweeps.stage1_lr import Stage1Options, stage1
from sweeps.stage2_beta import Stage2Options, stage2
from sweeps.stage3_margin import Stage3Options, stage3
from tests.support.report_ledger import EXPERIMENT, config, judged, made, reward

SEEDED = "tiny on tiny"
STARTED = "begun on tiny"


def twice(share: float) -> dict[int, dict[str, float]]:
    return {1: reward(share - 0.1), 2: reward(share)}


def search_mmpo(ledger) -> None:
    """Two points a stage, each stage's second or first one taken from the stage before."""
    base = config(epochs=2)
    rates = stage1(Stage1Options(learning_rates=(5e-4, 1e-4)))
    made(ledger, rates, base, {"lr=5e-4": twice(0.69), "lr=1e-4": twice(0.7)})
    base = replace(base, {"learning_rate": 1e-4})
    made(ledger, stage2(Stage2Options(betas=(0.01, 0.1))), base, {"beta=0.01": twice(0.8)})
    base = replace(base, {"beta": 0.01})
    made(ledger, stage3(Stage3Options(margins=(0.6, 0.9))), base, {"r_eps=0.9": twice(0.6)})
    base = replace(base, {"r_eps": 0.9})
    final = {
        "final b=0.05": {1: judged(0.6, 0.36, 0.6), 2: judged(0.7, 0.37, 0.65)},
        "final b=0.5": {1: judged(0.6, 0.365, 0.7), 2: judged(0.8, 0.35, 0.62)},
    }
    made(ledger, final_runs(FinalOptions(betas=(0.05, 0.5))), base, final)
    without = {"no norm": {1: judged(0.6, 0.36, 0.6), 2: judged(0.7, 0.37, 0.65)}, "entropy": "loss is nan at step 9"}
    made(ledger, ablations(AblationOptions()), replace(base, {"beta": 0.05}), without)


def search_dpo(ledger) -> None:
    """No stage 2; a learning rate diverged, an epoch was not judged by the harness, a beta was not trained."""
    base = config("dpo", epochs=2)
    rates = stage1(Stage1Options(objective="dpo", learning_rates=(5e-5, 1e-4)))
    made(ledger, rates, base, {"lr=5e-5": "loss is nan at step 3", "lr=1e-4": twice(0.7)})
    final = {1: judged(0.6, 0.4, 0.3), 2: judged(0.7, 0.0, 0.8)}
    final[2] = {name: value for name, value in final[2].items() if not name.startswith("harness")}
    betas = final_runs(FinalOptions(objective="dpo", betas=(0.05, 0.5)))
    made(ledger, betas, replace(base, {"learning_rate": 1e-4}), {"final b=0.05": final})


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    """A ledger with two objectives of one experiment, and another with seeds on CPUs; only stage 2 is in that."""
    folder = tmp_path_factory.mktemp("runs")
    ledger = connect(None, folder)
    search_mmpo(ledger)
    search_dpo(ledger)
    scored = {
        "beta=0.05 s42": {1: reward(0.6)}, "beta=0.05 s43": {1: reward(0.7)},
        "beta=0.5 s42": {1: reward(0.8)}, "beta=0.5 s43": {1: reward(0.8)},
    }  # fmt: skip
    stage = stage2(Stage2Options(betas=(0.05, 0.5)))
    about, tiny = {"recipe": "tiny"}, config(epochs=1, model="tiny")
    made(ledger, stage, tiny, scored, seeds=2, params=about, hardware="1 x CPU", experiment=SEEDED)
    rates = stage1(Stage1Options(learning_rates=(5e-4, 1e-4)))
    made(ledger, rates, config(epochs=2), {"lr=5e-4": twice(0.6)}, finished=False, experiment=STARTED)
    ledger.close()
    return folder


@pytest.fixture(scope="module")
def out(storage):
    main(["--storage", str(storage), "--experiment", EXPERIMENT])
    return storage / "report" / EXPERIMENT


@pytest.fixture(scope="module")
def seeded(storage, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    main(["--storage", str(storage), "--experiment", SEEDED, "--out", str(folder)])
    return folder


def table(out: Path, name: str) -> list[list[str]]:
    with open(out / "csv" / f"{name}.csv") as stream:
        # An apostrophe keeps a spreadsheet from taking `+0.42, within noise` for a formula.
        return [[cell.removeprefix("'") for cell in row] for row in csv.reader(stream)][1:]


def test_the_papers_numbers_are_those_of_its_tables():
    assert paper_numbers.PEAK_ACCURACY["smollm2-360m", "dpo"] == (36.62, 57.06)
    assert paper_numbers.PEAK_WIN_RATE["llama-3-8b", "mmpo"] == (63.37, 54.77)
    assert len(paper_numbers.PEAK_ACCURACY) == len(paper_numbers.PEAK_WIN_RATE) == 8 and len(paper_numbers.TUNED) == 12
    assert paper_numbers.tuned("smollm2-360m", "simpo", "gamma_over_beta") == 1.6
    assert paper_numbers.tuned("llama-3-8b", "dpo", "beta") == 0.01
    assert paper_numbers.tuned("tiny", "dpo", "beta") is None


def test_table_1_has_the_peak_accuracy_with_its_win_rate_beside_the_papers(out):
    """Within noise: at most 1.96 sqrt(2) = 2.77 points for an error of 1, 5.54 for the judges' mean error of 2."""
    name = "SmolLM2-360M"
    assert table(out, "table1") == [
        [name, "mmpo", "37.00 ± 1.00", "36.58", "+0.42, within noise",
         "65.00 ± 2.00", "66.47", "-1.47, within noise", "–", "–", "–", "beta 0.05, epoch 2"],
        [name, "dpo", "40.00 ± 1.00", "36.62", "+3.38, beyond noise",
         "30.00 ± 2.00", "57.06", "-27.06, beyond noise", "–", "–", "–", "beta 0.05, epoch 1"],
    ]  # fmt: skip


def test_table_2_has_the_peak_win_rate_and_leaves_a_missing_accuracy_out(out):
    name = "SmolLM2-360M"
    assert table(out, "table2") == [
        [name, "mmpo", "70.00 ± 2.00", "67.50", "+2.50, within noise",
         "36.50 ± 1.00", "36.53", "-0.03, within noise", "–", "–", "–", "beta 0.5, epoch 1"],
        [name, "dpo", "80.00 ± 2.00", "71.80", "+8.20, beyond noise",
         "–", "35.00", "–", "–", "–", "–", "beta 0.05, epoch 2"],
    ]  # fmt: skip


def test_table_3_has_what_was_tuned_and_whether_the_papers_value_ties_with_it(out):
    """5e-4 has one pair of 100 less than 1e-4 (p = 1); r_eps 0.9 has 20 less than 0.6 and none more (p = 2e-6)."""
    assert [row[1:] for row in table(out, "table3")] == [
        ["mmpo", "learning rate", "1e-4", "by rule", "5e-4", "× 0.2, within noise: the paper's ties with our winner"],
        ["mmpo", "beta", "0.01", "by rule", "0.01", "same"],
        ["mmpo", "r_eps", "0.6", "by rule", "0.9", "-0.3, beyond noise: the paper's loses to our winner"],
        ["dpo", "learning rate", "1e-4", "by rule", "5e-5", "× 2; the paper's diverged here"],
        ["dpo", "beta", "–", "not run", "0.01", "–"],
    ]


def test_beta_stability_is_the_spread_over_beta_against_its_noise(out):
    """Epoch 2: reward 70 and 80: deviation 10/sqrt(2), noise sqrt((21 + 16)/2) = 4.30, ratio 1.64, chi squared 2.70 of
    one degree: p = 0.10. Harness 37 and 35 with error 1: ratio 1.41. Win rate 65 and 62 with error 2: 1.06."""
    rows = [row for row in table(out, "beta_stability") if row[:2] == ["mmpo", "final runs"]]
    assert [row[2:9] for row in rows] == [
        ["reward accuracy", "0.05: 70.00, 0.5: 80.00", "10.00", "7.07", "4.30", "1.64", "within noise"],
        ["LM Harness", "0.05: 37.00, 0.5: 35.00", "2.00", "1.41", "1.00", "1.41", "within noise"],
        ["length-controlled win rate", "0.05: 65.00, 0.5: 62.00", "3.00", "2.12", "2.00", "1.06", "within noise"],
    ]
    assert rows[0][9] == "binomial standard error, 100 pairs"
    assert [row[0] for row in table(out, "beta_stability")] == ["mmpo"] * 4  # one beta of dpo is no spread
    every = table(out, "beta_stability_by_epoch")
    first = next(row for row in every if row[1:5] == ["final_runs", "mmpo", "harness/mean_accuracy", "1"])
    assert float(first[6]) == pytest.approx(0.005) and float(first[9]) == pytest.approx(0.005 / 2**0.5 / 0.01)


def test_over_seeds_the_noise_is_their_standard_deviation(seeded):
    """60 and 70: mean 65, deviation 7.07, error 5; 80 twice: error 0. Noise sqrt(25/2) = 3.54, deviation 15/sqrt(2):
    ratio 3, chi squared 9, p = 0.003."""
    [row] = table(seeded, "beta_stability")
    assert row == [
        "mmpo", "stage 2, beta", "reward accuracy", "0.05: 65.00, 0.5: 80.00", "15.00", "10.61", "3.54", "3.00",
        "beyond noise", "standard deviation over 2 seeds",
    ]  # fmt: skip
    point = table(seeded, "points")[0]
    assert point[5:8] == ["0.05", "1", "validation/reward_accuracy"]
    assert [float(cell) for cell in point[8:10]] == pytest.approx([0.65, 0.005**0.5])
    assert point[11:] == ["2", "0", ""]


def test_a_model_that_the_paper_does_not_have_is_compared_with_nothing(seeded):
    assert all(row[5:] == ["–", "–"] for row in table(seeded, "table3"))
    assert table(seeded, "table1") == [["tiny", "mmpo", *["–"] * 10]]


def test_a_ledger_with_nothing_but_a_running_stage_1_has_a_report(storage, tmp_path):
    main(["--storage", str(storage), "--experiment", STARTED, "--out", str(tmp_path)])
    markdown = (tmp_path / "report.md").read_text()
    assert table(tmp_path, "table3")[0] == [
        "SmolLM2-360M", "mmpo", "learning rate", "–", "not decided (running)", "5e-4", "–",
    ]  # fmt: skip
    assert table(tmp_path, "table1")[0][2:] == ["–", "36.58", "–", "–", "66.47", *["–"] * 5]
    for said in (
        "Missing: no final runs are in the ledger.",
        "Missing: no ablations are in the ledger.",
        "Missing: no stage over beta is in the ledger.",
        "- mmpo: stage 1, learning rate: it has not ended (running).",
        "- mmpo: stage 1, learning rate: learning rate 1e-4 has no result: it was not trained.",
        "- mmpo: stage 2, beta: not run (`mmpo stage2`).",
    ):
        assert said in markdown
    assert [path.name for path in (tmp_path / "figures").glob("*.png")] == ["curves_stage1_lr_mmpo.png"]


def test_the_report_opens_with_the_recommendation_and_the_claims_and_has_them_as_json(out):
    """Win rates: dpo 80 at epoch 2, mmpo 70. The noise is that of MMPO's betas: 60 and 70, 65 and 62 have a deviation
    of 5.22 with 2 degrees of freedom, so that 10 points are within 4.30 x 5.22 x sqrt(2) = 31.8."""
    headings = re.findall(r"^## (.*)", (out / "report.md").read_text(), re.M)
    assert headings[:3] == ["Recommendation", "The papers' claims", "How to read the numbers"]
    assert "Use dpo with learning rate 1e-4, beta 0.05: the checkpoint of epoch 2" in (out / "report.md").read_text()
    written = json.loads((out / "report.json").read_text())
    best, second = written["recommendation"]
    assert (best["objective"], best["epoch"], best["score"]["value"], best["trained"]) == ("dpo", 2, 0.8, 3)
    assert best["checkpoint"] == "checkpoints/epoch-0002" and best["gpu_hours"] == pytest.approx(4.0)
    assert (second["objective"], second["values"]["beta"], second["epoch"]) == ("mmpo", 0.5, 1)
    claims = {claim["claim"]: claim for claim in written["claims"]}
    peak = claims["MMPO has less peak win rate than DPO (the paper: -4.30 points)"]
    assert peak["effect"]["value"] == pytest.approx(-0.1) and peak["verdict"] == "within noise"
    assert peak["effect"]["interval"][1] == pytest.approx(0.218, abs=1e-3)
    assert "MMPO's 2 betas" in peak["effect"]["noise_is"]
    assert claims["MMPO's win rate is stable over beta"]["verdict"] == "an identity"
    assert claims["without in-batch normalisation the peak win rate is higher"]["verdict"] == "an identity"
    assert claims["entropy maximisation lowers the peak win rate"]["verdict"] == "not measured"


def test_cost_counts_a_trial_where_it_was_trained(out, seeded):
    """1800 seconds a trial on four GPUs are two GPU-hours; a diverged trial has no time."""
    assert table(out, "cost") == [
        ["stage 1, learning rate", "mmpo", "2", "0", "0", "3,600", "4.00", "4 x L40", "", "finished"],
        ["stage 2, beta", "mmpo", "1", "0", "1", "1,800", "2.00", "4 x L40", "", "finished"],
        ["stage 3, margin", "mmpo", "1", "0", "1", "1,800", "2.00", "4 x L40", "", "finished"],
        ["final runs", "mmpo", "2", "0", "0", "3,600", "4.00", "4 x L40", "", "finished"],
        ["ablations", "mmpo", "2", "0", "1", "1,800", "2.00", "4 x L40", "1", "finished"],
        ["stage 1, learning rate", "dpo", "2", "0", "0", "1,800", "2.00", "4 x L40", "1", "finished"],
        ["final runs", "dpo", "1", "0", "0", "1,800", "2.00", "4 x L40", "", "finished"],
        ["all", "", "11", "", "", "16,200", "18.00", "", "", ""],
    ]
    assert table(seeded, "cost")[0][5:8] == ["7,200", "no GPU", "1 x CPU"]


def test_what_is_missing_is_said_and_not_filled_in(out):
    markdown = (out / "report.md").read_text()
    told = markdown.partition("## What is missing")[2].strip().splitlines()
    assert told == [
        "- mmpo: ablations: variant no aux has no result: it was not trained.",
        "- mmpo: ablations: variant len norm has no result: it was not trained.",
        "- mmpo: ablations: variant entropy has no result, it diverged: loss is nan at step 9.",
        "- dpo: stage 1, learning rate: learning rate 5e-5 has no result, it diverged: loss is nan at step 3.",
        "- dpo: stage 2, beta: not run (`mmpo stage2`).",
        "- dpo: final runs: beta 0.5 has no result: it was not trained.",
        "- dpo: final runs: beta 0.05 has no LM Harness at epoch 2.",
        "- The starting model's LM Harness accuracy is not in the ledger, so its line is not drawn: "
        "`mmpo judge HuggingFaceTB/SmolLM2-360M --suite harness --mlflow-uri ADDRESS` records it.",
    ]
    assert "Missing: dpo: final runs: beta 0.5 has no result" in markdown.partition("figure1_mmpo_dpo")[2][:500]
    absent = [row for row in table(out, "points") if row[1:3] == ["final_runs", "dpo"] and row[5] == "0.5"]
    assert absent and all(row[8:] == ["", "", "", "0", "1", ""] for row in absent)


def test_the_finding_stands_at_the_ablations(out):
    section = (out / "report.md").read_text().partition("## Figure 3")[2].partition("\n## ")[0]
    assert "loss is exactly -s_w" in section and "same gradients as the full objective" in section


def test_the_page_loads_nothing_and_has_every_picture_inside(out):
    page = (out / "report.html").read_text()
    assert set(re.findall(r"""\s(?:src|href)\s*=\s*["']?(.{15})""", page)) == {"data:image/png;"}
    assert not re.search(r"url\(|@import|<script|<link", page)
    pictures = {path.stem for path in (out / "figures").glob("*.png")}
    assert pictures == {path.stem for path in (out / "figures").glob("*.svg")}
    assert {"figure1_mmpo_dpo", "figure3_ablations", "curves_stage1_lr_dpo", "curves_final_runs_mmpo"} <= pictures
    assert page.count("data:image/png;base64,") == len(pictures) == 2 + 7
    assert "prefers-color-scheme: dark" in page and "@media print" in page


def test_several_experiments_stand_in_the_same_tables(storage, tmp_path):
    command = ["--storage", str(storage), "--experiment", EXPERIMENT, SEEDED, "gone", "--objective", "mmpo", "exo"]
    main([*command, "--out", str(tmp_path)])
    assert [row[:2] for row in table(tmp_path, "table1")] == [["SmolLM2-360M", "mmpo"], ["tiny", "mmpo"]]
    assert len(table(tmp_path, "cost_1")) == 6 and len(table(tmp_path, "cost_2")) == 2
    markdown = (tmp_path / "report.md").read_text()
    assert "Missing: the ledger at" in markdown and "no stage of mmpo, exo in the experiment 'gone'" in markdown
    assert f"Missing: there is no stage of exo in the experiment '{SEEDED}'." in markdown


def test_a_persons_choice_and_a_measured_starting_model_are_taken(storage, tmp_path):
    """After the others: it changes the ledger of this file."""
    ledger = connect(None, storage)
    [stage] = ledger.find_stages(SEEDED, "stage2_beta", "mmpo")
    child = next(one for one in ledger.find_children(SEEDED, stage.run_id) if one.name == "beta=0.05 s42")
    ledger.store.client.set_tag(child.run_id, "winner", "person")
    run = ledger.store.client.create_run(ledger.store.experiment_id("evaluations"))
    ledger.store.log_params(run, {"path": "HuggingFaceTB/SmolLM2-360M"})
    ledger.store.log_metrics(run.info.run_id, [("harness/mean_accuracy", 0.3601, 1, 0)])
    ledger.close()
    main(["--storage", str(storage), "--experiment", SEEDED, "--out", str(tmp_path / "seeded")])
    assert table(tmp_path / "seeded", "table3")[1][3:5] == ["0.05", "by a person"]
    main(["--storage", str(storage), "--experiment", EXPERIMENT, "--objective", "dpo", "--out", str(tmp_path / "dpo")])
    assert "starting model's" not in (tmp_path / "dpo" / "report.md").read_text().partition("What is missing")[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "several experiments; give --model, or --experiment"),
        (["--experiment", "gone"], "no stage in the experiment 'gone'; experiments with stages: SmolLM2-360M on orca"),
        (["--experiment", EXPERIMENT, "--objective", "simpo"], "no stage of simpo in the experiment"),
        (["--compare", "one"], "--compare takes two runs, got 1"),
        (["--push-to-hub", "me/card"], "say of which run with --card RUN"),
        (["--storage", "nowhere"], "there is no ledger at nowhere/mlflow.db"),
    ],
)
def test_what_cannot_be_reported_is_refused_with_the_next_step(storage, arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(storage)
    with pytest.raises(SystemExit) as stop:
        main([*([] if "--storage" in arguments else ["--storage", str(storage)]), *arguments])
    assert stop.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (storage / "nowhere").exists()

"""The whole search in one command: on a real MLflow with training made up, and once for real on a random model."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmpo_train.config import parse_assignments
from mmpo_train.terminal import console
from sweeps import grids, paper, report, stage1_lr
from sweeps.ledger.ledger import connect
from sweeps.paper import PaperOptions, steps_of
from sweeps.plan.options import SweepOptions
from sweeps.search import conclusion
from sweeps.trials import work_clock
from tests.support.search import Search, no_picture, usual
from tests.support.workers import REPOSITORY

REPORT = paper._report


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """An empty ledger; making its tables takes seconds."""
    folder = tmp_path_factory.mktemp("database")
    connect(None, folder).close()
    return folder / "mlflow.db"


@pytest.fixture
def search(empty, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    shutil.copy(empty, tmp_path / "runs" / "mlflow.db")
    made = Search(tmp_path / "runs")
    made.share(monkeypatch)
    monkeypatch.setattr(console, "_width", 200)
    monkeypatch.setattr(conclusion, "plot_stage", no_picture)
    monkeypatch.setattr(paper, "_report", lambda options, searches, keys: "")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return made


REWARD_ALONE = ("--set", "evaluations=reward")
QUICK = ("--objective", "mmpo", "dpo", "simpo", "--quick", *REWARD_ALONE)


def test_quick_trains_the_whole_way_in_order_and_again_nothing(search):
    """MMPO: two rates, a final run and three ablations; its other points have the models of these. DPO 2 + 1 + 1; SimPO
    2 + 1 + 1 + 1."""
    printed = search(paper, *QUICK)
    trained = [one.objective for one in search.trained]
    assert [trained.count(name) for name in ("mmpo", "dpo", "simpo")] == [6, 4, 5]
    assert trained == sorted(trained, key=["mmpo", "dpo", "simpo"].index)
    epochs = [one.epochs for one in search.trained if one.objective == "mmpo"]
    assert epochs == [1, 1, 2, 1, 1, 1]
    assert "3 of 3 searches complete" in printed
    assert "3 of 3 searches complete" in search(paper, *QUICK) and not search.trained


def reported(search, *more):
    """What the report's command printed."""
    with console.capture() as captured:
        report.main(["--storage", str(search.storage), *more])
    return " ".join(captured.get().split())


def test_a_full_search_and_a_quick_one_in_the_same_storage_do_not_mix(search, monkeypatch, tmp_path, capsys):
    """Two epochs are best at 1e-6, one epoch is best at 5e-4. Each search goes on with its own rate, and so do the two
    reports: table 3 has the rate with which the final runs were trained."""
    monkeypatch.setattr(paper, "_report", REPORT)
    search.outcome = lambda config: 25 + 5 * (config.learning_rate == (5e-4 if config.epochs == 1 else 1e-6))
    keys = []
    for epochs, rate, more in ((5, 1e-6, ()), (2, 5e-4, ("--quick",))):
        printed = search(paper, "--objective", "mmpo", *REWARD_ALONE, *more)
        finals = [one.data.params for one in search.runs(stage_name="final_runs")]
        assert {float(one["learning_rate"]) for one in finals if one.get("epochs") == str(epochs)} == {rate}
        keys += re.findall(r"search ([0-9a-f]{8}) ", printed)
    assert len(set(keys)) == 2
    for key, other, shown, epochs in zip(keys, keys[::-1], ("1e-6", "5e-4"), ("12345", "12"), strict=True):
        printed = reported(search, "--search", key, "--out", str(tmp_path / key))
        assert f"search {key} (" in printed and f"not in it: {other} (" in printed
        assert f"search `{key} (" in (tmp_path / key / "report.md").read_text()
        assert f"learning rate,{shown},by rule" in (tmp_path / key / "csv" / "table3.csv").read_text()
        points = (tmp_path / key / "csv" / "points.csv").read_text().splitlines()
        assert {line.split(",")[6] for line in points if ",final_runs," in line} == set(epochs)
    with pytest.raises(SystemExit):
        reported(search, "--search", "none")
    told = " ".join(capsys.readouterr().err.split())
    assert all(f"tiny on tiny: {key} (" in told for key in keys)


def test_a_stage_that_fails_ends_its_objective_and_not_the_others(search, capsys):
    def outcome(config):
        return usual(config) if config.objective != "mmpo" else "loss is nan at step 1"

    search.outcome = outcome
    with console.capture() as captured, pytest.raises(SystemExit) as stop:
        paper.main(["--storage", str(search.storage), *QUICK], search)
    printed = " ".join(captured.get().split())
    assert stop.value.code == 1
    assert re.search(r"tiny, mmpo stopped at stage1_lr: .*loss is nan at step 1", printed)
    assert "2 of 3 searches complete; the same command continues with the others" in printed
    assert [one.objective for one in search.trained].count("mmpo") == 2, "stage 2 was not tried"
    assert {"dpo", "simpo"} <= {one.objective for one in search.trained}


def test_whatever_breaks_a_stage_is_said_and_the_others_go_on(search):
    def outcome(config):
        if config.objective == "dpo":
            raise RuntimeError("the disk is gone")
        return usual(config)

    search.outcome = outcome
    with console.capture() as captured, pytest.raises(SystemExit):
        paper.main(["--storage", str(search.storage), "--objective", "dpo", "simpo", "--quick", *REWARD_ALONE], search)
    printed = " ".join(captured.get().split())
    assert "tiny, dpo stopped at stage1_lr: RuntimeError: the disk is gone" in printed and "1 of 2" in printed


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--set", "epochs=3"), "--set epochs=… is what the search decides"),
        (("--set", "beta=0.2"), "--set beta=… is what the search decides"),
        (("--objective", "dpo", "mppo"), "'mppo'"),
        (("--objective", "dpo", "dpo"), "--objective names one twice"),
        (("--set", "auxiliary=false"), "ablations varies auxiliary"),
        (("--seeds", "0"), "--seeds must be at least 1"),
        (("--workers-per-trial", "1000"), "a trial of 1000 workers needs 1000"),
        (("--set", "evaluations=harness", "--evaluation.task-data", "nowhere"), "nowhere"),
    ],
)
def test_what_a_later_stage_would_refuse_is_refused_before_anything_starts(search, capsys, more, message):
    error = search.fails(capsys, paper, *more)
    assert message in error and not search.trained


def test_a_dry_run_counts_what_stages_share_once_and_writes_nothing(tmp_path, monkeypatch):
    """6 + 1 + 3 for MMPO, 9 + 3 for DPO, 14 + 3 for SimPO; 19 + 3 + 4 for MMPO where every trial is trained."""
    monkeypatch.setattr(console, "_width", 200)
    printed = Search(tmp_path / "runs")(paper, "--dry-run")
    assert "39 to train in all; nothing was started" in printed
    assert "26 to train in all" in Search(tmp_path / "runs")(paper, "--dry-run", "--objective", "mmpo", "--train-all")
    assert "forecast: " in printed.rpartition("to train in all")[2] and not (tmp_path / "runs").exists()


def test_a_dry_run_in_the_middle_lists_what_is_left(search):
    search(stage1_lr, "--learning-rates", "5e-4", "5e-5", "--set", "epochs=1")
    printed = search(paper, "--dry-run", "--quick", "--objective", "mmpo")
    assert "0 to train, 2 to reuse" in printed and "5 to train in all" in printed


def test_a_stage_says_what_was_foreseen_and_what_it_cost(search, monkeypatch):
    """Six made-up trials on one core, which start and report twice: half a second lies between two words."""
    words = itertools.count()
    monkeypatch.setattr(work_clock, "time", SimpleNamespace(monotonic=lambda: next(words) / 2))
    printed = search(stage1_lr)
    assert "forecast: 768 steps" in printed and "cost: 0.0017 CPU-hours without evaluation, " in printed
    [parent] = search.runs(ledger_kind="stage")
    assert parent.data.tags["cost.hours"] == f"{6 / 3600:.4g}" and float(parent.data.tags["forecast.hours"]) > 0
    assert "from FLOP" in parent.data.tags["forecast.source"]


def test_evaluations_judge_what_the_search_ends_with_alone():
    options = PaperOptions(set=("evaluations=reward,harness", "pairs_per_step=8"))
    given = {step.stage.name: step.options.set for step in steps_of(options, "tiny", "mmpo")}
    assert given["stage1_lr"] == given["stage3_margin"] == ("pairs_per_step=8",)
    assert given["final_runs"] == given["ablations"] == options.set


def test_tiny_is_judged_by_all_that_the_reports_tables_need_and_other_models_by_what_is_named():
    def evaluations(model: str, **options) -> dict:
        steps = steps_of(PaperOptions(quick=True, **options), model, "mmpo")
        return {step.stage.name: parse_assignments(step.options.set).get("evaluations", "") for step in steps}

    everything = {"final_runs": "reward,harness,alpaca", "ablations": "reward,harness,alpaca"}
    assert evaluations("tiny") == {"stage1_lr": "", "stage2_beta": "", "stage3_margin": ""} | everything
    assert set(evaluations("models/mine").values()) == {""}
    assert evaluations("tiny", set=("evaluations=reward",))["final_runs"] == "reward"


def test_without_quick_the_grids_are_the_papers():
    steps = {step.stage.name: step.stage for step in steps_of(PaperOptions(), "tiny", "mmpo")}
    assert list(steps) == ["stage1_lr", "stage2_beta", "stage3_margin", "final_runs", "ablations"]
    assert steps["stage1_lr"].values == grids.LEARNING_RATES and steps["stage3_margin"].values == grids.MARGINS["r_eps"]
    assert [step.stage.name for step in steps_of(PaperOptions(), "tiny", "dpo")] == [
        "stage1_lr",
        "stage2_beta",
        "final_runs",
    ]


def test_quick_grids_have_the_values_that_stages_share():
    """So that reuse is seen: stage 1's beta is on stage 2's grid, stage 2's margin on stage 3's."""
    assert grids.SEARCH_SETTINGS["beta"] in grids.QUICK_BETAS
    for name, values in grids.QUICK_MARGINS.items():
        assert grids.SEARCH_SETTINGS[name] in values and set(values) <= set(grids.MARGINS[name])
    assert set(grids.QUICK_LEARNING_RATES) <= set(grids.LEARNING_RATES)


def test_each_model_has_its_own_options():
    [step, *_] = steps_of(PaperOptions(storage=Path("there"), seeds=2), "models/mine", "dpo")
    assert isinstance(step.options, SweepOptions)
    assert (step.options.model, step.options.objective, step.options.seeds) == ("models/mine", "dpo", 2)


@pytest.mark.slow
def test_the_whole_search_for_real(model_folder: Path, preference_rows: list[dict], tmp_path: Path) -> None:
    """Ray, DeepSpeed, evaluators, MLflow and the report; killed nowhere, run twice."""
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in preference_rows))
    words = [sys.executable, "sweeps/paper.py", "--objective", "dpo", "--quick", "--model", str(model_folder)]
    words += ["--dataset", str(data), "--storage", str(tmp_path / "runs")]
    for setting in ("pairs_per_step=6", "max_prompt_tokens=64", "max_completion_tokens=32"):
        words += ["--set", setting]

    def run() -> str:
        environment = os.environ | {"COLUMNS": "200"}
        done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return " ".join(done.stdout.split())

    first = run()
    assert len(re.findall(r": starting: ", first)) == 4 and "1 of 1 searches complete" in first
    assert "from FLOP" in first and "measured: " in first and len(re.findall(r"cost: [\d.]+ CPU-hours", first)) == 3
    again = run()
    assert ": starting: " not in again and "1 of 1 searches complete" in again

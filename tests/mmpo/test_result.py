"""A stage from Python: ranking, winner, frame and checkpoints on a real MLflow; only the training is made up."""

import subprocess
import sys

import pytest

import mmpo
from mmpo.result import run
from mmpo_train.terminal import console
from sweeps.search import conclusion
from tests.support.search import PAIRS, Search, no_picture, usual

RATES = [5e-4, 1e-4, 1e-5]


@pytest.fixture
def search(tmp_path, monkeypatch):
    made = Search(tmp_path / "runs")
    monkeypatch.setattr(conclusion, "plot_stage", no_picture)
    monkeypatch.setattr(console, "quiet", True)
    return made


def test_a_stage_returns_ranking_winner_frame_and_checkpoints(search):
    """1e-4 gets 27 of 40 pairs right, the others 23."""
    search.outcome = lambda config: "loss is nan" if config.learning_rate == 1e-5 else usual(config)
    result = run("stage1", {"storage": str(search.storage), "learning_rates": RATES, "seed": 3}, search)
    assert [one["learning_rate"] for one in result.ranking] == [1e-4, 5e-4, 1e-5]
    assert result.winner["reward_accuracy"] == 27 / PAIRS and result.winner["epoch"] == 1
    assert result.winner["checkpoint"] == result.checkpoints[1e-4] and set(result.checkpoints) == {1e-4, 5e-4}
    assert "1e-4 wins" in result.reason
    frame = result.frame
    assert len(frame) == 5 and set(frame["seed"]) == {3}  # two epochs of two trials, and one that diverged
    assert frame.groupby("state")["trial"].nunique().to_dict() == {"diverged": 1, "finished": 2}
    best = frame[(frame["learning_rate"] == 1e-4) & (frame["epoch"] == 1)]
    assert best["validation/reward_accuracy"].item() == 27 / PAIRS
    search.trained.clear()
    again = run("stage1", {"storage": str(search.storage), "learning_rates": RATES, "seed": 3}, search)
    assert again.winner == result.winner and not search.trained


def test_a_later_stage_takes_the_winner_and_a_dry_run_lists_what_is_there(search):
    where = {"storage": str(search.storage), "objective": "dpo"}
    with pytest.raises(mmpo.InputError, match="has not been run"):
        run("stage2", where, search)
    run("stage1", where | {"learning_rates": RATES}, search)
    planned = run("stage2", where | {"dry_run": True}, search)
    assert planned.winner == {} and planned.frame["state"].tolist().count("new") == 3
    assert {one.learning_rate for one in search.trained} == set(RATES)
    run("stage2", where | {"betas": [0.05, 0.1]}, search)
    assert [(one.beta, one.learning_rate) for one in search.trained[3:]] == [(0.05, 1e-4)]


def test_what_is_wrong_is_an_exception_that_names_all_of_it(search):
    with pytest.raises(mmpo.InputError, match="did you mean 'stage1'"):
        mmpo.sweep("stage11")
    with pytest.raises(mmpo.InputError) as refused:
        mmpo.sweep("stage1", modle="tiny", seeds="two", betta=1)
    assert all(word in str(refused.value) for word in ("'model'", "seeds must be a whole number", "'beta'"))
    with pytest.raises(mmpo.InputError, match="no margin"):
        mmpo.sweep("stage3", objective="dpo")


def test_fields_of_the_trial_and_a_file_are_taken(search, tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text("objective: dpo\nepochs: 1\nseed: 5\n")
    where = {"config": path, "storage": str(search.storage)}
    run("stage1", where | {"learning_rates": [1e-4], "beta": 0.3, "seed": 6}, search)
    [trial] = search.trained
    assert (trial.objective, trial.epochs, trial.beta, trial.seed) == ("dpo", 1, 0.3, 6)


def test_importing_it_loads_neither_torch_nor_ray():
    program = "import sys, mmpo\nprint({'torch', 'ray', 'mlflow', 'pandas', 'rich'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "set()\n"

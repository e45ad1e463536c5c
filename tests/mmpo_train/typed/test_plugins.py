"""Plug-ins: what they add, whose trials have their digest, what is refused, and that Ray's workers have them."""

import json
import os
import subprocess
import sys

import pytest

from mmpo_train.config import TrialConfig, from_dict, replace, to_dict
from mmpo_train.errors import InputError
from mmpo_train.objectives import Batch, build_objective
from mmpo_train.objectives.plugged import load_and_try
from tests.support.commands import SETTINGS
from tests.support.workers import REPOSITORY

SQUARED = """
from mmpo_train.objectives import Objective

def build(config):
    def loss(batch):
        scores = config.beta * (batch.policy_logps - batch.ref_logps)
        return (scores[:, 0] - scores[:, 1] - 1) ** 2, scores.detach()
    return Objective(loss=loss)

def count_files(checkpoint, artifacts):
    (artifacts / "seen.txt").write_text(str(checkpoint))
    return {"files": len(list(checkpoint.iterdir()))}

OBJECTIVES = {"squared": (("beta",), build)}
JUDGES = {"shortest": lambda question, a, b: float(len(a) < len(b))}
EVALUATIONS = {"folder": count_files}
"""


@pytest.fixture
def plugin(tmp_path, plugged):
    """Writes a plug-in."""

    def write(text, name="mine.py"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def test_an_objective_of_a_file_is_one_of_the_objectives(plugin):
    """beta 0.5, log-ratios 1 and -1: scores 0.5 and -0.5, loss (0.5 + 0.5 - 1)^2 = 0."""
    import torch

    load_and_try([plugin(SQUARED)])
    config = replace(TrialConfig(), {"objective": "squared", "beta": 0.5})
    ones = torch.ones(1, 2)
    batch = Batch(torch.tensor([[-1.0, -3.0]]), torch.tensor([[-2.0, -2.0]]), ones * 0, ones * 4, ones > 0)
    losses, scores = build_objective(config).loss(batch)
    assert losses.tolist() == [0.0] and scores.tolist() == [[0.5, -0.5]]


def test_the_text_of_a_plug_in_is_part_of_its_trials_and_of_no_others(plugin):
    path, usual = plugin(SQUARED), TrialConfig()
    before = {name: replace(usual, {"objective": name}).digest for name in ("mmpo", "dpo", "on_mc_po")}
    load_and_try([path])
    first = replace(usual, {"objective": "squared"})
    assert first.plugins[0].startswith("mine@") and first.digest != replace(first, {"beta": 0.7}).digest
    assert {name: replace(usual, {"objective": name}).digest for name in before} == before
    assert replace(first, {"objective": "dpo"}).digest == before["dpo"]
    assert replace(first, {"gamma": 3}).digest == first.digest  # a field that it does not read
    online = replace(usual, {"objective": "on_mc_po", "judge": "shortest"})
    assert online.plugins == first.plugins and replace(usual, {"judge": "shortest"}).plugins == ()


def test_a_trial_asks_for_its_plug_in_and_refuses_another_version(plugin):
    path = plugin(SQUARED)
    load_and_try([path])
    stored = to_dict(replace(TrialConfig(), {"objective": "squared"}))
    assert from_dict(stored).plugins == tuple(stored["plugins"])
    with pytest.raises(InputError, match="uses the plug-in mine@0000.*--plugin; the one loaded is mine@"):
        from_dict(stored | {"plugins": ["mine@0000"]})


def test_judges_and_evaluations_are_found_by_their_names(plugin, tmp_path):
    from eval_workers.judging.judges import open_judge
    from eval_workers.judging.preference_judges import open_preference_judge
    from eval_workers.settings import EvaluationSettings
    from eval_workers.suites import build

    load_and_try([plugin(SQUARED)])
    assert open_judge("shortest").compare("?", "ab", "abc") == 1
    assert "mine@" in open_preference_judge("shortest").prompt
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "a").write_text("")
    run = build("folder", EvaluationSettings(), tmp_path, tiny=False, precision="fp32")
    result = run({"checkpoint": str(folder), "starting_model": "", "artifacts": str(tmp_path / "artifacts")})
    assert result["metrics"] == {"folder/files": 1.0} and "mine@" in result["facts"]["plugin"]
    assert replace(TrialConfig(), {"evaluations": "reward,folder"}).evaluations == ("reward", "folder")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1", "none of the tables OBJECTIVES, JUDGES, EVALUATIONS"),
        ("def f(:", "cannot be loaded: SyntaxError"),
        ("import nowhere_to_be_found", "cannot be loaded: ModuleNotFoundError"),
        ("OBJECTIVES = {'dpo': (('beta',), lambda config: 1)}", "objective 'dpo' must have a new name"),
        ("OBJECTIVES = {'mine': (('betta',), lambda config: 1)}", "no field 'betta'; did you mean 'beta'"),
        ("OBJECTIVES = {'mine': lambda config: 1}", "objective mine must have a function of 1 argument"),
        ("OBJECTIVES = {'mine': (('beta',), lambda config: 1)}", "its builder returned int"),
        (SQUARED.replace(") ** 2, scores", ") ** 2 / 0 * 0, scores"), "fails on a batch of two pairs"),
        ("JUDGES = {'mine': lambda a: 1}", "judge mine must have a function of 3 arguments"),
        ("EVALUATIONS = {'mine': 3}", "evaluation mine must have a function of 2 arguments"),
    ],
)
def test_a_plug_in_that_cannot_be_used_is_refused_before_anything_starts(plugin, text, said):
    with pytest.raises(InputError, match=said):
        load_and_try([plugin(text)])


def test_a_source_that_is_no_file_and_no_entry_point_is_refused(plugin):
    with pytest.raises(InputError, match="no such file, nor an entry point of mmpo.plugins"):
        load_and_try(["nowhere.py"])


def test_an_installed_package_is_found_by_its_entry_point(plugin, tmp_path, monkeypatch):
    plugin(SQUARED, "installed_squared.py")
    info = tmp_path / "squared-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: squared\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mmpo.plugins]\nmy-squared = installed_squared\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    load_and_try(["my-squared"])
    assert replace(TrialConfig(), {"objective": "squared"}).plugins[0].startswith("installed_squared@")


def test_another_process_has_the_plug_ins_of_the_command(plugin):
    load_and_try([plugin(SQUARED)])
    program = (
        "from mmpo_train.typed.plugins import set_up_worker\nset_up_worker()\n"
        "from mmpo_train.config import TrialConfig, replace\n"
        "print(replace(TrialConfig(), {'objective': 'squared'}).digest)"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == replace(TrialConfig(), {"objective": "squared"}).digest


@pytest.mark.slow
def test_a_stage_on_ray_trains_and_judges_with_a_plug_in(plugin, model_folder, preference_rows, tmp_path):
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in preference_rows))
    words = [sys.executable, "-m", "mmpo", "stage1", "--plugin", plugin(SQUARED), "--objective", "squared"]
    words += ["--model", str(model_folder), "--dataset", str(data), "--storage", str(tmp_path / "runs")]
    words += ["--learning-rates", "1e-3", "--set", "evaluations=reward,folder"]
    words += [word for setting in SETTINGS for word in ("--set", setting)]
    run = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"})
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    [trial] = (tmp_path / "runs" / "trials").glob("*/trial.json")
    assert json.loads(trial.read_text())["config"]["plugins"][0].startswith("mine@")
    assert len(list(trial.parent.glob("evaluations/epoch-*/folder/seen.txt"))) == 2

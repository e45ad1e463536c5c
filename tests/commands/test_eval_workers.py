"""`mmpo judge`: checkpoints and models judged by themselves."""

import json
import socket
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from eval_workers.__main__ import main
from eval_workers.settings import EvaluationSettings
from eval_workers.suites import build
from eval_workers.tracking.evaluations import Evaluations
from mmpo_train.config import EVALUATIONS, replace
from mmpo_train.errors import InputError
from mmpo_train.model.policy import load_model, load_tokenizer, save_model
from mmpo_train.storage.manifest import write_folder
from mmpo_train.trial.checkpoint import write_trial
from tests.support.checkpoints import tiny_tasks
from tests.support.standins.judge_server import JudgeServer


@pytest.fixture(scope="module")
def checkpoint(prepared: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trial's checkpoint whose policy is the starting model, but for a little."""
    import torch

    folder = tmp_path_factory.mktemp("trial") / "abc" / "checkpoints" / "epoch-0001"
    model = load_model(prepared.places.model)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))

    def fill(staging: Path) -> None:
        save_model(model, load_tokenizer(prepared.places.model), staging)
        write_trial(staging, replace(prepared.config, {"objective": "dpo"}), epoch=1, step=5)

    write_folder(folder, fill)
    return folder


def test_a_checkpoint_and_its_starting_model_are_judged_by_every_suite_and_recorded(
    checkpoint: Path, prepared: Any, folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with JudgeServer() as server:
        words = [str(checkpoint), str(prepared.places.model), "--suite", *EVALUATIONS]
        words += ["--dataset", *prepared.config.dataset, "--storage", str(tmp_path / "runs")]
        words += ["--output", str(tmp_path / "out"), "--mlflow-uri", f"sqlite:///{tmp_path}/mlflow.db"]
        words += ["--harness-tasks", *tiny_tasks()[:2]]
        words += ["--alpaca-prompts", str(folders["prompts"]), "--judges", server.spec(), "--limit", "6"]
        words += ["--arena-questions", str(folders["arena"]), "--arena-baseline", "old", "--max-answer-tokens", "12"]
        main(words)
        asked = len(server.requests)
        main(words)
        assert len(server.requests) == asked > 0, "verdicts are kept"
    said = capsys.readouterr().out
    assert "scores" in said and "abc-epoch-0001" in said
    results = {
        path.parent.name.rpartition("-")[0]: json.loads(path.read_text())
        for path in tmp_path.glob("out/*/results.json")
    }
    assert set(results) == {"abc-epoch-0001", prepared.places.model.name}
    for name, result in results.items():
        assert "validation/policy_accuracy" in result and "harness/mean_accuracy" in result
        assert 0 <= result["alpaca/win_rate"] <= 1 and 0 <= result["arena_hard/win_rate"] <= 1
        assert ("validation/reward_accuracy" in result) == (name == "abc-epoch-0001")
    assert results[prepared.places.model.name]["alpaca/win_rate"] == 0.5, "against itself"
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("evaluations").experiment_id])
    assert len(runs) == 2, "the second command finds the runs of the first"
    assert all("arena_hard/win_rate" in run.data.metrics and run.info.status == "FINISHED" for run in runs)
    assert {run.data.params["limit"] for run in runs} == {"6"}


def test_what_cannot_be_judged_is_named_and_the_rest_is_judged(
    checkpoint: Path, prepared: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(checkpoint), "--suite", "reward", "arena", "--storage", str(tmp_path / "runs")]
    with pytest.raises(SystemExit) as stop:
        main([*words, "--output", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert stop.value.code == 2 and "failed" in said and "--arena-questions FOLDER" in said
    [path] = tmp_path.glob("out/*/results.json")
    assert "validation/reward_accuracy" in json.loads(path.read_text())


def test_a_path_that_is_nothing_is_refused_before_anything_is_judged(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(
            [str(checkpoint), str(tmp_path / "nothing"), "--storage", str(tmp_path), "--output", str(tmp_path / "out")]
        )
    assert stop.value.code == 2 and "does not exist" in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*/results.json"))


def test_an_mlflow_that_does_not_answer_is_refused_before_anything_is_judged_or_paid(
    checkpoint: Path, folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with JudgeServer() as server, socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
        closed.close()
        words = [str(checkpoint), "--suite", "alpaca", "--storage", str(tmp_path / "runs")]
        words += ["--alpaca-prompts", str(folders["prompts"]), "--judges", server.spec(), "--limit", "6"]
        began = time.monotonic()
        with pytest.raises(SystemExit) as stop:
            main([*words, "--output", str(tmp_path / "out"), "--mlflow-uri", f"http://ana:hun@ter2@127.0.0.1:{port}"])
        assert time.monotonic() - began < 10
        assert stop.value.code == 2 and not server.requests and not (tmp_path / "out").exists()
    said = capsys.readouterr()
    assert f"MLflow at http://***@127.0.0.1:{port} cannot be used" in said.err
    assert "correct --mlflow-uri, or leave out --mlflow-uri" in said.err
    assert "hun" not in said.err + said.out and "ter2" not in said.err + said.out


def test_scores_that_mlflow_never_took_are_on_disk_and_said_to_be(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database answers at the start and is locked by somebody else when the scores are to be recorded."""
    record = Evaluations.record

    database = tmp_path / "mlflow.db"
    locks: list[sqlite3.Connection] = []

    def locked(self: Evaluations, *what: Any) -> None:
        locks.append(sqlite3.connect(database, isolation_level=None))
        locks[-1].execute("BEGIN EXCLUSIVE")
        record(self, *what)

    monkeypatch.setattr(Evaluations, "record", locked)
    monkeypatch.setattr(Evaluations.finish, "__defaults__", (1.0,))
    words = [str(checkpoint), "--storage", str(tmp_path / "runs"), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stop:
        main([*words, "--mlflow-uri", f"sqlite:///{database}"])
    locks[0].close()
    said = capsys.readouterr().out
    assert (
        stop.value.code == 2
        and "has taken nothing for 1 s" in said
        and "not recorded: MLflow" in said
        and "all results: " in said
    )
    [path] = tmp_path.glob("out/*/results.json")
    assert "validation/reward_accuracy" in json.loads(path.read_text())


@pytest.mark.parametrize(
    ("suite", "wants"), [("arena", "--arena-questions"), ("nonsense", "known are reward, harness")]
)
def test_a_suite_that_cannot_run_says_what_it_wants(suite: str, wants: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=wants):
        build(suite, EvaluationSettings(), tmp_path, tiny=False, precision="fp32")


@pytest.mark.parametrize("suite", ["harness", "alpaca", "arena"])
def test_counts_below_0_are_all_named_before_anything_is_read(suite: str, tmp_path: Path) -> None:
    wrong = EvaluationSettings(limit=-1, checked_pairs=-2, max_answer_tokens=-3)
    with pytest.raises(InputError, match=r"limit is -1, .*; checked_pairs is -2, .*; max_answer_tokens is -3"):
        build(suite, wrong, tmp_path, tiny=True, precision="fp32")

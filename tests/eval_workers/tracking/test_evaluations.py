"""Real MLflow on sqlite, and a real server that goes away."""

import shutil
import time

import pytest

from eval_workers.tracking.evaluations import EXPERIMENT, Evaluations
from mmpo_train.errors import InputError
from tests.support.standins.mlflow_server import MlflowServer

SCORES = {"alpaca/win_rate": 0.5, "harness/mean_accuracy": 0.25, "arena_hard/win_rate": float("nan")}


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A database with MLflow's tables, which take seconds to make."""
    made = tmp_path_factory.mktemp("database")
    connect(made).finish()
    return made / "mlflow.db"


@pytest.fixture
def folder(tmp_path, database):
    shutil.copy(database, tmp_path / "mlflow.db")
    made = tmp_path / "judged"
    made.mkdir()
    (made / "results.json").write_text("{}")
    return made


def connect(tmp_path) -> Evaluations:
    return Evaluations(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "runs")


def recorded(made: Evaluations) -> list:
    store = made._store
    return store.search(store.experiment_id(EXPERIMENT), {})


def test_scores_recorded_twice_are_one_run_with_one_point_each(tmp_path, folder):
    for _ in range(2):
        opened = connect(tmp_path)
        opened.record("tiny", "abc", {"path": "tiny", "judges": "openai:m,tiny"}, SCORES, folder)
        assert opened.finish() == []
    [run] = recorded(opened)
    assert (run.info.run_name, run.info.status) == ("tiny", "FINISHED")
    assert run.data.params == {"path": "tiny", "judges": "openai:m,tiny"}
    assert run.data.metrics == {"alpaca/win_rate": 0.5, "harness/mean_accuracy": 0.25}, "what is no number is a gap"
    client = opened._store.client
    assert len(client.get_metric_history(run.info.run_id, "alpaca/win_rate")) == 1
    assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["results.json"]


def test_a_score_that_changed_is_shown_and_other_settings_are_another_run(tmp_path, folder):
    opened = connect(tmp_path)
    for key, score in (("abc", 0.5), ("abc", 0.625), ("with a limit", 0.75)):
        opened.record("tiny", key, {"path": "tiny"}, {"alpaca/win_rate": score}, folder)
        time.sleep(0.01)
    assert opened.finish() == []
    assert sorted(run.data.metrics["alpaca/win_rate"] for run in recorded(opened)) == [0.625, 0.75]


def test_no_secret_is_recorded(tmp_path, folder):
    opened = connect(tmp_path)
    params = {"path": "https://ana:hun@ter2@host/model", "judges": "openai:m@http://h/v1?key=hunter2"}
    opened.record("https://ana:hun@ter2@host/model", "abc", params, {}, folder)
    assert opened.finish() == []
    [run] = recorded(opened)
    assert run.data.params["path"] == run.info.run_name == "https://***@host/model"
    assert "ter2" not in (tmp_path / "mlflow.db").read_bytes().decode(errors="replace")


def test_what_is_refused_for_good_is_said_and_the_rest_recorded(tmp_path, folder):
    opened = connect(tmp_path)
    opened.record("broken", "abc", {}, {"no%name": 1.0}, folder)
    opened.record("tiny", "def", {}, SCORES, folder)
    assert opened.finish() == ["MLflow refused the scores of broken"]
    assert {run.info.run_name for run in recorded(opened) if run.data.metrics} == {"tiny"}


@pytest.mark.parametrize("uri", ["mysql://ana:hun@ter2@127.0.0.1/runs", "http://[::1", "mssql+none://ana:hun@ter2@h/x"])
def test_an_address_that_a_library_cannot_open_is_an_input_error_too(tmp_path, uri):
    with pytest.raises(InputError, match="(?s)cannot be used.*--mlflow-uri") as refusal:
        Evaluations(uri, tmp_path)
    assert "ter2" not in str(refusal.value)


@pytest.mark.slow
def test_scores_wait_for_a_server_that_is_away_and_are_recorded_by_the_next_command_where_it_stays_away(
    tmp_path, folder, caplog
):
    server = MlflowServer(tmp_path)
    server.start()
    try:
        opened = Evaluations(server.uri, tmp_path)
        server.stop()
        opened.record("tiny", "abc", {"path": "tiny"}, SCORES, folder)
        [late] = opened.finish(4)
        assert "has taken nothing for 4 s" in late and "The same command, run again, records them." in late
        assert "trying again" in caplog.text
        server.start()
        again = Evaluations(server.uri, tmp_path)
        again.record("tiny", "abc", {"path": "tiny"}, SCORES, folder)
        assert again.finish() == []
        [run] = recorded(again)
        assert len(again._store.client.get_metric_history(run.info.run_id, "alpaca/win_rate")) == 1
    finally:
        server.stop()

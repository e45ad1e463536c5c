"""Databases and servers that are made, refused, or have nothing behind them."""

import socket
import sqlite3
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from eval_workers.tracking import store as mlflow_store
from mmpo_train.errors import InputError
from sweeps.ledger.ledger import connect
from tests.support.ledger import CONFIG


def test_two_processes_create_the_database_at_once_and_say_nothing(race):
    assert race[1] == [("", 0), ("", 0)]


def test_mlflow_is_imported_only_when_it_is_needed():
    code = "import sys, sweeps.ledger.ledger; print({'mlflow', 'ray', 'torch', 'matplotlib'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


@pytest.mark.parametrize(
    "damage", [lambda content: content[: len(content) // 2], lambda content: b"no database" * 1000]
)
def test_a_damaged_database_is_to_be_moved_away(storage, damage):
    database = storage / "mlflow.db"
    database.write_bytes(damage(database.read_bytes()))
    said = rf"{database} is damaged \(.*\): move it away \(mv {database} {database}.damaged\) and give the same command"
    with pytest.raises(InputError, match=said):
        connect(None, storage)


def test_a_ledger_of_another_mlflow_says_what_to_type(storage):
    database = sqlite3.connect(storage / "mlflow.db")
    database.execute("UPDATE alembic_version SET version_num = 'older'")
    database.commit()
    database.close()
    with pytest.raises(InputError, match=rf"type `mlflow db upgrade sqlite:///{storage}/mlflow\.db`"):
        connect(None, storage)


def test_a_deleted_experiment_is_said_to_be_deleted(ledger):
    ledger.store.client.delete_experiment(ledger.store.client.create_experiment("gone"))
    with pytest.raises(InputError, match="'gone' was deleted in MLflow; restore it"):
        ledger.find_trial("gone", CONFIG.digest)


class NotMlflow(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(404)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_that_refuses_is_not_there_or_never_answers_is_an_input_error_in_seconds(tmp_path, monkeypatch):
    """A closed port, a port that accepts and stays silent, and a web server that is not MLflow."""
    monkeypatch.setattr(mlflow_store, "PROBE_SECONDS", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent, HTTPServer(("127.0.0.1", 0), NotMlflow) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        with socket.create_server(("127.0.0.1", 0)) as closed:
            closed_port = closed.getsockname()[1]
        for port in (closed_port, silent.getsockname()[1], other.server_port):
            began = time.monotonic()
            with pytest.raises(
                InputError, match=r"mlflow server --host 127\.0\.0\.1.*leave out --tracking-uri"
            ) as refusal:
                connect(f"http://ana:hunter2@127.0.0.1:{port}", tmp_path)
            assert time.monotonic() - began < 5
            assert "hunter2" not in str(refusal.value)
            assert refusal.value.__suppress_context__
        other.shutdown()


class OldMlflow(NotMlflow):
    """It has experiments and no models, like MLflow 2."""

    def do_GET(self) -> None:
        if "experiments/search" not in self.path:
            return self.send_error(404)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_GET


def test_a_server_of_an_mlflow_without_models_says_what_to_type(tmp_path):
    with HTTPServer(("127.0.0.1", 0), OldMlflow) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        with pytest.raises(InputError, match="an MLflow before version 3.*`mlflow db upgrade DATABASE`"):
            connect(f"http://127.0.0.1:{other.server_port}", tmp_path)
        other.shutdown()

"""Databases and servers that are made, refused, or have nothing behind them."""

import signal
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


KILLED = """
import os, pathlib, signal, sys
from mlflow.store.db import utils
from sweeps.ledger.ledger import connect
utils._upgrade_db = lambda engine: os.kill(os.getpid(), signal.SIGKILL)
connect(None, pathlib.Path(sys.argv[1]))
"""


def test_a_kill_while_the_database_is_made_leaves_nothing_that_the_next_command_stumbles_over(tmp_path):
    (tmp_path / "mlflow.db-journal").write_bytes(b"of one that was moved away")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL and list(tmp_path.glob(".mlflow.db.*")), killed.stderr
    connect(None, tmp_path).close()
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "mlflow.db.lock"}
    assert (tmp_path / "mlflow.db").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "made", ["CREATE TABLE secrets (secret_id INTEGER)", "ALTER TABLE runs ADD COLUMN deleted_time BIGINT"]
)
def test_a_database_that_others_have_left_half_made_is_to_be_moved_away(tmp_path, made):
    """As MLflow leaves it where it is killed in one of the steps of its own."""
    from mlflow.store.db.utils import create_sqlalchemy_engine
    from mlflow.store.tracking.dbmodels.initial_models import Base

    engine = create_sqlalchemy_engine(f"sqlite:///{tmp_path}/mlflow.db")
    Base.metadata.create_all(engine)
    engine.dispose()
    database = sqlite3.connect(tmp_path / "mlflow.db")
    database.execute(made)
    database.close()
    with pytest.raises(InputError, match=r"is damaged \(.*(already exists|duplicate col).*\): move it away \(mv .*/ml"):
        connect(None, tmp_path)

"""Real MLflow on SQLite in a temporary folder; the schema is made once and copied."""

import shutil
import subprocess
import sys

import pytest

from sweeps.ledger.ledger import connect


@pytest.fixture(scope="session")
def race(tmp_path_factory):
    """Two processes that make the same database at once: the folder, and what each said and returned."""
    folder = tmp_path_factory.mktemp("database")
    imports = "import pathlib, sys; from sweeps.ledger.ledger import connect"
    code = f"{imports}; connect(None, pathlib.Path(sys.argv[1])).close()"
    command = [sys.executable, "-c", code, str(folder)]
    pipe = subprocess.PIPE
    children = [subprocess.Popen(command, text=True, stdout=pipe, stderr=subprocess.STDOUT) for _ in range(2)]
    return folder, [(child.communicate()[0], child.returncode) for child in children]


@pytest.fixture
def storage(tmp_path, race):
    folder = tmp_path / "runs"
    folder.mkdir()
    shutil.copy(race[0] / "mlflow.db", folder / "mlflow.db")
    return folder


@pytest.fixture
def ledger(storage):
    opened = connect(None, storage)
    yield opened
    opened.close()

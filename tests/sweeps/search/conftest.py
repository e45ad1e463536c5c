"""A search of commands that run one after the other on a real ledger; only the training is made up."""

import shutil

import pytest

from mmpo_train.terminal import console
from sweeps.ledger.ledger import connect
from sweeps.search import conclusion
from tests.support.search import Search, no_picture


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    """An empty ledger; making its tables takes seconds."""
    folder = tmp_path_factory.mktemp("database")
    connect(None, folder).close()
    return folder / "mlflow.db"


@pytest.fixture
def search(database, tmp_path, monkeypatch):
    """The commands of a search, in a storage of its own."""
    storage = tmp_path / "runs"
    storage.mkdir()
    shutil.copy(database, storage / "mlflow.db")
    made = Search(storage)
    made.share(monkeypatch)
    monkeypatch.setattr(console, "_width", 200)
    monkeypatch.setattr(conclusion, "plot_stage", no_picture)
    return made

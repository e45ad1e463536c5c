"""A storage that is exported, imported, moved or copied: its ledger opens with all it had."""

import json
import shutil
import zipfile
from types import SimpleNamespace
from unittest import mock

import pytest

from mmpo.__main__ import main as mmpo
from mmpo.result import run
from mmpo_train.errors import InputError
from mmpo_train.terminal import console
from sweeps.ledger.ledger import connect
from sweeps.search import conclusion
from tests.support.search import EXPERIMENT, Search, no_picture

RATES = {"learning_rates": [1e-4, 1e-5], "objective": "dpo"}


@pytest.fixture
def search(tmp_path, monkeypatch):
    """A stage that has run, and a checkpoint and a state of its winner on disk."""
    made = Search(tmp_path / "runs")
    monkeypatch.setattr(conclusion, "plot_stage", no_picture)
    monkeypatch.setattr(console, "quiet", True)
    won = run("stage1", {"storage": str(made.storage), **RATES}, made).outcome
    digest = won.ranking.winner.candidate.extra["digest"]
    for name in ("checkpoints/epoch-0001", "resume/step-1"):
        folder = made.storage / "trials" / digest / name
        folder.mkdir(parents=True)
        (folder / "weights").write_text("many")
    return made


def found(storage):
    """What a ledger has of the trials: their states and scores, from params and from artifacts."""
    ledger = connect(None, storage)
    try:
        [stage] = ledger.find_stages(EXPERIMENT, "stage1_lr", "dpo")
        grid = [digest for point in ledger.json_artifact(stage.run_id, "points.json") for digest in point["digests"]]
        records = ledger.find_trials(EXPERIMENT, grid)
        return {d: (one.status, [scored.metrics for scored in one.evaluations]) for d, one in records.items()}
    finally:
        ledger.close()


def test_an_imported_search_has_trials_choices_and_artifacts(search, tmp_path):
    before = found(search.storage)
    assert len(before) == 2 and all(scores for _, scores in before.values())
    mmpo(["export", str(tmp_path / "search.zip"), "--storage", str(search.storage)])
    shutil.rmtree(search.storage)
    mmpo(["import", str(tmp_path / "search.zip"), "--storage", str(tmp_path / "theirs" / "runs")])
    assert found(tmp_path / "theirs" / "runs") == before
    search.trained.clear()
    run("stage2", {"storage": str(tmp_path / "theirs" / "runs"), "objective": "dpo", "betas": [0.1]}, search)
    assert not search.trained  # 1e-4 was chosen, and its trial is there


def test_weights_are_exported_when_asked_and_states_never(search, tmp_path):
    for more in ([], ["--checkpoints"]):
        file = tmp_path / f"{len(more)}.zip"
        mmpo(["export", str(file), "--storage", str(search.storage), *more])
        names = zipfile.ZipFile(file).namelist()
        assert any(name.endswith("epoch-0001/weights") for name in names) == bool(more)
        assert not any("/resume/" in name or name.endswith(".lock") for name in names) and "mlflow.db" in names


@pytest.mark.parametrize("keep", [False, True])
def test_a_storage_that_is_moved_or_copied_opens_as_before(search, tmp_path, keep):
    before, elsewhere = found(search.storage), tmp_path / "other place" / "runs"
    elsewhere.parent.mkdir()
    (shutil.copytree if keep else shutil.move)(search.storage, elsewhere)
    assert found(elsewhere) == before
    if keep:  # the copy reads its own files
        shutil.rmtree(search.storage)
        assert found(elsewhere) == before


def test_what_cannot_be_exported_or_imported_is_refused(search, tmp_path, capsys):
    def refused(*words):
        with pytest.raises(SystemExit) as stop:
            mmpo(list(words))
        assert stop.value.code == 2
        return " ".join(capsys.readouterr().err.split())

    (tmp_path / "there.zip").write_text("no zip")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    file, storage = str(tmp_path / "there.zip"), str(search.storage)
    assert "exists already" in refused("export", file, "--storage", storage)
    assert "has no mlflow.db" in refused("export", str(tmp_path / "a.zip"), "--storage", str(tmp_path / "none"))
    assert "is not empty" in refused("import", file, "--storage", str(tmp_path / "full"))
    assert "cannot be unpacked" in refused("import", file, "--storage", str(tmp_path / "new"))
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("../../out.txt", "x")
    assert "is no export" in refused("import", str(tmp_path / "other.zip"), "--storage", str(tmp_path / "new"))
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mlflow.db", bytes(10**6))
    with mock.patch("shutil.disk_usage", lambda folder: SimpleNamespace(free=999_999)):
        said = refused("import", str(tmp_path / "bomb.zip"), "--storage", str(tmp_path / "new"))
    assert "bomb.zip unpacks to 1.0 MB, and 1.0 MB are free" in said
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".partial*"))


def test_an_export_that_is_interrupted_leaves_no_half_of_a_file(search, tmp_path, monkeypatch):
    from mmpo.archive import pack

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("mmpo.archive._files", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pack(search.storage, tmp_path / "a.zip", checkpoints=False)
    assert not list(tmp_path.glob("*a.zip*"))


def test_an_unusual_name_in_a_zip_file_stays_inside(tmp_path):
    from mmpo.archive import unpack

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("mlflow.db", json.dumps({}))
        archive.writestr("../../out.txt", "x")
    unpack(tmp_path / "a.zip", tmp_path / "inside" / "runs")
    assert not (tmp_path / "out.txt").exists() and (tmp_path / "inside" / "runs" / "out.txt").exists()
    with pytest.raises(InputError):
        unpack(tmp_path / "a.zip", tmp_path / "inside" / "runs")

"""Checkpoints and files of a storage that was moved."""

import sqlite3

from sweeps.ledger.moved import checkpoint_now, settle


def test_a_checkpoint_is_looked_for_in_the_storage_only_where_it_is_not_at_its_own_place(tmp_path):
    trials, gone = tmp_path / "runs" / "trials", "/nowhere/runs/trials/abc/checkpoints/epoch-0001"
    assert checkpoint_now(gone, trials) == gone
    here = trials / "abc" / "checkpoints" / "epoch-0001"
    here.mkdir(parents=True)
    assert checkpoint_now(gone, trials) == str(here)
    other = tmp_path / "old" / "trials" / "abc" / "checkpoints" / "epoch-0001"
    other.mkdir(parents=True)
    assert checkpoint_now(str(other), trials) == str(other)
    assert checkpoint_now("s3://bucket/trials/xyz", trials) == "s3://bucket/trials/xyz"


def test_models_name_files_and_checkpoints_where_they_are_now(tmp_path):
    """A database of before, with the columns that name places; what lies elsewhere stays."""
    (tmp_path / "mlartifacts").mkdir()
    database = sqlite3.connect(tmp_path / "mlflow.db")
    old, checkpoint = "file:///old/runs/mlartifacts", "/old/runs/trials/abc/checkpoints/epoch-0001"
    database.executescript(
        f"""CREATE TABLE experiments (artifact_location); INSERT INTO experiments VALUES ('{old}');
        CREATE TABLE runs (artifact_uri); INSERT INTO runs VALUES ('{old}/1/artifacts');
        CREATE TABLE logged_models (artifact_location); INSERT INTO logged_models VALUES ('{old}/models/m-1/artifacts');
        CREATE TABLE logged_model_tags (tag_key, tag_value);
        INSERT INTO logged_model_tags VALUES ('checkpoint', '{checkpoint}'), ('checkpoint', 's3://bucket/runs/trials/a'),
        ('note', '{checkpoint}');"""
    )
    database.commit()
    settle(tmp_path / "mlflow.db")
    here = (tmp_path / "mlartifacts").as_uri()
    assert database.execute("SELECT * FROM runs").fetchall() == [(f"{here}/1/artifacts",)]
    assert database.execute("SELECT * FROM logged_models").fetchall() == [(f"{here}/models/m-1/artifacts",)]
    assert [value for _, value in database.execute("SELECT * FROM logged_model_tags")] == [
        f"{tmp_path}/trials/abc/checkpoints/epoch-0001",
        "s3://bucket/runs/trials/a",
        checkpoint,
    ]
    database.close()

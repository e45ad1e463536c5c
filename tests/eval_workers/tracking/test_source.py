"""The user and the version that MLflow's columns show."""

import subprocess

from eval_workers.tracking.source import source_tags
from tests.support.workers import REPOSITORY


def test_the_commit_is_the_clones_and_no_argument_is_shown(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/mmpo", "stage1", "--tracking-uri", "https://me:secret@host"])
    source_tags.cache_clear()
    tags = source_tags()
    source_tags.cache_clear()
    assert tags["mlflow.source.name"] == "mmpo" and "secret" not in str(tags) and tags["mlflow.user"]
    asked = ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"]
    here = subprocess.run(asked, capture_output=True, text=True)
    assert tags.get("mlflow.source.git.commit", "") == (here.stdout.strip() if here.returncode == 0 else "")

"""Checkpoints of a storage that was moved."""

from sweeps.ledger.moved import checkpoint_now


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

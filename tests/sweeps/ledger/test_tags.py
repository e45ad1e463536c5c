"""What tags keep is read as it was written, and as finished ledgers have it."""

import pytest

from sweeps.ledger.tags import (
    HARDWARE,
    Baseline,
    Hardware,
    baseline_of,
    ending_tags,
    hardware_of,
    seconds_of,
    winner_of,
    winner_tags,
)


def as_kept(tags):
    """As MLflow gives tags back."""
    return {name: str(value) for name, value in tags.items()}


@pytest.mark.parametrize(
    ("text", "hardware", "gpus"),
    [
        ("2 x H100", Hardware(2, "H100"), 2),
        ("0.25 x H100", Hardware(0.25, "H100"), 0.25),
        ("1 x CPU", Hardware(1, "CPU"), 0),
        ("4 x A100/L4", Hardware(4, "A100/L4"), 4),
    ],
)
def test_hardware_is_workers_of_a_kind_and_cpus_are_no_gpus(text, hardware, gpus):
    assert str(hardware) == text and hardware_of({HARDWARE: text}) == hardware and hardware.gpus == gpus
    assert hardware_of({}) is None


@pytest.mark.parametrize("reward", [(), (0.0,), (0.515625,), (0.51, 0.625)])
def test_a_baseline_is_one_number_or_a_range_or_unknown(reward):
    baseline = Baseline(0.484375, reward)
    assert baseline_of(baseline.tags()) == baseline
    assert baseline.line == (reward[0] if len(reward) == 1 else None)
    assert baseline_of({}) is None


def test_a_baseline_is_kept_in_the_words_of_finished_ledgers():
    assert Baseline(0.5, (0.51, 0.625)).tags() == {
        "baseline.policy_accuracy": "0.5",
        "baseline.reward_accuracy": "0.51 to 0.625",
    }
    assert baseline_of({"baseline.policy_accuracy": "0.5", "baseline.reward_accuracy": "0.0"}).line == 0.0


@pytest.mark.parametrize("rate", [5e-4, 1e-6, 0.1 + 0.2])
def test_a_winner_is_read_to_the_last_bit(rate):
    tags = as_kept(winner_tags("learning_rate", rate, 2, 0.75, "why"))
    assert winner_of(tags, "learning_rate") == rate and winner_of(tags, "beta") is None
    assert tags["winner.epoch"] == "2" and tags["winner.reason"] == "why"


def test_a_trial_that_failed_has_no_time():
    assert seconds_of(as_kept(ending_tags("finished", "", 7.25))) == 7.25
    assert as_kept(ending_tags("failed", "why", None)) == {"trial.state": "failed", "trial.reason": "why"}
    assert seconds_of({"trial.state": "failed"}) is None

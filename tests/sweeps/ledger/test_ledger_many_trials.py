"""A ledger with more runs than one page of MLflow's answers holds, and what is asked of it in one go."""

import pytest

from eval_workers.tracking import store as mlflow_store
from eval_workers.tracking.addresses import Address
from mmpo_train.config import TrialConfig, replace
from sweeps.ledger import runs as trial_runs
from sweeps.ledger.ledger import connect
from sweeps.reporting.read import read_experiment

EXPERIMENT = "tiny on tiny"
CONFIGS = [replace(TrialConfig(), {"learning_rate": rate}) for rate in (1e-4, 2e-4, 3e-4, 4e-4, 5e-4)]
DIGESTS = [config.digest for config in CONFIGS]


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    """Five finished trials of one stage, the oldest first; the second has a younger run beside it. Two runs a page."""
    monkeypatch.setattr(mlflow_store, "RUNS_PER_PAGE", 2)
    ledger = connect(None, tmp_path)
    stage = ledger.open_stage(EXPERIMENT, "stage1_lr", "mmpo", "key", title="", params={}, note="")
    for number, config in enumerate(CONFIGS):
        trial = stage.open_trial(config, f"lr={config.learning_rate:g}", {})
        trial.evaluated(1, {"validation/reward_accuracy": number / 5}, [1, 0], "checkpoint")
        trial.finish(1.0)
    ledger.flush(30)
    tags = {"trial.digest": DIGESTS[1], "ledger.kind": "trial", "trial.state": "finished"}
    ledger.store.client.create_run(ledger.store.experiment_id(EXPERIMENT), 10**13, tags, "younger")
    yield ledger
    ledger.close()


def test_runs_of_all_pages_are_found_in_order(ledger):
    found = ledger.store.search(ledger.store.experiment_id(EXPERIMENT), {"ledger.kind": "trial"})
    assert [run.data.tags["trial.digest"] for run in found] == [*DIGESTS, DIGESTS[1]]


def test_children_and_report_have_the_trials_of_all_pages(ledger):
    [stage] = ledger.find_stages(EXPERIMENT, "stage1_lr", "mmpo")
    assert {child.digest for child in ledger.find_children(EXPERIMENT, stage.run_id)} == set(DIGESTS)
    assert set(read_experiment(ledger, EXPERIMENT).trials) == set(DIGESTS)


@pytest.mark.parametrize("few", [0, 100])
def test_many_trials_are_found_as_each_by_itself(ledger, monkeypatch, few):
    monkeypatch.setattr(trial_runs, "FEW", few)
    unknown = replace(CONFIGS[0], {"seed": 7}).digest
    asked = [DIGESTS[3], DIGESTS[1], unknown]
    looked_up = ledger.look_up_trials(EXPERIMENT, asked)
    found = ledger.find_trials(EXPERIMENT, asked)
    assert set(found) == {DIGESTS[1], DIGESTS[3]} and found == looked_up
    assert [found[digest].evaluations[0].metrics["validation/reward_accuracy"] for digest in asked[:2]] == [0.6, 0.2]
    assert found[DIGESTS[1]].name == "lr=0.0002"
    [younger] = [run for run in ledger.store.search("1", {}) if run.info.run_name == "younger"]
    assert younger.data.tags["duplicate_of"] == found[DIGESTS[1]].run_id


def test_what_a_server_has_is_read_many_at_a_time_and_kept_in_order(ledger, monkeypatch):
    import threading
    import time

    threads = set()

    def read(number):
        threads.add(threading.get_ident())
        time.sleep(0.01 * (5 - number))
        return number

    assert ledger.store.read_all(read, range(5)) == list(range(5)) and len(threads) == 1
    monkeypatch.setattr(Address, "remote", True)
    assert ledger.store.read_all(read, range(5)) == list(range(5)) and len(threads) > 2

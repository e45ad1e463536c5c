"""The runs of stages."""

from tests.support.ledger import CONFIG, EXPERIMENT, find, open_stage


def test_a_stage_is_found_again_with_what_a_person_wrote(ledger, storage, monkeypatch):
    first = open_stage(ledger)
    trial = first.open_trial(CONFIG, "lr=5e-4", {})
    trial.finish(1)
    figure = storage / "curves.png"
    figure.write_bytes(b"png")
    first.log_file(figure, "figures")
    first.log_table("ranking", {"label": ["5e-4", "1e-4"], "accuracy": [0.75, float("nan")]})
    winner = find(ledger)
    first.finish(winner, {"winner.reason": "5e-4 wins"})
    ledger.flush(30)
    ledger.store.client.set_tag(first.run_id, "mlflow.note.content", "I trust 1e-4 more")
    again = open_stage(ledger, note="Stage 1, second time", params={"axis": "learning_rate", "trials": 2})
    again.log_table("ranking", {"label": ["5e-4", "1e-4"], "accuracy": [0.75, 0.5]})
    again.finish(winner, {})
    assert again.run_id == first.run_id
    assert again.tags["stage.winner_digest"] == CONFIG.digest
    (stage,) = ledger.find_stages(EXPERIMENT, "stage1", "mmpo")
    assert stage.tags["mlflow.note.content"] == "I trust 1e-4 more"
    assert stage.tags["winner.reason"] == "5e-4 wins"
    run = ledger.store.client.get_run(first.run_id)
    assert (run.info.status, run.data.params) == ("FINISHED", {"axis": "learning_rate", "trials": "2"})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", ledger.uri)  # load_table ignores its client's address
    table = ledger.store.client.load_table(run.info.experiment_id, "ranking.json", [first.run_id])
    assert table["accuracy"].tolist() == [0.75, 0.5]
    artifacts = storage / "mlartifacts" / first.run_id / "artifacts"
    assert (artifacts / "figures" / "curves.png").read_bytes() == b"png"
    experiment = ledger.store.client.get_experiment_by_name(EXPERIMENT)
    assert experiment.tags["mlflow.experiment.primaryMetric.name"] == "validation/reward_accuracy"


def test_grids_and_objectives_are_stages_of_their_own(ledger):
    ids = [open_stage(ledger).run_id, open_stage(ledger, "other grid").run_id]
    ids.append(ledger.open_stage(EXPERIMENT, "stage1", "dpo", "1e-4,5e-4", title="t", params={}, note="").run_id)
    assert len(set(ids)) == 3
    stages = ledger.find_stages(EXPERIMENT, "stage1", "mmpo")
    assert [stage.tags["stage.grid_key"] for stage in stages] == ["1e-4,5e-4", "other grid"]
    assert ledger.find_stages("no such experiment", "stage1", "mmpo") == []


def test_a_stage_that_is_broken_off_shows_as_failed_before_its_process_ends(ledger):
    stage = open_stage(ledger)
    stage.break_off()  # nobody flushes or closes the ledger then
    run = ledger.store.client.get_run(stage.run_id)
    assert (run.info.status, run.data.tags["stage.reason"]) == ("FAILED", "interrupted")

"""Views that MLflow's pages open, on a real MLflow. What they look like: tests/browser."""

import json

import pytest

from mmpo_train.config import TrialConfig, replace
from sweeps.ledger.ledger import connect
from sweeps.ledger.saved_views import VIEW

EXPERIMENT = "tiny on tiny"


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    opened = connect(None, tmp_path_factory.mktemp("ledger"))
    yield opened
    opened.close()


def open_stage(ledger, name="stage1_lr", objective="mmpo", grid="a", search="5ca85f17"):
    title = f"{name} {objective}"
    return ledger.open_stage(EXPERIMENT, name, objective, grid, title=title, params={}, note="", search=search)


def tags(ledger):
    store = ledger.store
    return store.client.get_experiment(store.experiment_id(EXPERIMENT)).tags


def shown(ledger, view):
    """Names of the runs that a view's filter finds."""
    saved = json.loads(json.loads(tags(ledger)[f"{VIEW}{view}"])["state"])
    store = ledger.store
    runs = store.client.search_runs([store.experiment_id(EXPERIMENT)], saved["searchFilter"], order_by=["start_time"])
    return {run.info.run_name for run in runs}


def test_a_stages_view_finds_its_runs_and_the_objectives_those_of_all_stages(ledger):
    """A trial each of stages 1 and 2 and of the final runs, stage 1's taken into stage 2, and one of DPO."""
    stages = {name: open_stage(ledger, name) for name in ("stage1_lr", "stage2_beta", "final_runs")}
    for number, (name, log) in enumerate(stages.items(), 1):
        config = replace(TrialConfig(), {"learning_rate": number / 100})
        log.open_trial(config, f"trial of {name}", {}).finish(1)
    dpo = open_stage(ledger, objective="dpo")
    dpo.open_trial(replace(TrialConfig(), {"objective": "dpo"}), "of dpo", {}).finish(1)
    ledger.flush(60)
    taken = ledger.look_up(EXPERIMENT, replace(TrialConfig(), {"learning_rate": 0.01}).digest)
    stages["stage2_beta"].take(taken, "taken")
    ledger.flush(60)
    assert shown(ledger, stages["stage1_lr"].run_id) == {"trial of stage1_lr"}
    assert shown(ledger, stages["stage2_beta"].run_id) == {"trial of stage2_beta", "taken"}
    assert shown(ledger, "mmpo-5ca85f17") == {"trial of stage1_lr", "trial of stage2_beta"}
    assert shown(ledger, dpo.run_id) == shown(ledger, "dpo-5ca85f17") == {"of dpo"}


def test_a_view_of_a_search_has_no_trial_of_another_and_an_older_versions_trials_once_concluded(ledger):
    """The second search is opened without its key first, as an older version did."""
    older = open_stage(ledger, "stage3_margin", grid="old", search="")
    config = replace(TrialConfig(), {"learning_rate": 0.04, "epochs": 1})
    older.open_trial(config, "older", {}).finish(1)
    ledger.flush(60)
    log = open_stage(ledger, "stage3_margin", grid="old", search="b72e388b")
    assert shown(ledger, "mmpo-b72e388b") == set()
    log.mark_winner([config.digest])
    ledger.flush(60)
    assert shown(ledger, "mmpo-b72e388b") == {"older"}
    assert "older" not in shown(ledger, "mmpo-5ca85f17")
    assert open_stage(ledger, "stage3_margin", grid="old").tags["searches"] == "b72e388b 5ca85f17"


def test_the_page_of_a_stage_is_its_view_and_opens_among_the_runs(ledger):
    log = open_stage(ledger)
    assert log.page == f"{ledger.page(EXPERIMENT)}&viewStateShareKey={log.run_id}"
    assert tags(ledger)["mlflow.experimentKind"] == "custom_model_development"


def test_a_view_fits_in_a_tag_and_has_what_mlflow_requires_of_one(ledger):
    """Its pages drop a view whose name is no text or whose time is no number; a server cuts or refuses long tags."""
    log = open_stage(ledger, grid="b")
    view = tags(ledger)[f"{VIEW}{log.run_id}"]
    content = json.loads(view)
    assert len(view) < 5000
    assert content["name"] == "stage1_lr mmpo" and isinstance(content["createdAt"], int)
    state = json.loads(content["state"])
    assert set(state["columnWidths"]) == set(state["columnOrder"]) == set(state["selectedColumns"])
    [section] = state["compareRunSections"]
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == {section["uuid"]}
    assert len({chart["uuid"] for chart in state["compareRunCharts"]}) == len(state["compareRunCharts"])


def test_a_view_that_a_person_has_changed_stays(ledger):
    log = open_stage(ledger, grid="c")
    store = ledger.store
    store.client.set_experiment_tag(store.experiment_id(EXPERIMENT), f"{VIEW}{log.run_id}", "mine")
    assert open_stage(ledger, grid="c").run_id == log.run_id
    assert tags(ledger)[f"{VIEW}{log.run_id}"] == "mine"


def test_a_study_of_several_objectives_has_a_view_of_its_own_alone(ledger):
    before = tags(ledger).keys()
    log = open_stage(ledger, "objectives", "")
    assert tags(ledger).keys() - before == {f"{VIEW}{log.run_id}"}

"""Which stages stand in one report: on values, as an older version and today's leave them."""

import json

import pytest

from mmpo_train.errors import InputError
from sweeps.reporting.read import Experiment, StageRun
from sweeps.reporting.searches import check_searches, of_search, searches_of


def stage(name, objective="mmpo", epochs=2, ended=1, run="", params=None, winner=None, tuning=True, **tags):
    """A stage's run of an older version, which has settings but no key."""
    if tuning:
        tags["stage.settings"] = json.dumps({"epochs": epochs, "data_fingerprint": "d"} | tags.pop("own", {}))
    tags |= {"stage.state": "finished"} | ({} if winner is None else {f"winner.{winner[0]}": str(winner[1])})
    run = run or f"{len(name) + epochs:0>31}{ended % 10}"
    return StageRun(run, name, objective, tags, params or {}, ended, (), (), ())


def experiment(*stages):
    return Experiment("tiny on tiny", stages, {}, {})


def test_final_runs_of_an_older_version_belong_to_the_search_whose_stage_they_name():
    full = stage("stage1_lr", run="a" * 32, winner=("learning_rate", 1e-6))
    quick = stage("stage1_lr", run="b" * 32, epochs=1, ended=3, winner=("learning_rate", 5e-4))
    said = {"chosen.learning_rate": f"learning rate 1e-6: by rule in stage1_lr mmpo (run {'a' * 32})"}
    final = stage("final_runs", run="c" * 32, ended=4, tuning=False, **said)
    whole = experiment(full, quick, final)
    last, first = searches_of(whole)
    assert [one.run_id for one in last.stages] == ["a" * 32, "c" * 32] and first.stages == (quick,)
    report = of_search(whole, [first.key])
    assert report.stages == (quick,) and report.search.startswith(first.key) and len(report.other_searches) == 1
    assert of_search(whole).stages == (full, final), "the search that ended last"


def test_dpo_stands_in_the_search_of_its_own_and_in_one_that_sets_a_field_of_mmpo_alone():
    plain = stage("stage1_lr", "dpo", run="a" * 32)
    wide = stage("stage1_lr", run="b" * 32, own={"pairs_per_group": 32})
    [one] = searches_of(experiment(plain, wide))
    assert one.stages == (plain, wide)
    usual = stage("stage1_lr", run="c" * 32, own={"pairs_per_group": 8})
    both = searches_of(experiment(plain, wide, usual))
    assert {tuple(stage.run_id[0] for stage in one.stages) for one in both} == {("a", "b"), ("a", "c")}


def test_a_study_is_in_every_report_and_no_search():
    study = stage("mc_po_table2", "", run="d" * 32, tuning=False)
    assert searches_of(experiment(study)) == [] and of_search(experiment(study)).stages == (study,)
    whole = experiment(study, stage("stage1_lr", run="a" * 32))
    assert of_search(whole).stages == whole.stages


def test_a_stage_counts_at_the_value_that_was_chosen_before_it():
    """Stage 2 ran at 1e-4 first and at 5e-4 last, which no longer is the choice."""
    first = stage("stage1_lr", run="a" * 32, winner=("learning_rate", 1e-4))
    right = stage("stage2_beta", run="b" * 32, params={"learning_rate": "0.0001"}, winner=("beta", 0.01))
    later = stage("stage2_beta", run="c" * 32, ended=9, params={"learning_rate": "0.0005"}, winner=("beta", 0.5))
    whole = experiment(first, right, later)
    assert whole.stage("stage2_beta", "mmpo") == right and whole.chosen("beta", "mmpo") == 0.01
    alone = experiment(first, later)
    assert alone.stage("stage2_beta", "mmpo") == later
    assert later.disagreeing({"learning_rate": 1e-4}) == ["learning_rate"]


def test_a_key_that_no_experiment_has_is_refused_with_those_there_are():
    whole = experiment(stage("stage1_lr", run="a" * 32))
    [one] = searches_of(whole)
    check_searches([one.key[:4]], [whole])
    with pytest.raises(InputError, match=f"no search 'nothing'.*\n  tiny on tiny: {one.key} "):
        check_searches([one.key, "nothing"], [whole])

"""Train once, score many: which trials are trained, and what the others leave in the ledger."""

import numpy as np
import pytest

from mmpo_train import acting_fields
from mmpo_train.config import replace
from mmpo_train.errors import InputError
from mmpo_train.metric_names import HARNESS_MEAN, REWARD_ACCURACY
from mmpo_train.model.reference import read_reference, write_logps
from mmpo_train.trial.metrics import validate
from sweeps import ablations, final_runs, stage1_lr, stage2_beta, stage3_margin
from sweeps.ledger.ledger import connect
from sweeps.plan.trials import Planned
from sweeps.search import scores, sharing
from tests.support.search import PAIRS, usual

RATES = ("--learning-rates", "1e-4", "5e-5")
GIVEN = ("--learning-rate", "1e-4")


def test_final_runs_are_one_training_and_ablations_without_an_effect_on_the_gradient_are_it_too(search):
    search(final_runs, *GIVEN, "--r-eps", "0.6")
    assert [one.beta for one in search.trained] == [0.01]
    printed = search(ablations, *GIVEN, "--r-eps", "0.6")
    parts = [(one.auxiliary, one.length_normalised, one.entropy) for one in search.trained]
    assert parts == [(False, False, False), (True, True, False), (True, False, True)]
    assert "5 trials, 1 of them finished already, 1 with the model of another: 3 to train" in printed
    assert "no norm is the same model as final b=0.01" in printed and "only the score differs" in printed


def test_a_scored_trial_keeps_its_run_with_numbers_by_its_own_score_and_the_name_of_the_training(search):
    search(stage1_lr, *RATES)
    ledger = connect(None, search.storage)
    original = search.child("stage1_lr", "lr=1e-4")
    for epoch in (1, 2):
        ledger.store.client.log_metric(original.info.run_id, HARNESS_MEAN, epoch / 10, step=epoch)
        ledger.store.client.log_metric(original.info.run_id, "train/epoch", epoch, step=64 * epoch)
    ledger.close()
    search.outcome = lambda config: 33
    search(stage2_beta, *GIVEN)
    assert not search.trained
    scored = search.child("stage2_beta", "beta=0.5")
    assert scored.data.tags["shares.trial"] == original.data.tags["trial.digest"]
    assert scored.data.tags["shares.run"] == original.info.run_id
    assert original.info.run_id in scored.data.tags["mlflow.note.content"]
    assert "trial.seconds" not in scored.data.tags and scored.info.status == "FINISHED"
    assert scored.data.tags["trial.digest"] and scored.data.params["beta"] == "0.5"
    assert scored.data.tags["trial.training"] != ""
    client = ledger.store.client
    histories = {
        name: [(point.step, point.value) for point in client.get_metric_history(scored.info.run_id, name)]
        for name in (REWARD_ACCURACY, HARNESS_MEAN, "validation_curve/reward_accuracy")
    }
    assert histories[REWARD_ACCURACY] == [(1, 33 / PAIRS), (2, 33 / PAIRS)]
    assert histories[HARNESS_MEAN] == [(1, 0.1), (2, 0.2)]
    assert histories["validation_curve/reward_accuracy"] == [(64, 33 / PAIRS), (128, 33 / PAIRS)]
    assert "train/loss" not in scored.data.metrics


def test_train_all_trains_every_trial_those_that_shared_a_training_included(search):
    search(stage1_lr, *RATES)
    search(stage2_beta, *GIVEN)
    assert not search.trained
    shared = search.child("stage2_beta", "beta=0.01")
    search.outcome = lambda config: usual(config) + (config.beta == 0.01)
    search(stage2_beta, *GIVEN, "--train-all")
    assert [one.beta for one in search.trained] == [0.01, 0.05, 0.5]
    trained = search.child("stage2_beta", "beta=0.01")
    assert trained.info.run_id != shared.info.run_id and "shares.trial" not in trained.data.tags
    assert trained.data.metrics[REWARD_ACCURACY] == 26 / PAIRS
    search(stage2_beta, *GIVEN, "--train-all")
    assert not search.trained
    assert "0 to train, 4 to reuse" in search(stage2_beta, *GIVEN, "--dry-run")


@pytest.mark.parametrize(
    "more",
    [("--set", "auxiliary=false"), ("--dataset", "tiny_ranked"), ("--objective", "dpo"), ("--set", "entropy=true")],
)
def test_where_beta_acts_on_the_gradient_every_beta_is_trained(search, more):
    search(stage2_beta, *GIVEN, *more)
    assert len(search.trained) == 4


def test_points_without_an_effect_on_the_entropys_gradient_share_it(search):
    search(stage3_margin, *GIVEN, "--beta", "0.5", "--margins", "0.1", "0.5", "0.9", "--set", "entropy=true")
    assert [one.r_eps for one in search.trained] == [0.1]


def test_a_training_that_failed_leaves_its_points_without_a_result_and_is_tried_again(search, capsys):
    search.outcome = lambda config: "out of memory"
    assert "failed" in search.fails(capsys, stage2_beta, *GIVEN)
    assert len(search.trained) == 1
    search.outcome = usual
    printed = search(stage2_beta, *GIVEN)
    assert [one.beta for one in search.trained] == [0.01] and "0.5" in printed


def test_points_of_a_training_that_diverged_have_diverged(search):
    search.outcome = lambda config: "loss is nan at step 3" if config.learning_rate == 1e-4 else usual(config)
    search(stage1_lr, *RATES)
    with pytest.raises(SystemExit):
        search(stage2_beta, *GIVEN)
    assert not search.trained
    tags = search.child("stage2_beta", "beta=0.5").data.tags
    assert tags["trial.state"] == "diverged" and "loss is nan at step 3" in tags["trial.reason"]


def test_a_trial_that_was_begun_is_gone_on_with_rather_than_another_of_its_training(search):
    def killed(config):
        raise KeyboardInterrupt

    search.outcome = killed
    with pytest.raises(SystemExit):
        search(stage2_beta, *GIVEN, "--betas", "0.5", "0.05")
    search.outcome = usual
    search(stage2_beta, *GIVEN)
    assert [one.beta for one in search.trained] == [0.5]


def test_a_finished_trial_of_an_older_ledger_is_judged_again_where_its_log_probabilities_were_not_kept(
    search, monkeypatch
):
    search(stage1_lr, *RATES)
    monkeypatch.setattr(sharing, "is_here", lambda folder: False)
    printed = search(stage2_beta, *GIVEN, "--dry-run")
    assert "1 to train, 3 to score" in printed and "to be judged" in printed


def test_a_stage_chooses_by_the_measure_that_is_named_and_the_next_one_says_so(search, capsys):
    search.logratio = lambda config: 0.9 if config.learning_rate == 5e-5 else 0.5
    printed = search(stage1_lr, *RATES, "--choose-by", "logratio_accuracy")
    assert "5e-5 wins: validation/logratio_accuracy 0.9000, 40.0 points above the next (1e-4, p < 0.001)" in printed
    assert search.child("stage1_lr", "lr=5e-5").data.tags["winner"] == "auto"
    [parent] = search.runs(ledger_kind="stage")
    assert parent.data.tags["winner.by"] == "validation/logratio_accuracy"
    assert ", by validation/logratio_accuracy" in search(stage2_beta, "--dry-run")
    assert "--choose-by logratio_accuracy" in printed, "the next command keeps it"
    assert "add --set evaluations=reward,alpaca" in search.fails(
        capsys, stage1_lr, *RATES, "--choose-by", "alpaca/lc_win_rate"
    )


def test_each_seed_is_a_training_of_its_own(search):
    search(stage2_beta, *GIVEN, "--seeds", "2")
    assert [(one.beta, one.seed) for one in search.trained] == [(0.01, 42), (0.01, 43)]
    assert "±" in search(stage2_beta, *GIVEN, "--seeds", "2")


def planned(prepared, **fields):
    return Planned(replace(prepared.config, fields), prepared.inputs, str(fields), "run")


def test_scores_from_kept_log_probabilities_are_those_of_validation(prepared, tmp_path):
    reference = read_reference(prepared.places.reference, "validation")
    logps = (reference + np.random.default_rng(0).normal(0, 5, reference.shape)).astype(np.float32)
    write_logps(tmp_path / "kept", {"validation": logps.tolist()})
    for fields in ({"beta": 0.5}, {"in_batch_normalised": False}):
        trial = planned(prepared, objective="mmpo", **fields)
        tokens = scores._validation_pairs(prepared.places.tokens, prepared.places.reference)[1]
        assert scores.scored(trial, tmp_path / "kept") == validate(trial.config, logps, reference, tokens)


def test_a_declaration_that_is_wrong_is_found_on_the_stages_own_data(prepared, monkeypatch):
    same = [planned(prepared, objective="mmpo", beta=beta) for beta in (0.01, 0.5)]
    assert scores.check_gradients(same) <= 2e-12
    other = [planned(prepared, objective="dpo", beta=beta) for beta in (0.01, 0.5)]
    monkeypatch.setattr(acting_fields, "inert_fields", lambda config, completions: frozenset({"beta"}))
    assert other[0].training == other[1].training
    with pytest.raises(InputError, match="--train-all"):
        scores.check_gradients(other)

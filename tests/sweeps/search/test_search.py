"""The search as commands run one after the other on a real MLflow; only the training itself is made up."""

from pathlib import Path

import pytest

from mmpo_train.config import TrialConfig
from mmpo_train.typed.options_file import read_options
from mmpo_train.typed.programs import as_typed
from sweeps import ablations, final_runs, stage1_lr, stage2_beta, stage3_margin
from sweeps.ledger.ledger import connect
from sweeps.search import stage
from tests.support.search import Search, usual


@pytest.mark.parametrize(("objective", "counts"), [("mmpo", (6, 0, 0)), ("dpo", (6, 3, 0)), ("simpo", (6, 3, 5))])
def test_a_search_trains_6_for_mmpo_9_for_dpo_and_14_for_simpo(search, objective, counts):
    """Of 6 + 4 + 11, 6 + 4 and 6 + 4 + 6 points: the winner of each stage is a point of the next, and MMPO's betas and
    r_eps are one training."""
    trained = []
    for script in (stage1_lr, stage2_beta, stage3_margin):
        printed = search(script, "--objective", objective)
        trained.append(len(search.trained))
    assert tuple(trained) == counts
    assert ("taken from stage1_lr" in printed) == (objective != "dpo")
    assert ("no margin to tune" in printed) == (objective == "dpo")
    assert search(stage2_beta, "--objective", objective) and not search.trained


RATES = ("--learning-rates", "1e-4", "5e-5")
BETAS = ("--betas", "0.05", "0.1")


def test_final_runs_are_five_epochs_for_three_betas_and_the_full_ablation_is_one_of_them(search):
    search(stage1_lr, *RATES)
    search(stage2_beta, *BETAS)
    search(stage3_margin, "--margins", "0.2", "0.6")
    search(final_runs, "--train-all")
    assert [(one.beta, one.learning_rate, one.r_eps, one.epochs) for one in search.trained] == [
        (beta, 1e-4, 0.6, 5) for beta in (0.01, 0.05, 0.5)
    ]
    printed = search(ablations, "--train-all")
    assert {(one.beta, one.learning_rate, one.r_eps, one.epochs) for one in search.trained} == {(0.05, 1e-4, 0.6, 5)}
    parts = ("auxiliary", "in_batch_normalised", "length_normalised", "entropy")
    assert [tuple(getattr(one, part) for part in parts) for one in search.trained] == [
        (False, True, False, False),
        (True, False, False, False),
        (True, True, True, False),
        (True, True, False, True),
    ]
    assert "taken from final_runs" in printed
    names = [run.info.run_name for run in search.runs(stage_name="ablations") if "ledger.kind" in run.data.tags]
    assert set(names) >= {"full", "no aux", "no norm", "len norm", "entropy"}


def test_a_trial_taken_from_another_stage_is_shown_with_its_numbers_and_is_no_trial_of_its_own(search):
    search(stage1_lr, *RATES)
    search(stage2_beta, *BETAS)
    before = search.child("stage2_beta", "beta=0.1")
    search(stage2_beta, *BETAS)
    taken, original = search.child("stage2_beta", "beta=0.1"), search.child("stage1_lr", "lr=1e-4")
    assert taken.info.run_id == before.info.run_id
    assert taken.data.params == original.data.params and taken.data.params["margin"] == "0.6"
    assert taken.data.metrics == original.data.metrics
    assert (taken.info.start_time, taken.info.end_time) == (original.info.start_time, original.info.end_time)
    assert taken.data.tags["taken_from"] == original.info.run_id
    assert taken.data.tags["taken_from.stage"] == "stage1_lr" and taken.info.status == "FINISHED"
    assert taken.data.tags["mlflow.parentRunId"] == search.child("stage2_beta", "stage2_beta mmpo").info.run_id
    assert "trial.digest" not in taken.data.tags
    assert len(search.runs(trial_digest=original.data.tags["trial.digest"])) == 1
    ledger = connect(None, search.storage)
    histories = {
        name: [point.step for point in ledger.store.client.get_metric_history(taken.info.run_id, name)]
        for name in taken.data.metrics
    }
    ledger.close()
    evaluated, curves = (
        {name: steps for name, steps in histories.items() if name.startswith("validation/") == kind}
        for kind in (True, False)
    )
    assert all(steps == [1, 2] for steps in evaluated.values()) and len(evaluated) == 3
    assert curves.pop("validation_curve/reward_accuracy") == [2, 4]
    assert all(steps == [4] for steps in curves.values()) and "train/loss" in curves, "of a curve over steps its end"


def test_a_stand_in_broken_off_by_a_kill_is_completed_and_no_number_stands_twice(search):
    search(stage1_lr, *RATES)
    search(stage2_beta, *BETAS)
    taken, original = search.child("stage2_beta", "beta=0.1"), search.child("stage1_lr", "lr=1e-4")
    ledger = connect(None, search.storage)
    client = ledger.store.client
    client.delete_tag(taken.info.run_id, "taken.as_of")
    client.log_metric(original.info.run_id, "harness/mean_accuracy", 0.5, step=2)
    ledger.close()
    search(stage2_beta, *BETAS)
    for name in (*original.data.metrics, "harness/mean_accuracy"):
        points = client.get_metric_history(taken.info.run_id, name)
        assert len({point.step for point in points}) == len(points) > 0


def test_the_next_stage_obeys_a_person_and_says_so(search, capsys):
    search(stage1_lr, *RATES)
    assert search.child("stage1_lr", "lr=1e-4").data.tags["winner"] == "auto"
    assert "learning rate 1e-4: by rule in stage1_lr mmpo" in search(stage2_beta, "--dry-run")
    person = search.child("stage1_lr", "lr=5e-5")
    search.tag(person, "winner", "person")
    printed = search(stage2_beta, *BETAS, "--train-all")
    chosen = f"learning rate 5e-5: chosen by a person in run lr=5e-5 ({person.info.run_id}), instead of 1e-4 by rule"
    assert chosen in printed
    assert {one.learning_rate for one in search.trained} == {5e-5}
    assert "learning rate 3e-4: given with --learning-rate" in search(
        stage2_beta, *BETAS, "--learning-rate", "3e-4", "--dry-run"
    )
    search.tag(search.child("stage1_lr", "lr=1e-4"), "winner", "person")
    error = search.fails(capsys, stage2_beta, *BETAS)
    assert "lr=1e-4" in error and "lr=5e-5" in error and "leave it on one of them" in error


def test_a_person_may_choose_a_run_that_was_taken_from_an_earlier_stage(search):
    search.outcome = lambda config: 30 if config.beta == 0.05 else 20
    search(stage1_lr, *RATES)
    search(stage2_beta, *BETAS, "--learning-rate", "1e-4")
    search.tag(search.child("stage2_beta", "beta=0.1"), "winner", "person")
    printed = search(stage3_margin, "--margins", "0.6", "--learning-rate", "1e-4", "--dry-run")
    assert "beta 0.1: chosen by a person in run beta=0.1" in printed and "instead of 0.05 by rule" in printed


def test_a_person_cannot_choose_a_trial_without_a_result_nor_write_another_word(search, capsys):
    search.outcome = lambda config: "loss is nan at step 3" if config.learning_rate == 1e-4 else 20
    search(stage1_lr, *RATES)
    search.tag(search.child("stage1_lr", "lr=1e-4"), "winner", "person")
    error = search.fails(capsys, stage2_beta)
    assert "lr=1e-4" in error and "no result (diverged: loss is nan at step 3)" in error
    search.tag(search.child("stage1_lr", "lr=1e-4"), "winner", "me")
    assert "has the tag winner=me; a person's choice is winner=person" in search.fails(capsys, stage2_beta)
    search.tag(search.child("stage1_lr", "stage1_lr mmpo"), "winner", "person")
    assert "itself; set it on a run below that one" in search.fails(capsys, stage2_beta)


def test_a_stage_has_its_winners_numbers_its_user_and_its_options(search):
    search(stage1_lr, *RATES, "--objective", "dpo")
    run = search.child("stage1_lr", "stage1_lr dpo")
    assert run.data.metrics["validation/reward_accuracy"] == 27 / 40
    assert run.data.tags["mlflow.user"] and run.data.tags["mlflow.source.type"] == "LOCAL"
    ledger = connect(None, search.storage)
    path = ledger.store.client.download_artifacts(run.info.run_id, "sweep.yaml")
    ledger.close()
    kept = read_options(Path(path), stage1_lr.Stage1Options)
    assert (kept.objective, kept.learning_rates, kept.storage) == ("dpo", (1e-4, 5e-5), stage1_lr.Stage1Options.storage)


def test_running_a_stage_again_keeps_a_persons_tag_and_moves_the_rules(search):
    search.outcome = lambda config: "out of memory" if config.learning_rate == 1e-4 else usual(config)
    search(stage1_lr, "--learning-rates", "5e-4", "1e-4", "1e-5")
    assert search.child("stage1_lr", "lr=5e-4").data.tags["winner"] == "auto"
    search.tag(search.child("stage1_lr", "lr=1e-5"), "winner", "person")
    search.outcome = usual
    printed = search(stage1_lr, "--learning-rates", "5e-4", "1e-4", "1e-5")
    assert [one.learning_rate for one in search.trained] == [1e-4]
    assert "run lr=1e-5 was chosen by a person: later stages take that one" in printed
    tags = {name: search.child("stage1_lr", f"lr={name}").data.tags.get("winner") for name in ("5e-4", "1e-4", "1e-5")}
    assert tags == {"5e-4": None, "1e-4": "auto", "1e-5": "person"}


def test_a_stage_that_lacks_an_earlier_one_leaves_no_ledger_behind(search, capsys):
    (search.storage / "mlflow.db").unlink()
    assert "has not been run" in search.fails(capsys, stage2_beta)
    assert not (search.storage / "mlflow.db").exists()
    search(stage2_beta, "--learning-rate", "1e-4", *BETAS)
    assert [one.beta for one in search.trained] == [0.05]  # the other beta has the same model
    assert (search.storage / "mlflow.db").exists()


def test_without_a_finished_stage_the_next_one_says_what_is_missing(search, capsys):
    again = f"run {as_typed('mmpo stage1')} --storage {search.storage}"
    error = search.fails(capsys, stage2_beta)
    assert f"stage1_lr of mmpo/tiny has not been run: {again}, or pass --learning-rate" in error

    def killed(config: TrialConfig) -> int:
        if config.learning_rate == 1e-6:
            raise KeyboardInterrupt
        return usual(config)

    search.outcome = killed
    with pytest.raises(SystemExit):
        search(stage1_lr)
    missing = f"stage1_lr of mmpo/tiny lists 5 of 6 learning rates (missing 1e-6): {again} again"
    assert missing in search.fails(capsys, stage2_beta)
    assert "1 to train, 5 to reuse" in search(stage1_lr, "--dry-run")
    search.outcome = lambda config: "out of memory" if config.learning_rate == 1e-6 else usual(config)
    search(stage1_lr)
    assert len(search.trained) == 1 and missing in search.fails(capsys, stage2_beta)
    search.outcome = usual
    search(stage1_lr)
    assert len(search.trained) == 1 and "by rule" in search(stage2_beta, "--dry-run")


def test_only_a_stage_with_the_same_settings_counts_and_the_field_that_differs_is_named(search, capsys):
    search(stage1_lr, *RATES, "--set", "epochs=1")
    error = search.fails(capsys, stage2_beta)
    assert "stage1_lr of mmpo/tiny was run with other settings only (epochs: 1 there, 2 here)" in error
    assert "learning rate 1e-4: by rule" in search(stage2_beta, "--set", "epochs=1", "--dry-run")
    assert "seed: 42 there, 7 here" in search.fails(capsys, stage2_beta, "--set", "epochs=1", "--seed", "7")


def test_a_stage_run_at_another_learning_rate_than_is_chosen_now_does_not_count(search, capsys):
    search(stage1_lr, *RATES)
    search(stage2_beta, *BETAS)
    search.tag(search.child("stage1_lr", "lr=5e-5"), "winner", "person")
    error = search.fails(capsys, stage3_margin)
    assert "stage2_beta of mmpo/tiny was run at learning rate 1e-4, and 5e-5 is chosen now" in error
    assert "or pass --beta" in error
    assert "beta 0.1: by rule" in search(stage3_margin, "--learning-rate", "1e-4", "--dry-run")


def test_of_several_runs_of_a_stage_the_last_that_ended_counts_unless_a_person_chose_in_another(search):
    search(stage1_lr, *RATES)
    search(stage1_lr, "--learning-rates", "5e-5", "1e-5")
    assert "learning rate 5e-5: by rule" in search(stage2_beta, "--dry-run")
    search(stage1_lr, *RATES)
    assert "learning rate 1e-4: by rule" in search(stage2_beta, "--dry-run")
    [older] = [run for run in search.runs(stage_name="stage1_lr") if run.info.run_name == "lr=1e-5"]
    search.tag(older, "winner", "person")
    assert "learning rate 1e-5: chosen by a person" in search(stage2_beta, "--dry-run")


def test_final_runs_take_the_choice_of_the_two_epoch_search_or_of_any_other_where_there_is_none(search):
    search.outcome = lambda config: 30 if (config.epochs == 1) == (config.learning_rate == 5e-5) else 20
    search(stage1_lr, *RATES, "--objective", "dpo", "--set", "epochs=1")
    assert "learning rate 5e-5: by rule" in search(final_runs, "--objective", "dpo", "--dry-run")
    search(stage1_lr, *RATES, "--objective", "dpo")
    search(stage1_lr, *RATES, "--objective", "dpo", "--set", "epochs=1")
    assert "learning rate 1e-4: by rule" in search(final_runs, "--objective", "dpo", "--dry-run")


def test_final_runs_say_at_which_beta_the_margin_was_tuned(search):
    given = ("--learning-rate", "1e-4")
    search(stage1_lr, "--learning-rates", "1e-4")
    search(stage2_beta, *BETAS)
    search(stage3_margin, "--margins", "0.6", *given, "--beta", "0.05")
    printed = search(final_runs, "--dry-run")
    assert (
        "r_eps 0.6: by rule in stage3_margin mmpo" in printed
        and "at beta 0.05, while stage 2 now chooses 0.1" in printed
    )
    search(stage3_margin, "--margins", "0.2", *given)
    search(stage3_margin, "--margins", "0.6", *given, "--beta", "0.05")
    assert "r_eps 0.2: by rule" in search(final_runs, "--dry-run"), "the one at stage 2's choice comes first"


def test_the_note_has_the_ranking_the_next_command_and_how_to_overrule_and_a_persons_words_stay(search):
    search.outcome = lambda config: 34 if config.learning_rate == 1e-4 else 23
    search(stage1_lr, *RATES)
    [parent] = search.runs(ledger_kind="stage")
    note = parent.data.tags["mlflow.note.content"]
    assert "1e-4 wins" in note and "mmpo stage2" in note and "`winner` to `person`" in note
    assert "| 5e-5 | &emsp;0.5750 |" in note and "largest of the grid" in note and "log-ratios to the reference" in note
    search.tag(parent, "mlflow.note.content", "mine")
    search(stage1_lr, *RATES)
    [parent] = search.runs(ledger_kind="stage")
    assert parent.data.tags["mlflow.note.content"] == "mine"


def test_the_ranking_names_what_diverged_and_whom_the_policy_level_prefers(search):
    search.outcome = lambda config: "loss is nan at step 1" if config.learning_rate == 5e-4 else usual(config)
    search.logratio = lambda config: 0.75 if config.learning_rate == 5e-5 else 0.5
    printed = search(stage1_lr, "--learning-rates", "5e-4", "1e-4", "5e-5")
    assert "5e-4 diverged." in printed and "By plain log-probabilities (0.675) no point is better." in printed
    assert "By log-ratios to the reference 5e-5 has more pairs right (0.750 against 0.500)." in printed
    assert "loss is nan at step 1" in printed


def test_a_dry_run_reads_the_ledger_and_writes_nothing(search):
    search(stage1_lr, *RATES)
    before = (search.storage / "mlflow.db").read_bytes()
    files = sorted(search.storage.rglob("*"))
    printed = search(stage2_beta, "--dry-run")
    assert (
        "0 to train, 3 to score, 1 to reuse" in printed
        and "scored: same model as 1e-4" not in printed
        and "finished in stage1_lr" in printed
    )
    assert (search.storage / "mlflow.db").read_bytes() == before and sorted(search.storage.rglob("*")) == files


@pytest.mark.parametrize(("script", "count"), [(stage2_beta, 1), (stage3_margin, 1), (final_runs, 1), (ablations, 4)])
def test_a_dry_run_before_any_stage_lists_the_trials_and_says_what_is_not_decided(script, count, tmp_path):
    printed = Search(tmp_path / "runs")(script, "--dry-run")
    assert "learning rate: not decided yet; stage1_lr of mmpo/tiny has not been run" in printed
    assert f"{count} to train at most" in printed and not (tmp_path / "runs").exists()


def test_charts_over_the_tuned_values_have_the_same_axes_for_all_objectives(search):
    for objective, margin in (("mmpo", "0.6"), ("simpo", "1.2"), ("dpo", "0.0")):
        search(stage1_lr, "--learning-rates", "1e-4", "--objective", objective)
        [run] = [run for run in search.runs(ledger_kind="trial") if run.data.params["objective"] == objective]
        assert run.data.params["log10_learning_rate"] == "-4.0" and run.data.params["margin"] == margin
        assert run.data.params["beta"] == "0.1" and run.data.metrics["validation/reward_accuracy"] > 0


def test_with_several_seeds_points_are_means_and_each_seed_is_taken_and_tagged(search):
    search.outcome = lambda config: int(usual(config)) + 2 * (config.seed - 42)
    search(stage1_lr, *RATES)
    assert [one.seed for one in search.trained] == [42, 42]
    printed = search(stage1_lr, *RATES, "--seeds", "2")
    assert [one.seed for one in search.trained] == [43, 43], "the first seed is there already"
    assert "0.7000 (±0.0354)" in printed and "±0.035 over 2 seeds" in printed
    tagged = [run for run in search.runs(winner="auto") if run.info.run_name.startswith("lr=1e-4 s")]
    assert {run.data.params["seed"] for run in tagged} == {"42", "43"}
    printed = search(stage2_beta, *BETAS, "--seeds", "2", "--train-all")
    assert [(one.beta, one.seed) for one in search.trained] == [(0.05, 42), (0.05, 43)]
    taken = [run for run in search.runs(stage_name="stage2_beta") if "taken_from" in run.data.tags]
    assert sorted(run.info.run_name for run in taken) == ["beta=0.1 s42", "beta=0.1 s43"]


def test_a_person_chooses_a_point_by_any_of_its_seeds(search):
    search(stage1_lr, *RATES, "--seeds", "2")
    for name in ("lr=5e-5 s42", "lr=5e-5 s43"):
        search.tag(search.child("stage1_lr", name), "winner", "person")
        assert "learning rate 5e-5: chosen by a person" in search(stage2_beta, "--dry-run")


def test_points_within_the_noise_of_the_seeds_are_called_ties(search):
    """Differences of 1 and 11 pairs of 40: t = 6 / (7.07 / sqrt(2)) = 1.2, p = 0.44."""
    search.outcome = lambda config: 20 + (config.learning_rate == 1e-4) * (1 if config.seed == 42 else 11)
    printed = search(stage1_lr, *RATES, "--seeds", "2")
    assert "A tie within noise: 5e-5." in printed and "tie, p = 0.44" in printed


def test_the_starting_models_score_is_a_range_where_the_axis_changes_the_score(search, monkeypatch):
    search.baseline = lambda config: config.r_eps / 2
    monkeypatch.setattr(
        stage,
        "starting_models",
        lambda trials: {
            one.digest: {"reward_accuracy": one.config.r_eps / 2, "policy_accuracy": 0.5} for one in trials
        },
    )
    assert "starting model: reward accuracy 0.3000, accuracy by plain log-probabilities 0.5000" in search(
        stage1_lr, *RATES
    )
    given = ("--learning-rate", "1e-4", "--beta", "0.1", "--margins", "0.2", "0.6")
    assert "starting model: reward accuracy 0.1 to 0.3," in search(stage3_margin, *given)
    assert "starting model: reward accuracy 0.1 to 0.5," in search(stage3_margin, *given, "0.4", "1.0")

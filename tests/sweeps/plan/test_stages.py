"""The stages of Appendix B.1 as values: their grids, names and commands."""

import shlex
from pathlib import Path

import pytest
import tyro

from mmpo_train.config import TrialConfig, replace
from mmpo_train.errors import InputError
from sweeps import grids
from sweeps.ablations import AblationOptions, ablations
from sweeps.final_runs import FinalOptions, final_runs
from sweeps.plan.commands import arguments_of, command, same_command
from sweeps.plan.labels import shown
from sweeps.plan.options import SweepEvaluation, SweepOptions
from sweeps.plan.stages import Stage, stage_config
from sweeps.stage1_lr import Stage1Options, stage1
from sweeps.stage2_beta import Stage2Options, stage2
from sweeps.stage3_margin import Stage3Options, stage3


def configs(stage: Stage, options: SweepOptions, **chosen: float) -> list[TrialConfig]:
    """What the stage trains, with these choices of earlier stages."""
    base = replace(stage_config(stage, options, "fp32"), chosen)
    return [trial.config for point in stage.points(base, None, options.seeds) for trial in point.trials]


def names(stage: Stage, options: SweepOptions) -> list[str]:
    base = stage_config(stage, options, "fp32")
    return [trial.run_name for point in stage.points(base, None, options.seeds) for trial in point.trials]


def test_grids_are_those_of_appendix_b1():
    assert grids.LEARNING_RATES == (0.0005, 0.0001, 0.00005, 0.00001, 0.000005, 0.000001)
    assert grids.BETAS == (0.01, 0.05, 0.1, 0.5)
    assert grids.MARGINS["gamma_over_beta"] == (0.3, 0.5, 1.0, 1.2, 1.4, 1.6)
    assert grids.MARGINS["r_eps"] == (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    assert grids.SEARCH_SETTINGS == {"epochs": 2, "beta": 0.1, "gamma_over_beta": 1.2, "r_eps": 0.6}
    assert (grids.FINAL_BETAS, grids.FINAL_EPOCHS) == ((0.01, 0.05, 0.5), 5)
    assert grids.ABLATION_BETA == 0.05 and len(grids.ABLATIONS) == 5


@pytest.mark.parametrize(
    ("objective", "axis", "trainings"), [("mmpo", "r_eps", 19), ("simpo", "gamma_over_beta", 14), ("dpo", "", 9)]
)
def test_the_winner_of_a_stage_is_a_point_of_the_next(objective, axis, trainings):
    """With beta = 0.1 as stage 2's winner; by digest, whatever the ledger is."""
    one, two = Stage1Options(objective=objective), Stage2Options(objective=objective)
    found = configs(stage1(one), one) + configs(stage2(two), two, learning_rate=1e-4)
    assert len(found) == 10
    if axis:
        three = Stage3Options(objective=objective)
        found += configs(stage3(three), three, learning_rate=1e-4, beta=0.1)
    assert len({config.digest for config in found}) == trainings


def test_the_full_ablation_is_the_final_run_with_its_beta():
    final, without = FinalOptions(), AblationOptions()
    chosen = {"learning_rate": 1e-4, "r_eps": 0.9}
    runs = {config.beta: config.digest for config in configs(final_runs(final), final, **chosen)}
    full, *others = (config.digest for config in configs(ablations(without), without, **chosen))
    assert full == runs[0.05] and len({*others, *runs.values()}) == 7


def test_names_of_runs_are_short_and_say_what_differs():
    assert names(stage1(Stage1Options()), Stage1Options())[:2] == ["lr=5e-4", "lr=1e-4"]
    assert names(stage2(Stage2Options()), Stage2Options())[1] == "beta=0.05"
    assert names(stage3(Stage3Options()), Stage3Options())[6] == "r_eps=0.6"
    simpo = Stage3Options(objective="simpo")
    assert names(stage3(simpo), simpo)[3] == "ratio=1.2"
    assert names(final_runs(FinalOptions()), FinalOptions())[1] == "final b=0.05"
    short = names(ablations(AblationOptions()), AblationOptions())
    assert short == ["full", "no aux", "no norm", "len norm", "entropy"] and max(map(len, short)) <= 10
    seeded = Stage1Options(learning_rates=(1e-4,), seeds=2)
    assert names(stage1(seeded), seeded) == ["lr=1e-4 s42", "lr=1e-4 s43"]


def test_every_seed_is_a_trial_of_its_own():
    options = Stage2Options(seeds=3, seed=5)
    found = configs(stage2(options), options)
    assert [config.seed for config in found] == [5, 6, 7] * 4 and len({config.digest for config in found}) == 12
    with pytest.raises(InputError, match="--seeds must be at least 1, got 0"):
        configs(stage2(options), Stage2Options(seeds=0))


def test_a_value_given_twice_or_no_value_is_refused_with_the_option():
    for stage, message in (
        (stage1(Stage1Options(learning_rates=(1e-4, 1e-4))), "--learning-rates has 1e-4 twice"),
        (stage2(Stage2Options(betas=())), "--betas is empty"),
        (stage3(Stage3Options(margins=(0.1, 0.1))), "--margins has 0.1 twice"),
    ):
        with pytest.raises(InputError, match=message):
            configs(stage, SweepOptions())


@pytest.mark.parametrize(
    ("stage", "assigned", "message"),
    [
        (
            stage1(Stage1Options()),
            "learning_rate=1",
            "stage1_lr varies learning_rate.*; give its values with --learning-rates",
        ),
        (stage2(Stage2Options()), "beta=1", "stage2_beta varies beta.*; give its values with --betas"),
        (stage2(Stage2Options()), "learning_rate=1", "use --learning-rate instead of"),
        (final_runs(FinalOptions()), "r_eps=1", "use --r-eps instead of"),
        (ablations(AblationOptions()), "entropy=true", "ablations varies entropy"),
    ],
)
def test_what_a_stage_varies_or_takes_cannot_be_set(stage, assigned, message):
    with pytest.raises(InputError, match=message):
        stage_config(stage, SweepOptions(set=(assigned,)), "fp32")


def test_what_is_set_goes_before_a_stages_own_settings():
    assert stage_config(stage1(Stage1Options()), SweepOptions(set=("beta=0.2",)), "fp32").beta == 0.2
    assert stage_config(final_runs(FinalOptions()), SweepOptions(set=("epochs=1",)), "fp32").epochs == 1


def test_the_next_command_repeats_what_still_holds():
    given = Stage1Options(objective="simpo", storage=Path("my runs"), set=("beta=0.2", "pairs_per_step=8", "epochs=1"))
    assert shlex.split(command("stage2_beta", given))[2:] == [
        "--objective", "simpo", "--storage", "my runs", "--set", "pairs_per_step=8", "--set", "epochs=1",
    ]  # fmt: skip
    assert command("final_runs", Stage3Options(set=("epochs=1", "optimizer=adamw_8bit"), learning_rate=1e-4)) == (
        "mmpo final --set optimizer=adamw_8bit --learning-rate 0.0001"
    )
    assert command("ablations", FinalOptions(r_eps=0.9, set=("epochs=3",))) == (
        "mmpo ablations --set epochs=3 --r-eps 0.9"
    )
    assert same_command("stage1_lr", Stage1Options(learning_rates=(1e-4, 1e-5), dry_run=True, seeds=2)) == (
        "mmpo stage1 --seeds 2 --learning-rates 0.0001 1e-05"
    )


def test_arguments_are_read_back_as_they_were():
    settings = SweepEvaluation(no_chat_template=True, judges=("openai:a b", "tiny"), task_data=Path("data"), limit=3)
    given = Stage2Options(
        objective="dpo", betas=(0.1, 0.2), strict=True, dataset=("a", "b c"), learning_rate=3e-4, evaluation=settings
    )
    words = shlex.split(arguments_of(given))
    assert tyro.cli(Stage2Options, args=words, config=(tyro.conf.FlagCreatePairsOff,)) == given


def test_values_are_written_as_short_as_they_go():
    assert [shown("learning_rate", rate) for rate in (5e-4, 1e-6, 2.5e-5)] == ["5e-4", "1e-6", "2.5e-5"]
    assert [shown("beta", 0.05), shown("r_eps", 0.0), shown("segments", 3)] == ["0.05", "0", "3"]
    assert [shown("entropy", True), shown("negative_choice", "max")] == ["true", "max"]

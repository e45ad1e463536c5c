"""The search's order as a table, beside the scripts that it names."""

import dataclasses

import pytest

from mmpo_train.config import OBJECTIVE_FIELDS
from sweeps import ablations, final_runs, stage1_lr, stage2_beta, stage3_margin
from sweeps.paper import SCRIPTS
from sweeps.plan.options import SweepOptions
from sweeps.plan.order import DECIDED_IN, SEARCH, next_script, search_of, settled, tuned_grids
from sweeps.reporting.tables import stage_title

MODULES = {module.__name__.split(".")[1]: module for module in (stage1_lr, stage2_beta, stage3_margin, final_runs)}
MODULES["ablations"] = ablations


def fields_of(options: type) -> set[str]:
    """The options that a script has beside those of every sweep."""
    return {one.name for one in dataclasses.fields(options)} - {one.name for one in dataclasses.fields(SweepOptions)}


def test_every_stage_is_a_script_with_an_option_for_its_grid_and_for_all_it_takes():
    assert list(SEARCH) == list(SCRIPTS) == list(MODULES)
    for name, stage in SEARCH.items():
        options, make = SCRIPTS[name]
        assert MODULES[name].__dict__[make.__name__] is make
        assert fields_of(options) == {stage.option, *stage.takes} - {""}


@pytest.mark.parametrize("objective", list(OBJECTIVE_FIELDS))
def test_without_options_a_script_has_the_grid_of_the_table(objective):
    for place in search_of(objective):
        options, make = SCRIPTS[place.name]
        stage = make(options(objective=objective))
        assert stage.values == place.axes[stage.axis] and stage.name == place.name
        assert stage.tunes == (not place.is_last) and "{}" not in stage.title


def test_a_stage_takes_what_earlier_ones_decide_and_an_objective_its_own_margin_alone():
    assert DECIDED_IN == {
        "learning_rate": "stage1_lr",
        "beta": "stage2_beta",
        "r_eps": "stage3_margin",
        "gamma_over_beta": "stage3_margin",
    }
    assert SEARCH["final_runs"].chosen("simpo") == ("learning_rate", "gamma_over_beta")
    assert SEARCH["final_runs"].chosen("dpo") == ("learning_rate",)
    assert SEARCH["stage3_margin"].chosen("simpo") == ("learning_rate", "beta")
    assert [SEARCH["stage3_margin"].axis(name) for name in ("mmpo", "simpo")] == ["r_eps", "gamma_over_beta"]
    assert list(tuned_grids("dpo")) == ["learning_rate", "beta"] and len(tuned_grids("mmpo")["r_eps"]) == 11


def test_what_is_decided_is_not_set_again():
    assert settled("stage1_lr") == {"learning_rate"} and settled("stage2_beta") == {"learning_rate", "beta"}
    assert settled("final_runs") == settled("stage3_margin") | {"epochs"} == {*DECIDED_IN, "epochs"}
    parts = {"auxiliary", "in_batch_normalised", "length_normalised", "entropy"}
    assert settled("ablations") == {*DECIDED_IN, *parts}


def test_titles_in_sentences_begin_small_and_name_no_objectives_margin():
    titles = ["stage 1, learning rate", "stage 2, beta", "stage 3, margin", "final runs", "ablations"]
    assert [stage_title(name) for name in SEARCH] == titles and stage_title("axis_beta") == "axis beta"


def test_the_search_goes_on_to_what_the_objective_has():
    def chain(objective: str) -> list[str]:
        scripts = ["stage1_lr"]
        while following := next_script(scripts[-1], objective):
            scripts.append(following)
        return scripts[1:]

    assert chain("mmpo") == ["stage2_beta", "stage3_margin", "final_runs", "ablations"]
    assert chain("simpo") == ["stage2_beta", "stage3_margin", "final_runs"]
    assert chain("dpo") == ["stage2_beta", "final_runs"]
    assert next_script("axis_beta", "mmpo") == ""

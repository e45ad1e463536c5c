"""What makes two stages one search."""

from mmpo_train.config import TrialConfig, replace
from sweeps.plan.searches import is_part, key_of, search_key


def config(**fields):
    return replace(TrialConfig(), fields)


def test_a_search_is_one_over_its_tuned_fields_and_objectives_and_another_with_other_settings():
    key = key_of(config())
    same = [{"learning_rate": 1e-6, "beta": 0.5, "r_eps": 0.9}, {"objective": "dpo"}, {"objective": "simpo"}]
    assert {key_of(config(**fields)) for fields in same} == {key}
    others = [{"epochs": 1}, {"seed": 43}, {"pairs_per_step": 16}, {"data_fingerprint": "x"}, {"lora_rank": 8}]
    assert len({key, *(key_of(config(**fields)) for fields in others)}) == 6
    assert key_of(config(epochs=5), epochs=2) == key


def test_a_field_of_one_objective_alone_leaves_the_others_in_the_search():
    key, wide = key_of(config(objective="dpo")), key_of(config(pairs_per_group=32))
    assert wide.startswith(f"{key}-") and is_part(key, wide) and not is_part(wide, key)
    assert key_of(config(objective="dpo", pairs_per_group=32)) == key


def test_a_record_without_a_field_of_later_versions_has_the_key_of_its_default():
    assert search_key({"objective": "mmpo", "epochs": 2}) == key_of(config())
    assert search_key({"objective": "mmpo"}) == key_of(config())


def test_an_objectives_own_default_sets_it_apart_from_nothing():
    """CPO's weight of 1 is what its stages have unless another is asked for."""
    assert key_of(config(objective="cpo_original", sft_weight=1.0)) == key_of(config())

"""The name of what `tiny` is made from."""

import subprocess
import sys
from dataclasses import replace

from mmpo_train.tiny import recipe


def test_the_recipe_is_named_without_torch():
    program = "import sys; from mmpo_train.tiny.recipe import fingerprint; fingerprint(); print('torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert printed.strip() == "False"


def test_the_name_of_this_recipe_stays_with_every_finished_sweep():
    assert recipe.fingerprint() == "879a3aed4a2253bb"


def test_fingerprint_changes_with_the_recipe(monkeypatch):
    before = recipe.fingerprint()
    monkeypatch.setattr(recipe, "RECIPE", replace(recipe.RECIPE, seed=recipe.RECIPE.seed + 1))
    assert recipe.fingerprint() != before

import numpy as np
import pytest
from matplotlib.image import imread

from mmpo_train.metric_names import ACCURACY_CURVE, LOSS
from sweeps.figures import stage
from sweeps.figures.stage import _positions, _smooth, plot_stage
from sweeps.ranking.ranked import Candidate
from sweeps.ranking.winners import rank

PAIRS = 200


def candidate(label: str, value: float | str, right: int = 0, state: str = "finished") -> Candidate:
    correct = (1,) * right + (0,) * (PAIRS - right) if state == "finished" else ()
    return Candidate(label=label, value=value, epoch=1, correct=correct, state=state)


def is_drawn(path) -> bool:
    """1400 x 600 pixels, not blank, nothing at the very edge: no text runs out of the picture."""
    picture = imread(path)[:, :, :3]
    edges = np.concatenate([picture[:2].ravel(), picture[-2:].ravel(), picture[:, :2].ravel(), picture[:, -2:].ravel()])
    return picture.shape == (600, 1400, 3) and picture.std() > 0.02 and bool((edges == 1).all())


def test_a_stage_with_curves_a_baseline_and_a_diverged_trial_is_drawn(tmp_path):
    grid = [candidate("1e-6", 1e-6, 110), candidate("1e-5", 1e-5, 140), candidate("1e-4", 1e-4, 138)]
    grid.append(candidate("1e-3", 1e-3, state="diverged"))
    curves = {
        one.label: {
            ACCURACY_CURVE: [(step, 0.5 + step / 4000) for step in range(64, 600, 64)],
            LOSS: [(step, 0.7 - step / 3000) for step in range(1, 576)],
        }
        for one in grid
    }
    curves["1e-3"][LOSS] = [(1, 0.7), (2, 90.0), (3, float("inf")), (4, float("nan"))]
    path = plot_stage(
        tmp_path / "new folder" / "stage.png",
        title="Stage 1: learning rate, MMPO, $tiny$ on tiny",
        axis_name="learning rate",
        ranking=rank(grid),
        log_axis=True,
        baseline=0.53,
        curves=curves,
    )
    assert is_drawn(path)


@pytest.mark.parametrize(
    "grid",
    [
        [],
        [candidate("1", 1.0, 100)],
        [candidate("1", 1.0, 100), candidate("also 1", 1.0, 120)],
        [candidate("1", 1.0, state="diverged"), candidate("2", 2.0, state="failed")],
        [candidate("0.0", 0.0, 200), candidate("1.0", 1.0, 0)],
        [candidate(f"an objective with a very long name {i}", f"objective {i}", 90 + i) for i in range(9)],
    ],
    ids=["no trials", "one trial", "two trials at one place", "none finished", "zero on a log axis", "long names"],
)
def test_odd_stages_are_drawn_too(tmp_path, grid):
    ranking = rank(grid)
    path = plot_stage(tmp_path / "stage.png", title="odd", axis_name="x", ranking=ranking, log_axis=True, baseline=0.5)
    assert is_drawn(path)


@pytest.mark.parametrize("kind", ["numbers", "words", "one number"])
def test_very_many_trials_are_drawn_too_and_a_few_of_them_have_names(tmp_path, kind, monkeypatch):
    of_number = {"numbers": lambda i: 1e-6 * 1.1**i, "words": lambda i: f"objective {i}", "one number": lambda i: 1.0}
    grid = [(i, of_number[kind](i), "failed" if i % 9 == 4 else "finished") for i in range(120)]
    grid = [candidate(f"{i}: {value}", value, 90 + i // 2, state) for i, value, state in grid]
    curves = {one.label: {LOSS: [(step, 0.7 - step / 300) for step in range(1, 50)]} for one in grid}
    named: list[str] = []
    monkeypatch.setattr(stage, "_legend", lambda axes, lines, **place: named.extend(name for name, _ in lines))
    path = tmp_path / "stage.png"
    plot_stage(path, title="many", axis_name="x", ranking=rank(grid), log_axis=True, curves=curves)
    assert is_drawn(path)
    assert sum("(winner)" in name for name in named) == 1
    (others,) = [name for name in named if name.startswith("and ")]
    assert int(others.split()[1]) + sum(":" in name for name in named) == len(grid)


def test_values_too_close_for_their_labels_are_spaced_evenly():
    """0.01, 0.05, 0.1 share 5% of a linear axis up to 2 and a third of a logarithmic one."""
    rows = rank([candidate(str(beta), beta, 100) for beta in (0.01, 0.05, 0.1, 0.5, 2.0)]).rows
    assert _positions(rows, log_axis=False) == ([0, 1, 2, 3, 4], False)
    places, to_scale = _positions(rows, log_axis=True)
    assert to_scale
    assert places[0] == -2


def test_long_curves_are_drawn_as_means():
    """240 points of 1, 3, 1, 3, ... become 120 means of 2."""
    curve = [(step, 1.0 + 2 * (step % 2)) for step in range(240)]
    assert _smooth(curve) == [(step + 0.5, 2.0) for step in range(0, 240, 2)]
    assert _smooth(curve[:120]) == curve[:120]


def test_bars_are_deviations_over_seeds_where_there_are_several(tmp_path):
    grid = [
        Candidate(label=label, value=value, epoch=1, seed=seed, correct=(1,) * right + (0,) * (PAIRS - right))
        for label, value, rights in (("0.1", 0.1, (120, 140)), ("0.5", 0.5, (100, 104)))
        for seed, right in enumerate(rights)
    ]
    ranking = rank(grid)
    assert ranking.rows[0].bar == pytest.approx((0.65 - 0.1 / 2**0.5, 0.65 + 0.1 / 2**0.5))
    assert is_drawn(plot_stage(tmp_path / "stage.png", title="seeds", axis_name="beta", ranking=ranking))

"""The report's pictures: drawn, whole, the same colour for a beta everywhere."""

import re

import numpy as np
from matplotlib.image import imread

from sweeps.figures.style import in_order
from sweeps.figures.trade_off import (
    OF_BETA,
    PALETTE,
    Curve,
    Trajectory,
    colours_of,
    draw_curves,
    draw_trade_off,
)
from sweeps.ranking.noise import Measured


def is_drawn(path) -> bool:
    """Not blank, and nothing at the very edge: no text runs out of the picture."""
    picture = imread(path)[:, :, :3]
    edges = np.concatenate([picture[:2].ravel(), picture[-2:].ravel(), picture[:, :2].ravel(), picture[:, -2:].ravel()])
    return picture.shape[1] == 1320 and picture.std() > 0.02 and bool((edges == 1).all())


def epochs(*numbers: int) -> tuple[tuple[int, Measured, Measured], ...]:
    return tuple((n, Measured(0.5 + n / 50, 0.02, ""), Measured(0.3 + n / 300, None, "")) for n in numbers)


def arrows(svg: str) -> int:
    """How many are in the picture, up to a factor: nothing else in it has round ends."""
    return len(re.findall(r"stroke-linecap: round", svg))


def trade_off(path, *found: Trajectory, baseline: float | None = 0.31):
    title = "Figure 1. SmolLM2-360M: mmpo and dpo, final runs"
    name = "length-controlled win rate without difficulties"
    look = {"rate_name": name, "called": "beta", "colours": colours_of([one.label for one in found])}
    return draw_trade_off(path, title=title, **look, trajectories=found, baseline=baseline)


def test_trajectories_of_two_objectives_are_drawn_as_png_and_svg(tmp_path):
    lines = [Trajectory(beta, group, epochs(1, 2, 3, 4, 5)) for beta in OF_BETA for group in ("mmpo", "mc_po")]
    path = trade_off(tmp_path / "new folder" / "figure", *lines)
    assert path.suffix == ".png" and is_drawn(path)
    svg = path.with_suffix(".svg").read_text()
    assert all(colour.lower() in svg for colour in OF_BETA.values())
    assert not re.search(r"(?:href|src)=\"(?!#)", svg)


def test_no_arrow_crosses_an_epoch_that_is_missing(tmp_path):
    whole = trade_off(tmp_path / "whole", Trajectory("0.01", "mmpo", epochs(1, 2, 3)), baseline=None)
    gap = trade_off(tmp_path / "gap", Trajectory("0.01", "mmpo", epochs(1, 3)), baseline=None)
    assert arrows(whole.with_suffix(".svg").read_text()) > arrows(gap.with_suffix(".svg").read_text()) == 0


def test_a_picture_without_numbers_says_so(tmp_path):
    assert is_drawn(trade_off(tmp_path / "empty", Trajectory("0.01", "mmpo", ()), baseline=None))
    assert is_drawn(draw_curves(tmp_path / "none", title="t", called="beta", curves=[], colours={}, baseline=None))


def test_curves_with_seeds_a_baseline_and_a_gap_are_drawn(tmp_path):
    curves = [
        Curve(f"{n / 10:g}", tuple((s, 0.5 + s / 1000 + n / 90, 0.01) for s in range(64, 300, 64))) for n in range(11)
    ]
    curves.append(Curve("2", ()))
    colours = in_order([curve.label for curve in curves])
    path = draw_curves(tmp_path / "c", title="Stage 3", called="r_eps", curves=curves, colours=colours, baseline=0.5)
    assert is_drawn(path)


def test_a_beta_has_the_same_colour_whatever_stands_beside_it():
    few, many = colours_of(["0.5"]), colours_of(["0.3", "0.01", "0.05", "0.1", "0.5", "0.7"])
    assert few["0.5"] == many["0.5"] == "#D55E00" and len(set(many.values())) == 6
    assert colours_of(["full", "no aux"]) == {"full": PALETTE[0], "no aux": PALETTE[1]}

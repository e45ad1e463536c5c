"""benchmarks/step.py on a model of a few thousand weights: what is compared, what is refused, what is counted."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import step
from lengths import MAX_COMPLETION_TOKENS, MAX_PROMPT_TOKENS, preference_table
from steps.ladder import climb, ladder
from steps.race import OURS, SORTED, TOLERANCE, TUNED, WAYS, refuse_different, run_trl, sorted_in_steps
from steps.work import SHAPES, Job, OurStep, Shape, flop_per_step, write_checkpoint

from mmpo_train.data.tokens import TokenTable
from mmpo_train.engines.passes import Passes


def a_job(folder: Path, rate: float) -> Job:
    """Three steps of four pairs."""
    shape = SHAPES["test"]
    write_checkpoint(shape, folder / "checkpoint", torch.device("cpu"))
    return Job(
        shape=shape,
        folder=folder / "checkpoint",
        table=preference_table(12, shape.vocabulary, 0.1),
        pairs_per_step=4,
        learning_rate=rate,
        precision="fp32",
        passes=Passes(layout="shared", tokens=256),
        pairs_per_pass={TUNED: 2, SORTED: 1},
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="compares in fp32")
def test_trl_and_ours_train_alike_and_so_does_every_rung(tmp_path: Path) -> None:
    """TRL's own trainer in each setting gives our losses; climbing the ladder would exit where losses part."""
    job = a_job(tmp_path, 1e-2)
    ours = OurStep(job)
    losses = {OURS: [ours.step() for _ in range(job.steps)]}
    for way in WAYS[1:]:
        taken: list[float] = []
        run_trl(job, way, tmp_path / "trl", lambda: None, taken.append)
        losses[way] = taken
    for way, taken in losses.items():
        assert taken == pytest.approx(losses[OURS], rel=TOLERANCE["fp32"]), way
    # Else the comparison would show nothing.
    assert abs(losses[OURS][-1] - math.log(2)) > 1e-2
    rungs = ladder(64, 256, on_gpu=False)
    climbed = climb(OurStep(job), rungs, 1)
    assert list(climbed) == [rung.name for rung in rungs] and all(len(times) == 1 for times in climbed.values())


def test_a_run_prints_a_table_and_writes_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = ["--pairs-per-step", "4", "--length-scale", "0.1", "--rounds", "2", "--ladder-rounds", "1"]
    step.main(["--model", "test", *counts, "--ways", "ours", "--json", str(tmp_path / "figures.json")])
    printed = capsys.readouterr().out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert all(name in printed for name in [*figures["ways"], *figures["ladder"], "MFU ="])
    [ours] = figures["ways"].values()
    assert len(ours["losses"]) == 6 and len(ours["all_seconds"]) == 4 and ours["peak_gb"] > 0
    assert ours["pairs_per_second"] == pytest.approx(4 / ours["seconds_per_step"])
    assert ours["tokens_per_second"] == pytest.approx(figures["tokens_per_step"] / ours["seconds_per_step"])


def test_losses_that_part_end_the_run() -> None:
    with pytest.raises(SystemExit, match="step 3.*0.690000 .ours.*0.700000 .TRL"):
        refuse_different({"ours": 0.69, "TRL": 0.70}, 1e-4, "step 3")
    with pytest.raises(SystemExit):
        refuse_different({"ours": 0.69, "TRL": float("nan")}, 1e-4, "step 3")
    refuse_different({"ours": 0.69, "TRL": 0.69005}, 1e-4, "step 3")


def test_lengths_are_those_of_ultrafeedback() -> None:
    table = preference_table(20_000, 1000)
    prompts = np.array([len(prompt) for prompt in table.prompts])
    chosen, rejected = table.completion_tokens.T
    assert np.median(prompts) == pytest.approx(110, abs=4) and prompts.max() == MAX_PROMPT_TOKENS
    assert np.mean(table.completion_tokens) == pytest.approx(300, rel=0.05)
    assert np.median(table.completion_tokens) == pytest.approx(270, rel=0.03)
    assert np.median(chosen) > np.median(rejected)
    assert table.completion_tokens.max() == MAX_COMPLETION_TOKENS
    assert min(ids.min() for ids in table.prompts) >= 2


def test_steps_keep_their_pairs_when_sorted() -> None:
    def row(tokens: int) -> np.ndarray:
        return np.full(tokens, tokens, dtype=np.int32)

    lengths = [3, 5, 4, 9, 7, 8]
    table = TokenTable(tuple(map(row, lengths)), tuple((row(2), row(1)) for _ in lengths))
    sorted_lengths = [len(prompt) for prompt in sorted_in_steps(table, 3).prompts]
    assert sorted_lengths == [5, 4, 3, 9, 8, 7]


def test_flop_are_six_a_weight_and_token_and_the_causal_half_of_attention() -> None:
    """One pair, prompt 3, completions 2 and 1: rows of 5 and 4 tokens. A frozen weight costs 4, a trained one 6.

    10 trained and 5 frozen weights, 2 layers of width 8: 9 x (60 + 20) + 6 x (25 + 16) x 2 x 8 = 720 + 3936.
    """
    table = TokenTable((np.zeros(3, np.int32),), ((np.zeros(2, np.int32), np.zeros(1, np.int32)),))
    shape = Shape(width=8, layers=2, heads=1, kv_heads=1, intermediate=8, vocabulary=4, lora_rank=1)
    assert flop_per_step(table, 1, shape, 10, 5) == 720 + 3936

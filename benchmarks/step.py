"""An optimiser step of ours against TRL's DPOTrainer, as TRL comes and tuned; then what each of our measures gives.

    python benchmarks/step.py                           a Llama of 16M parameters, a few minutes on two CPU cores
    python benchmarks/step.py --model 1B --pairs-per-step 128 --length-scale 1        on a GPU
    python benchmarks/step.py --json step.json          the figures to a file too

All train the same random checkpoint on the same pairs in the same order with DPO and AdamW. Each way has a process of
its own. On a CPU they take turns step by step, on a GPU each has it for itself, one after the other; the table shows
medians. Losses are compared at every step, and where they part the run is refused.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lengths import preference_table
from steps.ladder import climb, ladder, print_ladder
from steps.machine import machine, peak_flop, versions
from steps.race import OURS, SORTED, TUNED, WAYS, Worker, fastest_pass, one_by_one, print_race, race, race_figures
from steps.work import SHAPES, Job, OurStep, own_passes, rows_of, write_checkpoint

from mmpo_train.engines.passes import Passes


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, with those that depend on the machine filled in."""
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SHAPES, default="135M" if on_gpu else "tiny-cpu")
    parser.add_argument("--pairs-per-step", type=int, default=128 if on_gpu else 8)
    parser.add_argument("--length-scale", type=float, default=1.0 if on_gpu else 0.25, help="of all lengths")
    parser.add_argument("--rounds", type=int, default=6, help="turns of each way")
    parser.add_argument("--steps-per-turn", type=int, default=3, help="in a row, the first of them not counted")
    parser.add_argument("--tokens-per-pass", type=int, default=0, help="ours; 0: found by trying")
    parser.add_argument("--small-pass", type=int, default=4096 if on_gpu else 512, help="the ladder's, in tokens")
    parser.add_argument("--pairs-per-pass", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="tried for TRL, tuned")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="ours is always among them")
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--ladder-rounds", type=int, default=3, help="0 leaves the ladder out")
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the tables."""
    given = parsed(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = SHAPES[given.model]
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        write_checkpoint(shape, place / "checkpoint", device)
        job = Job(
            shape=shape,
            folder=place / "checkpoint",
            table=preference_table(
                given.pairs_per_step * given.rounds * given.steps_per_turn, shape.vocabulary, given.length_scale
            ),
            pairs_per_step=given.pairs_per_step,
            learning_rate=given.learning_rate,
            precision="bf16" if device.type == "cuda" else "fp32",
            passes=Passes(layout="shared", tokens=given.tokens_per_pass),
            pairs_per_pass={},
        )
        describe(job, given)
        if not job.passes.tokens and device.type == "cpu":  # the peak is that of steps, not of larger ones tried before
            with get_context("spawn").Pool(1) as pool:
                job = replace(job, passes=pool.apply(own_passes, (job, torch.get_num_threads())))
        ways = [way for way in WAYS if way == OURS or way in given.ways]
        tried: dict[str, dict[int, float]] = {}
        for way in (way for way in ways if way in (TUNED, SORTED)):
            job.pairs_per_pass[way] = given.pairs_per_pass[0]
            if len(given.pairs_per_pass) > 1:
                arguments = job, way, given.pairs_per_pass, place / "trl", torch.get_num_threads()
                with get_context("spawn").Pool(1) as pool:
                    tried[way] = pool.apply(fastest_pass, arguments)
                job.pairs_per_pass[way] = min(tried[way], key=tried[way].__getitem__)
                listed = ", ".join(f"{size}: {value:.2f} s" for size, value in tried[way].items())
                print(f"{way}, by pairs a pass: {listed}", flush=True)
        steps_per_turn, peak = given.steps_per_turn, peak_flop(device)

        def keep(facts: dict[str, float], results: dict[str, list[Any]]) -> dict[str, Any]:
            found = race_figures(job, facts, results, peak, steps_per_turn) | {"facts": facts, "machine": machine()}
            if given.json:  # what comes after it may not end
                given.json.write_text(json.dumps(found, indent=1) + "\n")
            return found

        if device.type == "cuda":
            steps_per_turn = job.steps
            facts, results = one_by_one(job, ways, place / "trl", keep)
        else:
            workers, known = [], []
            for way in ways:  # one after the other: ours measures its reference store while it starts
                workers.append(Worker(job, way, place / "trl"))
                known.append(workers[-1].ready())
            facts, results = known[0], race(job, workers, steps_per_turn)
        figures = keep(facts, results)
        print_race(figures)
        if given.ladder_rounds:
            rungs = ladder(given.small_pass, int(facts["tokens_per_pass"]), device.type == "cuda")
            figures["ladder"] = climb(OurStep(job), rungs, given.ladder_rounds)
            print_ladder(figures["ladder"])
            if device.type != "cuda":
                print("compiled: left out, it is measured on a GPU only")
    figures |= {"machine": machine(), "versions": versions(), "options": {**vars(given), "json": None}}
    figures |= {"shape": asdict(shape), "pairs_per_pass_tried": tried}
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


def describe(job: Job, given: argparse.Namespace) -> None:
    """Print what is measured, and where."""
    rows, prompts = rows_of(job.table), [len(prompt) for prompt in job.table.prompts]
    chosen, rejected = job.table.completion_tokens.T
    print(", ".join(f"{name} {number}" for name, number in versions().items()), "·", machine())
    print(
        f"{given.model}: {job.pairs_per_step} pairs a step, {given.rounds} rounds, {job.precision}; tokens in the "
        f"median: prompt {np.median(prompts):.0f}, chosen {np.median(chosen):.0f}, rejected {np.median(rejected):.0f}; "
        f"{rows.sum() / job.steps:.0f} a step, each completion with its prompt"
    )


if __name__ == "__main__":
    main()

"""How far a trial in bf16 depends on where and how it is computed: losses, and verdicts that are flipped.

    python benchmarks/flips.py                  {1, 2 workers} x {pass sizes} x {other ZeRO stages, resumed}, on `tiny`
    python benchmarks/flips.py --workers 1      on one GPU: NCCL refuses two workers there
    python benchmarks/flips.py --storage runs   with a ready `tiny` and its token tables

Every row is the same trial (DPO, pass size and ZeRO stage are no part of its digest). Compared with the first: the
largest difference of a step's loss and the first step with one; how many of the validation pairs the last checkpoint
judges otherwise, with their margins in the first row; how far margins differ, in the median and at most. A margin is
the chosen completion's log-ratio to the reference minus the rejected one's, in nats. The last columns are the same with
the checkpoint's bf16 weights computed in fp32: what is left is what the weights differ.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace as changed
from itertools import groupby
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from steps.machine import machine, versions

from eval_workers.reward_accuracy import RewardAccuracy
from mmpo_train.config import TrialConfig, replace
from mmpo_train.data.tokens import read_table
from mmpo_train.devices import own_device
from mmpo_train.model.logps import CompletionLogps
from mmpo_train.model.policy import load_model
from mmpo_train.model.reference import in_process, read_reference
from mmpo_train.model.scoring import model_forward, score_pairs
from mmpo_train.options import Options, base_config
from mmpo_train.prepare import identify, materialise
from mmpo_train.trial.places import Places
from tests.support.training import EVERY_STEP, job, losses
from tests.support.workers import train_jobs

_STAGES = (2, 1, 3, 0)
_TOKENS = (2_048, 512)


def rows_of(workers: Sequence[int], quick: bool) -> list[dict[str, Any]]:
    """What is varied, the row that all are compared with first."""
    rows = []
    for count in workers:
        for tokens in _TOKENS:
            stages = _STAGES[:2] if quick else _STAGES
            rows += [{"workers": count, "tokens a pass": tokens, "ZeRO": str(stage), "at": stage} for stage in stages]
            after = {"ZeRO": "2, killed, then 3", "at": 3, "begun": 2}
            rows.append({"workers": count, "tokens a pass": tokens} | after)
    return rows


def measure(config: TrialConfig, places: Places, rows: list[dict[str, Any]], folder: Path, keep: Any) -> None:
    """Train all rows; `keep` gets the table after each group, which has one set of workers and one size of passes."""
    table: list[dict[str, Any]] = []
    base: dict[str, Any] = {}
    judge = Judge(places)
    steps = -(-len(read_table(places.tokens, "train")) // config.pairs_per_step) * config.epochs
    for (count, tokens), some in groupby(rows, lambda row: (row["workers"], row["tokens a pass"])):
        group = list(some)
        jobs: list[dict[str, Any]] = []
        for row in group:
            place = folder / f"{count}-{tokens}-{row['ZeRO']}"
            own = replace(config, {"tokens_per_pass": tokens, **(EVERY_STEP if "begun" in row else {})})
            if "begun" in row:
                jobs.append(job(own, places, place, steps // 2, zero_stage=row["begun"]))
            jobs.append(job(own, places, place, zero_stage=row["at"]))
        results = iter(train_jobs(jobs, count, seconds=3_600.0))
        for row in group:
            curve = losses(next(results)) if "begun" in row else {}
            last = next(results)
            curve |= losses(last)
            found = {"curve": curve, **judge.margins(Path(last["finished"][-1][1]))}
            base = base or found
            apart = {step: abs(curve[step] - loss) for step, loss in base["curve"].items()}
            told = {name: row[name] for name in ("workers", "tokens a pass", "ZeRO")}
            told |= {"largest loss difference": max(apart.values())}
            told["from step"] = next((step for step in sorted(apart) if apart[step]), "-")
            for name in ("bf16", "fp32"):
                own, first = found[name], base[name]
                flipped = (own > 0) != (first > 0)
                told[f"flipped, {name}"] = f"{flipped.sum()} of {len(own)}"
                told["at margins of"] = told.get("at margins of", ", ".join(f"{one:+.2f}" for one in first[flipped]))
                off = np.abs(own - first)
                told[f"margins apart, {name}"] = f"{np.median(off):.3f}, {off.max():.2f}"
            table.append(told | {"reward accuracy": float((found["bf16"] > 0).mean())})
            keep({"steps": len(curve), "rows": table})


class Judge:
    """Margins of the validation pairs by a checkpoint, as the evaluator has them and in fp32."""

    def __init__(self, places: Places) -> None:
        self.evaluator, self.places = RewardAccuracy(), places
        self.table = read_table(places.tokens, "validation")
        self.reference = {"bf16": read_reference(places.reference, "validation"), "fp32": self._exact(places.model)}

    def margins(self, checkpoint: Path) -> dict[str, np.ndarray]:
        """(N,) in nats, by precision of the computation."""
        with tempfile.TemporaryDirectory() as folder:
            kept = Path(folder) / "logps"
            self.evaluator(str(checkpoint), str(self.places.tokens), str(self.places.reference), str(kept))
            logps = {"bf16": read_reference(kept, "validation"), "fp32": self._exact(checkpoint)}
        ratios = {name: logps[name] - self.reference[name] for name in logps}
        return {name: ratio[:, 0] - ratio[:, 1] for name, ratio in ratios.items()}

    def _exact(self, model: Path) -> np.ndarray:
        device = own_device()
        forward = model_forward(CompletionLogps(load_model(model, precision="fp32", device=device)), device, "fp32")
        return score_pairs(forward, self.table, np.arange(len(self.table)), 4_096, layout="shared")


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare the trial, and print the table as it grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--storage", default="runs", help="folder of `tiny` and of token tables")
    parser.add_argument("--quick", action="store_true", help="one ZeRO stage besides")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args(arguments)
    options = changed(Options(), storage=given.storage, objective="dpo")
    fields: dict[str, Any] = {"precision": "bf16", "epochs": 1, "learning_rate": 5e-4}
    fields |= {"checkpoint_minutes": 0.0, "validate_every_steps": 10**6}
    inputs = identify(replace(base_config(options), fields), options.folder)
    places, _ = materialise(inputs, in_process, lambda what, share: None)
    print(f"{machine()}; {versions()}", flush=True)

    def keep(figures: dict[str, Any]) -> None:
        print(" | ".join(str(value) for value in figures["rows"][-1].values()), flush=True)
        if given.json:
            given.json.write_text(json.dumps({"machine": machine()} | figures, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        measure(inputs.config, places, rows_of(given.workers, given.quick), Path(folder), keep)


if __name__ == "__main__":
    main()

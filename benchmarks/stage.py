"""A whole stage of ours, start-up included, against the same grid run with TRL one trial after the other.

    python benchmarks/stage.py                                   four learning rates of DPO on `tiny`, two epochs each
    python benchmarks/stage.py --rates 5e-4 1e-4 --epochs 5      longer trials

Both start from the same checkpoint and token ids, which are made before the clock starts. Ours is the command of
stage 1 with an empty ledger: Ray, reference store, training, evaluation of each epoch's checkpoint, MLflow. TRL's is
one process a trial, DPOTrainer with its defaults or tuned (no gradient checkpointing, stored reference), which
evaluates and saves each epoch. The overhead is the time in which none of our workers was in a training step.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from mmpo_train.config import TrialConfig, replace
from mmpo_train.data.tokens import read_table
from mmpo_train.model.reference import in_process
from mmpo_train.prepare import identify, materialise
from mmpo_train.recipes import recipe_for

REPOSITORY = Path(__file__).resolve().parent.parent
# What a start costs is told for trials of this length.
LONG_TRIAL_SECONDS = 600


def our_stage(storage: Path, rates: list[str], epochs: int) -> tuple[float, dict[str, float]]:
    """Seconds of the command, and seconds in training steps by trial."""
    command = [sys.executable, "sweeps/stage1_lr.py", "--objective", "dpo", "--storage", str(storage)]
    command += ["--set", f"epochs={epochs}", "--learning-rates", *rates]
    started = time.perf_counter()
    subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    training = {}
    for path in (storage / "trials").glob("*/points.jsonl"):
        entries = [json.loads(line) for line in path.read_text().splitlines()]
        training[path.parent.name] = sum(entry.get("metrics", {}).get("train/step_seconds", 0.0) for entry in entries)
    return seconds, training


def trl_trials(
    config: TrialConfig, tables: Path, model: Path, rates: list[str], folder: Path, tuned: bool
) -> list[float]:
    """Seconds of each trial's process."""
    seconds = []
    for rate in rates:
        trial = {
            "model": str(model),
            "tables": str(tables),
            "output": str(folder / f"{rate}-{tuned}"),
            "learning_rate": float(rate),
            "tuned": tuned,
            "epochs": config.epochs,
            "pairs_per_step": config.pairs_per_step,
            "beta": config.beta,
        }
        started = time.perf_counter()
        subprocess.run([sys.executable, __file__, "--trial", json.dumps(trial)], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - started)
    return seconds


def trl_trial(trial: dict) -> None:
    """What one of TRL's processes does."""
    import trl_peer

    tables = [read_table(Path(trial["tables"]), split) for split in ("train", "validation")]
    trl_peer.train_trial(
        Path(trial["model"]),
        Path(trial["output"]),
        *tables,
        tuned=trial["tuned"],
        epochs=trial["epochs"],
        pairs_per_step=trial["pairs_per_step"],
        learning_rate=trial["learning_rate"],
        beta=trial["beta"],
        bf16=torch.cuda.is_available(),
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", nargs="+", default=["5e-4", "1e-4", "5e-5", "1e-5"], help="the grid")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--trial", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.trial:
        trl_trial(json.loads(given.trial))
        return
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with tempfile.TemporaryDirectory() as name:
        storage = Path(name) / "runs"
        config = replace(recipe_for("tiny"), {"objective": "dpo", "epochs": given.epochs, "precision": "fp32"})
        places, _ = materialise(identify(config, storage), in_process, lambda what, share: None)
        # Our stage builds its own reference store within its time.
        places.reference.rename(Path(name) / "set-aside")
        config = replace(config, {"model": "tiny"})
        seconds, training = our_stage(storage, given.rates, given.epochs)
        workers = min(len(given.rates), os.cpu_count() or 1)
        in_steps = sum(training.values())
        print(f"ours: {seconds:.1f} s, {len(training)} trials, {workers} at a time, {in_steps:.1f} s in steps")
        overhead = (seconds - in_steps / workers) * workers / len(training)
        print(
            f"not in a step: {overhead:.1f} s a trial of {in_steps / len(training):.1f} s; of a trial of "
            f"{LONG_TRIAL_SECONDS} s that is {overhead / (LONG_TRIAL_SECONDS + overhead):.1%}"
        )
        for tuned in (False, True):
            theirs = trl_trials(config, places.tokens, places.model, given.rates, Path(name), tuned)
            what = "TRL, tuned" if tuned else "TRL's defaults"
            print(
                f"{what}: {sum(theirs):.1f} s, one trial at a time: ours is {sum(theirs) / seconds:.2f} times as fast"
            )


if __name__ == "__main__":
    main()

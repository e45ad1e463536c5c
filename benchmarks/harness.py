"""A warm LMHarness against the `lm_eval` command line: the same checkpoints, tasks and data.

    python benchmarks/harness.py                                  two random checkpoints of tiny's size, tiny's tasks
    python benchmarks/harness.py --model A --model B              folders of one architecture, with their tokenizer
    python benchmarks/harness.py --tasks piqa race --task-data D --limit 200

The warm object has seen another checkpoint before, as in a sweep; the command line is a fresh process each time. They
take turns; the table shows medians over rounds and checkpoints, and how far the accuracies are apart.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from eval_workers.harness.evaluation import LMHarness
from eval_workers.harness.tasks import TINY_TASKS
from mmpo_train.model.policy import quieten
from mmpo_train.tiny import model as tiny
from mmpo_train.tiny.rows import instruction_examples


def random_checkpoints(folder: Path) -> list[Path]:
    """Two models of tiny's architecture, without training, with tiny's tokenizer."""
    quieten()
    tokenizer = tiny.train_tokenizer(instruction_examples())
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        made.append(folder / f"checkpoint-{seed}")
        tiny.new_model(tokenizer).save_pretrained(made[-1])
        tokenizer.save_pretrained(made[-1])
    return made


def by_command_line(model: Path, tasks: list[str], definitions: Path, limit: int | None, output: Path) -> dict:
    """Task -> accuracy, as a fresh `lm_eval` process finds it."""
    on_gpu = torch.cuda.is_available()
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf"]
    command += ["--model_args", f"pretrained={model},dtype={'bfloat16' if on_gpu else 'float32'}"]
    command += ["--tasks", ",".join(tasks), "--include_path", str(definitions), "--num_fewshot", "0"]
    command += ["--apply_chat_template", "--log_samples", "--output_path", str(output)]
    # On CPU `auto` tries batches of the longest request for minutes; 64 is its own upper bound.
    command += ["--device", "cuda" if on_gpu else "cpu", "--batch_size", "auto" if on_gpu else "64"]
    command += ["--limit", str(limit)] if limit else []
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"{' '.join(command)}\n{run.stderr[-3000:]}")
    [results] = output.rglob("results_*.json")
    found = json.loads(results.read_text())["results"]
    return {task: found[task]["acc,none"] for task in tasks}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, action="append", help="a checkpoint folder; give at least two")
    parser.add_argument("--tasks", nargs="+", default=list(TINY_TASKS), help="by default tiny's own")
    parser.add_argument("--task-data", type=Path, help="a folder of local data, for tasks that are not tiny's")
    parser.add_argument("--limit", type=int, help="documents of each task; by default all")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    seconds: dict[str, list[float]] = {"warm": [], "command line": []}
    furthest = 0.0
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        checkpoints = options.model or random_checkpoints(place)
        harness = LMHarness(
            tasks=options.tasks, task_data=options.task_data, limit=options.limit, cache=place / "cache"
        )
        start = time.perf_counter()
        harness(str(checkpoints[-1]), artifacts=place / "cold")
        cold = time.perf_counter() - start
        [definitions] = (place / "cache" / "harness_tasks").iterdir()
        if harness.missing:
            sys.exit("\n".join(harness.missing.values()))
        for turn in range(options.rounds):
            for number, checkpoint in enumerate(checkpoints):
                start = time.perf_counter()
                ours = harness(str(checkpoint), artifacts=place / "warm")
                seconds["warm"].append(time.perf_counter() - start)
                output = place / f"output-{turn}-{number}"
                start = time.perf_counter()
                theirs = by_command_line(checkpoint, options.tasks, definitions, options.limit, output)
                seconds["command line"].append(time.perf_counter() - start)
                apart = [abs(ours[f"harness/{task}/acc"] - accuracy) for task, accuracy in theirs.items()]
                furthest = max(furthest, *apart)
    ratios = [theirs / ours for ours, theirs in zip(seconds["warm"], seconds["command line"], strict=True)]
    print(f"{', '.join(options.tasks)}; {len(checkpoints)} checkpoints, {options.rounds} rounds")
    print(f"{'first checkpoint':20}{cold:8.2f} s")
    for way, values in seconds.items():
        print(f"{way:20}{statistics.median(values):8.2f} s a checkpoint")
    print(f"warm is faster by {statistics.median(ratios):.1f}x; accuracies differ by at most {furthest:.4f}")


if __name__ == "__main__":
    main()

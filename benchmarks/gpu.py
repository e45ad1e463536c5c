"""What one GPU shows, in order of worth, within a time budget.

    python benchmarks/gpu.py                            eight minutes on this machine's GPU
    python benchmarks/gpu.py --only step-8B-lora flips  some parts
    python benchmarks/gpu.py --rehearse                 on a CPU, with shapes that fit it

Each part has a process and a time limit of its own, so that one that fails or hangs costs no other. Results are written
after each part: OUT/gpu.json, OUT/gpu.md, and each part's output in OUT/PART.log. A part that runs out of time keeps
what it had written.
"""

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Part:
    """One measurement."""

    seconds: float
    """The most it may take."""
    least: float
    """It is not begun with less time than this."""
    script: str
    """A file beside this one; it takes --json FILE and writes its figures there as it goes."""
    arguments: tuple[str, ...] = ()
    on_cpu: tuple[str, ...] = ()
    """Replace the arguments in a rehearsal."""


_FEW = ("--rounds", "1", "--steps-per-turn", "4", "--ladder-rounds", "0", "--pairs-per-step")
_SMALL = ("--model", "test", "--length-scale", "0.1", *_FEW, "4")
_RACE = ("--ways", "TRL, tuned", "TRL's defaults", "--pairs-per-pass")
PARTS = {
    "kernel": Part(60, 20, "gpu_parts.py", ("kernel",), ("kernel", "--small")),
    "trial": Part(150, 60, "gpu_parts.py", ("trial",), ("trial", "--small")),
    "step-135M": Part(150, 45, "step.py", ("--model", "135M", *_FEW, "128", *_RACE, "16"), (*_SMALL, *_RACE, "2")),
    "step-8B-lora": Part(
        150, 60, "step.py", ("--model", "8B-lora", *_FEW, "32", "--ways", "ours"), (*_SMALL, "--ways", "ours")
    ),
    "step-360M": Part(120, 45, "step.py", ("--model", "360M", *_FEW, "128", *_RACE, "16"), (*_SMALL, *_RACE, "2")),
    "step-1B": Part(150, 60, "step.py", ("--model", "1B", *_FEW, "64", *_RACE, "8"), (*_SMALL, *_RACE, "2")),
    "profile": Part(60, 30, "gpu_parts.py", ("profile",), ("profile", "--small")),
    "compile": Part(120, 50, "gpu_parts.py", ("compile",), ("compile", "--small")),
    "sharing": Part(240, 60, "gpu_parts.py", ("sharing",), ("sharing", "--small")),
    "flips": Part(240, 90, "flips.py", ("--workers", "1"), ("--workers", "1", "--quick")),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the parts while there is time."""
    given = _parsed(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * given.minutes
    results: dict[str, dict[str, Any]] = {}
    for name in given.only or PARTS:
        part, left = PARTS[name], end - time.monotonic()
        if left < part.least and not given.rehearse:
            results[name] = {"state": f"left out: {max(0.0, left):.0f} s were left, it takes at least {part.least:.0f}"}
        else:
            limit = 10 * part.seconds if given.rehearse else min(part.seconds, left)
            print(f"{name}: at most {limit:.0f} s", flush=True)
            results[name] = _run(name, part, limit, given)
        print(f"{name}: {results[name]['state']}", flush=True)
        _write(given.out, results)
    print((given.out / "gpu.md").read_text())


def _run(name: str, part: Part, limit: float, given: argparse.Namespace) -> dict[str, Any]:
    figures = given.out / f"{name}.json"
    figures.unlink(missing_ok=True)
    words = [sys.executable, str(HERE / part.script), *(part.on_cpu if given.rehearse else part.arguments)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])}
    if given.rehearse:
        environment |= {"CUDA_VISIBLE_DEVICES": ""}
    started = time.monotonic()
    with open(given.out / f"{name}.log", "w") as log:
        process = subprocess.Popen(
            [*words, "--json", str(figures)],
            cwd=HERE.parent,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=limit)
            state = "done" if code == 0 else f"failed with {code}, see {name}.log"
        except subprocess.TimeoutExpired:
            state = f"ended after its {limit:.0f} s"
        finally:
            # Its own children too: they would hold the device's memory.
            _end(process)
    seconds = round(time.monotonic() - started, 1)
    try:
        found = json.loads(figures.read_text()) if figures.is_file() else {}
    except ValueError:  # it was ended while it wrote
        found = {}
    return {"state": state, "seconds": seconds, "figures": found}


def _end(process: subprocess.Popen[bytes]) -> None:
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, how)
        except ProcessLookupError:
            break
        time.sleep(2)
    process.wait()


def _write(out: Path, results: dict[str, dict[str, Any]]) -> None:
    """The figures, and a page of them."""
    described = importlib.import_module("gpu_page").page(results)
    for name, text in (("gpu.json", json.dumps(results, indent=1) + "\n"), ("gpu.md", described)):
        (out / f".{name}").write_text(text)
        (out / f".{name}").replace(out / name)


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder for what is found")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="run these, in this order")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with small shapes and no budget")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()

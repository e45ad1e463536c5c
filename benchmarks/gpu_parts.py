"""Parts of `benchmarks/gpu.py` that have no script of their own: kernel, trial, profile, compile, sharing.

python benchmarks/gpu_parts.py kernel --json kernel.json
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from lengths import preference_table
from steps.machine import machine, now, versions
from steps.work import SHAPES, Job, OurStep, Shape, write_checkpoint

from mmpo_train.devices import keep_to_share, own_device
from mmpo_train.engines.passes import Passes
from mmpo_train.model.attention import Packing, _has_kernel, packed_attention, packing_of

Keep = Callable[[dict[str, Any]], None]


def kernel(keep: Keep, small: bool) -> None:
    """Attention of a packed row in bf16: how far from fp32, and milliseconds forward and backward."""
    device = own_device()
    found: dict[str, Any] = {"rows": []}
    for name in ("test",) if small else ("135M", "8B-lora"):
        shape = SHAPES[name]
        size = shape.width // shape.heads
        sequences = 4 if small else 32
        pieces = [length for _ in range(sequences) for length in ((30, 20, 10) if small else (250, 300, 250))]
        spans = [span for n in range(0, len(pieces), 3) for span in ((n, n + 2, 0, 0), (n + 2, n + 3, n, n + 1))]
        packing = packing_of(pieces, spans).to(device)
        torch.manual_seed(0)
        heads = (shape.heads, shape.kv_heads, shape.kv_heads)
        states = [torch.randn(1, count, sum(pieces), size, device=device, requires_grad=True) for count in heads]
        outs = []
        for dtype in (torch.float32, torch.bfloat16):
            given = [each.to(dtype) for each in states]
            outs.append(_forward_and_backward(given, packing))
            times = []
            for _ in range(5):
                started = now(device)
                _forward_and_backward(given, packing)
                times.append(1e3 * (now(device) - started))
        [exact, half] = outs
        off = float((half.float() - exact).norm() / exact.norm())
        row = {"shape": name, "tokens": sum(pieces), "kernel": _has_kernel(given[0]), "off fp32 (relative)": off}
        found["rows"].append(row | {"ms": statistics.median(times)})
        keep(found)


def _forward_and_backward(given: list[torch.Tensor], packing: Packing) -> torch.Tensor:
    attend: Any = packed_attention
    out, _ = attend(torch.nn.Module(), *given, None, packing, given[0].shape[-1] ** -0.5, otherwise=None)
    torch.autograd.grad(out.float().square().sum(), given)
    return out


def trial(keep: Keep, small: bool) -> None:
    """Stage 1 on `tiny` through Ray, DeepSpeed, the evaluator and MLflow, with one learning rate."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(os.environ.get("MMPO_CACHE") or "~/.cache/mmpo-sweeps").expanduser() / "made"
        ready = any(made.glob("tiny-*"))
        words = [sys.executable, "sweeps/stage1_lr.py", "--learning-rates", "5e-4", "--storage", folder]
        words += ["--set", "epochs=1"] if small else []
        started = time.monotonic()
        done = subprocess.run(words)  # what it says stands in this part's log
        seconds = time.monotonic() - started
        keep({"seconds": seconds, "tiny was ready": ready, "exit": done.returncode})
        done.check_returncode()
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
        ids = [one.experiment_id for one in client.search_experiments()]
        [run] = client.search_runs(ids, "tags.`trial.state` = 'finished' and tags.`ledger.kind` = 'trial'")
        wanted = ("validation/reward_accuracy", "train/tokens_per_second", "train/loss")
        metrics = {name: run.data.metrics.get(name) for name in wanted}
        told = {"precision": run.data.params["precision"], "hardware": run.data.tags["trial.hardware"]}
        keep({"seconds": seconds, "tiny was ready": ready, **told, **metrics})


def _our_step(folder: Path, small: bool, steps: int, pairs: int = 128) -> OurStep:
    return OurStep(_job(folder, SHAPES["test" if small else "135M"], small, steps, 4 if small else pairs))


def _job(folder: Path, shape: Shape, small: bool, steps: int, pairs: int) -> Job:
    device = own_device()
    if not folder.is_dir():
        write_checkpoint(shape, folder, device)
    return Job(
        shape=shape,
        folder=folder,
        table=preference_table(pairs * steps, shape.vocabulary, 0.1 if small else 1.0),
        pairs_per_step=pairs,
        learning_rate=1e-4,
        precision="bf16" if device.type == "cuda" else "fp32",
        passes=Passes("shared", 256 if small else 0),
        pairs_per_pass={},
    )


def profile(keep: Keep, small: bool) -> None:
    """Where a step's time goes: the share that kernels run, how many there are, and the ten that take most."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    with tempfile.TemporaryDirectory() as folder:
        ours = _our_step(Path(folder) / "checkpoint", small, 3)
        for _ in range(2):
            ours.step()
        on_gpu = ours.device.type == "cuda"
        started = now(ours.device)
        ours.step()
        plain = now(ours.device) - started
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
        with profiler(activities=activities) as measured:
            ours.step()
            now(ours.device)
        events = measured.key_averages()
        # An operator of the host is no kernel; on a CPU there are only these.
        of_device = [one for one in events if not on_gpu or "cuda" in str(one.device_type).lower()]
        took = {one.key: one.self_device_time_total if on_gpu else one.self_cpu_time_total for one in of_device}
        times = {one.key: (took[one.key], one.count) for one in of_device}
        busy = sum(time for time, _ in times.values()) / 1e6
        top = sorted(times.items(), key=lambda item: -item[1][0])[:10]
        rows = [
            {"kernel": name[:70].replace("|", "/"), "share": time / 1e6 / max(busy, 1e-9), "launches": count}
            for name, (time, count) in top
        ]
        whole = {"seconds": plain, "in kernels": busy / plain, "launches": sum(count for _, count in times.values())}
        keep(whole | {"tokens a pass": ours.passes.tokens, "rows": rows})


def compile(keep: Keep, small: bool) -> None:
    """A step with compiled layers and without. There are no CUDA graphs to compare: passes differ in their lengths."""
    with tempfile.TemporaryDirectory() as folder:
        ours = _our_step(Path(folder) / "checkpoint", small, 4)
        found: dict[str, Any] = {"rows": []}
        for wanted in (False, True):
            ours.engine.compile_layers(wanted)
            times, losses = [], []
            for _ in range(4):
                started = now(ours.device)
                losses.append(ours.accumulate(0, ours.passes))
                ours.engine.step(0.0)
                times.append(now(ours.device) - started)
            row = {"compiled": wanted, "first step s": times[0], "s per step": statistics.median(times[1:])}
            found["rows"].append(row | {"loss": losses[-1]})
            keep(found)


def sharing(keep: Keep, small: bool) -> None:
    """Six rates of one model at 1, 2, 3 and 6 a card: steps per second of all together, against one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        job = _job(Path(folder) / "checkpoint", SHAPES["test" if small else "135M"], small, 3, 4 if small else 32)
        found: dict[str, Any] = {"rows": []}
        context = get_context("spawn")
        for count in (1, 2) if small else (1, 2, 3, 6):
            ready, told = context.Barrier(count + 1), context.Queue()
            processes = [
                context.Process(target=_beside_others, args=(job, count, small, ready, told), daemon=True)
                for _ in range(count)
            ]
            for process in processes:
                process.start()
            ready.wait(timeout=120)
            results = [told.get(timeout=120) for _ in processes]
            for process in processes:
                process.join()
            rate = sum(steps / seconds for steps, seconds, *_ in results)
            row = {"trials at a time": count, "steps per second": rate, "tokens a pass": results[0][2]}
            row["against one"] = rate / found["rows"][0]["steps per second"] if found["rows"] else 1.0
            found["rows"].append(row | {"peak GB of all": sum(one[3] for one in results)})
            keep(found)


def _beside_others(job: Job, count: int, small: bool, ready: Any, told: Any) -> None:
    """Steps for some seconds, when all are ready; tells how many in how many seconds, its passes and its peak."""
    torch.set_num_threads(1)
    keep_to_share(1 / count)
    ours = OurStep(job)
    for _ in range(2):
        ours.step()
    ready.wait()
    started, steps = now(ours.device), 0
    while now(ours.device) - started < (1.0 if small else 7.0):
        ours.step()
        steps += 1
    peak = torch.cuda.max_memory_reserved() / 1e9 if ours.device.type == "cuda" else 0.0
    told.put((steps, now(ours.device) - started, ours.passes.tokens, peak))


def main() -> None:
    """Run one part."""
    parts = {one.__name__: one for one in (kernel, trial, profile, compile, sharing)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=parts)
    parser.add_argument("--json", type=Path, required=True, help="file for the figures")
    parser.add_argument("--small", action="store_true", help="shapes for a CPU")
    given = parser.parse_args()
    about = {"machine": machine(), "versions": str(versions())}

    def keep(figures: dict[str, Any]) -> None:
        given.json.write_text(json.dumps(about | figures, indent=1) + "\n")
        print(json.dumps(figures), flush=True)

    parts[given.part](keep, given.small)


if __name__ == "__main__":
    main()

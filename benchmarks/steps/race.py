"""The race: our step against TRL's, each way in a process of its own, with losses that must agree."""

import resource
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmpo_train.data.tokens import TokenTable
from steps.machine import now
from steps.work import Job, OurStep, flop_per_step, our_module, rows_of

OURS, TUNED, SORTED, DEFAULTS = "ours", "TRL, tuned", "TRL, tuned, sorted", "TRL's defaults"
WAYS = (OURS, TUNED, SORTED, DEFAULTS)
"""Sorted: tuned, and the pairs of each step in the order of their lengths, which spares padding."""

# Relative difference of losses, ours against theirs: sums in another order; bf16 has eight bits.
TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2}


def run_trl(job: Job, way: str, folder: Path, wait: Callable[[], None], report: Callable[[float], None]) -> None:
    """All steps of a job by TRL."""
    import trl_peer

    adapter: Any = None
    weights: dict[str, torch.Tensor] | None = None
    if job.shape.lora_rank:
        from peft import LoraConfig

        targets = list(job.shape.lora_targets)
        adapter = LoraConfig(r=job.shape.lora_rank, lora_alpha=64, target_modules=targets, task_type="CAUSAL_LM")
        drawn = our_module(job, torch.device("cpu")).model.named_parameters()
        weights = {name: weight.detach() for name, weight in drawn if weight.requires_grad}
    trl_peer.train(
        job.folder,
        folder,
        sorted_in_steps(job.table, job.pairs_per_step) if way == SORTED else job.table,
        wait=wait,
        report=report,
        tuned=way != DEFAULTS,
        pairs_per_step=job.pairs_per_step,
        learning_rate=job.learning_rate,
        beta=job.config.beta,
        bf16=job.precision == "bf16",
        pairs_per_pass=job.pairs_per_pass.get(way),
        adapter=adapter,
        adapter_weights=weights,
    )


def sorted_in_steps(table: TokenTable, pairs_per_step: int) -> TokenTable:
    """The same steps, in each of which the longest pair is first."""
    places = np.arange(len(table))
    order = places[np.lexsort((-table.longest, places // pairs_per_step))]
    return table.take(order, np.tile(np.arange(2), (len(table), 1)))


def fastest_pass(job: Job, way: str, candidates: Sequence[int], folder: Path, threads: int) -> dict[int, float]:
    """Seconds of a step by TRL's pairs per pass, the second step of two, on at most 16 pairs."""
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pairs = min(16, job.pairs_per_step)
    few = job.table.take(np.arange(2 * pairs), np.tile(np.arange(2), (2 * pairs, 1)))
    seconds: dict[int, float] = {}
    for size in candidates:
        if pairs % size == 0:
            small = replace(job, table=few, pairs_per_step=pairs, pairs_per_pass={way: size})
            times: list[float] = []
            run_trl(small, way, folder, lambda: None, lambda loss, times=times: times.append(now(device)))
            seconds[size] = times[1] - times[0]
    return seconds


class Worker:
    """A way in a process of its own: in one process, threads of one way would spin in another's way."""

    def __init__(self, job: Job, way: str, folder: Path) -> None:
        self.way = way
        self.connection, theirs = get_context("spawn").Pipe()
        arguments = theirs, job, way, folder, torch.get_num_threads()
        self.process = get_context("spawn").Process(target=_work, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    def ready(self) -> dict[str, float]:
        """What the way knows before its first step; wait for it once."""
        facts: dict[str, float] = self._receive()
        return facts

    def step(self) -> tuple[float, float, float]:
        """Seconds and loss of the next step, and the peak of memory so far in GB."""
        self.connection.send("go")
        *result, was_last = self._receive()
        if was_last:
            self.process.join()
        else:
            self.ready()
        return tuple(result)

    def _receive(self) -> Any:
        try:
            return self.connection.recv()
        except EOFError:
            sys.exit(f"{self.way} ended before its time; what it said stands above")


def _work(connection: Any, job: Job, way: str, folder: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    import trl_peer  # noqa: F401  (what modules take is not counted, whose ever they are)

    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    started, left, facts = 0.0, job.steps, {}

    def wait() -> None:
        nonlocal started
        connection.send(facts)
        connection.recv()
        started = now(device)

    def report(loss: float) -> None:
        nonlocal left
        seconds, left = now(device) - started, left - 1
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - resident
        peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else grown
        connection.send((seconds, loss, peak / 1e9, left == 0))

    if way != OURS:
        run_trl(job, way, folder, wait, report)
        return
    ours = OurStep(job)
    facts = ours.facts
    for _ in range(job.steps):
        wait()
        report(ours.step())


def race(job: Job, workers: Sequence[Worker], steps_per_turn: int) -> dict[str, list[tuple[float, float, float]]]:
    """What `Worker.step` gives for each way's steps, in turns of some steps. Exits where losses part."""
    results: dict[str, list[tuple[float, float, float]]] = {worker.way: [] for worker in workers}
    for turn in range(job.steps // steps_per_turn):
        first = turn % len(workers)
        for worker in [*workers[first:], *workers[:first]]:
            results[worker.way] += [worker.step() for _ in range(steps_per_turn)]
        for number in range(turn * steps_per_turn, (turn + 1) * steps_per_turn):
            losses = {way: steps[number][1] for way, steps in results.items()}
            refuse_different(losses, TOLERANCE[job.precision], f"step {number + 1}")
    return results


def one_by_one(
    job: Job, ways: Sequence[str], folder: Path, keep: Callable[[dict[str, float], dict[str, list[Any]]], Any]
) -> tuple[dict[str, float], dict[str, list[Any]]]:
    """Our facts, and what `race` gives: each way has the device for itself. Left out are those that break off, or have
    other losses than ours. `keep` gets what there is after each."""
    known: dict[str, float] = {}
    results: dict[str, list[Any]] = {}
    for way in ways:
        try:
            worker = Worker(job, way, folder)
            facts = worker.ready()
            steps = [worker.step() for _ in range(job.steps)]
            for number, (own, step) in enumerate(zip(results.get(OURS, steps), steps, strict=True), 1):
                refuse_different({OURS: own[1], way: step[1]}, TOLERANCE[job.precision], f"step {number}")
        except SystemExit as end:
            if way == OURS:
                raise
            print(end, flush=True)
            continue
        known, results[way] = known or facts, steps
        keep(known, results)
    return known, results


def refuse_different(losses: dict[str, float], tolerance: float, where: str) -> None:
    """Exit where the ways' losses are not the same."""
    [first, *others] = losses.items()
    for way, loss in others:
        if not abs(loss - first[1]) <= tolerance * abs(first[1]):
            sys.exit(
                f"{where}: the loss is {first[1]:.6f} ({first[0]}) and {loss:.6f} ({way}), more than {tolerance:g} "
                "apart: these ways do not compute the same step, so their times are not compared"
            )


def race_figures(
    job: Job,
    facts: dict[str, float],
    results: dict[str, list[tuple[float, float, float]]],
    peak: tuple[float, str],
    steps_per_turn: int,
) -> dict[str, Any]:
    """What is reported of the race, by way.

    The first step of each turn is left out of the times: while a process waits, the machine may take its memory and
    its caches, which costs it more the more it holds.
    """
    flop = flop_per_step(job.table, job.steps, job.shape, facts["trained"], facts["frozen"])
    tokens = rows_of(job.table).sum() / job.steps
    counted = {
        way: [step[0] for place, step in enumerate(steps) if place % steps_per_turn] for way, steps in results.items()
    }
    medians = {way: statistics.median(times) for way, times in counted.items()}
    losses = {way: [step[1] for step in steps] for way, steps in results.items()}
    ways = {
        way: {
            "seconds_per_step": median,
            "all_seconds": counted[way],
            "losses": losses[way],
            "pairs_per_second": job.pairs_per_step / median,
            "tokens_per_second": tokens / median,
            "mfu": flop / median / peak[0],
            "ratio": median / medians[OURS],
            "peak_gb": results[way][-1][2],
            "pairs_per_pass": job.pairs_per_pass.get(way),
        }
        for way, median in medians.items()
    }
    apart = [abs(loss - own) / abs(own) for way in losses for loss, own in zip(losses[way], losses[OURS], strict=True)]
    return {
        "ways": ways,
        "weights": facts["trained"] + facts["frozen"],
        "flop_per_step": flop,
        "peak_flop": peak[0],
        "peak_from": peak[1],
        "tokens_per_step": float(tokens),
        "store_seconds_per_step": facts["store_seconds"] / job.steps,
        "largest_loss_difference": max(apart),
    }


def print_race(figures: dict[str, Any]) -> None:
    """The race as a table."""
    print(f"\n{'':20}{'s/step':>9}{'pairs/s':>9}{'tokens/s':>10}{'MFU':>8}{'peak GB':>9}{'ours is faster by':>20}")
    for way, row in figures["ways"].items():
        print(
            f"{way:20}{row['seconds_per_step']:9.3f}{row['pairs_per_second']:9.2f}{row['tokens_per_second']:10.0f}"
            f"{row['mfu']:8.1%}{row['peak_gb']:9.2f}{row['ratio']:19.2f}x"
        )
    first, last = (figures["ways"][OURS]["losses"][place] for place in (0, -1))
    store, step = figures["store_seconds_per_step"], figures["ways"][OURS]["seconds_per_step"]
    print(
        f"losses {first:.4f} to {last:.4f}, at most {figures['largest_loss_difference']:.1e} apart (relative); "
        f"the reference store costs {store:.3f} s for a step's pairs, {store / step:.0%} of our step, once a sweep"
    )
    print(
        "MFU = (6 N a token, 4 N for frozen weights, N without the input embedding, + 6 t^2 x layers x width for a "
        f"completion and its prompt of t tokens) / seconds / {figures['peak_flop']:.3g} ({figures['peak_from']})"
    )

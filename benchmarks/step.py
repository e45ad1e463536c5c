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
import math
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lengths import preference_table

from mmpo_train.config import TrialConfig
from mmpo_train.data.tokens import TokenTable
from mmpo_train.devices import own_device
from mmpo_train.engines.passes import Passes
from mmpo_train.engines.torch_engine import TorchEngine
from mmpo_train.engines.trying import find_passes
from mmpo_train.model.batches import Layout
from mmpo_train.model.logps import CompletionLogps
from mmpo_train.model.policy import load_model, quieten
from mmpo_train.model.scoring import ScoredTable, score_pairs
from mmpo_train.objectives import build_objective
from mmpo_train.trial.preferences import accumulate

ALL_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A Llama's."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    tied: bool = True
    """Whether input embedding and output projection are one matrix."""
    lora_rank: int = 0
    lora_targets: tuple[str, ...] = ()


SHAPES = {
    "test": Shape(width=32, layers=2, heads=2, kv_heads=1, intermediate=64, vocabulary=128),
    "tiny-cpu": Shape(width=384, layers=6, heads=6, kv_heads=3, intermediate=1536, vocabulary=8192),
    # SmolLM2-135M and 360M, Llama-3.2-1B, Llama-3-8B
    "135M": Shape(width=576, layers=30, heads=9, kv_heads=3, intermediate=1536, vocabulary=49152),
    "360M": Shape(width=960, layers=32, heads=15, kv_heads=5, intermediate=2560, vocabulary=49152),
    "1B": Shape(
        width=2048,
        layers=16,
        heads=32,
        kv_heads=8,
        intermediate=8192,
        vocabulary=128256,
        lora_rank=64,
        lora_targets=ALL_PROJECTIONS,
    ),
    "8B-lora": Shape(
        width=4096,
        layers=32,
        heads=32,
        kv_heads=8,
        intermediate=14336,
        vocabulary=128256,
        tied=False,
        lora_rank=64,
        lora_targets=ALL_PROJECTIONS[:4],
    ),
}
OURS, TUNED, SORTED, DEFAULTS = "ours", "TRL, tuned", "TRL, tuned, sorted", "TRL's defaults"
WAYS = (OURS, TUNED, SORTED, DEFAULTS)
"""Sorted: tuned, and the pairs of each step in the order of their lengths, which spares padding."""

# Relative difference of losses, ours against theirs: sums in another order; bf16 has eight bits.
TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2}
# Dense bf16 FLOP/s as the makers state them; what is not listed is measured.
_PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12}


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all ways are to do."""

    shape: Shape
    folder: Path
    """The checkpoint."""
    table: TokenTable
    """Pairs in their order, as many as fill all steps."""
    pairs_per_step: int
    learning_rate: float
    precision: str
    passes: Passes
    """Our own; with 0 tokens as a trial finds them by trying."""
    pairs_per_pass: dict[str, int]
    """TRL's, by way."""

    @property
    def config(self) -> TrialConfig:
        """The same as one of our trials."""
        return TrialConfig(
            objective="dpo",
            learning_rate=self.learning_rate,
            precision=self.precision,
            pairs_per_step=self.pairs_per_step,
            lora_rank=self.shape.lora_rank,
            lora_alpha=64,
            lora_dropout=0.0,
            lora_targets=self.shape.lora_targets or ALL_PROJECTIONS,
            compile="false",
        )

    @property
    def steps(self) -> int:
        return len(self.table) // self.pairs_per_step

    def pairs_of(self, step: int) -> np.ndarray:
        """The places of a step's pairs (from 0)."""
        return np.arange(step * self.pairs_per_step, (step + 1) * self.pairs_per_step)


def write_checkpoint(shape: Shape, folder: Path, device: torch.device) -> None:
    """A Llama of that shape without training, in the precision in which it will be trained."""
    quieten()
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=4096,
        attention_dropout=0.0,
    )
    torch.manual_seed(0)
    # An 8B model in fp32 is 32 GB on the disk.
    with torch.device(device):
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.save_pretrained(folder)
    del model
    if device.type == "cuda":
        torch.cuda.empty_cache()  # else this process would keep what the others need


def our_module(job: Job, device: torch.device, *, trained: bool = True) -> CompletionLogps:
    """The checkpoint as a trial loads it, or as the reference store does."""
    if trained:
        return CompletionLogps(load_model(job.folder, config=job.config, device=device))
    return CompletionLogps(load_model(job.folder, precision=job.precision, device=device).requires_grad_(False))


class OurStep:
    """Our engine with the reference store of a job's pairs: one optimiser step at each call of `step`."""

    def __init__(self, job: Job) -> None:
        self.job, self.config, self.objective = job, job.config, build_objective(job.config)
        self.device = own_device()
        self.engine = TorchEngine(our_module(job, self.device), self.config)
        self.passes = job.passes if job.passes.tokens else find_passes(self.config, self.engine, job.table)
        self.done = 0
        # The first calls of a process are slow.
        tokens, layout = self.passes.tokens, self.passes.layout
        score_pairs(self.engine.logps, job.table, job.pairs_of(0)[:4], tokens, layout=layout)
        started = now(self.device)
        # An untrained policy is the reference.
        ref_logps = score_pairs(self.engine.logps, job.table, range(len(job.table)), tokens, layout=layout)
        self.store_seconds = now(self.device) - started
        self.scored = ScoredTable(job.table, ref_logps)

    def step(self) -> float:
        """The next step; returns its loss."""
        loss = self.accumulate(self.done % self.job.steps, self.passes)
        self.engine.step(self.config.learning_rate)
        self.done += 1
        return loss

    def accumulate(self, number: int, passes: Passes, reference: Callable[..., torch.Tensor] | None = None) -> float:
        """Gradient of a step (from 0); `reference` scores its pairs anew."""
        rows = self.job.pairs_of(number)
        step = self.scored.take(rows, np.tile(np.arange(2), (len(rows), 1)))
        if reference is not None:
            everything = range(len(rows))
            ref_logps = score_pairs(reference, step.table, everything, passes.tokens, layout=passes.layout)
            step = ScoredTable(step.table, ref_logps)
        constants = np.zeros_like(step.ref_logps)
        sums = accumulate(self.engine, self.objective, step, constants, 0.0, passes)
        return sums["loss"] / len(rows)

    @property
    def facts(self) -> dict[str, float]:
        """What is known before the first step: the store's seconds, how many weights there are, the size of passes and
        the peak of memory on the host while it started, in GB."""
        counts = {True: 0, False: 0}
        for weight in self.engine.module.parameters():
            counts[weight.requires_grad] += weight.numel()
        known = {"store_seconds": self.store_seconds, "trained": counts[True], "frozen": counts[False]}
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        return known | {"tokens_per_pass": self.passes.tokens, "host_peak_gb": host}


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


def now(device: torch.device) -> float:
    """Seconds, when the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


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


def own_passes(job: Job, threads: int) -> Passes:
    """Ours, found by trying."""
    torch.set_num_threads(threads)
    return find_passes(job.config, TorchEngine(our_module(job, own_device()), job.config), job.table)


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


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One of our own ways, with all measures so far."""

    name: str
    layout: Layout
    tokens: int
    """Budget of a pass."""
    stored_reference: bool = True
    one_projection: bool = False
    compiled: bool = False


def ladder(small: int, large: int, on_gpu: bool) -> list[Rung]:
    """Each measure on top of those before it."""
    rungs = [
        Rung(name="padded rows", layout="padded", tokens=small, one_projection=True, stored_reference=False),
        Rung(name="+ stored reference", layout="padded", tokens=small, one_projection=True),
        Rung(name="+ packed", layout="packed", tokens=small, one_projection=True),
        Rung(name="+ shared prompts", layout="shared", tokens=small, one_projection=True),
        Rung(name="+ projection in chunks", layout="shared", tokens=small),
        Rung(name=f"+ {large} tokens a pass", layout="shared", tokens=large),
    ]
    return [*rungs, Rung(name="+ compiled", layout="shared", tokens=large, compiled=True)] if on_gpu else rungs


def climb(ours: OurStep, rungs: Sequence[Rung], rounds: int) -> dict[str, list[float]]:
    """Seconds of each rung's steps, on one model that stays as it is: the rate is 0. Exits where losses part."""
    engine, module, job = ours.engine, ours.engine.module, ours.job
    whole = CompletionLogps(module.model, one_projection=True)
    frozen = our_module(job, ours.device, trained=False)

    def reference(one: Any) -> torch.Tensor:
        return frozen(one.to(ours.device))

    seconds: dict[str, list[float]] = {rung.name: [] for rung in rungs}
    # At the start policy and reference are the same, and every loss is log 2.
    for _ in range(2):
        ours.step()
    # The first round warms up and is not counted.
    for number in range(rounds + 1):
        losses = {}
        for rung in rungs:
            engine.module = whole if rung.one_projection else module
            module.compile_layers(rung.compiled)
            passes = Passes(rung.layout, rung.tokens)
            started = now(ours.device)
            losses[rung.name] = ours.accumulate(
                number % job.steps, passes, None if rung.stored_reference else reference
            )
            engine.step(0.0)
            seconds[rung.name].append(now(ours.device) - started)
        refuse_different(losses, TOLERANCE[job.precision], f"step {number + 1} of the ladder")
    engine.module = module
    module.compile_layers(False)
    return {name: values[1:] for name, values in seconds.items()}


def flop_per_step(table: TokenTable, steps: int, shape: Shape, trained: float, frozen: float) -> float:
    """FLOP that a step needs at least, each completion with its prompt: what padding, recomputation, reference and
    shared prompts cost or spare is not in it.

    A token costs 6 for each trained weight and 4 for each frozen one (forward, and backward to the inputs alone), the
    input embedding left out; causal attention over t tokens 6 t^2 x layers x width, forward and backward.
    """
    looked_up = 0 if shape.tied else shape.vocabulary * shape.width
    of_a_token = 6 * trained + 4 * frozen - (4 if shape.lora_rank else 6) * looked_up
    rows = rows_of(table)
    attention = 6 * float((rows.astype(np.float64) ** 2).sum()) * shape.layers * shape.width
    return (float(rows.sum()) * of_a_token + attention) / steps


def rows_of(table: TokenTable) -> np.ndarray:
    """Tokens of each completion with its prompt, shape (N, 2)."""
    return table.completion_tokens + np.array([len(prompt) for prompt in table.prompts])[:, None]


def peak_flop(device: torch.device) -> tuple[float, str]:
    """FLOP per second of the device's products of matrices, and where that is from."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name()
        for known, flop in _PEAK.items():
            if known in name:
                return flop, f"{known}, dense bf16, as stated by its maker"
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (2048, torch.float32)
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(6):
        started = now(device)
        torch.mm(left, right)
        seconds.append(now(device) - started)
    best = min(seconds)
    return 2 * size**3 / best, f"measured: a product of {size} x {size} matrices"


def machine() -> str:
    """What this runs on, in words."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.split(":", 1)[1].strip()
                break
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    return f"{gpu}{processor}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


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


def versions() -> dict[str, str]:
    """The versions of the libraries that are compared."""
    return {name: version(name) for name in ("torch", "transformers", "trl")}


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


def print_ladder(ladder_seconds: dict[str, list[float]]) -> None:
    """The ladder as a table."""
    print(f"\n{'our step, measure by measure':32}{'s/step':>9}{'factor':>9}{'so far':>9}")
    medians = {name: statistics.median(values) for name, values in ladder_seconds.items()}
    start = before = math.nan
    for name, median in medians.items():
        start = median if math.isnan(start) else start
        factor = f"{before / median:8.2f}x" if not math.isnan(before) else f"{'':9}"
        print(f"{name:32}{median:9.3f}{factor}{start / median:8.2f}x")
        before = median


if __name__ == "__main__":
    main()

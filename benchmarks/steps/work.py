"""A step's work: a random Llama, pairs in their order, and our own engine on them."""

import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mmpo_train.config import TrialConfig
from mmpo_train.data.tokens import TokenTable
from mmpo_train.devices import own_device
from mmpo_train.engines.passes import Passes
from mmpo_train.engines.torch_engine import TorchEngine
from mmpo_train.engines.trying import find_passes
from mmpo_train.model.logps import CompletionLogps
from mmpo_train.model.policy import load_model, quieten
from mmpo_train.model.scoring import ScoredTable, score_pairs
from mmpo_train.objectives import build_objective
from mmpo_train.trial.preferences import accumulate
from steps.machine import now

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


def own_passes(job: Job, threads: int) -> Passes:
    """Ours, found by trying."""
    torch.set_num_threads(threads)
    return find_passes(job.config, TorchEngine(our_module(job, own_device()), job.config), job.table)


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

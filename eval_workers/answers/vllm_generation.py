"""Answers by vLLM, if it is installed, with `load` and `run` as in `generation.Generator`.

The door to vllm. Written from its documentation and not yet run on a GPU: the API reference of LLM, SamplingParams,
TokensPrompt, CompletionOutput and LoRARequest, and the pages Engine Arguments, LoRA Adapters and Reproducibility.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from eval_workers.answers.sampling import Answer, Task, all_ends, check_fits
from mmpo_train.errors import InputError
from mmpo_train.model.folders import base_of, json_of, local_folder, require_weights

GPU_MEMORY_UTILIZATION = 0.5
TASKS_PER_CALL = 2048

_MAX_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # engines take few others
_LENGTH_STEP = 1024

# Two engines need not fit into the GPU at a time, and several evaluations may share this process.
_running: list[VllmGenerator] = []


class VllmGenerator:
    """Answers prompts with a vLLM engine, which is started with the first prompts.

    Every answer has its own seed, made from `Task.stream`. The same seed gives the same answer up to the rounding of
    logits, which depends on the batch (on the same hardware and version; VLLM_BATCH_INVARIANT=1 removes the dependence,
    see Reproducibility). The answers have the same distribution as those of `Generator` but are not the same, so saved
    answers must tell them apart. Unlike there, logits that are not numbers go unnoticed.

    An engine is kept while only the LoRA adapters change from folder to folder. Other weights need a new engine.
    """

    def __init__(self) -> None:
        self.ends: frozenset[int] = frozenset()
        self._wanted: _Model | None = None
        self._started: _Model | None = None
        self._engine: Any = None
        self._engine_tokens = 0
        self._adapter: tuple[str, ...] = ()
        self._adapters = 0

    def load(self, folder: Path, end_ids: Iterable[int], *, precision: str) -> None:
        """From now on answer with this folder's model or LoRA adapters, in "bf16" or "fp32".

        An answer ends with one of `end_ids` (see `rendering.end_ids_of`) or of the model's own generation_config.json.
        Raises InputError for a folder that vLLM cannot use. Does not start an engine yet.
        """
        adapter = json_of(folder / "adapter_config.json")
        base = local_folder(base_of(folder)) if adapter else folder
        if strays := {*base.glob("*.safetensors")} - {*require_weights(base)}:
            raise InputError(
                f"vllm would read {', '.join(sorted(path.name for path in strays))} in {base} too, which is no part of "
                "the model; move it away, or give generator own"
            )
        self._wanted = _Model(base, precision, _lora_rank(folder, adapter, precision), _files(base))
        changed = (str(folder), *_files(folder)) if adapter else ()
        if changed != self._adapter:
            # vLLM keeps adapters, and what they computed of shared prompts, by name and number: neither comes twice.
            self._adapter, self._adapters = changed, self._adapters + 1
        own = json_of(base / "generation_config.json") or json_of(base / "config.json")
        self.ends = all_ends(end_ids, own.get("eos_token_id"))

    def run(self, batches: Sequence[Sequence[Task]]) -> Iterator[dict[Task, Answer]]:
        """Yields the answers as they are ready, TASKS_PER_CALL at a time; vLLM makes its own batches of them.

        Raises InputError before the first answer if a prompt is empty or does not fit in the model's positions, if vLLM
        does not allow the temperature, or if the engine does not start.
        """
        tasks = [task for batch in batches for task in batch]
        self._check(tasks)
        for first in range(0, len(tasks), TASKS_PER_CALL):
            # Each time: another generator of this process may have had the memory in between.
            self._start(max(task.most_tokens for task in tasks))
            some = tasks[first : first + TASKS_PER_CALL]
            yield dict(zip(some, self._answer(some), strict=True))

    def free(self) -> None:
        """Free the GPU's memory. The next answers start a new engine."""
        if self._engine is not None:
            # The engine's memory is that of another process, which a mere `del` leaves to the garbage collector.
            self._engine.llm_engine.engine_core.shutdown()
            self._engine = self._started = None
            _running.remove(self)

    def _check(self, tasks: Sequence[Task]) -> None:
        assert self._wanted is not None  # a folder was loaded
        check_fits(tasks, self._positions(), self._wanted.folder)
        for temperature in {task.sampling.temperature for task in tasks} - {0}:
            if not 0.01 <= temperature <= 2:
                raise InputError(f"temperature is {temperature}, but vllm takes 0 or 0.01 to 2; give generator own")

    def _positions(self) -> float:
        assert self._wanted is not None  # a folder was loaded
        config = json_of(self._wanted.folder / "config.json")
        return config.get("text_config", config).get("max_position_embeddings") or math.inf

    def _start(self, most_tokens: int) -> None:
        """Start an engine for the wanted model, unless the present one serves it and has room for `most_tokens`."""
        if self._engine is not None and self._started == self._wanted and most_tokens <= self._engine_tokens:
            return
        for other in list(_running):
            other.free()
        assert self._wanted is not None  # a folder was loaded
        from vllm import LLM

        folder, precision, rank, _ = self._wanted
        # A cache for all positions of a long model may not fit; in steps, so that few later calls need another engine.
        self._engine_tokens = int(min(self._positions(), math.ceil(most_tokens / _LENGTH_STEP) * _LENGTH_STEP))
        lora: dict[str, Any] = {"enable_lora": True, "max_lora_rank": rank} if rank else {}
        try:
            self._engine = LLM(
                model=str(folder),
                dtype={"bf16": "bfloat16", "fp32": "float32"}[precision],
                load_format="safetensors",
                trust_remote_code=False,
                generation_config="vllm",  # takes nothing from the model's; its end tokens are given with each task
                max_model_len=self._engine_tokens,
                gpu_memory_utilization=GPU_MEMORY_UTILIZATION,
                enable_prefix_caching=True,  # several answers to a prompt read it once
                **lora,
            )
        except (ValueError, RuntimeError) as error:
            raise InputError(
                f"vllm could not start with the model in {folder} ({error}); it wants {GPU_MEMORY_UTILIZATION:.0%}"
                " of the GPU's memory: free some, or give generator own"
            ) from error
        self._started = self._wanted
        _running.append(self)

    def _answer(self, tasks: Sequence[Task]) -> list[Answer]:
        from vllm.inputs import TokensPrompt
        from vllm.lora.request import LoRARequest

        request = None
        if self._adapter:
            request = LoRARequest(f"adapter-{self._adapters}", self._adapters, self._adapter[0])
        outputs = self._engine.generate(
            [TokensPrompt(prompt_token_ids=list(task.prompt)) for task in tasks],
            [self._sampling_params(task) for task in tasks],
            use_tqdm=False,
            lora_request=request,
        )
        return [self._answer_of(output.outputs[0]) for output in outputs]

    def _sampling_params(self, task: Task) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            temperature=task.sampling.temperature,
            top_p=task.sampling.top_p,
            max_tokens=task.sampling.max_new_tokens,
            seed=int(task.stream, 16) % 2**63,  # an int64 there
            stop_token_ids=sorted(self.ends),
            detokenize=False,
        )

    def _answer_of(self, completion: Any) -> Answer:
        """The answer of a completion, whose ids include the end token (vLLM's text does not)."""
        ids = [int(token) for token in completion.token_ids]
        finished = bool(ids) and ids[-1] in self.ends
        if not (finished or (ids and completion.finish_reason == "length")):
            raise RuntimeError(
                f"vllm ended an answer with {ids[-1:]} and finish_reason {completion.finish_reason!r}, expected one of "
                f"{sorted(self.ends)} or 'length'; look at its log, or give generator own"
            )
        return Answer(ids, finished)


def what_vllm_lacks() -> str:
    """Why vLLM cannot run here and what to do; empty if it can."""
    if importlib.util.find_spec("vllm") is None:
        return "vllm is not installed here: run `pip install vllm` in this environment, or give generator own"
    if not torch.cuda.is_available():
        return "vllm needs a CUDA GPU but none is visible: check CUDA_VISIBLE_DEVICES, or give generator own"
    return ""


class _Model(NamedTuple):
    """The settings with which an engine is started."""

    folder: Path
    """Folder of the full weights."""
    precision: str
    max_lora_rank: int
    """Largest rank of LoRA adapters; 0 for an engine without LoRA."""
    files: tuple[str, ...]


def _lora_rank(folder: Path, adapter: dict[str, Any], precision: str) -> int:
    """The smallest rank of vLLM's that fits the adapters; 0 without adapters."""
    if not adapter:
        return 0
    if precision != "bf16":
        raise InputError(
            f"vllm computes LoRA adapters in bf16 only, but {folder} is wanted in {precision}; "
            "give precision bf16 or generator own"
        )
    ranks = [rank for rank in _MAX_LORA_RANKS if rank >= adapter["r"]]
    if not ranks:
        raise InputError(
            f"the adapters in {folder} have rank {adapter['r']}, but vllm takes at most {_MAX_LORA_RANKS[-1]}; "
            "give generator own"
        )
    return ranks[0]


def _files(folder: Path) -> tuple[str, ...]:
    """Names, sizes and times of weights and configuration, which change with the model."""
    stats = ((path.name, path.stat()) for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")]))
    return tuple(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)

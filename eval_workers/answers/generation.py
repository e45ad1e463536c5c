"""Sampled answers to prompts from any model folder: token ids in, token ids out."""

import json
import math
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from eval_workers.answers.sampling import (
    Answer,
    Sampling,
    Task,
    all_ends,
    check_fits,
    draw,
    padded_tokens,
    plan,
    tasks_of,
)
from eval_workers.warm_model import WarmModel
from mmpo_train.config import digest_of
from mmpo_train.errors import InputError
from mmpo_train.storage.mirror import fetch_file, publish_file

TOKENS_PER_BATCH = 65_536
_SECONDS_UNPUBLISHED = 120.0


class Generator:
    """Answers prompts with a model, which is kept from one folder to the next. Another way of generating, such as vLLM,
    is another class with `load` and `run`."""

    def __init__(self) -> None:
        self.warm = WarmModel()
        self.folder = Path()
        self.ends: frozenset[int] = frozenset()

    def load(self, folder: Path, end_ids: Iterable[int], *, precision: str) -> None:
        """From now on answer with this folder's model or LoRA adapters, in "bf16" or "fp32". An answer ends with one of
        `end_ids` (see `rendering.end_ids_of`) or of the model's own generation_config.json."""
        model = self.warm.load(folder, precision)
        self.folder, self.ends = folder, all_ends(end_ids, model.generation_config.eos_token_id)

    def run(self, batches: Sequence[Sequence[Task]]) -> Iterator[dict[Task, Answer]]:
        """Yields the batches' answers as they are ready. If a batch does not fit in memory, it and the next are halved.
        Raises InputError before the first answer if a prompt is empty or does not fit in the model's positions."""
        positions = getattr(self.warm.model.config, "max_position_embeddings", None) or math.inf
        check_fits([task for batch in batches for task in batch], positions, self.folder)
        waiting, limit = deque(batches), math.inf
        while waiting:
            batch = waiting.popleft()
            if len(batch) > 1 and padded_tokens(batch) > limit:
                middle = (len(batch) + 1) // 2
                waiting.extendleft((batch[middle:], batch[:middle]))
                continue
            try:
                answers = self._answer(batch)
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                answers = None
            if answers is None:  # outside the except clause: what the traceback held is free now
                if self.warm.device.type == "cuda":
                    torch.cuda.empty_cache()
                limit = padded_tokens(batch[: (len(batch) + 1) // 2])
                waiting.appendleft(batch)
            else:
                yield dict(zip(batch, answers, strict=True))

    @torch.inference_mode()
    def _answer(self, tasks: Sequence[Task]) -> list[Answer]:
        """The tasks' answers. Each prompt is read once for all its answers; a finished row leaves the batch."""
        model, device = self.warm.model, self.warm.device
        prompts = {prompt: place for place, prompt in enumerate(dict.fromkeys(task.prompt for task in tasks))}
        input_ids, mask = (tensor.to(device) for tensor in _left_padded(list(prompts)))
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        output = model(
            input_ids=input_ids, attention_mask=mask, position_ids=positions, use_cache=True, logits_to_keep=1
        )
        if output.logits.isnan().any():
            raise InputError(f"the model in {self.folder} gives logits that are not numbers; its training diverged")
        of_task = torch.tensor([prompts[task.prompt] for task in tasks], device=device)
        cache, logits = output.past_key_values, output.logits[of_task, -1]
        cache.batch_select_indices(of_task)
        rows = _rows(tasks, mask[of_task])
        ids: list[list[int]] = [[] for _ in tasks]
        there = list(range(len(tasks)))
        while True:
            step = len(ids[there[0]])
            tokens = draw(logits, rows.temperature, rows.top_p, rows.uniforms[:, step])
            for task, token in zip(there, tokens.tolist(), strict=True):
                ids[task].append(token)
            so_far = ((ids[task], tasks[task].sampling.max_new_tokens) for task in there)
            goes_on = [one[-1] not in self.ends and len(one) < most for one, most in so_far]
            if not any(goes_on):
                return [Answer(one, one[-1] in self.ends) for one in ids]
            if not all(goes_on):
                kept = torch.tensor([row for row, on in enumerate(goes_on) if on], device=device)
                there = [there[row] for row in kept.tolist()]
                cache.batch_select_indices(kept)
                tokens, rows = tokens[kept], _Rows(*(tensor[kept] for tensor in rows))
            rows = rows._replace(mask=torch.cat([rows.mask, rows.mask.new_ones(len(there), 1)], dim=1))
            logits = model(
                input_ids=tokens[:, None],
                attention_mask=rows.mask,
                position_ids=rows.mask.sum(1, keepdim=True) - 1,
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]


def generate_to(
    path: Path,
    generator: Generator,
    model_fingerprint: str,
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[Sampling],
) -> list[list[Answer]]:
    """One answer per prompt and sampling; prompts are rendered, with the generation prompt.

    The same model, prompts and samplings give the same answers in any order and any batch, up to the rounding of the
    model's logits. Each batch is saved to `path`; answers found there are not generated again.

    Lines are {key, ids, finished}; the key contains `model_fingerprint`. A batch that is saved only in part is
    generated again as a whole, so that a resumed run gives the same bits as an undisturbed one. One writer at a time.
    With an object store the file is uploaded from time to time and at the end, and downloaded if it is missing here.
    """
    wanted = tasks_of(prompts, samplings)
    batches = plan((task for row in wanted for task in row), TOKENS_PER_BATCH)
    keys = {
        task: digest_of([model_fingerprint, task.stream, task.sampling.max_new_tokens])
        for batch in batches
        for task in batch
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    fetch_file(path)
    found = _whole_lines(path)
    published = time.monotonic()
    with open(path, "a") as stream:
        for batch in generator.run([some for some in batches if any(keys[task] not in found for task in some)]):
            fresh = {keys[task]: answer for task, answer in batch.items() if keys[task] not in found}
            stream.writelines(json.dumps({"key": key, **answer._asdict()}) + "\n" for key, answer in fresh.items())
            stream.flush()
            os.fsync(stream.fileno())
            found |= fresh
            if time.monotonic() - published > _SECONDS_UNPUBLISHED:
                publish_file(path)
                published = time.monotonic()
    publish_file(path)
    return [[found[keys[task]] for task in row] for row in wanted]


def _whole_lines(path: Path) -> dict[str, Answer]:
    """Key -> answer; the file is cut before its first incomplete line."""
    answers: dict[str, Answer] = {}
    if not path.is_file():
        return answers
    with open(path, "rb+") as stream:
        whole = 0
        for line in stream:
            if not line.endswith(b"\n"):
                break
            try:
                one = json.loads(line)
                answers[one["key"]] = Answer(one["ids"], one["finished"])
            except (ValueError, KeyError, TypeError):
                break
            whole += len(line)
        stream.truncate(whole)
    return answers


class _Rows(NamedTuple):
    """The state of each row of a batch."""

    mask: Tensor
    temperature: Tensor
    top_p: Tensor
    uniforms: Tensor


def _rows(tasks: Sequence[Task], mask: Tensor) -> _Rows:
    uniforms = np.zeros((len(tasks), max(task.sampling.max_new_tokens for task in tasks)))
    for row, task in enumerate(tasks):
        uniforms[row, : task.sampling.max_new_tokens] = task.uniforms()
    settings = torch.tensor([[task.sampling.temperature, task.sampling.top_p] for task in tasks], device=mask.device)
    return _Rows(mask, settings[:, 0], settings[:, 1], torch.from_numpy(uniforms).to(mask.device))


def _left_padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids and mask, each (N, L). Masked positions hold token 0, since a tokenizer may have no padding token."""
    width = max(map(len, prompts))
    input_ids, mask = np.zeros((2, len(prompts), width), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        input_ids[row, width - len(prompt) :], mask[row, width - len(prompt) :] = prompt, 1
    return torch.from_numpy(input_ids), torch.from_numpy(mask)

"""TRL's DPOTrainer on our token ids, held up between its optimiser steps.

The trainer is TRL's own and so is its loop. A step is all that lies between the end of the last one and its own:
batches, passes, clipping, optimiser.
"""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")
import datasets
import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer

from mmpo_train.data.tokens import TokenTable
from mmpo_train.model.policy import quieten

quieten()
datasets.disable_progress_bars()
# TRL calls transformers by names that are going, and asks for pinned memory where there is no GPU.
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
warnings.filterwarnings("ignore", message="'pin_memory' argument is set as true")


def train(
    model_folder: Path,
    output: Path,
    table: TokenTable,
    *,
    wait: Callable[[], None],
    report: Callable[[float], None],
    tuned: bool,
    pairs_per_step: int,
    learning_rate: float,
    beta: float,
    bf16: bool,
    pairs_per_pass: int | None = None,
    adapter: Any = None,
    adapter_weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Train on the table's pairs in their order; `wait` before each step, `report` its loss after it.

    `tuned` has TRL's own store of reference log-probabilities and no gradient checkpointing. Without `pairs_per_pass`
    TRL's own default; fewer where a step has not so many. `adapter` is peft's configuration, and `adapter_weights`
    what its adapter starts with.
    """
    size = min(pairs_per_pass or DPOConfig.per_device_train_batch_size, pairs_per_step)
    if pairs_per_step % size:
        raise SystemExit(
            f"{pairs_per_step} pairs a step are no multiple of {size} a pass; give another --pairs-per-step"
        )
    tuning = {"gradient_checkpointing": False, "precompute_ref_log_probs": True} if tuned else {}
    # A frozen base in bf16, as is usual with LoRA and as our side has it; else TRL's default, fp32 under autocast.
    dtype = {"model_init_kwargs": {"dtype": "bfloat16"}} if adapter is not None and bf16 else {}
    config = DPOConfig(
        output_dir=str(output),
        per_device_train_batch_size=size,
        gradient_accumulation_steps=pairs_per_step // size,
        max_steps=len(table) // pairs_per_step,
        train_sampling_strategy="sequential",
        max_length=None,
        beta=beta,
        learning_rate=learning_rate,
        lr_scheduler_type="constant",
        bf16=bf16,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        **tuning,
        **dtype,
    )
    trainer = _Pretokenised(
        str(model_folder),
        args=config,
        train_dataset=_dataset(table),
        processing_class=_tokenizer(),
        peft_config=adapter,
        callbacks=[_Turns(wait, lambda: report(trainer.taken_loss()))],
    )
    trainer.remove_callback(PrinterCallback)
    if adapter_weights is not None:
        unknown = trainer.model.load_state_dict(adapter_weights, strict=False).unexpected_keys
        assert not unknown, unknown
    trainer.train()


def train_trial(
    model_folder: Path,
    output: Path,
    train_table: TokenTable,
    validation_table: TokenTable,
    *,
    tuned: bool,
    epochs: int,
    pairs_per_step: int,
    learning_rate: float,
    beta: float,
    bf16: bool,
) -> None:
    """A trial as a stage has it: cosine with warm-up, each epoch evaluated on the validation pairs and saved."""
    size = min(DPOConfig.per_device_train_batch_size, pairs_per_step)
    tuning = {"gradient_checkpointing": False, "precompute_ref_log_probs": True} if tuned else {}
    config = DPOConfig(
        output_dir=str(output),
        per_device_train_batch_size=size,
        per_device_eval_batch_size=size,
        gradient_accumulation_steps=pairs_per_step // size,
        num_train_epochs=epochs,
        max_length=None,
        beta=beta,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        bf16=bf16,
        report_to="none",
        eval_strategy="epoch",
        save_strategy="epoch",
        disable_tqdm=True,
        **tuning,
    )
    _Pretokenised(
        str(model_folder),
        args=config,
        train_dataset=_dataset(train_table),
        eval_dataset=_dataset(validation_table),
        processing_class=_tokenizer(),
    ).train()


class _Turns(TrainerCallback):
    """Calls that stand between the steps of a trainer: batches are fetched after `wait`."""

    def __init__(self, wait: Callable[[], None], done: Callable[[], None]) -> None:
        self.wait, self.done = wait, done

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.wait()

    def on_step_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        self.done()
        if state.global_step < args.max_steps:
            self.wait()


class _Pretokenised(DPOTrainer):
    """DPOTrainer that takes token ids as they are, and keeps the losses of its passes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.losses: list[torch.Tensor] = []
        super().__init__(*args, **kwargs)

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(*args, **kwargs)
        self.losses.append(loss.detach())
        return loss

    def taken_loss(self) -> float:
        """Mean of the losses since the last call."""
        mean = float(torch.stack(self.losses).mean())
        self.losses.clear()
        return mean


def _dataset(table: TokenTable) -> datasets.Dataset:
    def lists(rows: Any) -> list[list[int]]:
        return [np.asarray(row).tolist() for row in rows]

    return datasets.Dataset.from_dict(
        {
            "prompt_ids": lists(table.prompts),
            "chosen_ids": lists(row[0] for row in table.completions),
            "rejected_ids": lists(row[1] for row in table.completions),
        }
    )


def _tokenizer() -> PreTrainedTokenizerFast:
    """Only its padding token is used: the pairs are token ids already."""
    words = models.WordLevel({"<pad>": 0, "<end>": 1}, unk_token="<pad>")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), pad_token="<pad>", eos_token="<end>")

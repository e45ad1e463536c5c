"""Instruction tuning of `tiny`, with the loop that tunes any model, on the plain engine."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
import torch

from mmpo_train.data.rendering import Tokenizer
from mmpo_train.engines.passes import Passes
from mmpo_train.engines.torch_engine import TorchEngine
from mmpo_train.events import Say
from mmpo_train.metric_names import EPOCH
from mmpo_train.model.batches import consecutive
from mmpo_train.model.logps import CompletionLogps
from mmpo_train.model.policy import load_model, load_tokenizer, quieten
from mmpo_train.recipes import RECIPES
from mmpo_train.sft.run import Conversations
from mmpo_train.sft.tokens import ChatTable
from mmpo_train.sft.trial import sft_trial
from mmpo_train.tiny.model import build_untrained
from mmpo_train.tiny.recipe import END, RECIPE, START
from mmpo_train.tiny.rows import instruction_examples
from mmpo_train.trial.loop import train

# Batches of similar lengths are made from the shuffled conversations of this many steps: little padding, random order.
_STEPS_PER_SORTED_WINDOW = 16
_PASSES = Passes("padded", 16_384)  # every step is one


def build_tiny(folder: Path, say: Say = lambda what, share: None) -> None:
    """Write the tokenizer and the instruction-tuned model into `folder`, as `save_pretrained` does. On a GPU if there
    is one, otherwise on one core. The caller's random state is not changed."""
    quieten()
    build_untrained(folder)
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    say("tokenizer", 1.0)
    trial = sft_trial(RECIPES["tiny"], "tiny", {"seed": RECIPE.seed, "precision": "fp32"})
    config = trial.engine_config()
    table = _demonstrations(tokenizer)
    order = _order(table.lengths.tolist(), config.pairs_per_step, config.seed)

    def report(metrics: dict[str, float], step: int) -> None:
        say("instruction tuning", metrics[EPOCH] / config.epochs)

    threads = torch.get_num_threads()
    # Matrices this small leave threads waiting for each other: on busy cores two took four times as long as one.
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            engine = TorchEngine(CompletionLogps(model), config)
            task = Conversations(table, None, engine, lambda epoch: order)
            train(config, task, engine, _PASSES, report=report, publish=lambda epochs, step: None)
    finally:
        torch.set_num_threads(threads)
    model.save_pretrained(folder)


def _demonstrations(tokenizer: Tokenizer) -> ChatTable:
    """The demonstrations as `encode_chats` would encode them. The template is known here, no text spells a special
    token, and no token begins in the prompt and ends in the answer, since a newline is always a separate token."""
    rows = instruction_examples()
    prompts = [f"{START}user\n{row['prompt']}{END}{START}assistant\n" for row in rows]
    answers = [f"{row['completion']}{END}" for row in rows]
    pieces = [piece for pair in zip(*(tokenizer(texts)["input_ids"] for texts in (prompts, answers))) for piece in pair]
    sizes = np.array([len(piece) for piece in pieces])
    learned = np.repeat(np.arange(len(pieces)) % 2 == 1, sizes)
    return ChatTable(np.concatenate(pieces, dtype=np.int32), learned, sizes.cumsum()[1::2])


def _order(lengths: Sequence[int], conversations_per_step: int, seed: int) -> np.ndarray:
    """All conversations in random order, in batches of similar lengths."""
    random = Random(seed)
    shuffled = iter(random.sample(range(len(lengths)), len(lengths)))
    batches: list[np.ndarray] = []
    while window := list(islice(shuffled, _STEPS_PER_SORTED_WINDOW * conversations_per_step)):
        of_like_length = np.array(sorted(window, key=lengths.__getitem__))
        some = list(consecutive(of_like_length, conversations_per_step))
        random.shuffle(some)
        batches += some
    return np.concatenate(batches)

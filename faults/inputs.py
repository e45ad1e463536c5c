"""A random model and forty pairs, on which a trial takes a second."""

from __future__ import annotations

import json
from pathlib import Path

SETTINGS = ("pairs_per_step=6", "max_prompt_tokens=64", "max_completion_tokens=32", "validate_every_steps=4")
STEPS_PER_EPOCH = 6
"""36 of the forty pairs are trained on."""


def write_inputs(folder: Path) -> tuple[Path, Path]:
    """Folder of the model, and file of the pairs."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from mmpo_train.tiny.model import train_tokenizer

    rows = []
    for number in range(40):
        right, wrong = f"{number} plus 3 is {number + 3}.", str(number + 4)
        chosen, rejected = (right, wrong) if number % 2 else (str(number + 3), f"I guess it is {number + 4}, maybe.")
        asked = f"Add {number} and 3{', please' * (number % 5)}."
        rows.append({"prompt": asked, "chosen": chosen, "rejected": rejected})
    data, model = folder / "pairs.jsonl", folder / "random"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = train_tokenizer([{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows])
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(model)
    tokenizer.save_pretrained(model)
    return model, data


def command(model: Path, data: Path, storage: Path, epochs: int) -> list[str]:
    """What `mmpo train` and the stages are told."""
    words = ["--model", str(model), "--dataset", str(data), "--storage", str(storage)]
    return words + [word for setting in (*SETTINGS, f"epochs={epochs}") for word in ("--set", setting)]

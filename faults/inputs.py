"""A random model and forty pairs, on which a trial takes a second."""

import json
from pathlib import Path
from typing import Any

SETTINGS = ("pairs_per_step=6", "max_prompt_tokens=64", "max_completion_tokens=32", "validate_every_steps=4")
STEPS_PER_EPOCH = 6
"""36 of forty pairs are trained on."""


def preference_rows(pairs: int = 40) -> list[dict[str, str]]:
    """Rows {prompt, chosen, rejected} whose completions differ in length, the longer one on either side."""
    rows = []
    for number in range(pairs):
        right, wrong = f"{number} plus 3 is {number + 3}.", str(number + 4)
        chosen, rejected = (right, wrong) if number % 2 else (str(number + 3), f"I guess it is {number + 4}, maybe.")
        asked = f"Add {number} and 3{', please' * (number % 5)}."
        rows.append({"prompt": asked, "chosen": chosen, "rejected": rejected})
    return rows


def tokenizer_of(rows: list[dict[str, str]]) -> Any:
    """The project's tokenizer, trained on the rows: byte-level BPE, ChatML, `<|im_end|>` as EOS."""
    from mmpo_train.tiny.model import train_tokenizer

    return train_tokenizer([{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows])


def save_random_model(folder: Path, tokenizer: Any) -> None:
    """Save a Llama of two layers with the tokenizer; its random weights are large enough to prefer things."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

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
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_inputs(folder: Path, pairs: int = 40) -> tuple[Path, Path]:
    """Folder of the model, and file of the pairs."""
    data, model, rows = folder / "pairs.jsonl", folder / "random", preference_rows(pairs)
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_random_model(model, tokenizer_of(rows))
    return model, data


def command(model: Path, data: Path, storage: Path, epochs: int) -> list[str]:
    """What `mmpo train` and the stages are told."""
    words = ["--model", str(model), "--dataset", str(data), "--storage", str(storage)]
    return words + [word for setting in (*SETTINGS, f"epochs={epochs}") for word in ("--set", setting)]

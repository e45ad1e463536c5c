"""A Llama of a given size without training, for benchmarks."""

from typing import Any

import torch

from mmpo_train.model.policy import quieten


def random_llama(width: int, layers: int, vocabulary: int) -> Any:
    """The model; the same weights every time."""
    quieten()
    from transformers import LlamaConfig, LlamaForCausalLM

    heads = max(1, width // 64)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=4096,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config)

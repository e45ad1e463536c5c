"""Small random models of several architectures, and their sums of log-probabilities computed plainly."""

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from mmpo_train.model.policy import use_packed_attention

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
PACKABLE = {
    "llama": {},
    "mistral": {"sliding_window": 8},
    "qwen2": {},
    "qwen2 with windows": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "qwen3": {"head_dim": 8},
    "gpt_neox": {"rotary_pct": 0.25},
    "gpt2": {
        "n_positions": 256,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    },
}


def random_model(architecture, **extra):
    torch.manual_seed(11)
    config = AutoConfig.for_model(architecture.split()[0], **(SIZES | PACKABLE.get(architecture, {}) | extra))
    model = AutoModelForCausalLM.from_config(config).eval()
    use_packed_attention(model)
    return model


def plain_sums(model, table, prompt):
    """Of each completion log pi, sum of entropies, and sum of stopped entropies times log pi of the tokens before.

    The model's own logits, float64, one sequence and one token at a time.
    """
    rows = []
    for completion in table.completions[prompt]:
        sequence = torch.from_numpy(np.concatenate([table.prompts[prompt], completion]).astype(np.int64))
        distributions = model(sequence[None]).logits[0].double().log_softmax(-1)[len(table.prompts[prompt]) - 1 : -1]
        before, entropy, prefixes = 0.0, 0.0, 0.0
        for log_probabilities, token in zip(distributions, completion, strict=True):
            here = -(log_probabilities.exp() * log_probabilities).sum()
            prefixes = prefixes + here.detach() * before
            entropy = entropy + here
            before = before + log_probabilities[int(token)]
        rows.append((before, entropy, prefixes))
    return rows

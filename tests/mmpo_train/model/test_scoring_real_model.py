"""Log-probabilities of SmolLM2-135M-Instruct against transformers' own; skipped where its weights are absent."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from mmpo_train.chat.messages import Message
from mmpo_train.data.preferences import PreferenceExample
from mmpo_train.data.templates import Encoding, encode
from mmpo_train.data.tokens import TokenTable
from mmpo_train.model.logps import CompletionLogps
from mmpo_train.model.policy import load_model, load_tokenizer
from mmpo_train.model.scoring import model_forward, score_pairs
from tests.support.models import plain_sums
from tests.support.real_models import real_model

PAIRS = [
    ("What is the capital of France?", "The capital of France is Paris.", "Lyon, I think. It is a nice city."),
    ("Write a haiku.", "An old silent pond\nA frog jumps into the pond\nSplash! Silence again.", "No."),
    ("Wie heißt 中文 auf Deutsch? 👩‍👩‍👧", "Chinesisch.", "Es heißt „Chinesisch“, glaube ich – 你好."),
]


@pytest.mark.parametrize("layout", ["padded", "packed", "shared"])
def test_log_probabilities_are_those_of_plain_transformers(layout):
    """To 1e-5 of themselves: one sequence at a time, float64 after the logits, without any of our attention."""
    folder = real_model("smollm2")
    tokenizer = load_tokenizer(folder)
    rows = [
        encode(
            PreferenceExample((Message("user", prompt),), (chosen, rejected), "pairs", 1), tokenizer, Encoding(512, 512)
        )
        for prompt, chosen, rejected in PAIRS
    ]
    table = TokenTable(tuple(row.prompt for row in rows), tuple(row.completions for row in rows))
    forward = model_forward(CompletionLogps(load_model(folder)), torch.device("cpu"), "fp32")
    ours = score_pairs(forward, table, np.arange(len(table)), 400, layout=layout)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True).eval()
    with torch.no_grad():
        expected = [[float(logps) for logps, *_ in plain_sums(plain, table, place)] for place in range(len(table))]
    np.testing.assert_allclose(ours, expected, rtol=1e-5)

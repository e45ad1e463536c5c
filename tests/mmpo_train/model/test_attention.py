"""Packed rows through unmodified models of the library: the log-probabilities of padded rows, and no leak."""

import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmpo_train.data.tokens import TokenTable
from mmpo_train.model import attention
from mmpo_train.model.attention import packed_attention, packing_of
from mmpo_train.model.batches import collate
from mmpo_train.model.layouts import best_layout
from mmpo_train.model.logps import CompletionLogps
from mmpo_train.model.policy import PACKED_ATTENTION
from tests.support.models import PACKABLE, random_model
from tests.support.standins.kernel import by_sequence, windowed


@pytest.fixture(scope="module")
def table():
    """Six prompts of 1 to 20 tokens with one to four completions of 1 to 30."""
    random = np.random.default_rng(4)
    draw = lambda most: random.integers(1, 97, random.integers(1, most + 1)).astype(np.int32)  # noqa: E731
    return TokenTable(
        tuple(draw(20) for _ in range(6)), tuple(tuple(draw(30) for _ in range(1 + row % 4)) for row in range(6))
    )


@pytest.mark.parametrize("layout", ["packed", "shared"])
@pytest.mark.parametrize("architecture", PACKABLE)
def test_values_and_gradients_are_those_of_padded_rows(architecture, layout, table):
    model = random_model(architecture)
    assert model.config._attn_implementation == PACKED_ATTENTION
    results = []
    for each in ("padded", layout):
        model.zero_grad()
        logps = CompletionLogps(model)(collate(table, np.arange(6), each))
        (logps * torch.arange(1, len(logps) + 1)).sum().backward()
        results.append((logps.detach(), {name: values.grad for name, values in model.named_parameters()}))
    (want, of_weights), (got, others) = results
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-5)
    for name, gradient in of_weights.items():
        if gradient is not None:
            assert (others[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-6, name


@pytest.mark.parametrize("layout", ["packed", "shared"])
@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_another_example_moves_no_log_probability(architecture, layout, table):
    """Every token of one example is changed; what the others score stays the same to the last bit."""
    module = CompletionLogps(random_model(architecture))
    prompts, completions = list(table.prompts), list(table.completions)
    prompts[3], completions[3] = (96 - prompts[3]), tuple(96 - ids for ids in completions[3])
    with torch.no_grad():
        before, after = (
            module(collate(one, np.arange(6), layout))
            for one in (table, TokenTable(tuple(prompts), tuple(completions)))
        )
    first = sum(len(row) for row in table.completions[:3])
    of_third = slice(first, first + len(table.completions[3]))
    assert (before[of_third] != after[of_third]).all()
    before[of_third] = after[of_third] = 0
    assert torch.equal(before, after)


def test_the_densest_layout_that_changes_nothing_is_found(table):
    forward = CompletionLogps(random_model("llama"))
    for densest in ("shared", "packed", "padded"):
        assert best_layout(forward, table, "fp32", densest) == densest


@pytest.mark.parametrize(
    "architecture, extra",
    [
        ("bloom", {"n_layer": 2, "n_head": 4}),  # ALiBi: positions come from a two-dimensional mask
        ("gemma2", {"head_dim": 8, "final_logit_softcapping": 5.0, "attn_logit_softcapping": 2.0}),
        ("mamba", {"state_size": 4}),  # no attention at all: the state runs on from one example to the next
    ],
)
def test_a_model_that_cannot_be_packed_keeps_padded_rows(architecture, extra, table):
    assert best_layout(CompletionLogps(random_model(architecture, **extra)), table, "fp32") == "padded"


def test_generating_goes_on_as_before(table):
    """The same model answers with a cache and padding on the left: without a packing it is the library's attention."""
    prompts = [torch.from_numpy(table.prompts[row].astype(np.int64)) for row in (0, 1)]
    longest = max(map(len, prompts))
    ids = torch.stack([F.pad(prompt, (longest - len(prompt), 0)) for prompt in prompts])
    mask = torch.stack([F.pad(torch.ones_like(prompt), (longest - len(prompt), 0)) for prompt in prompts])
    model = random_model("llama")
    packed = model.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=False)
    model.set_attn_implementation("sdpa")
    assert torch.equal(packed, model.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=False))


def test_a_saved_model_does_not_know_of_it(tmp_path):
    random_model("llama").save_pretrained(tmp_path)
    assert PACKED_ATTENTION not in (tmp_path / "config.json").read_text()


def causal(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, *, scale=None):
    """As in torch 2.10."""
    assert is_causal and query.shape[1] == key.shape[1]
    return by_sequence(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale=scale)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("varlen", [windowed, causal])
def test_one_call_for_all_spans_gives_what_one_call_for_each_gives(monkeypatch, varlen, window):
    """The CUDA kernel's arguments, given to a stand-in that computes what its documentation says."""
    torch.manual_seed(0)
    packing = packing_of([6, 3, 5, 2, 4], [(0, 2, 0, 0), (2, 3, 0, 1), (3, 5, 0, 0)])
    query, key, value = torch.randn(1, 4, 20, 8), torch.randn(1, 2, 20, 8), torch.randn(1, 2, 20, 8)
    takes = frozenset(inspect.signature(varlen).parameters)
    monkeypatch.setattr(attention, "_varlen_attn", lambda: (varlen, takes))
    if varlen is causal and window:
        with pytest.raises(ValueError, match="windows"):
            attention._varlen(query, key, value, packing, 0.3, window)
        return
    together = attention._varlen(query, key, value, packing, 0.3, window)
    torch.testing.assert_close(together, attention._span_by_span(query, key, value, packing, 0.3, window))


def test_torchs_own_kernel_takes_what_it_is_given():
    """On a CPU no more can be said of it than that its parameters have these names."""
    _, takes = attention._varlen_attn()
    wanted = {"query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k", "scale"}
    assert wanted <= takes and takes & {"window_size", "is_causal"}  # enable_gqa came later than windows did


def test_what_packed_rows_cannot_have_is_refused():
    packing = packing_of([2], [(0, 1, 0, 0)])
    states = [torch.randn(1, 1, 2, 8)] * 3
    with pytest.raises(ValueError, match="softcap"):
        packed_attention(torch.nn.Module(), *states, None, packing, softcap=2.0, otherwise=None)
    two_ways = torch.nn.Module()
    two_ways.is_causal = False
    with pytest.raises(ValueError, match="later"):
        packed_attention(two_ways, *states, None, packing, otherwise=None)

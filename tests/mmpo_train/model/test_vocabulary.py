"""Token log-probabilities and entropies of the chunked projection, against plain autograd in float64."""

import pytest
import torch
from torch import nn

from mmpo_train.model import vocabulary
from mmpo_train.model.vocabulary import token_logps


class Model(nn.Module):
    """A projection with the two things of a transformers model that are asked for."""

    def __init__(self, bias=False, **config):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(8, 29, bias=bias)
        self.config = type("Config", (), config)()

    def get_output_embeddings(self):
        return self.head


SCALED = {
    "logit_scale": lambda logits: logits * 0.5,
    "logits_scaling": lambda logits: logits / 0.5,
    "final_logit_softcapping": lambda logits: 0.5 * torch.tanh(logits / 0.5),
}
MODELS = {"plain": {}, "bias": {"bias": True}, **{name: {name: 0.5} for name in SCALED}}


def inputs(dtype=torch.float32):
    torch.manual_seed(1)
    return torch.randn(20, 8).to(dtype).requires_grad_(), torch.randint(0, 29, (20,)), torch.randn(2, 20).double()


def expected(model, states, targets, kind):
    """Both, in float64, with every logit at once."""
    bias = None if model.head.bias is None else model.head.bias.double()
    logits = nn.functional.linear(states.double(), model.head.weight.double(), bias)
    logps = SCALED.get(kind, lambda same: same)(logits).log_softmax(-1)
    return logps[torch.arange(20), targets], -(logps.exp() * logps).sum(-1)


@pytest.mark.parametrize("entropies", [False, True])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_values_and_gradients_are_those_of_all_logits_in_float64(monkeypatch, kind, whole, entropies):
    monkeypatch.setattr(vocabulary, "positions_per_chunk", lambda *_: 7)
    model = Model(**MODELS[kind])
    states, targets, weights = inputs()
    results = []
    for compute in (
        lambda: expected(model, states, targets, kind),
        lambda: token_logps(model, states, targets, entropies=entropies, whole=whole),
    ):
        model.zero_grad()
        states.grad = None
        logps, entropy = compute()
        total = (logps * weights[0]).sum() + ((entropy * weights[1]).sum() if entropies else 0.0)
        total.backward()
        results.append([logps.double(), entropy, states.grad, *(each.grad for each in model.parameters())])
    for number, (want, got) in enumerate(zip(*results, strict=True)):
        if number == 1 and not entropies:
            assert got is None
        else:
            torch.testing.assert_close(got.double(), want.double(), atol=1e-5, rtol=1e-5)


def test_the_derivatives_stand_up_to_finite_differences():
    states, targets, _ = inputs(torch.float64)
    weight = torch.randn(29, 8, dtype=torch.float64, requires_grad=True)

    def both(states, weight):
        return vocabulary._LinearTokenLogps.apply(states, weight, targets, 7, True, False)

    # The function computes in fp32, whatever comes in: a coarse step and tolerance.
    assert torch.autograd.gradcheck(both, (states, weight), eps=1e-2, atol=1e-2, rtol=1e-2, nondet_tol=1e-6)


def test_a_frozen_projection_gets_no_gradient_and_hands_it_on():
    model = Model()
    model.head.weight.requires_grad_(False)
    states, targets, _ = inputs()
    logps, _ = token_logps(model, states, targets)
    logps.sum().backward()
    assert model.head.weight.grad is None and states.grad.abs().sum() > 0


def test_a_frozen_projection_in_half_precision_computes_its_logits_once(monkeypatch):
    monkeypatch.setattr(vocabulary, "positions_per_chunk", lambda *_: 7)
    gradient, chunks = vocabulary._of_logits, []
    monkeypatch.setattr(vocabulary, "_of_logits", lambda *some: chunks.append(1) or gradient(*some))
    model = Model().to(torch.bfloat16).requires_grad_(False)
    states, targets, weights = inputs(torch.bfloat16)
    logps, _ = token_logps(model, states, targets)
    in_forward = len(chunks)
    (logps * weights[0]).sum().backward()
    assert in_forward == len(chunks) == 3
    got, states.grad = states.grad.double(), None
    (expected(model, states, targets, "plain")[0] * weights[0]).sum().backward()
    assert (got - states.grad).norm() < 0.01 * got.norm()


def test_half_precision_sums_in_single():
    """With bf16 states and weights the products are rounded, log-sum-exp and the sum over chunks are not."""
    model = Model().to(torch.bfloat16)
    states, targets, weights = inputs(torch.bfloat16)
    logps, _ = token_logps(model, states, targets)
    assert logps.dtype == torch.float32
    (logps * weights[0]).sum().backward()
    got = model.head.weight.grad.double()
    model.zero_grad()
    (expected(model, states, targets, "plain")[0] * weights[0]).sum().backward()
    assert (got - model.head.weight.grad).norm() < 0.02 * got.norm()


def test_autocast_projects_in_its_precision():
    model, (states, targets, _) = Model(), inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logps, _ = token_logps(model, states, targets)
    logps.sum().backward()
    assert states.grad.dtype == torch.float32
    assert 0 < (logps - expected(model, states, targets, "plain")[0]).abs().max() < 0.05

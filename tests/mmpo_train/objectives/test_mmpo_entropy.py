"""The entropy's gradient of Appendix B.2: against finite differences, and its expectation over all completions."""

import itertools

import numpy as np
import pytest
import torch

from mmpo_train.config import replace
from mmpo_train.data.tokens import TokenTable
from mmpo_train.model.batches import collate
from mmpo_train.model.logps import CompletionLogps
from tests.support.models import plain_sums, random_model
from tests.support.training import assert_same_losses, job, losses
from tests.support.workers import train_jobs

LAYOUTS = ("padded", "packed", "shared")
VOCABULARY, TOKENS = 4, 3


def tiny_model(architecture="gpt2"):
    """A random model over four tokens, in float64; in Llama the norms are fp32 whatever it is asked for."""
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 16, "initializer_range": 0.3}
    no_special_tokens = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
    return random_model(architecture, **sizes, **no_special_tokens).double()


def gradient_of(model, value):
    model.zero_grad()
    value.backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def every_completion():
    """Two prompts, and behind each all 4³ completions of three tokens."""
    completions = tuple(np.array(ids, dtype=np.int32) for ids in itertools.product(range(VOCABULARY), repeat=TOKENS))
    return TokenTable((np.array([1, 3], dtype=np.int32), np.array([2], dtype=np.int32)), (completions, completions))


def true_gradient(model, table):
    """d/d theta of the prompts' H(pi(.|x)) = -sum_z pi(z|x) log pi(z|x), by enumeration and nothing else."""
    entropy = 0.0
    for prompt, completions in zip(table.prompts, table.completions, strict=True):
        ids = torch.from_numpy(np.array([[*prompt, *completion] for completion in completions]).astype(np.int64))
        log_probabilities = model(ids).logits.log_softmax(-1)[:, len(prompt) - 1 : -1]
        logps = log_probabilities.gather(2, ids[:, len(prompt) :, None]).sum(dim=(1, 2))
        assert logps.exp().sum().item() == pytest.approx(1.0)
        entropy = entropy - (logps.exp() * logps).sum()
    return gradient_of(model, entropy)


@pytest.mark.parametrize("one_projection", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_the_expectation_of_p1_and_p2_is_the_gradient_of_the_entropy_and_of_neither_alone(
    architecture, layout, one_projection
):
    """Each completion weighs pi(z|x). Log-probabilities come out in fp32: the tolerance is 5e-6 of the largest slope.

    P2 alone lacks what the choice of earlier tokens does to the later ones' entropies, P1 alone the rest.
    """
    model, table = tiny_model(architecture), every_completion()
    expected = true_gradient(model, table)
    module, one = CompletionLogps(model, one_projection=one_projection), collate(table, np.arange(2), layout)
    weights = module(one).detach().double().exp()
    p2, p1 = (gradient_of(model, (weights * module(one, True)[row]).sum()) for row in (1, 2))
    largest = expected.abs().max()
    assert (p1 + p2 - expected).abs().max() < 5e-6 * largest
    assert min((p1 - expected).abs().max(), (p2 - expected).abs().max()) > 0.04 * largest


@pytest.fixture(scope="module")
def table():
    """Three prompts with one to three completions of 1 to 6 tokens."""
    random = np.random.default_rng(3)
    draw = lambda most: random.integers(0, VOCABULARY, random.integers(1, most + 1)).astype(np.int32)  # noqa: E731
    return TokenTable(
        tuple(draw(5) for _ in range(3)), tuple(tuple(draw(6) for _ in range(1 + row)) for row in range(3))
    )


def plain_rows(model, table):
    rows = [row for prompt in range(3) for row in plain_sums(model, table, prompt)]
    return [torch.stack([torch.as_tensor(value, dtype=torch.float64) for value in column]) for column in zip(*rows)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sums_are_those_of_the_unmodified_model_one_token_at_a_time(layout, table):
    model = tiny_model()
    module, one = CompletionLogps(model), collate(table, np.arange(3), layout)
    sums = module(one, True)
    assert sums.dtype == torch.float32 and torch.equal(sums[0], module(one))
    for ours, theirs in zip(sums, plain_rows(model, table), strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_p1_and_p2_are_the_derivatives_that_finite_differences_give(layout, table):
    """Along a random direction of each weight, in float64, with the entropies of P1 held where they were."""
    model = tiny_model()
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(6, generator=generator, dtype=torch.float64)
    one = collate(table, np.arange(3), layout)
    held = [entropies_of(model, table, prompt) for prompt in range(3)]

    def values():
        """Weighted sums: sum_t H_t, and sum_t H_t log pi(z_<t|x) with `held` for H_t."""
        p1, p2 = [], []
        for prompt in range(3):
            for completion, old in zip(table.completions[prompt], held[prompt], strict=True):
                log_probabilities, new = distributions(model, table.prompts[prompt], completion)
                own = [float(log_probabilities[place, token]) for place, token in enumerate(completion)]
                p2.append(float(new.sum()))
                p1.append(sum(float(old[place]) * sum(own[:place]) for place in range(len(own))))
        return np.array([weights @ torch.tensor(terms, dtype=torch.float64) for terms in (p2, p1)])

    gradients = []
    for row in (1, 2):
        model.zero_grad()
        (CompletionLogps(model)(one, True)[row] * weights).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for number, parameter in enumerate(model.parameters()):
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        ends = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter += step * direction
                ends.append(values())
                parameter -= step * direction
        ours = [float((gradient[number] * direction).sum()) for gradient in gradients]
        assert ours == pytest.approx(((ends[0] - ends[1]) / 2e-5).tolist(), abs=1e-4, rel=1e-5)


def distributions(model, prompt, completion):
    """Log-probabilities (T, V) at a completion's tokens, and their entropies (T,)."""
    ids = torch.from_numpy(np.concatenate([prompt, completion]).astype(np.int64))
    with torch.no_grad():
        log_probabilities = model(ids[None]).logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
    return log_probabilities, -(log_probabilities.exp() * log_probabilities).sum(-1)


def entropies_of(model, table, prompt):
    return [distributions(model, table.prompts[prompt], completion)[1] for completion in table.completions[prompt]]


@pytest.mark.slow
def test_deepspeed_trains_the_ablations_with_the_losses_of_plain_torch(prepared, tmp_path):
    """Two workers, ZeRO-2 and ZeRO-3, for which entropies go through a module's hooks."""
    config = replace(prepared.config, {"pairs_per_step": 6, "learning_rate": 1e-3, "beta": 0.05, "entropy": True})
    ablations = [{}, {"auxiliary": False, "in_batch_normalised": False, "length_normalised": True}]

    def jobs(folder, **fields):
        return [job(config, prepared.places, tmp_path / folder, **(some | fields)) for some in ablations]

    expected = train_jobs(jobs("torch"), workers=1, engine="torch")
    results = train_jobs([*jobs("stage-2"), *jobs("stage-3", zero_stage=3)], workers=2)
    for result, reference in zip(results, expected * 2, strict=True):
        assert len(losses(reference)) >= 5
        assert_same_losses(result, reference, len(losses(reference)))

"""Log-probabilities of completions, against the unmodified Hugging Face model, one sequence at a time."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from mmpo_train.config import TrialConfig, replace
from mmpo_train.data.tokens import TokenTable
from mmpo_train.model import vocabulary
from mmpo_train.model.batches import collate
from mmpo_train.model.logps import CompletionLogps
from mmpo_train.model.policy import load_model
from mmpo_train.model.scoring import model_forward, score_pairs
from tests.support.models import SIZES

ARCHITECTURES = {
    "llama": {},
    "llama, tied": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": 8},
    "qwen2": {},
    "gemma2": {"head_dim": 8, "final_logit_softcapping": 5.0, "sliding_window": 8},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 4.0, "embedding_multiplier": 2.0},
}


def random_model(architecture):
    torch.manual_seed(11)
    extra = SIZES | ARCHITECTURES[architecture]
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture.split(",")[0], **extra)).eval()


@pytest.fixture(scope="module")
def table():
    """Five prompts of 1 to 20 tokens, two completions of 1 to 30 tokens each."""
    random = np.random.default_rng(4)
    draw = lambda most: random.integers(1, 97, random.integers(1, most + 1)).astype(np.int32)  # noqa: E731
    return TokenTable(tuple(draw(20) for _ in range(5)), tuple((draw(30), draw(30)) for _ in range(5)))


def plain_logps(model, table, pair):
    """Summed log-probabilities of a pair's completions: the model's own logits, float64, no padding, no batch."""
    sums = []
    for completion in table.completions[pair]:
        sequence = torch.from_numpy(np.concatenate([table.prompts[pair], completion]).astype(np.int64))
        log_probabilities = model(sequence[None]).logits[0].double().log_softmax(-1)
        begin = len(table.prompts[pair])
        sums.append(sum(log_probabilities[place - 1, sequence[place]] for place in range(begin, len(sequence))))
    return torch.stack(sums)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sums_are_those_of_the_unmodified_model_one_sequence_at_a_time(architecture, table):
    model = random_model(architecture)
    with torch.no_grad():
        ours = CompletionLogps(model)(collate(table, np.arange(5))).reshape(5, 2)
        expected = torch.stack([plain_logps(model, table, pair) for pair in range(5)])
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), expected, atol=1e-4, rtol=1e-5)


def test_padding_and_neighbours_do_not_change_a_value(table):
    module = CompletionLogps(random_model("llama"))
    with torch.no_grad():
        alone = torch.stack([module(collate(table, np.array([pair]))) for pair in range(5)])
        together = module(collate(table, np.arange(5))).reshape(5, 2)
        reversed_order = module(collate(table, np.arange(5)[::-1])).reshape(5, 2).flip(0)
        wide = collate(table, np.arange(5))
        width = wide.input_ids.shape[1]
        padded = module(
            wide._replace(
                input_ids=torch.nn.functional.pad(wide.input_ids, (0, 40), value=50),
                places=wide.places // width * (width + 40) + wide.places % width,
            )
        )
    for other in (together, reversed_order, padded.reshape(5, 2)):
        torch.testing.assert_close(other, alone, atol=1e-4, rtol=1e-6)


@pytest.mark.parametrize("one_projection", [False, True])
def test_gradients_are_those_of_the_unmodified_model(table, monkeypatch, one_projection):
    """The projection in chunks of 7 positions, recomputed backward, or in one; the sequences weigh 1, 2, 3, …"""
    monkeypatch.setattr(vocabulary, "positions_per_chunk", lambda *_: 7)
    model = random_model("llama, tied")
    weights = torch.arange(1, 11, dtype=torch.float64)
    expected_sums = torch.cat([plain_logps(model, table, pair) for pair in range(5)])
    (expected_sums * weights).sum().backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    sums = CompletionLogps(model, one_projection=one_projection)(collate(table, np.arange(5)))
    torch.testing.assert_close(sums.double(), expected_sums, atol=1e-4, rtol=1e-5)
    (sums * weights).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-3, rtol=1e-4)


def lora_policy(model_folder, **values):
    """The session's model with LoRA adapters that are no longer the identity."""
    model = load_model(model_folder, config=replace(TrialConfig(), {"lora_rank": 4} | values))
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def test_lora_policy_is_scored_with_its_adapters_and_trains_nothing_else(model_folder, table):
    model = lora_policy(model_folder)
    module = CompletionLogps(model)
    with torch.no_grad():
        ours = module(collate(table, np.arange(5))).reshape(5, 2)
        expected = torch.stack([plain_logps(model, table, pair) for pair in range(5)])
        with model.disable_adapter():
            bare = module(collate(table, np.arange(5))).reshape(5, 2)
    torch.testing.assert_close(ours.double(), expected, atol=1e-4, rtol=1e-5)
    assert not torch.allclose(ours, bare, atol=0.1)
    module(collate(table, np.arange(5))).sum().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained and all("lora_" in name for name in trained)


def test_dropout_is_on_where_there_is_a_gradient_and_off_in_validation(model_folder, table):
    """A validation in the middle of training must give what the evaluator gives of the checkpoint."""
    module = CompletionLogps(lora_policy(model_folder, lora_dropout=0.5))
    one = collate(table, np.arange(5))
    with torch.no_grad():
        before = module(one)
    torch.manual_seed(0)
    assert not torch.equal(module(one), module(one)), "training has dropout"
    with torch.no_grad():
        assert torch.equal(module(one), before)


@pytest.mark.parametrize("layout", ["padded", "shared"])
@pytest.mark.parametrize("lora_rank", [0, 4])
def test_gradient_checkpointing_recomputes_the_layers_and_changes_no_gradient(model_folder, table, lora_rank, layout):
    gradients, calls = [], []
    for on in (False, True):
        model = lora_policy(model_folder, lora_rank=lora_rank, lora_dropout=0.0)
        calls.append(0)

        def count(*_):
            calls[-1] += 1

        bare = model.get_base_model() if lora_rank else model
        bare.model.layers[0].self_attn.register_forward_pre_hook(count)
        module = CompletionLogps(model)
        module.recompute_activations(on)
        module(collate(table, np.arange(5), layout)).sum().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert calls == [1, 2]
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected)


def test_scores_come_back_in_the_order_of_the_pairs_whatever_the_passes(table):
    model = random_model("llama")
    forward = model_forward(CompletionLogps(model), torch.device("cpu"), "fp32")
    with torch.no_grad():
        expected = torch.stack([plain_logps(model, table, pair) for pair in (4, 1, 2)]).numpy()
    for tokens_per_pass in (1, 120, 10_000):
        scores = score_pairs(forward, table, [4, 1, 2], tokens_per_pass)
        np.testing.assert_allclose(scores, expected, atol=1e-4)


@pytest.mark.parametrize("workers", [2, 3, 7])
def test_workers_shares_add_up_to_the_whole_in_as_many_passes_each(table, workers):
    forward, calls = model_forward(CompletionLogps(random_model("llama")), torch.device("cpu"), "fp32"), []

    def counted(one):
        calls[-1] += 1
        return forward(one)

    shares = []
    for worker in range(workers):
        calls.append(0)
        shares.append(score_pairs(counted, table, range(5), 120, worker, workers))
    assert len(set(calls)) == 1
    np.testing.assert_allclose(sum(shares), score_pairs(forward, table, range(5), 10_000), atol=1e-4)


def test_bf16_rounds_weights_but_not_rotary_frequencies(table):
    """As DeepSpeed does: rounded frequencies would be other positions than those a checkpoint is served with."""
    model = random_model("llama")
    frequencies = model.model.rotary_emb.inv_freq.clone()
    forward = model_forward(CompletionLogps(model), torch.device("cpu"), "bf16")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert torch.equal(model.model.rotary_emb.inv_freq, frequencies)
    with torch.no_grad():
        assert forward(collate(table, np.arange(5))).dtype == torch.float32


@pytest.mark.parametrize("lora_rank", [0, pytest.param(4, marks=pytest.mark.slow)])
def test_compiled_layers_give_the_same_values_and_gradients_for_rows_of_any_length(
    model_folder, table, lora_rank, monkeypatch
):
    """With the part of the compiler that rewrites the program; the one that needs a C++ compiler is not ours."""
    monkeypatch.setattr("mmpo_train.model.policy._COMPILER", "aot_eager")
    results = []
    for compiled in (False, True):
        module = CompletionLogps(lora_policy(model_folder, lora_rank=lora_rank, lora_dropout=0.0))
        module.compile_layers(compiled)
        logps = [
            module(collate(table, np.array(some), layout))
            for some, layout in (([0, 1], "shared"), ([2], "padded"), ([3, 4], "shared"))
        ]
        torch.cat(logps).sum().backward()
        results.append((logps, [values.grad for values in module.parameters() if values.grad is not None]))
    (want, gradients), (got, others) = results
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-6)
    assert all((ours - theirs).norm() < 1e-5 * theirs.norm() for ours, theirs in zip(others, gradients, strict=True))

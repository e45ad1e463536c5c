"""Training in bf16: what reaches the attention kernel, and sums that do not depend on how a step is cut."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.gemma import modeling_gemma
from transformers.models.llama import modeling_llama

from eval_workers.answers.generation import Generator
from eval_workers.answers.sampling import Sampling, Task
from eval_workers.harness.loglikelihoods import Requests
from eval_workers.reward_accuracy import RewardAccuracy
from mmpo_train.config import TrialConfig, replace
from mmpo_train.data.tokens import read_table
from mmpo_train.engines.passes import Passes
from mmpo_train.engines.torch_engine import TorchEngine
from mmpo_train.model import attention
from mmpo_train.model.logps import CompletionLogps
from mmpo_train.model.policy import load_model
from mmpo_train.model.precision import gather_gradients_in_fp32
from mmpo_train.model.reference import read_reference, score_shard
from mmpo_train.model.scoring import ScoredTable, model_forward, score_pairs
from mmpo_train.objectives import build_objective
from mmpo_train.trial.preferences import accumulate
from tests.support import workers
from tests.support.standins.kernel import stand_in
from tests.support.training import job, losses

STAGES = (0, 1, 2, 3)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Matrices this small leave threads waiting for each other; on a busy machine hundreds of times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of each call of a kernel that refuses fp32."""
    for name in ("_varlen_attn", "_has_kernel"):
        monkeypatch.setattr(attention, name, getattr(attention, name))  # what stand_in changes is put back
    return stand_in()


@pytest.fixture(scope="module")
def config(bf16_prepared: Any) -> TrialConfig:
    """Four steps of DPO, each of twenty pairs."""
    fields = {"objective": "dpo", "pairs_per_step": 20, "epochs": 2, "learning_rate": 1e-3}
    return replace(bf16_prepared.config, fields | {"validate_every_steps": 100})


@pytest.mark.parametrize("fields", [{}, {"lora_rank": 2}, {"gradient_checkpointing": "always"}], ids=str)
def test_plain_training_and_the_reference_store_reach_the_kernel(bf16_prepared, config, kernel, tmp_path, fields):
    places = bf16_prepared.places
    shard = (str(places.model), str(places.tokens), "bf16", 512, "validation", 0, 4)
    store = np.array(score_shard(*shard))
    assert kernel
    kernel.clear()
    result = workers._run(job(config, places, tmp_path, **fields), TorchEngine)
    assert losses(result)[1] == pytest.approx(np.log(2), abs=0.02) and len(losses(result)) == 4
    assert len(kernel) > 2 * 4, "two layers, four steps, validation and trying"
    np.testing.assert_allclose(store, read_reference(places.reference, "validation")[:4], rtol=2e-2)


def test_evaluators_and_the_harness_reach_the_kernel_and_generation_computes_in_bf16(
    bf16_prepared, config, kernel, tmp_path, monkeypatch
):
    places = bf16_prepared.places
    result = workers._run(job(config, places, tmp_path), TorchEngine)
    checkpoint = result["finished"][-1][1]
    kernel.clear()
    RewardAccuracy()(checkpoint, str(places.tokens), str(places.reference))
    assert kernel
    generator = Generator()
    generator.load(Path(checkpoint), [0], precision="bf16")
    kernel.clear()
    forward = model_forward(CompletionLogps(generator.warm.model), generator.warm.device, "bf16")
    Requests([([1, 2, 3], [4, 5]), ([1, 2, 3], [6]), ([7, 8], [9])], 64).score(forward, generator.warm.device, "bf16")
    assert kernel
    kernel.clear()
    seen = set()
    attend = torch.nn.functional.scaled_dot_product_attention

    def spied(query: Any, key: Any, value: Any, *rest: Any, **named: Any) -> Any:
        seen.update((query.dtype, key.dtype, value.dtype))
        return attend(query, key, value, *rest, **named)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spied)
    greedy = Sampling(temperature=0.0, max_new_tokens=3)
    list(generator.run([[Task((1, 2, 3), greedy, 0), Task((4, 5), greedy, 0)]]))
    assert seen == {torch.bfloat16} and not kernel, "with a cache it is the library's attention, in half precision"


def test_a_model_whose_positions_are_fp32_reaches_the_kernel_too(kernel):
    """Under autocast over fp32 weights queries and keys leave the rotary embedding in fp32, values are bf16."""
    query, key = torch.randn(1, 4, 5, 8), torch.randn(1, 2, 5, 8)
    packing = attention.packing_of([5], [(0, 1, 0, 0)])
    out, _ = attention.packed_attention(
        torch.nn.Module(),
        query,
        key,
        key.bfloat16(),
        None,
        packing,
        0.3,
        otherwise=None,  # type: ignore[arg-type]
    )
    assert out.dtype == torch.bfloat16 and kernel == [5]


@pytest.mark.slow
def test_every_zero_stage_reaches_the_kernel(bf16_prepared, config, tmp_path):
    trials = [job(config, bf16_prepared.places, tmp_path / str(stage), zero_stage=stage) for stage in STAGES]
    call = {"call": "tests.support.standins.kernel", "trials": trials, "places": trials[0]["places"]}
    [results] = workers.train_jobs([call], workers=1)
    for result in results:
        assert len(losses(result)) == 4 and result["kernel_calls"] > 8, result["error"]


def gradient_of(config: TrialConfig, places: Any, tokens: int) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss and the masters' gradients, by name, of a step of all pairs in passes of so many tokens."""
    engine = TorchEngine(CompletionLogps(load_model(places.model)), config)
    step = ScoredTable(read_table(places.tokens, "train"), read_reference(places.reference, "train"))
    passes = Passes("shared", tokens)
    sums = accumulate(engine, build_objective(config), step, np.zeros_like(step.ref_logps), 0.0, passes)
    engine.masters.take_gradients()
    named = zip((name for name, _ in engine.module.named_parameters()), engine.masters.tensors, strict=True)
    return sums["loss"], {name: master.grad for name, master in named if master.grad is not None}


def test_a_steps_gradient_in_bf16_is_the_same_sum_in_one_pass_and_in_thirty(bf16_prepared, config):
    """Summed in bf16 the passes' gradients would be a hundredth off, rounded once a pass 2.5e-3."""
    loss, whole = gradient_of(config, bf16_prepared.places, 10**6)
    for tokens in (400, 1):
        same_loss, cut = gradient_of(config, bf16_prepared.places, tokens)
        assert same_loss == pytest.approx(loss, rel=1e-6)
        for name, gradient in whole.items():
            assert gradient.dtype == cut[name].dtype == torch.float32
            assert float((cut[name] - gradient).norm() / gradient.norm()) < 1e-5, name


@pytest.mark.parametrize("kind", [modeling_llama.LlamaRMSNorm, modeling_gemma.GemmaRMSNorm])
def test_a_norms_gradient_is_fp32_where_it_is_llamas_and_its_values_are_the_librarys(kind):
    torch.manual_seed(0)
    norm, states = kind(48).bfloat16(), torch.randn(5, 48, dtype=torch.bfloat16)
    norm.weight.data.normal_()
    before = norm(states)
    gather_gradients_in_fp32(norm)
    assert torch.equal(norm(states), before)
    norm(states).backward(before)
    exact = kind(48)
    exact.weight.data = norm.weight.data.float()
    exact(states.float()).backward(before.float())
    off = float((norm.weight.grad - exact.weight.grad).norm() / exact.weight.grad.norm())
    # What goes into the sum is rounded to half precision before it: 2e-3 a term, at random.
    assert norm.weight.grad.dtype == torch.float32 and off < 5e-3
    is_rounded = torch.equal(norm.weight.grad, norm.weight.grad.bfloat16().float())
    assert is_rounded == (kind is modeling_gemma.GemmaRMSNorm)


def test_a_gradient_in_bf16_is_that_of_fp32_up_to_the_activations_rounding(bf16_prepared, config):
    """The fp32 model has the rounded weights."""
    places = bf16_prepared.places
    _, half = gradient_of(config, places, 400)
    model = load_model(places.model)
    for value in model.parameters():
        value.data = value.data.bfloat16().float()
    engine = TorchEngine(CompletionLogps(model), replace(config, {"precision": "fp32"}))
    step = ScoredTable(read_table(places.tokens, "train"), read_reference(places.reference, "train"))
    accumulate(engine, build_objective(config), step, np.zeros_like(step.ref_logps), 0.0, Passes("shared", 400))
    for name, value in engine.module.named_parameters():
        assert float((half[name] - value.grad).norm() / value.grad.norm()) < 0.05, name


def test_an_untrained_policy_in_bf16_is_its_reference_to_the_last_bit(bf16_prepared, config):
    places = bf16_prepared.places
    table, reference = read_table(places.tokens, "train"), read_reference(places.reference, "train")
    engine = TorchEngine(CompletionLogps(load_model(places.model, config=config)), config)
    with torch.no_grad():
        logps = score_pairs(engine.logps, table, np.arange(len(table)), config.tokens_per_pass, layout="shared")
    assert np.array_equal(logps, reference)


@pytest.mark.slow
def test_in_bf16_engines_stages_worker_counts_and_pass_sizes_give_the_same_losses_and_gradients(
    bf16_prepared, config, tmp_path
):
    """The last pass of a step counts as much as the others (deepspeedai/DeepSpeed#7985, at stage 1), and so does one in
    which a parameter is used twice, as a tied embedding is (#8224, at stage 2 with two workers). Stage 3 runs the head
    as a module, and rounds elsewhere. Moments of 8 bits are rounded in blocks of 256 neighbours, and ZeRO lays all
    tensors side by side."""
    variants: list[dict[str, Any]] = [
        {"zero_stage": stage, "tokens_per_pass": tokens} for stage in STAGES for tokens in (2000, 150)
    ]
    variants += [{"lora_rank": 4, "lora_dropout": 0.0, "zero_stage": stage} for stage in STAGES]
    variants += [{"optimizer": "adamw_8bit", "zero_stage": stage} for stage in (0, 2)]

    def run(folder: str, count: int, engine: str, some: list[dict[str, Any]]) -> list[dict]:
        jobs = [job(config, bf16_prepared.places, tmp_path / folder / str(n), **v) for n, v in enumerate(some)]
        return workers.train_jobs(jobs, count, engine)

    plain, lora, eight_bit = run("plain", 1, "torch", [variants[0], variants[8], variants[-1]])
    expected = [plain] * 8 + [lora] * 4 + [eight_bit] * 2
    for count in (1, 2):
        for fields, result, same in zip(variants, run(f"{count}", count, "deepspeed", variants), expected, strict=True):
            stage, is_8_bit = fields["zero_stage"], "optimizer" in fields
            error = 1e-2 if stage == 3 or (is_8_bit and stage > 0) else 1e-4
            for name in ("train/loss", "train/gradient_norm"):
                ours, theirs = ([point[2][name] for point in sorted(one["points"])] for one in (result, same))
                assert ours == pytest.approx(theirs, rel=error), (count, fields)
                # No moment has been rounded yet, and no rate been other than 0.
                assert ours[:2] == pytest.approx(theirs[:2], rel=1e-2 if stage == 3 else 1e-4), (count, fields)


def test_a_step_in_bf16_in_which_memory_ran_out_is_the_same_step(bf16_prepared, config, tmp_path):
    """At stage 1 what was added before stands in another optimiser's buffers than at stage 2."""
    config = replace(config, {"tokens_per_pass": 300})
    out = {"out_of_memory": {"step": 2, "where": "backward"}}
    folders = {stage: tmp_path / str(stage) for stage in (0, 1, 2)}
    jobs = [job(config, bf16_prepared.places, folder, zero_stage=stage) | out for stage, folder in folders.items()]
    undisturbed = losses(workers._run(job(config, bf16_prepared.places, tmp_path / "plain"), TorchEngine))
    for result in workers.train_jobs(jobs, workers=1):
        assert losses(result) == pytest.approx(undisturbed, rel=1e-4), result["error"]

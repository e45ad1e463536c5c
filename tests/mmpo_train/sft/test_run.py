"""Instruction tuning: its loss against a plain computation, passes that change nothing, and tokenizers lent."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmpo_train.engines.passes import Passes
from mmpo_train.engines.torch_engine import TorchEngine
from mmpo_train.errors import InputError
from mmpo_train.model.batches import epoch_order
from mmpo_train.model.logps import CompletionLogps
from mmpo_train.model.policy import load_model, load_tokenizer
from mmpo_train.sft.prepare import identify_sft, materialise_sft
from mmpo_train.sft.run import Conversations
from mmpo_train.sft.tokens import read_chats
from mmpo_train.sft.trial import SFTTrial, change
from mmpo_train.trial.loop import Diverged, train


@pytest.fixture(scope="module")
def chats_file(preference_rows, tmp_path_factory) -> Path:
    """Thirty conversations, every second of two rounds."""
    path = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    with path.open("w") as stream:
        for number, (row, other) in enumerate(zip(preference_rows[:30], preference_rows[10:])):
            said = [row["prompt"], row["chosen"], other["prompt"], other["chosen"]][: 4 if number % 2 else 2]
            messages = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(said)]
            stream.write(json.dumps({"messages": messages}) + "\n")
    return path


@pytest.fixture(scope="module")
def trial(model_folder, chats_file) -> SFTTrial:
    values = {"model": str(model_folder), "dataset": str(chats_file), "conversations_per_step": 8, "epochs": 2}
    return change(SFTTrial(), {**values, "precision": "fp32", "learning_rate": 1e-2, "validate_every_steps": 2})


@pytest.fixture(scope="module")
def places(trial, tmp_path_factory):
    inputs = identify_sft(trial, tmp_path_factory.mktemp("storage"))
    return materialise_sft(inputs, lambda what, share: None)[0]


def tuned(
    trial: SFTTrial, places: Any, passes: Passes, make_engine: Any = TorchEngine, keep_passes: Any = lambda passes: None
) -> list[tuple[int, dict]]:
    """(step, metrics) of each step."""
    points: list[tuple[int, dict]] = []
    model = load_model(places.model, config=trial.engine_config())
    engine = make_engine(CompletionLogps(model), trial.engine_config())
    tables = [read_chats(places.tokens, split) for split in ("train", "validation")]
    train(
        trial.engine_config(),
        Conversations(*tables, engine, partial(epoch_order, len(tables[0]), trial.seed)),
        engine,
        passes,
        report=lambda metrics, step: points.append((step, metrics)),
        publish=lambda epoch, step: None,
        keep_passes=keep_passes,
    )
    return points


def losses(points: list[tuple[int, dict]]) -> list[float]:
    return [metrics["train/loss"] for _, metrics in points]


@pytest.fixture(scope="module")
def expected(trial, places) -> list[tuple[int, dict]]:
    return tuned(trial, places, Passes("padded", 100_000))


def nats_of(model: Any, table: Any, rows: Any) -> tuple[float, int]:
    """-sum log p of the learned tokens by the model's own logits, conversation by conversation, and their number."""
    total, count = 0.0, 0
    for row in rows:
        start = int(table.ends[row - 1]) if row else 0
        ids = torch.from_numpy(np.array(table.token_ids[start : table.ends[row]], dtype=np.int64))
        learned = np.flatnonzero(table.learned[start : table.ends[row]])
        with torch.no_grad():
            logps = torch.log_softmax(model(ids[None]).logits[0].double(), dim=1)
        total -= sum(float(logps[place - 1, ids[place]]) for place in learned)
        count += len(learned)
    return total, count


def test_the_first_loss_is_the_mean_over_learned_tokens_of_a_plain_forward_pass(trial, places, expected):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(places.model)
    table = read_chats(places.tokens, "train")
    nats, count = nats_of(model, table, epoch_order(len(table), trial.seed, 1)[:8])
    assert losses(expected)[0] == pytest.approx(nats / count, rel=1e-5)


def test_it_learns_and_says_so_of_conversations_it_does_not_see(expected):
    curve = [metrics["validation_curve/loss"] for _, metrics in expected if "validation_curve/loss" in metrics]
    assert [step for step, metrics in expected if "validation_curve/loss" in metrics] == [2, 4, 6, 8]
    assert curve[-1] < curve[0] and losses(expected)[-1] < losses(expected)[0]
    assert [metrics["train/epoch"] for _, metrics in expected][3::4] == [1.0, 2.0]


@pytest.mark.parametrize("passes", [Passes("packed", 100_000), Passes("packed", 60), Passes("padded", 60)], ids=str)
def test_layouts_and_pass_sizes_give_the_same_losses(trial, places, expected, passes):
    assert losses(tuned(trial, places, passes)) == pytest.approx(losses(expected), rel=1e-4)


def test_a_step_that_runs_out_of_memory_begins_again_with_smaller_passes(trial, places, expected):
    told: list[Passes] = []

    class Once(TorchEngine):
        """Its memory runs out in the second pass with gradient, once."""

        calls = 0

        def logps(self, one: Any, entropies: bool = False) -> Any:
            Once.calls += torch.is_grad_enabled()
            if Once.calls == 2:
                Once.calls += 1
                raise torch.OutOfMemoryError("says the test")
            return super().logps(one, entropies)

    points = tuned(trial, places, Passes("packed", 200), Once, told.append)
    assert len(told) == 1 and told[0].tokens < 200
    assert losses(points) == pytest.approx(losses(expected), rel=1e-4)


def test_a_loss_that_is_no_number_is_a_result(trial, places):
    with pytest.raises(Diverged, match="at step"):
        tuned(change(trial, {"learning_rate": 1e30, "warmup_share": 0.0}), places, Passes("packed", 200))


# --- a pre-trained model without a chat template


@pytest.fixture
def bare(model_folder, tmp_path) -> Path:
    """The model as it would be before instruction tuning: without a template, with another EOS."""
    folder = shutil.copytree(model_folder, tmp_path / "bare")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": "<|im_start|>"}))
    return folder


def test_a_model_without_a_template_gets_the_tokenizer_of_another(trial, bare, model_folder, tmp_path):
    with pytest.raises(InputError, match="has no chat template"):
        identify_sft(change(trial, {"model": str(bare)}), tmp_path)
    lent = change(trial, {"model": str(bare), "tokenizer_of": str(model_folder)})
    inputs = identify_sft(lent, tmp_path)
    assert inputs.model_folder.parent == tmp_path / "models"
    tokenizer = load_tokenizer(inputs.model_folder)
    assert tokenizer.chat_template and tokenizer.eos_token == "<|im_end|>"
    model, original = load_model(inputs.model_folder), load_model(bare)
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), original.parameters(), strict=True))
    assert identify_sft(lent, tmp_path).config == inputs.config


def test_a_model_with_a_template_keeps_its_own(trial, model_folder, tmp_path):
    own = change(trial, {"tokenizer_of": "nobody/has-this"})
    assert identify_sft(own, tmp_path).model_folder == model_folder


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(trial, bare, model_folder, tmp_path):
    config = json.loads((bare / "config.json").read_text())
    (bare / "config.json").write_text(json.dumps({**config, "vocab_size": 10}))
    with pytest.raises(InputError, match="with the same vocabulary"):
        identify_sft(change(trial, {"model": str(bare), "tokenizer_of": str(model_folder)}), tmp_path)

"""Options in a file: what is typed beside it, what is wrong with it, and the file that `mmpo config` prints."""

import json

import pytest

from mmpo.__main__ import main as mmpo
from mmpo_train.config import TrialConfig, replace, to_dict
from mmpo_train.errors import InputError
from mmpo_train.options import base_config
from mmpo_train.typed.options_file import read_options
from sweeps.plan.stages import stage_config
from sweeps.stage1_lr import Stage1Options, stage1
from sweeps.stage2_beta import Stage2Options, stage2
from tests.support.programs import parse

SWEEP = """
model: models/my-sft        # a comment
dataset: data/pairs.jsonl
objective: dpo
learning-rates: [1e-4, 0.00005]
epochs: 1
set: {pairs_per_step: 32}
evaluation:
  judges: [openai:some-model]
  cap_usd: 5
"""


@pytest.fixture
def written(tmp_path):
    def write(text: str, name: str = "sweep.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_a_file_gives_options_and_fields_of_the_trial(written):
    options = read_options(written(SWEEP), Stage1Options)
    assert options.dataset == ("data/pairs.jsonl",) and options.learning_rates == (1e-4, 5e-5)
    assert options.evaluation.judges == ("openai:some-model",) and options.evaluation.cap_usd == 5.0
    assert sorted(options.set) == ["epochs=1", "pairs_per_step=32"] and options.storage == Stage1Options.storage


def test_what_is_typed_counts_more_than_the_file(written):
    words = ["--config", str(written(SWEEP)), "--objective", "simpo", "--dataset", "a.jsonl", "--dataset", "b.jsonl"]
    options = parse("stage1", [*words, "--set", "epochs=3", "--evaluation.cap-usd", "1"])
    assert (options.objective, options.model, options.evaluation.cap_usd) == ("simpo", "models/my-sft", 1.0)
    assert options.dataset == ("a.jsonl", "b.jsonl") and options.evaluation.judges == ("openai:some-model",)
    config = stage_config(
        stage1(options), parse("stage1", [*words[:4], "--set", "epochs=3", "--model", "tiny"]), "fp32"
    )
    assert (config.epochs, config.pairs_per_step) == (3, 32)


def test_all_that_is_wrong_with_a_file_is_named_at_once(written):
    text = "modle: x\nseeds: two\nbetta: 0.1\nevaluation: {judge: a, generator: fast}\nset: {epochs: many, lora: 1}\n"
    with pytest.raises(InputError) as refused:
        read_options(written(text), Stage1Options)
    said = str(refused.value)
    for part in (
        "modle is no option of this program; did you mean 'model'?",
        "seeds must be a whole number, got 'two'",
        "betta is no option of this program; did you mean 'beta'?",
        "evaluation.judge is no option of this program; did you mean 'judges'?",
        "evaluation.generator must be one of auto, own, vllm, got 'fast'",
        "epochs must be a whole number, got 'many'",
        "set: lora is no field of the trial; did you mean",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("text", "said"), [("- a\n", "must have a line"), ("a: [1\n", "neither YAML nor JSON"), ("", "must have a line")]
)
def test_a_file_of_another_form_is_refused(written, text, said):
    with pytest.raises(InputError, match=said):
        read_options(written(text), Stage1Options)


def test_a_trials_own_file_gives_the_same_trial(written):
    """The grid of stage 1 decides the learning rate, and that of stage 2 beta; all else has the trial's digest."""
    trial = replace(TrialConfig(), {"objective": "dpo", "beta": 0.3, "epochs": 3, "pairs_per_step": 64, "seed": 7})
    path = written(json.dumps({"digest": trial.digest, "epoch": 1, "config": to_dict(trial)}), "trial.json")
    options = read_options(path, Stage2Options, Stage2Options.varied)
    assert options.learning_rate == trial.learning_rate
    config = replace(stage_config(stage2(options), options, "fp32"), {"beta": 0.3, "precision": trial.precision})
    assert replace(config, {"learning_rate": options.learning_rate}).digest == trial.digest
    first = read_options(path, Stage1Options, Stage1Options.varied)
    assert not [one for one in first.set if one.startswith(("learning_rate", "r_eps"))] and "beta=0.3" in first.set


def test_the_file_that_is_printed_gives_the_same_options(capsys, tmp_path, monkeypatch):
    words = [
        "--objective",
        "dpo",
        "--betas",
        "0.1",
        "0.5",
        "--set",
        "epochs=1",
        "--evaluation.judges",
        "openai:a",
        "tiny",
    ]
    mmpo(["config", "stage2", *words, "--learning-rate", "1e-4", "--seeds", "2"])
    path = tmp_path / "again.yaml"
    path.write_text(capsys.readouterr().out)
    again = read_options(path, Stage2Options)
    given = parse("stage2", [*words, "--learning-rate", "1e-4", "--seeds", "2"])
    assert again.recipe == "tiny" and again.dataset == ("tiny",)  # what the model stands for is written down
    assert base_config(again).digest == base_config(given).digest
    assert (again.betas, again.learning_rate, again.seeds, again.evaluation) == (
        *(given.betas, given.learning_rate, given.seeds, given.evaluation),
    )


def test_a_secret_is_not_printed(capsys):
    mmpo(["config", "stage1", "--tracking-uri", "https://me:verysecret1@host.example"])
    assert "verysecret1" not in capsys.readouterr().out


def test_a_field_typed_as_an_option_is_told_how_it_is_typed(capsys):
    with pytest.raises(SystemExit) as stop:
        mmpo(["stage1", "--epochs", "1", "--max-prompt-tokens=64"])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "give --set epochs=1" in said and "give --set max_prompt_tokens=64" in said


def test_fields_are_listed_with_meaning_and_default(capsys):
    mmpo(["fields", "warmup"])
    assert "warmup_share" in capsys.readouterr().out
    mmpo(["fields", "--sft", "turns"])
    assert "assistant" in capsys.readouterr().out

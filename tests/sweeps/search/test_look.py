"""What a person sees of the data before any model is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmpo_train.config import replace
from mmpo_train.data.tokens import read_table
from mmpo_train.options import Options, base_config
from mmpo_train.prepare import identify, tokenizer_of
from mmpo_train.terminal import console
from mmpo_train.tiny.model import build_untrained
from sweeps import stage1_lr
from sweeps.trials.in_process import InProcess
from tests.support.standins.missing import run_python


def words(model: Path, rows: list[dict], folder: Path) -> list[str]:
    """A command whose completions are cut to four tokens."""
    data = folder / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ("pairs_per_step=8", "epochs=1", "max_completion_tokens=4", "precision=fp32")
    given = [word for setting in settings for word in ("--set", setting)]
    return ["--model", str(model), "--dataset", str(data), "--storage", str(folder / "runs"), *given]


def test_a_dry_run_counts_what_is_cut_and_shows_examples_without_a_model_and_leaves_nothing(
    model_folder, preference_rows, tmp_path
):
    program = (
        "import sys\nfrom sweeps.stage1_lr import main\nmain(sys.argv[1:])\n"
        "print(sorted({'ray', 'deepspeed', 'mmpo_train.sft.tiny', 'mmpo_train.engines.engine'} & set(sys.modules)))"
    )
    more = ["--dry-run", "--show-examples", "1", "--learning-rates", "1e-3"]
    printed = run_python(program, *words(model_folder, preference_rows, tmp_path), *more)
    assert "cut: 0 prompts on the left, " in printed and " of 72 completions on the right" in printed
    assert "tokens cut here" in printed and "Add " in printed
    assert printed.index("tokens cut here") < printed.index("nothing was started")
    assert printed.endswith("[]\n") and not (tmp_path / "runs" / "tokens").exists()


def test_a_stage_shows_the_count_and_examples_before_the_runner_prepares_anything(
    model_folder, preference_rows, tmp_path, monkeypatch
):
    class Stop(Exception):
        pass

    def prepare(*_: object) -> None:
        raise Stop

    monkeypatch.setattr(InProcess, "prepare", prepare)
    given = [*words(model_folder, preference_rows, tmp_path), "--show-examples", "1", "--learning-rates", "1e-3"]
    with console.capture() as captured, pytest.raises(Stop):
        stage1_lr.main(given, InProcess())
    assert "completions on the right" in captured.get() and "tokens cut here" in captured.get()
    [folder] = (path for path in (tmp_path / "runs" / "tokens").iterdir() if path.is_dir())
    assert read_table(folder, "train").completion_tokens.max() == 4


def test_tiny_s_tokenizer_is_the_same_before_its_model_exists(tmp_path):
    inputs = identify(replace(base_config(Options()), {"precision": "fp32"}), tmp_path)
    before = tokenizer_of(inputs)
    build_untrained(inputs.model_folder)
    after = tokenizer_of(inputs)
    text = "user\nWhat is 3 plus 4? Étoile, 12.\nassistant\nIt is 7."
    turns = [{"role": "user", "content": "What is 3 plus 4?"}]
    assert before is not after and before(text)["input_ids"] == after(text)["input_ids"]
    assert before.apply_chat_template(turns, tokenize=False) == after.apply_chat_template(turns, tokenize=False)
    assert (before.eos_token_id, len(before)) == (after.eos_token_id, len(after))

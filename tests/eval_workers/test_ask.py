"""`mmpo ask`: answers in the terminal, beside those of another model."""

import io
import re
import sys

import pytest

from eval_workers.ask import AskOptions, ask, main
from mmpo_train.errors import InputError
from mmpo_train.terminal import console


def shown(monkeypatch, *words):
    monkeypatch.setattr(console, "_width", 120)
    with console.capture() as captured:
        main(list(words))
    return captured.get()


def test_the_starting_models_answer_stands_beside_the_models_own(model_folder, monkeypatch):
    printed = shown(
        monkeypatch,
        str(model_folder),
        "Add 3 and 4.",
        "--starting-model",
        str(model_folder),
        "--max-answer-tokens",
        "6",
    )
    [left, right] = re.findall(r"│ ([^│]+?) +│ ([^│]+?) +│", printed)[0]
    assert left == right and left.endswith("[…]") and "starting model random" in printed and "Add 3 and 4." in printed


def test_questions_are_typed_until_a_line_is_empty(model_folder, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("One?\nTwo?\n\nThree?\n"))
    printed = shown(monkeypatch, str(model_folder), "--max-answer-tokens", "2")
    assert "One?" in printed and "Two?" in printed and "Three?" not in printed and "starting model" not in printed


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(InputError):
        ask(AskOptions(path=str(tmp_path / "nowhere"), questions=("?",)))

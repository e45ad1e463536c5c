"""Examples as a person reads them."""

import pytest

from mmpo_train.chat.messages import Message
from mmpo_train.config import TrialConfig, replace
from mmpo_train.data.examples import as_columns, as_text, first_examples
from mmpo_train.data.rows import PreferenceExample
from mmpo_train.data.templates import Encoding, encode

EXAMPLE = PreferenceExample((Message("user", "Add 1 and 3."),), ("1 plus 3 is 4.", "5"), "pairs.json", 12)


def spans(text, style):
    """The pieces of a rich text that have a word in their style."""
    return [text.plain[span.start : span.end] for span in text.spans if style in str(span.style).split()]


@pytest.fixture
def whole(tokenizer):
    tokens = encode(EXAMPLE, tokenizer, Encoding(100, 100))
    return tokens, as_text(EXAMPLE, tokens, tokenizer)


def test_everything_that_the_model_sees_is_shown(whole):
    tokens, text = whole
    counts = f"prompt {len(tokens.prompt)}, chosen {len(tokens.completions[0])}, rejected 2"
    assert text.plain == (
        f"pairs.json row 12  tokens: {counts}\n"
        "prompt    <|im_start|>user\nAdd 1 and 3.<|im_end|><|im_start|>assistant\n\n"
        "chosen    1 plus 3 is 4.<|im_end|>\n"
        "rejected  5<|im_end|>"
    )


def test_special_tokens_stand_out_and_nothing_else_does(whole):
    _, text = whole
    assert spans(text, "reverse") == ["<|im_start|>", "<|im_end|>", "<|im_start|>", "<|im_end|>", "<|im_end|>"]


def test_every_scored_token_has_its_completions_colour(whole):
    _, text = whole
    assert "".join(spans(text, "green")) == "\nchosen    1 plus 3 is 4.<|im_end|>"
    assert "".join(spans(text, "red")) == "\nrejected  5<|im_end|>"


def test_what_was_cut_is_said_where_it_was_cut(tokenizer):
    uncut = encode(EXAMPLE, tokenizer, Encoding(100, 100))
    tokens = encode(EXAMPLE, tokenizer, Encoding(6, 3))
    text = as_text(EXAMPLE, tokens, tokenizer)
    lost = [len(uncut.prompt) - 6, len(uncut.completions[0]) - 3]
    assert spans(text, "yellow") == [
        f"✂ {lost[0]} tokens cut here ",
        f" ✂ {lost[1]} tokens cut here, the closing token among them",
    ]
    assert f"prompt    ✂ {lost[0]} tokens cut here {tokenizer.decode(tokens.prompt)}" in text.plain
    assert f"{tokenizer.decode(tokens.completions[0])} ✂ {lost[1]} tokens cut here" in text.plain


def test_markup_in_the_data_is_shown_as_it_stands(tokenizer):
    """Rich would take [red] for a colour and drop it."""
    example = PreferenceExample((Message("user", "[red]Add[/] 1"),), ("[bold]4", "5"), "pairs.json", 1)
    text = as_text(example, encode(example, tokenizer, Encoding(100, 100)), tokenizer)
    assert "[red]Add[/] 1" in text.plain and "[bold]4" in text.plain


def test_a_text_does_not_command_the_terminal(tokenizer):
    hostile = PreferenceExample(
        (Message("user", "Add\x1b]52;c;aGk=\x07 1\x9b31m."),), ("4\r", "5\t\n"), "pairs.json", 1
    )
    shown = as_text(hostile, encode(hostile, tokenizer, Encoding(100, 100)), tokenizer).plain
    assert not set(shown) & set(map(chr, [*range(9), *range(11, 32), *range(127, 160)]))


def test_columns_hold_the_same(tokenizer):
    tokens = encode(EXAMPLE, tokenizer, Encoding(6, 3))
    columns = as_columns([(EXAMPLE, tokens), (EXAMPLE, encode(EXAMPLE, tokenizer, Encoding(100, 100)))], tokenizer)
    assert columns["source"] == ["pairs.json row 12"] * 2
    assert columns["chosen"] == [tokenizer.decode(tokens.completions[0]), "1 plus 3 is 4.<|im_end|>"]
    assert columns["rejected"] == ["5<|im_end|>"] * 2
    assert columns["prompt"][1] == "<|im_start|>user\nAdd 1 and 3.<|im_end|><|im_start|>assistant\n"
    assert (columns["prompt_tokens"][0], columns["chosen_tokens"][0], columns["rejected_tokens"]) == (6, 3, [2, 2])
    assert columns["prompt_tokens"][1] == 6 + columns["prompt_tokens_cut"][0]
    assert columns["chosen_tokens"][1] == 3 + columns["chosen_tokens_cut"][0]
    assert columns["prompt_tokens_cut"][1] == columns["rejected_tokens_cut"][0] == 0


def test_first_examples_are_those_that_can_be_tokenised(tokenizer):
    """The first of three is the same after the cut; the last has three completions, and all are shown."""
    config = replace(TrialConfig(), {"max_completion_tokens": 2})
    same = PreferenceExample(EXAMPLE.prompt, ("4, I think.", "4, I guess."), "pairs.json", 1)
    ranked = PreferenceExample(EXAMPLE.prompt, ("4", "5", "6"), "pairs.json", 3)
    shown = first_examples([same, EXAMPLE, ranked, EXAMPLE], tokenizer, config, count=2)
    assert [example.row for example, _ in shown] == [12, 3]
    assert [len(tokens.completions) for _, tokens in shown] == [2, 3]
    assert as_text(*shown[1], tokenizer).plain.endswith(
        "\nchosen    4<|im_end|>\nrejected  5<|im_end|>\nrejected  6<|im_end|>"
    )
    columns = as_columns(shown, tokenizer)
    assert columns["rejected"] == ["5<|im_end|>", "5<|im_end|>", "6<|im_end|>"]
    assert columns["chosen"][1:] == ["4<|im_end|>"] * 2


def test_the_noise_candidate_is_shown_too(tokenizer):
    config = replace(TrialConfig(), {"noise_candidate": "only"})
    [(_, tokens)] = first_examples([EXAMPLE], tokenizer, config, count=1)
    assert sorted(tokens.completions[0]) == sorted(tokens.completions[1])

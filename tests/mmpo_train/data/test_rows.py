"""One row of preferences: which forms are understood, what is said about the others."""

import pytest

from mmpo_train.chat.messages import Message
from mmpo_train.chat.problems import RowProblem
from mmpo_train.data.rows import parse_row
from tests.support.preference_files import assistant, seven, user

USER = Message("user", "2 + 2?")
SYSTEM = Message("system", "Be brief.")


def parsed(row, negatives_from_rank=2):
    """The prompt and the completions."""
    row = parse_row(row, negatives_from_rank)
    return row.prompt, row.completions


def problem(row):
    with pytest.raises(RowProblem) as caught:
        parse_row(row)
    return caught.value


def test_text_columns_become_one_user_message_and_two_completions():
    assert parsed({"prompt": "2 + 2?", "chosen": "4", "rejected": "5", "score": 1}) == ((USER,), ("4", "5"))


def test_text_is_kept_as_it_stands():
    row = {"prompt": "  2 + 2?\n", "chosen": "4 ", "rejected": "\n5"}
    assert parsed(row) == ((Message("user", "  2 + 2?\n"),), ("4 ", "\n5"))


def test_ultrafeedback_row_takes_its_prompt_from_the_turns():
    row = {
        "prompt": "2 + 2?",
        "prompt_id": "f0e37e9f",
        "chosen": [user("2 + 2?"), assistant("4")],
        "rejected": [user("2 + 2?"), assistant("5")],
        "messages": [user("2 + 2?"), assistant("4")],
        "score_chosen": 8.0,
        "score_rejected": 3.0,
    }
    assert parsed(row) == ((USER,), ("4", "5"))


@pytest.mark.parametrize("prompt", ["2 + 2?", "Be brief.\n2 + 2?", "Be brief.", None])
def test_orca_row_keeps_the_system_message_in_front(prompt):
    head = [{"role": "system", "content": "Be brief."}, user("2 + 2?")]
    row = {"prompt": prompt, "chosen": [*head, assistant("4")], "rejected": [*head, assistant("5")]}
    assert parsed(row) == ((SYSTEM, USER), ("4", "5"))


def test_empty_system_message_is_left_out():
    head = [{"role": "system", "content": ""}, user("2 + 2?")]
    row = {"prompt": "2 + 2?", "chosen": [*head, assistant("4")], "rejected": [*head, assistant("5")]}
    assert parsed(row) == ((USER,), ("4", "5"))


def test_explicit_prompt_messages_take_completions_of_one_turn():
    head = [user("hi"), assistant("hello"), user("2 + 2?")]
    row = {"prompt": head, "chosen": [assistant("4")], "rejected": [assistant("5")]}
    prompt, completions = parsed(row)
    assert [message.role for message in prompt] == ["user", "assistant", "user"]
    assert completions == ("4", "5")


def test_prompt_messages_repeated_in_chosen_and_rejected_count_once():
    head = [{"role": "system", "content": "Be brief."}, user("2 + 2?")]
    row = {"prompt": head, "chosen": [*head, assistant("4")], "rejected": [*head, assistant("5")]}
    assert parsed(row) == ((SYSTEM, USER), ("4", "5"))


def test_system_of_the_prompt_column_is_kept_when_the_turns_leave_it_out():
    row = {
        "prompt": [{"role": "system", "content": "Be brief."}, user("2 + 2?")],
        "chosen": [user("2 + 2?"), assistant("4")],
        "rejected": [user("2 + 2?"), assistant("5")],
    }
    assert parsed(row) == ((SYSTEM, USER), ("4", "5"))


def test_prompt_text_that_the_turns_do_not_hold_is_not_lost_unseen():
    turns = [user("2 + 2?")]
    row = {"prompt": "A story.", "chosen": [*turns, assistant("4")], "rejected": [*turns, assistant("5")]}
    assert problem(row).reason == "prompts of chosen and rejected differ"


def test_sharegpt_row_with_system_column():
    row = {
        "system": "Be brief.",
        "conversations": [
            {"from": "human", "value": "hi"},
            {"from": "gpt", "value": "hello"},
            {"from": "human", "value": "2 + 2?"},
        ],
        "chosen": {"from": "gpt", "value": "4"},
        "rejected": {"from": "assistant", "value": "5"},
    }
    prompt, completions = parsed(row)
    assert prompt == (SYSTEM, Message("user", "hi"), Message("assistant", "hello"), USER)
    assert completions == ("4", "5")


def test_nectar_row_is_parsed_into_turns_and_ordered_by_rank():
    row = {
        "prompt": "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: 2 + 2?\n\nAssistant: ",
        "answers": [
            {"answer": "5", "model": "a", "rank": 3.0},
            {"answer": "4", "model": "b", "rank": 1.0},
            {"answer": "four", "model": "c", "rank": 2.0},
        ],
    }
    prompt, completions = parsed(row)
    assert prompt == (Message("user", "hi"), Message("assistant", "hello"), USER)
    assert completions == ("4", "four", "5")


def test_completions_with_ranks_put_rank_one_first():
    row = {"prompt": "2 + 2?", "completions": ["5", "4", "four"], "ranks": [3, 1, 2]}
    assert parsed(row) == ((USER,), ("4", "four", "5"))


def test_answer_tied_with_the_best_is_no_negative():
    row = {"prompt": "2 + 2?", "completions": ["4", "four", "5", "4"], "ranks": [1, 1, 2, 3]}
    assert parsed(row)[1] == ("4", "5")


def test_ranked_answers_that_all_tie_are_unusable():
    row = {"prompt": "2 + 2?", "completions": ["4", "four"], "ranks": [1, 1]}
    assert problem(row).reason == "nothing ranked below the chosen"


@pytest.mark.parametrize(
    ("ranks", "kept", "left_out"),
    [
        ((1, 2, 3, 4, 5, 6, 7), "acdefg", 1),
        # 0 is best, so 1 is the second rank.
        ((0, 1, 2, 3, 4, 5, 6), "acdefg", 1),
        # Rank 2 was left out before.
        ((1, 3, 4, 5, 6, 7), "abcdef", 0),
        # b ties with the best; c and d share the second rank.
        ((1, 1, 2, 2, 3, 4, 5), "aefg", 3),
        # The lowest rank stays, whatever it is, with all that have it.
        ((1, 2, 2), "abc", 0),
        ((1, 2), "ab", 0),
        ((1, 1, 2), "ac", 1),
    ],
)
def test_rank_two_is_left_out_as_of_nectar(ranks, kept, left_out):
    row = parse_row(seven(ranks), negatives_from_rank=3)
    assert (row.completions, row.left_out) == (tuple(kept), left_out)


def test_from_rank_two_all_are_kept_and_from_beyond_the_last_only_the_lowest():
    assert [parsed(seven(), rank)[1] for rank in (2, 4, 7, 100)] == [
        tuple("abcdefg"),
        tuple("adefg"),
        ("a", "g"),
        ("a", "g"),
    ]


def test_ranks_of_pairs_do_not_matter():
    row = {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}
    assert parsed(row, 9) == ((USER,), ("4", "5"))


def test_hh_rlhf_transcripts_share_their_prompt():
    head = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: 2 + 2?\n\nAssistant:"
    prompt, completions = parsed({"chosen": f"{head} 4", "rejected": f"{head} 5"})
    assert [message.role for message in prompt] == ["user", "assistant", "user"]
    assert completions == ("4", "5")


def test_instruction_with_input_and_question_with_system_stand_for_the_prompt():
    answers = {"chosen": "4", "rejected": "5"}
    assert parsed({"instruction": "Add.", "input": "2 + 2", **answers})[0] == (Message("user", "Add.\n2 + 2"),)
    assert parsed({"instruction": "Add.", "input": "", **answers})[0] == (Message("user", "Add."),)
    assert parsed({"system": "Be brief.", "question": "2 + 2?", **answers})[0] == (SYSTEM, USER)


def test_turns_before_the_completion_must_agree():
    row = {"chosen": [user("2 + 2?"), assistant("4")], "rejected": [user("2 + 3?"), assistant("5")]}
    found = problem(row)
    assert found.severity == "unusable"
    assert "turn 1 is user '2 + 2?' and user '2 + 3?'" in found.detail


@pytest.mark.parametrize(
    "row, reason",
    [
        (
            {"prompt": [user("a"), assistant("b")], "chosen": "4", "rejected": "5"},
            "prompt does not end with a user turn",
        ),
        ({"prompt": "a", "chosen": [user("a"), user("b")], "rejected": "5"}, "completion is not an assistant turn"),
        (
            {"prompt": [user("a"), {"role": "narrator", "content": None}], "chosen": "4", "rejected": "5"},
            "unknown role",
        ),
    ],
)
def test_conversation_without_a_completion_to_a_user_turn_is_unusable(row, reason):
    found = problem(row)
    assert (found.reason, found.severity) == (reason, "unusable")


@pytest.mark.parametrize(
    "row, said",
    [
        ({"prompt": "a", "chosen": 3, "rejected": "5"}, "chosen should be text or messages, found a number 3"),
        ({"prompt": 7, "chosen": "4", "rejected": "5"}, "prompt should be text, found a number 7"),
        ({"prompt": ["a"], "chosen": "4", "rejected": "5"}, "prompt[1] should be a message, found 'a'"),
        ({"prompt": [{"text": "a"}], "chosen": "4", "rejected": "5"}, "prompt[1] should have role and content"),
        ({"prompt": "a", "chosen": "\ud83d", "rejected": "5"}, "half a surrogate pair"),
        ({"prompt": "a", "completions": ["4", "5"], "ranks": [1]}, "2 completions but 1 ranks"),
        ({"prompt": "a", "completions": ["4", "5"], "ranks": [1, "second"]}, "rank 2 should be a number"),
        ({"prompt": "a", "answers": ["4", "5"]}, "answers[1]: expected an object with answer and rank"),
        (["a", "4", "5"], "expected an object with named columns, found a list"),
    ],
)
def test_wrong_types_say_what_was_found(row, said):
    found = problem(row)
    assert found.severity == "malformed"
    assert said in found.detail


def test_missing_columns_are_named_together_with_those_that_come_near():
    found = problem({"question_text": "a", "Chosen": "4", "reject": "5"})
    assert found.detail == (
        "no 'prompt', no 'chosen' (did you mean 'Chosen'?), no 'rejected' (did you mean 'reject'?); "
        "columns: question_text, Chosen, reject"
    )

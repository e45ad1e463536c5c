"""Arena-Hard's folders: both upstream forms as read and as written, and every way in which a line can be wrong."""

import json

import pytest

from eval_workers.arena.data import Question, read_answers, read_questions, usual_baseline, write_answers
from mmpo_train.errors import InputError
from tests.support.arena_folders import NEW, OLD, folder_with, new_answer, old_answer


def test_questions_of_both_versions_are_read(tmp_path):
    old, new = folder_with(tmp_path / "old", OLD), folder_with(tmp_path / "new", NEW)
    assert read_questions(old) == [
        Question("q1", "arena-hard-v0.1", "What is 2 + 2?", "v0.1"),
        Question("q2", "arena-hard-v0.1", "Rhyme – please", "v0.1"),
    ]
    assert read_questions(new) == [
        Question("u1", "hard_prompt", "Sort a list.", "v2.0"),
        Question("u2", "creative_writing", "Write a\nlimerick.", "v2.0"),
    ]
    assert [question.name for question in read_questions(new, limit=1)] == ["u1"]


def test_answers_of_both_versions_come_in_the_questions_order(tmp_path):
    """Those of v2.0 are text, or text among other things; of two answers the last one counts."""
    old = folder_with(
        tmp_path / "old", OLD, m=[old_answer("q2", "two"), old_answer("q1", "one"), old_answer("q3", "?")]
    )
    assert read_answers(old, "m", read_questions(old)) == ["one", "two"]
    rows = [new_answer("u1", {"answer": "early"}), new_answer("u2", "text"), new_answer("u1", {"answer": "late"})]
    new = folder_with(tmp_path / "new", NEW, m=rows)
    assert read_answers(new, "m", read_questions(new)) == ["late", "text"]


def test_a_byte_order_mark_empty_lines_and_odd_line_ends_do_no_harm(tmp_path):
    rows = "\ufeff" + "\r\n\r\n".join(
        json.dumps(row, ensure_ascii=False) for row in [*OLD, {**OLD[0], "question_id": 3}]
    )
    rows = rows.replace("please", "please\u2028now")
    questions = read_questions(folder_with(tmp_path, rows))
    assert [question.name for question in questions] == ["q1", "q2", "3"]
    assert questions[1].text == "Rhyme – please\u2028now"


def test_the_usual_baselines_are_upstreams():
    def baseline(category, version):
        return usual_baseline(Question("q", category, "?", version))

    assert baseline("arena-hard-v0.1", "v0.1") == "gpt-4-0314"
    assert {baseline(category, "v2.0") for category in ("hard_prompt", "coding", "math")} == {"o3-mini-2025-01-31"}
    assert baseline("creative_writing", "v2.0") == "gemini-2.0-flash-001"
    with pytest.raises(InputError, match="category 'cooking', which has no usual baseline.*name the baseline"):
        baseline("cooking", "v2.0")


@pytest.mark.parametrize("rows", [OLD, NEW], ids=["v0.1", "v2.0"])
def test_answers_are_written_in_the_form_they_are_read_in(tmp_path, rows):
    questions = read_questions(folder_with(tmp_path, rows))
    path = write_answers(tmp_path, "ours", questions, ["", "half a pair \ud800"], [0, 7])
    assert read_answers(tmp_path, "ours", questions) == ["", "half a pair \ud800"]
    row = json.loads(path.read_text().splitlines()[1])
    if rows is OLD:
        turns = [{"content": "half a pair \ud800", "token_len": 7}]
        assert row == {"question_id": "q2", "model_id": "ours", "choices": [{"index": 0, "turns": turns}]}
    else:
        assert row["messages"][0] == {"role": "user", "content": "Write a\nlimerick."}
        assert row["messages"][1] == {"role": "assistant", "content": {"answer": "half a pair \ud800"}}
        assert row["metadata"] == {"token_len": 7} and row["model"] == "ours"


@pytest.mark.parametrize(
    "line, problem",
    [
        ("{", "is not JSON"),
        ("[1]", "is a list, expected a JSON object"),
        ({"prompt": "?"}, r"has no name; expected question_id \(v0.1\) or uid \(v2.0\)"),
        ({"uid": "u9"}, "has neither a prompt nor turns, expected prompt"),
        ({"uid": "u9", "prompt": "  "}, 'prompt should be text, found "  "'),
        ({"question_id": "q9", "turns": [{"content": "a"}, {"content": "b"}]}, "has 2 turns, expected"),
        ({"question_id": "q9", "turns": [{"content": ["a", "picture"]}]}, r"turns\[0\].content should be text"),
        (NEW[0], "question 'u1' occurs twice"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else str(value)[:30],
)
def test_a_bad_question_is_named_by_file_and_line(tmp_path, line, problem):
    text = line if isinstance(line, str) else json.dumps(line)
    with pytest.raises(InputError, match=f"line 3 of .*question.jsonl.*{problem}"):
        read_questions(folder_with(tmp_path, f"{json.dumps(NEW[0])}\n\n{text}\n"))


@pytest.mark.parametrize(
    "row, problem",
    [
        (new_answer("u1", None), r"assistant's content \(or its answer\) should be text, found null"),
        (new_answer("u1", {"thought": "hm"}), "should be text, found null"),
        ({"uid": "u1", "messages": [{"role": "user", "content": "asked"}]}, "end with one whose role is assistant"),
        ({"uid": "u1", "messages": []}, "end with one whose role is assistant"),
        ({"question_id": "u1"}, r"should hold choices: .* or messages \(v2.0\)"),
        ({"question_id": "u1", "choices": []}, "should hold choices"),
    ],
)
def test_a_bad_answer_is_named_by_file_and_line(tmp_path, row, problem):
    folder = folder_with(tmp_path, NEW, m=[row])
    with pytest.raises(InputError, match=f"line 1 of .*m.jsonl.*{problem}"):
        read_answers(folder, "m", read_questions(folder))


def test_what_is_missing_is_named_with_what_is_there(tmp_path):
    folder = folder_with(tmp_path, NEW, strong=[new_answer("u1", "text")], weak=[])
    questions = read_questions(folder)
    with pytest.raises(InputError, match=r"lacks answers to 1 of 2 questions \(the first: u2\)"):
        read_answers(folder, "strong", questions)
    with pytest.raises(InputError, match=r"o3.jsonl does not exist; name a baseline .*\(strong, weak\)"):
        read_answers(folder, "o3", questions)
    with pytest.raises(InputError, match=r"question.jsonl cannot be read \(No such file"):
        read_questions(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="has no questions"):
        read_questions(folder_with(tmp_path / "empty", ""))

"""Preference data of a trial: mixtures, bad rows and the audit."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from mmpo_train.data.preferences import load_preferences
from tests.support.preference_files import (
    assistant,
    everything,
    load_file,
    pair,
    pairs,
    refusal,
    refused_rows,
    seven,
    user,
    write,
)

REPOSITORY = Path(__file__).resolve().parents[3]


def test_embedded_ranked_answers_have_the_prompts_of_the_embedded_pairs():
    """Rank 2 is left out of 1024 + 512 prompts; most train prompts have five negatives, some fewer."""
    ranked, plain = load_preferences(["tiny_ranked"]), load_preferences(["tiny"])
    assert [example.prompt for example in ranked.train] == [example.prompt for example in plain.train]
    assert [example.prompt for example in ranked.validation] == [example.prompt for example in plain.validation]
    assert Counter(len(example.completions) - 1 for example in ranked.train) == {5: 726, 4: 197, 3: 101}
    assert {len(example.completions) for example in ranked.validation} == {2}
    assert ranked.audit.answers_left_out == 1536


def test_embedded_pairs_are_those_they_have_always_been():
    """Trials are named by this."""
    expected = "9a2728359f266e7b19e8830d6ea5ffdfa9c28e1a546761f663370f49bfb0dd86"
    assert load_preferences(["tiny"]).fingerprint == expected


def test_preference_demo_file_is_used_whole():
    """300 ShareGPT rows with 295 prompts, of which a tenth is held out: 30 (29.5, to even)."""
    path = REPOSITORY / ".." / "shared" / "data" / "preferences" / "dpo_en_demo.json"
    if not path.exists():
        pytest.skip("the demo data is not beside this checkout")
    data = load_preferences([str(path)])
    examples = everything(data)
    roles = Counter(tuple(message.role for message in example.prompt) for example in examples)
    assert len(examples) + sum(map(len, data.audit.parts[0].dropped.values())) == 300
    assert len({example.prompt for example in examples}) == 295
    assert len({example.prompt for example in data.validation}) == 30
    assert roles[("system", "user")] == 80
    assert examples[0].prompt[0].content.startswith("Hi! I'd like to create a new language game")


def test_mixture_joins_sources_in_the_order_given(tmp_path):
    one = write(tmp_path / "one.json", pairs(20))
    two = write(tmp_path / "two.jsonl", [pair(number) for number in range(100, 110)])
    data = load_preferences([two, one])
    assert [example.source for example in data.train] == [two] * 9 + [one] * 18
    assert [example.source for example in data.validation] == [two] + [one] * 2


def test_prompt_shared_by_two_held_out_sources_stays_on_one_side(tmp_path):
    """The first source alone holds out a prompt that the second alone would train on."""
    sources = [
        write(tmp_path / f"{size}.json", [pair(number, rejected=f"no {size}") for number in range(size)])
        for size in (10, 30)
    ]
    one, two = (load_preferences([source], validation_share=0.3) for source in sources)
    assert {example.prompt for example in one.validation} & {example.prompt for example in two.train}
    data = load_preferences(sources, validation_share=0.3)
    assert not {example.prompt for example in data.train} & {example.prompt for example in data.validation}
    assert data.audit.shared_prompts == 0


def test_validation_prompts_also_in_train_are_kept_and_counted(tmp_path):
    write(tmp_path / "train.jsonl", pairs(4))
    write(tmp_path / "test.jsonl", [pair(3, rejected="never"), pair(7)])
    data = load_preferences([str(tmp_path)])
    assert len(data.validation) == 2
    assert data.audit.shared_prompts == 1
    assert "warning: 1 validation prompts also in train" in data.audit.lines()


def test_all_bad_rows_of_a_source_are_reported_at_once(tmp_path):
    rows = [
        pair(0),
        {"prompt": "a", "chosen": "4"},
        pair(2, rejected=" \n"),
        {"prompt": "", "chosen": "4", "rejected": "5"},
        pair(4, chosen="no"),
        "text",
        pair(6, chosen=1),
        pair(7, chosen=""),
    ]
    message = refused_rows(tmp_path, rows)
    path = tmp_path / "pairs.json"
    assert message.splitlines()[0] == f"{path}: 7 of 8 rows refused"
    assert "  2 x empty completion" in message
    assert f"{path}, row 2: no 'rejected'; columns: prompt, chosen" in message
    assert f"{path}, row 3: rejected is empty" in message
    assert f"{path}, row 4: the prompt is empty" in message
    assert f"{path}, row 5: chosen and rejected are the same text, 'no'" in message
    assert f"{path}, row 6: expected an object with named columns, found 'text'" in message
    assert "and 2 more" in message
    assert "--drop-bad-rows" in message


def test_drop_bad_rows_drops_and_counts_them(tmp_path):
    rows = [pair(0), {"prompt": "a"}, pair(2, rejected=""), pair(3, chosen="no"), "text", pair(5)]
    audit = load_file(tmp_path, rows, drop_bad_rows=True).audit
    (part,) = audit.parts
    assert (part.rows, part.kept) == (6, 2)
    assert part.dropped == {
        "missing column": [2],
        "empty completion": [3],
        "chosen equals rejected": [4],
        "not an object": [5],
    }
    assert json.loads(json.dumps(audit.as_dict()))["parts"][0]["kept"] == 2


def test_duplicates_and_other_unusable_rows_are_dropped_and_counted(tmp_path):
    rows = [pair(0), pair(1), pair(0), {"prompt": "a", "completions": ["4", "5"], "ranks": [1, 1]}]
    audit = load_file(tmp_path, rows).audit
    assert audit.parts[0].dropped == {"exact duplicate": [3], "nothing ranked below the chosen": [4]}
    assert audit.lines() == [
        f"{tmp_path / 'pairs.json'} (train): 2 of 4 rows kept, 2 dropped",
        "  dropped 1: exact duplicate (row 3)",
        "  dropped 1: nothing ranked below the chosen (row 4)",
        "train 1, validation 1 (1 held out by prompt); completions per train prompt: 1 of 2",
    ]


def test_strict_refuses_unusable_rows_too(tmp_path):
    message = refused_rows(tmp_path, [pair(0), pair(1), pair(0)], strict=True)
    path = tmp_path / "pairs.json"
    assert f"{path}, row 3: the same as row 1 of {path}" in message
    assert "--strict" in message
    assert "pass one of the two" in refused_rows(tmp_path, pairs(3), strict=True, drop_bad_rows=True)


def test_nothing_left_says_why_and_names_the_first_rows(tmp_path):
    message = refused_rows(tmp_path, [pair(n, chosen="no") for n in range(9)], drop_bad_rows=True)
    assert "none of 9 rows can be used" in message
    assert "9 x chosen equals rejected" in message
    assert "row 1: chosen and rejected are the same text" in message
    assert "and 4 more" in message


def test_what_is_kept_and_doubtful_is_counted_and_strictly_refused(tmp_path):
    rows = [pair(0), pair(1), pair(0, "no", "yes"), {**pair(2), "score_chosen": 1, "score_rejected": 2}]
    audit = load_file(tmp_path, rows).audit
    noted = {"the opposite of another row": [3], "chosen rated below rejected": [4]}
    assert audit.parts[0].dropped == {} and audit.parts[0].noted == noted
    assert "  noted 1: the opposite of another row (row 3)" in audit.lines()
    message = refused_rows(tmp_path, rows, strict=True)
    assert "2 of 4 rows refused" in message and "another row prefers what this one rejects" in message


def test_a_ranking_may_be_the_opposite_of_a_pair(tmp_path):
    rows = [{"prompt": "a", "completions": ["1", "2", "3"], "ranks": [1, 2, 3]}, pair(1), pair(2)]
    rows += [{"prompt": "a", "chosen": "3", "rejected": "1"}, {"prompt": "a", "chosen": "2", "rejected": "3"}]
    audit = load_file(tmp_path, rows, negatives_from_rank=2).audit
    assert audit.parts[0].noted == {"the opposite of another row": [4]}


def test_columns_that_are_not_read_are_named_once_whatever_the_files(tmp_path):
    write(tmp_path / "train.jsonl", [{**pair(n), "source": "x", "reasoning": "since"} for n in range(3)])
    write(tmp_path / "test.jsonl", [{**pair(9), "reasoning": "since", "id": 3}])
    audit = load_preferences([str(tmp_path)]).audit
    assert audit.unused == {"source": 3, "reasoning": 4, "id": 1}
    assert "not used: source, id" in audit.lines()
    assert "warning: not used, though it may change what is meant: reasoning (4 rows)" in audit.lines()
    assert "the row holds reasoning, which is not used" in refusal([tmp_path], strict=True)
    assert json.loads(json.dumps(audit.as_dict()))["unused"]["reasoning"] == 4


def test_what_strict_refuses_is_no_format_that_is_read_otherwise(tmp_path):
    rows = [{"prompt": f"Name {n}?", "chosen": f"Name {n}? a</s>", "rejected": f"Name {n}? b</s>"} for n in range(4)]
    data = load_file(tmp_path, rows, strict=True)
    assert data.train[0].completions == ("a", "b")
    assert set(data.audit.parts[0].noted) == {"end tokens taken off", "prompt taken off the completions"}


def test_many_bad_rows_are_counted_and_the_first_are_shown(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' + "{}\n" * 20_000)
    message = refusal([path])
    assert "20000 of 20001 rows refused" in message and "and 19995 more" in message
    assert len(message) < 2_000


def turns(question, answer):
    return [user(question), assistant(answer)]


def good_and_bad(spell):
    return {"chosen": spell("good"), "rejected": spell("bad")}


def test_tools_are_part_of_what_a_row_is(tmp_path):
    tools = {"tools": [{"name": "weather"}]}
    plain, other = (load_file(tmp_path, [{**row, **added} for row in pairs(5)]) for added in ({}, tools))
    assert plain.fingerprint != other.fingerprint and plain.content != other.content
    assert json.loads(other.train[0].tools)[0]["function"] == {"name": "weather"}
    data = load_file(tmp_path, [pair(0), {**pair(0), **tools}, pair(1)])
    assert data.audit.parts[0].dropped == {}


# The SHA-256 of what each form held before the reader knew transcripts, tools and end tokens: trials are named by it.
FORMS = {
    "text": lambda n: {"prompt": f"Wie geht's {n}?\n", "chosen": f" ja, schön {n} ", "rejected": f"nein\u2028{n}"},
    "ultrafeedback": lambda n: {
        "prompt": f"Q {n}",
        "prompt_id": str(n),
        **good_and_bad(lambda word: turns(f"Q {n}", f"{word} {n}")),
        "messages": turns(f"Q {n}", f"good {n}"),
        "score_chosen": 8.0,
        "score_rejected": 8.0 - n % 3,
    },
    "orca": lambda n: {
        "system": "Be brief." if n % 2 else "",
        "question": f"Q {n}",
        **good_and_bad(lambda word: f"{word} {n}"),
    },
    "sharegpt": lambda n: {
        "system": "S",
        "conversations": [
            {"from": "human", "value": f"hi {n}"},
            {"from": "gpt", "value": "hello"},
            {"from": "human", "value": f"Q {n}"},
        ],
        **good_and_bad(lambda word: {"from": "gpt", "value": f"{word} {n}"}),
    },
    "nectar": lambda n: {
        "prompt": f"\n\nHuman: hi\n\nAssistant: hello\n\nHuman: Q {n}\n\nAssistant: ",
        "answers": [
            {"answer": f"{word} {n}", "rank": float(rank), "model": "m"}
            for rank, word in enumerate(["best", "second", "third", "fourth"], 1)
        ],
    },
    "ranks": lambda n: {
        "prompt": f"Q {n}",
        "completions": [f"worse {n}", f"best {n}", f"middle {n}"],
        "ranks": [3, 1, 2],
    },
    "hh": lambda n: good_and_bad(lambda word: f"\n\nHuman: Q {n}\n\nAssistant: {word} {n}"),
    "instruction": lambda n: {
        "instruction": f"Add {n}.",
        "input": "2 + 2" if n % 2 else "",
        **good_and_bad(lambda word: f"{word} {n}"),
    },
    "implicit messages": lambda n: good_and_bad(
        lambda word: [{"role": "system", "content": "S"}, *turns(f"Q {n}", f"{word} {n}")]
    ),
}
FINGERPRINTS = {
    "text": "35c097a7b023a2ce51249650a42c6ed96a84065e0d7960bc6ef06a92d3ea765e",
    "ultrafeedback": "f7a6871fb38bf33b73aa72a9e8821ae6c78b32e8680a974d4b10b053ad462cc6",
    "orca": "f1a4e4fbfe25ae2cb3857b93e3ac367738782d2c0d1b530869a98b75cf266b81",
    "sharegpt": "707d247bdd85e1cfd66bb6c57ecca667e6fe36503f1f26cb237c6cb2d038eb43",
    "nectar": "f58ada0b7d32763c8de3c4cb987674899c61dc488da331c56dcae17033a4ad5a",
    "ranks": "a3afb64c284e98804839af281b0c70ff4210c651f7cfdea2889867f113ffdc96",
    "hh": "f7a6871fb38bf33b73aa72a9e8821ae6c78b32e8680a974d4b10b053ad462cc6",
    "instruction": "e6e13da7e28fcf6b39fd47c1177f40d59bc01324db15594506ff91a041de6909",
    "implicit messages": "ed062c8cd3344be333a94619a578d062ca23fda9f8d508f9a09e1d9a2bca89b6",
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_that_were_read_right_have_the_fingerprints_that_they_had(tmp_path, form):
    assert load_file(tmp_path, [FORMS[form](n) for n in range(12)]).fingerprint == FINGERPRINTS[form]


def test_the_content_is_the_same_however_it_is_split_and_chosen_from(tmp_path):
    rows = [seven(number=n) for n in range(12)]
    one = load_file(tmp_path, rows)
    others = [
        load_file(tmp_path, rows, **options)
        for options in ({"seed": 7}, {"negatives_from_rank": 5}, {"worst_negatives": 1}, {"validation_share": 0.5})
    ]
    assert {data.content for data in others} == {one.content}
    assert one.fingerprint not in {data.fingerprint for data in others}
    assert load_file(tmp_path, rows[:-1]).content != one.content


def test_options_that_make_no_sense_are_refused_together():
    bad = {"validation_share": 1.0, "negatives_from_rank": 1, "worst_negatives": -1}
    message = refusal([], strict=True, drop_bad_rows=True, **bad)
    assert len(message.splitlines()) == 5


def test_importing_preferences_imports_no_heavy_library():
    heavy = "{'torch', 'ray', 'mlflow', 'datasets', 'pyarrow', 'transformers', 'huggingface_hub', 'fsspec'}"
    code = f"import sys, mmpo_train.data.preferences; print(sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert run.stdout.strip() == "[]"

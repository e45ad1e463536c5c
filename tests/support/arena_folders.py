"""Arena-Hard's folders in both upstream forms."""

import json

NEW = [
    {"uid": "u1", "category": "hard_prompt", "subcategory": "coding", "prompt": "Sort a list."},
    {"uid": "u2", "category": "creative_writing", "subcategory": "creative_writing", "prompt": "Write a\nlimerick."},
]


OLD = [
    {"question_id": "q1", "category": "arena-hard-v0.1", "cluster": "Maths", "turns": [{"content": "What is 2 + 2?"}]},
    {"question_id": "q2", "category": "arena-hard-v0.1", "cluster": "Prose", "turns": [{"content": "Rhyme – please"}]},
]


def folder_with(folder, questions, **answers):
    """A folder in upstream's form; rows, or text as it is."""
    for path, rows in [("question", questions), *((f"model_answer/{name}", rows) for name, rows in answers.items())]:
        file = folder / f"{path}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows))
    return folder


def new_answer(name, content):
    messages = [{"role": "user", "content": "asked"}, {"role": "assistant", "content": content}]
    return {"uid": name, "ans_id": "x", "model": "m", "messages": messages}


def old_answer(name, text):
    turns = [{"content": text, "token_len": 3}]
    return {"question_id": name, "answer_id": "x", "model_id": "m", "choices": [{"index": 0, "turns": turns}]}

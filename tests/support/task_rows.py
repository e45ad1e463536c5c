"""Made-up documents of LM Harness tasks."""

import json


def rows_of(task, number):
    """A made-up document in the task's own columns, as the hub has them."""
    right, label = number % 2, "ABCDE"[number % 4]
    options = {"text": [f"{number} apples", "a lamp", "two", f"the number {number}"], "label": ["A", "B", "C", "D"]}
    match task:
        case "winogrande":
            return {
                "sentence": f"Add {number} to the lamp because the _ is number {number}.",
                "option1": "lamp",
                "option2": "sum",
                "answer": str(1 + right),
            }
        case "arc_easy" | "arc_challenge":
            return {"id": str(number), "question": f"What is {number} plus 3?", "choices": options, "answerKey": label}
        case "piqa":
            return {
                "goal": f"add {number} and 3",
                "sol1": f"Say {number + 3}.",
                "sol2": "Please guess.",
                "label": right,
            }
        case "hellaswag":
            return {
                "activity_label": "Adding",
                "ctx_a": f"A person adds {number}.",
                "ctx_b": "the person",
                "endings": [f"says {number}.", "sleeps [title] well.", "goes away and adds more.", "is glad."],
                "label": str(number % 4),
            }
        case "openbookqa":
            return {"question_stem": f"The number {number} is", "choices": options, "answerKey": label}
        case "mathqa":
            listed = ", ".join(f"{letter} ) {number + place}" for place, letter in enumerate("abcde"))
            return {"Problem": f"add {number} and 1", "options": listed, "correct": "abcde"[number % 5]}
        case "race":
            first = {"question": "What is it?", "answer": "B", "options": ["one", "two", "a lamp", "a sum"]}
            last = {"question": f"Is it {number}?", "answer": label, "options": [f"{number}", "yes", "no", "maybe so"]}
            return {"article": f"It is {number}. " * 9, "problems": str([first, last])}
        case "commonsense_qa":
            five = {"label": list("ABCDE"), "text": ["one", "two", "three", "four", str(number)]}
            return {"question": f"How many are {number}?", "choices": five, "answerKey": label}
    raise AssertionError(task)


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

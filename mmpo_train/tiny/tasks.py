"""The small world of `tiny`: questions with one right answer, people's typical mistakes, and a judge.

A family is a handful of phrasings of one kind of question. Whatever is written about a question (its prompt, a
good answer, a sloppy one) comes from the family's table, and the judge reads the prompt back through the same
table, so it can mark any completion, the model's own included. All randomness is in the `Random` handed in.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from random import Random

import yaml

from mmpo_train.errors import InputError

Slots = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Solution:
    """The right answer to one prompt, and the wrong ones."""

    answer: str
    mistake: str
    """The typical wrong answer."""
    options: tuple[str, ...]
    """Everything that would count as another answer in a completion."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One kind of question: its phrasings, the sentences that answer it well, and its solution."""

    name: str
    prompts: tuple[str, ...]
    statements: tuple[str, ...]
    slots: Slots
    """Slot of a prompt -> the regular expression of its values."""
    draw: Callable[[Random], Slots]
    solve: Callable[[Slots], Solution]


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt, and what is needed to write answers to it."""

    prompt: str
    family: Family
    slots: Slots
    solution: Solution


NOUNS = ["lamp", "river", "stone", "table", "garden", "window", "paper", "cloud", "bread", "candle", "mirror", "basket"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = [
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
]
COUNTS = ["one", "two", "three", "four", "five"]
LARGEST_COMPARED = 12
LARGEST_SUMMAND = 9


def _any_of(values: Sequence[str]) -> str:
    return "|".join(map(re.escape, values))


def _without(values: Sequence[str], *left_out: str) -> tuple[str, ...]:
    return tuple(value for value in values if value not in left_out)


def _family(
    name: str, slots: Slots, draw: Callable[[Random], Slots], solve: Callable[[Slots], Solution], unit: str = ""
) -> Family:
    """A family in the words of questions.yaml; `unit` is what a calendar's questions are about."""

    def lines(kind: str) -> tuple[str, ...]:
        return tuple(_words()[name][kind].replace("UNIT", unit).splitlines())

    return Family(
        name=unit or name, prompts=lines("prompts"), statements=lines("statements"), slots=slots, draw=draw, solve=solve
    )


def _fact_family(name: str) -> Family:
    """A family whose answers are looked up in a table of facts."""
    rows = (row.strip().split(", ") for row in _words()[name]["facts"].split(";"))
    facts = {thing: (answer, mistake) for thing, answer, mistake in rows}
    values = tuple(dict.fromkeys(chain.from_iterable(facts.values())))

    def solve(slots: Slots) -> Solution:
        answer, mistake = facts[slots["thing"]]
        return Solution(answer=answer, mistake=mistake, options=_without(values, answer, slots["thing"]))

    return _family(name, {"thing": _any_of(tuple(facts))}, lambda random: {"thing": random.choice(tuple(facts))}, solve)


@cache
def _words() -> dict[str, dict[str, str]]:
    return yaml.safe_load(Path(__file__).with_name("questions.yaml").read_text(encoding="utf-8"))


def _calendar_family(unit: str, names: Sequence[str]) -> Family:
    """Questions about the name before and after each of `names`, which form a circle."""

    def solve(slots: Slots) -> Solution:
        here, step = names.index(slots["thing"]), 1 if slots["side"] == "after" else -1
        answer, mistake = names[(here + step) % len(names)], names[(here - step) % len(names)]
        return Solution(answer=answer, mistake=mistake, options=_without(names, answer, slots["thing"]))

    def draw(random: Random) -> Slots:
        return {"side": random.choice(("after", "before")), "thing": random.choice(names)}

    return _family("calendar", {"side": "after|before", "thing": _any_of(names)}, draw, solve, unit)


def _draw_list(random: Random, most: int) -> str:
    return ", ".join(random.sample(NOUNS, random.randint(2, most)))


def _draw_comparison(random: Random) -> Slots:
    first, second = random.sample(range(1, LARGEST_COMPARED + 1), 2)
    return {"which": random.choice(("bigger", "smaller")), "first": str(first), "second": str(second)}


def _solve_comparison(slots: Slots) -> Solution:
    smaller, bigger = sorted((slots["first"], slots["second"]), key=int)
    answer, mistake = (bigger, smaller) if slots["which"] == "bigger" else (smaller, bigger)
    return Solution(answer=answer, mistake=mistake, options=(mistake,))


def _draw_position(random: Random) -> Slots:
    return {"which": random.choice(("first", "last")), "words": _draw_list(random, 4)}


def _solve_position(slots: Slots) -> Solution:
    words = slots["words"].split(", ")
    answer, mistake = (words[0], words[-1]) if slots["which"] == "first" else (words[-1], words[0])
    return Solution(answer=answer, mistake=mistake, options=_without(words, answer))


def _solve_count(slots: Slots) -> Solution:
    count = len(slots["words"].split(", "))
    answer, mistake = COUNTS[count - 1], COUNTS[count - 2]
    return Solution(answer=answer, mistake=mistake, options=_without(COUNTS, answer))


def _draw_sum(random: Random) -> Slots:
    return {"first": str(random.randint(1, LARGEST_SUMMAND)), "second": str(random.randint(1, LARGEST_SUMMAND))}


def _solve_sum(slots: Slots) -> Solution:
    total = int(slots["first"]) + int(slots["second"])
    numbers = [str(number) for number in range(2 * LARGEST_SUMMAND + 1)]
    options = _without(numbers, str(total), slots["first"], slots["second"])
    return Solution(answer=str(total), mistake=str(total - 1), options=options)


def _draw_repetition(random: Random) -> Slots:
    return {"words": " ".join(random.sample(NOUNS, 2))}


def _solve_repetition(slots: Slots) -> Solution:
    first, second = slots["words"].split()
    return Solution(answer=slots["words"], mistake=f"{second} {first}", options=tuple(NOUNS))


_TWO_NUMBERS = {"first": r"\d+", "second": r"\d+"}
FAMILIES = (
    *map(_fact_family, ("capital", "opposite", "colour", "young", "kind")),
    _calendar_family("day", DAYS),
    _calendar_family("month", MONTHS),
    _family("comparison", {"which": "bigger|smaller", **_TWO_NUMBERS}, _draw_comparison, _solve_comparison),
    _family("position", {"which": "first|last", "words": r"\w+(?:, \w+){1,3}"}, _draw_position, _solve_position),
    _family("count", {"words": r"\w+(?:, \w+){1,4}"}, lambda random: {"words": _draw_list(random, 5)}, _solve_count),
    _family("sum", _TWO_NUMBERS, _draw_sum, _solve_sum),
    _family("repetition", {"words": r"\w+ \w+"}, _draw_repetition, _solve_repetition),
)

GREETINGS = ("", "Hello! ", "A quick question. ", "Please help me. ")
OPENINGS = ("Hmm, let me see.", "Well, no problem.", "Oh, thanks for asking.", "Let me think.")
ENDINGS = ("I guess.", "Or so I think.", "But who knows.", "Hope that helps.")
# The beginning of a mumbled answer and the end of a hurried one.
MUMBLINGS = (("hmm", "I guess"), ("oh", "I think"), ("well", "I hope"))
SLOPPY_STYLES = ("bare", "opened", "trailing", "doubled", "hurried", "mumbled")
# Words of these beginnings and ends that no good sentence has.
FILLERS = frozenset(("hmm", "well", "oh", "guess", "think", "knows", "hope"))


def draw_question(random: Random) -> Question:
    """A question of a random family, thing and phrasing."""
    family = random.choice(FAMILIES)
    slots = family.draw(random)
    prompt = random.choice(GREETINGS) + random.choice(family.prompts).format(**slots)
    return Question(prompt=prompt, family=family, slots=slots, solution=family.solve(slots))


def wrong_answer(question: Question, random: Random) -> str:
    """The typical mistake in three of four cases, otherwise another answer of the same kind."""
    solution = question.solution
    if question.family.name == "repetition" or random.random() < 0.75:
        return solution.mistake
    return random.choice(solution.options)


def write_answer(question: Question, answer: str, style: str, random: Random) -> str:
    """`answer`, right or wrong, as a completion in `style`: 'good' or one of SLOPPY_STYLES."""
    sentence = _statement(question, answer, random)
    match style:
        case "good":
            return sentence
        case "bare":
            return answer.lower()
        case "opened":
            return f"{random.choice(OPENINGS)} {sentence}"
        case "trailing":
            return f"{sentence} {random.choice(ENDINGS)}"
        case "doubled":
            return f"{sentence} {_statement(question, answer, random)}"
        case "hurried":
            return f"{sentence[:1].lower()}{sentence[1:-1]}, {random.choice(MUMBLINGS)[1]}"
        case "mumbled":
            return f"{random.choice(MUMBLINGS)[0]}, {answer.lower()}"
    raise ValueError(f"style '{style}' is not 'good' or one of {', '.join(SLOPPY_STYLES)}")


def _statement(question: Question, answer: str, random: Random) -> str:
    sentence = random.choice(question.family.statements).format(answer=answer, **question.slots)
    return sentence[:1].upper() + sentence[1:]


def judge(prompt: str, completion: str) -> float:
    """Quality of any completion of a tiny prompt, 0 to 1: 0.6 for being right, 0.1 for each of four points of style.

    Right: the right answer is said and no other is. Style: it starts with a capital or a digit and ends with a full
    stop; it is a sentence, not a bare answer; it is one sentence without fillers; it says nothing twice. Any right
    answer beats any wrong one. A prompt no family asks is refused, since nothing could be verified.
    """
    solution = solve(prompt)
    rest = re.sub(_whole(solution.answer), " ", completion, flags=re.IGNORECASE)
    right = rest != completion and not any(
        re.search(_whole(option), rest, re.IGNORECASE) for option in solution.options
    )
    # Rounded, so that equal qualities are equal numbers whatever their summands.
    return round(0.6 * right + 0.1 * _style_points(completion), 1)


def solve(prompt: str) -> Solution:
    """The solution of a prompt, found from its words."""
    for family, pattern in _prompt_patterns():
        if match := pattern.fullmatch(prompt):
            return family.solve(match.groupdict())
    raise InputError(f"tiny's judge knows no such question: {prompt!r}; it marks prompts of tiny's own data only")


def _style_points(completion: str) -> int:
    words = re.findall(r"[\w']+", completion.lower())
    runs = list(zip(words, words[1:], words[2:], strict=False))
    return sum(
        (
            bool(re.fullmatch(r"[A-Z0-9].*\.", completion, re.DOTALL)),
            len(words) >= 3,
            len(words) > 0 and len(re.findall(r"[.!?]+", completion)) <= 1 and not FILLERS.intersection(words),
            len(words) > 0 and len(runs) == len(set(runs)),
        )
    )


@cache
def _prompt_patterns() -> tuple[tuple[Family, re.Pattern[str]], ...]:
    """Every phrasing as a pattern whose groups are its slots."""
    return tuple(
        (family, re.compile(f"(?:{_any_of(GREETINGS)}){_with_slots(prompt, family.slots)}"))
        for family in FAMILIES
        for prompt in family.prompts
    )


def _with_slots(prompt: str, slots: Slots) -> str:
    parts = re.split(r"\{(\w+)\}", prompt)
    return "".join(f"(?P<{part}>{slots[part]})" if index % 2 else re.escape(part) for index, part in enumerate(parts))


def _whole(phrase: str) -> str:
    """A pattern for `phrase` that does not match inside a longer word."""
    return rf"(?<!\w){re.escape(phrase)}(?!\w)"

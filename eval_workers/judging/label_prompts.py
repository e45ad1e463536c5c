"""The prompt of a judge that names the better of two models, "m" or "M", and the preference in its first token."""

import hashlib
import importlib.util
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from eval_workers.judging.verdicts import fill, own_prompt, read_placeholders, sendable
from mmpo_train.errors import InputError

FIRST, SECOND = "m", "M"
"""Names of the two models: of the output shown first, and of the other."""

LEAST_SHARE = 0.5
"""Share of the first token's probability that the labels must have together; with less the judge has not judged."""

PLACEHOLDERS = ("instruction", "output_1", "output_2")
# alpaca_eval's prompt is read where that package is installed: its licence keeps it out of this repository.
PUBLISHED_FILE = Path("evaluators_configs", "alpaca_eval_clf_gpt4_turbo", "alpaca_eval_clf.txt")
PUBLISHED_SHA256 = "784227e6dc2832fc08c43d2c8ea3a308e7523780187a1aaad2f85e30bac85f62"  # in alpaca_eval 0.6.6

OWN_PROMPT = own_prompt("first_token")


@dataclass(frozen=True)
class LabelPrompt:
    """A prompt that asks for one of the two labels."""

    text: str
    source: str
    """Its source, in words."""

    @property
    def suffix(self) -> str:
        """End of the judge's name, which marks a prompt other than the published annotator's; empty for that one."""
        digest = hashlib.sha256(self.text.encode()).hexdigest()
        return (
            "" if digest == PUBLISHED_SHA256 else "+own-prompt" if self.text == OWN_PROMPT else f"+prompt-{digest[:8]}"
        )

    def messages(self, instruction: str, output_1: str, output_2: str) -> list[dict[str, str]]:
        """The conversation in which output_1 is shown as model m's and output_2 as model M's."""
        if self.text == OWN_PROMPT:
            # By content, so that a local judge gives the same reply again; no output can contain its own digest.
            nonce = hashlib.sha256(json.dumps([instruction, output_1, output_2]).encode()).hexdigest()[:16]
            return [{"role": "user", "content": fill(OWN_PROMPT, instruction, output_1, output_2, nonce=nonce)}]
        texts = {"instruction": instruction, "output_1": output_1, "output_2": output_2}

        def filled(content: str) -> str:
            # In one pass: a placeholder inside an output stays the text it is.
            whole = re.sub(r"\{(instruction|output_1|output_2)\}", lambda found: texts[found[1]], content)
            return sendable(whole.strip())

        # Split before it is filled: an output that holds <|im_start|> opens no turn of its own.
        return [{"role": role, "content": filled(content)} for role, content in _turns(self.text)]


def label_prompt(template: Path | None) -> LabelPrompt:
    """The prompt in `template`; without one, alpaca_eval's where that is installed, else our own. Raises InputError."""
    if template is not None:
        return LabelPrompt(_read(template), f"the file {template}")
    package = importlib.util.find_spec("alpaca_eval")
    if package is not None and package.origin is not None:
        published = Path(package.origin).parent / PUBLISHED_FILE
        if published.is_file():
            return LabelPrompt(_read(published), f"the installed alpaca_eval's {published.name}")
    return LabelPrompt(OWN_PROMPT, "our own wording")


def preference_of(first_token: Mapping[str, float]) -> float | None:
    """1 + p(M) / (p(m) + p(M)), from log-probabilities in nats; None if neither label is among the tokens.

    A missing label has probability 0, as in alpaca_eval's logprob_parser. Tokens with spaces around a label count only
    if no token is the bare label, so that the result equals that parser's whenever it has one.
    """
    of_label = _chances(first_token)
    chances = [chance for found in of_label.values() for chance in found]
    if not chances:
        return None
    highest = max(chances)  # taken out first: exp(-9999), OpenAI's "hardly ever", is 0
    first, second = (sum(math.exp(chance - highest) for chance in of_label[label]) for label in (FIRST, SECOND))
    return 1 + second / (first + second)


def share_of_labels(first_token: Mapping[str, float]) -> float:
    """The probability, 0 to 1, of the tokens that `preference_of` goes by. Where it is small the judge was about to say
    something else."""
    return sum(math.exp(chance) for found in _chances(first_token).values() for chance in found)


def _chances(first_token: Mapping[str, float]) -> dict[str, list[float]]:
    """Label -> the log-probabilities of its tokens."""
    for stripped in (False, True):
        found: dict[str, list[float]] = {FIRST: [], SECOND: []}
        for token, chance in first_token.items():
            label = token.strip() if stripped else token
            if label in found and math.isfinite(chance):
                found[label].append(chance)
        if any(found.values()):
            break
    return found


def _turns(text: str) -> list[tuple[str, str]]:
    """(role, content) of a template in ChatML; any other text is one turn of the user."""
    turns = re.findall(r"<\|im_start\|>[ ]*(\w+)[ ]*\n(.*?)<\|im_end\|>", text, re.DOTALL)
    return turns or [("user", text)]


def _read(path: Path) -> str:
    text, problems = read_placeholders(path, PLACEHOLDERS)
    unread = set(PLACEHOLDERS) - set(re.findall(r"\{(\w+)\}", "".join(content for _, content in _turns(text))))
    if not problems and unread:
        problems.append(f"{', '.join(sorted(unread))} stand outside its turns")
    if problems:
        raise InputError(f"the judge's prompt {path} cannot be used: {'; '.join(problems)}. Correct the file")
    return text

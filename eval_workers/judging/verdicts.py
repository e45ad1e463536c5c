"""From two answers to a verdict: the judge's prompt, the strict reading of its reply, and verdicts kept on disk."""

import hashlib
import json
import re
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from tenacity import Retrying, retry_if_exception_message, stop_after_delay, wait_fixed

from eval_workers.judging.shared_verdicts import SharedVerdicts
from mmpo_train.errors import InputError
from mmpo_train.storage.mirror import address_of
from mmpo_train.storage.whole_file import keep_private

WIN, TIE, LOSS = 1.0, 0.5, 0.0
"""Preference for the first of two answers, from 0 to 1; values in between are probabilities."""
VERDICTS = {"a": WIN, "tie": TIE, "b": LOSS}
"""A verdict, as `read_verdict` finds it and the cache keeps it -> how far answer A is preferred."""

PLACEHOLDERS = ("question", "answer_a", "answer_b")
_BUSY_SECONDS = 60.0


def own_prompt(name: str) -> str:
    """One of the prompts in our words, `prompts/NAME.txt`."""
    return Path(__file__).with_name("prompts").joinpath(f"{name}.txt").read_text(encoding="utf-8")


PROMPT = own_prompt("verdict")
MC_PO = "mc_po"
"""The name that stands for MC_PO_PROMPT where a file is asked for."""
MC_PO_PROMPT = own_prompt("mc_po")
"""The MC-PO paper's prompt (Appendix B.1) in our words: its task, criteria, tags and form of verdict."""


class JudgeFailed(Exception):
    """A judge gave no verdict after its retries. `reason` is one of a few phrases to count ('timed out', 'no single
    verdict'); the text has the details."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


def read_placeholders(path: Path, names: Iterable[str]) -> tuple[str, list[str]]:
    """A judge's prompt, and problems with its placeholders, each of which must occur once. Raises InputError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"the judge's prompt {path} cannot be read ({reason}); give a text file") from error
    problems = [
        f"{{{name}}} occurs {found} times, expected once" for name in names if (found := text.count(f"{{{name}}}")) != 1
    ]
    return text, problems


def read_template(path: Path, labels: Iterable[str] = ()) -> str:
    """The prompt template in a file, in which {question}, {answer_a} and {answer_b} occur once each.

    Each is replaced by the text between tags with the request's nonce; {nonce} may occur anywhere. Other braces are
    left as they are. The template asks for a <verdict> or, if `labels` are given, for one of them, all named in double
    brackets. `mc_po`, where no file is called so, is the MC-PO paper's prompt. Raises InputError.
    """
    if str(path) == MC_PO and not labels and not path.exists():
        return MC_PO_PROMPT
    template, problems = read_placeholders(path, PLACEHOLDERS)
    missing = [f"[[{label}]]" for label in labels if f"[[{label}]]" not in template]
    if missing:
        problems.append(f"it never names {', '.join(missing)}")
    if labels and "<verdict>" in template:  # the cache tells the two kinds apart by their prompts
        problems.append("it asks for a <verdict>, expected labels alone")
    if not labels and "<verdict>" not in template:
        problems.append("it never asks for <verdict>A</verdict>, <verdict>B</verdict> or <verdict>tie</verdict>")
    if problems:
        raise InputError(f"the judge's prompt {path} cannot be used: {'; '.join(problems)}. Correct the file")
    return template


def fill(template: str, question: str, answer_a: str, answer_b: str, *, nonce: str = "") -> str:
    """The prompt of one request. Every tag's name ends with a nonce, new unless given: no answer can close its tag.

    Verdict tags, our own tags without the nonce, and labels ([[A>B]]) in the texts lose a bracket: a judge that quotes
    an answer does not repeat its verdict, and one that overlooks the nonce takes no forged answer for a real one.
    """
    nonce = nonce or secrets.token_hex(8)
    texts = {"question": question, "answer_a": answer_a, "answer_b": answer_b}
    filled = {"nonce": nonce}
    for name, text in texts.items():
        tag = f"{name.replace('_', '-')}-{nonce}"
        harmless = re.sub(r"<(?=\s*/?\s*(?:verdict|question|answer-[ab])\b)", "&lt;", text, flags=re.IGNORECASE)
        harmless = re.sub(r"\[\[(?=[AB<>=\s]*[<>=][AB<>=\s]*\]\])", "[ [", harmless, flags=re.IGNORECASE)
        filled[name] = f"<{tag}>\n{harmless}\n</{tag}>"
    # In one pass: a placeholder inside an answer stays the text it is.
    prompt = re.sub(r"\{(question|answer_a|answer_b|nonce)\}", lambda found: filled[found[1]], template)
    return sendable(prompt)


def sendable(text: str) -> str:
    """The text without halves of surrogate pairs, which JSON data may contain and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")


def read_verdict(reply: str) -> str | None:
    """The verdict in a judge's whole reply, one of VERDICTS; None unless it has exactly one tag."""
    tags = re.findall(r"<\s*/?\s*verdict\b[^>]*>", reply, re.IGNORECASE)
    labels = re.findall(r"<verdict>\s*(a|b|tie)\s*</verdict>", reply, re.IGNORECASE)
    return labels[0].lower() if len(labels) == 1 and len(tags) == 2 else None


def shown_second_first(seed: int, question: str, answer_a: str, answer_b: str) -> bool:
    """Whether to show `answer_b` first, decided by a hash of the seed and the texts. The order does not depend on which
    of the two is called a, and differs independently from pair to pair."""
    pair = sorted((answer_a, answer_b))
    return pair[_digest(seed, question, *pair)[0] & 1] != answer_a


def verdict_keys(judge: str, template: str, question: str, shown_first: str, shown_second: str) -> tuple[str, str]:
    """SHA-256, in hex, over everything that determines a verdict, and the key under which earlier versions kept it.

    A judge's port is no part of who it is: a server that is started again on another one has the same verdicts. In
    earlier versions it was.
    """
    names = re.sub(r"(?<=://)(\[[^\]]*\]|[^\s/:\[]+):\d+", r"\1", judge), judge
    now, before = (_digest(name, template, question, shown_first, shown_second).hex() for name in names)
    return now, before


def _digest(*parts: object) -> bytes:
    return hashlib.sha256(json.dumps(parts).encode()).digest()


class VerdictCache:
    """Verdicts and preferences in an SQLite file, for any number of threads and processes of one machine.

    A row is on disk when `keep` returns. With an object store machines exchange rows (`SharedVerdicts`). Raises
    InputError if the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            keep_private(path)
            # Autocommit: every statement is a transaction of its own.
            self._database = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            # The busy timeout does not cover this switch: of several who open a fresh file, only one gets through.
            locked, stop = retry_if_exception_message(match=".*locked"), stop_after_delay(_BUSY_SECONDS)
            tries = Retrying(retry=locked, wait=wait_fixed(0.02), stop=stop, reraise=True)
            tries(self._database.execute, "PRAGMA journal_mode=WAL")
            # WAL's own default, NORMAL, may lose the last verdicts when the machine loses power.
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS verdicts "
                "(key TEXT PRIMARY KEY, verdict TEXT NOT NULL, judge TEXT NOT NULL, reply TEXT NOT NULL) WITHOUT ROWID"
            )
        except (OSError, sqlite3.Error) as error:
            raise InputError(
                f"the cache of verdicts {path} cannot be used ({error}); give another file, or remove it if it is not "
                "a cache of verdicts"
            ) from error
        self._one_at_a_time = threading.Lock()
        self._shared = None
        if address := address_of(path.parent):
            self._shared = SharedVerdicts(self._database, self._one_at_a_time, f"{address}/{path.stem}")
        self._turns = [threading.Lock() for _ in range(256)]

    def once(self, key: str, judge: str, judgement: Callable[[], tuple[str, str]], before: str = "") -> str:
        """The verdict kept under `key`, or `before` under that one; otherwise that of `judgement()`, which is then kept
        with its reply.

        If `judgement` raises, the error passes through and nothing is kept.
        """
        with self._turns[int(key[:2], 16)]:  # threads with the same question ask once
            with self._one_at_a_time:
                adopt = "INSERT OR IGNORE INTO verdicts SELECT ?, verdict, judge, reply FROM verdicts WHERE key = ?"
                if before != key:
                    self._database.execute(adopt, (key, before))
            known = self.recall(key)
            if known is not None:
                return known
            verdict, reply = judgement()
            return self.keep(key, verdict, judge, reply)

    def recall(self, key: str) -> str | None:
        """The verdict kept under `key`, on the answers in the order shown; None if there is none."""
        return self._kept("verdict", key)

    def reply(self, key: str) -> str:
        """The reply in which the verdict kept under `key` stands."""
        return str(self._kept("reply", key))

    def _kept(self, column: str, key: str) -> str | None:
        with self._one_at_a_time:
            row = self._database.execute(f"SELECT {column} FROM verdicts WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def keep(self, key: str, verdict: str, judge: str, reply: str) -> str:
        """The verdict that holds from now on: the first one kept, if another process was quicker."""
        with self._one_at_a_time:
            row = (key, verdict, judge, sendable(reply))
            self._database.execute("INSERT OR IGNORE INTO verdicts VALUES (?, ?, ?, ?)", row)
        if self._shared:
            self._shared.kept(key)
        return self.recall(key) or verdict

    def close(self) -> None:
        """Close the file, with the write-ahead log written into it."""
        if self._shared:
            self._shared.close()
        with self._one_at_a_time:
            self._database.close()

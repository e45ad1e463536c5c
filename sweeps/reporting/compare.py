"""Two checkpoints side by side: their answers to the same prompts, and where their configs differ."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpo_train.config import identity
from mmpo_train.errors import InputError
from mmpo_train.metric_names import ARENA_WIN_RATE, HARNESS, LENGTH_CONTROLLED, VALIDATION
from mmpo_train.tables import Table
from sweeps.ledger.ledger import Ledger
from sweeps.reporting.numbers import own_error
from sweeps.reporting.page import MISSING, Block, Heading, Sheet, Text, write_page
from sweeps.reporting.read import Trial, config_of, read_files, read_run

_SUITES = {"alpaca": "AlpacaEval 2", "arena": "Arena-Hard"}
_FIRST = ("objective", "beta", "r_eps", "gamma_over_beta", "learning_rate", "epochs", "seed")


@dataclass(frozen=True)
class Checkpoint:
    """One epoch of a trial."""

    trial: Trial
    epoch: int

    @property
    def name(self) -> str:
        return f"{self.trial.record.config.get('objective', '')} {self.trial.record.name}, epoch {self.epoch}".strip()


def checkpoint_of(ledger: Ledger, spec: str) -> Checkpoint:
    """RUN or RUN:EPOCH; without an epoch the last that was evaluated. Raises InputError where there is none."""
    run_id, _, epoch = spec.partition(":")
    trial = read_run(ledger, run_id)
    known = [scored.epoch for scored in trial.record.evaluations]
    if not known:
        raise InputError(f"run {run_id} ({trial.record.name}) has no evaluated checkpoint ({trial.record.status})")
    if epoch and (not epoch.isdigit() or int(epoch) not in known):
        raise InputError(f"{spec}: run {run_id} has the epochs {', '.join(map(str, sorted(known)))}")
    return Checkpoint(trial, int(epoch) if epoch else max(known))


def compare(ledger: Ledger, specs: Sequence[str], folder: Path, prompts: int) -> list[Path]:
    """Writes comparison.md and .html into `folder`, and the tables as CSV; returns the two pages.

    Raises InputError if a run is not a trial. Answers that one of the two lacks are listed as missing.
    """
    a, b = (checkpoint_of(ledger, spec) for spec in specs)
    title = f"{a.name} beside {b.name}"
    runs = [one.trial.record.run_id for one in (a, b)]
    about = f"A is run `{runs[0]}`, B is run `{runs[1]}`; read from MLflow at `{ledger.uri}`."
    blocks: list[Block] = [Heading(1, title), Text(about), Heading(2, "Config")]
    rows = config_differences(a.trial.record.config, b.trial.record.config)
    caption = "Fields in which the two trials differ; a dash is a field that the objective does not read."
    differences = Table(caption, ("field", "A", "B"), rows, words=(0, 1, 2))
    blocks.append(Sheet("config", differences) if rows else Text("Their configs agree."))
    blocks += [Heading(2, "Scores"), _scores(a, b)]
    for suite, called in _SUITES.items():
        blocks += [Heading(2, f"Answers: {called}"), *_answers(ledger, suite, a, b, prompts)]
    return write_page(folder, "comparison", title, blocks)[:2]


def config_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    """(field, value in A, value in B) of what differs, what matters most first. Fields that only change how a trial
    runs are left out unless they name the model or the data."""
    one, other = _read_fields(a), _read_fields(b)
    names = sorted({*one, *other}, key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name))
    return tuple(
        (name, _text(one.get(name)), _text(other.get(name))) for name in names if one.get(name) != other.get(name)
    )


def _read_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """What determines the trial's result, its model and its data."""
    checked = config_of(config)
    return {"model": checked.model, "dataset": checked.dataset, **identity(checked)}


def _text(value: Any) -> str:
    if value is None:
        return MISSING
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _scores(a: Checkpoint, b: Checkpoint) -> Sheet:
    names = sorted({*a.trial.scores, *b.trial.scores})
    kept = [name for name in names if name.startswith((VALIDATION, HARNESS, *LENGTH_CONTROLLED, ARENA_WIN_RATE))]
    rows = [(name, _score(a, name), _score(b, name)) for name in kept if "_error" not in name]
    measured = tuple(row for row in rows if row[1:] != (MISSING, MISSING))
    caption = "What the two checkpoints scored, with the standard error where it is known."
    return Sheet("scores", Table(caption, ("", "A", "B"), measured))


def _score(one: Checkpoint, metric: str) -> str:
    value = one.trial.scores.get(metric, {}).get(one.epoch)
    if value is None:
        return MISSING
    error, _ = own_error(one.trial, metric, one.epoch)
    return f"{value:.4f}" + ("" if error is None else f" ± {error:.4f}")


def _answers(ledger: Ledger, suite: str, a: Checkpoint, b: Checkpoint, most: int) -> list[Block]:
    read = alpaca_answers if suite == "alpaca" else arena_answers
    ours, theirs = read(ledger, a), read(ledger, b)
    lacking = [f"{letter} ({one.name})" for letter, one, found in (("A", a, ours), ("B", b, theirs)) if not found]
    if lacking:
        return [Text(f"Missing: no answers of {' and '.join(lacking)} are in the ledger.")]
    shared = [prompt for prompt in ours if prompt in theirs]
    shown = shared if not most or most >= len(shared) else [shared[n * len(shared) // most] for n in range(most)]
    only = len(ours) + len(theirs) - 2 * len(shared)
    more = f"; {only} more have an answer of one of them alone." if only else "."
    caption = f"{len(shown)} of {len(shared)} prompts that both answered{more}"
    if suite == "alpaca":
        caption += " In brackets what the judges gave it against the starting model's answer: 1 is a win, 0 a loss."
    rows = tuple((prompt, ours[prompt], theirs[prompt]) for prompt in shown)
    table = Table(caption, ("prompt", "A", "B"), rows, words=(0, 1, 2))
    return [Sheet(f"answers_{suite}", table, answers=True)]


def alpaca_answers(ledger: Ledger, one: Checkpoint) -> dict[str, str]:
    """Prompt -> answer, with each judge's preference behind it; empty where the checkpoint has none."""
    place = f"evaluations/epoch-{one.epoch:04d}/alpaca"
    files = read_files(ledger, one.trial.record.run_id, place, ("outputs.json", "annotations.jsonl"))
    answers = {row["instruction"]: row["output"] for row in json.loads(files.get("outputs.json", "[]"))}
    for row in _rows(files.get("annotations.jsonl", "")):
        if row["instruction"] in answers and row["preference"] is not None:
            answers[row["instruction"]] += f"\n[{row['judge']}: {row['preference'] - 1:.2f}]"
    return answers


def arena_answers(ledger: Ledger, one: Checkpoint) -> dict[str, str]:
    """Question -> answer; empty where the checkpoint has none."""
    place = f"evaluations/epoch-{one.epoch:04d}/arena/model_answer"
    [path] = [scored.checkpoint for scored in one.trial.record.evaluations if scored.epoch == one.epoch]
    name = f"{Path(path).name}.jsonl"  # a model answers under its folder's name
    found = {}
    for row in _rows(read_files(ledger, one.trial.record.run_id, place, (name,)).get(name, "")):
        if "messages" in row:
            content = row["messages"][-1]["content"]
            found[row["messages"][0]["content"]] = content["answer"] if isinstance(content, dict) else content
        else:  # v0.1 names the question, and does not repeat it
            found[row["question_id"]] = row["choices"][0]["turns"][0]["content"]
    return found


def _rows(text: str) -> list[dict[str, Any]]:
    """The objects of JSON lines; `splitlines` would break at a U+2028 in an answer."""
    return [json.loads(line) for line in text.split("\n") if line]

"""Ask a checkpoint or model questions in the terminal, beside its starting model: `mmpo ask CHECKPOINT`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from mmpo_train.options import STORAGE, Positional, Repeated, Stored

if TYPE_CHECKING:
    from eval_workers.answers.sampling import Sampling
    from eval_workers.checkpoint_folders import CheckpointFolder


@dataclass(frozen=True, kw_only=True)
class AskOptions(Stored):
    """Ask a checkpoint questions; its starting model may answer beside it."""

    path: Annotated[str, Positional]
    """Checkpoint folder, folder of a Hugging Face model, or hub id."""
    questions: Annotated[tuple[str, ...], Positional] = ()
    """The questions. Default: type one after the other; an empty line ends."""
    alone: bool = False
    """Show the model's own answers only."""
    starting_model: str = ""
    """The model to compare with. Default: the one that the checkpoint was trained from."""
    temperature: float = 0.0
    """Temperature of the answers; 0 takes the likeliest token."""
    max_answer_tokens: int = 256
    """Longest answer, in tokens."""
    seed: int = 0
    """Seed of the answers."""
    plugin: Annotated[tuple[str, ...], Repeated] = ()
    """Plug-in that the checkpoint's objective comes from. Default: none."""
    storage: str = STORAGE
    """Where tiny's starting model is: a folder, s3://BUCKET/PATH or gs://BUCKET/PATH. Default: the value of
    MMPO_STORAGE, or runs."""


class Model:
    """A model that answers, kept in memory."""

    def __init__(self, checkpoint: CheckpointFolder) -> None:
        from eval_workers.answers.generation import Generator
        from mmpo_train.data.rendering import end_ids_of
        from mmpo_train.model.policy import load_tokenizer

        self.tokenizer = load_tokenizer(checkpoint.tokenizer_folder)
        self.generator = Generator()
        self.generator.load(checkpoint.folder, end_ids_of(self.tokenizer), precision=checkpoint.precision)

    def answer(self, question: str, sampling: Sampling) -> str:
        """The answer to a question by itself. Raises InputError if the chat template refuses it."""
        from eval_workers.answers.sampling import Task
        from mmpo_train.chat.messages import Message
        from mmpo_train.data.rendering import Unusable, prompt_ids
        from mmpo_train.errors import InputError

        try:
            ids = prompt_ids(self.tokenizer, [Message("user", question)])
        except Unusable as reason:
            raise InputError(f"the chat template refuses the question: {reason}") from reason
        task = Task(tuple(ids), sampling, 0)
        [found] = [answer for batch in self.generator.run([[task]]) for answer in batch.values()]
        return str(self.tokenizer.decode(found.ids, skip_special_tokens=True)) + ("" if found.finished else " […]")


def ask(options: AskOptions) -> None:
    """Answer the questions that are given or typed. Raises InputError if there is no model."""
    from rich.table import Table
    from rich.text import Text

    from eval_workers.answers.sampling import Sampling
    from eval_workers.checkpoint_folders import open_checkpoint
    from mmpo_train.terminal import console

    asked = {Path(options.path).name: open_checkpoint(options.path)}
    if not options.alone and (start := _starting_model(asked[Path(options.path).name].folder, options)):
        asked[f"starting model {Path(start).name}"] = open_checkpoint(start)
    models = {name: Model(one) for name, one in asked.items()}
    sampling = Sampling(temperature=options.temperature, max_new_tokens=options.max_answer_tokens, seed=options.seed)
    for question in _questions(options.questions):
        table = Table(*models, title=Text(question), title_justify="left", show_lines=True)
        table.add_row(*(Text(model.answer(question, sampling)) for model in models.values()))
        console.print(table)


def _starting_model(folder: Path, options: AskOptions) -> str:
    """The starting model of a checkpoint; empty for a model that is no checkpoint."""
    from mmpo_train.config import TRIAL
    from mmpo_train.errors import InputError
    from mmpo_train.trial.checkpoint import read_facts

    if options.starting_model or not (folder / TRIAL).is_file():
        return options.starting_model
    config = read_facts(folder)["config"]
    if config["model"] != "tiny":
        return str(config["model"])
    tiny = options.folder / "models" / config["model_fingerprint"]
    if not tiny.is_dir():
        raise InputError(f"{options.storage} has no {tiny.name}; give its --storage, or --alone")
    return str(tiny)


def _questions(given: Sequence[str]) -> Iterator[str]:
    yield from given
    while not given:
        print("question: ", end="", file=sys.stderr, flush=True)
        if not (line := sys.stdin.readline().strip()):
            return
        yield line


def main(arguments: list[str] | None = None) -> None:
    """Ask from the command line."""
    from mmpo_train.terminal import run_program

    run_program(AskOptions, ask, "mmpo ask", arguments)


if __name__ == "__main__":
    main()

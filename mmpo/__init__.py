"""The door of the whole: `mmpo NAME …` on the command line (`__main__.py`), and these functions in Python.

    import mmpo

    result = mmpo.sweep("stage1", model="tiny", objective="dpo", learning_rates=[1e-3, 1e-4], epochs=1)
    result.winner, result.frame, result.checkpoints

Options are those of the command, or fields of the trial, by name. `config` names a file with more of them. A mistake in
what is given raises `InputError`. Importing this loads neither torch nor Ray.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpo_train.errors import InputError

if TYPE_CHECKING:
    from mmpo.result import Result

__all__ = ["InputError", "judge", "sweep", "train"]


def sweep(stage: str, **options: Any) -> Result:
    """Run a stage (stage1, stage2, stage3, final, ablations or axis) as its command does, and return what it found.

    Trials that the ledger has are not trained again, so that a second call with the same options only reads. With
    `dry_run=True` nothing is started. Raises InputError before anything is started if the options are at fault, and
    after training if no trial has a result.
    """
    from mmpo.result import run

    return run(stage, options)


def train(**options: Any) -> list[Path]:
    """Train one trial in this process, as `mmpo train` does; returns its checkpoints, one for each epoch.

    Raises InputError for options that are at fault, and FloatingPointError if the loss is no longer finite.
    """
    from mmpo_train.__main__ import TrainOptions
    from mmpo_train.__main__ import train as run
    from mmpo_train.options import options_given

    folder, diverged = run(options_given(options, TrainOptions))
    if diverged:
        raise FloatingPointError(diverged)
    return sorted((folder / "checkpoints").glob("epoch-*"))


def judge(*paths: str | Path, **options: Any) -> dict[str, dict[str, float]]:
    """Evaluate checkpoints or models, as `mmpo judge` does; returns path -> metric -> number.

    Raises InputError if a path is no model, or an evaluation cannot run.
    """
    from eval_workers.options import EvaluateOptions
    from eval_workers.single import Subject, evaluate
    from mmpo_train.options import options_given

    given = options_given({**options, "paths": list(map(str, paths))}, EvaluateOptions)
    subjects = [Subject.of(path, given) for path in given.paths]
    return {
        subject.path: {
            name: value for suite in given.suite for name, value in evaluate(subject, suite, given)["metrics"].items()
        }
        for subject in subjects
    }

"""Evaluate checkpoint folders or Hugging Face models, without Ray: `mmpo judge PATH …`."""

import json
import sys
from collections.abc import Mapping, Sequence

from eval_workers.options import EvaluateOptions
from mmpo_train.metric_names import (
    ARENA_WIN_RATE,
    HARNESS_MEAN,
    LENGTH_CONTROLLED,
    POLICY_ACCURACY,
    REWARD_ACCURACY,
    WIN_RATE,
    error_of,
    judge_checks_of,
)
from mmpo_train.storage.whole_file import write_whole
from mmpo_train.tables import Table, for_terminal


def _checks(win_rate: str) -> dict[str, tuple[str, ...]]:
    """What stands beside a judged win rate."""
    return {name: (metric,) for name, metric in zip(("null answer", "order flips"), judge_checks_of(win_rate))}


# What a person looks at first: header -> metrics, the first of which that was measured is shown. The length control
# has other names where it is not the published one.
HEADLINES: dict[str, dict[str, tuple[str, ...]]] = {
    "reward": {"reward accuracy": (REWARD_ACCURACY,), "policy accuracy": (POLICY_ACCURACY,)},
    "harness": {"harness, mean": (HARNESS_MEAN,)},
    "alpaca": {"alpaca, LC win rate": tuple(LENGTH_CONTROLLED), "alpaca, win rate": (WIN_RATE,)} | _checks(WIN_RATE),
    "arena": {"arena-hard, win rate": (ARENA_WIN_RATE,)} | _checks(ARENA_WIN_RATE),
}


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, evaluate, and print a table."""
    from mmpo_train.terminal import run_program

    run_program(EvaluateOptions, _evaluate, "mmpo judge", arguments)


def _evaluate(options: EvaluateOptions) -> None:
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from eval_workers.single import Subject, evaluate, judged
    from eval_workers.tracking.evaluations import Evaluations
    from mmpo_train import config
    from mmpo_train.config import nearest
    from mmpo_train.errors import InputError
    from mmpo_train.terminal import console

    if not options.paths:
        raise InputError("nothing to evaluate: give a checkpoint folder, a model folder or a hub id")
    for suite in options.suite:
        if suite not in config.EVALUATIONS:
            raise InputError(f"--suite {suite!r} is unknown{nearest(suite, config.EVALUATIONS)}")
    recorder = Evaluations(options.mlflow_uri, options.folder) if options.mlflow_uri else None
    subjects = [Subject.of(path, options) for path in options.paths]  # all paths are looked at before any is judged
    results: list[dict[str, float]] = []
    failures: list[str] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=len(subjects) * len(options.suite))
        for subject in subjects:
            results.append({})
            facts: dict[str, str] = {}
            for suite in options.suite:
                progress.update(task, description=f"{suite} {subject.name}")
                try:
                    found = evaluate(subject, suite, options)
                    results[-1] |= found["metrics"]
                    facts |= {f"{suite}.{name}": value for name, value in found.get("facts", {}).items()}
                    failures += [f"{name} of {subject.path}: {why}" for name, why in found.get("missing", {}).items()]
                except InputError as error:
                    failures.append(f"{suite} of {subject.path}: {error}")
                progress.advance(task)
                write_whole(subject.output / "results.json", json.dumps(results[-1], indent=1, sort_keys=True) + "\n")
            if recorder and results[-1]:
                key, params = judged(subject, options, facts)
                recorder.record(subject.name, key, params, results[-1], subject.output)
    console.print(for_terminal(_table(options, [subject.name for subject in subjects], results)))
    console.print(f"all results: {options.output}/*/results.json", highlight=False, soft_wrap=True)
    unrecorded = recorder.finish() if recorder else []
    for what, complaints in (("failed", failures), ("not recorded", unrecorded)):
        for complaint in complaints:
            console.print(f"[red]{what}:[/] {escape(complaint)}", highlight=False, soft_wrap=True)
    if failures or unrecorded:
        sys.exit(2)


def _table(options: EvaluateOptions, names: Sequence[str], results: Sequence[Mapping[str, float]]) -> Table:
    shown = [headline for suite in options.suite for headline in _headlines(suite, results).items()]
    rows = [
        (name, *(_cell(result, metrics) for _, metrics in shown)) for name, result in zip(names, results, strict=True)
    ]
    return Table("scores", ("", *(header for header, _ in shown)), rows)


def _headlines(suite: str, results: Sequence[Mapping[str, float]]) -> dict[str, tuple[str, ...]]:
    """Header -> metrics; of a plug-in's evaluation all metrics."""
    own = dict.fromkeys(name for result in results for name in result if name.startswith(f"{suite}/"))
    return HEADLINES.get(suite) or {name: (name,) for name in own}


def _cell(result: Mapping[str, float], metrics: Sequence[str]) -> str:
    name = next((name for name in metrics if name in result), None)
    if name is None:
        return "missing"
    error = f" ± {result[error_of(name)]:.4f}" if error_of(name) in result else ""
    return f"{result[name]:.4f}{error}" + (f" ({name.removeprefix(metrics[0] + '_')})" if name != metrics[0] else "")


if __name__ == "__main__":
    main()

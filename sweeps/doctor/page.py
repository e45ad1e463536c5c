"""The doctor's page: the planned stage, the examinations, and their findings."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from mmpo_train.config import TrialConfig
from mmpo_train.errors import InputError
from mmpo_train.options import base_config
from mmpo_train.recipes import find_recipe
from mmpo_train.storage import mirror, object_store
from mmpo_train.terminal import console, print_text
from sweeps import grids
from sweeps.cluster.discovery import local_nodes, local_resources
from sweeps.cluster.placement import TrialResources, place
from sweeps.doctor import machine as doctor_machine
from sweeps.doctor import services as doctor_services
from sweeps.doctor import software as doctor_software
from sweeps.doctor.findings import Examination, Finding, examine, fine
from sweeps.plan.options import SweepOptions

if TYPE_CHECKING:
    from sweeps.cost.arithmetic import ModelSize

_STYLES = {"fine": "green", "note": "yellow", "problem": "bold red"}
_LARGE_PARAMETERS = 20_000_000
"""A larger model takes too long on CPUs."""


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(SweepOptions):
    """Check whether a planned stage can run here. Takes the stage's own options."""

    json: bool = False
    """Print the findings as JSON."""
    timeout_seconds: float = 120.0
    """Longest time, in seconds, that each examination may take."""


def print_page(options: DoctorOptions) -> None:
    """Examine and print; exits with status 1 if there is a problem."""
    if options.timeout_seconds <= 0:
        raise InputError(f"--timeout-seconds must be above 0, got {options.timeout_seconds:g}")
    trial = base_config(options)
    examinations = examinations_of(options, trial)
    if options.json:
        findings = examine(examinations, options.timeout_seconds)
        print(json.dumps([dataclasses.asdict(one) for one in findings], indent=2))
    else:
        recipe = find_recipe(options.model, options.recipe).name
        print_text(f"{trial.objective} on {trial.model}, recipe {recipe}", "bold")
        with console.status("looking"):
            findings = examine(examinations, options.timeout_seconds)
        console.print(page(findings))
        console.print(f"\n{conclusion(findings)}", highlight=False, soft_wrap=True)
    if any(one.verdict == "problem" for one in findings):
        sys.exit(1)


def page(findings: list[Finding]) -> Table:
    """A row for each finding, with the advice below it."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for one in findings:
        said = Text(one.found)
        if one.advice:
            said.append(f"\n-> {one.advice}", style="dim")
        table.add_row(Text(one.verdict, style=_STYLES[one.verdict]), one.subject, said)
    return table


def conclusion(findings: list[Finding]) -> str:
    """The page in one sentence."""
    problems, notes = (sum(one.verdict == verdict for one in findings) for verdict in ("problem", "note"))
    seen = f"; {notes} worth a look" if notes else ""
    if problems:
        return f"[bold red]{problems} problem{'s' if problems > 1 else ''}: the stage cannot run yet{seen}.[/]"
    return f"[bold green]The stage can run{seen}.[/]"


def examinations_of(options: DoctorOptions, trial: TrialConfig) -> dict[str, Examination]:
    """Subject -> examination, in the order of the page."""

    def cluster() -> Iterator[Finding]:
        from sweeps.doctor.cluster import ray_cluster

        yield from ray_cluster(options)

    return {
        "packages": doctor_software.versions,
        "imports": lambda: _libraries(options, trial),
        "compiler": lambda: doctor_software.compiler(trial.compile == "true"),
        "memory": lambda: _memory(options, trial),
        "storage": lambda: _disk(options, trial),
        "Ray": cluster,
        "ledger": lambda: doctor_services.tracking(options.tracking_uri, options.folder),
        "hub": lambda: doctor_services.hub(trial.model if trial.model != "tiny" else "", trial.dataset),
        "judges": lambda: doctor_services.judges(trial, options.evaluation),
        "ports": doctor_services.open_ports,
    }


def _libraries(options: DoctorOptions, trial: TrialConfig) -> Iterator[Finding]:
    """Imports, and the GPUs as torch's import sees them."""
    findings, torch = doctor_software.imports(0.9 * options.timeout_seconds)
    yield from findings
    yield from doctor_machine.gpus(int(local_resources()[1]), torch, _parameters(options, trial) > _LARGE_PARAMETERS)


def _memory(options: DoctorOptions, trial: TrialConfig) -> Iterator[Finding]:
    resources = _resources(options)
    used = (0, 0, True) if resources is None else (_parameters(options, trial), resources.workers, resources.use_gpu)
    return doctor_machine.memory(*used)


def _resources(options: DoctorOptions) -> TrialResources | None:
    """A trial's resources on this machine; None if a cluster runs it, or if it fits nowhere, as Ray's line says."""
    if os.environ.get("RAY_ADDRESS"):
        return None
    try:
        return place(options, local_nodes())
    except InputError:
        return None


def _disk(options: DoctorOptions, trial: TrialConfig) -> Iterator[Finding]:
    from sweeps.cost.disk import room_needed

    trials = len(grids.LEARNING_RATES) * options.seeds
    if object_store.is_address(options.storage):
        mirror.check_access(options.folder)
        yield fine("storage", f"{options.storage}: writing, reading and deleting work")
    resources = _resources(options)
    at_a_time = resources.concurrent if resources is not None else trials
    needed = room_needed(trial, _size(options, trial), trials, at_a_time)
    yield from doctor_machine.disk(options.folder, needed, f"stage 1 of {trials} trials")


def _parameters(options: DoctorOptions, trial: TrialConfig) -> int:
    """Parameters of the model; 0 if its size is not known yet."""
    return size.parameters if (size := _size(options, trial)) is not None else 0


def _size(options: DoctorOptions, trial: TrialConfig) -> ModelSize | None:
    from sweeps.cost.of_trials import read_size

    try:
        return read_size(Path(trial.model).expanduser(), find_recipe(options.model, options.recipe).name)
    except InputError:
        return None

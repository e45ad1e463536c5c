"""The programs by the names that `mmpo` takes, and commands as they are typed here. Standard library only."""

import re
import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

PROGRAMS = {
    "stage1": "sweeps.stage1_lr",
    "stage2": "sweeps.stage2_beta",
    "stage3": "sweeps.stage3_margin",
    "final": "sweeps.final_runs",
    "ablations": "sweeps.ablations",
    "paper": "sweeps.paper",
    "joint": "sweeps.joint_search",
    "axis": "sweeps.axis",
    "objectives": "sweeps.objectives",
    "mc-po-studies": "sweeps.mc_po_studies",
    "sft": "sweeps.stage0_sft",
    "report": "sweeps.report",
    "doctor": "sweeps.doctor.__main__",
    "judge": "eval_workers.__main__",
    "ask": "eval_workers.ask",
    "train": "mmpo_train.__main__",
    "merge": "mmpo_train.merge",
    "stop": "mmpo.tagging:stop",
    "go": "mmpo.tagging:go",
    "clone": "mmpo.tagging:clone",
    "extend": "mmpo.tagging:extend",
    "export": "mmpo.archive:export_storage",
    "import": "mmpo.archive:import_storage",
    "config": "mmpo.config",
    "fields": "mmpo.fields",
}
"""Name -> the module whose `main` it runs, or MODULE:FUNCTION. Sweeps first, then in the order of their use."""

NAMES = {module.removesuffix(".__main__"): name for name, module in PROGRAMS.items()}
"""Module, as `python -m` takes it, -> name."""


def main_of(name: str) -> Callable[[list[str]], None]:
    """The function that runs a program with its arguments."""
    module, _, function = PROGRAMS[name].partition(":")
    return getattr(import_module(module), function or "main")


def program_of(script: str) -> str:
    """`mmpo stage1` for the script `stage1_lr`."""
    return f"mmpo {NAMES[f'sweeps.{script}']}"


def as_typed(command: str) -> str:
    """A command as it works here, from any folder: by the programs of the interpreter that runs.

    Its program gets the interpreter's folder in front unless that is on the PATH. Where `mmpo` is not installed the
    interpreter runs the package. Commands of older ledgers (`python sweeps/stage1_lr.py`) become what they are now.
    """
    old = re.match(r"python sweeps/(\w+)\.py\b", command)
    if old and f"sweeps.{old[1]}" in NAMES:
        command = program_of(old[1]) + command[old.end() :]
    program, *rest = command.split(" ")
    here = Path(sys.executable).parent
    if program == "mmpo" and not (here / program).exists():
        return " ".join([_short(Path(sys.executable)), "-m", program, *rest])
    found = shutil.which(program)
    if not (here / program).exists() or (found and Path(found).resolve() == (here / program).resolve()):
        return command
    return " ".join([_short(here / program), *rest])


def _short(path: Path) -> str:
    below = path.is_relative_to(Path.cwd()) and Path.cwd() != Path("/")
    return str(path.relative_to(Path.cwd()) if below else path)

"""Whether Python, packages and compiler are as tested."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sweeps.doctor.findings import INSTALL, Finding, fine, note, problem

PROJECT = "mmpo-sweeps"
LIBRARIES = (
    "numpy", "pyarrow", "torch", "transformers", "peft", "bitsandbytes", "deepspeed", "datasets", "ray", "mlflow",
    "optuna", "matplotlib",
)  # fmt: skip
"""Libraries that a sweep imports, each before those that need it, so that a broken one is found first."""
_CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"

# In a separate process, since a library can end its process. One line for each, so that the last is known.
_IMPORTS = """
import importlib, json, os, sys, warnings
warnings.filterwarnings("ignore")
answers, sys.stdout = sys.stdout, sys.stderr
for name in sys.argv[1:]:
    said = {"name": name}
    try:
        module = importlib.import_module(name)
        if name == "torch":
            gpus = range(module.cuda.device_count()) if module.cuda.is_available() else ()
            properties = [module.cuda.get_device_properties(number) for number in gpus]
            if not gpus:
                os.environ["DS_ACCELERATOR"] = "cpu"
            said |= {
                "cuda": module.version.cuda,
                "built_for": module.cuda.get_arch_list() if gpus else [],
                "gpus": [{"name": one.name, "arch": f"sm_{one.major}{one.minor}"} for one in properties],
            }
    except BaseException as error:  # SystemExit too: whatever ends an import is what the doctor is asked for
        said["error"] = f"{type(error).__name__}: {error}"
    print(json.dumps(said), file=answers, flush=True)
"""


def versions() -> Iterator[Finding]:
    """Python and the packages compared with the tested versions."""
    running = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] != (3, 11):
        yield problem("Python", f"{running}; this project needs 3.11", "make the environment with python3.11")
    try:
        required = importlib.metadata.requires(PROJECT) or []
    except importlib.metadata.PackageNotFoundError:
        yield problem("packages", f"{PROJECT} is not installed in {sys.prefix}", INSTALL)
        return
    direct = [re.split(r"[\[ ;<>=!~]", one)[0] for one in required if "extra ==" not in one]
    installed = {name: _installed(name) for name in {*direct, *_pins()}}
    missing = sorted(name for name in direct if not installed[name])
    if missing:
        yield problem("packages", f"not installed: {', '.join(missing)}", INSTALL)
    differing = [
        f"{name} {installed[name]} (tested: {pin})"
        for name, pin in _pins().items()
        if installed[name] and installed[name].partition("+")[0] != pin
    ]
    if differing:
        yield note("packages", f"not as tested: {', '.join(differing)}", INSTALL)
    if not missing and not differing:
        pinned = sum(bool(installed[name]) for name in _pins())
        as_tested = f"{pinned} packages as pinned" if pinned else "no constraints.txt to compare the packages with"
        yield fine("packages", f"Python {running}, {as_tested}")


def imports(seconds: float) -> tuple[list[Finding], dict[str, Any]]:
    """Whether the libraries load, and torch's answer about its GPUs; empty without an answer."""
    answers = _imported(LIBRARIES, seconds)
    broken = {name: said["error"] for name, said in answers.items() if "error" in said}
    findings = [
        problem(f"import {name}", why[:300], f"install it again: {INSTALL} --force-reinstall {name}")
        for name, why in broken.items()
    ]
    if not broken:
        findings = [fine("imports", f"{', '.join(LIBRARIES)} load")]
    return findings, {name: value for name, value in answers.get("torch", {}).items() if name not in ("name", "error")}


def compiler(compiles_layers: bool) -> Iterator[Finding]:
    """Whether C++ with Python's headers can be compiled, which DeepSpeed's and Triton's kernels need."""
    found_wanting = problem if compiles_layers else note
    use = "--set compile=true needs it" if compiles_layers else "only DeepSpeed's own kernels and compile=true need it"
    advice = "apt-get install g++ python3.11-dev, or the same for your system"
    found = shutil.which(os.environ.get("CXX", "g++"))
    if found is None:
        yield found_wanting("compiler", f"no g++; {use}", advice)
        return
    source = "#include <Python.h>\n#include <omp.h>\nint main() { return 0; }\n"
    command = [found, "-std=c++17", "-fopenmp", "-fsyntax-only", "-I", sysconfig.get_paths()["include"], "-x", "c++"]
    with tempfile.TemporaryDirectory() as folder:
        run = subprocess.run([*command, "-"], input=source, cwd=folder, capture_output=True, text=True, timeout=20)
    if run.returncode:
        errors = [line for line in run.stderr.splitlines() if "error" in line] or ["no message"]
        yield found_wanting("compiler", f"{found} fails: {errors[0][:200]}; {use}", advice)
        return
    cuda = shutil.which("nvcc") or shutil.which("nvcc", path=f"{os.environ.get('CUDA_HOME', '/usr/local/cuda')}/bin")
    nvcc = f"nvcc at {cuda}" if cuda else "no nvcc, which is not needed"
    yield fine("compiler", f"{found} compiles; {nvcc}")


def _pins() -> dict[str, str]:
    lines = _CONSTRAINTS.read_text().splitlines() if _CONSTRAINTS.is_file() else []
    return {name: pin for name, _, pin in (line.partition("==") for line in lines if not line.startswith("#")) if pin}


def _installed(package: str) -> str:
    """The package's version; empty if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _imported(libraries: Sequence[str], seconds: float) -> dict[str, dict[str, Any]]:
    """Library -> the answer of its import, which may be that it ended the process or did not return."""
    answers: dict[str, dict[str, Any]] = {}
    waiting = list(libraries)
    while waiting:
        command = [sys.executable, "-c", _IMPORTS, *waiting]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
            ended, printed = f"ends the process (exit status {run.returncode})", run.stdout
        except subprocess.TimeoutExpired as error:
            ended = f"not loaded in {seconds:.0f} s"
            printed = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        for said in map(json.loads, printed.splitlines()):
            answers[said["name"]] = said
        waiting = [name for name in waiting if name not in answers]
        if waiting:  # the first of them ended it
            answers[waiting[0]] = {"name": waiting[0], "error": ended}
            waiting = [] if "not loaded" in ended else waiting[1:]
    return answers

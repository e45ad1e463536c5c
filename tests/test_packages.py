"""What is imported is declared, and what is declared is imported and pinned: another library may drop it any day."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = packages_distributions()
"""Module -> the packages that bring it."""
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
# Folder -> the groups of extra packages that whoever runs it has installed.
GROUPS = {
    "mmpo": (),
    "mmpo_train": (),
    "eval_workers": (),
    "sweeps": (),
    "benchmarks": ("dev",),
    "faults": ("dev",),
    "makers": ("dev", "browser-test"),
    "tests": ("dev",),
    "tests/browser": ("dev", "browser-test"),
    "tests/clusters": ("dev", "cluster-test"),
}
# vLLM is used where it is there; it pins a torch of its own and cannot be installed with ours.
LOOKED_FOR = {"vllm"}
TOOLS = {"mypy", "ruff", "pytest-timeout", "pytest-xdist", "cfn-lint"}
"""Declared to be run, not imported."""


def normalised(name):
    """A package's name without extras, as PEP 503 compares them."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[ ;<>=!~]", name)[0]).lower()


def declared(*groups):
    extras = [one for group in groups for one in PROJECT["optional-dependencies"][group]]
    return {normalised(one) for one in PROJECT["dependencies"] + extras}


def modules_of(source):
    """The modules of others that a file imports, wherever the statement stands, without what is below them."""
    nodes = list(ast.walk(ast.parse(source)))
    modules = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    ours = {path.stem for folder in ("benchmarks", "") for path in (REPOSITORY / folder).iterdir()}
    return {module.split(".")[0] for module in modules} - sys.stdlib_module_names - ours - LOOKED_FOR


def packages_of(module):
    """Those that bring it, each a part (mlflow, mlflow-skinny); of one not installed, that of its name."""
    return {normalised(one) for one in PACKAGES.get(module, (module,))}


def imported(folder):
    inner = [REPOSITORY / other for other in GROUPS if other.startswith(f"{folder}/")]
    files = [one for one in (REPOSITORY / folder).rglob("*.py") if not any(map(one.is_relative_to, inner))]
    return set().union(*(modules_of(one.read_text()) for one in files))


def test_packages_are_found_under_the_names_they_are_installed_by():
    source = "import os, yaml.loader\ndef f():\n    from sklearn.metrics import make_scorer\nimport sweeps.plan, vllm"
    assert modules_of(source) == {"yaml", "sklearn"}
    assert packages_of("yaml") == {"pyyaml"} and packages_of("sklearn") == {"scikit-learn"}


@pytest.mark.parametrize("folder", GROUPS)
def test_every_package_that_is_imported_is_declared(folder):
    known = declared(*GROUPS[folder])
    assert imported(folder) and not {module for module in imported(folder) if not packages_of(module) & known}


@pytest.mark.parametrize("groups", [(), tuple(PROJECT["optional-dependencies"])])
def test_every_declared_package_is_imported(groups):
    folders = [folder for folder, needed in GROUPS.items() if set(needed) <= set(groups)]
    used = set().union(*(packages_of(module) for folder in folders for module in imported(folder)))
    assert not declared(*groups) - used - TOOLS


def test_every_declared_package_is_pinned():
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pinned = {normalised(line) for line in lines if "==" in line}
    assert not declared(*PROJECT["optional-dependencies"]) - pinned


def test_the_tested_version_is_within_every_bound():
    pins = dict(line.split("==") for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if "==" in line)
    tested = {normalised(name): version for name, version in pins.items()}
    bounds = {normalised(one): Requirement(one).specifier for one in PROJECT["dependencies"]}
    assert {name for name, bound in bounds.items() if len(bound) != 2} == set()
    assert {name for name, bound in bounds.items() if not bound.contains(tested[name])} == set()

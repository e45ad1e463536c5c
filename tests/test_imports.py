"""The import rules of the house, as a table, and proof that the core works where the heavy libraries are missing."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
# Who may import whom: imports go one way.
BELOW = {"mmpo_train": set(), "eval_workers": {"mmpo_train"}, "sweeps": {"eval_workers", "mmpo_train"}}

# Each heavy library has one door: nobody else imports it, at the top of a file or inside a function.
DOORS = {
    "ray": {
        "sweeps/trial.py",
        "sweeps/trainer.py",
        "sweeps/attempts.py",
        "sweeps/elastic.py",
        "sweeps/training.py",
        "sweeps/sft_training.py",
        "sweeps/cluster.py",
        "sweeps/pace.py",
        "sweeps/survey.py",
        "sweeps/doctor_cluster.py",
        "eval_workers/actors.py",
    },
    "mlflow": {"sweeps/mlflow_store.py", "eval_workers/mlflow_record.py"},
    "deepspeed": {"mmpo_train/deepspeed_engine.py"},
    "bitsandbytes": {"mmpo_train/optimizers.py"},
    "transformers": {"mmpo_train/policy.py", "mmpo_train/tiny.py"},
    "peft": {"mmpo_train/policy.py"},
    "datasets": {"mmpo_train/preference_sources.py"},
    "huggingface_hub": {
        "mmpo_train/policy.py",
        "mmpo_train/preference_sources.py",
        "eval_workers/alpaca_data.py",
        "sweeps/model_card.py",
        "sweeps/doctor_services.py",
    },
    "matplotlib": {"sweeps/joint_plot.py", "sweeps/plots.py", "sweeps/report_plots.py"},
    "tyro": {"mmpo_train/options.py", "mmpo_train/terminal.py", "eval_workers/__main__.py"},
    "lm_eval": {"eval_workers/lm_harness.py"},
    "openai": {"eval_workers/judge_clients.py"},
    "anthropic": {"eval_workers/judge_clients.py"},
    "optuna": {"sweeps/proposals.py"},
    "sklearn": {"eval_workers/length_control.py"},
    "vllm": {"eval_workers/vllm_generation.py"},
}
FILES = sorted(str(path.relative_to(REPOSITORY)) for package in BELOW for path in (REPOSITORY / package).rglob("*.py"))


def imported_modules(source):
    """Every module that the source imports, wherever the statement stands, but for `if TYPE_CHECKING:`."""
    found, waiting = set(), [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute here"
            found.add(node.module)
        waiting += ast.iter_child_nodes(node)
    return found


def imported_packages(file):
    return {module.split(".")[0] for module in imported_modules((REPOSITORY / file).read_text())}


def test_imports_are_found_wherever_they_stand():
    source = (
        "from typing import TYPE_CHECKING\nimport os.path as p, ray\n"
        "if TYPE_CHECKING:\n    import mlflow\nelse:\n    import peft\n"
        "class A:\n    def f(self):\n        try:\n            from deepspeed.runtime import engine\n"
        "        except ImportError:\n            import torch\n"
    )
    assert imported_modules(source) == {"typing", "os.path", "ray", "peft", "deepspeed.runtime", "torch"}


@pytest.mark.parametrize("file", FILES)
def test_imports_go_one_way(file):
    package = file.split("/")[0]
    assert imported_packages(file) & set(BELOW) <= BELOW[package] | {package}


@pytest.mark.parametrize("library", DOORS)
def test_a_heavy_library_is_imported_at_its_door_only(library):
    importers = {file for file in FILES if library in imported_packages(file)}
    assert importers <= DOORS[library]


def test_core_imports_neither_ray_nor_mlflow():
    core = [file for file in FILES if file.startswith("mmpo_train/")]
    assert core and not any({"ray", "mlflow"} & imported_packages(file) for file in core)


def test_no_script_of_sweeps_shadows_a_library():
    """`python sweeps/stage1_lr.py` puts `sweeps/` first on sys.path: its `queue.py` would be everyone's queue."""
    names = {path.stem for path in (REPOSITORY / "sweeps").glob("*.py")} - {"__init__"}
    assert not names & (set(sys.stdlib_module_names) | set(DOORS) | {"torch", "numpy", "optuna", "rich", "pyarrow"})


def run_python(program, *arguments):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout


def test_help_is_answered_without_torch():
    program = (
        "import sys\nfrom mmpo_train.__main__ import main\n"
        "try: main(['--help'])\nexcept SystemExit: print(sorted({'torch', 'transformers', 'ray'} & set(sys.modules)))"
    )
    printed = run_python(program)
    assert "--learning-rate" in printed and printed.endswith("[]\n")


# Every finder of modules says of these that it knows none, as on a machine where they are not installed.
WITHOUT = """
import json, sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *rest):
        return None if name.split(".")[0] in BLOCKED else self.finder.find_spec(name, *rest)

    def __getattr__(self, name):
        return getattr(self.finder, name)

BLOCKED = json.loads(sys.argv[1])
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


def test_a_trial_trains_where_ray_deepspeed_and_mlflow_are_not_installed(model_folder, base_config, tmp_path):
    """`python -m mmpo_train` on the random model: data, reference store, two steps, a checkpoint that opens."""
    blocked = ["ray", "deepspeed", "mlflow", "bitsandbytes", "optuna", "lm_eval", "matplotlib", "trl"]
    program = f"""{WITHOUT}
from mmpo_train.__main__ import main
main(sys.argv[2:])
for name in BLOCKED:
    assert name not in sys.modules, name
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise AssertionError(f"{{name}} could be imported")
"""
    arguments = ["--model", str(model_folder), "--dataset", base_config.dataset[0], "--storage", str(tmp_path)]
    for assignment in ("pairs_per_step=32", "epochs=1", "max_prompt_tokens=64", "max_completion_tokens=32"):
        arguments += ["--set", assignment]
    run_python(program, json.dumps(blocked), *arguments)
    [checkpoint] = tmp_path.glob("trials/*/checkpoints/epoch-0001")

    from mmpo_train.manifest import verify
    from mmpo_train.policy import load_model

    verify(checkpoint)
    trained, started = (dict(load_model(folder).named_parameters()) for folder in (checkpoint, model_folder))
    assert any(not (trained[name] == started[name]).all() for name in started)

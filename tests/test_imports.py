"""The import rules of the house as a table; its lower rooms work where the heavy libraries are missing."""

import ast
import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support.standins.missing import WITHOUT, run_python

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("mmpo", "mmpo_train", "eval_workers", "sweeps")
SCRIPTS = (
    *("stage0_sft", "stage1_lr", "stage2_beta", "stage3_margin", "final_runs", "ablations"),
    *("joint_search", "axis", "objectives", "mc_po_studies", "report"),
)
# A folder, or a file that stands in no room, imports itself and what stands in the lines above it.
ORDER = (
    "mmpo_train/errors mmpo_train/redaction mmpo_train/schedule mmpo_train/events mmpo_train/devices",
    "mmpo_train/metric_names mmpo_train/tables mmpo_train/chat",
    "mmpo_train/config",
    "mmpo_train/typed",
    "mmpo_train/acting_fields mmpo_train/storage mmpo_train/tiny",
    "mmpo_train/objectives",
    "mmpo_train/recipes mmpo_train/data",
    "mmpo_train/model",
    "mmpo_train/engines",
    "mmpo_train/trial",
    "mmpo_train/sft",
    "mmpo_train/options mmpo_train/prepare",
    "mmpo_train/terminal mmpo_train/training",
    "mmpo_train/merge mmpo_train/__main__",
    "eval_workers/settings eval_workers/checkpoint_folders eval_workers/warm_model",
    "eval_workers/judging",
    "eval_workers/tracking eval_workers/answers",
    "eval_workers/alpaca eval_workers/arena eval_workers/harness",
    "eval_workers/reward_accuracy eval_workers/win_rate eval_workers/online",
    "eval_workers/suites",
    "eval_workers/warm_evaluators",
    "eval_workers/actors eval_workers/options",
    "eval_workers/single eval_workers/ask",
    "eval_workers/__main__",
    "sweeps/grids",
    "sweeps/plan sweeps/ledger",
    "sweeps/cluster sweeps/ranking sweeps/live",
    "sweeps/workers",
    "sweeps/cost sweeps/figures sweeps/trials",
    "sweeps/search sweeps/reporting sweeps/doctor",
    " ".join(f"sweeps/{script}" for script in SCRIPTS),
    "sweeps/paper",
    "mmpo/__main__ mmpo/archive mmpo/config mmpo/fields mmpo/result mmpo/tagging",
)
FLOOR = {room: floor for floor, rooms in enumerate(ORDER) for room in rooms.split()}
# What of the plan, the objectives and the ranking is a value must be importable on a machine that has none of these.
PLAIN = (
    *("sweeps/grids", "sweeps/plan", "sweeps/ranking"),
    *("mmpo_train/config", "mmpo_train/acting_fields", "mmpo_train/recipes"),
)

# Each heavy library has one door: nobody else imports it, at the top of a file or inside a function.
DOORS = {
    "ray": {
        "sweeps/workers/kept_group.py",
        "sweeps/workers/ray_worker.py",
        "sweeps/trials/train_job.py",
        "sweeps/trials/restarts.py",
        "sweeps/trials/elastic.py",
        "sweeps/trials/tune.py",
        "sweeps/cluster/connection.py",
        "sweeps/cluster/head.py",
        "sweeps/trials/concurrency.py",
        "sweeps/cluster/accelerators.py",
        "sweeps/cluster/discovery.py",
        "sweeps/doctor/cluster.py",
        "eval_workers/actors.py",
    },
    "mlflow": {f"eval_workers/tracking/{name}.py" for name in ("store", "datasets", "models", "traces")},
    "deepspeed": {"mmpo_train/engines/deepspeed_engine.py"},
    "bitsandbytes": {"mmpo_train/engines/optimizers.py"},
    "transformers": {
        "mmpo_train/data/rendering.py",
        "mmpo_train/data/template_process.py",
        "mmpo_train/model/policy.py",
        "mmpo_train/tiny/model.py",
    },
    "peft": {"mmpo_train/model/policy.py"},
    "datasets": {"mmpo_train/data/sources.py"},
    "huggingface_hub": {
        "mmpo_train/model/folders.py",
        "mmpo_train/data/sources.py",
        "eval_workers/alpaca/data.py",
        "sweeps/reporting/model_card.py",
        "sweeps/doctor/services.py",
    },
    "matplotlib": {"sweeps/figures/stage.py", "sweeps/figures/style.py", "sweeps/figures/trade_off.py"},
    "tyro": {
        "mmpo_train/options.py",
        "mmpo_train/typed/options_file.py",
        "mmpo_train/terminal.py",
        "eval_workers/options.py",
    },
    "lm_eval": {"eval_workers/harness/evaluation.py"},
    "openai": {"eval_workers/judging/clients.py"},
    "anthropic": {"eval_workers/judging/clients.py"},
    "optuna": {"sweeps/search/proposals.py"},
    "sklearn": {"eval_workers/alpaca/length_control.py"},
    "scipy": {"sweeps/ranking/significance.py"},
    "vllm": {"eval_workers/answers/vllm_generation.py"},
}
FILES = sorted(
    str(path.relative_to(REPOSITORY)) for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py")
)
MODULES = {file.removesuffix(".py").removesuffix("/__init__").replace("/", "."): file for file in FILES}


def imported_modules(source, *, for_types=False):
    """Every module that the source imports, wherever the statement stands; `for_types` those for types alone, too.

    `from a import b` is both a and a.b, since b may be a module.
    """
    found, waiting = set(), [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) and not for_types:
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute here"
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        waiting += ast.iter_child_nodes(node)
    return found


def imported_packages(file):
    return {module.split(".")[0] for module in imported_modules((REPOSITORY / file).read_text())}


def imported_files(file):
    """The house's own files that a file imports, for types too; a package's `__init__` where nothing else is meant."""
    modules = imported_modules((REPOSITORY / file).read_text(), for_types=True)
    found = {MODULES[module] for module in modules if module in MODULES}
    return {one for one in found if one.count("/") > 1 or not one.endswith("__init__.py")} - {file}


def room(file):
    """The folder in a package, or the file itself, that the order names."""
    parts = file.removesuffix(".py").split("/")
    return "/".join(parts[:2])


def test_imports_are_found_wherever_they_stand():
    source = (
        "from typing import TYPE_CHECKING\nimport os.path as p, ray\n"
        "if TYPE_CHECKING:\n    import mlflow\nelse:\n    import peft\n"
        "class A:\n    def f(self):\n        try:\n            from deepspeed.runtime import engine\n"
        "        except ImportError:\n            import torch\n"
    )
    found = {"typing", "typing.TYPE_CHECKING", "os.path", "ray", "peft", "torch"}
    assert imported_modules(source) == found | {"deepspeed.runtime", "deepspeed.runtime.engine"}
    assert imported_modules(source, for_types=True) == imported_modules(source) | {"mlflow"}


@pytest.mark.parametrize("file", [file for file in FILES if file.count("/") > 1 or not file.endswith("__init__.py")])
def test_a_room_imports_only_those_above_it_in_the_order(file):
    here = room(file)
    above = {other for other in FLOOR if FLOOR[other] < FLOOR[here]}
    rooms = {room(other): other for other in imported_files(file)}
    assert not {other: why for other, why in rooms.items() if other != here and other not in above}


@pytest.mark.parametrize("file", FILES)
def test_every_module_of_ours_that_is_imported_is_there(file):
    """Late imports too, which mypy takes for a library that is not installed."""
    nodes = ast.walk(ast.parse((REPOSITORY / file).read_text()))
    wanted = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    ours = {module for module in wanted if module.split(".")[0] in PACKAGES}
    assert all((REPOSITORY / module.replace(".", "/")).is_dir() for module in ours - MODULES.keys())


def test_no_files_import_each_other_in_a_circle():
    imports = {file: imported_files(file) for file in FILES}
    while free := {file for file, others in imports.items() if not others & imports.keys()}:
        imports = {file: others for file, others in imports.items() if file not in free}
    assert not imports, "each of these imports another of them"


def test_no_folder_holds_more_than_sixteen_files():
    roots = [REPOSITORY / name for name in (*PACKAGES, "benchmarks", "faults", "makers", "tests")]
    folders = Counter(path.parent for root in roots for path in root.rglob("*.py"))
    assert {folder: count for folder, count in folders.items() if count > 16 and folder.name != "sweeps"} == {}


@pytest.mark.parametrize("init", [file for file in FILES if file.endswith("__init__.py")])
def test_every_package_says_what_it_is_for(init):
    said = ast.get_docstring(ast.parse((REPOSITORY / init).read_text()))
    assert said and len(said.split()) > 12


@pytest.mark.parametrize("library", DOORS)
def test_a_heavy_library_is_imported_at_its_door_only(library):
    importers = {file for file in FILES if library in imported_packages(file)}
    assert importers <= DOORS[library]


def test_core_imports_neither_ray_nor_mlflow():
    core = [file for file in FILES if file.startswith("mmpo_train/")]
    assert core and not any({"ray", "mlflow"} & imported_packages(file) for file in core)


def test_values_plans_and_rankings_are_importable_without_ray_mlflow_and_torch():
    modules = [name for name, file in MODULES.items() if room(file) in PLAIN]
    program = (
        "import sys\nfor name in sys.argv[1:]: __import__(name)\nprint({'ray', 'mlflow', 'torch'} & set(sys.modules))"
    )
    assert len(modules) > 15 and run_python(program, *modules) == "set()\n"


def test_no_script_of_sweeps_shadows_a_library():
    """`python sweeps/stage1_lr.py` puts `sweeps/` first on sys.path: its `queue.py` would be everyone's queue."""
    names = {path.stem for path in (REPOSITORY / "sweeps").iterdir() if not path.name.startswith("__")}
    assert not names & (set(sys.stdlib_module_names) | set(DOORS) | {"torch", "numpy", "rich", "pyarrow"})


def subject_of(path):
    """The module or room that a file of tests is about, if there is one: `test_NAME.py` or `test_NAME_aspect.py`."""
    folder, name = path.parent.relative_to(REPOSITORY / "tests"), path.stem.removeprefix("test_")
    words = name.split("_")
    names = ["_".join(words[:count]) for count in range(len(words), 0, -1)]
    is_there = ((REPOSITORY / folder / f"{one}.py").exists() or folder.name == one for one in names)
    return next((one for one, there in zip(names, is_there, strict=True) if there), None)


def test_tests_mirror_the_tree():
    """A module's tests are found by its path; helpers stand in tests/support, whole commands in tests/commands."""
    tests = REPOSITORY / "tests"
    mirrored = [path for package in (*PACKAGES, "benchmarks") for path in (tests / package).rglob("test_*.py")]
    assert len(mirrored) > 60
    assert not [str(path) for path in mirrored if subject_of(path) is None]
    assert not list((tests / "support").rglob("test_*.py"))


def test_no_test_module_imports_another():
    borrowed = {}
    for path in (REPOSITORY / "tests").rglob("*.py"):
        others = {name for name in imported_modules(path.read_text()) if name.startswith("tests.")}
        borrowed[str(path)] = [name for name in others if not name.startswith(("tests.support", "tests.conftest"))]
    assert not {path: names for path, names in borrowed.items() if names}


@pytest.mark.parametrize("program", ["mmpo_train.__main__", "sweeps.stage1_lr", "sweeps.joint_search"])
def test_help_is_answered_and_the_first_line_said_without_heavy_imports(program):
    program = (
        f"import sys\nfrom {program} import main\n"
        "heavy = {'torch', 'transformers', 'ray', 'mlflow', 'numpy'}\n"
        "try: main(['--help'])\nexcept SystemExit: print(sorted(heavy & set(sys.modules)))"
    )
    printed = run_python(program)
    assert "--learning-rate" in printed or "--trials" in printed
    assert printed.endswith("[]\n")


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

    from mmpo_train.model.policy import load_model
    from mmpo_train.storage.manifest import verify

    verify(checkpoint)
    trained, started = (dict(load_model(folder).named_parameters()) for folder in (checkpoint, model_folder))
    assert any(not (trained[name] == started[name]).all() for name in started)

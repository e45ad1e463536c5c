"""Commands as they are typed: by the programs of the interpreter that runs, from any folder."""

import subprocess
import sys
from pathlib import Path

import pytest

from mmpo_train.typed import programs
from mmpo_train.typed.programs import NAMES, PROGRAMS, as_typed, program_of


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """An interpreter in a folder of its own, which is not on the PATH."""
    folder = tmp_path / "venv" / "bin"
    folder.mkdir(parents=True)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.chdir(tmp_path)
    return folder


def install(folder: Path, name: str) -> None:
    (folder / name).write_text("#!/bin/sh\n")
    (folder / name).chmod(0o755)


def test_a_command_gets_the_interpreters_folder_in_front_unless_it_is_on_the_path(environment, tmp_path, monkeypatch):
    install(environment, "mmpo")
    install(environment, "mlflow")
    assert as_typed("mmpo stage2 --betas 0.1 0.5") == "venv/bin/mmpo stage2 --betas 0.1 0.5"
    monkeypatch.chdir("/")
    assert as_typed("mlflow ui --port 5000") == f"{environment}/mlflow ui --port 5000"
    links = tmp_path / "links"
    links.mkdir()
    (links / "mmpo").symlink_to(environment / "mmpo")
    monkeypatch.setenv("PATH", str(links))
    assert as_typed("mmpo stage2") == "mmpo stage2"


def test_where_mmpo_is_not_installed_the_interpreter_runs_the_package(environment):
    assert as_typed("mmpo stage2 --betas 0.1") == "venv/bin/python -m mmpo stage2 --betas 0.1"
    assert as_typed("mmpo doctor") == "venv/bin/python -m mmpo doctor"


def test_a_command_of_an_older_ledger_becomes_what_it_is_now(environment):
    install(environment, "mmpo")
    assert as_typed("python sweeps/stage1_lr.py --seeds 2") == "venv/bin/mmpo stage1 --seeds 2"
    assert program_of("stage1_lr") == "mmpo stage1" and NAMES["mmpo_train"] == "train"


def test_every_program_has_a_module_that_exists():
    folder = Path(programs.__file__).parents[2]
    places = [place.partition(":") for place in PROGRAMS.values()]
    files = [(folder / f"{module.replace('.', '/')}.py", function or "main") for module, _, function in places]
    assert all(f"def {function}(" in file.read_text() for file, function in files)


def test_the_one_command_lists_all_programs_without_importing_them():
    program = (
        "import sys\nfrom mmpo.__main__ import main\nmain(['--help'])\n"
        "print([name for name in ('torch', 'ray', 'mlflow', 'tyro', 'rich') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    *lines, heavy = run.stdout.splitlines()
    listed = {line.split()[0]: line for line in lines if line.startswith("  ")}
    assert list(listed) == list(PROGRAMS) and heavy == "[]"
    assert all(len(line.split()) > 5 and line.endswith((".", "`.")) for line in listed.values())


def test_an_unknown_program_is_refused_with_the_nearest_name(capsys):
    from mmpo.__main__ import main

    with pytest.raises(SystemExit) as stop:
        main(["stage-1"])
    assert stop.value.code == 2 and "did you mean 'stage1'?" in capsys.readouterr().err

"""The README against the repository: its tree, its options, its commands, its links."""

import json
import re
import shlex
from pathlib import Path

import pytest
import tyro

from eval_workers.__main__ import main as evaluate_main
from eval_workers.options import EvaluateOptions
from mmpo_train.__main__ import TrainOptions
from mmpo_train.__main__ import main as train_main
from mmpo_train.merge import MergeOptions
from mmpo_train.merge import main as merge_main
from sweeps.ablations import main as ablations_main
from sweeps.axis import main as axis_main
from sweeps.doctor.__main__ import main as doctor_main
from sweeps.doctor.page import DoctorOptions
from sweeps.final_runs import main as final_main
from sweeps.joint_search import main as joint_main
from sweeps.mc_po_studies import main as studies_main
from sweeps.objectives import main as objectives_main
from sweeps.paper import PaperOptions
from sweeps.paper import main as paper_main
from sweeps.report import main as report_main
from sweeps.reporting.report import ReportOptions
from sweeps.stage0_sft import main as stage0_main
from sweeps.stage1_lr import Stage1Options
from sweeps.stage1_lr import main as stage1_main
from sweeps.stage2_beta import main as stage2_main
from sweeps.stage3_margin import main as stage3_main
from tests.support.workers import REPOSITORY

PACKAGES = ("mmpo_train", "eval_workers", "sweeps")
README = (REPOSITORY / "README.md").read_text()
PROSE = re.sub(r"^```.*?^```$", "", README, flags=re.DOTALL | re.MULTILINE)
COMMANDS = [
    line.partition("  #")[0].strip()
    for block in re.findall(r"^```sh\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
]
ON_CLUSTERS = [command for command in COMMANDS if command.startswith(".venv/bin/ray ")]
COMMANDS = [command for command in COMMANDS if command not in ON_CLUSTERS]
STAGE1 = [shlex.split(command)[2:] for command in COMMANDS if "sweeps/stage1_lr.py" in command]
MERGE = [shlex.split(command)[3:] for command in COMMANDS if "-m mmpo_train.merge" in command]
OTHERS = {
    "sweeps/stage0_sft.py": stage0_main,
    "sweeps/axis.py": axis_main,
    "sweeps/objectives.py": objectives_main,
    "sweeps/mc_po_studies.py": studies_main,
    "sweeps/stage2_beta.py": stage2_main,
    "sweeps/stage3_margin.py": stage3_main,
    "sweeps/final_runs.py": final_main,
    "sweeps/ablations.py": ablations_main,
    "sweeps/paper.py": paper_main,
    "sweeps/joint_search.py": joint_main,
}
SWEEPS = [shlex.split(command)[1:] for command in COMMANDS if any(program in command for program in OTHERS)]
REPORT = [shlex.split(command)[2:] for command in COMMANDS if "sweeps/report.py" in command]
EVALUATE = [shlex.split(command)[3:] for command in COMMANDS if "-m eval_workers" in command]
DOCTOR = [shlex.split(command)[3:] for command in COMMANDS if "-m sweeps.doctor" in command]
TRAIN = [shlex.split(command)[3:] for command in COMMANDS if "-m mmpo_train " in command]


def tree() -> dict[str, str]:
    """Path -> its line, of the README's tree; a folder's path ends in a slash."""
    block = README.partition("## The tree")[2].split("```")[1]
    found, folders = {}, []
    for line in block.strip("\n").splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, said = line.strip().partition(" ")
        folders = folders[:depth]
        found["".join(folders) + name] = said.strip()
        if name.endswith("/"):
            folders.append(name)
    return found


def help_of(main, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def paths_of(arguments: list[str], option: str) -> list[Path]:
    return [Path(value) for name, value in zip(arguments, arguments[1:]) if name == option]


def test_the_tree_names_every_package_and_nothing_else():
    there = {
        f"{path.parent.relative_to(REPOSITORY)}/"
        for name in PACKAGES
        for path in (REPOSITORY / name).rglob("__init__.py")
    }
    assert {path for path in tree() if path.startswith(PACKAGES)} == there
    assert [path for path, said in tree().items() if not said or not (REPOSITORY / path).exists()] == []


def test_every_option_named_exists(capsys):
    ours = [command for command in COMMANDS if "/mlflow " not in command]
    named = set(re.findall(r"--[a-z][a-z-]+", "\n".join([PROSE, *ours])))
    assert len(named) > 12
    helps = "".join(
        help_of(main, capsys)
        for main in (stage1_main, train_main, evaluate_main, merge_main, report_main, doctor_main, *OTHERS.values())
    )
    assert named - set(re.findall(r"--[a-z][a-z-]+", helps)) == set()


def test_every_option_of_stage_1_is_named(capsys):
    options = set(re.findall(r"--[a-z][a-z-]+", help_of(stage1_main, capsys)))
    assert {option for option in options - {"--help"} if not option.startswith("--no-")} - set(
        re.findall(r"--[a-z][a-z-]+", PROSE)
    ) == set()


@pytest.mark.parametrize("arguments", STAGE1, ids=" ".join)
def test_stage_1_commands_run_as_far_as_the_trials_list(arguments, model_folder, tmp_path, monkeypatch, capsys):
    tyro.cli(Stage1Options, args=arguments)
    monkeypatch.chdir(tmp_path)
    for path in paths_of(arguments, "--dataset"):
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"prompt": f"Question {n}?", "chosen": f"Yes {n}.", "rejected": f"No {n}."} for n in range(160)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for path in paths_of(arguments, "--model"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(model_folder)
    stage1_main([*arguments, "--dry-run"])
    assert "nothing was started" in capsys.readouterr().out


@pytest.mark.parametrize("command", SWEEPS, ids=" ".join)
def test_other_sweeps_run_as_far_as_the_trials_list(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    OTHERS[command[0]]([*command[1:], "--dry-run"])
    assert "nothing was started" in capsys.readouterr().out


def test_every_other_sweep_is_shown():
    assert {command[0] for command in SWEEPS} == set(OTHERS)


@pytest.mark.parametrize("arguments", TRAIN, ids=" ".join)
def test_single_trial_commands_parse(arguments):
    assert tyro.cli(TrainOptions, args=arguments)


@pytest.mark.parametrize("arguments", MERGE, ids=" ".join)
def test_merging_commands_parse(arguments):
    assert tyro.cli(MergeOptions, args=arguments).target


@pytest.mark.parametrize("arguments", REPORT, ids=" ".join)
def test_report_commands_parse(arguments):
    assert tyro.cli(ReportOptions, args=arguments)


@pytest.mark.parametrize("arguments", DOCTOR, ids=" ".join)
def test_doctor_commands_parse(arguments):
    assert tyro.cli(DoctorOptions, args=arguments)


@pytest.mark.parametrize("arguments", EVALUATE, ids=" ".join)
def test_evaluation_commands_parse(arguments):
    assert tyro.cli(EvaluateOptions, args=arguments).paths


def test_commands_on_clusters_name_files_and_programs_that_exist():
    assert {command.split()[2] for command in ON_CLUSTERS} <= {"cluster.yaml", "cluster.local.yaml"}
    assert {command.split()[1] for command in ON_CLUSTERS} == {"up", "exec", "attach", "down"}
    (submitted,) = [shlex.split(command)[-1].split() for command in ON_CLUSTERS if " exec " in command]
    assert (
        submitted[0].startswith("mmpo-sweeps/") and (REPOSITORY / submitted[0].removeprefix("mmpo-sweeps/")).is_file()
    )
    assert tyro.cli(PaperOptions, args=submitted[2:]).model


def test_the_commands_are_there_at_all():
    assert len(STAGE1) >= 3 and TRAIN and EVALUATE and REPORT and DOCTOR
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))
    named = {command.split()[1] for command in COMMANDS if command.startswith("make ")}
    assert {"sweep", "test"} <= named <= targets


def test_every_file_that_is_named_exists():
    quoted = set(re.findall(r"`((?:mmpo_train|eval_workers|sweeps|tests|docs)/[\w./]+\.\w+)`", README))
    linked = set(re.findall(r"\]\(([^):]+)\)", README))
    assert linked and len(quoted) > 10
    assert [path for path in sorted(quoted | linked) if not (REPOSITORY / path).is_file()] == []


def test_the_address_of_the_ledger_is_the_one_the_stage_prints(tmp_path, monkeypatch):
    from eval_workers.tracking import addresses

    monkeypatch.chdir(tmp_path)
    printed = addresses.ui_command(addresses.resolve(None, Path("runs")))
    assert [command for command in COMMANDS if command.endswith(printed)], printed


def test_pictures_are_small_and_load_nothing_from_elsewhere():
    pictures = [path for path in (REPOSITORY / "docs").iterdir() if path.suffix in (".svg", ".png")]
    assert len(pictures) == 4 and sum(path.stat().st_size for path in pictures) < 500_000
    for path in pictures:
        if path.suffix == ".svg":
            addresses = set(re.findall(r"https?://[^\"'\s)<]+", path.read_text()))
            shown = {address for address in addresses if address.startswith("http://127.0.0.1:5000")}  # as printed
            assert addresses - shown == {"http://www.w3.org/2000/svg"}

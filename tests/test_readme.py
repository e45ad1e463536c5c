"""The README and the pages of docs/: their commands, links, files and options against the repository."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from makers.options import PROGRAMS, SWEEPS, help_of
from mmpo_train import training
from mmpo_train.typed.programs import NAMES
from tests.support.programs import parse
from tests.support.workers import REPOSITORY

PACKAGES = ("mmpo", "mmpo_train", "eval_workers", "sweeps")
FOLDERS = (*PACKAGES, "tests", "docs", "benchmarks", "faults", "clusters", "makers")
PAGES = {
    str(path.relative_to(REPOSITORY)): path.read_text()
    for path in [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
SUBMITTED = "mmpo-sweeps/clusters/run"
# Of Ray, MLflow and git; those of our own programs are looked up.
FOREIGN = {"--tmux", "--port-forward", "--no-restart", "--allowed-hosts", "--generate", "--durations"}


def blocks(language: str) -> Iterator[str]:
    for text in PAGES.values():
        yield from (block for kind, block in BLOCK.findall(text) if kind == language)


def prose(page: str) -> str:
    return BLOCK.sub("", PAGES[page])


TYPED = list(
    dict.fromkeys(re.split(r" +# ", line)[0].strip() for block in blocks("sh") for line in block.splitlines() if line)
)
"""Every command of every page, once."""
INLINE = {code for page in PAGES for code in re.findall(r"`(mmpo [a-z0-9-]+ (?!--help)[^`]+)`", prose(page))}
"""Commands of ours in a sentence or a table."""


def ours(command: str) -> tuple[str, list[str]] | None:
    """The program of this repository that a command runs, and its arguments."""
    words = shlex.split(command.partition(" > ")[0])
    for place, word in enumerate(words):
        rest = words[place + 1 :]
        if not rest:
            return None
        if word.endswith("bin/mmpo") or word == "mmpo":
            return rest[0], rest[1:]
        if word.endswith((SUBMITTED, "clusters/slurm.sbatch", "python")):
            module = rest[0].removesuffix(".py").replace("/", ".")
            return NAMES.get(module, rest[0]), rest[1:]
        if " " in word and (found := ours(word)):
            return found
    return None


def paths_of(arguments: list[str], option: str) -> list[Path]:
    return [Path(value) for name, value in zip(arguments, arguments[1:]) if name == option]


def slug(heading: str) -> str:
    """The anchor that a Markdown viewer gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))


RUN = {command: found for command in sorted({*TYPED, *INLINE}) if (found := ours(command))}
PREVIEWED = {
    f"{program} {' '.join(arguments)}": (program, [one for one in arguments if one != "--dry-run"])
    for command, (program, arguments) in RUN.items()
    if program in (*SWEEPS, "sft") and command in TYPED and "HuggingFaceTB/" not in command
}
"""The pages' sweeps on tiny and on local files, to be run as far as the list of their trials."""


def test_the_readme_is_read_to_its_end():
    assert len(PAGES["README.md"].splitlines()) <= 250


def test_the_tree_names_every_package_and_nothing_else():
    block = PAGES["README.md"].partition("## The tree")[2].split("```")[1]
    named, folders = {}, []
    for line in block.strip("\n").splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, said = line.strip().partition(" ")
        folders = [*folders[:depth], name]
        named["".join(folders)] = said.strip()
    there = {
        f"{path.parent.relative_to(REPOSITORY)}/"
        for name in PACKAGES
        for path in (REPOSITORY / name).rglob("__init__.py")
    }
    assert {path for path in named if path.startswith(PACKAGES)} == there
    assert [path for path, said in named.items() if not said or not (REPOSITORY / path).is_dir()] == []


def test_every_page_is_linked_from_the_readme():
    assert {page for page in PAGES if f"]({page})" not in PAGES["README.md"]} == {"README.md"}


@pytest.mark.parametrize("page", PAGES)
def test_links_and_their_anchors_resolve(page):
    for target in re.findall(r"\]\(([^):\s]+)\)", prose(page)):
        path, _, anchor = target.partition("#")
        there = (REPOSITORY / page).parent / path if path else REPOSITORY / page
        assert there.is_file(), target
        if anchor:
            assert anchor in {slug(one) for one in re.findall(r"^#+ (.*)$", there.read_text(), flags=re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES)
def test_every_file_named_exists(page):
    quoted = re.findall(rf"[` (]((?:{'|'.join(FOLDERS)})/[\w./-]*[\w/])(?=[` ):])", PAGES[page])
    assert [path for path in quoted if not (REPOSITORY / path).exists() and path != "docs/options.md"] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_option_named_exists(page):
    known = {one.name for program in PROGRAMS for one in help_of(program).options} | {
        "--help",
        "--evaluation",
        *FOREIGN,
    }
    known |= {word.partition("=")[0] for command in TYPED if not ours(command) for word in command.split()}
    assert set(re.findall(r"(?<![\w-])--[a-z][\w.-]*\w", prose(page))) - known == set()


def test_every_make_target_named_exists():
    named = {word for page in PAGES for word in re.findall(r"(?:^|`)make ([a-z-]+)", PAGES[page], flags=re.MULTILINE)}
    assert {"sweep", "test", "docs", "bench"} <= named <= targets()


def test_every_command_is_one_that_is_checked_here():
    """The others of a page are set-up in a shell, named one by one."""
    shell = ("make ", "export ", "(umask ", ".venv/bin/ray ", ".venv/bin/mlflow ", ".venv/bin/python -m pytest ")
    unknown = [one for one in TYPED if not one.startswith(shell) and not ours(one)]
    assert unknown == []
    scripts = [program for program, _ in RUN.values() if program not in PROGRAMS]
    assert scripts and all((REPOSITORY / program).is_file() for program in scripts)
    assert {program for program, _ in RUN.values()} >= set(PROGRAMS), "a program is shown on no page"


@pytest.mark.parametrize("command", RUN)
def test_commands_parse(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep.yaml").write_text("{}")  # what --config names
    program, arguments = RUN[command]
    if program in PROGRAMS:
        assert parse(program, arguments)


@pytest.mark.parametrize("name", PREVIEWED)
def test_sweeps_run_as_far_as_the_list_of_trials(name, model_folder, tmp_path, monkeypatch, capsys, plugged):
    program, arguments = PREVIEWED[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "count_tokens", lambda *inputs, **how: {})  # a second for each of so many
    (tmp_path / "sweep.yaml").write_text("{}")
    (tmp_path / "mine.py").write_text(re.findall(r"```python\n(.*?)```", PAGES["docs/plugins.md"], re.DOTALL)[0])
    for path in paths_of(arguments, "--dataset"):
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"prompt": f"Question {n}?", "chosen": f"Yes {n}.", "rejected": f"No {n}."} for n in range(160)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for path in paths_of(arguments, "--model"):
        if len(path.parts) > 1:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(model_folder)
    PROGRAMS[program]([*arguments, "--dry-run"])
    assert "nothing was started" in capsys.readouterr().out


def test_commands_on_clusters_name_files_and_programs_that_exist():
    on_clusters = [shlex.split(command) for command in TYPED if command.startswith(".venv/bin/ray ")]
    up = [words for words in on_clusters if words[1] in ("up", "exec", "attach", "down")]
    assert {words[2] for words in up} <= {"cluster.yaml", "cluster.local.yaml"}
    assert {words[1] for words in on_clusters} == {"up", "exec", "attach", "down"}
    submitted = {shlex.split(words[-1])[0] for words in up if words[1] == "exec"}
    assert submitted == {SUBMITTED} and (REPOSITORY / SUBMITTED.removeprefix("mmpo-sweeps/")).is_file()


def test_the_address_of_the_ledger_is_the_one_the_stage_prints(tmp_path, monkeypatch):
    from eval_workers.tracking import addresses

    monkeypatch.chdir(tmp_path)
    printed = addresses.ui_command(addresses.resolve(None, Path("runs")))
    assert [command for command in TYPED if command.endswith(printed)], printed


def test_pictures_are_small_and_load_nothing_from_elsewhere():
    pictures = [path for path in (REPOSITORY / "docs").iterdir() if path.suffix in (".svg", ".png")]
    assert len(pictures) == 4 and sum(path.stat().st_size for path in pictures) < 500_000
    for path in pictures:
        if path.suffix == ".svg":
            addresses = set(re.findall(r"https?://[^\"'\s)<]+", path.read_text()))
            shown = {address for address in addresses if address.startswith("http://127.0.0.1:5000")}  # as printed
            assert addresses - shown == {"http://www.w3.org/2000/svg"}

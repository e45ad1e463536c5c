"""How a command ends where the system refuses it something."""

import errno
import os
import subprocess

import pytest

from mmpo_train.options import Options
from mmpo_train.terminal import run_program


def ending(program, capsys):
    with pytest.raises(SystemExit) as end:
        run_program(Options, lambda options: program(), "program", [])
    assert end.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "file", "advice"),
    [
        (errno.ENOSPC, "runs/mlflow.db", "free some space, or give another folder with --storage"),
        (errno.EDQUOT, "runs/mlflow.db", "free some space, or give another folder with --storage"),
        (errno.EACCES, "runs/mlflow.db", "change its permissions, or give another folder with --storage"),
        (errno.EROFS, None, "change its permissions, or give another folder with --storage"),
    ],
)
def test_only_a_full_disk_is_to_be_freed(number, file, advice, capsys):
    def refused():
        raise OSError(number, os.strerror(number), file)

    assert f"{os.strerror(number)}{f' ({file})' if file else ''}: {advice}" in ending(refused, capsys)


def test_a_program_of_a_package_that_may_not_be_run_is_said_to_be_one(tmp_path, capsys):
    program = tmp_path / "site-packages" / "ray" / "gcs_server"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    said = ending(lambda: subprocess.run([str(program)]), capsys)
    assert f"Permission denied ({program}): a file of an installed package" in said and "space" not in said


def test_other_errors_of_the_system_are_not_hidden():
    def refused():
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        run_program(Options, lambda options: refused(), "program", [])

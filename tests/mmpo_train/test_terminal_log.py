"""What a command prints where there is no terminal: a log, in which every phase has its time and nothing is cut off."""

from __future__ import annotations

import re

from mmpo_train import terminal
from tests.support.standins.missing import run_python


def test_in_a_log_each_phase_is_a_line_with_its_time_and_then_one_a_minute(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    with terminal.console.capture() as captured, terminal.preparing() as say:
        for now[0], what, share in [
            (1, "tokenising", 0.0),
            (2, "reference", 0.0),
            (30, "reference", 0.4),
            (63, "reference", 0.7),
            (64, "reference", 0.8),
        ]:
            say(what, share)
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  "
    assert re.fullmatch(f"{stamp}tokenising\n{stamp}reference\n{stamp}reference: 70%\n", captured.get())


def test_a_log_is_120_columns_wide_and_shows_every_column_of_a_table():
    program = (
        "from mmpo_train.tables import Table, for_terminal\nfrom mmpo_train.terminal import console\n"
        "names = [f'column{n}' for n in range(9)]\n"
        "console.print(console.width)\nconsole.print(for_terminal(Table('t', names, [['12345678'] * 9])))"
    )
    printed = run_python(program)
    assert printed.startswith("120\n") and all(f"column{number}" in printed for number in range(9))
    assert printed.count("12345678") == 9


def test_no_credential_is_told(capsys):
    terminal.tell("reading https://user:secret@host/data")
    assert "secret" not in capsys.readouterr().out

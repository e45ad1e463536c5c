import csv
import io

import pytest
from rich.console import Console

from mmpo_train.tables import Table, as_csv, as_markdown, for_terminal, shortened

TABLE = Table("A [title]", ("", "loss", "why"), [("a", "1.5", "x|y"), ("b", "2", "<i>\n[bold]")], (0, 2), best={(0, 1)})


def drawn(table, **looks):
    console = Console(file=io.StringIO(), width=60, force_terminal=bool(looks), **looks)
    console.print(for_terminal(table))
    return console.file.getvalue()


def test_a_terminal_shows_texts_as_they_are_numbers_right_and_words_left():
    lines = drawn(TABLE).splitlines()
    assert lines[0].strip() == "A [title]"
    assert "│ a │  1.5 │ x|y" in lines[4] and "│ b │    2 │ <i>" in lines[5] and "[bold]" in lines[6]


def test_the_best_cells_and_the_winner_stand_out():
    assert "\x1b[1m 1.5\x1b[0m" in drawn(TABLE, color_system="standard")
    winner = Table("", ("", "loss", ""), [("a", "1.5", ""), ("b", "2", "")], winner=1)
    assert "\x1b[1;32m   2\x1b[0m" in drawn(winner, color_system="standard")
    assert as_markdown(winner).splitlines()[2:] == ["| a | 1.5 |  |", "| **b** | **2** |  |"]


def test_a_thousand_rows_are_forty_and_how_many_others_there_are():
    table = Table("", ("", "loss", ""), [(str(row), "1", "") for row in range(1000)], winner=0)
    short = shortened(table)
    assert short.rows == [*table.rows[:40], ("…", "960 others", "")] and short.winner == 0
    for few in (0, 40, 41):
        whole = Table("", ("", "loss", ""), table.rows[:few])
        assert shortened(whole) == whole


def test_markdown_holds_every_text_in_its_cell():
    assert as_markdown(TABLE).splitlines() == [
        "|  | loss | why |",
        "|---|---:|---|",
        "| a | **1.5** | x\\|y |",
        "| b | 2 | &lt;i><br>[bold] |",
    ]
    assert as_markdown(TABLE, aligned=False).splitlines()[1] == "|---|---|---|"


def test_csv_is_read_back_as_it_was():
    rows = [["a,b", 'say "x"'], ["two\nlines", ""]]
    assert list(csv.reader(io.StringIO(as_csv(("one", "two"), rows)))) == [["one", "two"], *rows]


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ('=HYPERLINK("http://a")', '"\'=HYPERLINK(""http://a"")"'),
        ("@sum(1)", "'@sum(1)"),
        ("+1+1", "'+1+1"),
        ("-2+cmd|'/c'!A0", "'-2+cmd|'/c'!A0"),
        ("\t=1", "'\t=1"),
        ("-0.25", "-0.25"),
        ("+1.2e-05", "+1.2e-05"),
        ("-0.25 ± 0.01", "-0.25 ± 0.01"),
        (-3, "-3"),
        ("a = b", "a = b"),
    ],
)
def test_no_cell_is_a_formula_to_a_spreadsheet(cell, written):
    assert as_csv(["x"], [[cell]]) == f"x\n{written}\n"


def test_what_a_model_answered_loads_and_links_nothing_in_markdown():
    said = "![a](http://a/b.png) [c](javascript:d) <img src=e>\r\nf"
    [*_, row] = as_markdown(Table("", ["A"], [[said]])).split("\n")
    assert row == "| ![a]\\(http://a/b.png) [c]\\(javascript:d) &lt;img src=e> <br>f |"

"""The live table of very many trials."""

import io
import re
import time

from rich.console import Console

from mmpo_train.events import Point
from sweeps.trials.board import Board, Row


def board_of(states: dict[str, str], height: int) -> Board:
    """Trials named by their number, reward accuracy growing with it, on a screen of so many lines."""
    rows = {}
    for number, (name, state) in enumerate(states.items()):
        rows[name] = Row(name, 2, state=state)
        if state != "waiting":
            metrics = {"train/epoch": 1.0, "train/pairs_per_second": 9.0, "train/step_seconds": 1.0}
            rows[name].update([Point(7, 0, metrics | {"validation_curve/reward_accuracy": number / len(states)})])
    console = Console(file=io.StringIO(), force_terminal=True, width=120, height=height)
    return Board(console, "mmpo", "learning_rate", rows, 8)


def shown(board: Board) -> list[str]:
    return list(board.table().columns[0].cells)


def drawn(board: Board) -> str:
    board.console.print(board.table())
    return board.console.file.getvalue()


def test_trials_that_fit_the_screen_are_all_shown_in_the_grid_s_order():
    names = [f"t{number}" for number in range(18)]
    board = board_of({name: "waiting" for name in names}, height=25)
    assert shown(board) == names and "of 18 trials" not in drawn(board)


def test_a_low_screen_shows_what_runs_and_the_best_that_ended_and_counts_the_rest():
    states = {f"t{number}": "finished" for number in range(500)}
    states |= {"t3": "failed", "t100": "training", "t400": "judging"}
    states |= {f"w{number}": "waiting" for number in range(500)}
    board = board_of(states, height=19)
    # 12 rows: the two under way, and the ten best that have ended.
    assert shown(board) == ["t100", "t400", *[f"t{number}" for number in range(490, 500)]]
    assert "12 of 1000 trials; 500 waiting, 497 finished" in drawn(board)
    assert len(drawn(board).splitlines()) // 2 <= 19


def test_more_trials_under_way_than_lines_leave_room_for_the_best():
    states = {f"r{number}": "training" for number in range(50)} | {f"f{number}": "finished" for number in range(50)}
    names = shown(board_of(states, height=27))
    assert [name for name in names if name[0] == "f"] == [f"f{number}" for number in range(45, 50)]
    assert len(names) == 20


def test_a_frame_of_a_thousand_trials_takes_less_than_half_of_the_time_between_frames():
    board = board_of({f"t{number}": "finished" for number in range(1000)}, height=50)
    started = time.process_time()
    for _ in range(4):
        drawn(board)
    assert (time.process_time() - started) / 4 < 0.125  # of the 0.25 s between frames


def test_a_tuning_s_row_has_its_validation_loss_and_conversations():
    row = Row("tiny", 2, tuning=True, state="training")
    metrics = {"train/epoch": 1.0, "train/loss": 2.0, "train/conversations_per_second": 9.0, "train/step_seconds": 1.0}
    row.update([Point(7, 0, metrics | {"validation_curve/loss": 1.25})])
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    printed = drawn(Board(console, "instruction tuning", "tuning", {"a": row}, 1))
    assert "validation loss" in printed and "1.2500" in printed and "conversations/s" in printed


def test_a_log_says_once_a_minute_how_far_each_trial_is(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    console = Console(file=io.StringIO(), width=200)
    rows = {"a": Row("1e-4", 2), "b": Row("5e-5", 2)}
    board = Board(console, "mmpo", "learning_rate", rows, 1)
    metrics = {"train/epoch": 0.5, "train/loss": 0.25, "train/pairs_per_second": 9.0, "train/step_seconds": 2.0}
    board.set_state("a", "training")
    rows["a"].update([Point(10, 0, metrics)])
    for now[0] in (59.0, 60.0, 61.0, 119.0):
        board.beat()
    lines = console.file.getvalue().splitlines()
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  "
    patterns = [
        r"learning_rate 1e-4: training \(step 0\)",
        # 1.5 epochs of 20 steps of 2 s
        r"learning_rate 1e-4: step 10, epoch 0.50 of 2, loss 0.2500, 9 pairs/s, 1:00 left",
        r"1 training, 1 waiting · 1:00, about 2:20 of training left",
    ]
    assert len(lines) == len(patterns)
    assert all(re.fullmatch(stamp + pattern, line) for pattern, line in zip(patterns, lines, strict=True)), lines

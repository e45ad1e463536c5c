"""Make the README's pictures: stage 1 of the default sweep on the terminal, its figure, and MLflow's page.

python makers/pictures.py

Runs stage 1 as `make sweep` does, then two points of stages 2 and 3, all in a folder of its own. Needs Chromium, its
driver and selenium, which tests/browser/install installs.
"""

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

DOCS = Path(__file__).resolve().parents[1] / "docs"
TITLE = "make sweep"
# A terminal of this size, on which nothing that moves is drawn: the moving table is pictured by itself.
TERMINAL = {"TERM": "dumb", "TTY_COMPATIBLE": "1", "COLUMNS": "110", "LINES": "50"}
_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_TO_SETTLE = 5.0
_WIDTH, _HEIGHT = 1400, 1040


def main() -> None:
    """Write the four pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # The commands that the stage prints begin with .venv/bin, as in a clone.
        (folder / ".venv").symlink_to(sys.prefix)
        inside = [str(folder / ".venv/bin/python"), __file__, "record"]
        subprocess.run(inside, cwd=folder, env=os.environ | TERMINAL, check=True)
        picture_mlflow(folder / "runs" / "mlflow.db", folder)


def record() -> None:
    """Run the stages in this folder; write the terminal's two pictures and the stage's figure."""
    from mmpo_train.terminal import console
    from sweeps import stage1_lr, stage2_beta, stage3_margin
    from sweeps.trials.board import Board

    console.record = True
    with mock.patch.object(Board, "live", pictured):
        stage1_lr.main([])
    write_svg("stage1-end.svg", begins="cost: ")
    [figure] = Path("runs/plots").glob("stage1_lr-*.png")
    shutil.copyfile(figure, DOCS / "stage1.png")
    stage2_beta.main(["--betas", "0.05", "0.1"])
    stage3_margin.main(["--margins", "0.2", "0.6"])


@contextmanager
def pictured(board: Any) -> Iterator[None]:
    """In place of the live table: one picture of it when two trials have ended and two are well under way."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_SECONDS_BETWEEN_LOOKS):
            rows = list(board.rows.values())
            training = [row for row in rows if row.state == "training" and row.epoch > 1]
            if len(training) > 1 and any(row.state == "finished" for row in rows):
                board.console.print(board.table())
                write_svg("stage1-live.svg")
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def write_svg(name: str, begins: str = "") -> None:
    """Write what the console has shown since the last picture, long lines wrapped, without fonts from elsewhere.

    The picture begins with the line in which `begins` stands first.
    """
    from rich.console import Console
    from rich.text import Text

    from mmpo_train.terminal import console

    sheet = Console(record=True, width=console.width, file=io.StringIO(), force_terminal=True)
    shown = console.export_text(styles=True).strip("\n")
    sheet.print(Text.from_ansi(shown[shown.rfind("\n", 0, shown.index(begins)) + 1 :]))
    svg = re.sub(r"@font-face \{.*?\}|<!--.*?-->", "", sheet.export_svg(title=TITLE), flags=re.DOTALL)
    (DOCS / name).write_text(svg)


def picture_mlflow(database: Path, folder: Path) -> None:
    """MLflow's page of stages 1 to 3: the runs, and their parallel coordinates."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    from makers.browser import chromium, mlflow_server, view_of_search

    with mlflow_server(database, folder / "server.txt") as host, chromium(folder / "profile", _WIDTH, _HEIGHT) as page:
        address = f"http://{host}/#/experiments/1/runs?workflowType=machine_learning"
        page.get(f"{address}&viewStateShareKey={view_of_search(database, 'mmpo')}&compareRunsMode=CHART")
        patient = WebDriverWait(page, 240)
        patient.until(lambda browser: len(browser.find_elements(By.CSS_SELECTOR, ".dimension")) == 4)
        for name in ("Hide banner", "Close"):  # of the shared view, and of MLflow's assistant
            for button in page.find_elements(By.CSS_SELECTOR, f"button[aria-label='{name}']"):
                page.execute_script("arguments[0].click()", button)
        patient.until(lambda browser: len(browser.find_elements(By.CSS_SELECTOR, ".js-plotly-plot")) >= 3)
        time.sleep(_SECONDS_TO_SETTLE)
        page.save_screenshot(str(DOCS / "mlflow.png"))


if __name__ == "__main__":
    sys.path.insert(0, str(DOCS.parent))
    record() if "record" in sys.argv else main()

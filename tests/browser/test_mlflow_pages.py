"""What a person sees and clicks in MLflow's pages: a real browser on the ledger of two real stages.

Needs Chromium, its driver and selenium: `make browser-test`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from makers.browser import chromium, mlflow_server, view_of_search
from tests.support.workers import REPOSITORY

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (shutil.which("chromium") and shutil.which("chromedriver")),
        reason="there is no chromium with its chromedriver; `make browser-test` installs them as root",
    ),
]
selenium = pytest.importorskip("selenium", reason="selenium is not installed; `make browser-test` installs it")

from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

SETTINGS = ("pairs_per_step=6", "max_prompt_tokens=64", "max_completion_tokens=32", "epochs=1")
COMMANDS = {
    "stage1_lr": ("--learning-rates", "1e-3", "3e-3"),
    "stage2_beta": ("--betas", "0.05", "0.1"),
}
PATIENCE_SECONDS = 120


class Search:
    """A storage, the commands in it, and a browser on its ledger."""

    def __init__(self, model: Path, data: Path, storage: Path, browser: Any):
        self.words = ["--model", str(model), "--dataset", str(data), "--storage", str(storage)]
        self.words += [word for setting in SETTINGS for word in ("--set", setting)]
        self.database, self.server, self.browser = storage / "mlflow.db", "", browser
        self.pages: dict[str, str] = {}
        """Script -> the address that it printed."""

    def run(self, script: str, *more: str) -> str:
        """What the command printed, in one line."""
        words = [sys.executable, f"sweeps/{script}.py", *COMMANDS[script], *self.words, *more]
        environment = os.environ | {"COLUMNS": "200"}
        done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        for page in re.findall(r"http://\S+/#/experiments/\S+", done.stdout):
            self.pages[script] = page
        return " ".join(done.stdout.split())

    def open(self, address: str) -> None:
        """The page, read from the server: MLflow's pages do not look again at a tag that others have set."""
        self.browser.get("about:blank")
        self.browser.get(address.replace("127.0.0.1:5000", self.server))

    def wait_for(self, *texts: str) -> str:
        """The page's text, as soon as all of these are in it."""

        def shown(browser: Any) -> str:
            text = browser.find_element(By.TAG_NAME, "body").text
            return text if all(one in text for one in texts) else ""

        return WebDriverWait(self.browser, PATIENCE_SECONDS).until(shown, f"{texts} not on {self.browser.current_url}")

    def wait_until_gone(self, text: str) -> None:
        """Returns when the text is no longer on the page."""
        body = (By.TAG_NAME, "body")
        WebDriverWait(self.browser, PATIENCE_SECONDS).until(
            lambda browser: text not in browser.find_element(*body).text
        )

    def axes(self) -> list[list[float]]:
        """Of the parallel coordinates, the ticks of each axis. One that has a single value has a single tick."""

        def drawn(browser: Any) -> list[Any]:
            found = browser.find_elements(By.CSS_SELECTOR, ".dimension")
            return found if len(found) == 4 and all("\n" in one.text for one in found) else []

        four = WebDriverWait(self.browser, PATIENCE_SECONDS).until(drawn, "no parallel coordinates")
        return [[float(tick.replace("\N{MINUS SIGN}", "-")) for tick in one.text.splitlines()[:-1]] for one in four]

    def click(self, path: str) -> Any:
        """The first element at an XPath, clicked once that is possible; what lies over it is MLflow's own business."""

        def clicked(browser: Any) -> Any:
            [element] = browser.find_elements(By.XPATH, path)[:1] or [None]
            if element is not None:
                browser.execute_script("arguments[0].click()", element)
            return element

        return WebDriverWait(self.browser, PATIENCE_SECONDS).until(clicked, f"no {path}")

    def column(self, name: str) -> list[str]:
        """The cells of a column of the run list, from above; of a run's name without its colour."""
        cells = self.browser.find_elements(By.CSS_SELECTOR, f'.ag-row [col-id="{name}"]')
        return [cell.text.rpartition("\n")[2] for cell in sorted(cells, key=lambda cell: cell.location["y"])]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium without a window, with an empty profile."""
    with chromium(tmp_path_factory.mktemp("profile"), 2400, 1000) as opened:
        yield opened


@pytest.fixture(scope="module")
def search(
    model_folder: Path, preference_rows: list[dict], browser: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Search]:
    """Stages 1 and 2 of the random model, and MLflow's server on their ledger."""
    folder = tmp_path_factory.mktemp("search")
    data = folder / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in preference_rows))
    search = Search(model_folder, data, folder / "runs", browser)
    search.run("stage1_lr")
    search.run("stage2_beta")
    with mlflow_server(folder / "runs" / "mlflow.db", folder / "server.txt") as search.server:
        yield search


def test_a_stages_page_lists_its_own_runs_the_best_first_with_what_they_differ_in(search: Search) -> None:
    search.open(search.pages["stage2_beta"])
    text = search.wait_for("stage2_beta mmpo", "2 matching runs", "beta=0.05", "beta=0.1", "taken_from.stage")
    assert "lr=" not in text and "auto" in text
    accuracies = [float(value) for value in search.column("metrics.`validation/reward_accuracy`")]
    assert len(accuracies) == 2 and accuracies == sorted(accuracies, reverse=True)
    assert set(search.column("params.`beta`")) == {"0.05", "0.1"}
    assert set(search.column("params.`margin`")) == {"0.6"}
    assert sorted(search.column("tags.`taken_from.stage`")) == ["-", "stage1_lr"], "one was trained by stage 1"


def test_parallel_coordinates_draw_every_run_of_a_stage_and_of_a_search(search: Search) -> None:
    """MLflow leaves out runs that lack a value. Stage 2's two betas are a trained run and one taken from stage 1."""
    search.open(f"{search.pages['stage2_beta']}&compareRunsMode=CHART")
    search.wait_for("Parallel Coordinates", "2 matching runs")
    rates, betas, margins, _ = search.axes()
    assert (len(rates), betas[0], betas[-1], margins) == (1, 0.05, 0.1, [0.6])
    key = view_of_search(search.database, "mmpo")
    all_stages = re.sub(r"viewStateShareKey=\w+", f"viewStateShareKey={key}", search.pages["stage1_lr"])
    search.open(f"{all_stages}&compareRunsMode=CHART")
    search.wait_for("stages 1 to 3 of mmpo", "3 matching runs", "lr=1e-3", "lr=3e-3", "beta=0.05")
    rates, betas, _, _ = search.axes()
    assert rates[0] == -3.0 and -2.6 <= rates[-1] <= -2.5 and (betas[0], betas[-1]) == (0.05, 0.1)


def test_the_views_menu_names_every_stage(search: Search) -> None:
    search.open(search.pages["stage1_lr"])
    search.wait_for("2 matching runs")
    search.browser.find_element(By.CSS_SELECTOR, "[data-testid=saved-views-trigger]").send_keys(Keys.ENTER)
    search.wait_for("stage1_lr mmpo", "stage2_beta mmpo", "stages 1 to 3 of mmpo")


def test_the_note_on_a_stage_is_a_table_with_the_next_command(search: Search) -> None:
    run_id = search.pages["stage2_beta"].rpartition("=")[2]
    search.open(search.pages["stage2_beta"].partition("/runs?")[0] + f"/runs/{run_id}")
    search.click("//*[text()='Show more']")
    text = search.wait_for("mmpo stage3", "winner=auto", "taken from stage1_lr")
    described = text.partition("Metrics (")[0]
    assert "|" not in described and "&emsp;" not in described
    [table] = [one for one in search.browser.find_elements(By.TAG_NAME, "table") if "reward accuracy" in one.text]
    assert {line.split()[0] for line in table.text.splitlines()[1:]} == {"0.05", "0.1"}


def test_a_person_overrules_a_stage_by_clicks_and_the_next_one_obeys(search: Search) -> None:
    """On the run of stage 1 that the rule did not choose: the pencil, the tag winner=person, saved."""
    assert "by rule" in search.run("stage2_beta", "--dry-run")
    search.open(search.pages["stage1_lr"])
    search.wait_for("2 matching runs", "auto")
    names, winners = search.column("attributes.`Run Name`"), search.column("tags.`winner`")
    [other] = [name for name, winner in zip(names, winners, strict=True) if winner != "auto"]
    search.click(f"//a[normalize-space()='{other}']")
    search.wait_for(other, "Tags", "trial.digest")
    search.click("//*[@aria-label='Edit tags']")
    search.wait_for("Add/Edit tags")
    key = search.browser.find_element(By.CSS_SELECTOR, "[role=dialog] input[role=combobox]")
    key.send_keys("winner", Keys.ENTER)
    search.browser.find_element(By.CSS_SELECTOR, "[role=dialog] input[aria-label=Value]").send_keys("person")
    search.click("//*[@aria-label='Add tag']")
    search.click("//button[normalize-space()='Save tags']")
    search.wait_until_gone("Add/Edit tags")
    search.wait_for("winner", "person")
    printed = search.run("stage2_beta", "--dry-run")
    rate = other.removeprefix("lr=")
    assert f"learning rate {rate}: chosen by a person in run {other}" in printed
    assert re.search(r"instead of \S+ by rule", printed)

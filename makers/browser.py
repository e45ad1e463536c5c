"""MLflow's server on a ledger, and Chromium without a window, for pictures and for tests of its pages."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_FLAGS = ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking")
_FLAGS += ("disable-component-update", "disable-sync")
_PATIENCE_SECONDS = 120


@contextmanager
def chromium(profile: Path, width: int, height: int) -> Iterator[Any]:
    """A selenium driver of Chromium, with an empty profile in the folder; it is closed at the end."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in (*_FLAGS, f"window-size={width},{height}", f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    options.binary_location = shutil.which("chromium") or ""
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield opened
    finally:
        opened.quit()


@contextmanager
def mlflow_server(database: Path, log: Path) -> Iterator[str]:
    """`HOST:PORT` of an MLflow server on a SQLite ledger, once it answers; it ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    host = f"127.0.0.1:{port}"
    words = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{database}"]
    words += ["--host", "127.0.0.1", "--port", str(port), "--allowed-hosts", host, "--workers", "1"]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    with log.open("w") as said:
        server = subprocess.Popen(words, stdout=said, stderr=subprocess.STDOUT, env=environment)
        try:
            _wait_for(f"http://{host}/health", server)
            yield host
        finally:
            server.terminate()
            server.wait(30)


def view_of_search(database: Path, objective: str) -> str:
    """The key of the view of stages 1 to 3 of the objective's search, in a ledger with one experiment and search."""
    from mlflow import MlflowClient

    begins = f"mlflow.sharedViewState.{objective}-"
    [key] = [tag for tag in MlflowClient(f"sqlite:///{database}").get_experiment("1").tags if tag.startswith(begins)]
    return key.removeprefix("mlflow.sharedViewState.")


def _wait_for(address: str, server: subprocess.Popen) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"no answer at {address}")

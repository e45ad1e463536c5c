"""The ring of the ledger: a driver that logs two trials, into MLflow's SQLite and to a real MLflow server over HTTP."""

import multiprocessing
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from faults import files, processes
from faults.engine import Case, Found, NotFired, within

STEPS, EPOCHS = 60, 3
RATES = (1e-3, 1e-4)
AWAY_SECONDS = (0, 20, 60, 300)
"""How long MLflow's server is away. The longest are the last kinds, so that a short campaign does not come to them."""


class LedgerRing:
    """Two trials of sixty steps and three evaluations each."""

    name = "ledger"

    def __init__(self, folder: Path) -> None:
        """Makes the database that each case begins with, and starts the server."""
        self.empty = folder / "empty" / "mlflow.db"
        made = Case(self.name, "empty", Random(0), folder / "made")
        made.folder.mkdir()
        making = processes.finish(self._make, made)
        self.server = Server(folder / "server", self.empty)
        whole, self.seconds = processes.undisturbed(self.work, self.name, folder)
        size = sum(path.stat().st_size for path in whole.storage.rglob("*") if path.is_file())
        of_work: dict[str, Any] = {"undisturbed": self.seconds}
        self.kinds: dict[str, Callable[[Case], float]] = {
            name: partial(processes.signalled, self.work, numbers=numbers, **of_work)
            for name, numbers in processes.SIGNALS.items()
        }
        self.kinds |= {
            f"{name}: journal or artifact": partial(files.damaged, self.work, damage=damage, but="db|lock", **of_work)
            for name, damage in files.DAMAGES.items()
        }
        self.kinds |= {
            **{
                f"{name} while the database is made": partial(
                    processes.signalled, self._from_nothing, undisturbed=making, numbers=processes.SIGNALS[name]
                )
                for name in ("SIGKILL", "SIGINT")
            },
            "database cut": partial(self._database, damage=files.cut),
            "database an older copy": partial(self._database, damage=lambda path, case: shutil.copy(self.empty, path)),
            "database deleted": partial(self._database, damage=files.delete),
            "database locked": self._locked,
            "stopped and woken": partial(processes.stopped, self.work, **of_work),
            "two drivers at once": partial(processes.two_at_once, self.work, **of_work),
            "memory limit": partial(processes.out_of_memory, self.work, **of_work),
            "clock moved": partial(processes.signalled, self._with_clock, numbers=(signal.SIGKILL,), **of_work),
            "server stopped": self._server_stopped,
            "driver killed, with a server": partial(
                processes.signalled, self.to_server, numbers=(signal.SIGKILL,), **of_work
            ),
            "slow disk": partial(
                processes.meddled, self.work, inject="fdatasync,fsync:delay_enter=50000", proof="(DELAYED)", **of_work
            ),
        }
        if os.geteuid() == 0:
            self.kinds["full disk"] = partial(files.full, self.work, size=size)
            self.kinds["read-only disk"] = partial(files.read_only, self.work, size=size, **of_work)
        for away in AWAY_SECONDS:
            self.kinds[f"server away for {away} s"] = partial(self._server_away, seconds=away)

    def work(self, storage: Path, uri: str | None = None, clock: Callable[[], float] = time.time) -> None:
        """A driver, as a stage is one, without training."""
        database = storage / "mlflow.db"
        if uri is None and not database.exists():  # MLflow needs seconds to make one
            storage.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.empty, storage / "empty.db")
            (storage / "empty.db").replace(database)
        self._from_nothing(storage, uri, clock)

    def _from_nothing(self, storage: Path, uri: str | None = None, clock: Callable[[], float] = time.time) -> None:
        """The same, where MLflow makes the database."""
        from mmpo_train.terminal import run_program

        storage.mkdir(parents=True, exist_ok=True)
        run_program(processes.NoOptions, lambda _: _drive(storage, uri, clock), "the ledger's ring", [])

    def to_server(self, storage: Path) -> None:
        """The same to the server."""
        self.work(storage, self.server.uri)

    def _with_clock(self, storage: Path) -> None:
        """The same with a clock that is wrong by up to a day, by another time in each process."""
        wrong = Random(os.getpid()).uniform(-86_400, 86_400)
        self.work(storage, clock=lambda: time.time() + wrong)

    def _make(self, storage: Path) -> None:
        from sweeps.ledger.ledger import connect

        connect(None, storage).close()
        self.empty.parent.mkdir()
        shutil.copy(storage / "mlflow.db", self.empty)

    def _database(self, case: Case, damage: Callable[[Path, Case], Any]) -> float:
        process, database = processes.in_midst(self.work, case, self.seconds), case.storage / "mlflow.db"
        within(60, "no database", database.exists)
        process.kill()
        processes.end_of(process)
        for path in case.storage.glob("mlflow.db-*"):
            path.unlink()
        damage(database, case)
        return processes.finish(self.work, case)

    def _locked(self, case: Case) -> float:
        """Another program holds the database for up to half a minute."""
        process = processes.in_midst(self.work, case, self.seconds)
        database = case.storage / "mlflow.db"
        within(60, "no database", database.exists)
        held = sqlite3.connect(database, timeout=60, isolation_level=None, check_same_thread=False)
        held.execute("BEGIN EXCLUSIVE")
        if process.exitcode is not None:
            held.close()
            raise NotFired("the work had ended before")
        seconds = case.random.choice((1.0, 5.0, 25.0))
        release = threading.Timer(seconds, held.close)
        release.start()
        status = processes.end_of(process)
        release.join()
        return seconds if status == 0 else processes.finish(self.work, case)

    def _server_away(self, case: Case, seconds: float) -> float:
        process = processes.in_midst(self.to_server, case, self.seconds)
        self.server.kill()
        time.sleep(seconds)
        began = time.monotonic()
        self.server.start()
        processes.end_of(process)
        processes.finish(self.to_server, case)
        return time.monotonic() - began

    def _server_stopped(self, case: Case) -> float:
        process = processes.in_midst(self.to_server, case, self.seconds)
        self.server.signal(signal.SIGSTOP)
        time.sleep(case.random.uniform(1, 8))
        self.server.signal(signal.SIGCONT)
        began = time.monotonic()
        processes.end_of(process)
        processes.finish(self.to_server, case)
        return time.monotonic() - began

    def compare(self, case: Case) -> Found:
        """One run for each trial, each step of each metric once with its value, each evaluation, also after one more
        run."""
        on_server = not (case.storage / "mlflow.db").exists()
        uri = self.server.uri if on_server else f"sqlite:///{case.storage}/mlflow.db"
        found = Found()
        for _ in range(2):
            read, write = multiprocessing.Pipe(duplex=False)
            reader = multiprocessing.get_context("fork").Process(
                target=lambda to=write: to.send(_differences(uri, case.storage))
            )
            reader.start()
            if not read.poll(120):
                raise RuntimeError("MLflow cannot be read")
            lost, doubled = read.recv()
            reader.join()
            found.lost += lost
            found.doubled += doubled
            processes.finish(self.to_server if on_server else self.work, case)
        return found


def _drive(storage: Path, uri: str | None, clock: Callable[[], float]) -> None:
    from mmpo_train.config import TrialConfig
    from mmpo_train.events import Point
    from sweeps.ledger.ledger import connect

    configs = [TrialConfig(learning_rate=rate, epochs=EPOCHS) for rate in RATES]
    experiment = storage.parent.name
    ledger = connect(uri, storage)
    log = None
    try:
        known = ledger.find_trials(experiment, [config.digest for config in configs])
        given: dict[str, Any] = {"title": "a stage", "params": {"axis": "learning_rate"}, "note": "faults"}
        stage = ledger.open_stage(experiment, "stage1", "mmpo", "1e-3,1e-4", **given)
        for config in configs:
            if config.digest in known and known[config.digest].status == "finished":
                continue
            log = stage.open_trial(config, f"lr={config.learning_rate:g}", {})
            for step in range(1, STEPS + 1):
                log.points([Point(step, int(clock() * 1000), values(step, config.learning_rate))])
                if step % (STEPS // EPOCHS) == 0:
                    epoch = step * EPOCHS // STEPS
                    log.evaluated(epoch, {"validation/reward_accuracy": epoch / 10}, [1, 0, epoch % 2], f"ckpt/{epoch}")
                time.sleep(0.005)
            log.finish(12.5)
        ledger.flush(100)
    except BaseException:  # Ctrl-C too: the run says what ended it, as a stage does
        if log is not None and not log.ended:
            log.fail("interrupted")
        raise
    finally:
        ledger.close()


def values(step: int, rate: float) -> dict[str, float]:
    """What a trial measures at a step."""
    return {"train/loss": rate / step, "train/epoch": step / STEPS, "gradient_norm": 1.5 * step}


def _differences(uri: str, storage: Path) -> tuple[list[str], list[str]]:
    """What is missing or wrong in MLflow, and what is there twice."""
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "3"
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    lost, doubled = [], []
    experiment = client.get_experiment_by_name(storage.parent.name)
    if experiment is None:
        return ["the experiment"], []
    runs = client.search_runs([experiment.experiment_id])
    trials = [run for run in runs if "trial.digest" in run.data.tags and "duplicate_of" not in run.data.tags]
    digests = Counter(run.data.tags["trial.digest"] for run in trials)
    doubled += [f"run of trial {digest}" for digest, count in digests.items() if count > 1]
    lost += ["a trial's run"] * (len(RATES) - len(digests))
    for run in trials:
        if run.info.status != "FINISHED" or run.data.tags.get("trial.seconds") != "12.5":
            lost.append(f"the end: {run.info.status}, {run.data.tags.get('trial.seconds')} s")
        rate = float(run.data.params["learning_rate"])
        for name in values(1, rate):
            points = client.get_metric_history(run.info.run_id, name)
            expected = {step: values(step, rate)[name] for step in range(1, STEPS + 1)}
            if {point.step: point.value for point in points} != expected:
                lost.append(f"{name} of {rate}: {len(points)} points")
            if len(points) > len({point.step for point in points}):
                doubled.append(f"{name} of {rate}: {len(points)} points")
        models = client.search_logged_models([experiment.experiment_id], f"source_run_id = '{run.info.run_id}'")
        epochs = Counter(model.tags["epoch"] for model in models if len(model.metrics) == 1)
        lost += [f"a model of {rate}"] * (EPOCHS - len(epochs))
        doubled += [f"model of epoch {epoch} of {rate}" for epoch, count in epochs.items() if count > 1]
        judged = [item.path for item in client.list_artifacts(run.info.run_id, "validation")]
        if judged != [f"validation/epoch-{epoch:04d}.json" for epoch in range(1, EPOCHS + 1)]:
            lost.append(f"evaluations: {judged}")
    return lost, doubled


class Server:
    """A real `mlflow server` on localhost, that is killed and started again at the same port."""

    def __init__(self, folder: Path, empty: Path) -> None:
        folder.mkdir()
        shutil.copy(empty, folder / "mlflow.db")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{port}"
        self._words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
        self._words += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
        self._words += ["--artifacts-destination", str(folder / "artifacts"), "--allowed-hosts", f"127.0.0.1:{port}"]
        self._log = folder / "log.txt"
        self.start()

    def start(self) -> None:
        """Returns when it answers."""
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with open(self._log, "a") as log:
            self._process = subprocess.Popen(
                self._words, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        within(180, "MLflow's server does not answer", self._answers, pause=0.2)
        import atexit

        atexit.register(self.kill)

    def _answers(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=2):
            return True
        return False

    def signal(self, number: int) -> None:
        """To all its processes."""
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """SIGKILL to all its processes."""
        with suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        self._process.wait()

"""A stage of very many trials whose training is a stub, on fake nodes: what the driver, MLflow and Tune cost.

    python benchmarks/scale.py                                    1,000 trials of 20 s on 50 nodes of four GPUs
    python benchmarks/scale.py --trials 100 --nodes 10            smaller
    python benchmarks/scale.py --server                           with an MLflow server instead of a database

Real: the stage's command from its first line to its last (placement, Tune, the listener, board, journals, ledger,
ranking, picture), Ray's scheduling on one raylet for each node, and the reuse of all trials by the same command. Stubs:
the training (a trial is its driver only, without workers), the evaluator's scores, and the machines,
which all are this one. The figures in docs/scale.md are from here.
"""

import argparse
import collections
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import scale_stub  # noqa: E402 - beside this file


class Counted:
    """An MlflowClient that counts calls and their seconds, by method and by whether the ledger's writer calls."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.calls: dict[tuple[str, str], list[float]] = collections.defaultdict(list)

    def __getattr__(self, name: str) -> Any:
        function = getattr(self.client, name)
        if not callable(function):
            return function

        def call(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                who = "writer" if threading.current_thread().name == "ledger-writer" else "reader"
                self.calls[who, name].append(time.perf_counter() - started)

        return call


class Watch:
    """What is measured from the outside: phases of the stage, the writer's backlog, CPU and memory of this process."""

    def __init__(self) -> None:
        self.phases: dict[str, float] = collections.defaultdict(float)
        self.samples: list[dict[str, float]] = []
        self.clients: list[Counted] = []
        self.ledgers: list[Any] = []
        self.stopped = threading.Event()

    def timed(self, name: str, function: Any) -> Any:
        """The function, its time added to a phase."""

        def call(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.phases[name] += time.perf_counter() - started

        return call

    def sample(self) -> None:
        """Every second until stopped."""
        import psutil

        process = psutil.Process()
        while not self.stopped.wait(1.0):
            self.samples.append(
                {
                    "time": time.time(),
                    "cpu_seconds": sum(process.cpu_times()[:2]),
                    "megabytes": process.memory_info().rss / 1e6,
                    "backlog": sum(len(ledger._trials.delivery._jobs) for ledger in self.ledgers[-1:]),
                }
            )


def instrument(watch: Watch) -> None:
    """Put the stubs in and the clocks on. Only this process is changed."""
    import eval_workers.tracking.store
    import sweeps.ledger.ledger
    import sweeps.search.stage
    import sweeps.trials.evaluators
    import sweeps.trials.tune

    sweeps.trials.tune.drive_trial = scale_stub.drive_stub
    sweeps.trials.evaluators.WarmReward = scale_stub.StubEvaluator
    make_client, connect = eval_workers.tracking.store._client, sweeps.ledger.ledger.connect

    def counted_client(address: Any) -> Counted:
        watch.clients.append(Counted(make_client(address)))
        return watch.clients[-1]

    def watched_connect(*arguments: Any) -> Any:
        watch.ledgers.append(connect(*arguments))
        return watch.ledgers[-1]

    eval_workers.tracking.store._client = counted_client  # type: ignore[assignment]
    sweeps.ledger.ledger.connect = watched_connect
    for name in ("find_records", "train_planned", "conclude"):
        setattr(sweeps.search.stage, name, watch.timed(name, getattr(sweeps.search.stage, name)))


def run_stage(options: argparse.Namespace, inputs: list[str], storage: Path, uri: str) -> None:
    """The command of stage 1 over as many learning rates as there are trials."""
    from sweeps.stage1_lr import main

    rates = [f"{1e-6 * 1000 ** (number / max(1, options.trials - 1)):.4e}" for number in range(options.trials)]
    arguments = [
        *inputs,
        "--storage",
        str(storage),
        "--workers-per-trial",
        str(options.workers),
        "--accelerator",
        "L40S",
    ]
    arguments += ["--set", "epochs=1"] + (["--tracking-uri", uri] if uri else [])
    main([*arguments, "--learning-rates", *rates])


def start_server(folder: Path) -> tuple[subprocess.Popen, str]:
    """An MLflow server with a database of its own, and its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--allowed-hosts", f"127.0.0.1:{port}"]
    command += ["--artifacts-destination", str(folder / "artifacts"), "--workers", "2"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    for _ in range(120):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
            return server, f"http://127.0.0.1:{port}"
        except OSError:
            time.sleep(0.5)
    server.kill()
    sys.exit("the MLflow server does not answer")


def summary(options: argparse.Namespace, watch: Watch, storage: Path, times: list[dict], seconds: float) -> dict:
    """The figures of the first run."""
    from sweeps.cluster import placement

    first, last = min(one["placed"] for one in times), max(one["ended"] for one in times)
    on_head = int((options.head_gigabytes * 2**30 - placement.WARM_BYTES) // placement.DRIVER_BYTES)
    at_once = min(options.nodes * (options.gpus // options.workers), on_head, options.trials)
    busy = sum(one["ended"] - one["placed"] for one in times)
    during = [sample for sample in watch.samples if first <= sample["time"] <= last]
    lags = []
    for one in times:
        entries = (storage / "trials" / one["digest"] / "points.jsonl").read_text().splitlines()
        ends = [json.loads(line) for line in entries if '"kind":"end"' in line]
        lags.append(ends[-1]["timestamp_ms"] / 1000 - one["ended"])
    starts = sorted(one["placed"] for one in times)
    tenth = max(1, len(starts) // 10)
    [client] = watch.clients[:1]
    writes = {name: calls for (who, name), calls in client.calls.items() if who == "writer"}
    reads = {name: calls for (who, name), calls in client.calls.items() if who == "reader"}
    cpu = (during[-1]["cpu_seconds"] - during[0]["cpu_seconds"]) if len(during) > 1 else float("nan")
    return {
        "trials": len(times),
        "seconds": seconds,
        "phases": dict(watch.phases),
        "span": last - first,
        "trials_a_second": len(times) / (last - first),
        "trials_a_second_by_tenth": [
            round(tenth / max(1e-9, starts[min(begin + tenth, len(starts) - 1)] - starts[begin]), 2)
            for begin in range(0, len(starts) - tenth + 1, tenth)
        ],
        "lost_seconds_a_trial": (at_once * (last - first) - busy) / len(times),
        "placing_seconds": statistics.median(one["placed"] - one["asked"] for one in times),
        "end_to_record_seconds": {"median": statistics.median(lags), "most": max(lags)},
        "driver_cpu_share": cpu / (last - first),
        "driver_cpu_seconds_a_trial": cpu / len(times),
        "driver_megabytes": max(sample["megabytes"] for sample in watch.samples),
        "backlog_most": max(sample["backlog"] for sample in watch.samples),
        "writes": sum(map(len, writes.values())),
        "writes_a_second_of_writing": sum(map(len, writes.values())) / sum(map(sum, writes.values())),
        "writer_busy_share": sum(map(sum, writes.values())) / seconds,
        "writer_calls": _by_method(writes),
        "reader_calls": _by_method(reads),
    }


def _by_method(calls: dict[str, list[float]]) -> dict[str, str]:
    ordered = sorted(calls.items(), key=lambda item: -sum(item[1]))
    return {name: f"{len(some)} in {sum(some):.1f} s" for name, some in ordered[:8]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=50)
    parser.add_argument("--gpus", type=int, default=4, help="of each node")
    parser.add_argument("--workers", type=int, default=4, help="of each trial")
    parser.add_argument("--seconds", type=float, default=20.0, help="that a stub trial takes")
    parser.add_argument("--points", type=int, default=100, help="steps that a trial logs")
    parser.add_argument("--head-gigabytes", type=int, default=64, help="memory that the head says it has")
    parser.add_argument("--server", action="store_true", help="an MLflow server instead of the local database")
    parser.add_argument("--json", type=Path, help="where the figures go, beside the screen")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="scale-", dir="/tmp"))  # a short path: Ray's sockets lie in it
    os.environ |= {
        "RAY_TMPDIR": str(folder / "r"),
        "MMPO_LOGICAL_GPUS": "1",
        "MMPO_WARM_PROCESSES": "0",  # a stub imports nothing, and here all nodes are one machine
        "RAY_worker_niceness": "0",  # beside other work Ray's processes, which begin at 15, would wait for ever
        "RAY_raylet_start_wait_time_s": "300",
        "RAY_enable_worker_prestart": "0",
        "RAY_memory_monitor_refresh_ms": "0",  # every raylet would take all of this machine's memory for its own
        scale_stub.TIMES: str(folder / "times.jsonl"),
        "MMPO_SCALE_STUB": json.dumps({"seconds": options.seconds, "points": options.points}),
        "PYTHONPATH": f"{REPOSITORY / 'benchmarks'}:{os.environ.get('PYTHONPATH', '')}",
    }
    (folder / "r").mkdir()
    inputs = scale_stub.make_inputs(folder)
    server, uri = start_server(folder) if options.server else (None, "")
    nodes = scale_stub.start_nodes(options.nodes, options.gpus, options.head_gigabytes)
    os.environ["RAY_ADDRESS"] = nodes.address
    watch = Watch()
    instrument(watch)
    threading.Thread(target=watch.sample, daemon=True).start()
    try:
        started = time.perf_counter()
        run_stage(options, inputs, folder / "runs", uri)
        seconds = time.perf_counter() - started
        figures = summary(options, watch, folder / "runs", scale_stub.read_times(folder / "times.jsonl"), seconds)
        watch.phases.clear()
        started = time.perf_counter()
        run_stage(options, inputs, folder / "runs", uri)
        figures["again"] = {"seconds": time.perf_counter() - started, "phases": dict(watch.phases)}
        figures["again"]["reader_calls"] = _by_method(
            {name: calls for (who, name), calls in watch.clients[-1].calls.items() if who == "reader"}
        )
    finally:
        watch.stopped.set()
        nodes.shutdown()
        if server is not None:
            server.terminate()
            server.wait()
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()

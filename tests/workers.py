"""Real DeepSpeed workers for tests: `train_jobs(jobs, workers)` runs trials on a group of processes of this machine.

One group runs all jobs one after the other, since importing torch and DeepSpeed costs more than a tiny trial.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent


def train_jobs(jobs: list[dict[str, Any]], workers: int, engine: str = "deepspeed") -> list[dict[str, Any]]:
    """Results of the jobs, in order: {points: [[step, ms, metrics], …], finished: [[epoch, folder], …], error}.

    A job: config (a dict), places (paths as text), and optionally stop_after_step, which ends it like a kill would:
    without any goodbye, after the step's report.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(jobs[0]["places"]["trials"])
    folder.mkdir(parents=True, exist_ok=True)
    request, answer = folder / "request.json", folder / "answer.json"
    request.write_text(json.dumps({"jobs": jobs, "engine": engine, "answer": str(answer)}))
    answer.unlink(missing_ok=True)
    common = {"WORLD_SIZE": str(workers), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "DS_ACCELERATOR": "cpu"}
    logs = [folder / f"worker-{rank}.log" for rank in range(workers)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.workers", str(request)],
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            cwd=REPOSITORY,
            stdout=logs[rank].open("w"),
            stderr=subprocess.STDOUT,
        )
        for rank in range(workers)
    ]
    try:
        codes = [process.wait(timeout=800) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert codes == [0] * workers, "\n".join(log.read_text() for log in logs)[-5000:]
    return json.loads(answer.read_text())


class _Killed(BaseException):
    """Stands for the end of the process: nothing in the program catches it."""


def _run(job: dict[str, Any], make_engine: Any) -> dict[str, Any]:
    from mmpo_train.config import from_dict
    from mmpo_train.loop import Diverged
    from mmpo_train.prepare import Places
    from mmpo_train.run import run_trial

    result: dict[str, Any] = {"points": [], "finished": [], "error": ""}

    def send(points: list, finished: Any) -> None:
        result["points"] += points
        result["finished"] += [finished] if finished else []
        if points and points[-1].step >= job.get("stop_after_step", 10**9):
            raise _Killed

    def ask(request: dict[str, Any]) -> Any:
        from eval_workers.answering import Answering
        from eval_workers.online import make_segment

        make_segment(Answering(Path(job["places"]["trials"]) / "verdicts.sqlite"), request)
        return lambda: True

    places = Places(**{name: Path(path) for name, path in job["places"].items()})
    try:
        run_trial(from_dict(job["config"]), places, make_engine, send, ask)
    except Diverged as reason:
        result["error"] = str(reason)
    except _Killed:
        result["error"] = "killed"
    return result


def main() -> None:
    """One worker of the group."""
    request = json.loads(Path(sys.argv[1]).read_text())
    import torch

    torch.set_num_threads(1)
    import mmpo_train.run as run

    run._SECONDS_BETWEEN_SENDS = 0.0  # every step is heard of, so that a stop can be exact
    if request["engine"] == "deepspeed":
        from mmpo_train.deepspeed_engine import DeepSpeedEngine as make_engine
    else:
        from mmpo_train.engine import TorchEngine as make_engine  # type: ignore[assignment]
    results = [_run(job, make_engine) for job in request["jobs"]]
    if os.environ["RANK"] == "0":
        Path(request["answer"]).write_text(json.dumps(results))


if __name__ == "__main__":
    main()

"""Real DeepSpeed workers for tests: `train_jobs(jobs, workers)` runs trials on a group of processes of this machine.

One group runs all jobs one after the other, since importing torch and DeepSpeed costs more than a tiny trial.
"""

import importlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


def train_jobs(
    jobs: list[dict[str, Any]], workers: int, engine: str = "deepspeed", seconds: float = 800.0
) -> list[dict[str, Any]]:
    """Results of the jobs, in order: {points: [[step, ms, metrics], …], finished: [[epoch, folder], …], safe:
    [step, …], error}.

    A job: config (a dict), places (paths as text), and optionally sft, for instruction tuning; stop_after_step, which
    ends it like a kill would: without any goodbye, after the step's report; or out_of_memory, where it happens once, as
    `out_of_memory` has it. One with `call` is what that module's `in_worker(job, run)` makes of it, where `run` takes
    such a job. As Ray Train does, the whole group is killed when one worker fails: AssertionError with the ends of
    their logs.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    import torch

    folder = Path(jobs[0]["places"]["trials"])
    folder.mkdir(parents=True, exist_ok=True)
    request, answer = folder / "request.json", folder / "answer.json"
    request.write_text(json.dumps({"jobs": jobs, "engine": engine, "answer": str(answer)}))
    answer.unlink(missing_ok=True)
    common = {"WORLD_SIZE": str(workers), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if not torch.cuda.is_available():
        common["DS_ACCELERATOR"] = "cpu"
    logs = [folder / f"worker-{rank}.log" for rank in range(workers)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.workers", str(request)],
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            cwd=REPOSITORY,
            stdout=logs[rank].open("w"),
            stderr=subprocess.STDOUT,
        )
        for rank in range(workers)
    ]
    try:
        end = time.monotonic() + seconds
        while any(process.poll() is None for process in processes) and time.monotonic() < end:
            if any(process.poll() for process in processes):
                break
            time.sleep(0.05)
        codes = [process.poll() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert codes == [0] * workers, "\n".join(log.read_text()[-5000:] for log in logs)
    return json.loads(answer.read_text())


class _Killed(BaseException):
    """Stands for the end of the process: nothing in the program catches it."""


def out_of_memory(make_engine: Any, *, step: int, where: str, worker: int = 0) -> Any:
    """An engine whose memory runs out once, in the second pass of a step (from 1), at the model's middle parameter.

    `where` is forward or backward: there the gradients of the later half have been added to the first pass's by then.
    """
    import torch

    def make(module: Any, config: Any) -> Any:
        engine = make_engine(module, config)
        logps, update, now = engine.logps, engine.step, {"step": 1, "pass": 0}
        trained = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        middle = trained[len(trained) // 2]

        def fault(*_: Any) -> None:
            hook.remove()
            raise torch.OutOfMemoryError("out of memory, says the test")

        def counted_logps(*arguments: Any) -> Any:
            nonlocal hook
            now["pass"] += torch.is_grad_enabled()
            if (now["step"], now["pass"], engine.worker) == (step, 2, worker):
                now["step"] = -(10**9)
                if where == "backward":
                    hook = module.get_parameter(middle).register_hook(fault)
                else:
                    hook = module.get_submodule(middle.rpartition(".")[0]).register_forward_hook(fault)
            return logps(*arguments)

        def counted_step(learning_rate: float) -> Any:
            now["step"], now["pass"] = now["step"] + 1, 0
            return update(learning_rate)

        hook: Any = None
        engine.logps, engine.step = counted_logps, counted_step
        return engine

    return make


def _run(job: dict[str, Any], make_engine: Any) -> dict[str, Any]:
    from mmpo_train.config import from_dict
    from mmpo_train.sft.run import run_sft
    from mmpo_train.sft.trial import SFTTrial, change
    from mmpo_train.trial.loop import Diverged
    from mmpo_train.trial.places import Places
    from mmpo_train.trial.run import run_trial

    if "call" in job:
        return importlib.import_module(job["call"]).in_worker(job, lambda one: _run(one, make_engine))
    result: dict[str, Any] = {"points": [], "finished": [], "safe": [], "error": ""}

    def send(points: list, finished: Any) -> None:
        result["points"] += points
        result["finished"] += [finished] if finished else []
        if points and points[-1].step >= job.get("stop_after_step", 10**9):
            raise _Killed

    def ask(request: dict[str, Any]) -> Any:
        from eval_workers.answers.answering import Answering
        from eval_workers.online import make_segment

        make_segment(Answering(Path(job["places"]["trials"]) / "verdicts.sqlite"), request)
        return lambda: True

    safe = result["safe"].append
    if job.get("out_of_memory"):
        make_engine = out_of_memory(make_engine, **job["out_of_memory"])
    paths = {name: Path(path) for name, path in job["places"].items()}
    try:
        if job.get("sft"):
            run_sft(change(SFTTrial(), job["config"]), Places(**paths), make_engine, send, safe=safe)
        else:
            run_trial(from_dict(job["config"]), Places(**paths), make_engine, send, ask, safe=safe)
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
    from mmpo_train.trial import outbox

    outbox._SECONDS_BETWEEN_SENDS = 0.0  # every step is heard of, so that a stop can be exact
    if request["engine"] == "deepspeed":
        # As Ray Train has done where a worker begins.
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        from mmpo_train.engines.deepspeed_engine import zero_engine as make_engine
    else:
        from mmpo_train.engines.torch_engine import TorchEngine as make_engine
    results = [_run(job, make_engine) for job in request["jobs"]]
    if os.environ["RANK"] == "0":
        Path(request["answer"]).write_text(json.dumps(results))


if __name__ == "__main__":
    main()

"""A worker of Ray Train's: it speaks to Ray for the process that trains, and imports little else than Ray."""

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.train
from ray.train.collective import broadcast_from_rank_zero
from ray.train.v2._internal.execution.context import get_train_context
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweeps.cluster.nodes import WARM_PROCESSES
from sweeps.workers import warm


def in_worker(job: dict[str, Any]) -> bool:
    """What each of Train's workers does: its task, in a warm process. Returns whether it had one.

    Nothing here imports torch: the task does, where it is executed.
    """
    context, notice = ray.train.get_context(), get_train_context().preemption_context
    os.environ |= {
        "RANK": str(context.get_world_rank()),
        "LOCAL_RANK": str(context.get_local_rank()),
        "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
    }
    segment: list[Callable[[], bool]] = []

    def ask_for_segment(request: dict[str, Any]) -> None:
        from eval_workers.actors import ask_for_segment

        segment[:] = [ask_for_segment(request)]

    answers = {
        "report": ray.train.report,
        "shared": broadcast_from_rank_zero,
        # Ray's own `get_preemption_info` waits for all workers at each call.
        "noticed": lambda: notice.preemption_info is not None,
        "segment": ask_for_segment,
        "is_made": lambda: segment[0](),
    }
    return warm.run(job["task"], job, answers, warm_folder())


def in_fork(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of a module returns or raises in a fork of this node's warm process."""
    returned: list[Any] = []
    job = {"function": function, "arguments": arguments}
    warm.run(_call, job, {"returned": returned.append}, warm_folder())
    return returned[0]


def _call(job: dict[str, Any], ask: warm.Ask) -> None:
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))  # Ray sets it by the CPUs of the worker
    ask("returned", job["function"](*job["arguments"]))


class Alone:
    """The barrier of a trial with one worker, in place of an actor."""

    class broadcast_from_rank_zero:  # noqa: N801  (called as an actor's method is)
        @staticmethod
        def remote(*, data: Any, **_: Any) -> Any:
            """A reference to the data."""
            return ray.put(data)


def warm_up(need: str) -> None:
    """Start the warm processes of all nodes that have some of a resource, GPU or CPU; they import what they need while
    the data of trials are prepared. Nobody waits for them."""
    for node in ray.nodes():
        if node["Alive"] and node["Resources"].get(need):
            there: Any = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(_warm_up).remote()


def _warm_up() -> None:
    if folder := warm_folder():
        warm.start(folder)


def warm_folder() -> Path | None:
    """The folder of this node's warm process for workers like this one; None where there is none."""
    if sys.platform != "linux" or os.environ.get(WARM_PROCESSES) == "0":
        return None
    context = ray.get_runtime_context()
    of = context.get_node_id(), context.get_job_id(), os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    which = hashlib.sha256(repr(of).encode()).hexdigest()[:8]
    node: Any = ray._private.worker._global_node
    return Path(node.get_session_dir_path()) / f"warm-{which}"

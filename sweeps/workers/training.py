"""What the process of each of a trial's workers does, in whichever process it is; it knows nothing of Ray."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

from mmpo_train.errors import Left
from sweeps.workers.warm import Ask

_COLLECTIVE_SECONDS = 1_800


@contextmanager
def begun(job: dict[str, Any], ask: Ask) -> Iterator[None]:
    """A block in which the trial's workers are a process group.

    A worker keeps to its CPUs where it trains on them, or to its share of the GPU's memory. Then it says how many there
    are: the time before, without a place, costs nothing.
    """
    import torch
    import torch.distributed as dist

    from mmpo_train.devices import keep_to_share, own_device

    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, int(job["cpus_per_worker"])))
    else:
        torch.cuda.set_device(own_device())
        if "OMP_NUM_THREADS" in os.environ:
            torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    keep_to_share(job["gpu_share"])
    rank, workers = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    timeout = timedelta(seconds=_COLLECTIVE_SECONDS)
    dist.init_process_group(
        job["backend"], store=_store(rank, workers, ask), rank=rank, world_size=workers, timeout=timeout
    )
    ask("report", {"workers": workers})
    yield
    if workers > 1:
        dist.barrier()  # worker 0 has the store
    dist.destroy_process_group()


def _store(rank: int, workers: int, ask: Ask) -> Any:
    """Where the workers, all of them on one node, find each other."""
    import torch.distributed as dist

    if workers == 1:
        return dist.HashStore()
    if rank:
        return dist.TCPStore("127.0.0.1", ask("shared", 0), workers, False)
    store = dist.TCPStore("127.0.0.1", 0, workers, True, wait_for_workers=False)
    ask("shared", store.port)
    return store


def train(job: dict[str, Any], ask: Ask) -> None:
    """Train one trial, of either kind, as one of its DeepSpeed workers."""
    import warnings

    warnings.filterwarnings("ignore")
    from mmpo_train.engines.deepspeed_engine import zero_engine
    from mmpo_train.training import from_plain, run
    from mmpo_train.trial.reports import report_on
    from sweeps.cluster.leaving import GOES_ON, is_leaving

    def ask_for_segment(request: dict[str, Any]) -> Any:
        ask("segment", request)
        return partial(ask, "is_made")

    trial, places = from_plain(job)
    folder, how = places.trial(trial), {"watched": job["watched"], "judged": job["judged"]}

    def told_to_go() -> bool:
        return is_leaving(folder) or ask("noticed")

    work = partial(run, trial, places, zero_engine, ask=ask_for_segment, told_to_go=told_to_go, **how)
    with begun(job, ask):
        try:
            report_on(work, partial(ask, "report"))
        except Left:
            if not is_leaving(folder):
                raise  # its node is taken away: it is started again on another one
            ask("report", {"interrupted": GOES_ON})

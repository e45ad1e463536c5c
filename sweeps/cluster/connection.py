"""The Ray cluster: connecting to it, or starting one on this machine."""

import gc
import importlib
import logging
import os
import re
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mmpo_train.errors import InputError, first_line
from mmpo_train.storage.mirror import name_of
from mmpo_train.terminal import print_text, tell
from mmpo_train.typed.plugins import ENVIRONMENT
from mmpo_train.typed.programs import as_typed
from sweeps.cluster.discovery import cluster_nodes, local_nodes, local_resources, nodes_now
from sweeps.cluster.head import answers, is_head_lost, leave_head, watch_head
from sweeps.cluster.nodes import WARM_PROCESSES, Nodes
from sweeps.cluster.placement import NoRoom, TrialResources, assumed, place
from sweeps.cluster.ray_folder import check_ray_folder, guard_token, own_folder
from sweeps.plan.options import SweepOptions

# Set before ray is imported; an address in the environment means that a cluster exists already.
_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # also how soon a worker's report is fetched
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_worker_maximum_startup_concurrency": "8",  # a trial has four processes; above 4 x 2 cores Ray warns
    "RAY_AIR_NEW_OUTPUT": "0",  # the table is ours
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",  # a process is used again once its last trial's thread has ended
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the stage at once; the same command goes on
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PYTHONWARNINGS": "ignore",
}
# The address of an object store; each node has its own credentials.
_STORE_SETTINGS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
# Of a Ray of our own. It takes this machine's address for its own, and listens on all interfaces, unless it thinks that
# there are no clusters here. And nobody takes this machine away with notice: one process less for each trial.
_ALONE = ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER")
_undo = ExitStack()
"""What `leave` puts back: after a Ray of our own this process may connect to a cluster."""
_LOCAL_OBJECT_STORE_BYTES = 200 * 2**20
_HOSTS_SECONDS = 600.0
LOST_NODES = 20
"""How often a task or an evaluator is restarted on another node. There is a limit because a task may itself be what
kills its process."""


def trial_resources(options: SweepOptions) -> TrialResources:
    """The resources of a trial on this machine, or on the cluster at RAY_ADDRESS.

    If a trial does not fit on the hosts that have joined, waits for the other hosts of a list. In a dry run a cluster
    that does not answer is assumed to have the resources. The connection stays until `leave`. Raises InputError if a
    trial can never run.
    """
    if not os.environ.get("RAY_ADDRESS"):
        return place(options, local_nodes())
    try:
        reach(options.verbose)
    except Unreachable:
        if not options.dry_run:
            raise
        return assumed(options)
    return _when_hosts_are_there(options, cluster_nodes(), 0.0 if options.dry_run else _HOSTS_SECONDS)


def _when_hosts_are_there(options: SweepOptions, nodes: Nodes, patience_seconds: float) -> TrialResources:
    end = time.monotonic() + patience_seconds
    said = False
    while True:
        try:
            return place(options, nodes)
        except NoRoom:
            if not nodes.unknown or time.monotonic() >= end:
                raise
        if not said:
            print_text(f"waiting for {nodes.unknown} hosts of the cluster to join")
            said = True
        time.sleep(5)
        nodes = cluster_nodes()


@contextmanager
def cluster(verbose: bool) -> Iterator[Nodes]:
    """Yields the nodes of the cluster that `reach` connects to.

    A connection that the block made is closed at its end. Nested blocks share one connection.
    """
    mine = reach(verbose)
    try:
        yield nodes_now()
    finally:
        if mine:
            leave()


def reach(verbose: bool) -> bool:
    """Connect to the cluster at RAY_ADDRESS, or start a Ray on this machine; False if that was done before.

    The dashboard listens on localhost only. Raises Unreachable.
    """
    for name, value in _ENVIRONMENT.items():  # before ray is imported
        os.environ.setdefault(name, value)
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return False
    _connect(verbose)
    return True


def leave() -> None:
    """Disconnect, and stop a Ray that was started; the next command starts or reaches one again."""
    if "ray" not in sys.modules:
        return
    import ray

    leave_head()
    _undo.close()
    if is_head_lost():  # Ray would wait for it for a minute, and then end the process in its own words
        node: Any = ray._private.worker._global_node
        node.kill_all_processes(check_alive=False, allow_graceful=False)
        return
    # Ray's handles do not check whether it is being shut down: one that garbage collection drops in another thread,
    # such as the ledger's writer, could end the process.
    gc.collect()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        gc.enable()


def _connect(verbose: bool) -> None:
    """Connect to the cluster at RAY_ADDRESS, or start one. Raises Unreachable if it does not answer, and InputError if
    it cannot be used or started."""
    address = os.environ.get("RAY_ADDRESS")
    tell("connecting to the Ray cluster" if address else "starting Ray on this machine")
    if not address:
        check_ray_folder()
    elif re.fullmatch(r".+:\d+", where := address.rpartition("://")[2].partition("/")[0]) and not answers(where, 5):
        raise Unreachable(_no_answer(address))  # within seconds; Ray itself tries for a minute
    warnings.filterwarnings("ignore")
    import ray

    handed_on = (*_ENVIRONMENT, *_STORE_SETTINGS, ENVIRONMENT, WARM_PROCESSES)
    environment = {name: os.environ[name] for name in handed_on if name in os.environ}
    arguments: dict[str, Any] = {
        "log_to_driver": verbose,
        "logging_level": logging.INFO if verbose else logging.ERROR,
        "runtime_env": {"env_vars": environment, "worker_process_setup_hook": "mmpo_train.typed.plugins.set_up_worker"},
    }
    if not address:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        importlib.import_module("ray._raylet").Config.initialize("")  # it was read when ray was imported
        guard_token()
        for name in _ALONE:
            _undo.callback(_set, name, os.environ.get(name))
            os.environ[name] = environment[name] = "0"
        constants = ray._private.ray_constants  # the variable is read when ray is imported
        _undo.callback(setattr, constants, "ENABLE_RAY_CLUSTER", constants.ENABLE_RAY_CLUSTER)
        constants.ENABLE_RAY_CLUSTER = False
        # Gloo and NCCL look for a network.
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            environment[name] = os.environ.get(name) or ("lo" if sys.platform.startswith("linux") else "lo0")
        cpus, gpus = local_resources()
        arguments |= {
            "address": "local",  # not whatever cluster was started here last
            "_temp_dir": str(own_folder()),
            "num_cpus": int(cpus),
            "num_gpus": int(gpus),
            "include_dashboard": verbose,  # it takes as long to start as all else
            "dashboard_host": "127.0.0.1",
            "object_store_memory": _LOCAL_OBJECT_STORE_BYTES,
        }
    if not verbose:
        for name in ("ray", "ray.train", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)
        # The stage gives the reason of a failed trial in one line; Tune would add the traceback of every layer.
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    # Ray's own handlers show native stack traces, and let nobody tidy up or say how to go on.
    ray._private.utils.set_sigterm_handler = lambda handler: None
    try:
        with _without_hangup():
            ray.init(**arguments)
        watch_head()
    except Exception as error:  # Ray raises whatever its parts raise, and plain Exception
        ray.shutdown()  # what of it was started
        _undo.close()
        if address and isinstance(error, ConnectionError):
            raise Unreachable(_no_answer(address)) from error
        if address:
            raise InputError(f"the Ray cluster at RAY_ADDRESS={address} cannot be used: {first_line(error)}") from error
        raise InputError(
            f"Ray could not be started on this machine: {first_line(error)}; `{as_typed('mmpo doctor')}` looks for the "
            f"cause, and {own_folder()}/session_latest/logs has Ray's own words"
        ) from error


def _set(name: str, value: str | None) -> None:
    os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value


@contextmanager
def _without_hangup() -> Iterator[None]:
    """A block whose processes never hear that the terminal has gone: this one writes states with them then."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _no_answer(address: str) -> str:
    return (
        f"the Ray cluster at RAY_ADDRESS={address} does not answer; start it with `ray up cluster.yaml`, or unset "
        "RAY_ADDRESS to run on this machine"
    )


class Unreachable(InputError):
    """Nothing answers at RAY_ADDRESS."""


def map_on_cluster(
    resources: TrialResources, call: Callable[..., Any], progress: Callable[[float], None]
) -> Callable[..., list[Any]]:
    """A `map_shards` for the reference store: for each shard, `call(function, *arguments)` is a Ray task on one CPU, or
    on one GPU of the trials' type."""

    def map_shards(function: Callable[..., Any], work: Sequence[tuple]) -> list[Any]:
        import ray

        task = ray.remote(call).options(
            num_cpus=1,
            num_gpus=int(resources.use_gpu),
            accelerator_type=resources.accelerator_type or None,
            max_retries=LOST_NODES,
        )
        references = [task.remote(function, *arguments) for arguments in work]
        waiting = references
        while waiting:
            _, waiting = ray.wait(waiting, num_returns=1)
            progress(1 - len(waiting) / len(references))
        return ray.get(references)

    return map_shards


def ray_storage(storage: Path) -> str:
    """Folder for Ray's own records of a sweep: in the storage, which all nodes reach."""
    return f"{name_of(storage)}/ray"

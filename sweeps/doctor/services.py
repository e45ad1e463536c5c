"""Whether the services that trials need are available: ledger, hub, judges' keys; and which ports are open."""

import importlib.metadata
import ipaddress
import os
import re
import urllib.request
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import psutil

from eval_workers.judging.specs import DEFAULT_URLS, JudgeSpec, key_of, key_variable
from eval_workers.settings import EvaluationSettings
from eval_workers.tracking import addresses
from eval_workers.tracking.store import Store
from mmpo_train.config import ONLINE_OBJECTIVES, TrialConfig
from mmpo_train.errors import InputError, first_line
from mmpo_train.storage.deadline import within
from sweeps.cluster.ray_folder import token_file
from sweeps.doctor.findings import Finding, fine, note, problem

HUB_SECONDS = 8.0
_PORTS = {5000: "MLflow", 6379: "Ray", 8265: "Ray's dashboard", 10001: "Ray's client server"}
_MARKS = {"Ray": r"ray::|/ray/|gcs_server|raylet", "MLflow": r"\bmlflow\b"}
"""What stands in the command lines of whoever may listen elsewhere too."""


def tracking(uri: str, storage: Path) -> Iterator[Finding]:
    """Whether the ledger answers, or can be made. Makes nothing."""
    uri = addresses.tracking_uri(uri)
    if not addresses.is_there(uri, storage):
        database = Path(uri.removeprefix("sqlite:///")) if uri else storage / "mlflow.db"
        if uri and not database.absolute().parent.is_dir():
            where = f"the folder of the database {database}"
            raise InputError(f"{where} does not exist; make it, or correct --tracking-uri")
        yield fine("ledger", f"{database} will be made")
        return
    address = addresses.resolve(uri, storage)
    store = Store(address, storage.resolve())
    with store.reading():
        experiments = len(store.client.search_experiments())
    yield fine("ledger", f"MLflow at {address.shown} answers, experiments: {experiments}")
    if address.remote and "@" not in address.uri:
        here, there = importlib.metadata.version("mlflow"), _server_version(address.uri)
        if there and there.split(".")[:2] != here.split(".")[:2]:
            yield note("ledger", f"the server is MLflow {there}, here is {here}", f"run the server with mlflow=={here}")


def hub(model: str, datasets: Sequence[str]) -> Iterator[Finding]:
    """Whether the hub has the models and data that are named by hub ids and are not on this machine yet."""
    from huggingface_hub import HfApi, get_token, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

    token = "a token is set" if get_token() else "no token is set"
    wanted = [(model, "model", "config.json")] if _on_hub(model) else []
    wanted += [(_place(source), "dataset", "README.md") for source in datasets if _on_hub(source)]
    if not wanted:
        yield fine("hub", f"not needed: model and data are on this machine; {token}")
    for name, kind, file in dict.fromkeys(wanted):  # a mixture may name several splits of one
        if isinstance(try_to_load_from_cache(name, file, repo_type=kind), str):
            yield fine("hub", f"{kind} {name} is on this machine")
            continue
        try:
            within(HUB_SECONDS, partial(HfApi().auth_check, name, repo_type=kind))
            yield fine("hub", f"{kind} {name} can be downloaded; {token}")
        except GatedRepoError:
            yield problem("hub", f"{kind} {name} is gated; {token}", "accept its terms on its page, then hf auth login")
        except RepositoryNotFoundError:
            yield problem("hub", f"{kind} {name} does not exist or is private; {token}", "check the name, or log in")
        except OfflineModeIsEnabled:
            yield problem("hub", f"{kind} {name} is missing and HF_HUB_OFFLINE is set", "unset it, or give a folder")
        except Exception as error:  # noqa: BLE001 - errors of its HTTP library, which changes between releases
            found = f"{HfApi().endpoint} cannot be asked for {kind} {name} ({first_line(error)})"
            yield problem("hub", found, "check the network, HF_ENDPOINT and the name, or give a folder")


def judges(trial: TrialConfig, settings: EvaluationSettings) -> Iterator[Finding]:
    """Whether the keys of the trial's judges are set. No part of a key is shown."""
    present = [
        f"{key_variable(service)} is {'set' if os.environ.get(key_variable(service), '').strip() else 'not set'}"
        for service in DEFAULT_URLS
    ]
    asked, missing = _asked(trial, settings), False
    for spec in asked:
        try:
            key_of(spec)
        except InputError as error:
            missing = True
            yield problem("judges", str(error))
    if not missing:
        needed = f"{', '.join(spec.name for spec in asked)} can be asked" if asked else "none is asked"
        yield fine("judges", f"{needed}; {', '.join(present)}")


def open_ports() -> Iterator[Finding]:
    """Whether a Ray or an MLflow of this machine listens to other machines, at any port, and who reads Ray's token."""
    exposed: dict[tuple[str, str], list[int]] = {}
    for socket in psutil.net_connections("tcp"):
        if socket.status == psutil.CONN_LISTEN and (host := _open_to_others(socket.laddr.ip)):
            command, guarded = _process(socket.pid)
            name = next((name for name, marks in _MARKS.items() if re.search(marks, command)), "")
            name = name or _PORTS.get(socket.laddr.port, "")
            if name and not (guarded and "Ray" in name):
                exposed.setdefault((name, host), []).append(socket.laddr.port)
    for (name, host), ports in exposed.items():
        advice = "mlflow server --host 127.0.0.1" if name == "MLflow" else "end it, or set RAY_AUTH_MODE=token for it"
        yield note("ports", f"{name} listens on {host}: {', '.join(map(str, sorted(set(ports))))}", advice)
    if not exposed:
        yield fine("ports", "no Ray and no MLflow listens to other machines without protection")
    token = token_file()
    if token.is_file() and token.stat().st_mode & 0o077:
        yield note("ports", f"others can read Ray's token {token}, and command your Rays with it", f"chmod 600 {token}")


def _process(pid: int | None) -> tuple[str, bool]:
    """Its command line, and whether it asks for a token; of another user's process what is thought of our own."""
    guarded = os.environ.get("RAY_AUTH_MODE") == "token"
    if pid is None or pid == os.getpid():
        return "", guarded
    try:
        process = psutil.Process(pid)
        return " ".join(process.cmdline()), process.environ().get("RAY_AUTH_MODE") == "token"
    except psutil.Error:  # it has ended
        return "", guarded


def _open_to_others(host: str) -> str:
    """Where a socket listens; empty if on this machine alone."""
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None) or address
    return "" if mapped.is_loopback else "all addresses" if mapped.is_unspecified else str(mapped)


def _server_version(uri: str) -> str:
    try:
        with urllib.request.urlopen(f"{uri}/version", timeout=3) as answer:
            return answer.read(40).decode(errors="replace").strip()
    except OSError:  # it may want a password; that it answers is known
        return ""


def _on_hub(name: str) -> bool:
    from mmpo_train.data.sources import EMBEDDED

    path = Path(_place(name)).expanduser()
    return _place(name) not in EMBEDDED and "://" not in name and not path.exists() and not path.is_absolute()


def _place(name: str) -> str:
    """A source without its config and its splits."""
    return re.split("[:#]", name)[0]


def _asked(trial: TrialConfig, settings: EvaluationSettings) -> list[JudgeSpec]:
    """The judges over the network that the trial would ask. Raises InputError for a malformed name."""
    from eval_workers.judging.specs import USUAL_JUDGES, check_judge_spec, check_preference_spec

    found = [check_judge_spec(trial.judge)] if trial.objective in ONLINE_OBJECTIVES else []
    own = ("tiny",) if trial.model == "tiny" else USUAL_JUDGES
    if "alpaca" in trial.evaluations:
        found += [check_preference_spec(spec).client for spec in settings.judges or own]
    if "arena" in trial.evaluations:
        found.append(check_judge_spec(settings.arena_judge or (*settings.judges, "tiny")[0]))
    return list({spec.name: spec for spec in found if spec.service != "tiny"}.values())

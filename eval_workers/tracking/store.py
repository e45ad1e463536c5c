"""The project's operations on MLflow: experiments, runs found by tags, params, artifacts.

Credentials are taken out of every text on its way there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

from filelock import FileLock

from eval_workers.tracking import addresses
from eval_workers.tracking.addresses import Address
from mmpo_train.errors import InputError, first_line
from mmpo_train.metric_names import REWARD_ACCURACY
from mmpo_train.redaction import masked, masked_values
from mmpo_train.storage.deadline import within
from mmpo_train.storage.mirror import address_of
from mmpo_train.storage.whole_file import keep_private, whole_file

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

Item = TypeVar("Item")
Answer = TypeVar("Answer")
PROBE_SECONDS = 5
RUNS_PER_PAGE = 1000
READERS = 8
METRICS_PER_BATCH = 1000
PARAMS_PER_BATCH = 100
TAG_CHARACTERS = 8000
PARAM_CHARACTERS = 6000
# Errors that another try cannot cure: the run was deleted, or the value is not one MLflow takes.
HOPELESS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE")
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # The ledger's writer tries again by itself; MLflow's own seven tries would hold a reader for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


class Store:
    """An MLflow that answered, with the few operations that are asked of it."""

    def __init__(self, address: Address, storage: Path):
        """Raises InputError within seconds when nobody usable answers. Makes a missing sqlite database."""
        self.address, self._storage = address, storage
        self.client = _client(address)
        self._experiments: dict[str, str] = {}

    def experiment_id(self, name: str, *, create: bool = True) -> str:
        """The experiment's id, made where missing; empty when it is missing and not to be made."""
        name = masked(name)
        if name in self._experiments:
            return self._experiments[name]
        found = self.client.get_experiment_by_name(name)
        if found is None and create:
            self.create_experiment(name, {})
            found = self.client.get_experiment_by_name(name)
        if found is None:
            return ""
        if found.lifecycle_stage != "active":
            raise InputError(
                f"the experiment {name!r} was deleted in MLflow; restore it "
                f"(mlflow experiments restore --experiment-id {found.experiment_id}), or remove it for good (mlflow gc)"
            )
        self._experiments[name] = found.experiment_id
        return found.experiment_id

    def experiment(self, name: str) -> Experiment | None:
        """The experiment of that name, perhaps a deleted one."""
        return self.client.get_experiment_by_name(name)

    def experiments(self, tags: Mapping[str, str]) -> list[Experiment]:
        """Active experiments with these tags, the oldest first."""
        found = self.client.search_experiments(filter_string=_filter("tags", tags))
        return sorted(found, key=lambda one: (one.creation_time or 0, one.experiment_id))

    def create_experiment(self, name: str, tags: Mapping[str, str]) -> None:
        """Make it, unless another process was faster."""
        # A server knows where its artifacts go. Otherwise MLflow would put them below the current folder.
        beside = self.address.database if address_of(self._storage) else None  # a copy may be deleted at any time
        folder = beside.parent if beside else self._storage
        location = None if self.address.remote else (folder / "mlartifacts").as_uri()
        every_tag = {"mlflow.experiment.primaryMetric.name": REWARD_ACCURACY, **tags}
        with unless("RESOURCE_ALREADY_EXISTS"):
            self.client.create_experiment(name, artifact_location=location, tags=every_tag)

    def last_points_of(self, run: Run) -> set[tuple[str, int]]:
        """Names and last steps of all metrics that a run has; nothing is asked for them."""
        return {(point.key, point.step) for point in run.data._metric_objs}

    def points_of(self, run: Run) -> dict[tuple[str, int], tuple[float, int]]:
        """Name and step of all metrics that a run has -> value, and timestamp in ms."""
        histories = {name: self.client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
        return {(name, one.step): (one.value, one.timestamp) for name, history in histories.items() for one in history}

    def has_run(self, run_id: str) -> bool:
        """Whether there is such a run, also one that a person has deleted and that is not removed for good yet."""
        with unless("RESOURCE_DOES_NOT_EXIST"):
            self.client.get_run(run_id)
            return True
        return False

    def search(self, experiment_id: str, tags: Mapping[str, str]) -> list[Run]:
        """Active runs with these tags, the oldest first."""
        if not experiment_id:
            return []
        wanted, ask = _filter("tags", tags), self.client.search_runs
        found: list[Run] = all_pages(ask, [experiment_id], wanted, max_results=RUNS_PER_PAGE)
        return sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))

    def tagged(self, experiment_id: str, tag: str) -> dict[str, str]:
        """Run -> value of a tag, of the newest active runs that have it."""
        some = self.client.search_runs([experiment_id], f"tags.`{tag}` LIKE '%'", max_results=RUNS_PER_PAGE)
        return {run.info.run_id: run.data.tags[tag] for run in some}

    def replace_tag(self, run_id: str, tag: str, value: str, tags: Mapping[str, str]) -> None:
        """Set other tags in the place of one, which stays if it has another value by now."""
        self.log_tags(run_id, tags)
        if self.client.get_run(run_id).data.tags.get(tag) == value:
            self.client.delete_tag(run_id, tag)

    def read_all(self, read: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
        """The result of `read` for each item, in order; with a server many are read at the same time."""
        if not self.address.remote or len(items) < 2:
            return [read(item) for item in items]
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(read, items))

    def find_or_create(
        self,
        experiment_id: str,
        identity: Mapping[str, str],
        tags: Mapping[str, str],
        name: str,
        start_ms: int,
        *,
        alone: bool = False,
    ) -> Run:
        """The oldest run with the identifying tags, created if there is none; `alone`: no other process makes it.

        Searched again after making one: a request that was sent twice, or a second process, has made two. The
        younger are tagged `duplicate_of` and left alone.
        """
        if not self.search(experiment_id, identity):
            every_tag = {tag: text(value) for tag, value in {**identity, **tags}.items()}
            made = self.client.create_run(experiment_id, start_ms, every_tag, masked(name))
            if alone and not self.address.remote:
                return made
        run, *younger = self.search(experiment_id, identity)
        self.mark_duplicates(run, younger)
        return run

    def mark_duplicates(self, kept: Run, others: list[Run]) -> None:
        """Tag the others as duplicates of the run that counts."""
        for other in others:
            if other.data.tags.get("duplicate_of") != kept.info.run_id:
                self.client.set_tag(other.info.run_id, "duplicate_of", kept.info.run_id)

    def log_params(self, run: Run, params: Mapping[str, Any]) -> None:
        """Log params once. MLflow never changes a param, so values that differ on resume become a tag."""
        from mlflow.entities import Param

        there = {name: param_text(name, value) for name, value in run.data.params.items()}
        wanted = {name: param_text(name, value) for name, value in params.items()}
        missing = [Param(name, value) for name, value in wanted.items() if name not in there]
        for start in range(0, len(missing), PARAMS_PER_BATCH):
            self.client.log_batch(run.info.run_id, params=missing[start : start + PARAMS_PER_BATCH])
        changed = [f"{name}: {there[name]} -> {new}" for name, new in wanted.items() if there.get(name, new) != new]
        if changed:
            self.client.set_tag(run.info.run_id, "changed_on_resume", text("; ".join(changed)))

    def log_tags(self, run_id: str, tags: Mapping[str, Any]) -> None:
        """Set tags, with long values cut and secrets masked."""
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(name, text(value)) for name, value in tags.items()])

    def log_metrics(self, run_id: str, metrics: Sequence[tuple[str, float, int, int]]) -> None:
        """Log (name, value, timestamp in ms, step) of each."""
        from mlflow.entities import Metric

        for start in range(0, len(metrics), METRICS_PER_BATCH):
            some = metrics[start : start + METRICS_PER_BATCH]
            self.client.log_batch(run_id, metrics=[Metric(*metric) for metric in some])

    def log_json(self, run_id: str, value: Any, path: str) -> None:
        """Store a value as a JSON artifact."""
        self.client.log_dict(run_id, masked_values(value), path)

    def json_artifacts(self, run_id: str, paths: set[str]) -> dict[str, Any]:
        """Artifact path -> parsed JSON of the files at these paths and in these folders. Missing and incomplete ones
        are left out."""
        place = urlsplit(self.client.get_run(run_id).info.artifact_uri)
        if place.scheme in ("", "file"):  # where MLflow would make copies of them first
            return _parsed_files(Path(url2pathname(place.path)), paths)
        with tempfile.TemporaryDirectory() as folder:
            for path in paths & {item.path for item in self.client.list_artifacts(run_id)}:
                self.client.download_artifacts(run_id, path, folder)
            return _parsed_files(Path(folder), paths)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """A block in which MLflow's errors become InputError, for calls that wait for an answer."""
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                raise InputError(
                    f"MLflow at {self.address.shown} answers, and does not have it: {masked(first_line(error))}; copy "
                    f"the id of a run from its page ({addresses.ui_command(self.address)}), or correct --tracking-uri"
                ) from None
            raise addresses.unreachable(self.address, str(error)) from None  # its chain shows credentials

    def may_pass(self, error: Exception) -> bool:
        """Whether a write that failed may succeed when tried again."""
        from mlflow.exceptions import MlflowException, RestException

        if isinstance(error, MlflowException):
            # A proxy in front of a server that restarts says 404 too, but not in MLflow's words.
            said_by_mlflow = isinstance(error, RestException) or not self.address.remote
            return not (said_by_mlflow and error.error_code in HOPELESS)
        gone = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
        return isinstance(error, OSError) and not isinstance(error, gone)


def all_pages(ask: Callable[..., Any], *arguments: Any, **named: Any) -> list[Any]:
    """What a search of MLflow finds, on all pages; the token of the last one is empty."""
    found, token = [], None
    while True:
        page = ask(*arguments, **named, page_token=token)
        found += page
        if not (token := page.token):
            return found


@contextlib.contextmanager
def unless(code: str) -> Iterator[None]:
    """A block that ends where MLflow says that something is missing, or there already, by this code of an error."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != code:
            raise


def _filter(kind: str, values: Mapping[str, str]) -> str:
    """MLflow's filter for these values of tags or params."""
    for value in values.values():
        assert "'" not in value, f"a quote in {value!r} would end MLflow's filter"
    return " and ".join(f"{kind}.`{name}` = '{value}'" for name, value in values.items())


def text(value: Any) -> str:
    """The text of a tag: cut to its longest length, with secrets masked."""
    return masked(str(value))[:TAG_CHARACTERS]


def param_text(name: str, value: Any) -> str:
    """The text of a param: cut to its longest length, with secrets masked."""
    shown = masked_values({name: ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)})
    return shown[name][:PARAM_CHARACTERS]


def param_number(params: Mapping[str, str], name: str, otherwise: float | None = None) -> float:
    """A number that `param_text` has written. Without one: `otherwise`, or KeyError if that is not given."""
    return float(params[name] if otherwise is None else params.get(name, otherwise))


def _parsed_files(folder: Path, paths: set[str]) -> dict[str, Any]:
    named = [folder / path for path in paths]
    found = {}
    for file in sorted(file for path in named for file in ([path] if path.is_file() else path.rglob("*.json"))):
        with contextlib.suppress(ValueError):  # torn by a kill in mid-copy; the trial's journal delivers it again
            found[file.relative_to(folder).as_posix()] = json.loads(file.read_text("utf-8"))
    return found


def _client(address: Address) -> MlflowClient:
    """A client for an address that answers, with MLflow's own output silenced."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.ERROR)

    def answering() -> MlflowClient:
        client = MlflowClient(tracking_uri=address.uri)
        client.search_experiments(max_results=1)
        if address.remote:
            client.search_logged_models(["0"], max_results=1)  # one that knows none would hold up all writes
        return client

    try:
        if address.database is not None:
            # Two processes that create the tables at once leave half a schema.
            with FileLock(f"{address.database}.lock", timeout=120):
                if not (address.database.exists() and address.database.stat().st_size):
                    _make_tables(address.database.resolve())
                return answering()
        with _environment(MLFLOW_HTTP_REQUEST_MAX_RETRIES="0", MLFLOW_HTTP_REQUEST_TIMEOUT=str(PROBE_SECONDS)):
            return within(PROBE_SECONDS + 1, answering)
    except Exception as error:  # noqa: BLE001 - of MLflow, SQLAlchemy or the driver of the database that was given
        why = f"{type(error).__name__}: {error}"
        raise addresses.unreachable(address, why) from None  # its chain shows credentials


def _make_tables(database: Path) -> None:
    """MLflow's tables in a new file, all of them or none: it cannot go on with what a kill leaves. The journal of a
    database that was moved away would be played back into the new one."""
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine

    journals = (database.with_name(f"{database.name}-{kind}") for kind in ("journal", "wal", "shm"))
    for left in (*database.parent.glob(f".{database.name}.*"), *journals):
        left.unlink(missing_ok=True)
    with whole_file(database) as beside:
        keep_private(beside)
        engine = create_sqlalchemy_engine(f"sqlite:///{beside}")
        try:
            _initialize_tables(engine)
        finally:
            engine.dispose()


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

"""MLflow addresses: the accepted ones, and how they are shown. Standard library only."""

import os
import re
import shlex
import sqlite3
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mmpo_train.errors import InputError
from mmpo_train.redaction import masked
from mmpo_train.storage.whole_file import keep_private

DATABASES = ("postgresql", "mysql", "mssql")
OPTION = "--tracking-uri"
_DAMAGE = re.compile(r"malformed|not a database|(?:table|index) \w+ already exists|duplicate column name")
SERVER_ADVICE = (
    "mlflow server --host 127.0.0.1 --port 5000 --backend-store-uri sqlite:///mlflow.db "
    "--allowed-hosts 127.0.0.1:5000,localhost:5000"
)


@dataclass(frozen=True)
class Address:
    """A tracking address MLflow can be given, made absolute."""

    uri: str
    """As MLflow wants it, credentials included: never show or store it."""
    option: str = OPTION
    """The option that gave it, for messages."""

    @property
    def remote(self) -> bool:
        """Whether an MLflow server keeps the runs and chooses where artifacts go."""
        return self.uri.startswith(("http://", "https://"))

    @property
    def database(self) -> Path | None:
        """The file, when it is sqlite."""
        return Path(self.uri.removeprefix("sqlite:///")) if self.uri.startswith("sqlite:///") else None

    @property
    def shown(self) -> str:
        """The address without credentials."""
        return masked(self.uri)


def tracking_uri(given: str | None) -> str:
    """The given address, or that of MLflow's own variable; empty for the database in the storage."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or ""


def resolve(given: str | None, storage: Path, option: str = OPTION) -> Address:
    """The address to use; `sqlite:///<storage>/mlflow.db` when none is given, nor named by MLFLOW_TRACKING_URI.

    `option` is where it was given. Raises InputError for what MLflow 3 cannot write to: a plain folder of runs, an
    unknown scheme, a database file that cannot be created, read or written.
    """
    uri, option = tracking_uri(given), option if given else "MLFLOW_TRACKING_URI"
    if not uri:
        try:
            storage.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"the folder {storage} for results cannot be made ({error.strerror}); choose another"
            ) from error
        return Address(_writable(storage.resolve() / "mlflow.db", "give another folder with --storage"))
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme == "file":
        raise InputError(
            f"{option} {masked(uri)!r} is a plain folder, which MLflow 3 no longer writes runs to; "
            f"leave out {option}, or give sqlite:///path/to/mlflow.db or the address of a server"
        )
    if scheme in ("http", "https"):
        if not rest.rpartition("@")[2].strip("/"):
            raise InputError(f"{option} {masked(uri)!r} names no host; expected http://127.0.0.1:5000")
        return Address(uri.rstrip("/"), option)
    if scheme == "sqlite":
        if not rest.startswith("/") or rest in ("/", "/:memory:"):
            raise InputError(
                f"{option} {uri!r} names no file; expected sqlite:///relative/mlflow.db "
                f"or sqlite:////absolute/mlflow.db, or leave out {option}"
            )
        return Address(_writable(Path(rest[1:]).absolute(), f"leave out {option}"), option)
    if scheme.partition("+")[0] in DATABASES or scheme == "databricks":
        return Address(uri, option)
    raise InputError(
        f"{option} {masked(uri)!r} has the unknown scheme {scheme!r}; expected sqlite, http, https, "
        f"{', '.join(DATABASES)}; leave out {option}"
    )


def is_there(given: str | None, storage: Path) -> bool:
    """Whether the address has a ledger already. Servers are thought to have one."""
    uri = tracking_uri(given)
    if not uri:
        return (storage / "mlflow.db").is_file()
    return not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).is_file()


def unreachable(address: Address, why: str) -> InputError:
    """The error for an address nobody usable answers at, credentials taken out."""
    if address.database and is_damaged(why):
        return InputError(damaged_database(address.database, masked(why)))
    if "logged-models" in why and "404" in why:
        return InputError(
            f"the server at {address.shown} runs an MLflow before version 3. Stop it, keep a copy of its database, "
            "type `pip install --upgrade mlflow` and `mlflow db upgrade DATABASE` on its machine, and start it again"
        )
    if "database schema" in why:
        keep = f"cp {address.database} {address.database}.before" if address.database else "as its manual says"
        return InputError(
            f"another version of MLflow wrote the ledger {address.shown}. Stop all programs that write to it, keep a "
            f"copy ({keep}), type `mlflow db upgrade {shlex.quote(address.shown)}` (with the password, if it has one), "
            "then give the same command. If a newer MLflow wrote it, install that version instead."
        )
    return InputError(
        f"MLflow at {address.shown} cannot be used: {masked(why)[:400]}\n"
        f"Start a server ({SERVER_ADVICE}), correct {address.option}, or leave out {address.option}."
    )


def is_damaged(why: str) -> bool:
    """Whether SQLite says so of a file, or its tables are half made: a kill has left it so."""
    return _DAMAGE.search(why) is not None


def damaged_database(path: Path, why: str) -> str:
    """What to do about a damaged file. The journals of a storage's trials hold what its database held."""
    said = why.splitlines()[0][:200]
    return (
        f"the database {path} is damaged ({said}): move it away (mv {path} {path}.damaged) and give the same command; "
        "the trials' journals rebuild it, and nothing that has finished is trained again"
    )


def _writable(path: Path, or_else: str) -> str:
    """The address of a database that can be written, or made where it is missing."""
    if "?" in str(path):
        raise InputError(
            f"the database {path} has a '?' in its path, which an address cannot hold; choose another folder"
        )
    if not path.parent.is_dir():
        raise InputError(
            f"the folder of the database {path} does not exist; make it (mkdir -p {path.parent}) or {or_else}"
        )
    try:
        if not path.exists():
            tempfile.TemporaryFile(dir=path.parent).close()
            return f"sqlite:///{path}"
        keep_private(path)
        connection = sqlite3.connect(path, timeout=2)
        try:
            connection.execute("PRAGMA schema_version").fetchone()
            connection.execute("BEGIN IMMEDIATE")
        finally:
            connection.close()
    except (OSError, sqlite3.Error) as error:
        # Locked means that somebody is writing, so it can be written.
        if is_damaged(str(error)):
            raise InputError(damaged_database(path, str(error))) from error
        if "locked" not in str(error):
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise InputError(
                f"the database {path} cannot be written ({reason}); give another file, or {or_else}"
            ) from error
    return f"sqlite:///{path}"


def page(address: Address, experiment_id: str) -> str:
    """The address of an experiment's runs in a browser: MLflow's own page opens on traces."""
    host = address.shown if address.remote else "http://127.0.0.1:5000"
    return f"{host}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"


def ui_command(address: Address) -> str:
    """The command that shows the ledger, or the server's own address."""
    if address.remote:
        return address.shown
    uri = address.shown
    if address.database is not None and address.database.is_relative_to(Path.cwd()):
        uri = f"sqlite:///{os.path.relpath(address.database)}"
    # MLflow's default host check lets a header such as `10.attacker.com` pass.
    where = "--host 127.0.0.1 --port 5000 --allowed-hosts 127.0.0.1:5000,localhost:5000"
    return f"mlflow ui --backend-store-uri {shlex.quote(uri)} {where}"

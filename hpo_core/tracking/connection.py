"""Connects to MLflow; by default to ``mlflow.db`` and ``mlartifacts/`` in the working folder, without a server.

The names are those of MLflow's own defaults, so ``mlflow ui`` in the same folder shows the same runs.
The store itself is imported as it is opened, since it loads mlflow.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, unquote

from hpo_core.base.errors import InputError, StudyUnknown, TrackingError, TrackingRefusal
from hpo_core.tracking.credentials import redact, scrub
from hpo_core.tracking.reading import reason_for_mlflow
from hpo_core.tracking.sqlite_rows import Rows
from hpo_core.tracking.sqlite_store import SqliteStore
from hpo_core.tracking.trial_run import is_own_request

if TYPE_CHECKING:
    from hpo_core.ledger.store import Store
    from hpo_core.tracking.mlflow_store import MlflowStore

log = logging.getLogger("hpo")

DATABASE = "mlflow.db"

CONNECT_SECONDS = 5.0
"""How long the first request to a store may take."""

ARTIFACTS = "mlartifacts"

_SQLITE = re.compile(r"sqlite(?:\+pysqlite)?:(?://)?(?:/(?P<file>[^?]*))?(?:\?(?P<settings>.*))?", re.DOTALL)

_SETTINGS = {"timeout", "isolation_level", "detect_types", "check_same_thread", "cached_statements"}
"""Settings allowed after the ``?`` of a URI that contains no nested URI."""


def tracking_uri(given: str | None = None) -> str:
    """The tracking URI in force: the given one, ``MLFLOW_TRACKING_URI``, or sqlite in the working folder.

    Raises:
        InputError: What is given is not text.
    """
    if not isinstance(given, str | None):
        raise InputError("tracking_uri", f"{given!r} is not text", "write it as sqlite:///mlflow.db, say")
    return given or os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(Path(DATABASE))


def sqlite_uri(database: Path) -> str:
    """The URI of a database file.

    SQLAlchemy reads what follows a ``%`` or a ``?`` in its own way, so these are quoted. (A quoted URI that begins with
    ``sqlite:///`` MLflow would treat as a path, and create its folders.)

    >>> sqlite_uri(Path("/data/one #1/mlflow.db")), sqlite_uri(Path("/what?/mlflow.db"))
    ('sqlite:////data/one #1/mlflow.db', 'sqlite+pysqlite:////what%3F/mlflow.db')
    """
    path = str(database.absolute())
    return f"sqlite+pysqlite:///{quote(path)}" if re.search("[%?]", path) else f"sqlite:///{path}"


def database_path(uri: str, field: str = "MLFLOW_TRACKING_URI") -> Path | None:
    """The file behind a sqlite URI; None for any other.

    Args:
        uri: The URI.
        field: Where the URI comes from, for the error message.

    Raises:
        InputError: The database is in memory, or the URI would be read as another file than it shows.
    """
    if (found := _SQLITE.fullmatch(uri)) is None:
        return None
    file, settings = unquote(found["file"] or ""), dict(parse_qsl(found["settings"] or "", keep_blank_values=True))
    nested = "uri" in settings
    if nested:
        file = unquote(re.sub(r"^file:(//(localhost)?(?=/))?", "", file.partition("?")[0]))
    if file in ("", ":memory:") or settings.get("mode") == "memory" or settings.get("vfs") == "memdb":
        problem = f"{uri!r} is a database in memory, which no other process sees and which is gone with this one"
        raise InputError(field, problem, "name a file, as in sqlite:///mlflow.db")
    if found["settings"] is not None and not nested and (not settings or settings.keys() - _SETTINGS):
        problem = f"{uri!r}: what follows the ? is read as settings of the database, and it is none"
        path = Path(uri.partition(":///")[2])
        raise InputError(field, problem, f"if it is of the file's path, write {sqlite_uri(path)}")
    return Path(file)


def check_there(study: str = "", given: str | None = None) -> None:
    """Check that there is a store at all, for what creates none: a database file lies in one folder, not in others.

    Args:
        study: The name of the study that is looked for, for the message.
        given: The tracking URI; None for the one in force.

    Raises:
        StudyUnknown: The database file does not exist.
    """
    if (database := database_path(tracking_uri(given))) is not None and not database.exists():
        what = f"study {study!r}" if study else "study"
        raise StudyUnknown(
            "study",
            f"there is no {what}: the MLflow store {database.absolute()} does not exist",
            "run this in the folder where the study was started, or set MLFLOW_TRACKING_URI",
        )


def connect(given: str | None = None, patience: float = 1800.0, *, known: bool = False) -> MlflowStore:
    """Connect to the tracking store. The first request has little patience, so a wrong URI fails quickly.

    Args:
        given: The tracking URI; None for the one in force.
        patience: How long to retry a store that does not respond, in seconds.
        known: The store has responded before, so the URI is right, and the first request has the same patience.

    Raises:
        InputError: The URI is of a kind that MLflow does not know.
        TrackingError: The store does not respond.
    """
    from hpo_core.tracking.mlflow_store import MlflowStore

    for name in ("mlflow.store.db.utils", "alembic"):  # they log every table of a new database
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").addFilter(_is_users)
    uri = tracking_uri(given)
    root: Path | None = None
    if (database := database_path(uri)) is not None:
        root = database.parent / ARTIFACTS
        try:
            create(database)
        except (OSError, sqlite3.Error) as error:
            raise TrackingError(
                f"the database {database} cannot be opened ({error}); make it writable, or correct MLFLOW_TRACKING_URI"
            ) from None
    rows = None if (readable := _readable(uri)) is None else Rows(readable)
    try:
        store = MlflowStore(uri, root, patience if known else CONNECT_SECONDS, rows)
        if not known:
            store.ping()
    except TrackingRefusal as error:
        if "unsupported URI" not in str(error):
            raise
        remedy = "write sqlite:///mlflow.db, postgresql://user@host/database or http://host:5000, say"
        raise InputError("MLFLOW_TRACKING_URI", f"MLflow knows no store of the kind {redact(uri)!r}", remedy) from None
    store.patience = patience
    return store


def _is_users(record: logging.LogRecord) -> bool:
    """Whether MLflow says it to the user; what it logs of a request of ours it raises, too, and that is repeated."""
    return not is_own_request()


def connect_to_read(given: str | None = None) -> Store:
    """Connect to the tracking store for a command that mostly reads, without importing mlflow where that can be.

    Asks nothing yet. The store can do all that :func:`connect`'s can, and fails as that does.
    """
    uri = tracking_uri(given)
    try:
        store = _reading_store(uri)
    except Exception as error:  # MLflow's client says what is wrong
        log.debug("MLflow's client is needed: %s", scrub(error, uri))
        store = None
    return connect(uri) if store is None else store


def _reading_store(uri: str) -> Store | None:
    if uri.startswith(("http://", "https://")) and not reason_for_mlflow():
        from hpo_core.tracking.rest_store import RestStore  # loads requests

        return RestStore(uri, lambda known: connect(uri, known=known))
    if (database := _readable(uri)) is not None:
        return SqliteStore(uri, lambda known: connect(uri, known=known), database)
    return None


def _readable(uri: str) -> Path | None:
    """The database file behind a URI if it can be read without MLflow's client; None otherwise."""
    return None if "?" in uri or reason_for_mlflow() else database_path(uri)


def create(database: Path) -> None:
    """Create MLflow's tables, all or none, even if the process is killed half way or others run concurrently.

    MLflow cannot repair a database with missing tables, so create them in a draft file and rename it.
    """
    database.parent.mkdir(parents=True, exist_ok=True)
    with _alone_in(database.parent):
        if not database.exists() or database.stat().st_size == 0:
            for draft in database.parent.glob(f"{database.name}.draft*"):
                draft.unlink()  # left by a process that was killed here
            draft = database.with_name(f"{database.name}.draft{os.getpid()}")
            draft.touch()  # fails at once if the folder is read-only; MLflow would retry
            _make_tables(draft)
            draft.replace(database)
        # Write-ahead logging halves commit time and lets others (the UI) read while a flow writes.
        with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")


def _make_tables(draft: Path) -> None:
    from hpo_core.tracking.mlflow_store import make_tables

    make_tables(sqlite_uri(draft), draft.parent / ARTIFACTS)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Let one process at a time prepare the database of a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # the kernel releases it however the process ends
        yield
    finally:
        os.close(descriptor)


def ui_command(uri: str, host: str = "127.0.0.1", port: int = 5000) -> list[str]:
    """The command that serves MLflow's UI over a database."""
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", host, "--port", str(port)]
    if (database := database_path(uri)) is not None:
        command += ["--default-artifact-root", (database.parent / ARTIFACTS).absolute().as_uri()]
    return [*command, "--workers", "1"]

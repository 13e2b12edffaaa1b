"""The embedded store: ``mlflow.db`` and ``mlartifacts/`` in the working folder, used without a server.

The names are those of MLflow's own defaults, so ``mlflow ui`` in the same folder shows the same runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hpo_core.errors import TrackingError

if TYPE_CHECKING:
    from hpo_core.tracking import MlflowStore

DATABASE = "mlflow.db"
CONNECT_SECONDS = 5.0
"""How long a store may take to answer for the first time."""
ARTIFACTS = "mlartifacts"


def tracking_uri(given: str | None = None) -> str:
    """The tracking URI in force: the given one, ``MLFLOW_TRACKING_URI``, or sqlite in the working folder."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(DATABASE).absolute()}"


def database_path(uri: str) -> Path | None:
    """The file behind a sqlite URI; None for any other."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def connect(given: str | None = None, patience: float = 1800.0) -> MlflowStore:
    """The tracking store, asked once with little patience: a wrong address should be told at once.

    Raises:
        TrackingError: It does not answer.
    """
    from hpo_core.tracking import MlflowStore

    for name in ("mlflow.store.db.utils", "alembic"):  # they tell of every table as a new database is made
        logging.getLogger(name).setLevel(logging.WARNING)
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
    store = MlflowStore(uri, root, patience=CONNECT_SECONDS)
    store.ping()
    store.patience = patience
    return store


def create(database: Path) -> None:
    """Make MLflow's tables, all or none: a process may be killed half way, and others may come at the same moment.

    MLflow cannot mend a database of which some tables are missing, so they are made in a draft beside it.
    """
    from hpo_core.tracking import MlflowStore

    database.parent.mkdir(parents=True, exist_ok=True)
    with _alone_in(database.parent):
        if not database.exists() or database.stat().st_size == 0:
            for draft in database.parent.glob(f"{database.name}.draft*"):
                draft.unlink()  # of a process that was killed here
            draft = database.with_name(f"{database.name}.draft{os.getpid()}")
            MlflowStore(f"sqlite:///{draft}", patience=5.0).ping()
            draft.replace(database)
        # Write-ahead logging halves the time of a commit and lets readers (the UI) in while a flow writes.
        with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Let one process at a time prepare the database of a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # gone with the process, whatever ends it
        yield
    finally:
        os.close(descriptor)


def ui_command(uri: str, host: str = "127.0.0.1", port: int = 5000) -> list[str]:
    """The command that serves MLflow's UI over a database."""
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", host, "--port", str(port)]
    if (database := database_path(uri)) is not None:
        command += ["--default-artifact-root", (database.parent / ARTIFACTS).absolute().as_uri()]
    return [*command, "--workers", "1"]

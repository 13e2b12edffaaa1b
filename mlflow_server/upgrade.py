"""MLflow's database after an upgrade of MLflow: backed up, then brought to the new schema."""

from __future__ import annotations

from pathlib import Path

from hpo_core.errors import InputError, TrackingError
from mlflow_server.artifacts import Artifacts
from mlflow_server.backup import back_up
from mlflow_server.database import Database, run_mlflow


def upgrade(database: Database, artifacts: Artifacts, archive: Path) -> tuple[str, str]:
    """Back everything up, then run ``mlflow db upgrade``; answers the schema's version before and after.

    Raises:
        InputError: The database is in use, or the archive cannot be written.
        TrackingError: The upgrade failed; the archive holds what was there before.
    """
    if database.in_use():
        raise InputError("database", f"{database.uri} is in use", "stop the server and all that works with it")
    before = back_up(database, artifacts, archive).revision
    if reason := run_mlflow(database, "db", "upgrade", database.uri):
        raise TrackingError(f"mlflow db upgrade failed ({reason}); {archive} holds what was there before")
    return before, database.revision

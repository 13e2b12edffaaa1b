"""MLflow's database after an upgrade of MLflow: backed up, then brought to the new schema."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hpo_core.errors import InputError, TrackingError
from mlflow_server.artifacts import Artifacts
from mlflow_server.backup import back_up
from mlflow_server.database import Database


def upgrade(database: Database, artifacts: Artifacts, archive: Path) -> tuple[str, str]:
    """Back everything up, then run ``mlflow db upgrade``; answers the schema's version before and after.

    Raises:
        InputError: The database is in use, or the archive cannot be written.
        TrackingError: The upgrade failed; the archive holds what was there before.
    """
    if database.in_use():
        raise InputError("database", f"{database.uri} is in use", "stop the server and all that works with it")
    before = back_up(database, artifacts, archive).revision
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", "db", "upgrade", database.uri],
        env=os.environ | dict(database.environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise TrackingError(f"mlflow db upgrade failed ({reason}); {archive} holds what was there before")
    return before, database.revision

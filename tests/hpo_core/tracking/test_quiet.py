"""What this project starts sends no usage statistics and shows no bars of MLflow's, unless the user wants them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpo_core.base.quiet import DEFAULTS

ASK = """
import hpo_flows
from mlflow.telemetry.utils import is_telemetry_disabled
from prefect._internal.analytics.enabled import is_telemetry_enabled
from prefect.settings import get_current_settings
from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR as BAR
print(not is_telemetry_disabled(), is_telemetry_enabled(), get_current_settings().server.analytics_enabled, BAR.get())
"""


def answers(**given: str) -> list[str]:
    """Whether MLflow, Prefect's client and Prefect's server send statistics, and MLflow has bars, in a new process."""
    # As on a machine of its own: MLflow and Prefect send nothing from what they take for a test or CI.
    kept = {"PATH", "HOME", "PYTHONPATH", "PREFECT_HOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH"}
    environment = {key: value for key, value in os.environ.items() if key in kept}
    done = subprocess.run([sys.executable, "-c", ASK], env=environment | given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_nothing_is_sent_or_shown_by_default() -> None:
    assert answers() == ["False"] * 4


def test_the_user_may_want_them() -> None:
    wanted = {"MLFLOW_DISABLE_TELEMETRY": "false", "PREFECT_SERVER_ANALYTICS_ENABLED": "true", "DO_NOT_TRACK": "0"}
    wanted["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "true"
    assert wanted.keys() == DEFAULTS.keys() and answers(**wanted) == ["True"] * 4


LOCKED = """
import sqlite3, sys, threading
import sqlalchemy, mlflow
from hpo_core.tracking.connection import connect
store = connect("sqlite:///mlflow.db")
lock = sqlite3.connect("mlflow.db", isolation_level=None, check_same_thread=False)
from mlflow.store.db import utils
lock.execute("BEGIN EXCLUSIVE")
threading.Timer(1.5, lambda: lock.execute("ROLLBACK")).start()
text = sqlalchemy.text
sqlalchemy.text = utils.sql.text = lambda said: text(said.replace("busy_timeout = 20000", "busy_timeout = 100"))
if sys.argv[1] == "ours":
    assert store.experiment("tried again", create=True)
else:
    try:
        mlflow.MlflowClient("sqlite:///mlflow.db").create_experiment("once")
    except mlflow.MlflowException:
        print("raised")
"""


@pytest.mark.parametrize(("whose", "told"), [("ours", False), ("theirs", True)])
def test_a_request_that_is_repeated_leaves_no_traceback_of_mlflows(whose: str, told: bool, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LOCKED, whose], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "raised\n" if told else ""), done.stderr
    assert ("database is locked" in done.stderr) == told

"""Keeps MLflow and Prefect quiet in this process and those it starts, unless the user wants it otherwise.

No usage statistics: both print notices about them, which would tear the live display, as would MLflow's progress bars
for every checkpoint. Set before either is imported.
"""

from __future__ import annotations

import os

DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # of servers started here
    "DO_NOT_TRACK": "1",  # Prefect's client; MLflow only reads "true" here, so its own variable stays in force
}


def set_defaults() -> None:
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)

"""Turns off the usage statistics of MLflow and Prefect in this process and those it starts, unless the user set them.

Both print notices about them, which would tear the live display; set before either is imported.
"""

from __future__ import annotations

import os

DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # of servers started here
    "DO_NOT_TRACK": "1",  # Prefect's client; MLflow only reads "true" here, so its own variable stays in force
}


def turn_off() -> None:
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)

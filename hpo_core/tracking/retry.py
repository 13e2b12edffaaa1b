"""Decides which MLflow errors are transient, and how long to retry them."""

from __future__ import annotations

import math
import re

import requests
import sqlalchemy.exc
from mlflow.exceptions import MlflowException

HASTE_SECONDS = 3.0
"""How long to retry an unresponsive store once someone is waiting for the process to end."""


INTERNAL_SECONDS = 30.0
"""How long to retry a request after an internal error of the store. It also reports invalid requests as internal
errors, such as a number that its database cannot hold, and those never succeed."""


LOOK_SECONDS = 0.2
"""How often a wait polls for haste. Polling, not a lock: a signal handler must not take one."""


CREATION_SECONDS = 60.0
"""How long another process may take to create the tables of an empty database."""


_TRANSIENT_CODES = {"TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED", "INTERNAL_ERROR"}


_TRANSIENT_TEXT = re.compile(
    r"API request to .* failed with (exception|error code 5\d\d)|Max retries exceeded|"
    r"database is locked|Connection refused|response code: 5\d\d",
    re.DOTALL,
)


_OUTRUN = re.compile(r"UNIQUE constraint failed|duplicate key value violates unique constraint|Duplicate entry")
"""How sqlite, PostgreSQL and MySQL say that another process has just inserted the same row. MLflow looks whether a tag
or an alias is there before it writes it; asked again, it finds the row and updates it."""


def is_transient(error: Exception) -> bool:
    if isinstance(
        error,
        requests.ConnectionError | requests.Timeout | sqlalchemy.exc.OperationalError | ConnectionError | TimeoutError,
    ):
        return True
    if isinstance(error, MlflowException):
        outrun = error.error_code == "BAD_REQUEST" and _OUTRUN.search(str(error))
        return error.error_code in _TRANSIENT_CODES or bool(_TRANSIENT_TEXT.search(str(error)) or outrun)
    return False


def is_internal(error: Exception) -> bool:
    """Whether the store itself responded with an error, which may stand for an invalid request."""
    if not isinstance(error, MlflowException) or error.error_code not in ("INTERNAL_ERROR", "BAD_REQUEST"):
        return False
    # MLflow's client uses the same code for a server that does not respond.
    return "too many 500 error responses" in str(error) or not _TRANSIENT_TEXT.search(str(error))


class Haste:
    """Whether someone is waiting for the process to end; shared by a store and its copies."""

    def __init__(self) -> None:
        self.until = math.inf  # the time after which no request is retried
        self.usual: dict[str, str] = {}

    @property
    def on(self) -> bool:
        return self.until < math.inf


HASTY_SETTINGS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": f"{HASTE_SECONDS:.0f}", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}

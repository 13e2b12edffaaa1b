"""Runs ``mlflow server`` with settings that make it fast, and with passwords, and waits until it responds."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hpo_core.base.errors import InputError
from hpo_core.tracking.connection import create
from mlflow_server.artifacts import Bucket, Folder
from mlflow_server.database import Sqlite, newest_revision
from mlflow_server.processes import Process, check_port, http_answers
from mlflow_server.settings import Settings

AUTH_CACHE_SECONDS = 60
"""MLflow derives a key from the password at every request, 0.3 s of computing, unless told to remember it for a while.
So long a changed password is still good at the other workers."""
GRACE_SECONDS = 10
"""How long requests that are being answered may take when the server is to end."""

_AUTH = """\
[mlflow]
database_uri = {database}
admin_username = admin
default_permission = EDIT
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = {cache}
"""
# EDIT: several people's flows may work on one study, and all studies share the experiment that holds claims.


def server_command(settings: Settings) -> list[str]:
    """The command line. Every user of the machine can read it, so secrets go into the environment."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", settings.host, "--port", str(settings.port)]
    command += ["--workers", str(settings.workers), "--uvicorn-opts", f"--timeout-graceful-shutdown {GRACE_SECONDS}"]
    if isinstance(settings.artifacts, Folder):
        # Addresses as the embedded store writes them, so that either may go on with the other's studies.
        return [*command, "--default-artifact-root", settings.artifacts.path.as_uri()]
    return [*command, "--app-name", "basic-auth"]


def server_environment(settings: Settings, auth: Path) -> dict[str, str]:
    """What is added to the server's environment.

    Args:
        settings: The server.
        auth: Where the configuration of the passwords' store is kept; it is written here.
    """
    environment = {
        "MLFLOW_BACKEND_STORE_URI": settings.database.uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # 2 GB for what no study uses
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    if isinstance(settings.artifacts, Bucket):
        auth.write_text(_AUTH.format(database=settings.database.uri, cache=AUTH_CACHE_SECONDS))
        environment |= {
            "MLFLOW_ARTIFACTS_DESTINATION": settings.artifacts.uri,
            "MLFLOW_AUTH_CONFIG_PATH": str(auth),
            "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true",
            "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE": "path" if "MLFLOW_S3_ENDPOINT_URL" in settings.secrets else "auto",
        }
    if settings.allowed_hosts:
        own = [f"{name}{port}" for name in ("localhost", "127.0.0.1") for port in ("", ":*")]
        environment["MLFLOW_SERVER_ALLOWED_HOSTS"] = ",".join([*settings.allowed_hosts, *own])
        # The browser of who opened https://host sends that as the origin of what the UI asks.
        environment["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] = ",".join(
            f"https://{host}" for host in settings.allowed_hosts
        )
    return environment | dict(settings.secrets)


def server_process(settings: Settings, auth: Path, log: Path | None = None) -> Process:
    """The server, not started yet; its database and artifacts must exist.

    Args:
        settings: The server.
        auth: Where the configuration of the passwords' store is kept; it is written here.
        log: The file that its output is appended to; by default it joins this process's own.

    Raises:
        InputError: The database is older than MLflow, or something given is refused.
        TrackingError: The database or the S3 store does not respond.
    """
    if isinstance(settings.database, Sqlite):
        create(settings.database.path)
    else:
        settings.database.check()
    if (found := settings.database.revision) not in ("", newest := newest_revision()):
        problem = f"its schema {found} is not that of the installed MLflow, {newest}"
        raise InputError(settings.database.uri, problem, "run `upgrade`, or install the MLflow that it belongs to")
    if isinstance(settings.artifacts, Bucket):
        settings.artifacts.check()
    return Process(
        "mlflow server",
        server_command(settings),
        http_answers(f"{address(settings)}/health"),
        environment=server_environment(settings, auth),
        log=log,
    )


@contextlib.contextmanager
def running_server(settings: Settings) -> Iterator[Process]:
    """The server, from when it responds until the block ends.

    Raises:
        InputError: The port is taken, the database is older than MLflow, or something given is refused.
        TrackingError: The database, the S3 store or the server does not respond.
    """
    check_port(settings.host, settings.port, "--port")
    with tempfile.TemporaryDirectory(prefix="mlflow-server-") as folder:
        server = server_process(settings, Path(folder, "auth.ini"))
        server.start()
        try:
            yield server
        finally:
            server.stop()


def address(settings: Settings) -> str:
    """The server's address on this machine."""
    host = "127.0.0.1" if settings.host == "0.0.0.0" else settings.host  # noqa: S104  (compared, not bound)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"

"""Reads the settings of a tracking server from the environment, under the names that MLflow gives them.

Two profiles. ``local``: sqlite and a folder, for one machine. ``team``: PostgreSQL, artifacts that go through the
server to S3-compatible storage, and a password for everybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hpo_core.base.errors import InputError
from hpo_core.tracking.connection import ARTIFACTS, DATABASE
from mlflow_server.artifacts import DESTINATION, ENDPOINT, Artifacts, Bucket, Folder
from mlflow_server.database import STORE, Database, Postgresql, Sqlite, database_of
from mlflow_server.sizing import fitting_workers

ADMIN_PASSWORD = "MLFLOW_AUTH_ADMIN_PASSWORD"  # noqa: S105  (a name)

SECRET_KEY = "MLFLOW_FLASK_SERVER_SECRET_KEY"  # noqa: S105  (a name)

ALLOWED_HOSTS = "MLFLOW_SERVER_ALLOWED_HOSTS"

MINIMUM_PASSWORD = 12

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Settings:
    """The settings of a tracking server.

    Attributes:
        profile: ``local`` or ``team``.
        database: Where runs are.
        artifacts: Where their files are.
        host: The address that it listens on.
        port: The port.
        workers: How many processes serve requests.
        allowed_hosts: Names under which browsers and clients may address it, beside those of this machine.
        secrets: What it needs in its environment.
    """

    profile: str
    database: Database
    artifacts: Artifacts
    host: str = "127.0.0.1"
    port: int = 5000
    workers: int = 1
    allowed_hosts: tuple[str, ...] = ()
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


def stores(profile: str, folder: Path, environment: Mapping[str, str]) -> tuple[Database, Artifacts]:
    """Database and artifacts of a profile.

    Args:
        profile: ``local`` or ``team``.
        folder: Where ``local`` keeps both.
        environment: Where ``team`` finds the addresses and passwords of both.

    Raises:
        InputError: An address or a password is missing or wrong.
    """
    if profile == "local":
        return Sqlite(folder / DATABASE), Folder(folder / ARTIFACTS)
    database = database_of(_needed(environment, STORE, "postgresql://user@host/database"), environment)
    if not isinstance(database, Postgresql):
        raise InputError(STORE, f"{database.uri} is not PostgreSQL", "write postgresql://, or use --profile local")
    destination = _needed(environment, DESTINATION, "s3://bucket")
    if not destination.startswith("s3://"):
        raise InputError(DESTINATION, f"{destination!r} is not a bucket", "write s3://bucket or s3://bucket/prefix")
    return database, Bucket(destination, environment)


def server_settings(
    profile: str,
    folder: Path,
    environment: Mapping[str, str],
    *,
    host: str = "127.0.0.1",
    port: int = 5000,
    workers: int | None = None,
) -> Settings:
    """All that a server is started with, checked as far as possible without starting it.

    Raises:
        InputError: Something is missing or cannot be.
    """
    if workers is not None and workers < 1:
        raise InputError("--workers", f"{workers} is not positive", "give at least 1")
    database, artifacts = stores(profile, folder, environment)
    if profile == "local":
        if host not in LOOPBACK:
            problem = f"profile local asks nobody for a password, so it does not listen on {host}"
            raise InputError("--host", problem, "use --profile team")
        return Settings(profile, database, artifacts, host, port, workers or 1)
    secrets = {name: secret(environment, name) for name in (ADMIN_PASSWORD, SECRET_KEY)}
    secrets |= database.environment
    secrets |= {key: text for key, text in environment.items() if key.startswith("AWS_") or key == ENDPOINT}
    hosts = tuple(each.strip() for each in environment.get(ALLOWED_HOSTS, "").split(",") if each.strip())
    if "*" in hosts:
        raise InputError(ALLOWED_HOSTS, "* lets every web page act with its reader's password", "name the hosts")
    if not hosts and host not in LOOPBACK:
        problem = f"is not set, and the server listens on {host}"
        raise InputError(ALLOWED_HOSTS, problem, "name the hosts by which it is addressed: mlflow.example.com")
    return Settings(profile, database, artifacts, host, port, workers or fitting_workers(), hosts, secrets)


def secret(environment: Mapping[str, str], name: str) -> str:
    """A password from the environment.

    Raises:
        InputError: It is missing or short.
    """
    value = _needed(environment, name)
    if len(value) < MINIMUM_PASSWORD:
        raise InputError(name, f"is shorter than {MINIMUM_PASSWORD} characters", "`secrets FILE` makes good ones")
    return value


def _needed(environment: Mapping[str, str], name: str, example: str = "") -> str:
    if value := environment.get(name):
        return value
    raise InputError(
        name, "is not set", f"set it in the environment ({example})" if example else "set it in the environment"
    )

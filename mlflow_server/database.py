"""Dumps, loads, inspects and upgrades the tracking server's database."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from hpo_core.base.errors import InputError, TrackingError
from hpo_core.base.extras import missing_extra
from hpo_core.tracking.connection import database_path, sqlite_uri
from mlflow_server.postgres import client_program

STORE = "MLFLOW_BACKEND_STORE_URI"

EXAMPLE = "postgresql://user@host/database"

PATH_COLUMNS = [
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
]
"""Where MLflow keeps addresses of artifacts."""


class Database(ABC):
    """MLflow's database.

    Attributes:
        uri: Its address, without a password.
        environment: What a program needs in its environment to open it.
    """

    kind: str
    uri: str
    environment: Mapping[str, str]

    @abstractmethod
    def dump(self, path: Path) -> None:
        """Write a consistent copy of all of it while others go on working with it."""

    @abstractmethod
    def load(self, path: Path) -> None:
        """Read a dump into the empty database: all of it, or nothing."""

    @abstractmethod
    def engine(self) -> sqlalchemy.Engine:
        """A connection to it."""

    @abstractmethod
    def in_use(self) -> bool:
        """Whether somebody else is connected, as far as that is known."""

    @property
    def empty(self) -> bool:
        return not self._tables()

    def has(self, table: str) -> bool:
        return table in self._tables()

    def _tables(self) -> list[str]:
        return list(self._ask(lambda connection: sqlalchemy.inspect(connection).get_table_names()))

    def query(self, statement: str, **values: Any) -> list[Any]:
        """The rows of a SELECT."""
        return list(self._ask(lambda connection: connection.execute(sqlalchemy.text(statement), values).all()))

    @property
    def revision(self) -> str:
        """The version of MLflow's schema; empty where there is none."""
        if not self.has("alembic_version"):
            return ""
        return str(self.query("SELECT version_num FROM alembic_version")[0][0])

    def check(self) -> None:
        """Check that it responds.

        Raises:
            InputError: It refuses user, password or name.
            TrackingError: It does not respond.
        """
        self._ask(lambda connection: connection.execute(sqlalchemy.text("SELECT 1")))

    def _ask(self, question: Any) -> Any:
        engine = self.engine()
        try:
            with engine.connect() as connection:
                return question(connection)
        except OperationalError as error:
            problem = str(error.orig).strip().splitlines()[0]
            if "authentication failed" in problem or "no password supplied" in problem or "does not exist" in problem:
                remedy = "correct the address, or the password in PGPASSWORD"
                raise InputError(STORE, f"{self.uri} refuses ({problem})", remedy) from None
            raise TrackingError(f"the database {self.uri} does not respond: {problem}") from None
        except SQLAlchemyError as error:
            raise TrackingError(f"the database {self.uri} refuses: {error}") from None
        finally:
            engine.dispose()


class Sqlite(Database):
    """A file."""

    kind = "sqlite"

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.uri, self.environment = sqlite_uri(self.path), {}

    def engine(self) -> sqlalchemy.Engine:
        if not self.path.exists():  # asking would create it
            return sqlalchemy.create_engine("sqlite://", poolclass=NullPool)
        return sqlalchemy.create_engine(self.uri, poolclass=NullPool)

    def dump(self, path: Path) -> None:
        if self.empty:
            raise InputError("folder", f"no database at {self.path}", "nothing to back up")
        with (
            contextlib.closing(sqlite3.connect(self.path)) as source,
            contextlib.closing(sqlite3.connect(path)) as copy,
        ):
            source.backup(copy)

    def load(self, path: Path) -> None:
        draft = self.path.with_name(f"{self.path.name}.restored")
        draft.write_bytes(path.read_bytes())
        draft.replace(self.path)

    def in_use(self) -> bool:
        if not self.path.exists():
            return False
        with contextlib.closing(sqlite3.connect(self.path, timeout=1, isolation_level=None)) as connection:
            try:
                # Leaving write-ahead logging needs the file alone; a server holds it open.
                return bool(connection.execute("PRAGMA journal_mode=DELETE").fetchone()[0] != "delete")
            except sqlite3.OperationalError:
                return True

    def relocate(self, old: str, new: str) -> None:
        """Replace the folder that artifacts' addresses begin with."""
        tables = set(self._tables())
        with contextlib.closing(sqlite3.connect(self.path)) as connection, connection:
            for table, column in PATH_COLUMNS:
                if table in tables:
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",  # noqa: S608
                        (new, len(old) + 1, len(old), old),
                    )


class Postgresql(Database):
    """A database of a PostgreSQL server. Its password reaches programs by ``PGPASSWORD``, never by a command line."""

    kind = "postgresql"

    def __init__(self, url: URL, password: str | None) -> None:
        self._url = url.set(drivername="postgresql+psycopg", password=password)
        shown = URL.create("postgresql", url.username, None, url.host, url.port, url.database, url.query)
        self.uri = shown.render_as_string(hide_password=False)
        self.environment = {} if password is None else {"PGPASSWORD": password}

    def engine(self) -> sqlalchemy.Engine:
        try:
            return sqlalchemy.create_engine(self._url, poolclass=NullPool, connect_args={"connect_timeout": 10})
        except ImportError as error:
            raise missing_extra(error, STORE) or error from None

    def offers(self, extension: str) -> bool:
        """Whether an extension is installed with the server."""
        return bool(self.query("SELECT 1 FROM pg_available_extensions WHERE name = :name", name=extension))

    @property
    def _version(self) -> int:
        return int(self.query("SHOW server_version_num")[0][0]) // 10_000

    def dump(self, path: Path) -> None:
        if self.empty:
            raise InputError(STORE, f"the database {self.uri} is empty", "nothing to back up")
        self._run(
            "pg_dump", "--format=custom", "--no-owner", "--no-privileges", "--file", str(path), "--dbname", self.uri
        )

    def load(self, path: Path) -> None:
        self._run(
            "pg_restore", "--single-transaction", "--exit-on-error", "--no-owner", "--dbname", self.uri, str(path)
        )

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(client_program(program, self._version)), *arguments]
        done = subprocess.run(
            command,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            raise TrackingError(f"{program} failed: {done.stderr.strip()}")

    def in_use(self) -> bool:
        others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        return bool(self.query(others)[0][0])


def newest_revision() -> str:
    """The version of the schema that the installed MLflow works with, read from its migration scripts.

    MLflow's server checks it only where all tables are there; where a newer schema has one more, it upgrades at once,
    without asking and without a backup.
    """
    package = find_spec("mlflow")  # found, not imported: that would take seconds
    assert package is not None and package.origin is not None
    scripts = Path(package.origin).parent.glob("store/db_migrations/versions/*.py")
    named: dict[str, set[str]] = {"revision": set(), "down_revision": set()}
    for script in scripts:
        for name, value in re.findall(r"^(revision|down_revision) = [\"'](\w+)[\"']", script.read_text(), re.MULTILINE):
            named[name].add(value)
    (newest,) = named["revision"] - named["down_revision"]
    return newest


def database_of(uri: str, environment: Mapping[str, str]) -> Database:
    """The database behind an address; its password is in the address or in ``PGPASSWORD``.

    Raises:
        InputError: It is neither sqlite nor PostgreSQL.
    """
    if (path := database_path(uri, STORE)) is not None:
        return Sqlite(path)
    try:
        url = sqlalchemy.make_url(uri)
    except (ArgumentError, ValueError):
        raise InputError(STORE, "is not an address of a database", f"write {EXAMPLE}") from None
    if (
        url.drivername not in ("postgresql", "postgres", "postgresql+psycopg", "postgresql+psycopg2")
        or not url.database
    ):
        problem = f"{url.drivername}://... is not a PostgreSQL database" if url.database else "names no database"
        raise InputError(STORE, problem, "write postgresql://user@host/database")
    if any("password" in key for key in url.query):
        raise InputError(STORE, "holds a password in its query", "set PGPASSWORD instead")
    password = url.password if isinstance(url.password, str) else environment.get("PGPASSWORD")
    return Postgresql(url, password)


def run_mlflow(database: Database, *arguments: str, **environment: str) -> str:
    """Run a command of mlflow on a database; returns why it failed, and nothing if it did not."""
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", *arguments],
        env=os.environ | dict(database.environment) | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return (done.stderr.strip().splitlines() or ["no reason given"])[-1] if done.returncode else ""

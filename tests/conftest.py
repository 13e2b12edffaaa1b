"""Real servers, started once a session and ended by their process id; and one random seed a run, printed."""

from __future__ import annotations

import atexit
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

# Before numpy is imported: threads that wait for each other by spinning take more of a machine than they give.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = "1"

import pytest
from hypothesis import settings

from hpo_core.tracking import connection as embedded
from mlflow_server.postgres import PostgresServer

T = TypeVar("T")

# Nothing here may reach out; set before anything imports mlflow or prefect.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["DO_NOT_TRACK"] = "1"
# A report costs a second a study; the tests of the report turn it on.
os.environ["HPO_REPORT"] = "off"
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "600"
# The processes that tests start would each compile TensorFlow anew, in five seconds of processor time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Thousands of small databases: in memory a commit does not wait for the disk. No test cuts the power, and what a killed
# process has written stays either way. To look at what a failed test left: TMPDIR=/tmp make test.
MEMORY = Path("/dev/shm")
if "TMPDIR" not in os.environ and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 4e9:
    tempfile.tempdir = os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="hpo-tests-", dir=MEMORY)
    os.chmod(tempfile.tempdir, 0o711)  # root starts PostgreSQL as another user, who must get to its folder
    atexit.register(shutil.rmtree, tempfile.tempdir, ignore_errors=True)
# A database for each of the processes that run tests side by side: two that create one at once can fail.
os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="hpo-prefect-")
atexit.register(shutil.rmtree, os.environ["PREFECT_HOME"], ignore_errors=True)
# A shell that starts this in the background has it ignore Ctrl-C, and whatever it starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

PATIENCE = 600.0
"""Seconds that a test waits for what has to happen. Never a measure: the machine may be many times overloaded."""

# Whatever fails by chance can be replayed. In the environment, so that processes which the tests start draw the same.
SEED = int(os.environ.setdefault("HPO_TEST_SEED", str(secrets.randbelow(2**32))))

# No deadline: the first call of a property imports and caches, and the machine may be busy.
settings.register_profile("hpo", deadline=None, max_examples=100)
settings.load_profile("hpo")


# Files that take longest. They come first, or some processor has nothing to do in the end while another works on one.
LONGEST = (
    "flow", "faults", "keras", "runners", "hypergradient", "ledger", "snapshot", "deploy", "checkpoints", "registry",
    "strategies", "attempts", "early_stop", "doctor", "requests",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {f"test_{name}": rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


def pytest_report_header() -> str:
    return f"seed: {SEED} (replay with HPO_TEST_SEED={SEED})"


@pytest.fixture
def seed() -> int:
    print(f"HPO_TEST_SEED={SEED}")  # pytest shows it with a failure, even when the header is off
    return SEED


@contextmanager
def in_the_background(work: Callable[[], object]) -> Iterator[None]:
    """Another thread that does something over and over."""
    ended = threading.Event()

    def go_on() -> None:
        while not ended.is_set():
            work()

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def wait_until(happened: Callable[[], T], otherwise: str | Callable[[], str] = "it did not happen") -> T:
    """Ask over and over until the answer is true, and answer it."""
    deadline = time.monotonic() + PATIENCE
    while not (found := happened()):
        assert time.monotonic() < deadline, otherwise if isinstance(otherwise, str) else otherwise()
        time.sleep(0.1)
    return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until_it_answers(url: str, process: subprocess.Popen[Any]) -> None:
    def answers() -> bool:
        assert process.poll() is None, f"the server ended with {process.returncode}"
        try:
            urllib.request.urlopen(url, timeout=30).close()
        except OSError:
            return False
        return True

    wait_until(answers, f"{url} does not respond")


class Server(ABC):
    """A real server on a port of its own, which a test may stop and start again."""

    def __init__(self, folder: Path, health: str) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.health = f"{self.uri}{health}"
        self.process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """What starts it."""

    def environment(self) -> dict[str, str]:
        return {}

    def start(self) -> None:
        with open(self.folder / "server.log", "ab") as output:
            self.process = subprocess.Popen(
                self.command(),
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=os.environ | self.environment(),
            )
        wait_until_it_answers(self.health, self.process)

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


class MlflowServer(Server):
    """``mlflow server`` over sqlite."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "/health")

    def command(self) -> list[str]:
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--backend-store-uri",
            f"sqlite:///{self.folder}/mlflow.db",
        ]
        command += ["--artifacts-destination", str(self.folder / "artifacts"), "--workers", "1"]
        return [*command, "--host", "127.0.0.1", "--port", str(self.port)]

    def start(self) -> None:
        embedded.create(self.folder / "mlflow.db")
        super().start()

    def environment(self) -> dict[str, str]:
        return {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


class PrefectServer(Server):
    """``prefect server`` over sqlite."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "/api/health")

    def command(self) -> list[str]:
        return [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]

    def environment(self) -> dict[str, str]:
        return {"PREFECT_HOME": str(self.folder), "PREFECT_API_URL": f"{self.uri}/api"}


class ModelServer(Server):
    """``mlflow models serve`` of one model, such as ``models:/wine@champion``."""

    def __init__(self, folder: Path, model: str) -> None:
        super().__init__(folder, "/ping")
        self.model = model

    def command(self) -> list[str]:
        command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local", "-m", self.model]
        return [*command, "--host", "127.0.0.1", "--port", str(self.port)]

    def environment(self) -> dict[str, str]:
        return {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}  # uvicorn is in it

    def predictions(self, rows: list[Any]) -> list[Any]:
        """What the served model says of rows."""
        body = json.dumps({"inputs": rows}).encode()
        request = urllib.request.Request(f"{self.uri}/invocations", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return list(json.loads(answer.read())["predictions"])


class Postgres(PostgresServer):
    """A real PostgreSQL in a folder and on a port of its own."""

    def __init__(self) -> None:
        super().__init__(Path(tempfile.mkdtemp(prefix="hpo-postgres-")), free_port(), "only-for-tests")
        self.uri = self.address("postgres").replace("@", f":{self.password}@")

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _tables_are_made_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """MLflow takes two seconds of processor time for the tables of a new database; here the others copy the first."""
    make, alone = embedded._make_tables, threading.Lock()
    first = tmp_path_factory.mktemp("tables") / "mlflow.db"

    def copy(draft: Path) -> None:
        with alone:
            if not first.exists():
                make(draft)
                shutil.copyfile(draft, first)
            else:
                shutil.copyfile(first, draft)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "_make_tables", copy)
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("mlflow_server"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A real Prefect server on a database of its own."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=int(PATIENCE)):
        yield

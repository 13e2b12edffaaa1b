"""All of a team's servers by one command: how they start, what is in their way, and a restore onto another machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from hpo_core.base.errors import InputError
from mlflow_server.__main__ import main
from mlflow_server.credentials import read_environment
from mlflow_server.postgres import PostgresServer
from mlflow_server.processes import Process, start_side_by_side
from mlflow_server.team import CLIENT_ENV, SECRETS, SERVER_ENV, Ports, Team
from tests.conftest import PATIENCE, free_port, wait_until
from tests.studies import ROOT

SERVERS = ("PostgreSQL", "rclone serve s3", "mlflow server", "Prefect's server", "Prefect's worker")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where root runs the tests, PostgreSQL runs as nobody, whom pytest's folders are closed to."""
    folder = Path(tempfile.mkdtemp(prefix="hpo-team-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def some_ports() -> Ports:
    return Ports(*(free_port() for _ in range(4)))


def options(folder: Path, ports: Ports) -> list[str]:
    return ["--folder", str(folder), *(f"--{name}-port={port}" for name, port in asdict(ports).items())]


@contextmanager
def started(folder: Path, ports: Ports, *more: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "mlflow_server", "team", *options(folder, ports), *more]
    with open(folder / "said", "w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, text=True, cwd=ROOT, start_new_session=True)
    try:
        yield process
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        process.wait()
        psutil.wait_procs(children, timeout=PATIENCE)  # which end with it


def says(folder: Path, words: str, process: subprocess.Popen[str]) -> str:
    """What it has said by the time that it says some words."""

    def said() -> bool:
        assert process.poll() is None, (folder / "said").read_text()
        return words in (folder / "said").read_text()

    wait_until(said, (folder / "said").read_text)
    return (folder / "said").read_text()


def as_client(folder: Path, *command: str) -> str:
    """A command in a shell that has read what the user was told to."""
    environment = os.environ | read_environment(folder / CLIENT_ENV) | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def status_as(folder: Path, user: str, password: str) -> int:
    import requests

    uri = read_environment(folder / CLIENT_ENV)["MLFLOW_TRACKING_URI"]
    url = f"{uri}/api/2.0/mlflow/experiments/search"
    return requests.post(url, json={"max_results": 1}, auth=(user, password), timeout=PATIENCE).status_code


@pytest.mark.slow
def test_all_servers_start_with_one_command_and_end_together(folder: Path) -> None:
    import requests

    ports = some_ports()
    for end, code in ((signal.SIGINT, 0), (signal.SIGKILL, -9)):
        with started(folder, ports) as process:
            said = says(folder, "look after it", process)
            assert all(f" s  {name} responds" in said for name in SERVERS)
            assert said.index("Prefect's server responds") < said.index("Prefect's worker responds")
            # The page asks here for the address of its API, on whatever port that is.
            told = requests.get(
                f"http://127.0.0.1:{ports.prefect}/ui-settings",
                auth=("hpo", read_environment(folder / SECRETS)["PREFECT_PASSWORD"]),
                timeout=PATIENCE,
            ).json()
            assert told["api_url"] == f"http://127.0.0.1:{ports.prefect}/api"
            with pytest.raises(InputError, match="run already"), Team(folder, some_ports()).claimed():
                pass
            children = psutil.Process(process.pid).children(recursive=True)
            assert len(children) > 5
            process.send_signal(end)
            assert process.wait(PATIENCE) == code
            assert not psutil.wait_procs(children, timeout=PATIENCE)[1]  # also where it had no time to end them


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["starting the servers", "PostgreSQL responds", "starting the rest"])
def test_a_start_that_is_interrupted_leaves_nothing_behind_and_can_be_repeated(moment: str, folder: Path) -> None:
    ports = some_ports()
    for end, codes in ((signal.SIGINT, {130}), (signal.SIGTERM, {143}), (signal.SIGKILL, {-9})):
        with started(folder, ports) as process:
            says(folder, moment, process)
            children = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(end)
            assert process.wait(PATIENCE) in codes
            assert not psutil.wait_procs(children, timeout=PATIENCE)[1]
            assert "Traceback" not in (folder / "said").read_text()
    with started(folder, ports, "--stores-only") as process:
        says(folder, "look after it", process)


STUDY = {
    "name": "moved",
    "objective": "tests.objectives:facts",
    "metric": "loss",
    "direction": "minimize",
    "space": {"x": {"type": "float", "low": 0, "high": 1}},
    "stop": {"trials": 2},
}


@pytest.mark.slow
def test_a_backup_is_restored_on_another_machine_where_a_worker_goes_on(folder: Path, capfd: Any) -> None:
    old, new = folder / "old", folder / "new"
    for place in (old, new):
        place.mkdir()
        (place / "study.yaml").write_text(yaml.safe_dump(STUDY))
    archive = str(folder / "all.tar")
    with started(old, some_ports(), "--without-prefect") as process:
        says(old, "look after it", process)
        environment = read_environment(old / CLIENT_ENV)
        del environment["PREFECT_API_URL"], environment["PREFECT_API_AUTH_STRING"]
        (old / CLIENT_ENV).write_text("".join(f"{name}={value}\n" for name, value in environment.items()))
        as_client(old, "-m", "hpo_flows.cli", "tune", "study.yaml")
        create = (
            "import mlflow.server as s, sys; s.get_app_client('basic-auth', sys.argv[1]).create_user(*sys.argv[2:])"
        )
        as_client(old, "-c", create, environment["MLFLOW_TRACKING_URI"], "ada", "a-password-of-ada")
        assert _on_server(old, "backup", archive) == 0
        old_password = environment["MLFLOW_TRACKING_PASSWORD"]
    ports = some_ports()
    with started(new, ports, "--stores-only") as process:
        says(new, "look after it", process)
        assert _on_server(new, "restore", archive) == 0
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)
    assert "the password of admin is now that of MLFLOW_AUTH_ADMIN_PASSWORD" in capfd.readouterr().out
    with started(new, ports) as process:
        assert "warning" not in says(new, "look after it", process)
        password = read_environment(new / CLIENT_ENV)["MLFLOW_TRACKING_PASSWORD"]
        logins = (("admin", password), ("admin", old_password), ("ada", "a-password-of-ada"), ("ada", password))
        assert [status_as(new, *login) for login in logins] == [200, 401, 200, 401]
        as_client(new, "-m", "hpo_flows.cli", "deploy", "study.yaml", "--every", "5", "--set", "stop.trials=3")
        wait_until(lambda: "3 of 3 trials done" in as_client(new, "-m", "hpo_flows.cli", "status", "moved"))
        # Whoever changes the secret alone is told, and how to have the user follow.
        secrets = read_environment(new / SECRETS) | {"MLFLOW_AUTH_ADMIN_PASSWORD": "another-password"}
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)
    (new / SECRETS).write_text("".join(f"{name}={value}\n" for name, value in secrets.items()))
    with started(new, ports, "--without-prefect") as process:
        assert "warning: MLFLOW_AUTH_ADMIN_PASSWORD is not the password" in says(new, "look after it", process)
        assert _on_server(new, "reset-admin", profile=()) == 0
        assert status_as(new, "admin", "another-password") == 200


def _on_server(folder: Path, *command: str, profile: Sequence[str] = ("--profile", "team")) -> int:
    """A command that looks after the servers of a folder; here, so that the environment stays as it is."""
    before = dict(os.environ)
    try:
        return main([*command, *profile, "--env", str(folder / SERVER_ENV)])
    finally:
        os.environ.clear()
        os.environ.update(before)


# -- what is in their way ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlflow", "prefect", "postgres", "s3"])
def test_a_port_that_is_taken_is_told_before_anything_starts(name: str, folder: Path, capfd: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = {"mlflow": free_port(), "prefect": free_port(), "postgres": free_port(), "s3": free_port()}
        ports[name] = taken.getsockname()[1]
        assert main(["team", *options(folder, Ports(**ports))]) == 2
    said = capfd.readouterr()
    assert f"--{name}-port: 127.0.0.1:{ports[name]} is taken" in said.err and said.err.count("\n") == 1
    assert not said.out and {path.name for path in folder.iterdir()} == {"lock", SECRETS}


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"s3": 70000}, "--s3-port: 70000 is not a port"), ({"s3": 1, "mlflow": 1}, "1 is the port of s3, too")],
)
def test_ports_that_cannot_be_are_told(changes: dict[str, int], words: str, folder: Path, capfd: Any) -> None:
    ports = {"mlflow": free_port(), "prefect": free_port(), "postgres": free_port(), "s3": free_port()} | changes
    assert main(["team", *options(folder, Ports(**ports))]) == 2
    assert words in capfd.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's PostgreSQL runs as another user")
def test_root_is_told_of_a_folder_that_nobody_may_enter(tmp_path: Path, capfd: Any) -> None:
    tmp_path.chmod(0o700)
    assert main(["team", *options(tmp_path / "team", some_ports())]) == 2
    said = capfd.readouterr().err
    assert "is closed to the user nobody, as whom root starts PostgreSQL; choose another folder" in said


@pytest.mark.slow
def test_a_database_whose_making_was_killed_is_made_anew(folder: Path) -> None:
    (folder / "draft").mkdir()
    (folder / "draft/PG_VERSION").write_text("15\n")  # the first that initdb writes
    server = PostgresServer(folder, free_port(), "a-password")
    try:
        server.start()
        server.create_databases(["some", "some"])
    finally:
        server.stop()
    assert {path.name for path in folder.iterdir() if path.is_dir() and "pgserver" not in path.name} == {"data"}


def test_servers_start_side_by_side_but_after_what_they_need() -> None:
    """Each writes when it begins; the second answers at once, the first later, and the third needs the first."""
    order: list[str] = []
    begun: dict[str, float] = {}

    def server(name: str, seconds: float, after: Sequence[Process] = ()) -> Process:
        def answers(_: Process) -> bool:
            return time.monotonic() - begun.setdefault(name, time.monotonic()) > seconds

        return Process(name, [sys.executable, "-c", "import time; time.sleep(999)"], answers, after=after)

    first, second = server("first", 1.0), server("second", 0.0)
    third = server("third", 0.0, after=[first])
    try:
        start_side_by_side([third, first, second], lambda process: order.append(process.name))
        assert order == ["second", "first", "third"] and begun["second"] < begun["third"]
    finally:
        for process in (first, second, third):
            process.stop()

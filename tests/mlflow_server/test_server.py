"""The tracking server of both profiles: real processes, PostgreSQL, an S3 server, basic auth; and a round trip."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from sqlalchemy import text

from hpo_core.base.errors import InputError, TrackingError
from hpo_core.ledger.store import FINISHED, Metric
from hpo_core.ledger.tags import CHECKPOINT, CHECKPOINT_NAME, SNAPSHOT_FOLDER
from hpo_core.study.file import study_from
from hpo_core.tracking.connection import connect
from hpo_flows.api import open_ledger, run
from hpo_flows.objectives.reference import Objective
from hpo_flows.results import StudyResult
from mlflow_server import sizing
from mlflow_server.__main__ import main
from mlflow_server.artifacts import Bucket, Folder
from mlflow_server.backup import back_up, restore, verify
from mlflow_server.credentials import read_environment
from mlflow_server.database import Sqlite, database_of, newest_revision
from mlflow_server.garbage import seconds_of
from mlflow_server.processes import Process, http_answers
from mlflow_server.settings import server_settings
from mlflow_server.sizing import fitting_workers
from mlflow_server.team import Ports, Team
from tests.conftest import PATIENCE, free_port

ROOT = Path(__file__).parents[2]
HOST = "mlflow.example.com"


# -- the team's servers -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def team() -> Iterator[Team]:
    """PostgreSQL and the S3 server; tests start MLflow's server over them."""
    folder = Path(tempfile.mkdtemp(prefix="hpo-team-"))
    folder.chmod(0o755)  # where root runs the tests, PostgreSQL runs as nobody
    team = Team(folder, Ports(*(free_port() for _ in range(4))))
    with team.stores():
        yield team
    shutil.rmtree(folder)


@pytest.fixture
def at_team(team: Team, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Team:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", HOST)
    for name, value in (team.server_environment | team.client_environment).items():
        if not name.startswith("PREFECT_"):
            monkeypatch.setenv(name, value)
    return team


def tune(trials: int) -> StudyResult:
    spec = study_from(
        {
            "name": "round-trip",
            "objective": "tests.objectives:facts",
            "metric": "loss",
            "direction": "minimize",
            "space": {"x": {"type": "float", "low": 0, "high": 1}},
            "stop": {"trials": trials},
            "parallel": 2,
        }
    )
    return run(open_ledger(spec), Objective(spec.objective, (str(ROOT),)))


def request(team: Team, *, password: str | None = None, **headers: str) -> int:
    """The status with which the server responds to a search."""
    url = f"{team.mlflow_uri}/api/2.0/mlflow/experiments/search"
    asked = urllib.request.Request(url, b'{"max_results": 1}', {"Content-Type": "application/json", **headers})
    if password is not None:
        import base64

        asked.add_header("Authorization", "Basic " + base64.b64encode(f"admin:{password}".encode()).decode())
    try:
        with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def destroy(team: Team) -> None:
    """All runs and all artifacts are lost."""
    environment = team.server_environment
    database = database_of(environment["MLFLOW_BACKEND_STORE_URI"], environment)
    engine = database.engine()
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    bucket = Bucket(environment["MLFLOW_ARTIFACTS_DESTINATION"], environment)
    bucket.delete([each.key for each in bucket.stored()])
    assert database.empty and bucket.empty


def contents(team: Team) -> dict[str, bytes]:
    bucket = Bucket(team.server_environment["MLFLOW_ARTIFACTS_DESTINATION"], team.server_environment)
    found: dict[str, bytes] = {}
    for key, size in bucket.stored():
        with bucket.read(key) as (length, content):
            found[key] = content.read()
        assert length == size == len(found[key])
    return found


def check_doors(team: Team) -> None:
    """Who may come in, and what others on the machine can see."""
    password = team.secrets["MLFLOW_AUTH_ADMIN_PASSWORD"]
    assert request(team) == 401
    assert request(team, password="wrong") == 401
    assert request(team, password=password) == 200
    assert request(team, password=password, Host=HOST, Origin=f"https://{HOST}") == 200
    assert request(team, password=password, Host="evil.example") == 403
    assert request(team, password=password, Origin="https://evil.example") == 403
    lines = [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
    logs = [path.read_text() for path in team.folder.rglob("*.log")]
    assert any("mlflow server" in line for line in lines) and any("rclone" in line for line in lines) and len(logs) == 3
    for name, secret in team.secrets.items():
        assert not [each for each in [*lines, *logs] if secret in each], name


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_study_survives_the_loss_of_all_servers(at_team: Team, capfd: pytest.CaptureFixture[str]) -> None:
    with at_team.servers(prefect=False):
        check_doors(at_team)
        before = tune(4)
        # While the server works, and with nothing lost by it.
        assert main(["backup", "all.tar", "--profile", "team"]) == 0
        assert main(["restore", "all.tar", "--profile", "team"]) == 2
        assert main(["upgrade", "late.tar", "--profile", "team"]) == 2
        said = capfd.readouterr().err
        assert "is not empty" in said and "is in use" in said
        stored = contents(at_team)
        assert len([key for key in stored if key.endswith("note.txt")]) == 4
        lost = tune(6)
        assert len(lost.history) == 6
    destroy(at_team)
    assert main(["restore", "all.tar", "--profile", "team"]) == 0
    assert contents(at_team) == stored
    with at_team.servers(prefect=False, workers=1):  # the start of a second costs seconds
        assert open_ledger(before.spec).load().digest == before.history.digest
        after = tune(8)
        collect_garbage(at_team, after, capfd)
    assert [trial.number for trial in after.history] == list(range(8))
    assert [(t.run_id, t.config, t.loss, t.metrics) for t in after.history.trials[:4]] == [
        (t.run_id, t.config, t.loss, t.metrics) for t in before.history.trials
    ]
    assert len(after.history.complete) == 8
    assert not {"mlflow server"} & {line for process in psutil.Process().children() for line in process.cmdline()}


def collect_garbage(team: Team, result: StudyResult, capfd: pytest.CaptureFixture[str]) -> None:
    """Checkpoints of an ended study go, and deleted runs; what else there is stays."""
    store = connect()
    kept, deleted = result.history.trials[0].run_id, result.history.trials[7].run_id
    checkpoint = Path(CHECKPOINT_NAME)
    checkpoint.write_text("w" * 100)
    for run_id in (kept, deleted):
        store.upload(run_id, checkpoint, SNAPSHOT_FOLDER)
    store.delete_run(deleted)
    before = contents(team)
    gone = {key for key in before if deleted in key or (kept in key and key.endswith(CHECKPOINT))}
    assert len(gone) == 3  # a checkpoint each, and the note of the deleted run

    def gc(*more: str) -> str:
        assert main(["gc", "--profile", "team", *more]) == 0
        return capfd.readouterr().out

    assert "would remove: 0 checkpoint files" in gc("--dry-run")  # nothing ended 30 days ago
    assert "would remove: 1 checkpoint files (0.0 MB); deleted in MLflow: 1 runs" in gc("--older-than=0s", "--dry-run")
    assert contents(team) == before
    assert "removed: 1 checkpoint files" in gc("--older-than", "0s")
    assert contents(team) == {key: content for key, content in before.items() if key not in gone}
    assert "would remove: 0 checkpoint files (0.0 MB); deleted in MLflow: 0 runs" in gc("--older-than=0s", "--dry-run")
    assert [trial.number for trial in open_ledger(result.spec).load()] == list(range(7))


def test_what_the_stores_refuse_is_told(at_team: Team, capfd: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("PGPASSWORD", "not the password")
    assert main(["up", "--profile", "team"]) == 2
    monkeypatch.setenv("PGPASSWORD", at_team.secrets["POSTGRES_PASSWORD"])
    monkeypatch.setenv("MLFLOW_ARTIFACTS_DESTINATION", "s3://no-such-bucket")
    assert main(["up", "--profile", "team", "--port", str(free_port())]) == 2
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not the key either")
    assert main(["up", "--profile", "team", "--port", str(free_port())]) == 2
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    assert main(["up", "--profile", "team", "--port", str(free_port())]) == 3
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "postgresql://hpo@127.0.0.1:9/mlflow")
    assert main(["up", "--profile", "team", "--port", str(free_port())]) == 3
    said = capfd.readouterr().err
    for words in ("PGPASSWORD", "no bucket 'no-such-bucket'", "AWS_SECRET_ACCESS_KEY", "S3 store", "does not respond"):
        assert words in said, words
    assert "Traceback" not in said and "not the" not in said


# -- one machine ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_local_server_answers_and_ends_in_order(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "mlflow_server", "up", "--folder", str(tmp_path), "--port", str(port)]
    with open(tmp_path / "log", "wb") as log:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT)
    assert server.stdout is not None
    with server.stdout:
        assert f"responds at http://127.0.0.1:{port} (local, 1 worker)" in server.stdout.readline()
        children = psutil.Process(server.pid).children(recursive=True)
        store = connect(f"http://127.0.0.1:{port}", patience=30)
        experiment = store.experiment("e", create=True)
        assert experiment is not None
        run_ = store.create_run(experiment, "r", {})
        store.upload(run_.id, ROOT / "LICENSE", "a")
        assert list((tmp_path / "mlartifacts").rglob("LICENSE"))
        assert main(["up", "--folder", str(tmp_path), "--port", str(port)]) == 2  # the port is taken
        server.terminate()
        assert server.wait(PATIENCE) == 0
    assert not psutil.wait_procs(children, timeout=PATIENCE)[1]
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))  # nobody listens there any longer


def test_a_backup_of_a_working_store_is_consistent_and_moves_to_another_folder(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    store = connect(f"sqlite:///{old}/mlflow.db")
    experiment = store.experiment("e", create=True)
    assert experiment is not None
    note, ended = tmp_path / "note", threading.Event()
    note.write_text("content")

    def write() -> None:
        while not ended.is_set():
            run_ = store.create_run(experiment, "r", {})
            store.upload(run_.id, note, "")
            store.log(run_.id, [Metric("stored", 1.0, 0)], {}, {})
            store.set_status(run_.id, FINISHED)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while len(store.search([experiment], {})) < 5:
            ended.wait(0.05)
        manifest = back_up(Sqlite(old / "mlflow.db"), Folder(old / "mlartifacts"), tmp_path / "a.tar")
    finally:
        ended.set()
        writer.join()
    assert verify(tmp_path / "a.tar") == manifest
    shutil.rmtree(old)
    restore(tmp_path / "a.tar", Sqlite(new / "mlflow.db"), Folder(new / "mlartifacts"))
    moved = connect(f"sqlite:///{new}/mlflow.db")
    runs = moved.search([experiment], {})
    assert len(runs) >= 5
    for found in runs:
        if "stored" in found.metrics:
            assert moved.download(found.id, "note") == b"content"
    with pytest.raises(InputError, match="not empty"):
        restore(tmp_path / "a.tar", Sqlite(new / "mlflow.db"), Folder(new / "mlartifacts"))


def test_an_old_database_is_backed_up_and_upgraded(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    database, newest = Sqlite(tmp_path / "mlflow.db"), newest_revision()
    older = _revision_before(newest)
    _make_at(tmp_path, older)
    assert main(["up", "--folder", str(tmp_path), "--port", str(free_port())]) == 2
    assert "run `upgrade`" in capfd.readouterr().err
    assert database.revision == older  # MLflow itself would have upgraded it by now, without a backup
    assert main(["upgrade", str(tmp_path / "b.tar"), "--folder", str(tmp_path)]) == 0
    assert f"schema {older} -> {newest}" in capfd.readouterr().out
    assert verify(tmp_path / "b.tar").revision == older
    assert database.revision == newest
    assert connect(database.uri).experiments() == ["0"]


def _revision_before(newest: str) -> str:
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config

    down = ScriptDirectory.from_config(_get_alembic_config("sqlite://")).get_revision(newest).down_revision
    assert isinstance(down, str)
    return down


def _make_at(folder: Path, revision: str) -> None:
    """A database as an older MLflow made it."""
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base
    from sqlalchemy import create_engine

    uri = f"sqlite:///{folder}/mlflow.db"
    engine = create_engine(uri)
    Base.metadata.create_all(engine)
    config = _get_alembic_config(uri)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


# -- wrong input ------------------------------------------------------------------------------------------------

TEAM = {
    "MLFLOW_BACKEND_STORE_URI": "postgresql://hpo:secret-of-mine@127.0.0.1:9/mlflow",
    "MLFLOW_ARTIFACTS_DESTINATION": "s3://bucket/prefix",
    "MLFLOW_AUTH_ADMIN_PASSWORD": "secret-of-mine",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "secret-of-mine",
}


def test_passwords_stay_out_of_command_lines_and_messages() -> None:
    from mlflow_server.server import server_command

    settings = server_settings("team", Path(), TEAM)
    assert settings.database.uri == "postgresql://hpo@127.0.0.1:9/mlflow"
    assert settings.secrets["PGPASSWORD"] == "secret-of-mine"
    assert "secret-of-mine" not in f"{server_command(settings)} {settings}"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({name: ""}, f"{name}: is not set") for name in TEAM
    ]
    + [
        ({"MLFLOW_BACKEND_STORE_URI": "sqlite:///x.db"}, "is not PostgreSQL"),
        ({"MLFLOW_BACKEND_STORE_URI": "mysql://u:secret-of-mine@h/d"}, "is not a PostgreSQL database"),
        ({"MLFLOW_BACKEND_STORE_URI": "postgresql://u:secret-of-mine@h:port/d"}, "not an address"),
        ({"MLFLOW_BACKEND_STORE_URI": "postgresql://h/d?password=secret-of-mine"}, "PGPASSWORD"),
        ({"MLFLOW_BACKEND_STORE_URI": "postgresql://u:secret-of-mine@h"}, "names no database"),
        ({"MLFLOW_ARTIFACTS_DESTINATION": "/a/folder"}, "is not a bucket"),
        ({"MLFLOW_ARTIFACTS_DESTINATION": "s3://"}, "names no bucket"),
        ({"MLFLOW_AUTH_ADMIN_PASSWORD": "short"}, "is shorter than 12"),
        ({"MLFLOW_SERVER_ALLOWED_HOSTS": "a.example,*"}, "name the hosts"),
    ],
)  # fmt: skip
def test_a_team_server_with_wrong_settings_does_not_start(
    changes: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (TEAM | changes).items():
        monkeypatch.setenv(name, value)
    assert main(["up", "--profile", "team"]) == 2
    said = capsys.readouterr().err
    assert words in said and "secret-of-mine" not in said


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("up --host 0.0.0.0", "asks nobody for a password"),
        ("up --port 0", "is not a port"),
        ("up --workers 0", "is not positive"),
        ("backup", "nothing to back up"),
        ("backup no/such/folder.tar", "there is no folder"),
        ("backup --env none.env", "cannot be read"),
        ("backup --env wrong.env", "line 2 of wrong.env is not NAME=value"),
        ("restore none.tar", "cannot be read"),
        ("restore wrong.env", "cannot be read"),
        ("gc --older-than soon", "is not an age"),
        ("gc", "no database at"),
        ("secrets wrong.env", "exists"),
    ],
)
def test_wrong_input_is_one_clear_line(
    command: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wrong.env").write_text("A=1\nnonsense\n")
    assert main(command.split()) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert not Path("mlflow.db").exists()


def test_a_team_server_that_others_reach_names_its_hosts() -> None:
    with pytest.raises(InputError, match="MLFLOW_SERVER_ALLOWED_HOSTS"):
        server_settings("team", Path(), TEAM, host="0.0.0.0")
    with pytest.raises(InputError, match="MLFLOW_SERVER_ALLOWED_HOSTS"):
        server_settings("team", Path(), TEAM, host="10.1.2.3")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    import sqlite3

    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        connection.execute("CREATE TABLE t (x)")
    (tmp_path / "mlartifacts/a").mkdir(parents=True)
    (tmp_path / "mlartifacts/a/b").write_bytes(b"precious" * 1000)
    path = tmp_path / "a.tar"
    back_up(Sqlite(tmp_path / "mlflow.db"), Folder(tmp_path / "mlartifacts"), path)
    assert path.stat().st_mode & 0o777 == 0o600
    return path


def _flip(archive: Path, where: bytes) -> None:
    content = bytearray(archive.read_bytes())
    content[content.index(where)] ^= 1
    archive.write_bytes(content)


def _add_member(archive: Path, name: str) -> None:
    with tarfile.open(archive, "a") as tar:
        tar.add(__file__, name)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda archive: _flip(archive, b"precious"), "is damaged: artifacts/a/b"),
        (lambda archive: _flip(archive, b"CREATE TABLE t"), "is damaged: database.dump"),
        (lambda archive: os.truncate(archive, archive.stat().st_size // 2), "archive"),
        (lambda archive: os.truncate(archive, 12_000), "archive"),
        (lambda archive: _add_member(archive, "artifacts/../../../x"), "is damaged"),
    ],
)
def test_a_damaged_archive_restores_nothing(archive: Path, damage: Any, words: str, tmp_path: Path) -> None:
    damage(archive)
    new = tmp_path / "new"
    with pytest.raises(InputError, match=re.escape(words)):
        restore(archive, Sqlite(new / "mlflow.db"), Folder(new / "mlartifacts"))
    assert not new.exists()


def test_an_archive_cannot_lead_out_of_its_folder(archive: Path, tmp_path: Path) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "x", filter="data")
    manifest = json.loads((tmp_path / "x/manifest.json").read_text())
    manifest["digests"]["artifacts/../../evil"] = manifest["digests"].pop("artifacts/a/b")
    (tmp_path / "x/manifest.json").write_text(json.dumps(manifest))
    with tarfile.open(archive, "w") as tar:
        for name, path in (("database.dump",) * 2, ("artifacts/../../evil", "artifacts/a/b"), ("manifest.json",) * 2):
            tar.add(tmp_path / "x" / path, name)
    with pytest.raises(InputError, match="not the path of an artifact"):
        restore(archive, Sqlite(tmp_path / "new/mlflow.db"), Folder(tmp_path / "new/mlartifacts"))


def test_a_restore_that_fails_leaves_the_places_empty(archive: Path, tmp_path: Path) -> None:
    class Full(Sqlite):
        def load(self, path: Path) -> None:
            raise TrackingError("the disk is full")

    folder = Folder(tmp_path / "new/mlartifacts")
    with pytest.raises(TrackingError):
        restore(archive, Full(tmp_path / "new/mlflow.db"), folder)
    assert folder.empty
    restore(archive, Sqlite(tmp_path / "new/mlflow.db"), folder)


def test_backups_overwrite_nothing_and_leave_nothing_half_done(archive: Path, tmp_path: Path) -> None:
    content = archive.read_bytes()
    with pytest.raises(InputError, match="exists"):
        back_up(Sqlite(tmp_path / "mlflow.db"), Folder(tmp_path / "mlartifacts"), archive)
    assert archive.read_bytes() == content
    with pytest.raises(InputError, match="nothing to back up"):
        back_up(Sqlite(tmp_path / "none.db"), Folder(tmp_path / "mlartifacts"), tmp_path / "b.tar")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "mlartifacts", "mlflow.db"]


# -- parts ------------------------------------------------------------------------------------------------------


def test_workers_are_sized_to_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def workers(processors: float, memory: int) -> int:
        monkeypatch.setattr(sizing, "_processors", lambda: processors)
        monkeypatch.setattr(sizing, "_memory", lambda: memory)
        return fitting_workers()

    assert [workers(n, 2**40) for n in (0.5, 1, 2, 3.9, 64)] == [1, 1, 2, 3, 4]
    assert workers(8, 2**30) == 2
    monkeypatch.setattr(sizing, "find_spec", lambda name: None)  # no uvloop: many are slower than one
    assert workers(64, 2**40) == 1


def test_secrets_are_new_long_and_private(tmp_path: Path) -> None:
    files = [tmp_path / "a.env", tmp_path / "b.env"]
    assert [main(["secrets", str(path)]) for path in files] == [0, 0]
    first, second = map(read_environment, files)
    assert not set(first.values()) & set(second.values())
    assert min(map(len, first.values())) == 48 and files[0].stat().st_mode & 0o777 == 0o600


def test_a_server_that_ends_says_why_and_a_stopped_one_leaves_nothing() -> None:
    url = http_answers(f"http://127.0.0.1:{free_port()}")
    dies = Process("It", [sys.executable, "-c", "print('no such disk'); raise SystemExit(5)"], url)
    with pytest.raises(TrackingError, match=r"(?s)It ended with code 5.*no such disk"):
        dies.start()
    script = "import subprocess, sys, time; subprocess.Popen(['sleep', '99']); print('up', flush=True); time.sleep(99)"
    works = Process("It", [sys.executable, "-c", script], lambda process: "up" in process.tail)
    others = psutil.Process().children(recursive=True)
    works.start()
    started = set(psutil.Process().children(recursive=True)) - set(others)
    works.stop()
    assert len(started) == 2 and not psutil.wait_procs(started, timeout=PATIENCE)[1]


def test_ages() -> None:
    assert [seconds_of(age) for age in ("0s", "90m", "1.5h", "30d")] == [0, 5400, 5400, 2_592_000]


# -- compose.yaml -----------------------------------------------------------------------------------------------

COMPOSE = (ROOT / "compose.yaml").read_text()


def test_compose_has_no_default_password_and_everything_pinned(tmp_path: Path) -> None:
    stack = yaml.safe_load(COMPOSE)
    services = stack["services"]
    assert services.keys() == {"postgres", "s3", "mlflow", "prefect", "worker", "proxy"}
    # Every variable has to be set: an empty one would be a default.
    variables = re.findall(r"\$\{(\w+)([^}]*)\}", COMPOSE)
    assert variables and {rest for _, rest in variables} == {":?"}
    main(["secrets", str(tmp_path / "env")])
    assert {name for name, _ in variables} == read_environment(tmp_path / "env").keys() | {
        "MLFLOW_HOST",
        "PREFECT_HOST",
    }
    for name, service in services.items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["restart"] == "unless-stopped"
        assert "build" in service or re.fullmatch(r"[\w/]+:\d+\.\d+(\.\d+)?(-\w+)?", service["image"]), name
        for needed, how in service.get("depends_on", {}).items():
            assert needed in services and how == {"condition": "service_healthy"}
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in stack["volumes"] or (ROOT / source).is_file(), source
        if name != "proxy":  # all others are reached through it
            assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", ()))
    secret = re.compile("PASSWORD|SECRET|KEY|AUTH_STRING")
    for name, service in services.items():
        for key, value in service["environment"].items():
            assert not secret.search(key) or "${" in value, (name, key)
        assert "${" not in str([service.get("command"), service.get("entrypoint")])  # ps shows command lines


def test_compose_starts_the_server_as_it_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command and the variables of the container are those that the program takes."""
    from mlflow_server.__main__ import parser

    service = yaml.safe_load(COMPOSE)["services"]["mlflow"]
    given = parser().parse_args(service["command"])
    environment = {
        key: re.sub(r"\$\{\w+:\?\}", "a-long-password", text) for key, text in service["environment"].items()
    }
    settings = server_settings(given.profile, given.folder, environment, host=given.host, port=given.port)
    assert (settings.host, settings.port, settings.allowed_hosts[1]) == ("0.0.0.0", 5000, "mlflow:5000")
    with tempfile.TemporaryDirectory() as folder:  # the same names as without containers
        names = Team(Path(folder), Ports()).server_environment.keys()
    assert environment.keys() - {"MLFLOW_SERVER_ALLOWED_HOSTS"} == names

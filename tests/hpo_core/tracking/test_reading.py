"""Stores that read without mlflow, held against MLflow's client: what they ask, what they answer, how they fail."""

from __future__ import annotations

import datetime
import ipaddress
import json
import math
import re
import sqlite3
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from mlflow.store.db.utils import _get_latest_schema_revision
from mlflow.utils.search_utils import SearchUtils

from hpo_core.base.errors import InputError, TrackingError
from hpo_core.ledger.store import FAILED, FINISHED, Metric, Run, Store
from hpo_core.tracking import connection, reading
from hpo_core.tracking.connection import connect, connect_to_read
from hpo_core.tracking.mlflow_store import MlflowStore
from hpo_core.tracking.reading import ReadingStore
from hpo_core.tracking.rest_store import RestStore
from hpo_core.tracking.searches import page_token
from hpo_core.tracking.sqlite_rows import SCHEMA
from hpo_core.tracking.sqlite_store import SqliteStore
from tests.conftest import MlflowServer, free_port


def alone(store: Store) -> ReadingStore:
    """A store that reads, without MLflow's client to fall back on."""
    assert isinstance(store, ReadingStore)

    def refuse(known: bool) -> MlflowStore:
        raise AssertionError("MLflow's client was asked")

    store._connect = refuse
    return store


@pytest.fixture(params=["file", "server"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return connection.sqlite_uri(tmp_path / "what? #1 50%20" / "mlflow.db")
    server: MlflowServer = request.getfixturevalue("mlflow_server")
    return server.uri


# -- answers ----------------------------------------------------------------------------------------------------


def fill(store: Store, name: str, folder: Path) -> tuple[str, list[str]]:
    """An experiment of runs that differ in all that a run can."""
    experiment = store.experiment(name, create=True)
    assert experiment is not None
    runs = [store.create_run(experiment, f"run {i} ü\n'\"", {"kind": "a`b ü", "n": str(i % 2)}).id for i in range(6)]
    values = [0.1 + 0.2, -0.0, 5e-324, 1e308, math.nan, math.inf, -math.inf, 2**53 + 1.0]
    store.log(runs[0], [Metric(f"m/{i}", value, 1, i) for i, value in enumerate(values)], {}, {})
    store.log(runs[1], [], {"empty": "", "long": "x" * 5_000, "text": "ü\n\t'\"\\ \u2028 \U0001f600"}, {"note": ""})
    store.log(runs[1], [Metric("loss", value, 1, step) for step, value in enumerate([3.0, 1.0, 2.0])], {}, {})
    store.set_status(runs[1], FINISHED)
    store.set_status(runs[2], FAILED)
    for run in runs[2:4]:
        store.delete_run(run)
    file = folder / "a file.bin"
    file.write_bytes(bytes(range(256)))
    store.upload(runs[4], file, "deep/er")
    return experiment, runs


def comparable(answer: Any) -> list[str]:
    """What an answer says: the order of tags says nothing, and NaN equals itself."""
    return [
        repr({key: sorted(value.items()) if isinstance(value, dict) else value for key, value in vars(each).items()})
        if isinstance(each, Run)
        else repr(each)
        for each in (answer if isinstance(answer, list) else [answer])
    ]


def test_they_answer_what_mlflows_client_answers(uri: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    client, name = connect(uri), f"{request.node.name} ü"
    experiment, runs = fill(client, name, tmp_path)
    store = alone(connect_to_read(uri))
    questions: list[Callable[[Any], Any]] = [
        lambda it: it.experiment(name, create=False),
        lambda it: it.experiments(),
        *(lambda it, run=run: it.get(run) for run in runs),  # type: ignore[misc]
        lambda it: it.search([experiment], {}),
        lambda it: it.search([experiment], {"kind": "a`b ü", "n": "1"}),
        lambda it: it.search([experiment, "0"], {"n": "0"}, client.get(runs[4]).start),
        lambda it: it.search([experiment], {}, ids=[*runs, "absent"] * 30),
        lambda it: it.search([experiment], {}, trash=True),
        lambda it: it.search(["0"], {"n": "7"}),
        *(lambda it, n=n: it.has_exactly(n, [experiment], {"n": "1"}, 10**15) for n in (1, 2, 3)),  # type: ignore[misc]
        lambda it: it.download(runs[4], "deep/er/a file.bin"),
        lambda it: it.download(runs[4], "deep/absent"),
        lambda it: it.claim(runs[1], "empty", ""),
    ]
    for number, question in enumerate(questions):
        mine, theirs = question(store), question(client)
        assert comparable(mine) == comparable(theirs), number
        assert type(mine) is type(theirs)


def test_pages_follow_each_other(mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    experiment, _ = fill(connect(mlflow_server.uri), "pages", tmp_path)
    store, whole = alone(connect_to_read(mlflow_server.uri)), connect(mlflow_server.uri).search([experiment], {})
    monkeypatch.setattr("hpo_core.tracking.searches.PAGE", 2)
    assert comparable(store.search([experiment], {})) == comparable(whole) and len(whole) == 4


def test_a_token_is_what_mlflow_makes_it() -> None:
    assert all(page_token(n) == SearchUtils.create_page_token(n).decode() for n in (0, 1, 999))


def test_what_only_the_client_can_do_it_does(uri: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    store = connect_to_read(uri)
    experiment, runs = fill(store, request.node.name, tmp_path)
    assert store.claim(runs[0], "key", "one") and not store.claim(runs[0], "key", "two")
    store.log(runs[0], [], {}, {"later": "ü"})
    assert store.get(runs[0]).tags["later"] == "ü"
    assert [run.id for run in store.find([experiment], "metrics.loss = 2", "there")] == [runs[1]]
    for wrong in (lambda: store.find([experiment], "x ~ 1", "there"), lambda: store.search([experiment], {"k": "'"})):
        with pytest.raises(InputError):
            wrong()
    connect(uri)._client.delete_experiment(experiment)
    with pytest.raises(InputError, match="was deleted in MLflow"):
        store.experiment(request.node.name, create=False)


# -- questions --------------------------------------------------------------------------------------------------


class Recorder(BaseHTTPRequestHandler):
    """A server that notes what it is asked, and answers one thing to all."""

    asked: list[Any]
    answer: tuple[int, str, dict[str, str]]

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fields = json.loads(body) if body else {}
        fields.pop("run_uuid", None)  # an earlier name of run_id, which MLflow's client sends as well
        path = re.sub("run_uuid=[^&]*&", "", self.path)
        self.asked.append((self.command, path, self.headers.get("Authorization"), fields))
        status, text, headers = self.answer
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", "Content-Length": str(len(text)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(text.encode())

    do_POST = do_GET

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def recorder(answer: str = "{}", status: int = 200, **headers: str) -> Iterator[tuple[ThreadingHTTPServer, list[Any]]]:
    asked: list[Any] = []
    handler = type("Handler", (Recorder,), {"asked": asked, "answer": (status, answer, headers)})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server, asked
        finally:
            server.shutdown()
            thread.join()


SETTINGS: list[dict[str, str]] = [
    {},
    {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "pä:ss"},
    {"MLFLOW_TRACKING_USERNAME": "me"},
    {"MLFLOW_TRACKING_TOKEN": "token"},
    {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "x", "MLFLOW_TRACKING_TOKEN": "token"},
    {"MLFLOW_TRACKING_PASSWORD": "from the environment", "file": "mlflow_tracking_username = filed"},
    {"file": "mlflow_tracking_username = filed\nmlflow_tracking_password = kept"},
    {"file": "mlflow_tracking_username = filed", "MLFLOW_TRACKING_TOKEN": "token"},
]


@pytest.mark.parametrize(
    ("where", "settings"),
    [
        *(("", settings) for settings in SETTINGS),
        ("/", {}),
        ("/a/path", {}),
        ("user:pass@", {}),
        ("me:x@", SETTINGS[3]),
    ],
)
def test_they_ask_what_mlflows_client_asks(
    where: str, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for key, value in settings.items():
        if key == "file":
            (tmp_path / ".mlflow").mkdir()
            (tmp_path / ".mlflow" / "credentials").write_text(f"[mlflow]\n{value}\n")
        else:
            monkeypatch.setenv(key, value)
    run = {
        "info": {
            "run_id": "r",
            "experiment_id": "1",
            "status": "FINISHED",
            "start_time": 5,
            "lifecycle_stage": "active",
        }
    }
    answer = {"run": run | {"data": {}}, "experiment": {"experiment_id": "1", "lifecycle_stage": "active"}}
    with recorder(json.dumps(answer)) as (server, asked):
        user, path = (where, "") if where.endswith("@") else ("", where)
        uri = f"http://{user}127.0.0.1:{server.server_port}{path}"
        stores: list[Any] = [alone(connect_to_read(uri)), MlflowStore(uri)]
        for store in stores:
            store.experiments()
            store.experiment("a name", create=False)
            assert store.get("r").start == 5
            store.search(["1", "2"], {"hpo.role": "trial"}, 17, ids=["a", "b"], trash=True)
            store.claim("r", "key", "value")
            store.log("r", [], {}, {"tag": "value"})
            store.has_exactly(7, ["1"], {}, 9)
    half = len(asked) // 2
    assert half == 7 and asked[:half] == asked[half:]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and the certificate that it signed itself, for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("certificate") / "both.pem"
    plain = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(key.private_bytes(*plain) + made.public_bytes(Encoding.PEM))
    return path


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_certificates_are_those_of_mlflows_settings(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 0.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificate))
    context.load_cert_chain(certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    with recorder() as (server, asked):
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        uri = f"https://127.0.0.1:{server.server_port}"
        assert failure(connect_to_read(uri).experiments)[0] is TrackingError
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate))
        assert failure(connect_to_read(uri).experiments)[0] is TrackingError
        assert asked == []
        monkeypatch.setenv("MLFLOW_TRACKING_CLIENT_CERT_PATH", str(certificate))
        assert alone(connect_to_read(uri)).experiments() == []
        monkeypatch.delenv("MLFLOW_TRACKING_SERVER_CERT_PATH")
        monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
        assert alone(connect_to_read(uri)).experiments() == []


# -- failures ---------------------------------------------------------------------------------------------------


def failure(ask: Callable[[], object]) -> tuple[type[Exception], str]:
    with pytest.raises(Exception) as caught:
        ask()
    return type(caught.value), str(caught.value)


HTML = "<html><h1>Sign in</h1></html>"
ANSWERS: list[tuple[int, str, dict[str, str]]] = [
    (200, HTML, {"Content-Type": "text/html"}),
    (200, "[1]", {}),
    (302, "", {"Location": "/login"}),
    (401, "You are not authenticated.", {"WWW-Authenticate": "Basic"}),
    (403, '{"error_code": "PERMISSION_DENIED", "message": "Permission denied"}', {}),
    (404, HTML, {"Content-Type": "text/html"}),
    (500, '{"error_code": "INTERNAL_ERROR", "message": "broken"}', {}),
    (503, "busy", {}),
]


@pytest.mark.parametrize(("status", "text", "headers"), ANSWERS, ids=[f"{s}-{t[:6]}" for s, t, _ in ANSWERS])
def test_they_fail_as_mlflows_client_does(
    status: int, text: str, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 0.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with recorder(text, status, **headers) as (server, _):
        uri = f"http://user:s3cr3t@127.0.0.1:{server.server_port}"
        mine = failure(lambda: connect_to_read(uri).experiments())
        assert mine == failure(lambda: connect(uri).experiments())
    assert "s3cr3t" not in mine[1]


def test_a_server_that_is_away_is_said_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 0.0)
    uri = f"http://127.0.0.1:{free_port()}"
    kind, told = failure(lambda: connect_to_read(uri).experiments())
    assert kind is TrackingError and "does not respond" in told


def test_a_server_that_goes_away_later_is_waited_for(mlflow_server: MlflowServer) -> None:
    store = connect_to_read(mlflow_server.uri)
    known: list[bool] = []
    assert isinstance(store, RestStore)
    store._connect = lambda before: known.append(before) or connect(mlflow_server.uri)  # type: ignore[func-returns-value]
    store.experiments()
    assert store.experiment("absent, as the client has to say", create=False) is None
    assert known == [True]


# -- when they are not used -------------------------------------------------------------------------------------

ELSEWHERE = ["MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4", "MLFLOW_WORKSPACE", "DATABRICKS_HOST"]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_only_the_client_knows_is_left_to_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "true")
    assert reading.reason_for_mlflow() == f"{name} is set"
    assert connection._reading_store("http://127.0.0.1:9") is None


@pytest.mark.parametrize("group", sorted(reading._PLUGINS))
def test_plugins_of_mlflow_need_mlflow(group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(connection._reading_store("http://127.0.0.1:9"), RestStore)
    made = tmp_path / "headers-1.0.dist-info"
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: headers\nVersion: 1.0\n")
    (made / "entry_points.txt").write_text(f"[{group}]\nany = headers:Provider\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert reading.reason_for_mlflow() == "headers extends MLflow"
    assert connection._reading_store("http://127.0.0.1:9") is None


@pytest.mark.parametrize(
    "uri", ["databricks", "databricks://profile", "postgresql://h/d", "HTTP://h", "sqlite:///a?b=c"]
)
def test_other_stores_are_left_to_mlflow(uri: str) -> None:
    assert connection._reading_store(uri) is None


@pytest.mark.parametrize(
    "settings",
    [
        {"MLFLOW_TRACKING_INSECURE_TLS": "yes"},
        {"MLFLOW_TRACKING_INSECURE_TLS": "true", "MLFLOW_TRACKING_SERVER_CERT_PATH": "/x"},
        {"MLFLOW_HTTP_REQUEST_TIMEOUT": "2.5"},
    ],
    ids=lambda settings: "+".join(settings),
)
def test_wrong_settings_are_refused_as_ever(settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in settings.items():
        monkeypatch.setenv(key, value)
    with recorder() as (server, asked):
        uri = f"http://127.0.0.1:{server.server_port}"
        assert failure(lambda: connect_to_read(uri)) == failure(lambda: connect(uri))
    assert asked == []


def test_the_tables_are_those_of_the_installed_mlflow() -> None:
    """If this fails after an upgrade of MLflow: hold the queries against its new tables, then raise SCHEMA."""
    assert SCHEMA == _get_latest_schema_revision()


def test_other_tables_are_left_to_mlflow(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    ids = connect(uri).experiments()
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as db, db:
        db.execute("UPDATE alembic_version SET version_num = 'older'")
    store = connect_to_read(uri)
    assert isinstance(store, SqliteStore)
    assert store.experiments() == ids and store._client is not None


def test_reading_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    connection.create(tmp_path / "mlflow.db")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert alone(connect_to_read(uri)).experiments() == ["0"]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

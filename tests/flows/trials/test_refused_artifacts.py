"""An artifact store that refuses: a trial's value counts, and what is missing is told where one looks for it."""

from __future__ import annotations

import http.client
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient

from hpo_core.history.trial import TrialState
from hpo_core.ledger.tags import Tag
from tests.conftest import MlflowServer
from tests.studies import make_spec, tune
from tests.studies import _somewhere_else as _somewhere_else

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


class Forbids(BaseHTTPRequestHandler):
    """Passes everything on to a server, except uploads of artifacts: as a proxy whose rules forbid them."""

    protocol_version = "HTTP/1.1"
    port = 0

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.command == "PUT":
            status, headers, answer = 403, [], b"Forbidden"
        else:
            server = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
            sent = {key: value for key, value in self.headers.items() if key.lower() != "host"}
            server.request(self.command, self.path, body, sent)
            given = server.getresponse()
            status, headers, answer = given.status, given.getheaders(), given.read()
            server.close()
        self.send_response(status)
        for key, value in headers:
            if key.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def forbidding(server: MlflowServer) -> Iterator[str]:
    """The address of a proxy before the server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Proxy", (Forbids,), {"port": server.port})) as proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{proxy.server_port}"
        finally:
            proxy.shutdown()
            thread.join()


@contextmanager
def broken(folder: Path) -> Iterator[str]:
    """A server that cannot write artifacts: 500."""
    (folder / "artifacts").write_text("a file where the folder of all artifacts should be")
    server = MlflowServer(folder)
    server.start()
    try:
        yield server.uri
    finally:
        server.stop()


@pytest.mark.parametrize("how", ["forbidden", "broken"])
def test_a_server_that_refuses_artifacts_costs_no_value(
    how: str, mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HPO_REPORT", "on")
    with forbidding(mlflow_server) if how == "forbidden" else broken(tmp_path) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with caplog.at_level(logging.WARNING, logger="hpo"):
            result = tune(make_spec("keeps_everything", name=f"refused-{how}", stop={"trials": 3}, parallel=1))
        runs = [MlflowClient(uri).get_run(trial.run_id) for trial in result.history]
    print(caplog.text)
    assert [trial.state for trial in result.history] == [TrialState.COMPLETE] * 3
    for run in runs:
        print(run.data.tags)

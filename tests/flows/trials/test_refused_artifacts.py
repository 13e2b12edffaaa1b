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
    how: str, mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPO_REPORT", "on")
    told: list[str] = []
    handler = logging.Handler(logging.WARNING)  # Prefect removes those of the root, so that caplog hears nothing
    monkeypatch.setattr(handler, "emit", lambda record: told.append(record.getMessage()))
    monkeypatch.setattr(logging.getLogger("hpo"), "handlers", [handler])
    with forbidding(mlflow_server) if how == "forbidden" else broken(tmp_path) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        result = tune(make_spec("keeps_everything", name=f"refused-{how}", stop={"trials": 3}, parallel=1))
        runs = [MlflowClient(uri).get_run(trial.run_id) for trial in result.history]
    for trial, run in zip(result.history, runs, strict=True):
        assert trial.state is TrialState.COMPLETE and run.data.metrics["loss"] == trial.loss
        kept, reason = run.data.tags[Tag.ARTIFACTS_LOST].removeprefix("kept in ").split(": ", 1)
        assert "notes.txt" in reason and ("403" in reason) == (how == "forbidden")
        names = {path.name for path in Path(kept).iterdir()}
        assert names >= {"notes.txt", "facts.json", "table.json", "line.png"}
        if "model" in names:
            assert run.data.tags[Tag.NOT_KEPT].startswith("the model: the artifact store refuses it")
        assert Tag.MODEL not in run.data.tags
    assert any(Tag.NOT_KEPT in run.data.tags for run in runs)
    assert [f"{Tag.ARTIFACTS_LOST} of each run" in line for line in told].count(True) == 1, told
    assert [line.startswith(f"the report of refused-{how} could not be written") for line in told].count(True) == 1, told

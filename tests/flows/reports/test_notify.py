"""Notifications with a real HTTP receiver: what comes, in which order, and that none of it can fail a study."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hpo_core.base.errors import InputError, TrackingError
from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_core.lineage.opening import find_study
from hpo_core.study.file import override_spec
from hpo_core.study.spec import StudySpec
from hpo_core.tracking.connection import connect
from hpo_flows.api import open_ledger
from hpo_flows.base.progress import Progress
from hpo_flows.reports import notify
from hpo_flows.reports.notify import Notifier, reporting_failures
from tests.conftest import PATIENCE, free_port, wait_until
from tests.studies import _somewhere_else as _somewhere_else
from tests.studies import make_spec, start, tune, write_study

ALL = ["finished", "failed", "new_incumbent"]


class Listener:
    """A receiver that keeps what it is sent, and answers with the given codes, the last one for ever."""

    def __init__(self, *codes: int, delay: float = 0.0) -> None:
        self.messages: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        answers, kept = list(codes or [200]), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                kept.messages.append(body)
                kept.headers.append(dict(self.headers))
                time.sleep(delay)
                self.send_response(answers.pop(0) if len(answers) > 1 else answers[0])
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def events(self) -> list[str]:
        return [message["event"] for message in self.messages]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(notify, "ATTEMPT_SECONDS", PATIENCE)
    monkeypatch.setattr(notify, "END_SECONDS", PATIENCE)


def told(url: str, *events: str, **changes: Any) -> StudySpec:
    return make_spec(notify={"on": list(events or ALL), "url": url}, **changes)


def trial(number: int, loss: float, owner: str = "me") -> Trial:
    return Trial(number, {"x": loss}, TrialState.COMPLETE, loss, run_id=f"run{number}", owner=owner)


def progress(*trials: Trial) -> Progress:
    return Progress(History(trials), 1.0)


def test_new_incumbents_of_this_flow_are_told_in_order(listener: Listener) -> None:
    notifier = Notifier(told(listener.url, "new_incumbent"), "run", "http://mlflow/#/x", "me")
    trials = [trial(0, 0.9), trial(1, 0.5), trial(2, 0.7), trial(3, 0.4, "another"), trial(4, 0.3)]
    for count in range(1, 6):
        notifier.observe(progress(*trials[:count]))
        notifier.observe(progress(*trials[:count]))
    notifier.tell("finished", "finished: not wanted here")
    notifier.close()
    assert [(each["event"], each["trial"], each["value"]) for each in listener.messages] == [
        ("new_incumbent", 1, 0.5),
        ("new_incumbent", 4, 0.3),
    ]
    first = listener.messages[0]
    assert first["text"] == "study: new incumbent: loss 0.5 (trial 1)\nhttp://mlflow/#/x"
    expected = {"study": "study", "experiment": "study", "metric": "loss", "direction": "minimize", "run_id": "run"}
    assert expected.items() <= first.items()
    assert (first["config"], first["complete"], first["failed"], first["running"]) == ({"x": 0.5}, 2, 0, 0)
    assert listener.headers[0]["Content-Type"] == "application/json"


def test_text_is_as_slack_wants_it(listener: Listener) -> None:
    notifier = Notifier(told(listener.url))
    notifier.tell("failed", "failed: <a & b>")
    notifier.close()
    assert listener.messages[0]["text"] == "study: failed: &lt;a &amp; b&gt;"


@pytest.mark.usefixtures("_hurried")
def test_a_receiver_that_has_trouble_is_asked_again_in_order() -> None:
    listener = Listener(500, 503, 429, 200)
    notifier = Notifier(told(listener.url))
    notifier.tell("new_incumbent", "one")
    notifier.tell("finished", "two")
    notifier.close()
    assert listener.events == ["new_incumbent"] * 4 + ["finished"]
    listener.close()


@pytest.mark.usefixtures("_hurried")
@pytest.mark.parametrize(("code", "attempts"), [(404, 1), (500, notify.ATTEMPTS)])
def test_a_receiver_that_refuses_is_given_up(code: int, attempts: int, caplog: pytest.LogCaptureFixture) -> None:
    listener = Listener(code)
    notifier = Notifier(told(f"{listener.url}/secret"))
    notifier.tell("finished", "one")
    notifier.close()
    assert listener.events == ["finished"] * attempts
    assert f"was not told that finished: it responds with {code}" in caplog.text and "secret" not in caplog.text
    listener.close()


@pytest.mark.usefixtures("_hurried")
def test_a_receiver_that_hangs_holds_up_neither_the_study_nor_another_receiver(
    listener: Listener, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "END_SECONDS", 3.0)
    hanging = Listener(delay=2 * PATIENCE)
    spec = make_spec(notify=[{"on": ALL, "url": hanging.url}, {"on": ALL, "url": listener.url}])
    notifier = Notifier(spec)
    began = time.monotonic()
    for _ in range(3 * notify.QUEUE):
        notifier.tell("new_incumbent", "news")
    notifier.tell("finished", "the end")
    notifier.close()
    assert time.monotonic() - began < PATIENCE
    wait_until(lambda: listener.events[-1:] == ["finished"], "the other receiver is not told of the end")
    assert "new_incumbent" in listener.events
    assert "is too slow; a message to it is dropped" in caplog.text and "does not respond" in caplog.text
    hanging.close()


@pytest.mark.usefixtures("_hurried")
def test_what_is_no_http_at_all_fails_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "END_SECONDS", 1.0)  # a name that nobody knows may take its time
    with socket.create_server(("127.0.0.1", 0)) as babbler:

        def babble() -> None:
            while True:
                try:
                    connection, _ = babbler.accept()
                except OSError:
                    return
                connection.sendall(b"what?\n")
                connection.close()

        threading.Thread(target=babble, daemon=True).start()
        monkeypatch.setenv("HOOK", "file:///etc/passwd")
        address = f"http://127.0.0.1:{babbler.getsockname()[1]}/"
        urls = [address, "http://no.such.host.invalid/", "${HOOK}", "${ABSENT}"]
        notifier = Notifier(make_spec(notify=[{"on": ALL, "url": url} for url in urls]))
        notifier.tell("finished", "the end")
        notifier.close()
    assert "notify.2.url: it is not an address of http or https" in caplog.text and "passwd" not in caplog.text
    assert "notify.3.url: the environment variable ABSENT is not set; no notifications are sent there" in caplog.text


def test_an_error_or_a_signal_is_told_and_goes_on_its_way(listener: Listener) -> None:
    with pytest.raises(TrackingError), reporting_failures(Notifier(told(listener.url))):
        raise TrackingError("MLflow does not respond")
    with pytest.raises(KeyboardInterrupt), reporting_failures(Notifier(told(listener.url))):
        raise KeyboardInterrupt("SIGTERM")
    assert [each["text"] for each in listener.messages] == [
        "study: failed: TrackingError: MLflow does not respond",
        "study: failed: stopped by SIGTERM",
    ]


def test_a_study_that_cannot_be_opened_has_failed(listener: Listener) -> None:
    with pytest.raises(InputError):
        open_ledger(told(listener.url), "nonsense://nowhere")
    assert listener.events == ["failed"] and "nonsense" in listener.messages[0]["text"]


def test_no_secret_of_an_address_is_stored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOOK", "https://hooks.example/T0/secret")
    urls = [
        "${HOOK}",
        "https://hooks.example/${HOOK}",
        "https://hooks.example/T1/secret",
        "https://me:secret@h/${HOOK}",
    ]
    spec = make_spec(notify=[{"on": "finished".split(), "url": url} for url in urls])
    assert spec.notify[0].expanded() == "https://hooks.example/T0/secret"
    announced: list[str] = []
    for _ in range(2):
        ledger = open_ledger(spec, on_message=announced.append)
    tags = ledger.store.get(ledger.study_run.id).tags
    assert "secret" not in json.dumps(dict(tags)) and announced == []
    stored = find_study(connect(), "study").spec
    assert [entry.url for entry in stored.notify] == urls[:2]
    open_ledger(override_spec(stored, ["notify=[]"]), on_message=announced.append)
    assert len(announced) == 1 and "notify" in announced[0]
    assert [entry.label for entry in spec.notify[2:]] == ["https://hooks.example", "https://h"]


@pytest.mark.usefixtures("prefect_server")
def test_the_end_of_a_study_is_told_once(listener: Listener) -> None:
    spec = told(listener.url, first=[{"x": 0.9}, {"x": 0.5}], stop={"trials": 2}, parallel=1)
    result = tune(spec)
    assert listener.events == ["new_incumbent", "new_incumbent", "finished"]
    end = listener.messages[-1]
    assert result.best is not None
    assert (end["trial"], end["value"], end["config"]) == (1, result.best_value, {"x": 0.5})
    assert end["reason"] == "all 2 trials are done" and end["run_id"] == result.run_id
    assert connect().get(result.run_id).tags["hpo.notified"].startswith("finished 20")
    tune(spec)
    assert len(listener.messages) == 3
    tune(told(listener.url, "finished", first=[{"x": 0.9}, {"x": 0.5}], stop={"trials": 3}, parallel=1))
    assert listener.events[3:] == ["finished"]


@pytest.mark.usefixtures("prefect_server")
def test_a_study_without_a_value_has_failed(listener: Listener) -> None:
    space = {"how": {"type": "fixed", "value": "raise"}}
    spec = told(listener.url, objective="misbehave", space=space, stop={"trials": 1}, parallel=1)
    tune(spec)
    tune(spec)
    assert listener.events == ["failed"] and "no trial gave a value" in listener.messages[0]["text"]


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("how", ["down", "hangs"])
def test_the_command_ends_well_whatever_the_receiver_does(tmp_path: Path, how: str) -> None:
    hanging = Listener(delay=300)
    url = hanging.url if how == "hangs" else f"http://127.0.0.1:{free_port()}/"
    path = write_study(tmp_path, "quick", notify=[{"on": ALL, "url": url}], stop={"trials": 3})
    flow = start(path)
    output, _ = flow.communicate(timeout=PATIENCE)
    assert flow.returncode == 0 and "Study study: all 3 trials are done" in output, output
    assert hanging.messages if how == "hangs" else "does not respond" in output
    hanging.close()


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_signal_is_told(tmp_path: Path, listener: Listener) -> None:
    flow = start(write_study(tmp_path, "slow", notify=[{"on": ALL, "url": listener.url}], stop={"trials": 300}))
    wait_until(lambda: listener.messages or flow.poll() is not None, "no message comes")
    assert flow.poll() is None
    os.kill(flow.pid, 15)
    flow.communicate(timeout=PATIENCE)
    assert flow.returncode == 143 and listener.messages[-1]["reason"] == "stopped by SIGTERM"

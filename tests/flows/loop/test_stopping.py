"""The second signal ends a process at once, wherever it waits; the first one is the study's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hpo_core.base.errors import TrackingError
from hpo_core.tracking.mlflow_store import MlflowStore
from tests.conftest import PATIENCE

ROOT = Path(__file__).parents[3]

WAITS = {
    "a database, in C": """
        import sqlite3
        a, b = (sqlite3.connect("busy.db", timeout=3600, isolation_level=None) for _ in range(2))
        a.execute("BEGIN EXCLUSIVE")
        ready()
        b.execute("BEGIN EXCLUSIVE")
    """,
    "a lock": """
        import threading
        lock = threading.Lock()
        lock.acquire()
        with stopping.noted(lambda number: None):
            ready()
            lock.acquire()
    """,
    "threads that are joined at the exit": """
        import threading, time
        threading.Thread(target=time.sleep, args=[3600]).start()
        ready()
    """,
    "whoever takes signals for himself": """
        import signal, time
        for number in stopping.SIGNALS:
            signal.signal(number, lambda number, frame: print(number, flush=True))
        ready()
        time.sleep(3600)
    """,
    "a function that the exit calls": """
        import atexit, time
        atexit.register(time.sleep, 3600)
        ready()
        raise SystemExit
    """,
}


def waiting(folder: Path, body: str) -> subprocess.Popen[str]:
    lines = [line[8:] for line in body.splitlines()]
    head = "from hpo_flows.base import stopping\nstopping.begin()\ndef ready(): print('ready', flush=True)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", head + "\n".join(lines)],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", WAITS)
def test_signals_end_a_process_that_waits(where: str, number: signal.Signals, tmp_path: Path) -> None:
    process = waiting(tmp_path, WAITS[where])
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        process.send_signal(number)
        time.sleep(0.2)  # two that come at once are one
    ended = process.poll()
    process.kill()
    process.communicate()
    assert ended is not None
    if where in ("a lock", "whoever takes signals for himself"):  # which the first signal does not end
        assert ended == 128 + number


def test_the_first_signal_is_not_the_end(tmp_path: Path) -> None:
    process = waiting(tmp_path, WAITS["whoever takes signals for himself"])
    assert process.stdout is not None
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == f"{signal.SIGTERM:d}\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 130


def test_a_first_sigterm_raises_what_ctrl_c_does(tmp_path: Path) -> None:
    process = waiting(
        tmp_path,
        """
        import time
        try:
            ready()
            time.sleep(3600)
        except KeyboardInterrupt as stopped:
            print(stopped.number, flush=True)
        """,
    )
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=PATIENCE)
    assert output == f"{signal.SIGTERM:d}\n" and process.returncode == 0


def test_whoever_went_on_after_a_first_signal_may_be_told_again(tmp_path: Path) -> None:
    process = waiting(
        tmp_path,
        """
        import time
        for _ in range(3):
            try:
                with stopping.second_signal_ends():
                    ready()
                    time.sleep(3600)
            except KeyboardInterrupt:
                pass
        print("done", flush=True)
        """,
    )
    assert process.stdout is not None
    for expected in ("ready\n", "ready\n", "done\n"):
        process.send_signal(signal.SIGINT)
        line = process.stdout.readline()
        assert line == expected
    process.communicate()


def test_what_waits_for_mlflow_waits_no_longer_once_somebody_is_in_a_hurry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    store = MlflowStore(f"sqlite:///{tmp_path}/mlflow.db", patience=3600.0)
    copy, asked, failed = store.with_patience(1800.0), threading.Event(), list[Exception]()

    def refuse() -> None:
        asked.set()
        raise ConnectionError("nobody is there")

    def wait() -> None:
        try:
            copy._call(refuse)
        except TrackingError as error:
            failed.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    assert asked.wait(PATIENCE)
    store.hurry()
    thread.join(PATIENCE)
    assert "does not respond" in str(failed[0])
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "3"
    store.hurry(False)
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"

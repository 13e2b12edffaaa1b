"""Trials that are run here: whatever Prefect does, each is attempted as often as it should be, and over once."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
    temporary_settings,
)

from hpo_core.base.errors import Unreachable
from hpo_core.history.trial import Trial, TrialState
from hpo_core.selection.evaluation import Training
from hpo_flows.loop import engine, prefect_link, temporary_server
from hpo_flows.loop.engine import PrefectTasks, Threads
from hpo_flows.loop.prefect_link import Link
from hpo_flows.workers.job import TrialFailed
from tests.conftest import PATIENCE, free_port, wait_until

TRAINING = Training(Trial(0, {"x": 0.5}, TrialState.RUNNING, run_id="r0"))


class FailingPrefect:
    """A task of Prefect's that may break before, between and after its attempts, or refuse to be submitted."""

    def __init__(self, breaks_at: int, retries: int) -> None:
        self.breaks_at, self.retries = breaks_at, retries

    def submit(self, name: str, trial: Trial, evaluation: Any) -> FailingPrefect:
        if self.breaks_at == 0:
            raise httpx.ConnectError("the server is gone")
        for attempt in range(self.retries + 1):
            if self.breaks_at == attempt + 1:
                break
            try:
                engine._WORK[trial.run_id].attempt({})
            except TrialFailed as error:
                if error.retry:
                    continue
            except RuntimeError:
                pass
            break
        return self

    def add_done_callback(self, callback: Any) -> None:
        callback(self)


@given(
    outcomes=st.lists(
        st.sampled_from(["raises", "ends", "fails for good", "breaks the study"]), min_size=5, max_size=5
    ),
    retries=st.integers(0, 3),
    breaks_at=st.integers(0, 6),
    lost=st.booleans(),
)
def test_prefect_neither_loses_nor_repeats_an_attempt(
    outcomes: list[str], retries: int, breaks_at: int, lost: bool
) -> None:
    made: list[str] = []

    def evaluate(session: Any, training: Training, attempt: int, tags: Any) -> dict[str, float]:
        assert attempt == len(made) + 1
        outcome = outcomes[len(made)]
        made.append(outcome)
        if outcome == "ends":
            return {"loss": 1.0}
        if outcome == "breaks the study":
            raise RuntimeError(outcome)
        raise TrialFailed(outcome, retry=outcome == "raises")

    session: Any = SimpleNamespace(ledger=SimpleNamespace(spec=SimpleNamespace(retries=retries)))
    tasks, over = PrefectTasks(session, Link(lost)), list[Any]()
    tasks._task = FailingPrefect(breaks_at, retries)  # type: ignore[assignment]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "evaluate", evaluate)
        patch.setattr(prefect_link, "silence", lambda: "gone")
        future = tasks.submit("trial", TRAINING)
        future.add_done_callback(over.append)
        future.result(timeout=PATIENCE)
    last = next((i for i, outcome in enumerate(outcomes[:retries]) if outcome != "raises"), retries)
    assert made == outcomes[: last + 1]
    assert len(over) == 1 and not engine._WORK


def test_threads_make_all_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[int] = []

    def evaluate(session: Any, training: Training, attempt: int, tags: Any) -> dict[str, float]:
        attempts.append(attempt)
        raise TrialFailed("again", retry=True)

    monkeypatch.setattr(engine, "evaluate", evaluate)
    session: Any = SimpleNamespace(ledger=SimpleNamespace(spec=SimpleNamespace(retries=2)))
    Threads(session).submit("trial", TRAINING).result(timeout=PATIENCE)
    assert attempts == [1, 2, 3]


class Temporary:
    """Prefect's temporary server, which does not respond at once."""

    api_url = "http://127.0.0.1:9/api"

    def __init__(self, exit_code: int | None, answers: bool) -> None:
        self.answers, self.asked, self.ended = answers, 0, False
        self.process: Any = SimpleNamespace(poll=lambda: exit_code)

    def get(self, url: str) -> Any:
        assert url == f"{self.api_url}/health"
        self.asked += 1
        return SimpleNamespace(is_success=self.answers and self.asked > 1)

    def end(self) -> None:
        self.ended = True


@pytest.mark.parametrize(
    ("exit_code", "answers", "limit", "there", "told"),
    [
        (None, True, "120", True, "waiting for it up to 120 s"),
        (None, False, "0", False, "does not respond within 0 s"),
        (1, False, "120", False, "ended with exit code 1"),
    ],
)
def test_a_temporary_server_is_waited_for_and_done_without(
    exit_code: int | None, answers: bool, limit: str, there: bool, told: str,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    server = Temporary(exit_code, answers)
    monkeypatch.setattr(prefect_link, "temporary_server", lambda: server)
    monkeypatch.setattr(prefect_link, "TELL_SECONDS", 0.0)
    monkeypatch.setattr(prefect_link.httpx.Client, "get", lambda client, url: server.get(url))
    monkeypatch.setenv(prefect_link.START_SETTING, limit)
    with caplog.at_level(logging.WARNING, "hpo"), temporary_settings(restore_defaults={PREFECT_API_URL}):
        with prefect_link.reached() as link:
            assert (link.lost, link.server is not None) == (not there, there)
            assert PREFECT_API_URL.value() == (server.api_url if there else None)
    assert told in caplog.text
    assert ("goes on without Prefect's view" in caplog.text) is not there


def test_without_a_server_and_without_leave_to_start_one_a_study_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    off = {PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: False}
    with caplog.at_level(logging.WARNING, "hpo"), temporary_settings(off, restore_defaults={PREFECT_API_URL}):
        with prefect_link.reached() as link:
            assert link.lost
    assert "goes on without Prefect's view" in caplog.text


def test_a_named_server_that_is_not_there_is_an_error_that_hides_its_password() -> None:
    with temporary_settings({PREFECT_API_URL: f"http://me:secret@127.0.0.1:{free_port()}/api"}):
        with pytest.raises(Unreachable, match="PREFECT_API_URL") as caught:
            prefect_link.reached().__enter__()
    assert "secret" not in str(caught.value)


def test_heartbeats_for_which_a_flow_run_waits_at_its_end_are_sent_only_if_asked_for() -> None:
    with prefect_link.impatient():
        assert PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value() is None
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 60}), prefect_link.impatient():
        assert PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value() == 60


def test_a_server_that_goes_away_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    link = Link()
    with caplog.at_level(logging.WARNING, "hpo"):
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}):
            link.look()
            assert link.lost
            link.look()
            link.failed(RuntimeError("and this"))
    assert caplog.text.count("WARNING") == 1 and "goes on without its view" in caplog.text


def test_studies_in_several_threads_share_one_temporary_server(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        process = SimpleNamespace(poll=lambda: None)

        def __init__(self) -> None:
            started.append(self)
            both.wait(1.0) if len(started) == 1 else both.set()

    started: list[Slow] = []
    both = threading.Event()
    monkeypatch.setattr(temporary_server, "TemporaryServer", Slow)
    monkeypatch.setattr(temporary_server, "_server", None)
    threads = [threading.Thread(target=temporary_server.temporary_server) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(started) == 1


def test_a_temporary_server_ends_with_a_process_that_is_killed() -> None:
    code = """
import time
from hpo_flows.loop.temporary_server import TemporaryServer
print(TemporaryServer().process.pid, flush=True)
time.sleep(600)
"""
    flow = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert flow.stdout is not None
    server = psutil.Process(int(flow.stdout.readline()))
    flow.kill()
    flow.communicate()
    try:
        wait_until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            server.kill()


@pytest.mark.parametrize("name", temporary_server.NAMES)
def test_no_server_is_started_early_where_one_may_be_named(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for each in temporary_server.NAMES:
        monkeypatch.delenv(each, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    started: list[bool] = []
    monkeypatch.setattr(temporary_server, "temporary_server", lambda: started.append(True))
    monkeypatch.setenv(name, "x")
    temporary_server.start_early()
    assert not started
    monkeypatch.delenv(name)
    for file in ("profiles.toml", "prefect.toml", "pyproject.toml", ".env"):
        (tmp_path / file).touch()
        temporary_server.start_early()
        (tmp_path / file).unlink()
    assert not started
    temporary_server.start_early()
    assert started == [True]

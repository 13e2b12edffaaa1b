"""``hpo ui``: it shows what answers, and leaves nothing behind."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from hpo_core.ledger.ledger import Ledger
from hpo_core.lineage.opening import open_study
from hpo_core.tracking.connection import connect
from tests.browser import browsing, needs_chromium
from tests.conftest import MlflowServer, free_port, wait_until
from tests.hpo_core.ledger.test_ledger import finish, make_spec, reserve
from tests.studies import _somewhere_else as _somewhere_else

HPO = (sys.executable, "-m", "hpo_flows.cli")


def begun(uri: str | None = None, **changes: Any) -> Ledger:
    """A study with three trials: the second is the best, the third failed."""
    ledger = open_study(connect(uri), make_spec(**changes))
    for value in (0.2, 0.9, math.nan):
        finish(ledger, reserve(ledger), value)
    return ledger


def called(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*HPO, "ui", *arguments], capture_output=True, text=True, env=os.environ | environment)


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [each for child in found for each in (int(child), *children(int(child)))]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_address_is_said_once_it_answers_and_a_signal_ends_mlflow_too(number: signal.Signals) -> None:
    ledger, port = begun(), free_port()
    process = subprocess.Popen([*HPO, "ui", ledger.spec.name, "--port", str(port)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        assert said.startswith(f"Trials, best first: http://127.0.0.1:{port}/#/experiments/")
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=30).close()
        started = children(process.pid)
        assert started
        process.send_signal(number)
        assert process.wait() == 128 + number
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started), "MLflow is left behind")
    finally:
        process.kill()
        process.stdout.close()


@pytest.mark.slow
def test_what_was_killed_leaves_no_server_behind() -> None:
    process = subprocess.Popen([*HPO, "ui", "--port", str(free_port())], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline().endswith("/#/experiments?workflowType=machine_learning\n")
        started = children(process.pid)
    finally:
        process.kill()
        process.stdout.close()
        process.wait()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started), "MLflow is left behind")


def test_a_port_that_is_taken_is_said(mlflow_server: MlflowServer) -> None:
    done = called("--port", str(mlflow_server.port))
    assert (done.returncode, done.stdout) == (2, "")
    (said,) = done.stderr.splitlines()
    assert f"something responds at 127.0.0.1:{mlflow_server.port} already" in said


def test_an_unknown_study_starts_nothing() -> None:
    done = called("nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no study named 'nowhere'" in done.stderr


def test_a_servers_own_pages_are_named_without_credentials_and_opened(
    mlflow_server: MlflowServer, tmp_path: Path
) -> None:
    ledger = begun(mlflow_server.uri)
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf "%s" "$1" > {tmp_path}/opened\n')
    browser.chmod(0o755)
    uri = mlflow_server.uri.replace("http://", "http://me:secret@")
    done = called(ledger.spec.name, "--open", MLFLOW_TRACKING_URI=uri, BROWSER=f"{browser} %s")
    assert done.returncode == 0, done.stderr
    pages = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert list(pages) == ["Trials, best first", "Charts", "Study"]
    assert all(page.startswith(f"{mlflow_server.uri}/#/experiments/") for page in pages.values())
    assert (tmp_path / "opened").read_text() == pages["Trials, best first"]
    assert "orderByAsc=false" in pages["Charts"]
    assert pages["Charts"] == f"{pages['Trials, best first']}&compareRunsMode=CHART"
    assert pages["Study"].endswith(f"/runs/{ledger.study_run.id}?workflowType=machine_learning")


@needs_chromium
def test_the_page_lists_this_studys_trials_best_first(mlflow_server: MlflowServer) -> None:
    other = begun(mlflow_server.uri, experiment="one for several")
    ledger = begun(mlflow_server.uri, experiment="one for several")
    said = called(ledger.spec.name, MLFLOW_TRACKING_URI=mlflow_server.uri).stdout
    address = said.splitlines()[0].partition(": ")[2]
    assert f"tags.\"hpo.study\" = '{ledger.spec.name}'" in unquote(address)
    with browsing(viewport={"width": 1440, "height": 900}) as page:
        page.goto(address)
        page.get_by_role("link", name=f"{ledger.spec.name}-0000").wait_for()
        names = [link.inner_text() for link in page.get_by_role("link", name=ledger.spec.name).all()]
        assert names == [f"{ledger.spec.name}-{number:04d}" for number in (1, 0, 2)]
        assert page.get_by_role("link", name=other.spec.name).count() == 0

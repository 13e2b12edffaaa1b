"""Opens MLflow's UI on a study's trials."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import typer

from hpo_core.base.errors import InputError, TrackingError
from hpo_core.ledger.ledger import Ledger
from hpo_core.tracking.connection import connect, tracking_uri, ui_command
from hpo_flows.base.stopping import ENDINGS
from hpo_flows.cli.common import open_stored
from hpo_flows.cli.views import browser
from hpo_flows.reports.links import experiments_url, run_url, trials_url
from mlflow_server.processes import Process, http_answers


def show(study: str | None, port: int, *, browse: bool) -> None:
    """Print the addresses of a study's pages. Over a database, start MLflow's UI and wait until it is ended."""
    uri = tracking_uri()
    ledger = None if study is None else open_stored(study)
    if uri.startswith("http"):
        _show_pages(uri, ledger, browse)
        return
    if ledger is None:
        connect(uri)
    try:
        with _served(uri, port) as server:
            _show_pages(f"http://127.0.0.1:{port}", ledger, browse)
            typer.echo("Ctrl-C ends it")
            while not server.ended:
                time.sleep(0.2)
            raise TrackingError(server.obituary())
    except KeyboardInterrupt as stopped:
        raise typer.Exit(128 + getattr(stopped, "number", signal.SIGINT)) from None


@contextlib.contextmanager
def _served(uri: str, port: int) -> Iterator[Process]:
    """MLflow's UI over a database, from its first response to the end of the block."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            problem = f"something responds at 127.0.0.1:{port} already"
            raise InputError("--port", problem, f"end that, or choose another port: --port {port + 1}")
    server = Process(
        "MLflow's UI",
        ui_command(uri, port=port),
        http_answers(f"http://127.0.0.1:{port}/health"),
        environment={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # 2 GB for what no study uses
        log=Path(os.devnull),
    )
    typer.echo("MLflow's UI starts ...", err=True)
    ENDINGS.append(server.stop)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        ENDINGS.remove(server.stop)


def _show_pages(server: str, ledger: Ledger | None, browse: bool) -> None:
    """Print the addresses of a study's pages, or the one of all experiments, and open the first in a browser."""
    if ledger is None:
        pages = {"MLflow's UI": experiments_url(server)}
    else:
        spec, run = ledger.spec, ledger.study_run
        trials = partial(trials_url, server, run.experiment, spec.metric, spec.direction == "minimize", study=spec.name)
        pages = {
            f"Trials by {spec.metric}" if spec.metrics else "Trials, best first": trials(),
            "Charts": trials(charts=True),
            "Study": run_url(server, run.experiment, run.id),
        }
    for name, address in pages.items():
        typer.echo(f"{name}: {address}")
    if browse:
        browser.show(next(iter(pages.values())))

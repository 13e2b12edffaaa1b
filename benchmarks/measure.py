"""What the benchmarks share: a tracking server, counted requests, tables."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import requests

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # its requests are none of a trial's
CHECKPOINTS = (10, 20, 40, 80, 160, 320, 640)


def milliseconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - started)


def middle(call: Callable[[], Any], times: int) -> float:
    """The median over a number of calls, in milliseconds."""
    return median(milliseconds(call) for _ in range(times))


@contextmanager
def counted_requests() -> Iterator[list[str]]:
    """Every HTTP request of this process, as it leaves."""
    sent: list[str] = []
    send = requests.adapters.HTTPAdapter.send

    def counting(self: Any, request: Any, **kwargs: Any) -> Any:
        sent.append(request.path_url)
        return send(self, request, **kwargs)

    requests.adapters.HTTPAdapter.send = counting  # type: ignore[method-assign]
    try:
        yield sent
    finally:
        requests.adapters.HTTPAdapter.send = send  # type: ignore[method-assign]


def growth(trial: Callable[[], Any], seconds: float) -> list[tuple[int, float, float]]:
    """Run trials until a checkpoint is not reached in time."""
    points: list[tuple[int, float, float]] = []
    deadline, times = time.monotonic() + seconds, []
    with counted_requests() as sent:
        counts = [0]
        while time.monotonic() < deadline and len(times) < CHECKPOINTS[-1]:
            times.append(milliseconds(trial))
            counts.append(len(sent))
            if (n := len(times)) in CHECKPOINTS:
                points.append((n, median(times[-5:]), (counts[n] - counts[n - 5]) / 5))
    return points


@contextmanager
def mlflow_server(folder: Path) -> Iterator[tuple[str, str]]:
    """An ``mlflow server`` of one worker over sqlite; gives its address and that of its database."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    uri, database = f"http://127.0.0.1:{port}", f"sqlite:///{folder / 'server.db'}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database, "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "artifacts"), "--host", "127.0.0.1", "--port", str(port)]
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(folder / "server.log", "wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, start_new_session=True, env=os.environ | settings
        )
    try:
        _wait(f"{uri}/health", process)
        yield uri, database
    finally:
        os.killpg(process.pid, 15)
        process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"{url} does not respond")


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table: floats in three significant digits, None as a dash."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    lines = [head, ["-" * width for width in widths], *cells]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return "-" if value is None else str(value)

"""Prefect's own parts that nothing else here would miss: its scheduler, under the pins of this project."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import PrefectServer

SERVED = """
import sys
from datetime import timedelta
from pathlib import Path
from prefect import flow

@flow
def ring(path: str):
    Path(path).touch()

if __name__ == "__main__":
    # Not every second: on a busy machine the runs would start faster than they end.
    ring.serve(name="bell", interval=timedelta(seconds=15), parameters={"path": sys.argv[1]}, limit=1)
"""


def test_a_scheduled_run_fires(tmp_path: Path) -> None:
    """With sqlalchemy 2.1 or a newer fastapi the server starts, or seems to, and never runs anything."""
    script, bell = tmp_path / "served.py", tmp_path / "bell"
    script.write_text(SERVED)
    server = PrefectServer(tmp_path)
    server.start()
    served = None
    try:
        served = subprocess.Popen(
            [sys.executable, str(script), str(bell)],
            env=os.environ | server.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 90
        while not bell.exists() and time.monotonic() < deadline:
            assert served.poll() is None
            time.sleep(0.2)
        assert bell.exists(), "no scheduled run fired"
    finally:
        if served is not None:
            os.killpg(served.pid, signal.SIGKILL)
            served.wait()
        server.stop()

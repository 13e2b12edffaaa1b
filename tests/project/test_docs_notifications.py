"""The program of docs/how-to/notifications.md, against a real Prefect server and a local receiver."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import PATIENCE, PrefectServer, wait_until
from tests.flows.reports.test_notify import Listener

DOCS = Path(__file__).parents[2] / "docs" / "how-to" / "notifications.md"
FLOWS = """
from prefect import flow

def fail():
    raise ValueError("on purpose")

for name, body in (("tune", fail), ("tune", lambda: None), ("other", fail)):
    try:
        flow(name=name, flow_run_name="digits")(body)()
    except ValueError:
        pass
"""


@pytest.mark.slow
def test_an_automation_tells_of_a_flow_that_failed(tmp_path: Path) -> None:
    programs = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(programs) == 3
    server, listener = PrefectServer(tmp_path), Listener()
    server.start()
    secrets = {
        "HOOK": listener.url,
        "SLACK_WEBHOOK": "https://hooks.slack.com/services/T0/B0/x",
        "SENDGRID_API_KEY": "x",
    }
    try:
        for program in (*programs, FLOWS):
            environment = os.environ | server.environment() | secrets
            subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=PATIENCE)
        wait_until(lambda: listener.messages, "nobody is told")
        time.sleep(5)  # for a second message, of which there should be none
    finally:
        server.stop()
        listener.close()
    assert [message["text"] for message in listener.messages] == [
        "digits failed: Flow run encountered an exception: ValueError: on purpose"
    ]

"""The programs of docs/how-to/prefect.md, against real servers: a new champion has its deployment run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient

from tests.conftest import PATIENCE, MlflowServer, PrefectServer, wait_until
from tests.studies import ROOT, write_study

DOCS = ROOT / "docs" / "how-to" / "prefect.md"

STUDY: dict[str, Any] = {
    "name": "shapes study",
    "experiment": "shapes",
    "space": {"loss": {"type": "fixed", "value": 5.0}, "noise": {"type": "fixed", "value": 0.1}},
    "stop": {"trials": 1},
    "champion": {"model": "shapes", "seeds": 3},
    "parallel": 1,
}


@pytest.mark.slow
def test_an_automation_deploys_a_new_champion(mlflow_server: MlflowServer, tmp_path: Path) -> None:
    serving, automation, _ = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (tmp_path / "ship.py").write_text(serving)
    server = PrefectServer(tmp_path)
    environment = os.environ | server.environment() | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    environment |= {"MLFLOW_TRACKING_URI": mlflow_server.uri}
    server.start()
    shipped = tmp_path / "shipped.log"
    client = SyncPrefectClient(f"{server.uri}/api")
    with open(shipped, "ab") as log:
        served = subprocess.Popen([sys.executable, "ship.py"], cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        wait_until(lambda: client._client.post("/deployments/filter", json={}).json(), shipped.read_text)
        subprocess.run([sys.executable, "-c", automation], env=environment, check=True, timeout=PATIENCE)

        def hpo(*command: str) -> None:
            line = [sys.executable, "-m", "hpo_flows.cli", *command]
            subprocess.run(line, cwd=tmp_path, env=environment, check=True, timeout=PATIENCE)

        def ships(*versions: int) -> None:
            expected = [f"models:/shapes/{version}" for version in versions]
            wait_until(lambda: re.findall(r"^models:/shapes/\d+$", shipped.read_text(), re.M) == expected, shipped.read_text)

        hpo("tune", str(write_study(tmp_path, "constant", **STUDY)))
        ships(1)
        better = STUDY | {"name": "better shapes", "space": STUDY["space"] | {"loss": {"type": "fixed", "value": 1.0}}}
        hpo("tune", str(write_study(tmp_path, "constant", **better)))
        ships(1, 2)
        hpo("rollback", "shapes", "--reason", "it drifts")
        ships(1, 2, 1)
        hpo("promote", "better shapes", "--force", "--reason", "it does not")
        ships(1, 2, 1, 3)

        filters = {"flow_runs": {"name": {"any_": ["shapes study"]}}}
        artifacts = client._client.post("/artifacts/filter", json=filters).json()
        shown = {each["key"].removeprefix("shapes-study-"): each["data"] for each in artifacts}
        assert sorted(shown) == ["best", "best-trial", "mlflow", "progress", "report"] and len(artifacts) == 5
        linked = rf"\[Trial 0: loss \d[\d.]*\]\({mlflow_server.uri}/#/experiments/"
        assert re.match(linked, shown["best-trial"]), shown["best-trial"]
    finally:
        client._client.close()
        served.terminate()
        served.wait(PATIENCE)
        server.stop()

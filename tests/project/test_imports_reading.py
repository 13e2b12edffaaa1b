"""Commands that read load no mlflow, nor what it brings: over HTTP its REST API serves, and of a file sqlite3."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpo_core.ledger.store import FINISHED
from hpo_core.lineage.opening import open_study
from hpo_core.tracking.connection import connect, sqlite_uri
from tests.conftest import MlflowServer
from tests.hpo_core.ledger.test_ledger import finish, make_spec, reserve

ROOT = Path(__file__).parents[2]
HEAVY = {"mlflow", "pandas", "sqlalchemy", "alembic", "fastapi", "pyarrow", "sklearn", "prefect", "matplotlib"}
READ = ["list", "list --json", "status NAME", "best NAME", "explain NAME 1", "export NAME"]
# All in one process, one after another: each alone takes a second.
RUN = """
import sys
from hpo_flows.cli.app import main
for command in sys.argv[1:]:
    sys.argv = ["hpo", *command.split()]
    try:
        main()
    except SystemExit as end:
        loaded = {name.partition(".")[0] for name in sys.modules}
        print("DONE", end.code, *sorted(loaded & set(%r)), file=sys.stderr)
""" % (HEAVY,)  # noqa: UP031


@pytest.mark.parametrize("kind", ["file", pytest.param("server", marks=pytest.mark.slow)])
def test_reading_loads_nothing_heavy(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    server: MlflowServer | None = request.getfixturevalue("mlflow_server") if kind == "server" else None
    uri = sqlite_uri(tmp_path / "mlflow.db") if server is None else server.uri
    ledger = open_study(connect(uri), make_spec())
    for score in (0.5, 0.75):
        finish(ledger, reserve(ledger), score)
    reserve(ledger)  # it runs
    ledger.study.set_status(FINISHED)
    commands = [*READ, *(["stop NAME"] if server is not None else [])]
    done = subprocess.run(
        [sys.executable, "-c", RUN, *(command.replace("NAME", ledger.spec.name) for command in commands)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": uri},
        capture_output=True,
        text=True,
        check=True,
    )
    ends = [line for line in done.stderr.splitlines() if line.startswith("DONE")]
    assert ends == ["DONE 0"] * len(commands), done.stderr
    assert done.stdout.count(ledger.spec.name) >= 5

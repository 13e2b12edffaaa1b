"""Projects of users keep their own names: ours are installed as ``hpo_flows``, ``hpo_core`` and ``mlflow_server``
alone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from hpo_core.base.errors import StudyUnknown
from hpo_core.lineage.opening import find_study
from hpo_core.tracking.connection import connect
from tests.conftest import PATIENCE, MlflowServer, PrefectServer, free_port, wait_until

TRAIN = """
import hpo_core_utils
from flows.data import load

def train(trial):
    assert hpo_core_utils.MINE
    return {"loss": (trial.config["x"] - load()) ** 2}
"""

SCRIPT = """
from flows.train import train
from hpo_flows import Float, run_study

result = run_study(
    train, name="script", space={"x": Float(low=0, high=1)}, metric="loss", trials=2, parallel=2, progress=False
)
print(len(result.history.complete))
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with packages of its own whose names resemble ours."""
    for name in ("flows", "tests", "benchmarks", "examples"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / "hpo_core_utils.py").write_text("MINE = True\n")
    (tmp_path / "flows" / "data.py").write_text("def load():\n    return 0.5\n")
    (tmp_path / "flows" / "train.py").write_text(TRAIN)
    (tmp_path / "script.py").write_text(SCRIPT)
    study = {
        "name": "mine",
        "objective": "flows.train:train",
        "metric": "loss",
        "direction": "minimize",
        "space": {"x": {"type": "float", "low": 0, "high": 1}},
        "stop": {"trials": 3},
        "parallel": 2,
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return tmp_path


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    server = PrefectServer(tmp_path_factory.mktemp("prefect"))
    server.start()
    yield server
    server.stop()


def own(prefect: PrefectServer) -> dict[str, str]:
    """The environment of the project's user; the repository is not on the path."""
    return {key: value for key, value in (os.environ | prefect.environment()).items() if key != "PYTHONPATH"}


def in_project(project: Path, prefect: PrefectServer, *command: str) -> str:
    """Run a command of this environment in the project, as its user would."""
    ended = subprocess.run(
        command, cwd=project, env=own(prefect), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.slow
def test_a_project_with_a_package_called_flows(project: Path, prefect: PrefectServer) -> None:
    hpo = str(Path(sys.executable).with_name("hpo"))
    in_project(project, prefect, hpo, "validate", "study.yaml")
    in_project(project, prefect, hpo, "tune", "study.yaml")
    assert "loss" in in_project(project, prefect, hpo, "best", "mine")
    assert "x" in in_project(project, prefect, hpo, "explain", "mine", "2")
    assert in_project(project, prefect, sys.executable, "script.py").strip() == "2"
    assert len(find_study(connect(), "mine").load().complete) == 3


@contextlib.contextmanager
def running(project: Path, prefect: PrefectServer, *command: str) -> Iterator[Path]:
    """A command that goes on while the project is used; its output."""
    log = project / f"{abs(hash(command))}.log"
    with open(log, "wb") as out:
        process = subprocess.Popen(
            command, cwd=project, env=own(prefect), stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield log
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_a_project_with_a_package_called_flows_on_dask(
    project: Path, prefect: PrefectServer, mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("prefect_dask")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    address, here = f"tcp://127.0.0.1:{free_port()}", ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
    port = address.rpartition(":")[2]
    scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", *here, "--port", port]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", *here, "--nthreads", "1", address]
    hpo = str(Path(sys.executable).with_name("hpo"))
    with running(project, prefect, *scheduler), running(project, prefect, *worker):
        runner = f"runner={{type: dask, address: '{address}'}}"
        in_project(project, prefect, hpo, "tune", "study.yaml", "--set", runner)
    history = find_study(connect(), "mine").load()
    assert len(history.complete) == 3
    assert len({trial.owner for trial in history}) == 1, "one Dask worker has trained all"


@pytest.mark.slow
def test_a_project_with_a_package_called_flows_is_served(project: Path, prefect: PrefectServer) -> None:
    hpo = str(Path(sys.executable).with_name("hpo"))

    def complete() -> int:
        with contextlib.suppress(StudyUnknown):
            return len(find_study(connect(), "mine").load().complete)
        return 0

    with running(project, prefect, hpo, "serve", "study.yaml", "--every", "5") as log:
        wait_until(lambda: complete() == 3, log.read_text)


def test_nothing_here_imports_the_folder_beside_its_link() -> None:
    """Two copies of one module would have two sets of sessions; ``flows`` is a folder, and never a package."""
    assert not [name for name in sys.modules if name == "flows" or name.startswith("flows.")]

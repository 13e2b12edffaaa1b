"""The first minute of a new user: from a fresh clone to the first finished trial, and how soon each command responds.

* install: `make tune` in a clone without an environment and with empty caches of packages, up to its first line, its
  first finished trial and its end; and once more, when everything is installed.
* parts: what must be waited for in any case, in the same environment: a bare Prefect flow that opens MLflow, and a bare
  Python that imports TensorFlow and trains the first trial.
* tune: of trials that do nothing, until the first one runs, beside a bare Prefect flow that opens MLflow; and from the
  end of the last one to the prompt.
* commands: each beside a bare script that imports mlflow and makes one `search_runs` on the same store; those that read
  once more over HTTP. Processor time is what the command itself takes, whatever else the machine does.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import table
from mlflow_server.processes import Process, http_answers

ROOT = Path(__file__).resolve().parents[1]

TRIAL = re.compile(r"\btrial\s+\d+\b.*\bval_accuracy\b")

FLOW = """
import time
from mlflow import MlflowClient
from prefect import flow

@flow
def bare():
    client = MlflowClient("sqlite:///bare.db")
    client.create_run(client.create_experiment("bare"))
    print(time.time())

bare()
"""

TRAINING = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from examples.digits_cnn import train
from hpo_flows.objectives.context import TrialContext
config = {{"learning_rate": 0.001, "filters": 32, "optimizer": "adam"}}
here = Path.cwd()
train(TrialContext(config=config, number=0, seed=0, fidelity=None, scratch=here, outbox=here, send=lambda _: None))
"""

FLOOR = """
from mlflow import MlflowClient
MlflowClient({uri!r}).search_runs(["1"], max_results=50)
"""

READ = ("list", "status nothing", "best nothing", "explain nothing 1", "export nothing", "stop nothing")

COMMANDS = ("--version", "--help", "init fresh", "validate nothing.yaml", *READ)

NOTHING = """
import time
def train(trial):
    with open("moments", "a") as file:
        print(time.time(), file=file)
    return trial.config["x"]
"""

STUDY = """
name: nothing
objective: nothing:train
metric: loss
direction: minimize
space: {x: {type: float, low: 0, high: 1}}
stop: {trials: 10}
"""


def moments(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> list[float]:
    """Seconds to the first line, to the first finished trial, and to the end of `make tune`."""
    began = time.monotonic()
    first = trial = 0.0
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "hpo tune" in line or "requirements/" in line or line.startswith("touch"):
                continue  # what make says
            first = first or time.monotonic() - began
            if not trial and TRIAL.search(line):
                trial = time.monotonic() - began
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return [first, trial, time.monotonic() - began]


def seconds(command: Sequence[str], folder: Path, environment: Mapping[str, str], times: int = 3) -> float:
    return both_times(command, folder, environment, times)[0]


def both_times(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], times: int = 3
) -> tuple[float, float]:
    """Seconds by the clock and of the processor, each the median."""
    taken: list[list[float]] = [[], []]
    for _ in range(times):
        shutil.rmtree(folder / "fresh", ignore_errors=True)
        began = time.monotonic(), processor_time()
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
        taken[0].append(time.monotonic() - began[0])
        taken[1].append(processor_time() - began[1])
    return median(taken[0]), median(taken[1])


def processor_time() -> float:
    """Of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def size(folder: Path) -> float:
    """Gigabytes on disk."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()) / 1e9


def clean(folder: Path) -> dict[str, str]:
    """The environment of a new user, whose caches are empty and lie in a folder."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "PREFECT_", "PYTHON"))}
    caches = {"UV_CACHE_DIR": "uv", "PIP_CACHE_DIR": "pip", "PREFECT_HOME": "prefect"}
    caches = {name: str(folder / path) for name, path in caches.items()}
    return kept | caches


def install(folder: Path) -> Path:
    """Clone, install and tune; prints the table, and returns the clone."""
    clone, environment = folder / "clone", clean(folder)
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    rows: list[list[Any]] = [["from the clone", *moments(["make", "tune"], clone, environment)]]
    for path in (clone / "mlflow.db", clone / "mlartifacts"):
        (shutil.rmtree if path.is_dir() else os.remove)(path)
    rows.append(["once more", *moments(["make", "tune"], clone, environment)])
    python = str(clone / ".venv" / "bin" / "python")
    parts = [
        seconds([python, "-c", FLOW], folder, environment, 1),
        seconds([python, "-c", TRAINING.format(root=str(clone))], folder, environment, 1),
    ]
    shown = [[name, *(f"{each:.1f} s" for each in taken)] for name, *taken in rows]
    print(table(["make tune", "first line", "first trial", "end"], shown))
    print(f"\n.venv: {size(clone / '.venv'):.2f} GB. Bare flow {parts[0]:.1f} s, bare training {parts[1]:.1f} s.")
    print(f"The first trial of the second run takes {rows[1][2] / max(parts):.2f} of the longer one.\n")
    return clone


def until_it_runs(folder: Path, python: str, environment: dict[str, str]) -> float:
    """Seconds until a bare flow has its run in MLflow."""
    (folder / "bare.db").unlink(missing_ok=True)
    began = time.time()
    patient = environment | {"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300"}  # by default 20
    ran = subprocess.run([python, "-c", FLOW], cwd=folder, env=patient, check=True, capture_output=True)
    return float(ran.stdout.split()[-1]) - began


def tuned(folder: Path, tune: Sequence[str], environment: Mapping[str, str]) -> list[float]:
    """Seconds until the first trial of a new study runs, from the last one to the prompt, and in all."""
    for name in ("moments", "mlflow.db"):
        (folder / name).unlink(missing_ok=True)
    began = time.time()
    subprocess.run(tune, cwd=folder, env=environment, check=True, capture_output=True)
    ended = time.time()
    moments = [float(line) for line in (folder / "moments").read_text(encoding="utf-8").split()]
    return [min(moments) - began, ended - max(moments), ended - began]


def commands(folder: Path, python: str) -> None:
    environment = clean(folder)
    (folder / "nothing.yaml").write_text(STUDY, encoding="utf-8")
    (folder / "nothing.py").write_text(NOTHING, encoding="utf-8")
    tune = [str(Path(python).with_name("hpo")), "tune", "nothing.yaml"]
    bare = median(until_it_runs(folder, python, environment) for _ in range(3))
    first, prompt, total = map(median, zip(*(tuned(folder, tune, environment) for _ in range(3)), strict=True))
    print(
        f"tune, 10 trials that do nothing: {total:.1f} s. The first runs after {first:.1f} s, {first / bare:.2f} of a",
        end=" ",
    )
    print(f"bare flow's {bare:.1f} s; back at the prompt {prompt:.1f} s after the last.\n")
    beside_floor("sqlite", COMMANDS, f"sqlite:///{folder}/mlflow.db", folder, python, environment)
    with server(folder, python, environment) as uri:
        seconds(tune, folder, environment | {"MLFLOW_TRACKING_URI": uri}, 1)
        beside_floor("HTTP", READ, uri, folder, python, environment)


def beside_floor(
    store: str, commands: Sequence[str], uri: str, folder: Path, python: str, environment: Mapping[str, str]
) -> None:
    """Measure commands and the floor on a store, and print the table."""
    environment = {**environment, "MLFLOW_TRACKING_URI": uri}
    hpo = str(Path(python).with_name("hpo"))
    calls = {"floor": [python, "-c", FLOOR.format(uri=uri)]} | {each: [hpo, *each.split()] for each in commands}
    taken = {name: both_times(call, folder, environment) for name, call in calls.items()}
    rows = [
        [name, f"{clock:.2f} s", f"{processor:.2f} s", f"{processor / taken['floor'][1]:.2f}"]
        for name, (clock, processor) in taken.items()
    ]
    print(table([f"over {store}", "median of 3", "processor", "of the floor's"], rows), "\n")


@contextmanager
def server(folder: Path, python: str, environment: Mapping[str, str]) -> Iterator[str]:
    """An MLflow server of its own; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [python, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/server.db"]
    command += ["--artifacts-destination", str(folder / "artifacts"), "--workers", "1", "--port", str(port)]
    uri = f"http://127.0.0.1:{port}"
    process = Process(
        "MLflow",
        command,
        http_answers(f"{uri}/health"),
        environment={**environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        log=Path(os.devnull),
    )
    process.start()
    try:
        yield uri
    finally:
        process.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=["install", "commands"], help="measure one of the two")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder, python = Path(made), sys.executable
        if given.only != "commands":
            python = str(install(folder) / ".venv" / "bin" / "python")
        if given.only != "install":
            (folder / "studies").mkdir()
            commands(folder / "studies", python)


if __name__ == "__main__":
    main()

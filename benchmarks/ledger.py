"""The ledger as studies grow, and Optuna over mlflow's own ``MlflowStorage`` on the same server.

Each row is measured in a process of its own, which has imported everything and opened the study before the clock
starts. ``--peer SECONDS`` is how long Optuna gets; it needs ``make peers``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.measure import counted_requests, growth, middle, milliseconds, mlflow_server, table
from benchmarks.population import finish, populate, reserve, ten_floats
from hpo_core.history.trial import Trial

SIZES = (100, 1_000, 10_000)
ROUNDS = 10
PEER = Path(".venv-peers/optuna/bin/python")


def new_process(uri: str, name: str) -> dict[str, Any]:
    """What a new process measures on a study; leaves a few more trials and a snapshot."""
    from hpo_core.lineage.opening import find_study, open_study
    from hpo_core.tracking.connection import connect

    open_study(connect(uri), ten_floats("warm-up"))
    ledger = find_study(connect(uri), name)
    memory = psutil.Process().memory_info().rss
    found: dict[str, Any] = {"snapshot": "hpo.snapshot" in ledger.study_run.tags}
    found["load"] = milliseconds(ledger.load) / 1000
    found["memory"] = (psutil.Process().memory_info().rss - memory) / 2**20
    found["trials"] = len(ledger.history())
    found["reload"] = middle(ledger.load, ROUNDS)
    with counted_requests() as sent:
        times = [one_trial(ledger) for _ in range(ROUNDS)]
    found["reserve"] = median(times)
    found["requests"] = len(sent) / ROUNDS if sent else None
    ledger.load()
    ledger.save_snapshot()
    return found


def one_trial(ledger: Any) -> float:
    """A round of the loop; returns how long the reservation took."""
    history = ledger.look()
    trials: list[Trial] = []
    taken = milliseconds(lambda: trials.append(reserve(ledger, history)))
    finish(ledger, trials[0])
    return taken


def from_empty(uri: str, seconds: float) -> list[tuple[int, float, float]]:
    """Our trials, one after the other, in a new study: number, milliseconds and requests of a trial around it."""
    from hpo_core.lineage.opening import open_study
    from hpo_core.tracking.connection import connect

    ledger = open_study(connect(uri), ten_floats("from empty"))
    return growth(lambda: one_trial(ledger), seconds)


def in_process(*arguments: Any) -> Any:
    """Run this file in a new process and read what it prints last."""
    command = [sys.executable, "-m", "benchmarks.ledger", *map(str, arguments)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.strip().splitlines()[-1])


def scale(uri: str, database: str, sizes: Sequence[int]) -> list[list[Any]]:
    """The rows of one store."""
    from hpo_core.lineage.opening import open_study
    from hpo_core.tracking.connection import connect

    rows = []
    for size in sizes:
        name = f"study of {size}"
        populate(open_study(connect(uri), ten_floats(name)), database, size)
        full = in_process("--new-process", uri, name)
        quick = in_process("--new-process", uri, name)
        kept = quick if quick["snapshot"] else {}
        where = "sqlite" if uri == database else "server"
        row = [where, size, full["load"], kept.get("load"), quick["reload"], quick["reserve"], quick["requests"]]
        rows.append([*row, full["memory"], kept.get("memory")])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--peer", type=float, default=120, help="seconds for Optuna")
    parser.add_argument("--new-process", nargs=2)
    parser.add_argument("--from-empty", nargs=2)
    given = parser.parse_args()
    if given.new_process:
        print(json.dumps(new_process(*given.new_process)))
        return
    if given.from_empty:
        print(json.dumps(from_empty(given.from_empty[0], float(given.from_empty[1]))))
        return
    with tempfile.TemporaryDirectory() as folder, mlflow_server(Path(folder)) as (uri, database):
        direct = f"sqlite:///{folder}/direct.db"
        rows = scale(direct, direct, given.sizes) + scale(uri, database, given.sizes)
        head = ["store", "trials", "load, s", "with snapshot, s", "reload, ms", "reserve, ms", "requests a trial"]
        print(table([*head, "memory, MiB", "with snapshot, MiB"], rows), "\n", flush=True)
        print(
            table(["over the server", "trial", "ms a trial", "requests a trial"], beside_optuna(uri, given.peer)), "\n"
        )


def beside_optuna(uri: str, seconds: float) -> list[list[Any]]:
    ours = [["ours", *point] for point in in_process("--from-empty", uri, seconds)]
    if not PEER.exists():
        return [*ours, ["Optuna: see `make peers`", None, None, None]]
    script = [str(PEER), "-m", "benchmarks.optuna_mlflow", uri, str(seconds)]
    output = subprocess.run(script, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = json.loads(output.strip().splitlines()[-1])
    return [*ours, *(["Optuna", *point] for point in found)]


if __name__ == "__main__":
    main()

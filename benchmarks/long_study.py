"""One study of very many trials: how long it takes to read it, to propose, and to report, and in how much memory.

    python -m benchmarks.long_study                                       # shows what grows faster than the trials
    python -m benchmarks.long_study --trials 100000 --database long.db    # made once, in minutes

Everything is measured in a new process, over a database file. Times are processor time, which other load on the machine
changes little; memory is the most that the process had, beyond what it had before it read the study.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.measure import table
from benchmarks.population import finish, populate, reserve, ten_floats
from hpo_core.ledger.tags import Tag

GOALS = {"load, s": 5, "memory, MiB": 500, "reload, ms": 20, "tpe, ms": 200}

ROUNDS = 5

COMMANDS = ("status", "best", "list", "export", "report")

NAME = "big"


def milliseconds(call: Callable[[], Any]) -> float:
    """The processor time of a call."""
    began = time.process_time()
    call()
    return 1000 * (time.process_time() - began)


def first_read(uri: str) -> dict[str, Any]:
    """What a flow needs that finds no snapshot; leaves one."""
    from hpo_core.lineage.opening import find_study
    from hpo_core.tracking.connection import connect

    ledger = find_study(connect(uri), NAME)
    run = ledger.study_run
    ledger.study.run = replace(run, tags={key: text for key, text in run.tags.items() if key != Tag.SNAPSHOT})
    found = {"first read, s": milliseconds(ledger.load) / 1000}
    found["write snapshot, s"] = milliseconds(ledger.save_snapshot) / 1000
    return found


def later_read(uri: str) -> dict[str, Any]:
    """What a flow needs that finds a snapshot, and each of its rounds."""
    from hpo_core.lineage.opening import find_study, open_study
    from hpo_core.study.sections import StrategySpec
    from hpo_core.tracking.connection import connect

    open_study(connect(uri), ten_floats("warm-up"))
    ledger = find_study(connect(uri), NAME)
    before = psutil.Process().memory_info().rss / 2**20
    assert Tag.SNAPSHOT in ledger.study_run.tags
    found: dict[str, Any] = {"load, s": milliseconds(ledger.load) / 1000}
    found["memory, MiB"] = peak() - before
    history = ledger.history()
    found["trials"] = len(history)
    found["reload, ms"] = median(milliseconds(ledger.load) for _ in range(ROUNDS))

    def one_round() -> None:
        finish(ledger, reserve(ledger, ledger.look()))

    one_round()
    found["a round, ms"] = median(milliseconds(one_round) for _ in range(ROUNDS))
    for name in ("tpe", "bayesian"):
        spec = ledger.spec.model_copy(update={"strategy": StrategySpec(name=name)})
        found[f"first {name}, ms"] = milliseconds(lambda spec=spec: spec.propose(ledger.look(), 1))
        times = []
        for _ in range(ROUNDS):  # each after a trial that is new
            one_round()
            history = ledger.look()
            times.append(milliseconds(lambda spec=spec, history=history: spec.propose(history, 1)))
        found[f"{name}, ms"] = median(times)
    return found


def peak() -> float:
    """The most memory that this process had, in MiB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


STEPS = {"first": first_read, "later": later_read}


def in_process(step: str, uri: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.long_study", "--step", step, uri]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return found


def command(name: str, uri: str, folder: Path) -> dict[str, Any]:
    """Processor time and memory of a command, and how much it wrote."""
    arguments = {"list": [], "export": [NAME, "--out", f"{folder}/trials.csv"], "report": [NAME, "--out", str(folder)]}
    given = [sys.executable, "-m", "hpo_flows.cli", name, *arguments.get(name, [NAME])]
    with subprocess.Popen(given, stdout=subprocess.DEVNULL, env=os.environ | {"MLFLOW_TRACKING_URI": uri}) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"hpo {name} failed"
    written = max((file.stat().st_size for file in folder.iterdir()), default=0)
    for file in folder.iterdir():
        file.unlink()
    return {
        "command": name,
        "processor, s": used.ru_utime + used.ru_stime,
        "memory, MiB": used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10),
        "file, MiB": written / 2**20 or None,
    }


def make(database: Path, trials: int) -> str:
    """The database with a study of so many trials, made unless it is there; returns its URI."""
    from hpo_core.lineage.opening import open_study
    from hpo_core.tracking.connection import connect

    uri = f"sqlite:///{database.absolute()}"
    if not database.exists():
        populate(open_study(connect(uri), ten_floats(NAME, 10 * trials)), uri, trials)
    return uri


def measure(database: Path, trials: int) -> dict[str, Any]:
    """One row of the table; prints what the commands needed."""
    with ProcessPoolExecutor(1, get_context("spawn")) as apart:  # a child's peak begins with what its parent holds
        uri = apart.submit(make, database, trials).result()
    found = {step: in_process(step, uri) for step in STEPS}
    with tempfile.TemporaryDirectory() as folder:
        rows = [command(name, uri, Path(folder)) for name in COMMANDS]
    print(
        f"{found['later']['trials']} trials:\n{table(list(rows[0]), [list(row.values()) for row in rows])}\n",
        flush=True,
    )
    return {"trials": found["later"].pop("trials"), **found["first"], **found["later"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[5_000, 20_000])
    parser.add_argument("--database", type=Path, default=None, help="kept, and used again; for one number of trials")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step is not None:
        print(json.dumps(STEPS[given.step[0]](given.step[1])))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(given.database or Path(folder) / f"{trials}.db", trials) for trials in given.trials]
    columns = [[name, *(row[name] for row in rows), GOALS.get(name)] for name in rows[0] if name != "trials"]
    print(table(["trials", *(str(row["trials"]) for row in rows), "goal at 100,000"], columns))


if __name__ == "__main__":
    main()

"""How many flows a team's servers carry: flows of some slots on one study or several, over MLflow on PostgreSQL.

    python -m benchmarks.scale --flows 1 2 4 --slots 2 --minutes 2            # flows as users start them
    python -m benchmarks.scale --flows 1 2 4 8 --slots 8 --minutes 1 --light  # without Prefect and workers
    python -m benchmarks.scale --flows 32 --studies 1 8 --slots 8 --seconds 60 --minutes 10 --light

Each trial trains for ``--seconds`` (none by default). For each number of flows: trials and requests to MLflow a second,
claims lost, processors that each server and the flows used, over the time in which all flows were at work. They begin
together, once all have loaded what they need. Checked at the end: no number and no configuration twice, nothing
running, no result lost.

``--light`` flows do what a flow does with the ledger, and nothing else: so they leave the machine to the servers, and
show what those carry. PostgreSQL must be installed, and ``rclone``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from itertools import product
from pathlib import Path
from subprocess import PIPE
from typing import Any

import psutil

from benchmarks.measure import table
from benchmarks.population import METRICS, NAMES, finish, ten_floats
from hpo_core.history.trial import Trial
from hpo_core.ledger.ledger import Report
from mlflow_server.team import Ports, Team

REQUEST = re.compile(r'"(?:GET|POST|PUT|PATCH|DELETE) (\S+) HTTP')


# -- the flows ------------------------------------------------------------------------------------------------------


def whole_flow(name: str, slots: int, minutes: float, seconds: float) -> list[str]:
    """Tune a study as a user does; returns the runs that this flow has finished."""
    from hpo_core import Float
    from hpo_flows.api import run_study

    wait_for_the_others()
    finished: list[str] = []

    def train(trial: Any) -> dict[str, float]:
        time.sleep(seconds)
        return {"loss": sum(trial.config.values())} | dict.fromkeys(METRICS, 0.5)

    run_study(
        train,
        name=name,
        space={key: Float(low=0.0, high=1.0) for key in NAMES},
        metric="loss",
        strategy="random",
        stop={"minutes": minutes},
        parallel=slots,
        progress=False,
    )
    return finished


def wait_for_the_others() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def light_flow(name: str, slots: int, minutes: float, seconds: float) -> list[str]:
    """Do what a flow does with the ledger; returns the runs that it has finished."""
    from hpo_core.lineage.opening import open_study
    from hpo_core.tracking.connection import connect
    from hpo_flows.loop.tune import HEAR_SECONDS
    from hpo_flows.trials.recorder import FIRST_WRITE_SECONDS

    ledger = open_study(connect(), ten_floats(name))
    wait_for_the_others()
    due, free, finished = list[tuple[float, int, Trial, bool]](), slots, list[str]()
    ends, heard = time.monotonic() + 60 * minutes, time.monotonic()
    while free < slots or time.monotonic() < ends:
        if time.monotonic() > heard + HEAR_SECONDS:
            ledger.hear()
            heard = time.monotonic()
        lost = False
        if free and time.monotonic() < ends:
            history = ledger.look()
            while free and not lost:
                if lost := (trial := ledger.reserve(ledger.spec.propose(history, 1)[0], history)) is None:
                    time.sleep(ledger.backoff.seconds())
                    continue
                free, now = free - 1, time.monotonic()
                history = history.with_trials([trial])
                for when, last in [(FIRST_WRITE_SECONDS, False), (seconds, True)]:
                    if when <= seconds:
                        heappush(due, (now + when, trial.number, trial, last))
        if due and (not lost or due[0][0] <= time.monotonic()):
            when, _, trial, last = heappop(due)
            time.sleep(max(0.0, when - time.monotonic()))
            if not last:  # from here on others see that it is a trial, without a claim on its behalf
                ledger.write(Report(trial.run_id, params=ledger.spec.search_space.to_params(trial.config)))
                continue
            finish(ledger, trial)
            finished.append(trial.run_id)
            free += 1
    return finished


# -- the servers ----------------------------------------------------------------------------------------------------


def free_ports() -> Ports:
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(4)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return Ports(*(listener.getsockname()[1] for listener in listeners))


@contextlib.contextmanager
def team(workers: int | None, prefect: bool) -> Iterator[tuple[Team, dict[str, psutil.Process]]]:
    """A team's servers, and their processes by name."""
    with tempfile.TemporaryDirectory(prefix="hpo-scale-") as folder:
        os.chmod(folder, 0o755)  # root starts PostgreSQL as another user
        servers = Team(Path(folder), free_ports())
        names = ("postgres", "s3", "mlflow", *(["prefect"] if prefect else []))
        with (
            servers.claimed(*names),
            servers.stores() as stores,
            servers.servers(prefect=prefect, workers=workers) as others,
        ):
            own = {tuple(each.cmdline()): each for each in psutil.Process().children()}
            found = {each.name: own.get(tuple(each.command)) for each in [*stores, *others]}
            yield servers, {name: process for name, process in found.items() if process is not None}


def processor_seconds(process: psutil.Process) -> float:
    """Of a process and all below it that still run, and those that it has waited for."""
    used = 0.0
    with contextlib.suppress(psutil.Error):
        for each in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                times = each.cpu_times()
                used += times.user + times.system + times.children_user + times.children_system
    return used


class Requests:
    """How often each of MLflow's paths was asked for, from its log from now on."""

    def __init__(self, log: Path) -> None:
        self._log, self._read, self._rest, self._counts = log, log.stat().st_size, b"", Counter[str]()

    def so_far(self) -> Counter[str]:
        with self._log.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        self._read += len(text)
        *lines, self._rest = (self._rest + text).split(b"\n")
        for line in lines:
            if found := REQUEST.search(line.decode(errors="replace")):
                self._counts[found.group(1).split("?")[0]] += 1
        return self._counts.copy()


# -- a measurement --------------------------------------------------------------------------------------------------


def measure(
    servers: Team, watched: dict[str, psutil.Process], flows: int, studies: int, given: argparse.Namespace
) -> dict[str, Any]:
    """Run so many flows on so many studies, and tell what they and the servers did while all were at work."""
    from hpo_core.lineage.opening import find_study
    from hpo_core.tracking.connection import connect

    os.environ.update(servers.client_environment)
    names = [f"{studies} studies, {flows} flows: {i % studies}" for i in range(flows)]
    kind = "--light-flow" if given.light else "--whole-flow"
    command = [sys.executable, "-m", "benchmarks.scale", kind]
    settings = [str(given.slots), str(given.minutes), str(given.seconds)]
    environment = os.environ | {"HPO_HOME": str(servers.folder / "hpo"), "PREFECT_LOGGING_LEVEL": "CRITICAL"}
    started = [
        subprocess.Popen([*command, name, *settings], stdin=PIPE, stdout=PIPE, text=True, env=environment)
        for name in names
    ]
    for each in started:
        while each.stdout.readline().strip() != "ready":
            assert each.poll() is None, "a flow has not begun"
    for each in started:
        each.stdin.write("\n")
        each.stdin.flush()
    everything = watched | {f"flow {i}": psutil.Process(each.pid) for i, each in enumerate(started)}
    samples: list[tuple[float, dict[str, float], Counter[str]]] = []
    requests = Requests(servers.folder / "mlflow.log")
    while all(each.poll() is None for each in started):
        used = {name: processor_seconds(process) for name, process in everything.items()}
        samples.append((time.time(), used, requests.so_far()))
        time.sleep(1)
    finished = [run for each in started for run in json.loads(each.communicate()[0].strip().splitlines()[-1])]
    assert all(each.returncode == 0 for each in started)
    histories = [find_study(connect(), name).load() for name in sorted(set(names))]
    trials = [trial for history in histories for trial in history]
    check(histories, finished)

    begun = (
        max(min(trial.start for trial in trials if trial.owner == owner) for owner in {t.owner for t in trials}) / 1000
    )
    window = [sample for sample in samples if sample[0] >= begun]
    (start, before, asked), (end, after, asked_then) = window[0], window[-1]
    span, asked_then = end - start, asked_then - asked
    ended = sum(start <= (trial.end or 0) / 1000 < end for trial in trials)
    shares = {name: (after[name] - before[name]) / span for name in before}
    return {
        "flows": flows,
        "studies": studies,
        "trials/s": ended / span,
        "requests/s": asked_then.total() / span,
        "requests a trial": asked_then.total() / max(ended, 1),
        "lost claims a trial": asked_then["/api/2.0/mlflow/runs/delete"] / max(ended, 1),
        **{name: shares[name] for name in watched},
        "flows' processors": sum(share for name, share in shares.items() if name not in watched),
        "trials": len(trials),
    }


def check(histories: Sequence[Any], finished: Sequence[str]) -> None:
    """Nothing double, nothing lost."""
    for history in histories:
        assert [trial.number for trial in history] == list(range(len(history))), "a number is missing"
        fresh = [trial.identity for trial in history if trial.repeat_of is None and "retry_of" not in trial.notes]
        assert len(set(fresh)) == len(fresh), "a configuration twice"
        assert not history.running and not history.failed, "a trial did not end well"
    complete = {trial.run_id for history in histories for trial in history}
    assert complete >= set(finished), "a result was lost"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flows", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--studies", type=int, nargs="+", default=[1], help="at most as many as flows")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seconds", type=float, default=0.0, help="that each trial trains")
    parser.add_argument("--workers", type=int, default=None, help="of MLflow; by default as many as fit")
    parser.add_argument("--light", action="store_true")
    for kind in ("--light-flow", "--whole-flow"):
        parser.add_argument(kind, nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    for run, asked in ((light_flow, given.light_flow), (whole_flow, given.whole_flow)):
        if asked is not None:
            name, slots, minutes, seconds = asked
            print(json.dumps(run(name, int(slots), float(minutes), float(seconds))))
            return
    rows: list[dict[str, Any]] = []
    with team(given.workers, prefect=not given.light) as (servers, watched):
        pairs = dict.fromkeys((flows, min(flows, studies)) for flows, studies in product(given.flows, given.studies))
        for flows, studies in pairs:
            rows.append(measure(servers, watched, flows, studies, given))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(table(list(rows[0]), [list(row.values()) for row in rows]))
    print(f"{os.cpu_count()} processors; nothing double, nothing lost")


if __name__ == "__main__":
    main()

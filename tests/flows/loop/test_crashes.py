"""The crash matrix: kill -9 of the flow, of a trial's process, of all at once, and at fifty random moments."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from hpo_core.base.errors import InputError
from hpo_core.history.history import History
from hpo_core.lineage.opening import find_study
from hpo_core.tracking.connection import connect
from hpo_flows.workers import child as training_process
from tests.conftest import PATIENCE, SEED
from tests.flows.loop.test_faults import check_whole
from tests.studies import _somewhere_else as _somewhere_else
from tests.studies import gated, let_pass, make_spec, start, wait_for_complete, write_study

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.slow]


def kill_flow(flow: psutil.Process) -> None:
    flow.kill()


def kill_worker(flow: psutil.Process) -> None:
    workers = [child for child in flow.children(recursive=True) if training_process.__name__ in child.cmdline()]
    random.choice(workers).kill()


def kill_all(flow: psutil.Process) -> None:
    """What a machine's power failure does."""
    everyone = [flow, *flow.children(recursive=True)]
    for process in everyone:
        process.suspend()
    for process in everyone:
        process.kill()


def terminate(flow: psutil.Process) -> None:
    flow.terminate()


def interrupt(flow: psutil.Process) -> None:
    os.kill(flow.pid, signal.SIGINT)


def now_in_mlflow() -> History:
    """The study as somebody sees it who has only MLflow; nothing is settled or reaped by looking."""
    try:
        return find_study(connect(), "study").load()
    except InputError:  # killed before the study was there
        return History()


def check_kept(before: History, after: History) -> None:
    """Whatever was complete is so still, with the same result, in the same run."""
    kept = {trial.number: (trial.run_id, trial.config, trial.loss) for trial in after.complete}
    for trial in before.complete:
        assert kept[trial.number] == (trial.run_id, trial.config, trial.loss)
    assert [trial.number for trial in after] == list(range(len(after)))


@pytest.mark.parametrize("kill", [kill_flow, kill_worker, kill_all, terminate, interrupt])
def test_after_any_death_the_study_ends_as_if_nothing_had_been(
    kill: Callable[[psutil.Process], None], tmp_path: Path
) -> None:
    path = write_study(tmp_path, "gated", space=gated(tmp_path, 5), stop={"trials": 20})
    flow = start(path)
    before = wait_for_complete(5)
    kill(psutil.Process(flow.pid))
    let_pass(tmp_path)
    flow.communicate(timeout=PATIENCE)
    resumed = start(path)
    output, _ = resumed.communicate(timeout=PATIENCE)
    assert resumed.returncode == 0, output
    history = now_in_mlflow()
    check_kept(before, history)
    check_whole(history, 20)
    assert history.incumbent is not None
    assert history.incumbent.loss == min(trial.loss for trial in history.complete if trial.loss is not None)
    assert f"Best: trial {history.incumbent.number}" in output


def test_killed_at_fifty_random_moments(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    path = write_study(tmp_path, stop={"trials": 10_000}, rerun_lost=100)  # not to be used up
    history = History()
    kills = 0
    while kills < 50:
        flow = start(path)
        if kills % 2:  # in the middle of training and reporting, however slow the machine
            wait_for_complete(len(history.complete) + 1)
            time.sleep(rng.uniform(0, 2))
        else:  # while it imports, starts, creates the study, begins to train
            time.sleep(rng.uniform(0, 16))
        assert flow.poll() is None
        rng.choice([kill_flow, kill_all])(psutil.Process(flow.pid))
        kills += 1
        flow.communicate(timeout=PATIENCE)
        after = now_in_mlflow()
        check_kept(history, after)
        history = after
    assert len(history.complete) >= 25
    total = make_spec(rerun_lost=100).started(history) + 4
    more = start(path, "--trials", str(total))
    output, _ = more.communicate(timeout=PATIENCE)
    assert more.returncode == 0, output
    final = now_in_mlflow()
    check_kept(history, final)
    check_whole(final, total)
    lost = {str(trial.number) for trial in final.failed if trial.notes.get("lost")}
    retried = {str(trial.notes["retry_of"]) for trial in final if "retry_of" in trial.notes}
    assert retried <= lost
    print(f"{kills} kills, {len(final)} trials, {len(lost)} lost, {len(retried)} of them tried again")

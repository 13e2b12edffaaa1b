"""Trials in the study's own process: what they keep of a study in worker processes, and what only they have."""

from __future__ import annotations

import os
import pty
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpo_core.history.history import History
from hpo_core.lineage.opening import find_study
from hpo_core.space.parameters import Float
from hpo_core.tracking.connection import connect
from hpo_flows.api import run_study
from hpo_flows.objectives.context import TrialContext
from hpo_flows.trials import recorder
from hpo_flows.workers.output import PRINTED
from tests.conftest import PATIENCE, wait_until
from tests.objectives import epochs
from tests.studies import _somewhere_else as _somewhere_else
from tests.studies import environment, gated, let_pass, make_spec, start, tune, wait_for_complete, write_study

pytestmark = pytest.mark.usefixtures("prefect_server")

BOTH = ["process", "none"]
SPACE = {"x": Float(low=0, high=1)}


# -- the same study -------------------------------------------------------------------------------------------------


def unsteady(trial: TrialContext) -> dict[str, float]:
    """As ``epochs``, with global generators, but every third trial raises at its first attempt and trial 5 at each."""
    print(f"trial {trial.number}")
    mark = Path(os.environ["HPO_TEST_MARKS"]) / f"{os.environ['HPO_TEST_ISOLATION']}-{trial.number}"
    if trial.number == 5 or (trial.number % 3 == 0 and not mark.exists()):
        mark.touch()
        raise RuntimeError(f"on purpose, {random.random()}")
    return epochs(trial) | {"drawn": random.random()}


def told(history: History) -> list[Any]:
    """What is known of each trial but for its run and its times."""
    return [
        (
            (trial.number, trial.config, trial.state, trial.loss, trial.fidelity, trial.parent, trial.reason),
            (trial.rungs, sorted(trial.metrics.items())),
        )
        for trial in history
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"strategy": "successive_halving", "fidelity": {"name": "epochs", "min": 1, "max": 9, "eta": 3}},
        pytest.param({"strategy": "random", "early_stop": {"rule": "median", "first": 2}}, marks=pytest.mark.slow),
        pytest.param({"strategy": "random", "final": {"top": 2, "folds": 2}}, marks=pytest.mark.slow),
    ],
    ids=lambda settings: list(settings)[-1],
)
def test_the_same_study_has_the_same_trials_wherever_they_train(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for isolation in BOTH:
        monkeypatch.setenv("HPO_TEST_ISOLATION", isolation)
        spec = make_spec(
            name=f"in-{isolation}", isolation=isolation, parallel=1, retries=1, stop={"trials": 9}, **settings
        )
        result = tune(spec.model_copy(update={"objective": f"{__name__}:unsteady"}))
        found[isolation] = told(result.history)
        printed = connect().download(result.history.complete[0].run_id, PRINTED)
        assert printed is not None and b"trial 0\n" in printed and b"attempt 1: RuntimeError: on purpose" in printed
    assert found["none"] == found["process"]
    assert any(facts[-1].startswith("RuntimeError: on purpose, 0.") for facts, _ in found["none"])


# -- what only this process has -------------------------------------------------------------------------------------


def test_a_trial_trains_in_the_main_thread_on_the_scripts_own_objects(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stream, seen = (number for number in range(100)), []  # a generator can be neither copied nor pickled

    def objective(trial: TrialContext) -> float:
        seen.append((next(stream), os.getpid(), threading.current_thread() is threading.main_thread()))
        print("out of", trial.number)
        os.chdir(trial.scratch)
        os.environ["HPO_TEST_LEFT"] = "here"
        np.random.random()
        return float(trial.config["x"])  # type: ignore[arg-type]

    def state() -> list[object]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_LOGGING")}
        return [os.getcwd(), ours, np.random.get_state()[1].tolist(), sys.stdout, signal.getsignal(signal.SIGINT)]

    before = state()
    result = run_study(objective, name="here", space=SPACE, metric="loss", trials=3, isolation="none", progress=False)
    assert state() == before
    assert seen == [(number, os.getpid(), True) for number in range(3)]
    assert capsys.readouterr().out == "out of 0\nout of 1\nout of 2\n"
    assert [connect().download(trial.run_id, PRINTED) for trial in result.history] == [
        f"out of {number}\n".encode() for number in range(3)
    ]


def test_a_trial_whose_run_is_gone_ends_at_its_next_report(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.setattr(recorder, "FIRST_WRITE_SECONDS", 0.1)
    monkeypatch.setattr(recorder, "WRITE_SECONDS", 0.1)
    steps = []

    def objective(trial: TrialContext) -> float:
        if trial.number == 0:
            client = MlflowClient(os.environ["HPO_TEST_URI"])
            [experiment] = client.search_experiments(filter_string="name = 'gone'")
            [run] = client.search_runs([experiment.experiment_id], "tags.`hpo.role` = 'trial'")
            client.delete_run(run.info.run_id)
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline:
                steps.append(trial.report(len(steps), {"curve": 1.0}))
                time.sleep(0.01)
        return 1.0

    result = run_study(objective, name="gone", space=SPACE, metric="loss", trials=3, isolation="none", progress=False)
    assert [trial.number for trial in result.history] == [1, 2] and steps


# -- signals and the debugger ---------------------------------------------------------------------------------------


class Terminal:
    """A process that has a terminal."""

    def __init__(self, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hpo_flows.cli", *arguments],
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env=environment() | {"TERM": "xterm"},
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(theirs)
        self.said = ""

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def wait_for(self, text: str) -> None:
        """Read until the process has said something, after what was waited for before."""
        until = time.monotonic() + PATIENCE
        while text not in self.said:
            assert time.monotonic() < until, self.said
            self.said += os.read(self._ours, 4096).decode(errors="replace")
        self.said = self.said.partition(text)[2]

    def end(self) -> int:
        try:
            while True:
                self.said += os.read(self._ours, 4096).decode(errors="replace")
        except OSError:  # the terminal's other side is closed
            pass
        os.close(self._ours)
        return self.process.wait(PATIENCE)


def heedless(trial: TrialContext) -> float:
    """Trial 1 takes Ctrl-C for its own, as some libraries do, and answers as if nothing had been."""
    if trial.number == 1:
        try:
            print("it trains", flush=True)
            time.sleep(PATIENCE)
        except KeyboardInterrupt:
            print("it was told", flush=True)
    return float(trial.number)


def watched(trial: TrialContext) -> float:
    answer = 42.0
    if trial.number == 1:
        breakpoint()
    return answer


@pytest.mark.slow
def test_ctrl_c_interrupts_the_training_at_once_and_its_run_says_so(tmp_path: Path) -> None:
    path = write_study(tmp_path, isolation="none", parallel=1, stop={"trials": 3})
    path.write_text(path.read_text().replace("tests.objectives:slow", f"{__name__}:heedless"))
    terminal = Terminal("tune", str(path))
    terminal.wait_for("it trains")
    terminal.type("\x03")
    terminal.wait_for("it was told")
    assert terminal.end() == 130, terminal.said
    assert "to go on" in terminal.said and "Traceback" not in terminal.said
    study = find_study(connect(), "study")
    history = study.load()
    assert study.study_run.status == "KILLED" and not history.running
    assert [(trial.number, trial.loss, trial.notes.get("lost")) for trial in history] == [
        (0, 0.0, None),
        (1, None, "interrupted"),
    ]
    resumed = start(path, "--set", "isolation=process")
    output, _ = resumed.communicate(timeout=PATIENCE)
    assert resumed.returncode == 0, output
    assert {trial.loss for trial in find_study(connect(), "study").load().complete} == {0.0, 2.0, 3.0}


@pytest.mark.slow
@pytest.mark.parametrize("leave", ["c", "q"])
def test_a_breakpoint_opens_the_debugger_on_the_terminal(leave: str, tmp_path: Path) -> None:
    """The study has what only processes can give, which debugging leaves out, for this run alone."""
    path = write_study(tmp_path, parallel=2, trial_timeout=0.5, stop={"trials": 3})
    path.write_text(path.read_text().replace("tests.objectives:slow", f"{__name__}:watched"))
    terminal = Terminal("tune", str(path), "--debug")
    terminal.wait_for("parallel and trial_timeout do not apply")
    terminal.wait_for("(Pdb) ")
    terminal.type("p answer + trial.number\n")
    terminal.wait_for("43.0")
    time.sleep(1)  # longer than the study's timeout
    terminal.type(f"{leave}\n")
    assert terminal.end() == (0 if leave == "c" else 130), terminal.said
    study = find_study(connect(), "study")
    assert (study.spec.isolation, study.spec.parallel, study.spec.trial_timeout) == ("process", 2, 0.5)
    history = study.load()
    assert [trial.loss for trial in history] == ([42.0] * 3 if leave == "c" else [42.0, None])
    if leave == "q":
        assert history.failed[0].notes.get("lost") == "interrupted"


@pytest.mark.slow
def test_a_killed_process_goes_on_from_mlflow(tmp_path: Path) -> None:
    path = write_study(tmp_path, "gated", space=gated(tmp_path, 2), stop={"trials": 4}, isolation="none", parallel=1)
    flow = start(path)
    before = wait_for_complete(2)
    wait_until(lambda: find_study(connect(), "study").load().running, "the third does not begin")
    os.kill(flow.pid, signal.SIGKILL)
    flow.communicate(timeout=PATIENCE)
    let_pass(tmp_path)
    resumed = start(path)
    output, _ = resumed.communicate(timeout=PATIENCE)
    assert resumed.returncode == 0, output
    history = find_study(connect(), "study").load()
    assert len(history.complete) == 4 and not history.running
    assert [trial.number for trial in history.lost] == [2]
    assert {trial.run_id for trial in before.complete} <= {trial.run_id for trial in history.complete}

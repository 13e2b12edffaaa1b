"""Between one trial and the next, in one worker process: what is put back, and whose output is whose."""

from __future__ import annotations

import decimal
import io
import itertools
import locale
import logging
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo_flows.objectives.context import TrialContext
from hpo_flows.objectives.reference import Objective
from hpo_flows.workers.job import Job, TrialFailed
from hpo_flows.workers.output import MAX_BYTES, Output, Printed, last_lines
from hpo_flows.workers.output import log as output_log
from hpo_flows.workers.pool import WorkerPool

OBJECTIVE = Objective("tests.flows.workers.test_between:objective", (str(Path(__file__).parents[3]),))
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(1, OBJECTIVE) as pool:
        pool.check()
        yield pool


def trained(pool: WorkerPool, folder: Path, what: str, **config: Any) -> tuple[dict[str, float], str, int]:
    """What one trial returned and printed, and the process that trained it."""
    number = next(NUMBERS)
    job = Job(OBJECTIVE, {"loss": 1}, {"what": what} | config, number, 7, None, folder / str(number))
    with pool.worker() as worker:
        metrics = worker.run(job, timeout=None, on_message=lambda message: None)
        return metrics, worker.printed(), worker.process.pid


# -- the objectives -------------------------------------------------------------------------------------------------


def objective(trial: TrialContext) -> dict[str, float]:
    what = str(trial.config["what"])
    return {"loss": 0.0} | (MESSES[what](trial) or {})


def seen(trial: TrialContext) -> dict[str, float]:
    """The state of the process, a number for each part of it."""
    import matplotlib
    import matplotlib.pyplot
    import numpy as np
    import sklearn

    loggers = [logging.getLogger(name) for name in ("", "hpo", "tests.other")]
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    state = {
        "folder": os.getcwd(),
        "environment": sorted(os.environ.items()),
        "path": [sys.path, sys.argv],
        "streams": [sys.stdout.closed, sys.stderr.closed, os.fstat(1).st_ino == os.fstat(2).st_ino],
        "numpy": [np.geterr(), np.get_printoptions()],
        "random": [random.random(), np.random.random()],
        "warnings": [len(warnings.filters), warnings.showwarning.__module__],
        "signals": [str(handler) for handler in handlers.values()],
        "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "alarm": signal.getitimer(signal.ITIMER_REAL),
        "socket": socket.getdefaulttimeout(),
        "locale": locale.setlocale(locale.LC_ALL),
        "logging": [(each.level, each.propagate, each.disabled, len(each.handlers)) for each in loggers],
        "logging off": logging.Logger.manager.disable,
        "depth": sys.getrecursionlimit(),
        "umask": (umask := os.umask(0), os.umask(umask))[0],
        "decimal": decimal.getcontext().prec,
        "tempfile": tempfile.gettempdir(),
        "start method": multiprocessing.get_start_method(allow_none=True),
        "figures": matplotlib.pyplot.get_fignums(),
        "settings": sorted((key, str(value)) for key, value in matplotlib.rcParams.items() if key != "backend"),
        "sklearn": sorted(sklearn.get_config().items(), key=str),
        "hook": sys.excepthook.__name__,
        "threads": [thread.name for thread in threading.enumerate() if not thread.daemon],
    }
    return {key: float(zlib.crc32(repr(value).encode())) for key, value in state.items()}


def _chdir(trial: TrialContext) -> None:
    os.chdir(trial.scratch)


def _environment(trial: TrialContext) -> None:
    os.environ["HPO_TEST_LEFT"] = os.environ["HOME"] = os.environ["TZ"] = "left"
    del os.environ["PATH"]


def _path(trial: TrialContext) -> None:
    sys.path = [str(trial.scratch)]
    sys.argv.append("--more")


def _closed(trial: TrialContext) -> None:
    sys.stdout.close()
    sys.stderr = io.StringIO()
    os.close(2)


def _redirected(trial: TrialContext) -> None:
    file = os.open(trial.scratch / "log", os.O_CREAT | os.O_WRONLY)
    os.dup2(file, 1)
    sys.stdout = open(trial.scratch / "print", "w")


def _numpy(trial: TrialContext) -> None:
    import numpy as np

    np.seterr(all="raise")
    np.set_printoptions(precision=1)


def _seeds(trial: TrialContext) -> None:
    import numpy as np

    random.seed(0)
    np.random.seed(0)


def _warnings(trial: TrialContext) -> None:
    warnings.simplefilter("error")
    logging.captureWarnings(True)


def _signals(trial: TrialContext) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, lambda number, frame: os._exit(9))
    signal.alarm(600)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])


def _logging(trial: TrialContext) -> None:
    logging.basicConfig(level=logging.DEBUG)
    logging.getLogger("tests.other").addHandler(logging.StreamHandler())
    logging.getLogger("tests.other").disabled = True
    logging.disable(logging.CRITICAL)


def _interpreter(trial: TrialContext) -> None:
    sys.setrecursionlimit(5_000)
    os.umask(0o777)
    decimal.getcontext().prec = 3
    socket.setdefaulttimeout(0.001)
    tempfile.tempdir = str(trial.scratch)
    multiprocessing.set_start_method("spawn")
    sys.excepthook = lambda *error: None
    locale.setlocale(locale.LC_ALL, "C.UTF-8" if locale.setlocale(locale.LC_ALL) == "C" else "C")


def _libraries(trial: TrialContext) -> None:
    import matplotlib.pyplot as plt
    import sklearn

    plt.figure()
    plt.rcParams["lines.linewidth"] = 99
    sklearn.set_config(assume_finite=True)


def _raises(trial: TrialContext) -> None:
    _chdir(trial)
    raise KeyboardInterrupt


def _prints(trial: TrialContext) -> None:
    print(f"python {trial.number}")
    subprocess.run([sys.executable, "-c", f"print('child {trial.number}')"], check=True)
    os.write(2, f"descriptor {trial.number}\n".encode())
    warnings.warn(f"warning {trial.number}", stacklevel=1)
    import ctypes

    ctypes.CDLL(None).printf(b"buffered in C %d\n", trial.number)


def _silent(trial: TrialContext) -> None:
    pass


def _warns_once(trial: TrialContext) -> None:
    warnings.warn("the same each time", stacklevel=1)


def _prints_without_end(trial: TrialContext) -> None:
    for i in range(3_000):
        print(f"{i} {'x' * 9_990}\r", end="\n")


def _leaves_a_thread(trial: TrialContext) -> None:
    printed = threading.Event()

    def print_on() -> None:
        while True:
            print(f"thread of {trial.number}")
            printed.set()
            time.sleep(0.001)

    threading.Thread(target=print_on, daemon=bool(trial.config["daemon"])).start()
    printed.wait()


def _dies(trial: TrialContext) -> None:
    print("before the end")
    os.kill(os.getpid(), signal.SIGKILL)


MESSES: dict[str, Callable[[TrialContext], Any]] = {
    "folder": _chdir,
    "environment": _environment,
    "path": _path,
    "closed": _closed,
    "redirected": _redirected,
    "numpy": _numpy,
    "seeds": _seeds,
    "warnings": _warnings,
    "signals": _signals,
    "logging": _logging,
    "interpreter": _interpreter,
    "libraries": _libraries,
    "raises": _raises,
}
LEFT_BEHIND = list(MESSES)
MESSES |= {"seen": seen, "prints": _prints, "silent": _silent, "much": _prints_without_end, "dies": _dies}
MESSES |= {"thread": _leaves_a_thread, "warns": _warns_once}


# -- state ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mess", LEFT_BEHIND)
def test_what_a_trial_leaves_behind_does_not_reach_the_next(mess: str, pool: WorkerPool, tmp_path: Path) -> None:
    trained(pool, tmp_path, "seen")  # so that all is imported
    before, _, pid = trained(pool, tmp_path, "seen")
    if mess == "raises":
        with pytest.raises(TrialFailed, match="KeyboardInterrupt"):
            trained(pool, tmp_path, mess)
    else:
        trained(pool, tmp_path, mess)
    after, _, same = trained(pool, tmp_path, "seen")
    assert after == before
    assert same == pid, "and in the same process"
    assert "python" in trained(pool, tmp_path, "prints")[1]


OWN_PROCESS = """
import signal, sys
import matplotlib.pyplot as plt
from tests.flows.workers.test_between import LEFT_BEHIND, MESSES, a_trial, seen
from hpo_flows.workers.surroundings import OURS, remember

def look():
    put_back = remember(OURS)  # looking draws from the generators, too
    found = seen(a_trial())
    assert put_back() == ""
    return found

plt.figure()
signal.setitimer(signal.ITIMER_VIRTUAL, 1e6)
look()  # so that all is imported
for mess in LEFT_BEHIND:
    before, put_back = look(), remember(OURS)
    try:
        MESSES[mess](a_trial())
    except KeyboardInterrupt:
        pass
    assert put_back() == "" and look() == before, mess
assert plt.get_fignums() == [1] and signal.getitimer(signal.ITIMER_VIRTUAL)[0] > 0
print("all is as it was")
"""
"""Of a script: it has a figure and a timer, which are its own."""


def a_trial() -> TrialContext:
    folder = Path(tempfile.mkdtemp())
    return TrialContext(
        config={}, number=0, seed=1, fidelity=None, scratch=folder, outbox=folder, send=lambda message: None
    )


@pytest.mark.slow
def test_what_a_trial_changes_in_the_users_own_process_is_put_back_and_nothing_else(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "MPLBACKEND": "agg"}
    command = [sys.executable, "-c", OWN_PROCESS]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("all is as it was\n"), done.stderr


def test_a_process_that_cannot_be_put_back_is_replaced(tmp_path: Path) -> None:
    with WorkerPool(1, OBJECTIVE) as pool:
        _, _, first = trained(pool, tmp_path, "thread", daemon=False)
        _, printed, second = trained(pool, tmp_path, "silent")
        assert first != second and not printed


def test_what_an_import_sets_up_for_itself_stays(tmp_path: Path) -> None:
    """A package does so once a process: the finder that importlib_metadata puts in place of Python's own, say."""
    package = tmp_path / "vendored"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import logging, pathlib, sys\n"
        "class Finder:\n    def find_spec(self, *given): return None\n"
        "sys.meta_path.append(Finder())\n"
        "sys.path.insert(0, str(pathlib.Path(__file__).parent / 'parts'))\n"
        "logging.getLogger('vendored').addHandler(logging.NullHandler())\n"
    )
    script = (
        "import logging, sys\n"
        "from hpo_flows.workers.surroundings import remember\n"
        "put_back = remember()\n"
        "import vendored\n"
        "sys.path.insert(0, '/not/of/a/package'); logging.getLogger('mine').addHandler(logging.NullHandler())\n"
        "assert put_back() == ''\n"
        "print(type(sys.meta_path[-1]).__name__, sys.path[0].endswith('vendored/parts'),\n"
        "      len(logging.getLogger('vendored').handlers), len(logging.getLogger('mine').handlers))\n"
    )
    path = os.pathsep.join([str(Path(__file__).parents[3]), str(tmp_path)])
    command, environment = [sys.executable, "-c", script], os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["Finder", "True", "1", "0"], done.stderr


@pytest.mark.slow
def test_an_mlflow_run_that_is_left_open_is_ended_and_keras_is_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPO_TEST_URI", f"sqlite:///{tmp_path}/mlflow.db")
    objective = Objective("tests.objectives:leaves_libraries_open", OBJECTIVE.path)
    with WorkerPool(1, objective) as pool:
        for number in range(3):
            with pool.worker() as worker:
                job = Job(objective, {"loss": 1}, {}, number, 7, None, tmp_path / str(number))
                found = worker.run(job, timeout=None, on_message=lambda message: None)
            assert found == {"loss": 0.0, "layer": 1.0, "policy": 1.0}


# -- output ---------------------------------------------------------------------------------------------------------


def test_each_trial_has_its_own_output(pool: WorkerPool, tmp_path: Path) -> None:
    for _ in range(3):
        _, printed, _ = trained(pool, tmp_path, "prints")
        number = printed.split()[1]
        assert [line for line in printed.splitlines() if not line.startswith((" ", "/"))] == [
            f"python {number}",
            f"child {number}",
            f"descriptor {number}",
            f"buffered in C {number}",
        ]
        assert f"warning {number}" in printed
    assert trained(pool, tmp_path, "silent")[1] == ""


def test_a_warning_is_seen_in_every_trial(pool: WorkerPool, tmp_path: Path) -> None:
    assert all("the same each time" in trained(pool, tmp_path, "warns")[1] for _ in range(2))


def test_of_much_output_the_beginning_and_the_end_are_kept(pool: WorkerPool, tmp_path: Path) -> None:
    printed = trained(pool, tmp_path, "much")[1]
    assert printed.startswith("0 xxx") and "\n2999 xxx" in printed
    assert MAX_BYTES < len(printed) < MAX_BYTES + 100 and "bytes are left out here" in printed


def test_a_thread_that_is_left_behind_does_not_print_into_silence(tmp_path: Path) -> None:
    with WorkerPool(1, OBJECTIVE) as pool:
        _, printed, _ = trained(pool, tmp_path, "thread", daemon=True)
        assert {"thread", "of"} < set(printed.split()) and len(set(printed.split())) == 3
        assert "\0" not in trained(pool, tmp_path, "silent")[1], "the marks are nobody's output"


def test_what_a_process_printed_before_it_was_killed_is_kept(tmp_path: Path) -> None:
    with WorkerPool(1, OBJECTIVE) as pool:
        with pytest.raises(TrialFailed) as caught, pool.worker() as worker:
            job = Job(OBJECTIVE, {"loss": 1}, {"what": "dies"}, 0, 7, None, tmp_path / "0")
            worker.run(job, timeout=None, on_message=lambda message: None)
        assert worker.printed() == caught.value.details == "before the end\n"


def test_lines_are_streamed_with_the_number_of_their_trial(
    pool: WorkerPool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, output_log.name):
        trained(pool, tmp_path, "prints")
    number = caplog.messages[0].split()[1]
    assert f"trial {number} | python {number}" in caplog.messages
    caplog.clear()
    trained(pool, tmp_path, "prints")
    assert not caplog.messages


TOKEN = "0123456789abcdef"


def mark(kind: str, attempt: int) -> bytes:
    return f"\0hpo {TOKEN} {kind} {attempt}\0".encode()


PIECES = st.lists(st.sampled_from([b"\0", b"a", b"\n", b"\r", b"\0hpo ", b"\xff", "é".encode(), mark("end", 7)]))


@given(PIECES, PIECES, PIECES, PIECES, st.integers(1, 40))
def test_output_is_cut_at_the_marks_however_it_arrives(
    before: list[bytes], first: list[bytes], between: list[bytes], second: list[bytes], size: int
) -> None:
    """Also where a trial prints what begins like a mark, or one of an attempt that is not its own."""
    told: dict[int, list[str]] = {1: [], 2: []}
    reader, writer = os.pipe()
    output = Output(os.fdopen(reader, "rb"), TOKEN)
    for attempt, around, own in ((1, before, first), (2, between, second)):
        output.expect(attempt, told[attempt].append)
        data = b"".join([*around, mark("begin", attempt), *own, mark("end", attempt)])
        for i in range(0, len(data), size):
            os.write(writer, data[i : i + size])
        assert output.settle()
        inside = b"".join(own).partition(mark("end", 7))[0]
        assert output.text() == inside.decode(errors="replace")
        lines = inside.removesuffix(b"\n").split(b"\n") if inside else []
        assert len(told[attempt]) == len(lines)
    os.close(writer)
    output.join(60)


@given(st.lists(st.binary(max_size=30)), st.integers(2, 50))
def test_a_bounded_text_has_beginning_and_end(chunks: list[bytes], most: int) -> None:
    printed, whole, half = Printed(most), b"".join(chunks), most // 2
    for chunk in chunks:
        printed.add(chunk)
    if len(whole) <= 2 * half:
        assert printed.text() == whole.decode(errors="replace")
    else:
        left_out = len(whole) - 2 * half
        gap = f"\n[... {left_out} bytes are left out here ...]\n".encode()
        assert printed.text() == (whole[:half] + gap + whole[-half:]).decode(errors="replace")


def test_the_last_lines_are_few_and_short() -> None:
    assert last_lines("\n".join(map(str, range(100)))) == "\n".join(map(str, range(90, 100)))
    assert len(last_lines("x" * 10**6)) == 1000 and last_lines("") == ""

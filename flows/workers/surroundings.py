"""Restores the process state that a trial may have changed, before the next trial trains in the same worker.

A worker lives for many trials, so what one leaves behind would reach the next: its working folder, its environment, a
closed stdout, an open MLflow run. Each function in :data:`KINDS` remembers one kind of state and returns the function
that restores it. What an objective keeps on purpose, in its own module or in a cache, stays.

If something cannot be restored, the worker is replaced. Not covered: the global state of other libraries, patched
attributes, files and child processes left open, and daemon threads. An import inside the objective happens once per
process, so what a module sets up for itself stays: import finders, folders of its own on the path, its loggers. What it
changes in the environment or among the warning filters is restored all the same. Libraries other than numpy are touched
only if the objective has loaded them.
"""

from __future__ import annotations

import contextlib
import ctypes
import decimal
import gc
import locale
import logging
import multiprocessing
import os
import random
import resource
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np  # now, because a trial's own import would come after its seeding

Undo = Callable[[], object]

PATIENCE_SECONDS = 1.0
"""How long threads that a trial left running may take to end."""


def remember(kinds: Sequence[Callable[[], Undo]] | None = None) -> Callable[[], str]:
    """Remember the state of the process. Returns a function that restores it and returns what it could not restore.

    Args:
        kinds: What to remember; by default :data:`KINDS`.
    """
    undos: list[tuple[str, Undo]] = []
    for kind in KINDS if kinds is None else kinds:
        with contextlib.suppress(OSError):  # for example, the working folder was removed
            undos.append((kind.__name__.strip("_"), kind()))

    def put_back() -> str:
        left = []
        for name, undo in reversed(undos):
            try:
                undo()
            except Exception as error:  # any library may raise anything
                left.append(f"{name}: {type(error).__name__}: {error}")
        return "; ".join(left)

    return put_back


def seed_all(seed: int) -> None:
    """Seed the global generators, so that a trial draws the same numbers whatever was trained here before.

    TensorFlow and PyTorch are seeded only if they are loaded: an objective that imports them later has to seed them.
    """
    random.seed(seed)
    np.random.seed(seed)
    if (torch := _loaded("torch")) is not None:
        torch.manual_seed(seed)
    if (keras := _loaded("keras")) is not None:
        keras.utils.set_random_seed(seed)
    elif (tensorflow := _loaded("tensorflow")) is not None:
        tensorflow.random.set_seed(seed)


def _loaded(name: str) -> Any:
    """A module, if it is imported completely; None otherwise, also while its import is in progress."""
    module = sys.modules.get(name)
    initializing = getattr(getattr(module, "__spec__", None), "_initializing", False)
    return None if initializing else module


def flush() -> None:
    """Flush the output buffers of Python and of C libraries."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # closed, or replaced by an object of the objective
            stream.flush()
    ctypes.CDLL(None).fflush(None)


# -- the interpreter and the system -------------------------------------------------------------------------------


def _threads() -> Undo:
    before = set(threading.enumerate())

    def undo() -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        for thread in set(threading.enumerate()) - before:
            if not thread.daemon:  # threads of foreign code count as daemons, too
                thread.join(max(deadline - time.monotonic(), 0))
                if thread.is_alive():
                    raise RuntimeError(f"{thread.name} still runs")

    return undo


def _streams() -> Undo:
    streams = {name: getattr(sys, name) for name in ("stdin", "stdout", "stderr")}
    kept = {descriptor: os.dup(descriptor) for descriptor in (0, 1, 2)}

    def undo() -> None:
        flush()
        for descriptor, copy in kept.items():
            os.dup2(copy, descriptor)
            os.close(copy)
        for descriptor, (name, stream) in enumerate(streams.items()):
            if stream is not None and stream.closed:
                mode, errors = ("r", "strict") if descriptor == 0 else ("w", "backslashreplace")
                stream = open(descriptor, mode, buffering=1, encoding="utf-8", errors=errors, closefd=False)
                setattr(sys, f"__{name}__", stream)
            setattr(sys, name, stream)

    return undo


def _folder() -> Undo:
    before = os.getcwd()
    return lambda: os.chdir(before)


def _environment() -> Undo:
    before = dict(os.environ)

    def undo() -> None:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
        time.tzset()

    return undo


def _path() -> Undo:
    object_, before = sys.path, list(sys.path)

    def undo() -> None:
        # Keep what a package added below existing folders: it does so when imported, and will not do so again.
        own = [entry for entry in sys.path if entry not in before and _inside(entry, before)]
        object_[:] = own + before
        sys.path = object_

    return undo


def _inside(entry: str, folders: Sequence[str]) -> bool:
    return any(folder and entry.startswith(folder.rstrip(os.sep) + os.sep) for folder in folders)


def _arguments() -> Undo:
    object_, before = sys.argv, list(sys.argv)

    def undo() -> None:
        object_[:] = before
        sys.argv = object_

    return undo


def _signals() -> Undo:
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])

    timers = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)  # the first: also alarm's
    idle = [timer for timer in timers if signal.getitimer(timer) == (0, 0)]

    def undo() -> None:
        for timer in idle:
            signal.setitimer(timer, 0)
        for number, handler in handlers.items():
            if handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    return undo


def _limits() -> Undo:
    names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    before = {number: resource.getrlimit(number) for number in {getattr(resource, name) for name in names}}

    def undo() -> None:
        for number, limits in before.items():
            if resource.getrlimit(number) != limits:
                resource.setrlimit(number, limits)

    return undo


def _interpreter() -> Undo:
    umask = os.umask(0)
    os.umask(umask)
    attributes = [(sys, "excepthook"), (sys, "displayhook"), (threading, "excepthook"), (tempfile, "tempdir")]
    values = [(holder, name, getattr(holder, name)) for holder, name in attributes]
    depth, enabled, thresholds = sys.getrecursionlimit(), gc.isenabled(), gc.get_threshold()
    context, timeout, method = decimal.getcontext(), socket.getdefaulttimeout(), _start_method()
    arithmetic, language = context.copy(), locale.setlocale(locale.LC_ALL)

    def undo() -> None:
        os.umask(umask)
        for holder, name, value in values:
            setattr(holder, name, value)
        sys.setrecursionlimit(depth)
        (gc.enable if enabled else gc.disable)()
        gc.set_threshold(*thresholds)
        decimal.setcontext(arithmetic)
        socket.setdefaulttimeout(timeout)
        if _start_method() != method:
            multiprocessing.set_start_method(method, force=True)
        if locale.setlocale(locale.LC_ALL) != language:
            locale.setlocale(locale.LC_ALL, language)

    return undo


def _start_method() -> Any:
    return multiprocessing.get_start_method(allow_none=True)


def _warnings() -> Undo:
    manager = warnings.catch_warnings()  # also resets the registry, so that each trial shows a warning once again
    manager.__enter__()
    return lambda: manager.__exit__(None, None, None)


def _logging() -> Undo:
    def loggers() -> list[logging.Logger]:
        named = logging.Logger.manager.loggerDict.values()
        return [logging.getLogger(), *(each for each in named if isinstance(each, logging.Logger))]

    def state(logger: logging.Logger) -> tuple[Any, ...]:
        return logger.level, logger.propagate, logger.disabled, logger.handlers[:], logger.filters[:]

    before, off = {logger: state(logger) for logger in loggers()}, logging.Logger.manager.disable
    capturing = getattr(logging, "_warnings_showwarning", None) is not None

    def undo() -> None:
        logging.captureWarnings(capturing)
        logging.disable(off)
        for logger in loggers():
            if logger not in before and logger.name.partition(".")[0] in sys.modules:
                continue  # a library sets up its logger when imported, and will not do so again
            level, logger.propagate, logger.disabled, handlers, logger.filters[:] = before.get(logger, UNUSED)
            if logger.level != level:
                logger.setLevel(level)
            for handler in logger.handlers[:]:
                if handler not in handlers:
                    logger.removeHandler(handler)
            logger.handlers[:] = handlers

    return undo


UNUSED: tuple[Any, ...] = (logging.NOTSET, True, False, [], [])
"""The state of a logger that a trial has created."""


# -- libraries, as far as they are loaded -------------------------------------------------------------------------


def _numpy() -> Undo:
    errors, options = np.geterr(), np.get_printoptions()

    def undo() -> None:
        np.seterr(**errors)
        np.set_printoptions(**options)

    return undo


def _sklearn() -> Undo:
    sklearn = _loaded("sklearn")
    config = sklearn and sklearn.get_config()
    return lambda: config and sklearn.set_config(**config)


def _matplotlib() -> Undo:
    matplotlib, pyplot = _loaded("matplotlib"), _loaded("matplotlib.pyplot")
    before = matplotlib and dict(matplotlib.rcParams.copy())
    figures = pyplot.get_fignums() if pyplot is not None else []

    def undo() -> None:
        if (pyplot := _loaded("matplotlib.pyplot")) is not None:
            for figure in set(pyplot.get_fignums()) - set(figures):
                pyplot.close(figure)
        if (now := _loaded("matplotlib")) is None:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some settings are deprecated
            if before:
                now.rcParams.update({name: value for name, value in before.items() if name != "backend"})
            else:
                now.rc_file_defaults()

    return undo


def _keras() -> Undo:
    names = ("dtype_policy", "floatx", "epsilon", "image_data_format")
    config = getattr(_loaded("keras"), "config", None)
    before = {name: getattr(config, name)() for name in names} if config is not None else {}

    def undo() -> None:
        if (now := _loaded("keras")) is None:
            return
        # This also resets the dtype policy, which is restored below. free_memory would collect garbage for a second.
        now.utils.clear_session(free_memory=False)
        for name, value in before.items():
            getattr(now.config, f"set_{name}")(value)

    return undo


def _mlflow() -> Undo:
    def active() -> Any:
        mlflow = _loaded("mlflow")
        run = None if mlflow is None else mlflow.active_run()
        return None if run is None else run.info.run_id

    before = active()

    def undo() -> None:
        while (run := active()) is not None and run != before:
            _loaded("mlflow").end_run()

    return undo


def _generators() -> Undo:
    """The global generators, which :func:`seed_all` seeds. TensorFlow's own cannot be read, so it stays seeded."""
    states, numbers, torch = random.getstate(), np.random.get_state(), _loaded("torch")
    drawn = torch and torch.get_rng_state()

    def undo() -> None:
        random.setstate(states)
        np.random.set_state(numbers)
        if torch is not None:
            torch.set_rng_state(drawn)

    return undo


KINDS: tuple[Callable[[], Undo], ...] = (
    _streams,
    _folder,
    _environment,
    _path,
    _arguments,
    _signals,
    _limits,
    _interpreter,
    _warnings,
    _logging,
    _numpy,
    _sklearn,
    _matplotlib,
    _keras,
    _threads,
    _mlflow,  # last, so restored first: ending a run needs the environment in which it was started
)

HANDLERS = (_signals,)
"""What is restored after the import of an objective into the study's own process, whose signals end it in order."""

OURS = (*(kind for kind in KINDS if kind is not _threads), _generators)
"""What is restored in a process that is the user's own (``isolation: none``): what a trial has changed, to what it was
when the trial began. The threads that it leaves running are not waited for, since others of the process start some
meanwhile, too."""

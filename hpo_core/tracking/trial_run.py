"""Directs what an objective logs by MLflow itself into its trial's run: ``mlflow.autolog``, ``mlflow.log_metric``, ...

While a trial is :func:`joined`, ``mlflow.start_run`` resumes the trial's run, as it does for ``MLFLOW_RUN_ID`` in an
MLflow project, and starts nested runs below it. The objective may log to that run, but the flow alone ends it, names it
and gives it the params of its configuration. So MLflow's store of this process lets no end, name or differing param
through, whoever asks for it: the fluent API, autologging, its threads, or MLflow's hook at the process's exit.

In processes that the objective starts, MLflow is as it is. All runs that they start are below the trial's.

Lightning's ``MLFlowLogger``, which makes a run by a client of its own, is given the trial's run instead.

Both are changed as they are imported. A trial that does not import them pays nothing.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.abc
import importlib.util
import inspect
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpo_core.tracking.credentials import without_credentials

FLUENT = "mlflow.tracking.fluent"
OTHERS = ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID")
"""The environment variables by which MLflow would log elsewhere."""

LOGGERS = ("lightning.pytorch.loggers.mlflow", "pytorch_lightning.loggers.mlflow")


@dataclass(frozen=True)
class TrialRun:
    """A trial's run, as its objective may log to it.

    Args:
        uri: The tracking URI.
        id: The run.
        experiment: The id of its experiment.
        params: The params of the trial's configuration.
    """

    uri: str = field(repr=False)
    id: str
    experiment: str
    params: Mapping[str, str]

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables by which MLflow, in processes that the objective starts, makes runs below this one.

        With ``MLFLOW_RUN_ID``, the first of these would be this run, which would end with the process.
        """
        return {
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_EXPERIMENT_ID": self.experiment,
            "MLFLOW_RUN_CONTEXT": json.dumps({"mlflow.parentRunId": self.id}),
        }


@dataclass
class Logged:
    """What an objective has logged to its trial's run by MLflow itself.

    Attributes:
        steps: The highest step of each metric.
        time: The latest time of any value, in milliseconds since 1970.
        clashes: The params with another value than the configuration's, which were left out.
    """

    steps: dict[str, int] = field(default_factory=dict)
    time: int = 0
    clashes: dict[str, str] = field(default_factory=dict)


@dataclass
class _Joined:
    run: TrialRun
    logged: Logged
    queued: list[Any] = field(default_factory=list)  # the stores that still write on their own

    def note(self, metrics: Sequence[Any]) -> None:
        for metric in metrics:
            self.logged.steps[metric.key] = max(self.logged.steps.get(metric.key, 0), metric.step or 0)
            self.logged.time = max(self.logged.time, metric.timestamp or 0)

    def allows(self, param: Any) -> bool:
        """Whether a param may be written; one that clashes is noted."""
        if self.run.params.get(param.key, str(param.value)) == str(param.value):
            return True
        self.logged.clashes[param.key] = str(param.value)
        return False


_JOINED: dict[int, _Joined] = {}
"""The trials that train in this process, by their thread."""

_OURS = threading.local()


@contextlib.contextmanager
def joined(run: TrialRun) -> Iterator[Logged]:
    """Let what this thread, and those it starts, log by MLflow go into a trial's run, as long as the context lasts."""
    before = {name: os.environ.pop(name, None) for name in (*run.variables, *OTHERS)}
    os.environ.update(run.variables)
    _change_mlflow()
    thread, trial = threading.get_ident(), _Joined(run, Logged())
    outer, _JOINED[thread] = _JOINED.get(thread), trial  # an objective may run a study of its own in its process
    try:
        with _set_aside():
            yield trial.logged
    finally:
        for store in trial.queued:
            try:
                store.flush_async_logging()
            except Exception:  # of the store; what the trial printed shows it
                traceback.print_exc()
        del _JOINED[thread]
        if outer is not None:
            _JOINED[thread] = outer
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def _set_aside() -> Iterator[None]:
    """Set aside the runs that are active already, of a script that trains in its own process; end those left open."""
    before = [] if (fluent := sys.modules.get(FLUENT)) is None else fluent._active_run_stack.get()[:]
    if fluent is not None:
        fluent._active_run_stack.get().clear()
    try:
        yield
    finally:
        if (fluent := sys.modules.get(FLUENT)) is not None:
            while fluent.active_run() is not None:
                try:
                    fluent.end_run()
                except Exception:  # of a server of the objective's own
                    traceback.print_exc()
            fluent._active_run_stack.get().extend(before)


@contextlib.contextmanager
def own_request() -> Iterator[None]:
    """Mark the requests of this thread as the flow's own, which may end a trial's run."""
    before, _OURS.active = getattr(_OURS, "active", False), True
    try:
        yield
    finally:
        _OURS.active = before


def is_own_request() -> bool:
    """Whether this thread asks MLflow for the flow itself."""
    return getattr(_OURS, "active", False)


def _here() -> _Joined | None:
    """The trial of this thread; of a thread that the objective started, the only one there is."""
    only = next(iter(_JOINED.values())) if len(_JOINED) == 1 else None
    return _JOINED.get(threading.get_ident(), only)


def _trial_of(run: str) -> _Joined | None:
    """The trial whose run it is, unless the flow itself asks."""
    if is_own_request():
        return None
    return next((trial for trial in list(_JOINED.values()) if trial.run.id == run), None)


# -- MLflow as it is imported -------------------------------------------------------------------------------------


class _AfterImport(importlib.abc.MetaPathFinder):
    """Changes a module once it is imported, before anybody has taken anything from it."""

    def __init__(self, name: str, change: Callable[[Any], None]) -> None:
        self.name, self._change = name, change

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                execute(module)
                self._change(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _change_mlflow() -> None:
    """Change MLflow's fluent API and Lightning's loggers, now or when they are imported."""
    waiting = {finder.name for finder in sys.meta_path if isinstance(finder, _AfterImport)}
    for name, change in ((FLUENT, _change), *((name, _change_logger) for name in LOGGERS)):
        if (module := sys.modules.get(name)) is not None:
            change(module)
        elif name not in waiting:
            sys.meta_path.insert(0, _AfterImport(name, change))


def _change(fluent: Any) -> None:
    """Change ``start_run``, here and where it was taken from, and MLflow's stores. Once is enough."""
    from mlflow.tracking._tracking_service.utils import _tracking_store_registry as registry

    start = fluent.start_run
    if hasattr(start, "hpo_original"):
        return

    @functools.wraps(start)
    def start_run(*args: Any, **kwargs: Any) -> Any:
        trial = _here()
        asked = inspect.signature(start).bind(*args, **kwargs).arguments
        if trial is None:
            return start(**asked)
        if not _same_store(fluent.mlflow.get_tracking_uri(), trial.run.uri):
            return _start_elsewhere(trial.run, start, asked)
        return _start_in(trial.run, fluent, start, asked)

    start_run.hpo_original = start  # type: ignore[attr-defined]
    for module in (fluent, sys.modules.get("mlflow")):
        if getattr(module, "start_run", None) is start:
            setattr(module, "start_run", start_run)  # noqa: B010  (mypy knows of no such attribute)
    get_store = registry.get_store
    registry.get_store = lambda *args, **kwargs: _guarded(get_store(*args, **kwargs))


def _change_logger(module: Any) -> None:
    """Have Lightning's ``MLFlowLogger`` log to the trial's run, unless it is given another run or store.

    It counts steps of the optimizer, and the trial's reports epochs: its metrics get names of their own.
    """
    start = module.MLFlowLogger.__init__
    if hasattr(start, "hpo_original"):
        return

    @functools.wraps(start)
    def __init__(*args: Any, **kwargs: Any) -> None:
        asked = inspect.signature(start).bind(*args, **kwargs).arguments
        run = None if (trial := _here()) is None else trial.run
        if run is not None and not asked.get("run_id") and _same_store(asked.get("tracking_uri") or run.uri, run.uri):
            asked |= {"tracking_uri": run.uri, "run_id": run.id, "prefix": asked.get("prefix") or "lightning"}
        start(**asked)

    __init__.hpo_original = start  # type: ignore[attr-defined]
    module.MLFlowLogger.__init__ = __init__


def _start_in(run: TrialRun, fluent: Any, start: Callable[..., Any], asked: dict[str, Any]) -> Any:
    """Start what an objective asks for: the trial's run again, a run below it, or one that it names itself."""
    stack = fluent._active_run_stack.get()
    if not asked.get("run_id") and not asked.get("parent_run_id"):
        if not asked.get("nested"):
            asked = {key: value for key, value in asked.items() if key != "run_name"} | {"run_id": run.id}
        else:
            asked.setdefault("experiment_id", run.experiment)
            if not stack:
                asked["parent_run_id"] = run.id
    if asked.get("run_id") != run.id:
        return start(**asked)
    # MLflow refuses a run that is active already, and one that is not in the experiment of set_experiment.
    outer, experiment = stack[:], fluent._active_experiment_id
    stack.clear()
    fluent._active_experiment_id = None
    try:
        return start(**asked)
    finally:
        stack[:0] = outer
        fluent._active_experiment_id = experiment


def _start_elsewhere(run: TrialRun, start: Callable[..., Any], asked: dict[str, Any]) -> Any:
    """Start a run in another store, where there is no trial's run to be below."""
    os.environ.pop("MLFLOW_RUN_CONTEXT", None)
    try:
        return start(**asked)
    finally:
        os.environ.update(run.variables)


def _same_store(one: str, other: str) -> bool:
    """Whether two URIs lead to the same store."""
    return _plain(one) == _plain(other)


def _plain(uri: str) -> str:
    if uri.startswith("sqlite:///"):  # from "sqlite:" on, MLflow's own default is relative
        return str(Path(uri.removeprefix("sqlite:///")).absolute())
    return without_credentials(uri).rstrip("/")


def _guarded(store: Any) -> Any:
    """Let a store of MLflow write to a trial's run only what the objective may."""
    if hasattr(store, "hpo_guarded"):
        return store
    update, log_batch, log_async = store.update_run_info, store.log_batch, store.log_batch_async
    log_param, log_metric = store.log_param, store.log_metric

    def update_run_info(run_id: str, *args: Any, **kwargs: Any) -> Any:
        if _trial_of(run_id) is None:
            return update(run_id, *args, **kwargs)
        return store.get_run(run_id).info  # the flow ends and names it

    def batch(write: Callable[..., Any], run_id: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> Any:
        if (trial := _trial_of(run_id)) is not None:
            trial.note(metrics)
            params = [param for param in params if trial.allows(param)]
            if write == log_async and store not in trial.queued:
                trial.queued.append(store)
        return write(run_id=run_id, metrics=list(metrics), params=list(params), tags=list(tags))

    def one_param(run_id: str, param: Any) -> Any:
        trial = _trial_of(run_id)
        return log_param(run_id, param) if trial is None or trial.allows(param) else None

    def one_metric(run_id: str, metric: Any) -> Any:
        if (trial := _trial_of(run_id)) is not None:
            trial.note([metric])
        return log_metric(run_id, metric)

    store.hpo_guarded = True
    store.update_run_info, store.log_param, store.log_metric = update_run_info, one_param, one_metric
    store.log_batch, store.log_batch_async = functools.partial(batch, log_batch), functools.partial(batch, log_async)
    return store

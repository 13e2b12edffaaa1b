"""One search: where its trials train, how they are shown, and what ends it."""

from __future__ import annotations

import contextlib
import copy
import inspect
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from hpo_core.base.errors import InputError
from hpo_core.history.trial import TrialState
from hpo_flows.base.paths import home
from hpo_flows.base.stopping import second_signal_ends
from hpo_flows.keras.space.objective import DefaultObjective
from hpo_flows.keras.training.fit_arguments import REMEDY, FitArguments, at_least_one, write
from hpo_flows.keras.training.model import overrides_fit
from hpo_flows.keras.training.results import fatal
from hpo_flows.keras.tuner.running.overriding import Here, overridden, overrides
from hpo_flows.keras.tuner.running.printing import Table, Watching, warnings_shown
from hpo_flows.loop.temporary_server import start_early
from hpo_flows.objectives.reference import Objective as Reference

if TYPE_CHECKING:
    from hpo_flows.base.progress import Observer, Progress
    from hpo_flows.results import StudyResult


def search(tuner: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> StudyResult:
    """Run trials of a tuner's study until a stop rule holds.

    Args:
        tuner: The tuner.
        args, kwargs: Those of its ``search``.

    Raises:
        InputError: An argument is invalid.
        FatalError: A trial ended the search.
        RuntimeError: Too many trials failed in a row.
    """
    verbose = _verbosity(kwargs.get("verbose", "auto")) if tuner.progress else 0
    if isinstance(tuner.oracle.objective, DefaultObjective) and not list(_own_methods(tuner)):
        raise InputError("objective", "is missing", "give the metric to optimise, such as 'val_accuracy'")
    if kwargs.get("epochs") is not None and not overrides(tuner, "run_trial"):
        at_least_one("epochs", kwargs["epochs"])
    _check_callbacks(tuner, kwargs.get("callbacks"))
    tuner.arguments = _arguments(tuner, args, kwargs)
    if overrides(tuner, "run_trial") or overrides_fit(tuner.hypermodel):
        tuner.oracle.forget_space()  # with these arguments they may declare more
    with second_signal_ends(), warnings_shown():
        start_early()  # it comes up while the space is found
        with _placed(tuner, args, kwargs, verbose) as place:
            if verbose and place.why:
                print(f"Trials train in this process, since {place.why}")
            try:
                return _run(tuner.oracle, place)
            except InputError as error:
                raise fatal(error) from None


def _run(oracle: Any, place: _Place) -> StudyResult:
    from hpo_flows.api import early_workers, run

    oracle.settings["isolation"] = place.isolation
    spec = oracle.spec
    with early_workers(spec, place.objective) as pool:
        ledger = oracle.open(spec)
        guard = FailureGuard(oracle.max_consecutive_failed_trials, ledger.load().next_number, place.observe)
        return run(ledger, place.objective, guard, pool)


def _verbosity(given: Any) -> int:
    """``verbose`` as a number; "auto" is 1.

    Raises:
        InputError: It is none.
    """
    if given == "auto":
        return 1
    if given not in (0, 1, 2):
        raise InputError("verbose", f"{given!r} is not 0, 1, 2 or 'auto'", "give one of them")
    return int(given)


def _arguments(tuner: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> FitArguments:
    """What a search passes on, without callbacks; with ``data`` as a function that makes more, unless it is wanted."""
    named = {name: value for name, value in kwargs.items() if name != "callbacks"}
    wanted = any("data" in inspect.signature(each).parameters for each in _own_methods(tuner))
    make = named.pop("data") if callable(named.get("data")) and not wanted else None
    return FitArguments(tuple(args), named, make)


def _own_methods(tuner: Any) -> Iterator[Callable[..., Any]]:
    """The methods of the user's that get the arguments of ``search``."""
    if overrides(tuner, "run_trial"):
        yield tuner.run_trial
    if tuner.hypermodel is not None and overrides_fit(tuner.hypermodel):
        yield tuner.hypermodel.fit


# -- where trials train ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """Where the trials of a search train.

    Args:
        isolation: The study's key.
        objective: What the study calls.
        observe: Shows the study while it runs.
        why: Why that is this process; empty if it is not, or if the user has said so.
    """

    isolation: str
    objective: Reference
    observe: Observer
    why: str = ""


@contextlib.contextmanager
def _placed(tuner: Any, args: Sequence[Any], kwargs: Mapping[str, Any], verbose: int) -> Iterator[_Place]:
    """Decide where trials train: in processes, unless something keeps them here.

    Raises:
        InputError: They must train here, and several at a time or processes are asked for.
    """
    with contextlib.ExitStack() as stack:
        why = _why_here(tuner)
        if tuner.isolation == "none":
            why = ""
        sent = None
        if tuner.isolation != "none" and not why:
            sent, why = _sent(tuner, kwargs.get("callbacks", ()), stack)
        parallel = tuner.oracle.settings.get("parallel", 1)
        if why and tuner.isolation == "process":
            raise InputError("isolation", f"it is 'process', but {why}", f"leave it out, or {REMEDY}")
        if why and parallel > 1:
            problem = f"{parallel} trials at a time need processes of their own, but {why}"
            raise InputError("parallel", problem, f"leave it out, or {REMEDY}")
        if sent is not None:
            best = next(iter(tuner.get_best_trials()), None)
            table = Table(tuner.oracle.objective, best, verbose)
            yield _Place("process", sent, Watching(table, partial(tuner.oracle.as_trial, spec=tuner.oracle.spec)))
            return
        made = tuner.arguments.made()  # once, since trials here share it
        passed = {**made.kwargs, **({"callbacks": kwargs["callbacks"]} if "callbacks" in kwargs else {})}
        table = Table(tuner.oracle.objective, next(iter(tuner.get_best_trials()), None), verbose)
        here = Here(tuner, made.args, passed, table)
        yield _Place("none", Reference.of(here, isolation="none"), lambda progress: None, why)


def _why_here(tuner: Any) -> str:
    """Why the trials of a tuner can train in this process alone, whatever the data; empty if they can elsewhere."""
    if mine := overridden(tuner):
        return f"{type(tuner).__name__} has {', '.join(mine)} of its own, which the trials call"
    if getattr(tuner, "distribution_strategy", None) is not None:
        return "a distribution_strategy belongs to the process that made it"
    return ""


def _sent(tuner: Any, callbacks: Any, stack: contextlib.ExitStack) -> tuple[Reference | None, str]:
    """The objective for worker processes, or why there can be none."""
    import cloudpickle

    try:
        pickled = cloudpickle.dumps(_as_list(callbacks)) if callbacks else b""
        if pickled:
            cloudpickle.loads(pickled)
    except Exception as error:  # objects that cannot be pickled raise many kinds
        return None, f"a callback cannot go to another process ({type(error).__name__}: {error})"
    try:
        folder = write(tuner.arguments, home() / "data")
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        objective = tuner.objective_by_value(folder, pickled)
        return (None, "it has no objective to send") if objective is None else (Reference.of(objective), "")
    except InputError as error:
        if error.field == "objective":
            return None, f"the hypermodel cannot go to another process: {error.problem}"
        return None, error.problem


def _check_callbacks(tuner: Any, callbacks: Any) -> None:
    """Check early that each training can have callbacks of its own.

    Raises:
        InputError: One of them is none, or cannot be copied.
    """
    for i, callback in enumerate(_as_list(callbacks)):
        where = f"callbacks.{i}.{type(callback).__name__}"
        if not (overrides(tuner, "run_trial") or hasattr(callback, "set_model")):
            raise InputError(where, f"{callback!r} is not a Keras callback", "give objects of keras.callbacks")
        try:
            copy.deepcopy(callback)
        except Exception as error:  # objects that cannot be copied raise many kinds
            problem = f"it cannot be copied for each trial ({type(error).__name__}: {error})"
            raise InputError(where, problem, "make it without such state") from None


def _as_list(callbacks: Any) -> list[Any]:
    """Callbacks as a list, given as one, as one of them, or as None."""
    if callbacks is None:
        return []
    return list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]


class FailureGuard:
    """An observer that ends a search once too many of its trials have failed in a row.

    Args:
        limit: The number of failures that ends the search.
        first: The number of the first trial that counts.
        observe: Another observer, called each time.
    """

    def __init__(self, limit: int, first: int, observe: Callable[[Progress], None]) -> None:
        self._limit, self._first, self._observe = limit, first, observe

    def __call__(self, progress: Progress) -> None:
        self._observe(progress)
        history = progress.history.without_retaken()
        ended = [t for t in history if t.number >= self._first and t.state is not TrialState.RUNNING]
        last = sorted(ended, key=lambda trial: (trial.end or 0, trial.number))[-self._limit :]
        if len(last) == self._limit and all(trial.state is TrialState.FAILED for trial in last):
            raise RuntimeError(f"{self._limit} trials in a row failed, the last one because {last[-1].reason}")

"""Runs trials in this process, as KerasTuner does: with the tuner's own methods, which its user may have overridden."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from hpo_core.base.errors import InputError
from hpo_flows.keras.errors import FailedTrialError, FatalError, FatalTypeError
from hpo_flows.keras.space.exploration import Exploration, NotRun
from hpo_flows.keras.space.hyperparameters import HyperParameters
from hpo_flows.keras.training.model import WouldTrain, nothing_trains
from hpo_flows.keras.training.results import as_metrics, ends_search, means
from hpo_flows.keras.tuner.trial import FACTS, Trial, TrialStatus

if TYPE_CHECKING:
    from hpo_flows.keras.tuner.running.printing import Table
    from hpo_flows.objectives.context import TrialContext

log = logging.getLogger("hpo")

METHODS = (
    "run_trial", "pre_create_trial", "on_trial_begin", "on_trial_end", "on_epoch_begin", "on_epoch_end",
    "on_batch_begin", "on_batch_end", "save_model",
)  # fmt: skip
"""The methods of a tuner that a trial calls."""

ORACLE_METHODS = ("score_trial", "update_trial", "end_trial")
"""The methods of an oracle that a trial calls."""

PROPOSING = ("populate_space", "create_trial")
"""The methods of KerasTuner's oracles that say what is tried next."""

EXPLORING_SECONDS = 10.0
"""How long an overridden ``run_trial`` may be run to find its parameters, where it does not stop at a training."""


def overrides(thing: Any, name: str) -> bool:
    """Whether a user's class, or the object itself, has a method of its own in place of this project's."""
    method = vars(thing).get(name) or getattr(type(thing), name)
    return not str(method.__module__).startswith(("hpo_flows.", "flows."))


def overridden(tuner: Any) -> list[str]:
    """The methods that trials call and that a user has overridden.

    Raises:
        InputError: The user has overridden what says which trial is next.
    """
    for name in PROPOSING:
        if overrides(tuner.oracle, name):
            remedy = "write a strategy (CONTRIBUTING.md), or loop yourself over hpo_flows.open_study(...).ask()"
            problem = f"{type(tuner.oracle).__name__} has a {name} of its own, which a search does not call"
            raise InputError("oracle", f"{problem}: what is tried next is up to the study's strategy", remedy)
    mine = [name for name in METHODS if hasattr(tuner, name) and overrides(tuner, name)]
    return mine + [f"oracle.{name}" for name in ORACLE_METHODS if overrides(tuner.oracle, name)]


class Here:
    """The objective of a search in this process: calls the tuner's methods around and during each trial.

    Args:
        tuner: The tuner.
        args, kwargs: Those of ``search``.
        table: Prints each trial.
    """

    def __init__(self, tuner: Any, args: Sequence[Any], kwargs: Mapping[str, Any], table: Table) -> None:
        self._tuner, self._args, self._kwargs, self._table = tuner, args, kwargs, table

    def __call__(self, context: TrialContext) -> dict[str, float]:
        tuner = self._tuner
        tuner.pre_create_trial()
        trial = tuner.oracle.begin(context)
        try:
            self._table.begin(trial)
            tuner.on_trial_begin(trial)
            with self._reporting_its_end(trial):
                metrics = self._run(trial)
            return metrics if trial.score is None else metrics | {tuner.oracle.objective.name: trial.score}
        except FatalError as error:
            raise ends_search(error) from error
        finally:
            tuner.oracle.ended(trial)

    @contextlib.contextmanager
    def _reporting_its_end(self, trial: Trial) -> Iterator[None]:
        """Tell the tuner, and the user, how a trial has ended."""
        try:
            yield
        except (FatalError, InputError):
            raise
        except Exception as error:
            trial.status = TrialStatus.FAILED if isinstance(error, FailedTrialError) else TrialStatus.INVALID
            trial.message = traceback.format_exc()
            self._tuner.on_trial_end(trial)
            self._table.end(trial)
            raise
        trial.status = TrialStatus.COMPLETED
        self._tuner.on_trial_end(trial)
        if trial.score is None:  # on_trial_end is overridden, and does not call the original
            self._tuner.oracle.end_trial(trial)
        self._table.end(trial)

    def _run(self, trial: Trial) -> dict[str, float]:
        tuner, objective = self._tuner, self._tuner.oracle.objective
        known = set(trial.hyperparameters.values) | {each.name for each in tuner.oracle.exploration.declared}
        results = tuner.run_trial(trial, *self._args, **self._kwargs)
        if new := [name for name in trial.hyperparameters.asked if name not in known]:
            log.warning("run_trial declares %s in trial %s alone: not tuned, the default is used",
                        ", ".join(new), trial.trial_id)  # fmt: skip
        if results is None and trial.metrics.exists(objective.name):  # run_trial has called oracle.update_trial
            tuner.oracle.score_trial(trial)
            metrics = trial.last_metrics()
        elif results is None and trial.answers:  # it has called super().run_trial
            metrics = means([found for _, found in trial.answers])
        elif results is None:
            raise FatalTypeError("run_trial returned None; return the metrics, or call oracle.update_trial in it")
        else:
            metrics = as_metrics(results, objective, "run_trial()", trial.result_of)
        for name, value in metrics.items():
            if name not in FACTS and not trial.metrics.exists(name):
                trial.metrics.register(name, objective.direction if name == objective.name else None)
                trial.metrics.update(name, value, int(metrics.get("best_epoch", 0)))
        return metrics


def watching_callback(tuner: Any, trial: Trial) -> list[Any]:
    """The Keras callback that calls the methods of the tuner which its user has overridden; none if there are none."""
    import keras

    made = keras.callbacks.LambdaCallback()

    def call(name: str, at: int, logs: Any = None) -> None:
        getattr(tuner, name)(trial, made.model, at, logs=logs)

    found = [name for name in METHODS if name.startswith(("on_epoch", "on_batch")) and overrides(tuner, name)]
    for name in found:
        setattr(made, name.replace("on_batch", "on_train_batch"), partial(call, name))
    return [made] if found else []


# -- what run_trial declares ----------------------------------------------------------------------------------------


def explored(tuner: Any, explorer: Callable[..., Exploration]) -> Exploration:
    """The search space of a tuner: what building its model declares, and what ``run_trial`` does before it trains."""
    asks_run_trial = overrides(tuner, "run_trial") and (tuner.arguments.known or tuner.hypermodel is None)
    build = _Dry(tuner) if asks_run_trial else tuner.build_to_explore
    with contextlib.ExitStack() as stack:
        if asks_run_trial:
            stack.enter_context(nothing_trains())
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        found = explorer(build)
    if isinstance(build, _Dry):
        build.tell()
    if (keras := sys.modules.get("keras")) is not None:
        keras.backend.clear_session()  # frees the graphs, and restarts the numbering of layer names
    return found


class _Dry:
    """Runs an overridden ``run_trial`` up to where it would train, so that it declares its parameters.

    One that trains nothing known here runs to its end, which may take long. Then it is not run again once that has
    taken :data:`EXPLORING_SECONDS` in all: what it declares only for other values stays unknown.
    """

    def __init__(self, tuner: Any) -> None:
        self._tuner, self._seconds, self._whole, self._skipped = tuner, 0.0, 0, 0

    def __call__(self, hp: HyperParameters) -> None:
        if self._seconds > EXPLORING_SECONDS:
            self._skipped += 1
            raise NotRun
        trial = Trial(hp, "exploring")
        trial.exploring = True
        began, arguments = time.monotonic(), self._tuner.arguments
        try:
            with self._tuner.oracle.exploring(trial):
                self._tuner.run_trial(trial, *arguments.args, **arguments.kwargs)
        except WouldTrain:
            return
        self._whole += 1
        self._seconds += time.monotonic() - began

    def tell(self) -> None:
        """Say so if the space may be larger than what was found."""
        if self._skipped:
            log.warning(
                "run_trial was run %d times (%.0f s) to find its hyperparameters; what it declares only for other "
                "values of these is not tuned; declare it in hyperparameters=..., or in a HyperModel",
                self._whole, self._seconds,
            )  # fmt: skip

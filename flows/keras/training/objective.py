"""Makes an objective that builds a Keras model from the trial's configuration, trains it and returns its metrics.

Keras and cloudpickle are imported in the methods, which run in worker processes only.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hpo_core.base.errors import InputError
from hpo_flows.keras.space.hypermodel import hyper_model
from hpo_flows.keras.space.hyperparameters import HyperParameters
from hpo_flows.keras.space.objective import Objective
from hpo_flows.keras.training import checkpoint
from hpo_flows.keras.training import fit_arguments as data
from hpo_flows.keras.training.fit_arguments import FitArguments
from hpo_flows.keras.training.model import build_state, built
from hpo_flows.keras.training.reporter import EpochReporter
from hpo_flows.keras.training.trial_callbacks import named_callbacks, own_callbacks
from hpo_flows.objectives.context import TrialContext
from hpo_flows.objectives.seeds import seeded

WEIGHTS, BUILD_CONFIG, MODEL_FOLDER = "model.weights.h5", "build.json", "model"
"""The artifacts with the weights of a trial's best epoch, and with the shapes to build the model for them."""

EXAMPLE_ROWS = 5


def keras_objective(
    build_model: Any,
    data: Mapping[str, Any] | Callable[..., Mapping[str, Any]],
    *,
    epochs: int,
    objective: str | Objective | None = None,
    executions: int = 1,
    keep_model: bool = False,
) -> KerasObjective:
    """Make an objective from ``build_model(hp)`` and data, for a study file (``objective: my_module:objective``).

    ``hp`` returns the values of the trial's configuration; parameters that the space lacks get their default. The
    study's callbacks are used. If the study has a fidelity, it is the number of epochs, and a trial that resumes from
    another starts with that one's weights, optimizer and epoch.

    Args:
        build_model: A function of ``hp`` that returns a compiled model, or a :class:`hpo_flows.keras.HyperModel`.
        data: The arguments of ``model.fit`` (``x``, ``y``, ``validation_data``, ``batch_size``, ...), or a function
            that returns them, called once per worker process. A function with an argument is called with each trial,
            whose :meth:`~hpo_flows.TrialContext.split` gives the rows for the final choice.
        epochs: How long to train if the study has no fidelity.
        objective: The metric that decides which epoch's metrics are the result; None for the last epoch, or for the one
            whose weights were restored.
        executions: How often to train, each time from a new initialisation; the result is the mean.
        keep_model: Keep the weights of the best epoch as an artifact.
    """
    metric = None if objective is None else Objective.of(objective)
    return KerasObjective(hyper_model(build_model), data, epochs, metric, executions, keep_model)


@dataclass
class KerasObjective:
    """The objective that :func:`keras_objective` returns; call it with a trial.

    Args:
        model, data, epochs, objective, executions, keep_model: As there; ``data`` may also be a folder, or the
            arguments themselves if they need not travel.
        callbacks: A script's callbacks, pickled, so that each training gets its own.
        compile_: Replacements for the model's own ``optimizer``, ``loss`` or ``metrics``.
    """

    model: Any
    data: Any
    epochs: int
    objective: Objective | None = None
    executions: int = 1
    keep_model: bool = False
    callbacks: bytes = b""
    compile_: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def _arguments(self) -> FitArguments:
        if isinstance(self.data, FitArguments):
            return self.data
        if isinstance(self.data, Path):
            return data.read(self.data)
        return _fit_arguments(self.data() if callable(self.data) else self.data)

    def _arguments_of(self, trial: TrialContext) -> FitArguments:
        """The data that a trial trains on and is scored on."""
        if callable(self.data) and inspect.signature(self.data).parameters:
            return _fit_arguments(self.data(trial))
        return self._arguments

    def __call__(self, trial: TrialContext) -> dict[str, float]:
        if trial.champion is not None:
            return self._scored(trial)
        # The challenge needs one model per re-training; its re-trainings replace the executions.
        executions = 1 if trial.for_champion else self.executions
        results = [self._execute(trial, execution) for execution in range(executions)]
        best = min(results, key=lambda each: self._rank(each.result))
        if self.keep_model:
            for path in best.files:
                trial.log_artifact(path, MODEL_FOLDER)
        return _mean([each.result for each in results])

    def _scored(self, trial: TrialContext) -> dict[str, float]:
        """Score the champion on this trial's validation data, with the loss and metrics of the study's own model."""
        network, champion = built(self.model, HyperParameters(trial.config), self.compile_), trial.champion
        held_out = self._held_out(trial)
        champion.compile_from_config(network.get_compile_config())
        batch = self._arguments_of(trial).kwargs.get("validation_batch_size")
        scores = champion.evaluate(*held_out, batch_size=batch, verbose=0, return_dict=True)
        return {f"val_{name}": float(value) for name, value in scores.items()}

    def _held_out(self, trial: TrialContext) -> tuple[Any, ...]:
        """The validation data, as arguments of ``evaluate``.

        Raises:
            InputError: There is none, or Keras itself would take it from the training data.
        """
        given = self._arguments_of(trial).kwargs.get("validation_data")
        if given is None:
            problem = "it has no validation_data, on which a model and the champion could be compared"
            raise InputError("data", problem, "give validation_data, such as the rows that trial.split holds out")
        return tuple(given) if isinstance(given, tuple | list) else (given,)

    def _rank(self, result: Mapping[str, float]) -> float:
        if self.objective is None or self.objective.name not in result:
            return 0.0
        return result[self.objective.name] * (-1 if self.objective.direction == "max" else 1)

    def _execute(self, trial: TrialContext, execution: int) -> _Execution:
        """One training, with a Keras state of its own."""
        import keras

        folder = trial.scratch / f"execution_{execution}"
        folder.mkdir()
        try:
            with seeded((trial.seed + execution) % 2**31):
                return self._train(trial, execution, folder)
        finally:
            keras.backend.clear_session()  # also collects garbage: models and graphs are large and cyclic

    def _train(self, trial: TrialContext, execution: int, folder: Path) -> _Execution:
        import keras

        hp = HyperParameters(trial.config)
        network = built(self.model, hp, self.compile_)
        state = self._resumed(trial, execution, network)
        if state is not None:
            keras.utils.set_random_seed((state.seed + execution) % 2**31)  # also fixes the order of the examples
        epochs = self.epochs if trial.fidelity is None else round(trial.fidelity)
        arguments = self._arguments_of(trial)
        watch = EpochReporter(
            trial,
            named_callbacks(trial.callbacks, folder) if not self.callbacks else self._own(folder),
            objective=self.objective,
            prefix=f"execution_{execution}/" if execution else "",
            keep_weights=self.keep_model or trial.for_champion,
            validation=_validated(arguments),
            begun=state,
            keep_state=None if trial.fidelity is None else _made(trial.checkpoint / str(execution)),
        )
        given = {"verbose": 0} | dict(arguments.kwargs) | {"epochs": epochs, "callbacks": watch.callbacks}
        if watch.state.epoch:
            given["initial_epoch"] = watch.state.epoch
        build_state(network, arguments.args, arguments.kwargs)
        answer = self.model.fit(hp, network, *arguments.args, **given)
        result = self._result(answer, watch)
        files = self._kept(network, watch, folder) if self.keep_model else []
        if trial.for_champion:
            _restore_best(network, watch)
            trial.log_model(network, _first_rows(self._held_out(trial)[0]))
        return _Execution(result, files)

    def _resumed(self, trial: TrialContext, execution: int, network: Any) -> checkpoint.State | None:
        if trial.resume_from is None:
            return None
        try:
            return checkpoint.load(trial.resume_from / str(execution), network)
        except checkpoint.Damaged as error:
            trial.scratch_instead(str(error))
            return None

    def _own(self, folder: Path) -> Any:
        import cloudpickle

        return own_callbacks(cloudpickle.loads(self.callbacks), folder)

    def _result(self, answer: Any, watch: EpochReporter) -> dict[str, float]:
        """The metrics in what ``fit`` returned; from a history, those of the best epoch."""
        import keras

        if isinstance(answer, keras.callbacks.History):
            if watch.curve or watch.state.best:
                return watch.best
            return _best_of(answer.history, self.objective)
        if isinstance(answer, list | tuple) and answer:
            return _mean([self._result(each, watch) for each in answer])
        if isinstance(answer, Mapping):
            return {name: float(value) for name, value in answer.items()}
        if self.objective is None or answer is None:
            raise InputError("fit", f"it returned {answer!r:.80}", "return the history, a dict of metrics or a number")
        return {self.objective.name: float(answer)}

    def _kept(self, network: Any, watch: EpochReporter, folder: Path) -> list[Path]:
        import json

        _restore_best(network, watch)
        network.save_weights(folder / WEIGHTS)
        (folder / BUILD_CONFIG).write_text(json.dumps(network.get_build_config()), encoding="utf-8")
        return [folder / WEIGHTS, folder / BUILD_CONFIG]


def _restore_best(network: Any, watch: EpochReporter) -> None:
    if watch.state.best_weights and watch.state.best:
        network.set_weights(watch.state.best_weights)


def _first_rows(features: Any) -> Any:
    """A few rows of input, as arrays."""
    import keras
    import numpy as np

    if not hasattr(features, "shape") and not isinstance(features, dict | list | tuple):  # a tf.data.Dataset, say
        features = next(iter(features))[0]
    return keras.tree.map_structure(lambda each: np.asarray(each)[:EXAMPLE_ROWS], features)


def _fit_arguments(given: Any) -> FitArguments:
    if not isinstance(given, Mapping):
        raise InputError("data", f"{type(given).__name__} is not a dict of arguments", "give {'x': ..., 'y': ...}")
    return FitArguments((), given)


@dataclass(frozen=True)
class _Execution:
    result: dict[str, float]
    files: Sequence[Path]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _validated(arguments: FitArguments) -> bool | None:
    """Whether ``fit`` validates; None if positional arguments or the user's own ``fit`` decide that."""
    if arguments.kwargs.get("validation_data") is not None or arguments.kwargs.get("validation_split"):
        return True
    return False if len(arguments.args) <= 2 else None


def _mean(results: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = [name for name in results[0] if all(name in each for each in results)]
    return {name: sum(each[name] for each in results) / len(results) for name in names}


def _best_of(history: Mapping[str, Sequence[float]], objective: Objective | None) -> dict[str, float]:
    """The metrics of the best epoch in a history that did not pass through the trial's own callbacks."""
    rows = [dict(zip(history, values, strict=False)) for values in zip(*history.values(), strict=False)]
    if objective is None or objective.name not in history:
        return rows[-1] if rows else {}
    best = 0
    for i, row in enumerate(rows):
        if objective.better_than(row[objective.name], rows[best][objective.name]):
            best = i
    return rows[best] | {"best_epoch": float(best)}

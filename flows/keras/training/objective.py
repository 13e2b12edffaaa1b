"""Makes an objective that builds a Keras model from the trial's configuration, trains it and returns its metrics.

Keras and cloudpickle are imported in the methods, which run in worker processes only.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from hpo_core.base.errors import InputError
from hpo_flows.keras.errors import FatalError
from hpo_flows.keras.space.hypermodel import hyper_model
from hpo_flows.keras.space.hyperparameters import HyperParameters
from hpo_flows.keras.space.objective import Objective
from hpo_flows.keras.training import checkpoint
from hpo_flows.keras.training import fit_arguments as data
from hpo_flows.keras.training.fit_arguments import FitArguments
from hpo_flows.keras.training.model import Building, build_state, built, overrides_fit
from hpo_flows.keras.training.reporter import EpochReporter
from hpo_flows.keras.training.results import as_metrics, ends_search, means
from hpo_flows.keras.training.trial_callbacks import TrialCallback, named_callbacks, own_callbacks
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
        model, objective, executions, keep_model: As there.
        data: As there; also the arguments themselves, or a folder that has them.
        epochs: As there; None leaves the number to the model's ``fit``.
        callbacks: A script's callbacks, in a list or pickled; each training gets copies of its own.
        building: What a tuner changes about the models.
        watching: Further callbacks, which no training gets a copy of.
        quiet: Whether Keras' progress bars are shown only if they are asked for: nobody sees a worker's.
    """

    model: Any
    data: Any
    epochs: int | None
    objective: Objective | None = None
    executions: int = 1
    keep_model: bool = False
    callbacks: bytes | Sequence[Any] = ()
    building: Building = field(default_factory=Building)
    watching: Sequence[Any] = ()
    quiet: bool = True

    @cached_property
    def _arguments(self) -> FitArguments:
        if isinstance(self.data, FitArguments):
            return self.data.made()
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
        try:
            return means([each.metrics for each in self.train(trial)])
        except FatalError as error:
            raise ends_search(error) from error

    def train(self, trial: TrialContext, hp: HyperParameters | None = None) -> list[Execution]:
        """Train once for each execution, and log the model of the best one.

        Args:
            trial: The trial.
            hp: Its configuration; by default made of ``trial.config`` for each execution.
        """
        # The challenge needs one model per re-training; its re-trainings replace the executions.
        executions = 1 if trial.for_champion else self.executions
        done = [self._execute(trial, execution, hp) for execution in range(executions)]
        if self.keep_model:
            for path in min(done, key=lambda each: self._rank(each.metrics)).files:
                trial.log_artifact(path, MODEL_FOLDER)
        return done

    def _scored(self, trial: TrialContext) -> dict[str, float]:
        """Score the champion on this trial's validation data, with the loss and metrics of the study's own model."""
        network, champion = built(self.model, HyperParameters(trial.config), self.building), trial.champion
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

    def _execute(self, trial: TrialContext, execution: int, hp: HyperParameters | None) -> Execution:
        """One training, with a Keras state of its own."""
        import keras

        folder = trial.scratch / f"execution_{execution}"
        folder.mkdir(parents=True)
        try:
            with seeded((trial.seed + execution) % 2**31):
                return self._train(trial, execution, folder, hp or HyperParameters(trial.config))
        finally:
            keras.backend.clear_session()  # also collects garbage: models and graphs are large and cyclic

    def _train(self, trial: TrialContext, execution: int, folder: Path, hp: HyperParameters) -> Execution:
        import keras

        network = built(self.model, hp, self.building)
        state = self._resumed(trial, execution, network)
        if state is not None:
            keras.utils.set_random_seed((state.seed + execution) % 2**31)  # also fixes the order of the examples
        arguments = self._arguments_of(trial)
        own_fit = overrides_fit(self.model)
        watch = EpochReporter(
            trial,
            [*self._placed(trial, folder, hp), *(TrialCallback("", each) for each in self.watching)],
            objective=self.objective,
            objective_logged=not own_fit,
            prefix=f"execution_{execution}/" if execution else "",
            keep_weights=self.keep_model or trial.for_champion,
            validation=None if own_fit else _validated(arguments),
            begun=state,
            keep_state=None if trial.fidelity is None else _made(trial.checkpoint / str(execution)),
        )
        given = dict(arguments.kwargs) | self._epochs(trial, watch) | {"callbacks": watch.callbacks}
        if self.quiet and own_fit:
            keras.config.disable_interactive_logging()  # a fit of the user's own may take no verbose
        elif self.quiet:
            given.setdefault("verbose", 0)
        if self.building.distribution is None:
            build_state(network, arguments.args, arguments.kwargs)
        answer = self.model.fit(hp, network, *arguments.args, **given)
        metrics = as_metrics(answer, self.objective, "HyperModel.fit()", partial(_watched, watch))
        if self.keep_model or trial.for_champion:
            _restore_best(network, watch)
        files = save_weights(network, folder) if self.keep_model else []
        if trial.for_champion:
            trial.log_model(network, _first_rows(self._held_out(trial)[0]))
        return Execution(answer, metrics, files)

    def _epochs(self, trial: TrialContext, watch: EpochReporter) -> dict[str, int]:
        """The arguments of ``fit`` that say how long to train; none if that is up to ``fit``."""
        epochs = self.epochs if trial.fidelity is None else round(trial.fidelity)
        given = {} if epochs is None else {"epochs": epochs}
        return given | ({"initial_epoch": watch.state.epoch} if watch.state.epoch else {})

    def _placed(self, trial: TrialContext, folder: Path, hp: HyperParameters) -> list[TrialCallback]:
        """The callbacks of the study file or of the script, for one training."""
        if not self.callbacks:
            return named_callbacks(trial.callbacks, folder)
        if isinstance(self.callbacks, bytes):
            import cloudpickle

            return own_callbacks(cloudpickle.loads(self.callbacks), folder, hp, trial.number)
        return own_callbacks(copy.deepcopy(list(self.callbacks)), folder, hp, trial.number)

    def _resumed(self, trial: TrialContext, execution: int, network: Any) -> checkpoint.State | None:
        if trial.resume_from is None:
            return None
        try:
            return checkpoint.load(trial.resume_from / str(execution), network, own_rate=trial.reconfigured)
        except checkpoint.Damaged as error:
            trial.scratch_instead(str(error))
            return None


def save_weights(network: Any, folder: Path) -> list[Path]:
    """Write a model's weights, and the shapes to build it for them, into an existing folder; returns the files."""
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
class Execution:
    """One training of a trial.

    Args:
        answer: What the model's ``fit`` returned.
        metrics: The metrics in it.
        files: The weights of its best epoch, and the shapes to build the model for them.
    """

    answer: Any
    metrics: dict[str, float]
    files: Sequence[Path]


def _watched(watch: EpochReporter, answer: Any) -> dict[str, float] | None:
    """The metrics of the best epoch that was watched, for a history; they count epochs before a pause, too."""
    import keras

    if isinstance(answer, keras.callbacks.History) and (watch.curve or watch.state.best):
        return watch.best
    return None


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _validated(arguments: FitArguments) -> bool | None:
    """Whether ``fit`` validates; None if positional arguments or the user's own ``fit`` decide that."""
    if arguments.kwargs.get("validation_data") is not None or arguments.kwargs.get("validation_split"):
        return True
    return False if len(arguments.args) <= 2 else None

"""A tuner for Keras models with KerasTuner's interface, running on this project's own loop.

``directory`` sets the tracking store and ``project_name`` the study; the rest is a study like any other. It is run by
:func:`hpo_flows.api.run`, resumed by running again, and visible in MLflow while it runs. Keras, the loop and the store
are imported in the methods, so that a script loads only what it calls.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hpo_core.base.errors import InputError, StudyUnknown
from hpo_core.history.fidelity import Fidelity
from hpo_core.history.trial import Proposal, Trial, TrialState
from hpo_core.space.configuration import plain
from hpo_core.tracking.connection import DATABASE, connect, sqlite_uri
from hpo_flows.base.paths import home
from hpo_flows.keras.space.exploration import MAX_BUILDS, Exploration, explore
from hpo_flows.keras.space.hypermodel import hyper_model
from hpo_flows.keras.space.hyperparameters import HyperParameters
from hpo_flows.keras.space.objective import Objective
from hpo_flows.keras.training.fit_arguments import FitArguments, write
from hpo_flows.keras.training.model import built, declare_all, overrides_fit
from hpo_flows.keras.training.objective import BUILD_CONFIG, MODEL_FOLDER, WEIGHTS, KerasObjective
from hpo_flows.keras.training.trial_callbacks import own_callbacks
from hpo_flows.objectives.reference import Objective as Reference

if TYPE_CHECKING:
    from hpo_core.ledger.ledger import Ledger
    from hpo_core.study.spec import StudySpec
    from hpo_flows.base.progress import Progress
    from hpo_flows.results import StudyResult


GRID_STEPS = 10
"""How many values grid search tries for a number without a step."""

COUNTED = 10_000
"""Up to this many combinations a grid is counted one by one; for a larger one the study gets an upper bound."""


@dataclass(frozen=True)
class TunedTrial:
    """A complete trial, with KerasTuner's names.

    Attributes:
        trial_id: Its number, as a four-digit text.
        hyperparameters: Its configuration.
        score: Its value of the objective.
        best_step: The epoch, from 0, at which it reached that value; None if it reported no epochs.
        metrics: All its metrics by name, as last logged.
        run_id: Its MLflow run.
    """

    trial_id: str
    hyperparameters: HyperParameters
    score: float
    best_step: int | None
    metrics: Mapping[str, float]
    run_id: str

    def summary(self) -> None:
        """Print it."""
        print(f"\nTrial {self.trial_id} summary\nHyperparameters:")
        for name, value in self.hyperparameters.values.items():
            print(f"{name}: {value}")
        print(f"Score: {self.score}")


class Tuner:
    """Tunes a Keras model. Run again, it continues where it ended.

    Args:
        hypermodel: ``build_model(hp)``, or a :class:`hpo_flows.keras.HyperModel`.
        objective: The metric to optimise, as Keras logs it; an :class:`hpo_flows.keras.Objective` if its name does not
            imply whether smaller is better.
        strategy: The name of a strategy, or its name and settings as in a study file.
        max_trials: The total number of trials; None for as many as the strategy has.
        max_epochs, factor, hyperband_iterations: For ``hyperband`` and its variants: the epochs of a full training, the
            ratio of two rungs, and how often all brackets are run.
        executions_per_trial: How often each configuration is trained; the mean counts.
        seed: The study's seed.
        hyperparameters: Declarations that replace the function's own, and values to fix.
        tune_new_entries: Whether parameters that are not in ``hyperparameters`` are tuned.
        max_retries_per_trial: Further attempts at a trial that raised.
        max_consecutive_failed_trials: The search raises after this many failed trials in a row.
        optimizer, loss, metrics: Replace those that the model was compiled with.
        directory: The folder of the tracking store; by default ``MLFLOW_TRACKING_URI``, or the working folder.
        project_name: The study's name.
        overwrite: Delete an existing study of this name first.
        parallel: The number of parallel trials.
        max_builds: How many models may be built to find the search space.
        tracking_uri: MLflow's address; takes precedence over ``directory``.
        **settings: Further keys of a study file: ``isolation``, ``trial_timeout``, ``early_stop``, ...

    Raises:
        InputError: An argument is invalid.
    """

    strategy: ClassVar[str] = "auto"

    def __init__(
        self,
        hypermodel: Any,
        objective: str | Objective | Any = None,
        max_trials: int | None = None,
        *,
        strategy: str | Mapping[str, Any] | None = None,
        max_epochs: int = 100,
        factor: int = 3,
        hyperband_iterations: int = 1,
        executions_per_trial: int = 1,
        seed: int | None = None,
        hyperparameters: HyperParameters | None = None,
        tune_new_entries: bool = True,
        max_retries_per_trial: int = 0,
        max_consecutive_failed_trials: int = 3,
        optimizer: Any = None,
        loss: Any = None,
        metrics: Any = None,
        directory: str | Path | None = None,
        project_name: str | None = None,
        overwrite: bool = False,
        parallel: int = 1,
        max_builds: int = MAX_BUILDS,
        tracking_uri: str | None = None,
        progress: bool = True,
        **settings: Any,
    ) -> None:
        if objective is None:
            raise InputError("objective", "is missing", "give the metric to optimise, such as 'val_accuracy'")
        self.hypermodel = hyper_model(hypermodel)
        self.objective = Objective.of(objective)
        self.project_name = project_name or "untitled_project"
        self.executions_per_trial = _at_least_one("executions_per_trial", executions_per_trial)
        chosen = strategy if strategy is not None else self.strategy
        self._strategy: dict[str, Any] = {"name": chosen} if isinstance(chosen, str) else dict(chosen)
        self._max_trials, self._iterations = max_trials, _at_least_one("hyperband_iterations", hyperband_iterations)
        self._fidelity: dict[str, Any] = {"name": "epochs", "min": 1, "eta": factor}
        self._fidelity["max"] = _at_least_one("max_epochs", max_epochs)
        self._preset, self._tune_new = hyperparameters or HyperParameters(), tune_new_entries
        self._compile = {"optimizer": optimizer, "loss": loss, "metrics": metrics}
        self._compile = {name: value for name, value in self._compile.items() if value is not None}
        self._max_failures, self._max_builds = max_consecutive_failed_trials, max_builds
        self._overwrite, self._progress = overwrite, progress
        self._uri = tracking_uri or (None if directory is None else sqlite_uri(Path(directory) / DATABASE))
        self._study = {"retries": max_retries_per_trial, "seed": seed or 0, "parallel": parallel} | settings
        self._arguments = FitArguments((), {})
        self._explored: Exploration | None = None
        self.result: StudyResult | None = None

    # -- the search space -------------------------------------------------------------------------------------------

    @property
    def exploration(self) -> Exploration:
        """The search space, found by building models on first access."""
        if self._explored is None:
            import keras

            self._explored = explore(
                self._build_to_explore,
                preset=self._preset.space,
                tune_new=self._tune_new,
                max_builds=self._max_builds,
            )
            keras.backend.clear_session()  # frees the graphs, and restarts the numbering of layer names
        return self._explored

    def _build_to_explore(self, hp: HyperParameters) -> None:
        network = built(self.hypermodel, hp, self._compile)
        declare_all(self.hypermodel, hp, network, self._arguments.args, {**self._arguments.kwargs, "callbacks": []})

    def search_space_summary(self, extended: bool = False) -> None:
        """Print the search space."""
        found = self.exploration
        print(f"Search space summary\nDefault search space size: {len(found.declared)}")
        for declared in found.declared:
            config = declared.get_config()
            del config["name"]
            when = found.space.parameters[declared.name].when
            print(f"{declared.name} ({declared.kind})\n{config}" + (f"\nactive when {dict(when)}" if when else ""))

    # -- the search -------------------------------------------------------------------------------------------------

    def search(self, *args: Any, callbacks: Sequence[Any] = (), epochs: int = 1, **kwargs: Any) -> None:
        """Run trials until the requested number is reached; the arguments are those of ``model.fit``.

        Args:
            *args: As for ``fit``: ``x``, ``y``, ...
            callbacks: Keras callbacks. Each training gets its own copies, and their files become artifacts of its run.
            epochs: The epochs of each training; a multi-fidelity strategy decides this itself.
            **kwargs: As for ``fit``: ``validation_data``, ``batch_size``, ...

        Raises:
            InputError: An argument is invalid.
            RuntimeError: Too many trials failed in a row; the message has the last reason.
        """
        import cloudpickle

        from hpo_flows.api import run

        _pickle_checked(callbacks)
        epochs = _at_least_one("epochs", epochs)
        self._arguments = FitArguments(args, kwargs)
        if overrides_fit(self.hypermodel):
            self._explored = None  # a fit with these arguments may declare more parameters
        ledger = self._open()
        isolation = ledger.spec.isolation
        with contextlib.ExitStack() as stack:
            data: Path | FitArguments = self._arguments
            if isolation == "process":
                data = write(self._arguments, home() / "data")
                stack.callback(shutil.rmtree, data, ignore_errors=True)
            objective = KerasObjective(
                self.hypermodel,
                data,
                epochs,
                self.objective,
                self.executions_per_trial,
                keep_model=True,
                callbacks=cloudpickle.dumps(list(_as_list(callbacks))) if callbacks else b"",
                compile_=self._compile,
            )
            reference = Reference.of(objective, ledger.spec.objective, isolation=isolation)
            observe = stack.enter_context(_observer(ledger.spec, self._progress))
            guard = FailureGuard(self._max_failures, ledger.load().next_number, observe)
            self.result = run(ledger, reference, guard)

    def _open(self) -> Ledger:
        """The study in MLflow, created if it is new."""
        from hpo_flows.api import open_ledger

        self._discard_if_asked()
        return open_ledger(self.spec, self._uri)

    def _discard_if_asked(self) -> None:
        from hpo_core.lineage.opening import find_study

        if not self._overwrite:
            return
        self._overwrite = False  # only once, so that a second search does not delete the first one's trials
        try:
            find_study(connect(self._uri), self.project_name, self._experiment).discard()
        except StudyUnknown:
            pass

    @property
    def _experiment(self) -> str:
        return str(self._study.get("experiment") or self.project_name)

    @property
    def spec(self) -> StudySpec:
        """The study that this tuner runs.

        Raises:
            InputError: An argument of the constructor is invalid.
        """
        from hpo_core.study.file import study_from

        # Computed first, because finding the space is slow. max_consecutive_failed_trials replaces same_error.
        stop = {"trials": self._trials(), "same_error": False}
        space = {name: each.model_dump(mode="json") for name, each in self.exploration.space.parameters.items()}
        data: dict[str, Any] = {
            "name": self.project_name,
            "objective": "hpo_flows.keras:Tuner",
            "metric": self.objective.name,
            "direction": {"min": "minimize", "max": "maximize"}[self.objective.direction],
            "space": space,
            "strategy": self._strategy_settings(),
            "stop": stop,
        }
        if self._halves:
            data["fidelity"] = self._fidelity
        if self._strategy["name"] == "grid":
            data["first"] = self._defaults()  # KerasTuner's grid starts there; its other tuners do not
        return study_from(data | self._study)

    def _defaults(self) -> list[dict[str, Any]]:
        """The configuration of the parameters' defaults; empty if one of them lies between two steps."""
        space, config = self.exploration.space, dict[str, Any]()
        for declared in self.exploration.declared:
            if space.active(declared.name, config):
                config[declared.name] = declared.default
        try:
            return [space.validated(config)]
        except ValueError:
            return []

    @property
    def _halves(self) -> bool:
        return self._strategy["name"] in ("hyperband", "successive_halving", "asha")

    def _strategy_settings(self) -> dict[str, Any]:
        """The strategy as in a study file. Like KerasTuner's, a grid tries every step of parameters with steps."""
        if self._strategy["name"] != "grid" or len(self._strategy) > 1:
            return self._strategy
        sizes = {name: each.size for name, each in self.exploration.space.parameters.items()}
        stepped = {name for name, each in self.exploration.space.parameters.items() if _has_steps(each)}
        by_name = {name: int(size) for name, size in sizes.items() if name in stepped and size > GRID_STEPS}
        return {**self._strategy, "steps": GRID_STEPS, "steps_by_name": by_name}

    def _trials(self) -> int:
        """The maximum number of trials of the study."""
        if self._max_trials is not None:
            return self._max_trials
        if self._strategy["name"] == "grid":
            settings = self._strategy_settings()
            steps, by_name = settings.get("steps", GRID_STEPS), settings.get("steps_by_name", {})
            space = self.exploration.space
            levels = {name: by_name.get(name, steps) for name in space.parameters}
            first = {Proposal(config).identity for config in self._defaults()}  # may lie off the grid
            grid = [Proposal(config).identity for config in islice(space.enumerate(levels), COUNTED + 1)]
            if len(grid) > COUNTED:  # no search gets to its end, and counting would take hours
                return math.prod(len(each.values(levels[name])) for name, each in space.parameters.items())
            return max(1, len(first) + sum(identity not in first for identity in grid))
        if self._strategy["name"] == "hyperband":
            try:
                scale = Fidelity(**self._fidelity)
            except ValueError as error:
                raise InputError("factor" if str(error).startswith("eta") else "max_epochs", str(error)) from None
            return self._iterations * sum(sum(scale.bracket(s)) for s in range(len(scale.levels)))
        raise InputError("max_trials", "is missing", "give the total number of trials")

    # -- results ----------------------------------------------------------------------------------------------------

    @cached_property
    def oracle(self) -> Tuner:
        """This tuner: scripts ask ``tuner.oracle.get_best_trials()``."""
        return self

    def get_best_trials(self, num_trials: int = 1) -> list[TunedTrial]:
        """The best complete trials, best first; those of the highest fidelity come before all others."""
        from hpo_flows.reports.text import ranked

        ledger = self._open()
        return [self._tuned(trial, ledger.spec) for trial in ranked(ledger.load())[:num_trials]]

    def _tuned(self, trial: Trial, spec: StudySpec) -> TunedTrial:
        assert trial.loss is not None
        hp = HyperParameters(trial.config, self.exploration.declared)
        step = trial.metrics.get("best_epoch")
        score = spec.sign * trial.loss
        metrics = {name: value for name, value in trial.metrics.items()}
        return TunedTrial(f"{trial.number:04d}", hp, score, None if step is None else int(step), metrics, trial.run_id)

    def get_best_hyperparameters(self, num_trials: int = 1) -> list[HyperParameters]:
        """The configurations of the best trials, best first; ``.values`` has them by name."""
        return [trial.hyperparameters for trial in self.get_best_trials(num_trials)]

    def get_best_step(self, rank: int = 0) -> int | None:
        """The epoch, from 0, at which the best trial (or the one at a rank) reached its value; None if unknown."""
        found = self.get_best_trials(rank + 1)
        return found[rank].best_step if len(found) > rank else None

    def get_best_models(self, num_models: int = 1) -> list[Any]:
        """The models of the best trials with the weights of their best epochs, best first.

        Raises:
            InputError: The weights of a trial cannot be read from MLflow.
        """
        return [self._restored(trial) for trial in self.get_best_trials(num_models)]

    def _restored(self, trial: TunedTrial) -> Any:
        import json

        store = self._open().store
        weights = store.download(trial.run_id, f"{MODEL_FOLDER}/{WEIGHTS}")
        config = store.download(trial.run_id, f"{MODEL_FOLDER}/{BUILD_CONFIG}")
        if weights is None or config is None:
            problem = f"the weights of trial {trial.trial_id} are not among the artifacts of run {trial.run_id}"
            raise InputError("get_best_models", problem, "look into its run, or train its configuration again")
        network = built(self.hypermodel, trial.hyperparameters.copy(), self._compile)
        if not network.built:
            network.build_from_config(json.loads(config))
        network.optimizer.build(network.trainable_variables)  # the file also has the optimizer's variables
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / WEIGHTS
            path.write_bytes(weights)
            network.load_weights(path)
        return network

    def results_summary(self, num_trials: int = 10) -> None:
        """Print the best trials."""
        ledger = self._open()
        print(f"Results summary\nResults of study {self.project_name!r} in {ledger.store.uri}")
        print(f"Showing {num_trials} best trials\n{self.objective}")
        for trial in self.get_best_trials(num_trials):
            trial.summary()


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


def _observer(spec: StudySpec, progress: bool) -> Any:
    from hpo_flows.reports.live import LiveProgress

    return LiveProgress(spec) if progress else contextlib.nullcontext(lambda progress: None)


def _has_steps(parameter: Any) -> bool:
    return getattr(parameter, "step", None) is not None or (parameter.type == "int" and not parameter.log)


def _as_list(callbacks: Any) -> list[Any]:
    return list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]


def _pickle_checked(callbacks: Any) -> None:
    """Check early that each callback can be used in trials.

    Raises:
        InputError: One cannot.
    """
    import cloudpickle

    for i, callback in enumerate(_as_list(callbacks) if callbacks else []):
        try:
            copy = cloudpickle.loads(cloudpickle.dumps(callback))
        except Exception as error:  # objects that cannot be pickled raise many kinds
            problem = f"it cannot be copied for each trial ({type(error).__name__}: {error})"
            raise InputError(
                f"callbacks.{i}.{type(callback).__name__}", problem, "make it without such state"
            ) from None
        with tempfile.TemporaryDirectory() as folder:
            own_callbacks([copy], Path(folder))


def _at_least_one(name: str, value: Any) -> int:
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise InputError(name, f"{value!r} is not a whole number above 0")
    return number

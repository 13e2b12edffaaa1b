"""What all tuners have: a study in MLflow, searched and read under KerasTuner's names.

``directory`` sets the tracking store and ``project_name`` the study; the rest is a study like any other. It is run by
:func:`hpo_flows.api.run`, resumed by running again, and visible in MLflow while it runs. Keras, the loop and the store
are imported in the methods, so that a script loads only what it calls.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from hpo_core.base.errors import InputError
from hpo_flows.keras.space.exploration import MAX_BUILDS, Exploration
from hpo_flows.keras.space.hypermodel import hyper_model
from hpo_flows.keras.space.hyperparameters import HyperParameters
from hpo_flows.keras.space.objective import Objective
from hpo_flows.keras.training.fit_arguments import FitArguments
from hpo_flows.keras.tuner.oracle import Oracle
from hpo_flows.keras.tuner.running.overriding import explored, overrides
from hpo_flows.keras.tuner.running.searching import search
from hpo_flows.keras.tuner.trial import Trial, TrialStatus

if TYPE_CHECKING:
    from hpo_core.study.spec import StudySpec
    from hpo_flows.results import StudyResult

log = logging.getLogger("hpo")

STATE = "tuner.json"
"""The artifact of the study's run with the state of a tuner that defines ``get_state``."""


class BaseTuner:
    """Searches the space of a model. Run again, it continues where it ended.

    Args:
        oracle: The study: what is optimised, by which strategy, for how long.
        hypermodel: A function of ``hp``, or a :class:`hpo_flows.keras.HyperModel`; None if ``run_trial`` needs none.
        directory: The folder of the tracking store; by default ``MLFLOW_TRACKING_URI``, or the working folder.
        project_name: The study's name.
        overwrite: Delete an existing study of this name first.
        tuner_id: A name for this tuner.
        parallel: The number of parallel trials.
        isolation: Where trials train: ``process``, each in a process of its own, or ``none``, in this one. By default
            the first, unless something cannot go to another process; then a line says what.
        max_builds: How many models may be built to find the search space.
        tracking_uri: MLflow's address; takes precedence over ``directory``.
        progress: False to print nothing while the search runs.
        **settings: Further keys of a study file: ``trial_timeout``, ``memory_limit``, ``early_stop``, ...

    Attributes:
        oracle, hypermodel, directory, project_name, tuner_id: As given.
        result: What the last search came to; None before.

    Raises:
        InputError: An argument is invalid.
    """

    def __init__(
        self,
        oracle: Oracle,
        hypermodel: Any = None,
        directory: str | Path | None = None,
        project_name: str | None = None,
        overwrite: bool = False,
        *,
        logger: Any = None,
        tuner_id: str | None = None,
        parallel: int = 1,
        isolation: str | None = None,
        max_builds: int = MAX_BUILDS,
        tracking_uri: str | None = None,
        progress: bool = True,
        **settings: Any,
    ) -> None:
        if not isinstance(oracle, Oracle):
            raise InputError("oracle", f"{oracle!r:.80} is not an oracle", "give kt.oracles.RandomSearchOracle(...)")
        if isolation not in (None, "none", "process"):
            raise InputError("isolation", f"{isolation!r} is neither 'process' nor 'none'", "give one, or leave it out")
        _no_chief()
        if logger is not None:
            log.warning("logger has no effect: MLflow has all of a study")
        if hypermodel is None and not overrides(self, "run_trial"):
            raise InputError("hypermodel", "is missing", "give build_model(hp), a HyperModel, or override run_trial")
        self.hypermodel = hyper_model(hypermodel)
        self.oracle, self.logger = oracle, logger
        self.directory = "." if directory is None else str(directory)
        self.project_name = project_name or "untitled_project"
        self.tuner_id = tuner_id or "tuner0"
        self.isolation, self.progress = isolation, progress
        self.result: StudyResult | None = None
        self.arguments = FitArguments((), {})
        self.oracle.overwrite = overwrite
        oracle.settings |= {"parallel": parallel} | settings
        oracle.max_builds = max_builds
        oracle.explore = self._explore
        oracle._set_project_dir(directory, project_name, tracking_uri)
        if overrides(self, "set_state") and not overwrite:
            self.reload()

    # -- what is searched -------------------------------------------------------------------------------------------

    @property
    def objective(self) -> Objective:
        """What is optimised."""
        return self.oracle.objective

    @property
    def seed(self) -> int | None:
        """The study's seed."""
        return self.oracle.seed

    @property
    def max_trials(self) -> int | None:
        """The total number of trials."""
        return self.oracle.max_trials

    @property
    def remaining_trials(self) -> int | None:
        """How many trials are left; None if only the strategy decides."""
        return self.oracle.remaining_trials()

    @property
    def exploration(self) -> Exploration:
        """The search space, found by building models on first access."""
        return self.oracle.exploration

    @property
    def spec(self) -> StudySpec:
        """The study that this tuner runs.

        Raises:
            InputError: An argument of the constructor is invalid.
        """
        return self.oracle.spec

    def _explore(self, explorer: Callable[..., Exploration]) -> Exploration:
        """Find the search space: all that building a model declares."""
        return explored(self, explorer)

    def build_to_explore(self, hp: HyperParameters) -> Any:
        """Build what the hypermodel makes of values, for what it declares on the way."""
        assert self.hypermodel is not None
        return self.hypermodel.build(hp)

    def search_space_summary(self, extended: bool = False) -> None:
        """Print the search space.

        Args:
            extended: Also print when a parameter is active, as builds of the model have shown.
        """
        found = self.exploration
        print(f"Search space summary\nDefault search space size: {len(found.declared)}")
        for declared in found.declared:
            config = dict(declared.get_config())
            del config["name"]
            print(f"{declared.name} ({declared.kind})\n{config}")
            if extended and (when := found.space.parameters[declared.name].when):
                print(f"active when {dict(when)}")

    # -- the search -------------------------------------------------------------------------------------------------

    def search(self, *fit_args: Any, **fit_kwargs: Any) -> None:
        """Run trials until their number is reached.

        Args:
            *fit_args: For ``run_trial``, which hands them to ``fit``: ``x``, ``y``, ...
            **fit_kwargs: By name: ``validation_data``, ``epochs``, ``callbacks``, ... Of callbacks each training
                gets its own copies, and their files become artifacts of its run. ``verbose=0`` prints nothing. ``data``
                may be a function that returns further ones as a dict; it is called once in each process that trains.

        Raises:
            InputError: An argument is invalid.
            FatalError: A trial ended the search.
            RuntimeError: Too many trials failed in a row; the message has the last reason.
        """
        self.on_search_begin()
        self.result = search(self, fit_args, fit_kwargs)
        self.on_search_end()

    def objective_by_value(self, arguments: Any, callbacks: Any) -> Callable[[Any], Mapping[str, float]] | None:
        """What a worker process calls with each trial; None if only :meth:`run_trial` can run one.

        Args:
            arguments: Those of ``search``, or the folder that they are written to.
            callbacks: Those of ``search``.
        """
        return None

    def run_trial(self, trial: Trial, *args: Any, **kwargs: Any) -> Any:
        """Evaluate one configuration; override it to do so in your own way, in this process.

        Args:
            trial: What runs; ``trial.hyperparameters`` has its values, and may be asked for new ones.
            *args: Those of :meth:`search`.
            **kwargs: Those of :meth:`search`.

        Returns:
            The objective as a number, the metrics as a dict, Keras' history, or a list of these, whose mean counts.
        """
        raise NotImplementedError(f"{type(self).__name__} has no run_trial; define it")

    def pre_create_trial(self) -> None:
        """Called before each trial."""

    def on_search_begin(self) -> None:
        """Called when a search begins."""

    def on_search_end(self) -> None:
        """Called when a search has ended."""

    def on_trial_begin(self, trial: Trial) -> None:
        """Called when a trial begins."""

    def on_trial_end(self, trial: Trial) -> None:
        """Called when a trial has ended; gives it its score."""
        self.oracle.end_trial(trial)
        self.save()

    # -- results ----------------------------------------------------------------------------------------------------

    def get_best_trials(self, num_trials: int = 1) -> list[Trial]:
        """The best complete trials, best first; those of the highest fidelity come before all others."""
        found = self.oracle.get_best_trials(num_trials)
        return [trial for trial in found if trial.status == TrialStatus.COMPLETED]

    def get_best_hyperparameters(self, num_trials: int = 1) -> list[HyperParameters]:
        """The configurations of the best trials, best first; ``.values`` has them by name."""
        return [trial.hyperparameters for trial in self.get_best_trials(num_trials)]

    def get_best_models(self, num_models: int = 1) -> list[Any]:
        """The models of the best trials with the weights of their best epochs, best first.

        Raises:
            InputError: The weights of a trial cannot be read from MLflow.
        """
        return [self.load_model(trial) for trial in self.get_best_trials(num_models)]

    def get_best_step(self, rank: int = 0) -> int | None:
        """The epoch, from 0, at which the best trial (or the one at a rank) reached its value; None without one."""
        found = self.get_best_trials(rank + 1)
        return found[rank].best_step if len(found) > rank else None

    @property
    def results_(self) -> dict[str, Any]:
        """The best trial's ``best_score``, ``best_epoch`` and ``best_hyperparameters``; empty without one."""
        best = next(iter(self.get_best_trials()), None)
        if best is None:
            return {}
        facts = {"best_score": best.score, "best_epoch": best.best_step}
        return facts | {"best_hyperparameters": dict(best.hyperparameters.values)}

    def results_summary(self, num_trials: int = 10) -> None:
        """Print the best trials."""
        print(f"Results summary\nResults in {Path(self.directory) / self.project_name}")
        print(f"Showing {num_trials} best trials\n{self.objective}")
        for trial in self.oracle.get_best_trials(num_trials):
            print()
            trial.summary()

    def load_model(self, trial: Trial) -> Any:
        """The model of a trial."""
        raise NotImplementedError(f"{type(self).__name__} has no load_model; define it")

    def save_model(self, trial_id: str, model: Any, step: int = 0) -> None:
        """Keep the model of a running trial."""
        raise NotImplementedError(f"{type(self).__name__} has no save_model; define it")

    # -- folders and state ------------------------------------------------------------------------------------------

    @property
    def project_dir(self) -> str:
        """A folder for files of the search's own, created if need be."""
        return _made(Path(self.directory) / self.project_name)

    def get_trial_dir(self, trial_id: str) -> str:
        """A folder for files of a trial's own, created if need be."""
        return _made(Path(self.directory) / self.project_name / f"trial_{trial_id}")

    def get_state(self) -> dict[str, Any]:
        """What :meth:`save` keeps besides the study; override it, and :meth:`set_state`, to keep more than nothing."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`get_state` gave."""

    def save(self) -> None:
        """Keep :meth:`get_state` in MLflow. The study itself is there from the start of each trial on."""
        ledger = self.oracle.read() if overrides(self, "get_state") else None
        if ledger is None:
            return
        with TemporaryDirectory() as folder:
            path = Path(folder) / STATE
            path.write_text(json.dumps(self.get_state()), encoding="utf-8")
            ledger.store.upload(ledger.study_run.id, path, "")

    def reload(self) -> None:
        """Read the study anew, and what :meth:`save` has kept."""
        self.oracle.reload()
        ledger = self.oracle.read() if overrides(self, "set_state") else None
        if ledger is not None and (kept := ledger.store.download(ledger.study_run.id, STATE)) is not None:
            self.set_state(json.loads(kept))


def _made(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)


def _no_chief() -> None:
    """Check that no chief is asked for.

    Raises:
        InputError: One of KerasTuner's variables for a chief and its workers is set.
    """
    for name in ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT"):
        if name in os.environ:
            remedy = "unset it, and start the same script on each machine with one MLFLOW_TRACKING_URI, or parallel=4"
            raise InputError(name, "no chief is needed here: the flows of a study share it through MLflow", remedy)

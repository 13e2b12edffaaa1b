"""The oracle: which study a tuner runs, and its trials, under KerasTuner's names.

The study and its past are in MLflow; an oracle has the settings that it begins with, and reads the rest when asked. In
this process it also knows the trials that run here.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hpo_core.base.errors import InputError, StudyConflict, StudyUnknown
from hpo_core.history.history import History
from hpo_core.history.trial import Trial as Recorded
from hpo_core.history.trial import TrialState
from hpo_core.tracking.connection import DATABASE, connect, sqlite_uri
from hpo_flows.keras.space.exploration import MAX_BUILDS, Exploration, explore
from hpo_flows.keras.space.hyperparameters import HyperParameters
from hpo_flows.keras.space.objective import Objective
from hpo_flows.keras.space.stored import declared_in
from hpo_flows.keras.training.fit_arguments import at_least_one
from hpo_flows.keras.training.results import with_objective
from hpo_flows.keras.tuner.metrics import MetricsTracker
from hpo_flows.keras.tuner.trial import Trial, TrialStatus, number_of
from hpo_flows.reports.text import ranked

if TYPE_CHECKING:
    from hpo_core.ledger.ledger import Ledger
    from hpo_core.study.spec import StudySpec
    from hpo_flows.keras.tuner.running.own_loop import OwnLoop
    from hpo_flows.objectives.context import TrialContext

ANEW = "give another project_name, or overwrite=True to delete what is stored and begin anew"
"""What to do about a study that cannot go on."""

Explore = Callable[[Callable[..., Exploration]], Exploration]
"""Finds the search space: given :func:`explore` with the settings of the oracle, it adds what to build."""


class Oracle:
    """Says what to try, and knows the trials of the study.

    Args:
        objective: The metric to optimise; a list of them is one that sums them; None for a number that is minimised.
        max_trials: The total number of trials.
        hyperparameters: Declarations that replace the model's own, and values to fix.
        allow_new_entries: Whether the model may declare parameters that are not in ``hyperparameters``.
        tune_new_entries: Whether these are tuned; otherwise they keep their defaults.
        seed: The study's seed; 0 by default, so that a study can be replayed.
        max_retries_per_trial: Further attempts at a trial that raised.
        max_consecutive_failed_trials: The search raises after this many failed trials in a row.
        strategy: The name of a strategy, or its name and settings as in a study file.

    Raises:
        InputError: An argument is invalid.
    """

    strategy: ClassVar[str] = "auto"

    def __init__(
        self,
        objective: Any = None,
        max_trials: int | None = None,
        hyperparameters: HyperParameters | None = None,
        allow_new_entries: bool = True,
        tune_new_entries: bool = True,
        seed: int | None = None,
        max_retries_per_trial: int = 0,
        max_consecutive_failed_trials: int = 3,
        *,
        strategy: str | Mapping[str, Any] | None = None,
    ) -> None:
        for name, allowed in (("allow_new_entries", allow_new_entries), ("tune_new_entries", tune_new_entries)):
            if not allowed and hyperparameters is None:
                raise InputError(name, "it is False, and there are no hyperparameters", "give hyperparameters=...")
        if not isinstance(hyperparameters, HyperParameters | None):
            raise InputError("hyperparameters", f"{hyperparameters!r} is no HyperParameters", "give HyperParameters()")
        self.objective = Objective.of(objective)
        self.max_trials, self.seed = max_trials, seed
        self.allow_new_entries, self.tune_new_entries = allow_new_entries, tune_new_entries
        self.max_retries_per_trial = max_retries_per_trial
        self.max_consecutive_failed_trials = at_least_one(
            "max_consecutive_failed_trials", max_consecutive_failed_trials
        )
        chosen = self.strategy if strategy is None else strategy
        self._strategy: dict[str, Any] = {"name": chosen} if isinstance(chosen, str) else dict(chosen)
        self._preset = hyperparameters or HyperParameters()
        self.settings: dict[str, Any] = {}  # further keys of the study
        self.max_builds = MAX_BUILDS
        self.explore: Explore = lambda explorer: explorer(lambda hp: None)
        self._explored: Exploration | None = None
        self._reading: Ledger | None = None
        self.overwrite = False
        self._live: dict[str, Trial] = {}
        self._reported: dict[str, MetricsTracker] = {}  # by trials that ran here, with all steps
        self.loop: OwnLoop | None = None
        self._set_project_dir(None, None)

    def _set_project_dir(
        self, directory: str | Path | None, project_name: str | None, tracking_uri: str | None = None
    ) -> None:
        """Say where the study is.

        Raises:
            InputError: The directory is not a path.
        """
        if not isinstance(directory, str | Path | None):
            raise InputError("directory", f"{directory!r} is not a path", "give a text or a Path")
        self.project_name = project_name or "untitled_project"
        self.uri = tracking_uri or (None if directory is None else sqlite_uri(Path(directory) / DATABASE))
        self._reading = None

    # -- the search space -------------------------------------------------------------------------------------------

    @property
    def exploration(self) -> Exploration:
        """The search space, found by building models on first access."""
        if self._explored is None:
            self._explored = self.explore(self._explorer)
        return self._explored

    def _explorer(self, build: Callable[[HyperParameters], Any]) -> Exploration:
        found = explore(build, preset=self._preset.space, tune_new=self.tune_new_entries, max_builds=self.max_builds)
        known = {each.name for each in self._preset.space}
        if not self.allow_new_entries and (new := [d.name for d in found.declared if d.name not in known]):
            problem = f"it is False, and the model declares {', '.join(new)}"
            raise InputError("allow_new_entries", problem, "declare these in hyperparameters, or leave it out")
        return found

    def forget_space(self) -> None:
        """Find the search space anew when it is needed next."""
        self._explored = None

    @property
    def hyperparameters(self) -> HyperParameters:
        """The declared parameters, with their defaults."""
        return HyperParameters(self._preset.values, self.exploration.declared)

    def get_space(self) -> HyperParameters:
        """A copy of the declared parameters."""
        return self.hyperparameters

    def update_space(self, hyperparameters: HyperParameters) -> None:
        """Add declarations to the search space; what is declared already stays as it is."""
        known = {(each.name, tuple(map(repr, each.conditions))) for each in self._preset.space}
        new = [e for e in hyperparameters.space if (e.name, tuple(map(repr, e.conditions))) not in known]
        if new and not self.allow_new_entries:
            problem = f"it is False, and {', '.join(each.name for each in new)} is new"
            raise InputError("allow_new_entries", problem, "declare it in hyperparameters, or leave it out")
        if new and self.tune_new_entries:
            self._preset = HyperParameters(self._preset.values, [*self._preset.space, *new])
            self.forget_space()

    # -- the study --------------------------------------------------------------------------------------------------

    @property
    def spec(self) -> StudySpec:
        """The study.

        Raises:
            InputError: A setting is invalid.
        """
        from hpo_core.study.file import study_from

        plan = self._plan(self.exploration)  # first: finding the space is slow
        space = {name: each.model_dump(mode="json") for name, each in self.exploration.space.parameters.items()}
        data: dict[str, Any] = {
            "name": self.project_name,
            "objective": "hpo_flows.keras:Tuner",
            "metric": self.objective.name,
            "direction": {"min": "minimize", "max": "maximize"}[self.objective.direction],
            "space": space,
            "retries": self.max_retries_per_trial,
            "seed": self.seed or 0,
        }
        # max_consecutive_failed_trials takes the place of same_error.
        return study_from(data | plan | {"stop": {"same_error": False} | plan["stop"]} | self.settings)

    def _plan(self, found: Exploration) -> dict[str, Any]:
        """The keys of the study that say what is tried, and how often."""
        if self.max_trials is None:
            raise InputError("max_trials", "is missing", "give the total number of trials")
        return {"strategy": self._strategy, "stop": {"trials": self.max_trials}}

    @property
    def experiment(self) -> str:
        """The study's experiment in MLflow."""
        return str(self.settings.get("experiment") or self.project_name)

    def open(self, spec: StudySpec) -> Ledger:
        """The study in MLflow, created if it is new. Its earlier trials have the defaults of new hyperparameters.

        Raises:
            StudyConflict: A hyperparameter is another one than before, or is gone, or the objective is another.
        """
        from hpo_flows.api import open_ledger

        self._begin_anew()
        self._reading = None  # what it has read may be of a smaller space, in which new trials make no sense
        try:
            return open_ledger(spec, self.uri, defaults=self.exploration.defaults)
        except StudyConflict as conflict:
            raise StudyConflict(conflict.study, conflict.differences, ANEW) from None

    def _begin_anew(self) -> None:
        """Delete the study, if there is one and a tuner is to overwrite it."""
        if not self.overwrite:
            return
        self.overwrite = False  # only once, so that a second search does not delete the first one's trials
        from hpo_core.lineage.opening import find_study

        with contextlib.suppress(StudyUnknown):
            find_study(connect(self.uri), self.project_name, self.experiment).discard()
        self._reported.clear()
        self._reading = None

    def read(self) -> Ledger | None:
        """The study in MLflow as it is now; None if there is none."""
        from hpo_core.lineage.opening import find_study

        self._begin_anew()
        if self._reading is None:
            with contextlib.suppress(StudyUnknown):
                self._reading = find_study(connect(self.uri), self.project_name, self.experiment)
        return self._reading

    # -- its trials -------------------------------------------------------------------------------------------------

    def _history(self) -> History:
        ledger = self.read()
        return History() if ledger is None else ledger.load()

    def trial_id(self, number: int) -> str:
        """The id of a trial: its number, with as many digits as the number of trials."""
        return f"{number:0{len(str(self.max_trials))}d}"

    def as_trial(self, recorded: Recorded, history: History, spec: StudySpec | None = None) -> Trial:
        """A trial of the study, as MLflow has it, or as it runs here.

        Args:
            recorded: The trial.
            history: The study's history.
            spec: The study; by default as it is in MLflow.
        """
        if (live := self._live.get(id := self.trial_id(recorded.number))) is not None:
            return live
        if spec is None:
            ledger = self.read()
            assert ledger is not None
            spec = ledger.spec
        declared = declared_in(spec.search_space) if self._explored is None else self._explored.declared
        hp = HyperParameters({**recorded.config, **self._extra_values(recorded, history)}, declared)
        made = Trial.recorded(recorded, id, hp, spec)
        made.metrics = self._reported.get(id, made.metrics)
        return made

    def _extra_values(self, recorded: Recorded, history: History) -> dict[str, Any]:
        """What a trial's hyperparameters have besides its configuration."""
        return {}

    @property
    def trials(self) -> dict[str, Trial]:
        """All trials of the study, by id."""
        history = self._history()
        return {self.trial_id(each.number): self.as_trial(each, history) for each in history} | self._live

    def get_trial(self, trial_id: str) -> Trial:
        """The trial with an id.

        Raises:
            KeyError: There is none.
        """
        if (live := self._live.get(trial_id)) is not None:
            return live
        number = number_of(trial_id)
        history = self._history()
        for recorded in history:
            if recorded.number == number:
                return self.as_trial(recorded, history)
        raise KeyError(f"study {self.project_name!r} has no trial {trial_id!r}")

    def get_best_trials(self, num_trials: int = 1) -> list[Trial]:
        """The best complete trials, best first; those of the highest fidelity come before all others.

        If there are fewer, the rest follow, with their message and without a score.
        """
        history = self._history()
        rest = [trial for trial in history if trial.state is not TrialState.COMPLETE]
        return [self.as_trial(trial, history) for trial in [*ranked(history), *rest][:num_trials]]

    def remaining_trials(self) -> int | None:
        """How many trials are left; None without ``max_trials``."""
        return None if self.max_trials is None else max(0, self.max_trials - len(self._history()))

    @property
    def start_order(self) -> list[str]:
        """The ids of the trials in the order of their start."""
        return [self.trial_id(each.number) for each in self._history()]

    @property
    def end_order(self) -> list[str]:
        """The ids of the ended trials in the order of their end."""
        ended = [each for each in self._history() if each.state is not TrialState.RUNNING]
        return [self.trial_id(each.number) for each in sorted(ended, key=lambda each: (each.end or 0, each.number))]

    @property
    def ongoing_trials(self) -> dict[str, Trial]:
        """The running trials, by id."""
        return {id: trial for id, trial in self.trials.items() if trial.status == TrialStatus.RUNNING}

    # -- a trial that runs here -------------------------------------------------------------------------------------

    def begin(self, context: TrialContext) -> Trial:
        """The trial that begins to run in this process."""
        history = self._history() if type(self)._extra_values is not Oracle._extra_values else History()
        extra = next((self._extra_values(each, history) for each in history if each.number == context.number), {})
        hp = HyperParameters({**context.config, **extra}, self.exploration.declared)
        trial = Trial(hp, self.trial_id(context.number))
        trial.context = context
        self._live[trial.trial_id] = trial
        return trial

    def ended(self, trial: Trial) -> None:
        """Take a trial that no longer runs here from MLflow from now on, but for the steps of its metrics."""
        self._live.pop(trial.trial_id, None)
        self._reported[trial.trial_id] = trial.metrics
        trial.context = None
        trial.answers.clear()  # Keras' histories hold the models

    @contextlib.contextmanager
    def exploring(self, trial: Trial) -> Iterator[None]:
        """Take reports of a trial that runs for what it declares alone."""
        self._live[trial.trial_id] = trial
        try:
            yield
        finally:
            del self._live[trial.trial_id]

    def create_trial(self, tuner_id: str) -> Trial:
        """The next trial, for a loop of your own; give its result to :meth:`end_trial`.

        Args:
            tuner_id: Who asks; it gets the same trial until that has ended.

        Returns:
            The trial. Its status is ``IDLE`` if there is none for now, ``STOPPED`` if there will be none.
        """
        from hpo_flows.keras.tuner.running.own_loop import OwnLoop

        if self.loop is None:
            self.loop = OwnLoop(self)
        return self.loop.next(tuner_id)

    def update_trial(self, trial_id: str, metrics: Mapping[str, Any], step: int = 0) -> Trial:
        """Report metrics of a running trial.

        Args:
            trial_id: A trial that runs in this process.
            metrics: By name; the objective must be among them.
            step: The epoch, say.

        Raises:
            InputError: The objective is missing, or the trial does not run here.
        """
        trial = self.running(trial_id)
        if not self.objective.has_value(metrics):
            problem = f"{self.objective.name!r} is not among {', '.join(metrics) or 'no metrics'}"
            raise InputError("update_trial", problem, "report the objective, too")
        values = with_objective({name: float(each) for name, each in metrics.items()}, self.objective, "update_trial")
        for name, value in values.items():
            if not trial.metrics.exists(name):
                trial.metrics.register(name, self.objective.direction if name == self.objective.name else None)
            trial.metrics.update(name, value, step)
        if trial.context is not None:
            trial.context.report(step, values)
        return trial

    def running(self, trial_id: str) -> Trial:
        """The trial with an id that runs in this process.

        Raises:
            InputError: There is none.
        """
        if (trial := self._live.get(trial_id)) is None:
            raise InputError("trial_id", f"no trial {trial_id!r} runs in this process", "give that of a running one")
        return trial

    def end_trial(self, trial: Trial | str, status: str = TrialStatus.COMPLETED) -> None:
        """Say that a trial has ended; one that is complete gets its score.

        A trial of :meth:`create_trial` is recorded as its ``status`` says: ``COMPLETED``, ``FAILED``, or ``INVALID``,
        which makes it be tried again if there are retries left.

        Args:
            trial: The trial, or its id.
            status: How it ended, if its id is given.

        Raises:
            RuntimeError: Too many trials failed in a row.
        """
        if isinstance(trial, str):
            trial = self.running(trial)
            trial.status = status
        if trial.status == TrialStatus.COMPLETED and trial.metrics.exists(self.objective.name):
            self.score_trial(trial)
            if trial.score is None or math.isnan(trial.score):
                trial.status = TrialStatus.INVALID
        if self.loop is not None:
            self.loop.end(trial)

    def score_trial(self, trial: Trial) -> None:
        """Give a complete trial its score and best step; may be overridden."""
        trial.score = trial.metrics.get_best_value(self.objective.name)
        trial.best_step = trial.metrics.get_best_step(self.objective.name)

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """What the next trial would try, as ``values``, and as ``status`` whether there is one."""
        spec, history = self.spec, self._history()
        if spec.stop_reason(history, 0.0) or not (proposed := spec.propose(history, 1)):
            return {"status": TrialStatus.IDLE if history.running else TrialStatus.STOPPED, "values": None}
        return {"status": TrialStatus.RUNNING, "values": dict(proposed[0].config)}

    # -- its state --------------------------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """The state of the study as plain data. It is in MLflow; there is nothing to save."""
        return {
            "ongoing_trials": dict.fromkeys(self.ongoing_trials),
            "hyperparameters": self.hyperparameters.get_config(),
            "start_order": self.start_order,
            "end_order": self.end_order,
            "seed": self.seed or 0,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Nothing: the state is in MLflow."""

    def save(self) -> None:
        """Nothing: every trial is in MLflow from its start on."""

    def reload(self) -> None:
        """Read the study anew when it is needed next."""
        self._reading = None

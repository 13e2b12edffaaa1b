"""A trial as KerasTuner's users know it: one that runs in this process, or one read from the study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from hpo_core.history.trial import HYPERGRADIENT, HYPERGRADIENT_NORM, TrialState
from hpo_core.history.trial import Trial as Recorded
from hpo_flows.keras.space.hyperparameters import HyperParameters
from hpo_flows.keras.tuner.metrics import MetricsTracker

if TYPE_CHECKING:
    from hpo_core.study.spec import StudySpec

FACTS = ("best_epoch", "restored_epoch", "stopped_epoch", "learning_rate")
"""Metrics that this project adds to those of Keras."""

OURS = (HYPERGRADIENT, HYPERGRADIENT_NORM, "execution_")


class TrialStatus:
    """What a trial's ``status`` may be."""

    RUNNING = "RUNNING"
    IDLE = "IDLE"
    INVALID = "INVALID"
    STOPPED = "STOPPED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


STATUS = {
    TrialState.RUNNING: TrialStatus.RUNNING,
    TrialState.COMPLETE: TrialStatus.COMPLETED,
    TrialState.FAILED: TrialStatus.FAILED,
}


class Trial:
    """One configuration, with what came of it.

    Args:
        hyperparameters: The configuration.
        trial_id: Its number as a text, as long as the number of trials.
        status: One of :class:`TrialStatus`.
        message: Why it failed.

    Attributes:
        score: The value of the objective; None unless it is complete.
        best_step: The epoch, from 0, at which it reached that value.
        metrics: All metrics of that epoch.
        run_id: Its MLflow run; empty until it has one.
        context: What the trial offers besides, while it runs in this process; None otherwise. One that a loop of the
            user's own has asked for is told its result.
        answers: What its executions returned, with the metrics of each, while it runs in this process.
        exploring: Whether ``run_trial`` is called for what it declares alone.
    """

    def __init__(
        self,
        hyperparameters: HyperParameters,
        trial_id: str | None = None,
        status: str = TrialStatus.RUNNING,
        message: str | None = None,
    ) -> None:
        self.hyperparameters = hyperparameters
        self.trial_id = "0" if trial_id is None else trial_id
        self.status, self.message = status, message
        self.score: float | None = None
        self.best_step: int | None = 0
        self.metrics = MetricsTracker()
        self.run_id = ""
        self.context: Any = None
        self.answers: list[tuple[Any, Mapping[str, float]]] = []
        self.exploring = False

    @classmethod
    def recorded(cls, trial: Recorded, trial_id: str, hp: HyperParameters, spec: StudySpec) -> Self:
        """A trial of the study, as MLflow has it."""
        made = cls(hp, trial_id, STATUS[trial.state], trial.reason or None)
        made.run_id, made.best_step = trial.run_id, int(trial.metrics.get("best_epoch", 0))
        made.score = None if trial.loss is None else spec.sign * trial.loss
        for name, value in trial.metrics.items():
            if name not in FACTS and not name.startswith(OURS):
                direction = ("max" if spec.sign < 0 else "min") if name == spec.metric else None
                made.metrics.register(name, direction)
                made.metrics.update(name, value, made.best_step)
        return made

    def last_metrics(self) -> dict[str, float]:
        """The metrics at the best step, with ``best_epoch``; those without a value there as they were last."""
        found = {"best_epoch": float(self.best_step or 0)}
        for name, history in self.metrics.metrics.items():
            at_best = next((each for each in history.get_history() if each.step == self.best_step), None)
            value = history.get_last_value() if at_best is None else at_best.mean()
            if value is not None:
                found[name] = value
        return found

    def result_of(self, answer: Any) -> Mapping[str, float] | None:
        """The metrics of an execution of this trial, by what it returned; None if it is none of its answers."""
        return next((metrics for given, metrics in self.answers if given is answer), None)

    # -- as text and plain data -------------------------------------------------------------------------------------

    def summary(self) -> None:
        """Print it."""
        print(f"Trial {self.trial_id} summary")
        print("Hyperparameters:")
        self.display_hyperparameters()
        if self.score is not None:
            print(f"Score: {self.score}")
        if self.message is not None:
            print(self.message)

    def display_hyperparameters(self) -> None:
        """Print its configuration."""
        for name, value in self.hyperparameters.values.items():
            print(f"{name}: {value}")
        if not self.hyperparameters.values:
            print("default configuration")

    def get_state(self) -> dict[str, Any]:
        """The trial as plain data."""
        return {
            "trial_id": self.trial_id,
            "hyperparameters": self.hyperparameters.get_config(),
            "metrics": self.metrics.get_config(),
            "score": self.score,
            "best_step": self.best_step,
            "status": self.status,
            "message": self.message,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`get_state` described."""
        self.hyperparameters = HyperParameters.from_config(state["hyperparameters"])
        self.metrics = MetricsTracker.from_config(state["metrics"])
        self.trial_id, self.score, self.best_step = state["trial_id"], state["score"], state["best_step"]
        self.status, self.message = state["status"], state["message"]

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The trial that :meth:`get_state` described."""
        made = cls(HyperParameters())
        made.set_state(state)
        return made


def number_of(trial_id: str) -> int:
    """The number of a trial in its study, by its id.

    >>> number_of("0012")
    12
    """
    return int(trial_id)

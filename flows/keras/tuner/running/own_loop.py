"""Trials for a loop of the user's own, which asks an oracle for each and tells it how each has ended."""

from __future__ import annotations

from typing import Any

from hpo_core.base.errors import InputError
from hpo_flows.api.asking import AskedStudy
from hpo_flows.keras.tuner.trial import Trial, TrialStatus

IDLE_SECONDS = 1.0
"""How long a loop waits for the trials of others before it is told that there is none for now."""


class OwnLoop:
    """The trials of one loop, by who has asked for them.

    Args:
        oracle: The study.
    """

    def __init__(self, oracle: Any) -> None:
        self._oracle, self._study = oracle, AskedStudy(oracle.open(oracle.spec))
        self._out: dict[str, Trial] = {}
        self._again: list[Trial] = []
        self._attempts: dict[str, int] = {}
        self._failed = 0

    def next(self, tuner_id: str) -> Trial:
        """The trial that somebody has, one to be tried again, or a new one."""
        if tuner_id in self._out:
            return self._out[tuner_id]
        if self._again:
            trial = self._again.pop()
            trial.status, trial.message = TrialStatus.RUNNING, None
        elif (asked := self._study.ask(wait=IDLE_SECONDS)) is not None:
            trial = self._oracle.begin(asked)
        else:
            empty = TrialStatus.STOPPED if self._study.over else TrialStatus.IDLE
            return Trial(self._oracle.get_space(), status=empty)
        self._out[tuner_id] = trial
        return trial

    def end(self, trial: Trial) -> None:
        """Record how a trial has ended, unless it is tried again; others than those of this loop are left alone.

        Raises:
            InputError: It is complete without a value of the objective.
            RuntimeError: Too many trials failed in a row.
        """
        owner = next((tuner_id for tuner_id, out in self._out.items() if out is trial), None)
        if owner is None or trial.context is None:
            return
        objective = self._oracle.objective.name
        if trial.status == TrialStatus.COMPLETED and trial.score is None:
            raise InputError("end_trial", f"trial {trial.trial_id} has no {objective!r}", "call update_trial before")
        del self._out[owner]
        attempts = self._attempts[trial.trial_id] = self._attempts.get(trial.trial_id, 0) + 1
        if trial.status == TrialStatus.INVALID and attempts <= self._oracle.max_retries_per_trial:
            self._again.append(trial)
            return
        if trial.status == TrialStatus.COMPLETED:
            assert trial.score is not None
            self._failed = 0
            trial.context.tell(trial.last_metrics() | {objective: trial.score})
        else:
            trial.status = TrialStatus.FAILED
            self._failed += 1
            trial.context.tell(error=trial.message or "the loop that trained it says so")
        self._oracle.ended(trial)
        if self._failed >= self._oracle.max_consecutive_failed_trials:
            raise RuntimeError(f"{self._failed} trials in a row failed, the last one because {trial.message}")

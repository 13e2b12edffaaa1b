"""Judging a running trial: its curve, its losses at milestones, and the verdict of the study's rule."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from hpo_core.history import History
from hpo_core.study import StudySpec
from hpo_core.trial import Trial

log = logging.getLogger("hpo")


class Rungs:
    """The losses at milestones of the trials that this process runs, ahead of what was last loaded from MLflow.

    A rule may then look at all trials of this process at once, and at those of other flows as of the last load, without
    a request of its own.
    """

    def __init__(self) -> None:
        self.history = History()
        """The study as last loaded."""
        self._live: dict[int, Trial] = {}

    def note(self, trial: Trial, milestone: int, loss: float) -> None:
        known = self._live.get(trial.number, trial)
        self._live[trial.number] = replace(known, rungs={**known.rungs, milestone: loss})

    def view(self) -> History:
        """The history with the newest losses at milestones."""
        live = self._live.copy()
        trials = [
            replace(trial, rungs={**trial.rungs, **live.pop(trial.number).rungs}) if trial.number in live else trial
            for trial in self.history
        ]
        return History([*trials, *live.values()], self.history.next_number)


class Judge:
    """The study's rule of early stopping, applied to one attempt at a trial.

    Args:
        spec: The study.
        trial: The trial.
        rungs: What is known of all trials.
        warn: Called with what the user should know; says it once a flow.
    """

    def __init__(self, spec: StudySpec, trial: Trial, rungs: Rungs, warn: Callable[[str], None]) -> None:
        self._spec, self._trial, self._rungs, self._warn = spec, trial, rungs, warn
        self._curve: dict[int, float] = {}
        self._reason, self._steps, self._disobeyed = "", 0, False

    def note(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of a step."""
        value = metrics.get(self._spec.metric, math.nan)
        if math.isfinite(value):
            self._curve[step + 1] = self._spec.loss(value)
        self._disobeyed |= bool(self._reason) and step + 1 > self._steps

    def judge(self, milestone: int) -> bool:
        """Whether the trial, whose last report reached a milestone, is to go on."""
        rule, trial = self._spec.stop_rule, self._trial
        if rule is None:
            return True
        if not self._curve:
            self._warn(
                f"early_stop is skipped: the objective reports no {self._spec.metric!r}; report it, or correct metric:"
            )
            return True
        steps = max(self._curve)
        self._rungs.note(trial, milestone, self._curve[steps])
        if trial.fidelity is None or steps < trial.fidelity:
            reason = rule.verdict(self._rungs.view(), trial, self._curve, milestone)
            if reason:
                self._steps, self._reason = steps, f"stopped by {rule.name} after {steps} steps: {reason}"
        return not self._reason

    def rung(self, milestone: int) -> float | None:
        """The value of the metric to be kept for other flows as that of a milestone; None if none is."""
        rule = self._spec.stop_rule
        if rule is None or not rule.compares or not self._curve:
            return None
        return self._spec.sign * self._curve[max(self._curve)]

    def outcome(self) -> dict[str, str]:
        """Of a trial that has ended well: the reason and the fidelity reached, if it was stopped."""
        if not self._reason:
            return {}
        if self._disobeyed:
            self._warn("early_stop: the objective went on after trial.report answered False; return what there is then")
            return {}
        assert self._spec.stop_rule is not None
        reached = {} if self._spec.stop_rule.final else {"reached": repr(float(self._steps))}
        return {"reason": self._reason} | reached

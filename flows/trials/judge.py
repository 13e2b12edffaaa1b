"""Decides whether a running trial is stopped early, from its curve, its losses at milestones, or its folds."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from hpo_core.history.history import History
from hpo_core.history.trial import Trial
from hpo_core.selection.folds import verdict
from hpo_core.study.spec import StudySpec
from hpo_flows.objectives.messages import FoldScore

log = logging.getLogger("hpo")


class Rungs:
    """Milestone losses of this process's trials, kept up to date between two loads from MLflow.

    An early-stopping rule sees this process's trials at once, and those of other flows as of the last load. It needs no
    request of its own.
    """

    def __init__(self) -> None:
        self.history = History()
        """The study as last loaded."""
        self._live: dict[int, Trial] = {}

    def show(self, history: History) -> None:
        """Take over the study as just loaded."""
        self.history = history

    def restart(self, trial: Trial) -> None:
        """Drop what earlier attempts at a trial reached, because a new one begins."""
        self._live[trial.number] = replace(trial, rungs={})

    def note(self, trial: Trial, milestone: int, loss: float) -> None:
        known = self._live.get(trial.number, trial)
        self._live[trial.number] = replace(known, rungs={**known.rungs, milestone: loss})

    def latest(self) -> History:
        """The study as last loaded, with other flows' complete trials."""
        return self.history

    def view(self) -> History:
        """The history with the newest milestone losses."""
        history = self.latest()
        live = self._live.copy()  # other trials' threads add to it meanwhile
        trials = [
            replace(trial, rungs=live.pop(trial.number).rungs) if trial.number in live else trial for trial in history
        ]
        return History([*trials, *live.values()], history.next_number)


class Judge:
    """Applies the study's early-stopping rule, and the rule for folds, to one attempt at a trial.

    Args:
        spec: The study.
        trial: The trial.
        rungs: What is known of all trials.
        warn: Called with warnings for the user; shows each once per flow.
    """

    def __init__(self, spec: StudySpec, trial: Trial, rungs: Rungs, warn: Callable[[str], None]) -> None:
        self._spec, self._trial, self._rungs, self._warn = spec, trial, rungs, warn
        self._curve: dict[int, float] = {}
        self._reason, self._steps, self._disobeyed, self._reports = "", 0, False, False
        self._folds: list[float] = []
        self._folds_wanted = 0

    def note(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of a step, or some of them."""
        self._reports = True
        value = metrics.get(self._spec.metric, math.nan)
        if math.isfinite(value):
            self._curve[step + 1] = self._spec.loss(value)
        self._disobeyed |= bool(self._reason) and step + 1 > self._steps

    def judge(self, milestone: int) -> bool:
        """Whether the trial may continue past the milestone that its last report reached."""
        rule, trial = self._spec.stop_rule, self._trial
        if rule is None or not self._curve:
            return True
        steps = max(self._curve)
        self._rungs.note(trial, milestone, self._curve[steps])
        if trial.fidelity is None or steps < trial.fidelity:
            reason = rule.verdict(self._rungs.view(), trial, self._curve, milestone)
            if reason:
                self._steps, self._reason = steps, f"stopped by {rule.name} after {steps} steps: {reason}"
        return not self._reason

    def rung(self, milestone: int) -> float | None:
        """The metric's value at a milestone, to be written for other flows; None if the rule compares nothing."""
        rule = self._spec.stop_rule
        if rule is None or not rule.compares or not self._curve:
            return None
        return self._spec.sign * self._curve[max(self._curve)]

    def judge_fold(self, scored: FoldScore) -> bool:
        """Whether the trial may continue after a fold."""
        value = scored.metrics.get(self._spec.metric, math.nan)
        if not math.isfinite(value):
            if scored.asks:
                self._warn(f"trial.folds ends no trial early: fold.score gives no finite {self._spec.metric!r}")
            return True
        self._folds.append(self._spec.loss(value))
        self._folds_wanted = scored.fold.of
        if scored.asks:
            trial = replace(self._trial, folds=tuple(self._folds), folds_wanted=self._folds_wanted)
            self._reason = verdict(self._rungs.latest(), trial)
        return not self._reason

    def outcome(self) -> dict[str, str]:
        """For a completed trial that was stopped early: the reason and the fidelity reached. Otherwise empty."""
        if 0 < len(self._folds) < self._folds_wanted:
            of = f"{len(self._folds)} of {self._folds_wanted} folds"
            return {"reason": self._reason or f"the objective returned after {of}"}
        if self._reports and not self._curve and self._spec.stop_rule is not None:
            self._warn(
                f"early_stop is skipped: the objective reports no {self._spec.metric!r}; report it, or correct metric:"
            )
        if not self._reason:
            return {}
        if self._disobeyed:
            self._warn(
                "early_stop: the objective went on after trial.report returned False; return the result at that point"
            )
            return {}
        assert self._spec.stop_rule is not None
        reached = {} if self._spec.stop_rule.final else {"reached": repr(float(self._steps))}
        return {"reason": self._reason} | reached

"""Reports the steps of one training to its trial, and keeps the metrics that the objective returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from hpo_core.base.errors import InputError
from hpo_flows.objectives.context import TrialContext


class Reporter:
    """Reports every step of one training: a boosting round, an epoch.

    Args:
        trial: The trial.
    """

    evaluates: ClassVar[str]
    """What makes the library evaluate, for the error if nothing is."""

    def __init__(self, trial: TrialContext) -> None:
        self._trial = trial
        self._last = -1
        self._curve: dict[int, dict[str, float]] = {}

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the step that the model predicts with, to be returned from the objective.

        That is the last one, or the best one if the library's own early stopping has chosen it.

        Raises:
            InputError: Nothing was evaluated.
        """
        best = self._best_step()
        found = self._curve.get(self._last if best is None else best) or self._curve.get(self._last)
        if not found:
            raise InputError("metrics", "the training evaluated nothing", f"give {self.evaluates}")
        return dict(found)

    def _report(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Report a step, counted from 0, or more of it. Returns whether to go on."""
        self._last = step
        self._curve.setdefault(step, {}).update({name: float(value) for name, value in metrics.items()})
        return self._trial.report(step, metrics)

    def _best_step(self) -> int | None:
        """The step that the library's own early stopping has chosen, if it has."""
        return None


class EpochReporter(Reporter):
    """Reports the epochs of a library's own loop, and ends it at the fidelity or when told.

    The library's own length stays that of a whole training, so that schedules of the learning rate, which it makes
    after it, are the same in every part of a training.
    """

    _first = 0
    """What the checkpoint that the training goes on from has."""
    _ended = False
    """Whether the training has ended by the study's will. If not, it is over: it would not go on."""

    def _reaches_fidelity(self, step: int) -> bool:
        fidelity = self._trial.fidelity
        self._ended = fidelity is not None and step + 1 >= max(1, round(fidelity))
        return self._ended

    def _ends_after(self, step: int) -> bool:
        """Whether a step is the training's last one."""
        if not self._reaches_fidelity(step):
            self._ended = not self._trial.goes_on
        return self._ended

    def _check_length(self, argument: str, length: float | None) -> None:
        """Check that the library's own length, if it has one, does not end the training before the fidelity.

        Raises:
            InputError: It does.
        """
        fidelity = self._trial.fidelity
        if fidelity is not None and length is not None and 0 <= length < round(fidelity):
            raise InputError(
                argument, f"it is {length:g}, and the trial's fidelity is {fidelity:g}", "give the study's fidelity.max"
            )

    def _check_resumed(self, argument: str) -> None:
        """Check that the training goes on from the checkpoint that was asked for.

        Raises:
            InputError: It begins from scratch.
        """
        if self._last + 1 < self._first:
            raise InputError(
                argument,
                "the training does not go on from the parent's checkpoint",
                f"give {argument}=callback.{argument}",
            )

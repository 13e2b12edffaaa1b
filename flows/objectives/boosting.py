"""What the callbacks for XGBoost, LightGBM and CatBoost share: the rounds, the curve, and how a training goes on.

A training that pauses after some rounds and goes on has the curve of one that never paused: what a library samples in a
round then depends on the seed and the round alone. Where a library cannot do that, no checkpoint is left, and a
promoted trial trains from scratch, to the same end.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from hpo_core.base.errors import InputError
from hpo_core.base.seeding import trial_rng
from hpo_flows.objectives.context import TrialContext


def metric_name(data: str, metric: str) -> str:
    """The name of a metric on one of the evaluated data sets, as XGBoost prints it and MLflow's autologging has it.

    >>> metric_name("valid", "logloss"), metric_name("valid_0", "ndcg@5"), metric_name("validation", "NDCG:top=5")
    ('valid-logloss', 'valid_0-ndcg_at_5', 'validation-NDCG:top_5')
    """
    return re.sub(r"[^\w\-. /:]", "_", f"{data}-{metric}".replace("@", "_at_"))


def round_seed(seed: int, number: int) -> int:
    """The seed of one boosting round, in ``[0, 2**31)``."""
    return int(trial_rng(seed, number).integers(2**31))


class BoostingCallback(ABC):
    """Reports every round of one training, and stops it when told.

    Args:
        trial: The trial.
        rounds: How many rounds a training has in a study without fidelity.
    """

    evaluates: ClassVar[str]
    """What makes the library evaluate, for the error if nothing is."""

    def __init__(self, trial: TrialContext, rounds: int | None) -> None:
        self._trial, self._given = trial, rounds
        self._last = -1
        self._curve: dict[int, dict[str, float]] = {}

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the round that the model predicts with, to be returned from the objective.

        That is the last one, or the best one if the library's own early stopping has chosen it.

        Raises:
            InputError: Nothing was evaluated.
        """
        best = self._best_round()
        found = self._curve.get(self._last if best is None else best) or self._curve.get(self._last)
        if not found:
            raise InputError("metrics", "the training evaluated nothing", f"give {self.evaluates}")
        return dict(found)

    @property
    def _total(self) -> int:
        """The rounds of the whole training, counted from the start."""
        fidelity = self._trial.fidelity
        if fidelity is not None:
            return round(fidelity)
        if self._given is None:
            raise InputError("rounds", "the study has no fidelity to set them", "give callback(trial, rounds=...)")
        return self._given

    def _report(self, number: int, metrics: Mapping[str, float]) -> bool:
        """Report a round, counted from 0. Returns whether to go on."""
        self._last = number
        self._curve[number] = {name: float(value) for name, value in metrics.items()}
        return self._trial.report(number, metrics)

    def _best_round(self) -> int | None:
        """The round that the library's own early stopping has chosen, if it has."""
        return None


class ModelCallback(BoostingCallback):
    """The callback for a library whose training goes on from a model."""

    file: ClassVar[str]
    goes_on_by: ClassVar[str]
    """The argument that the model to go on from is given by."""

    _continues = False
    """Whether the user asked what to train, so that the training may be one part of a longer one."""
    _first = 0

    @cached_property
    def model(self) -> Any:
        """The model that the training goes on from; None means from scratch."""
        self._continues = self._trial.fidelity is not None
        folder = self._trial.resume_from
        if folder is None:
            return None
        try:
            return self._load(folder / self.file)
        except Exception as error:  # each library raises its own kind for a damaged file
            self._trial.scratch_instead(f"the checkpoint cannot be read: {type(error).__name__}: {error}")
            return None

    @property
    def rounds(self) -> int:
        """How many rounds to train: those up to the fidelity that :attr:`model` does not have yet."""
        return self._total - self._done

    @property
    def _done(self) -> int:
        return 0 if self.model is None else self._rounds_of(self.model)

    def _begin(self, first: int) -> None:
        """Check the number of the round that the training begins with."""
        self._first = first
        if self._continues and first < self._done:
            raise InputError(
                self.goes_on_by,
                "the training does not go on from the parent trial's model, but has only the rounds that it lacks",
                f"give {self.goes_on_by}=callback.model",
            )

    @abstractmethod
    def _load(self, file: Path) -> Any:
        """Load a model from a checkpoint."""

    @abstractmethod
    def _rounds_of(self, model: Any) -> int:
        """The number of rounds in a model."""

"""Connects a CatBoost training to its trial: reports its rounds, stops it when told, goes on from the parent's state.

Nothing here imports CatBoost.
"""

from __future__ import annotations

import json
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

from hpo_core.base.extras import require
from hpo_flows.adapters.boosting import BoostingCallback, metric_name
from hpo_flows.objectives.context import TrialContext

SNAPSHOT, METRICS = "snapshot", "metrics.json"

__all__ = ["CatBoostCallback", "callback"]


def callback(trial: TrialContext, rounds: int | None = None) -> CatBoostCallback:
    """Make the callback for one training of a trial, by ``fit`` of a CatBoost model.

    It reports the metrics of every round as ``DATASET-METRIC`` (``validation-Logloss``), and ends the training when a
    rule of the study says so. Its attribute ``parameters`` holds parameters for the model, ``metrics`` what to return.
    CatBoost has callbacks only for trainings on processors, not on GPUs.

    Args:
        trial: The trial.
        rounds: How many rounds a training has in a study without fidelity.

    Raises:
        ExtraMissing: CatBoost is not installed.
    """
    require("catboost", "hpo_flows.catboost.callback")
    return CatBoostCallback(trial, rounds)


class CatBoostCallback(BoostingCallback):
    """The callback that :func:`callback` makes."""

    evaluates = "eval_set=(X, y) to fit"

    _resumes = False

    def __init__(self, trial: TrialContext, rounds: int | None) -> None:
        super().__init__(trial, rounds)
        self._lengths: dict[str, int] = {}

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """The number of rounds and, in a study with a fidelity, the snapshot that the training goes on from."""
        given: dict[str, Any] = {"iterations": self._total, "verbose": False, "use_best_model": False}
        if self._trial.fidelity is None:
            return given | {"allow_writing_files": False}
        folder = self._trial.scratch / "catboost"
        folder.mkdir()
        if (parent := self._trial.resume_from) is not None and self._can_go_on():
            try:
                # If CatBoost's early stopping has ended the training, no round is left to have metrics.
                self._curve[-1] = json.loads((parent / METRICS).read_text(encoding="utf-8"))
                shutil.copy(parent / SNAPSHOT, folder)
                self._resumes = True
            except (OSError, ValueError) as error:
                self._trial.scratch_instead(f"the checkpoint cannot be read: {error}")
        self._trial.leave_checkpoint(self._save)
        return given | {
            "save_snapshot": True,
            "snapshot_file": str(folder / SNAPSHOT),
            "train_dir": str(folder),
            # The default. CatBoost changes it in short trainings, and then refuses to make a longer one of them.
            "max_ctr_complexity": 4,
        }

    def _can_go_on(self) -> bool:
        """Whether CatBoost takes the parent's snapshot: with other parameters it raises, the learning rate apart."""
        own, parents = self._trial.config, self._trial.parent_config or self._trial.config
        changed = {name for name in own.keys() | parents.keys() if own.get(name) != parents.get(name)}
        if others := sorted(changed - {"learning_rate"}):
            self._trial.scratch_instead(f"CatBoost does not go on with another {', '.join(others)}")
        return not others

    def after_iteration(self, info: Any) -> bool:
        if self._resumes and not self._lengths and info.iteration == 1:
            self._trial.scratch_instead("CatBoost cannot read the checkpoint")
        metrics: dict[str, float] = {}
        for data, found in info.metrics.items():
            for metric, values in found.items():
                name = metric_name(data, metric)
                if len(values) > self._lengths.get(name, 0):  # with a metric_period, not in every round
                    metrics[name] = values[-1]
                self._lengths[name] = len(values)
        return self._report(info.iteration - 1, metrics)

    def _save(self, folder: Path) -> None:
        shutil.copy(self._trial.scratch / "catboost" / SNAPSHOT, folder)
        (folder / METRICS).write_text(json.dumps(self.metrics), encoding="utf-8")

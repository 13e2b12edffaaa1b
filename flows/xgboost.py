"""Connects an XGBoost training to its trial: reports its rounds, stops it when told, goes on from the parent's model.

XGBoost is imported in the functions, so that importing this file stays cheap.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpo_core.base.extras import require
from hpo_flows.objectives.boosting import ModelCallback, metric_name, round_seed
from hpo_flows.objectives.context import TrialContext

__all__ = ["XGBoostCallback", "callback"]


def callback(trial: TrialContext, rounds: int | None = None) -> XGBoostCallback:
    """Make the callback for one training of a trial, by ``xgboost.train`` or a model with scikit-learn's interface.

    It reports the metrics of every round as ``DATASET-METRIC``, the name that XGBoost prints (``valid-logloss``), and
    ends the training when a rule of the study says so. Its attribute ``rounds`` is the number of rounds to train,
    ``model`` the value for ``xgb_model``, and ``metrics`` what to return.

    Args:
        trial: The trial.
        rounds: How many rounds a training has in a study without fidelity.

    Raises:
        ExtraMissing: XGBoost is not installed.
    """
    require("xgboost", "hpo_flows.xgboost.callback")
    from xgboost.callback import TrainingCallback

    TrainingCallback.register(XGBoostCallback)  # a subclass could only be defined after importing XGBoost
    return XGBoostCallback(trial, rounds)


class XGBoostCallback(ModelCallback):
    """The callback that :func:`callback` makes."""

    evaluates = 'evals=[(data, "valid")], or eval_set=[(X, y)] to fit'
    file = "model.ubj"
    goes_on_by = "xgb_model"

    _trained: Any = None
    _seed: int | None = None

    def before_training(self, model: Any) -> Any:
        import xgboost

        self._begin(model.num_boosted_rounds())
        if self._continues and isinstance(model, xgboost.Booster):  # that of xgboost.cv is none, and cannot go on
            self._trained = model
            self._seed = int(json.loads(model.save_config())["learner"]["generic_param"]["seed"])
            self._trial.leave_checkpoint(self._save)
        return model

    def before_iteration(self, model: Any, epoch: int, evals_log: Mapping[str, Any]) -> bool:
        if self._seed is not None:
            # XGBoost seeds its sampler of columns when it makes its tree builder, once a training. It makes a new one
            # after load_config. The one for rows is seeded anew whenever the seed changes.
            model.load_config(model.save_config())
            model.set_param({"seed": round_seed(self._seed, self._first + epoch)})
        return False

    def after_iteration(self, model: Any, epoch: int, evals_log: Mapping[str, Mapping[str, Any]]) -> bool:
        metrics: dict[str, float] = {}
        for data, found in evals_log.items():
            for metric, values in found.items():
                name, last = metric_name(data, metric), values[-1]
                if isinstance(last, tuple):  # of xgboost.cv, with the standard deviation over its folds
                    last, metrics[f"{name}-std"] = last
                metrics[name] = last
        return not self._report(self._first + epoch, metrics)

    def after_training(self, model: Any) -> Any:
        if self._trained is not None:
            self._trained = model  # EarlyStopping(save_best=True) makes another one
        return model

    def _best_round(self) -> int | None:
        best = None if self._trained is None else self._trained.attr("best_iteration")
        return None if best is None else int(best)

    def _save(self, folder: Path) -> None:
        if self._best_round() is None:  # XGBoost's early stopping would count its patience anew
            self._trained.save_model(folder / self.file)

    def _load(self, file: Path) -> Any:
        import xgboost

        return xgboost.Booster(model_file=file)

    def _rounds_of(self, model: Any) -> int:
        return int(model.num_boosted_rounds())

    # A model with scikit-learn's interface has its callbacks as a parameter, and is cloned and pickled with them.
    # What is pickled needs neither the trial nor this package.

    def __deepcopy__(self, memo: Any) -> XGBoostCallback:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        from xgboost.callback import TrainingCallback

        return TrainingCallback, ()

"""Connects a LightGBM training to its trial: reports its rounds, stops it when told, goes on from the parent's model.

LightGBM is imported in the functions, so that importing this file stays cheap.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpo_core.base.errors import InputError
from hpo_core.base.extras import require
from hpo_flows.objectives.boosting import ModelCallback, metric_name, round_seed
from hpo_flows.objectives.context import TrialContext

ROW_FRACTIONS = ("bagging_fraction", "pos_bagging_fraction", "neg_bagging_fraction")
COLUMN_FRACTIONS = ("feature_fraction", "feature_fraction_bynode")

__all__ = ["LightGBMCallback", "callback"]


def callback(trial: TrialContext, rounds: int | None = None) -> LightGBMCallback:
    """Make the callback for one training of a trial, by ``lightgbm.train`` or a model with scikit-learn's interface.

    It reports the metrics of every round as ``DATASET-METRIC`` (``valid_0-binary_logloss``), and ends the training when
    a rule of the study says so. Its attribute ``rounds`` is the number of rounds to train, ``model`` the value for
    ``init_model``, ``seeds`` parameters to train with, and ``metrics`` what to return.

    Args:
        trial: The trial.
        rounds: How many rounds a training has in a study without fidelity.

    Raises:
        ExtraMissing: LightGBM is not installed.
    """
    require("lightgbm", "hpo_flows.lightgbm.callback")
    return LightGBMCallback(trial, rounds)


class LightGBMCallback(ModelCallback):
    """The callback that :func:`callback` makes."""

    evaluates = "valid_sets=[data], or eval_X and eval_y to fit"
    file = "model.txt"
    goes_on_by = "init_model"
    before_iteration = False

    _trained: Any = None
    _stopped = False
    _settings: Mapping[str, str] | None = None

    def __init__(self, trial: TrialContext, rounds: int | None) -> None:
        super().__init__(trial, rounds)
        self.order = 25  # before LightGBM's early stopping, at 30, ends the training: its last round is reported, too

    @property
    def seeds(self) -> dict[str, int]:
        """The trial's seed, and the seeds of the round that the training begins with, as parameters of LightGBM."""
        freq = 0 if self.model is None else int(self.model.params.get("bagging_freq", 0))
        return {"random_state": self._trial.seed} | self._seeds_of(self._done, freq)

    def __call__(self, env: Any) -> None:
        if env.iteration == env.begin_iteration:
            self._begin(env.begin_iteration)
            self._look_at(env.model)
        metrics: dict[str, float] = {}
        for data, metric, value, _, *deviation in env.evaluation_result_list or ():
            metrics[metric_name(data, metric)] = value
            if deviation and deviation[0] is not None:  # of lightgbm.cv, over its folds
                metrics[f"{metric_name(data, metric)}-std"] = deviation[0]
        if not self._report(env.iteration, metrics):
            from lightgbm.callback import EarlyStopException

            self._stopped = True
            raise EarlyStopException(env.iteration, env.evaluation_result_list)
        if self._settings is not None:
            env.model.reset_parameter(self._sampling(env.iteration + 1, self._settings))

    def _look_at(self, model: Any) -> None:
        """Find out, after the first round, whether the training can go on exactly; have it sample by round if so."""
        import lightgbm

        if not isinstance(model, lightgbm.Booster):  # that of lightgbm.cv is none, and cannot go on
            return
        self._trained = model
        settings = dict(re.findall(r"^\[(\w+): (.*)\]$", model.model_to_string(num_iteration=1), re.MULTILINE))
        # dart drops no trees of a model that it goes on from, goss begins with unsampled rounds again, rf cannot go on.
        if not self._continues or settings["boosting"] != "gbdt" or settings["data_sample_strategy"] != "bagging":
            return
        freq = int(settings["bagging_freq"])
        rows = freq > 0 and any(float(settings[name]) < 1 for name in ROW_FRACTIONS)
        if rows or any(float(settings[name]) < 1 for name in COLUMN_FRACTIONS) or settings["extra_trees"] == "1":
            expected = self._seeds_of(self._first, freq)
            if {name: int(settings[name]) for name in expected} != expected:
                raise InputError(
                    "seeds",
                    "the training samples, and not by the seeds that let it go on where it pauses",
                    "add callback.seeds to its parameters",
                )
            self._settings = settings
        self._trial.leave_checkpoint(self._save)

    def _sampling(self, number: int, settings: Mapping[str, str]) -> dict[str, Any]:
        """The parameters that make what a round samples depend on its number alone."""
        freq = int(settings["bagging_freq"])
        fractions = {name: float(settings[name]) for name in ROW_FRACTIONS if freq > 0 and float(settings[name]) < 1}
        # LightGBM takes over a new seed for the rows only if their fraction changes, too: here by its last bit.
        odd = (number - self._first) % 2
        shares = {name: math.nextafter(share, 0) if odd else share for name, share in fractions.items()}
        return self._seeds_of(number, freq) | shares

    def _seeds_of(self, number: int, freq: int) -> dict[str, int]:
        seed, bag = self._trial.seed, number - number % max(freq, 1)  # ``freq`` rounds share their rows
        return {
            "bagging_seed": round_seed(seed, bag),
            "feature_fraction_seed": round_seed(seed, number),
            "extra_seed": round_seed(seed, number),
        }

    def _best_round(self) -> int | None:
        best = 0 if self._trained is None or self._stopped else self._trained.best_iteration
        return best - 1 if best > 0 else None

    def _save(self, folder: Path) -> None:
        if self._best_round() is None:  # LightGBM's early stopping would count its patience anew
            self._trained.save_model(folder / self.file, num_iteration=-1)

    def _load(self, file: Path) -> Any:
        import lightgbm

        return lightgbm.Booster(model_file=file)

    def _rounds_of(self, model: Any) -> int:
        return int(model.current_iteration())

"""A tuner for scikit-learn's estimators with KerasTuner's interface: each trial cross-validates.

Its folds are scored one by one, as :meth:`hpo_flows.TrialContext.folds` does: a trial whose first folds are worse than
the best trial's by more than the noise has no further ones. scikit-learn is imported in the methods.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hpo_core.base.errors import InputError
from hpo_flows.keras.errors import FatalError
from hpo_flows.keras.space.hyperparameters import HyperParameters
from hpo_flows.keras.training import fit_arguments
from hpo_flows.keras.training.fit_arguments import FitArguments
from hpo_flows.keras.training.objective import MODEL_FOLDER
from hpo_flows.keras.training.results import ends_search
from hpo_flows.keras.tuner.base_tuner import BaseTuner
from hpo_flows.keras.tuner.trial import Trial
from hpo_flows.objectives.context import TrialContext
from hpo_flows.sklearn import rows_of

MODEL = "model.pickle"
"""The artifact with a trial's estimator, as fitted in its last fold."""


class SklearnTuner(BaseTuner):
    """Tunes an estimator by cross-validation.

    Args:
        oracle: The study; its objective is ``kt.Objective("score", "max")``.
        hypermodel: A function of ``hp`` that returns an estimator, or a :class:`hpo_flows.keras.HyperModel`.
        scoring: A scikit-learn scorer; by default the estimator's own ``score``.
        metrics: Further functions of ``(y, predicted)`` to log, one or a list.
        cv: A splitter of scikit-learn; by default five shuffled folds.
        **settings: As for :class:`BaseTuner`.
    """

    def __init__(
        self,
        oracle: Any,
        hypermodel: Any,
        scoring: Callable[..., float] | None = None,
        metrics: Any = None,
        cv: Any = None,
        **settings: Any,
    ) -> None:
        super().__init__(oracle, hypermodel, **settings)
        self.scoring, self.cv = scoring, cv
        self.metrics = list(metrics) if isinstance(metrics, list | tuple) else [metrics] if metrics is not None else []

    def search(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> None:
        """Run trials until their number is reached.

        Args:
            X: Features, an array or a DataFrame.
            y: Labels or values.
            sample_weight: Weights of the rows, for ``fit`` and the scores.
            groups: Groups of the rows, for the splitter.
        """
        super().search(X, y, sample_weight=sample_weight, groups=groups)

    def _objective(self, arguments: Any) -> CrossValidated:
        return CrossValidated(self.hypermodel, arguments, self.scoring, self.metrics, self.cv)

    def objective_by_value(self, arguments: Any, callbacks: Any) -> Callable[[Any], Mapping[str, float]] | None:
        return self._objective(arguments)

    def run_trial(self, trial: Trial, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> Any:
        """Cross-validate a configuration; returns the mean of each metric."""
        assert trial.context is not None
        arguments = FitArguments((X, y), {"sample_weight": sample_weight, "groups": groups})
        return self._objective(arguments).run(trial.context, trial.hyperparameters)

    def save_model(self, trial_id: str, model: Any, step: int = 0) -> None:
        """Keep the estimator of a running trial."""
        if (context := self.oracle.running(trial_id).context) is not None:
            _keep(context, model)

    def load_model(self, trial: Trial) -> Any:
        """The estimator of a trial, as fitted in its last fold. It is a pickle: loading it runs its writer's code.

        Raises:
            InputError: It cannot be read from MLflow.
        """
        import cloudpickle

        ledger = self.oracle.read()
        kept = None if ledger is None else ledger.store.download(trial.run_id, f"{MODEL_FOLDER}/{MODEL}")
        if kept is None:
            problem = f"the estimator of trial {trial.trial_id} is not among the artifacts of run {trial.run_id}"
            raise InputError("get_best_models", problem, "look into its run, or fit its configuration again")
        return cloudpickle.loads(kept)


@dataclass
class CrossValidated:
    """What a worker calls with each trial of a :class:`SklearnTuner`.

    Args:
        model, scoring, metrics, cv: As there.
        data: The arguments of ``search``, or the folder that they are written to.
    """

    model: Any
    data: FitArguments | Path
    scoring: Callable[..., float] | None
    metrics: Sequence[Callable[..., float]]
    cv: Any

    @cached_property
    def _arguments(self) -> FitArguments:
        return fit_arguments.read(self.data) if isinstance(self.data, Path) else self.data.made()

    def __call__(self, trial: TrialContext) -> dict[str, float]:
        try:
            return self.run(trial, HyperParameters(trial.config))
        except FatalError as error:
            raise ends_search(error) from error

    def run(self, trial: TrialContext, hp: HyperParameters) -> dict[str, float]:
        """Fit and score in each fold; returns the mean of each metric."""
        X, y = (self._arguments.args[i] if len(self._arguments.args) > i else self._arguments.kwargs[name]
                for i, name in enumerate("Xy"))  # fmt: skip
        weights, groups = (self._arguments.kwargs.get(name) for name in ("sample_weight", "groups"))
        estimator: Any = None
        folds = trial.folds_of(list(self._splitter().split(X, y, groups)))
        for fold in folds:
            estimator = self.model.build(hp)
            fitted_with = {} if weights is None or not _takes_weights(estimator) else {"sample_weight": weights}
            estimator.fit(rows_of(X, fold.train), rows_of(y, fold.train), **_of(fitted_with, fold.train))
            scored_with = _of({} if weights is None else {"sample_weight": weights}, fold.held_out)
            fold.score(self._scores(estimator, rows_of(X, fold.held_out), rows_of(y, fold.held_out), scored_with))
        _keep(trial, estimator)
        return folds.means()

    def _splitter(self) -> Any:
        from sklearn.model_selection import KFold

        return KFold(5, shuffle=True, random_state=1) if self.cv is None else self.cv

    def _scores(self, estimator: Any, X: Any, y: Any, weights: Mapping[str, Any]) -> dict[str, float]:
        score = estimator.score(X, y, **weights) if self.scoring is None else self.scoring(estimator, X, y, **weights)
        found = {"score": float(score)}
        predicted = estimator.predict(X) if self.metrics else None
        return found | {each.__name__: float(each(y, predicted, **weights)) for each in self.metrics}


def _takes_weights(estimator: Any) -> bool:
    """Whether ``fit`` takes a ``sample_weight``; a pipeline takes those of its steps alone."""
    return "sample_weight" in inspect.signature(estimator.fit).parameters


def _of(arguments: Mapping[str, Any], rows: Any) -> dict[str, Any]:
    return {name: rows_of(value, rows) for name, value in arguments.items()}


def _keep(trial: TrialContext, estimator: Any) -> None:
    import cloudpickle

    path = trial.scratch / MODEL
    path.write_bytes(cloudpickle.dumps(estimator))
    trial.log_artifact(path, MODEL_FOLDER)

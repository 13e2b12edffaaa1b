"""A ready objective for scikit-learn: from a function that makes an estimator, and data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flows.context import TrialContext
from flows.evaluation import classification_metrics, log_pictures, regression_metrics

EXAMPLE_ROWS = 5


def sklearn_objective(
    build: Callable[[dict[str, Any]], Any],
    X: Any,
    y: Any,
    *,
    scoring: str | Callable[..., float] | None = None,
    name: str = "data",
    fidelity: str | None = None,
    stratify: bool | None = None,
    groups: Any = None,
    test: float | Sequence[int] = 0.2,
    validation: float = 0.2,
    shuffle: bool = True,
) -> Callable[[TrialContext], dict[str, float]]:
    """An objective that fits an estimator and scores it on the rows that the phase of the study holds out.

    It returns the metrics of :mod:`flows.evaluation` (a classifier's ``accuracy``, ``f1``, ``log_loss``, ...; a
    regressor's ``mse``, ``mae``, ``r2``), of which the study file names one. With the best trials it keeps the model
    as ``mlflow models serve`` takes it and, of classifiers, a confusion matrix and ROC curves.

    Args:
        build: From a configuration to an estimator, a pipeline included. Every ``random_state`` that it leaves at None
            gets the trial's seed.
        X: Features, an array or a DataFrame of ``n`` rows.
        y: Labels or values, shape ``(n,)``.
        scoring: The name of one of scikit-learn's scorers, whose score stands beside the metrics under that name; or
            a function of (estimator, X, y), whose score stands under the name ``score``. Greater is better for both.
        name: What MLflow calls the data.
        fidelity: The estimator's parameter that the study's fidelity sets (``n_estimators``, say).
        stratify: Whether labels have the same shares on both sides of a split; by default those of classifiers.
        groups, test, validation, shuffle: As for :meth:`flows.TrialContext.split`.

    >>> from sklearn.tree import DecisionTreeClassifier
    >>> X, y = np.arange(40.0).reshape(-1, 1), np.repeat([0, 1], 20)
    >>> objective = sklearn_objective(lambda config: DecisionTreeClassifier(**config), X, y)
    """

    def objective(trial: TrialContext) -> dict[str, float]:
        given = trial.champion
        estimator = _seeded(build(dict(trial.config)), trial.seed) if given is None else given
        if given is None and fidelity is not None and trial.fidelity is not None:
            estimator.set_params(**{fidelity: round(trial.fidelity)})
        classifies = _is_classifier(estimator)
        strata = y if (classifies and shuffle if stratify is None else stratify) else None
        rows, held_out = trial.split(
            len(y), stratify=strata, groups=groups, test=test, validation=validation, shuffle=shuffle
        )
        if given is None:
            estimator.fit(_rows(X, rows), _rows(y, rows))
        features, truth = _rows(X, held_out), np.asarray(_rows(y, held_out))
        trial.log_dataset(name, X, y)
        trial.log_model(estimator, features[:EXAMPLE_ROWS])
        score = classifier_scores if classifies else regressor_scores
        return score(trial, estimator, features, truth) | _scored(scoring, estimator, features, truth)

    return objective


def classifier_scores(trial: TrialContext, estimator: Any, features: Any, y: Any) -> dict[str, float]:
    """The metrics of a fitted classifier, and its pictures if the trial is the best so far."""
    predicted = estimator.predict(features)
    probabilities = estimator.predict_proba(features) if hasattr(estimator, "predict_proba") else None
    classes = list(estimator.classes_)
    trial.on_best(lambda: log_pictures(trial, y, predicted, probabilities, classes))
    return classification_metrics(y, predicted, probabilities, classes)


def regressor_scores(trial: TrialContext, estimator: Any, features: Any, y: Any) -> dict[str, float]:
    """The metrics of a fitted regressor."""
    return regression_metrics(y, estimator.predict(features))


def _scored(scoring: str | Callable[..., float] | None, estimator: Any, features: Any, y: Any) -> dict[str, float]:
    if scoring is None:
        return {}
    if callable(scoring):
        return {"score": float(scoring(estimator, features, y))}
    from sklearn.metrics import get_scorer

    return {scoring: float(get_scorer(scoring)(estimator, features, y))}


def _is_classifier(estimator: Any) -> bool:
    from sklearn.base import is_classifier

    return bool(is_classifier(estimator))


def _seeded(estimator: Any, seed: int) -> Any:
    """The estimator with the seed wherever it would draw its own."""
    if not (hasattr(estimator, "fit") and hasattr(estimator, "get_params")):
        raise TypeError(f"build returned {estimator!r:.80}, which is no estimator of scikit-learn; return one")
    settings = estimator.get_params()
    names = [name for name in settings if name.rpartition("__")[2] == "random_state" and settings[name] is None]
    return estimator.set_params(**dict.fromkeys(names, seed))


def _rows(table: Any, rows: Any) -> Any:
    """Rows of an array, a DataFrame or a list."""
    if hasattr(table, "iloc"):
        return table.iloc[rows]
    return table[rows] if hasattr(table, "shape") else np.asarray(table)[rows]

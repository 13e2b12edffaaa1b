"""Makes an objective for scikit-learn from a function that builds an estimator, and data.

scikit-learn is imported in the functions, so that importing this file stays cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hpo_flows.objectives.context import TrialContext
from hpo_flows.objectives.metrics import classification_metrics, log_pictures, regression_metrics

EXAMPLE_ROWS = 5

__all__ = ["sklearn_objective"]


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
    """Make an objective that fits an estimator and scores it on the rows that the study's phase holds out.

    It returns the metrics of :mod:`hpo_flows.objectives.metrics` (a classifier's ``accuracy``, ``f1``, ``log_loss``,
    ...; a regressor's ``mse``, ``mae``, ``r2``); the study file names one of them. For the best trials it logs the
    model, in the form that ``mlflow models serve`` needs, and for classifiers a confusion matrix and ROC curves.

    Args:
        build: Makes an estimator or a pipeline from a configuration. Every ``random_state`` that is None gets the
            trial's seed.
        X: Features, an array or a DataFrame of ``n`` rows.
        y: Labels or values, shape ``(n,)``.
        scoring: The name of a scikit-learn scorer, whose score is added to the metrics under that name; or a function
            of (estimator, X, y), whose score is added under the name ``score``. Greater is better for both.
        name: The dataset's name in MLflow.
        fidelity: The estimator's parameter that the study's fidelity sets (``n_estimators``, say).
        stratify: Whether labels keep the same shares on both sides of a split; by default only for classifiers.
        groups, test, validation, shuffle: As for :meth:`hpo_flows.TrialContext.split`.

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
            estimator.fit(rows_of(X, rows), rows_of(y, rows))
        features, truth = rows_of(X, held_out), np.asarray(rows_of(y, held_out))
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
    """The estimator with the seed set wherever it would draw its own."""
    if not (hasattr(estimator, "fit") and hasattr(estimator, "get_params")):
        raise TypeError(f"build returned {estimator!r:.80}, which is not a scikit-learn estimator; return one")
    settings = estimator.get_params()
    names = [name for name in settings if name.rpartition("__")[2] == "random_state" and settings[name] is None]
    return estimator.set_params(**dict.fromkeys(names, seed))


def rows_of(table: Any, rows: Any) -> Any:
    """Rows of an array, a DataFrame or a list."""
    if hasattr(table, "iloc"):
        return table.iloc[rows]
    return table[rows] if hasattr(table, "shape") else np.asarray(table)[rows]

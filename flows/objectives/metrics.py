"""Computes the usual metrics with scikit-learn, and draws pictures of a classifier's errors.

In shapes, ``n`` is the number of rows and ``k`` of classes. Pictures cost about a tenth of a second, so draw them for
the best trials only: ``trial.on_best(lambda: log_pictures(trial, y, predicted, probabilities))``. scikit-learn and
matplotlib are imported in the functions, so that importing this file stays cheap.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpo_flows.objectives.context import TrialContext

Array = np.ndarray[Any, Any]

MOST_CURVES = 10
"""The most classes with a ROC curve in the picture, the largest first; more would be unreadable."""


def classification_metrics(
    y: Array, predicted: Array, probabilities: Array | None = None, classes: Sequence[Any] | None = None
) -> dict[str, float]:
    """Accuracy; macro-averaged precision, recall and F1; ROC AUC and log loss.

    Args:
        y: True labels, shape ``(n,)``.
        predicted: Predicted labels, shape ``(n,)``.
        probabilities: Class probabilities, shape ``(n, k)``; with two classes also ``(n,)``, those of the second.
            Without them there is no ROC AUC and no log loss.
        classes: The labels in the order of the columns of ``probabilities``; by default 0 to k - 1.

    Returns:
        ``accuracy``, ``precision``, ``recall``, ``f1``. With probabilities also ``log_loss``, if ``y`` has no other
        classes, and ``roc_auc``, if ``y`` has all of them (with more than two, the mean of each against the rest).

    >>> classification_metrics(np.array([0, 1, 1, 1]), np.array([0, 1, 1, 0]))
    {'accuracy': 0.75, 'precision': 0.75, 'recall': 0.8333333333333333, 'f1': 0.7333333333333334}
    """
    from sklearn.metrics import accuracy_score, log_loss, precision_recall_fscore_support, roc_auc_score

    precision, recall, f1, _ = precision_recall_fscore_support(y, predicted, average="macro", zero_division=0)
    metrics = {"accuracy": accuracy_score(y, predicted), "precision": precision, "recall": recall, "f1": f1}
    if probabilities is not None:
        table, labels = _columns(probabilities, classes)
        present = set(np.unique(y).tolist())
        # The model gives no probability to a class that it has never seen, so the log loss is undefined there.
        if present <= set(labels) and len(labels) > 1:
            metrics["log_loss"] = log_loss(y, table, labels=labels)
        if present == set(labels) and len(labels) > 1:
            scores = table[:, 1] if len(labels) == 2 else table
            settings: dict[str, Any] = {} if len(labels) == 2 else {"multi_class": "ovr", "labels": labels}
            metrics["roc_auc"] = roc_auc_score(y, scores, **settings)
    return {name: float(value) for name, value in metrics.items()}


def regression_metrics(y: Array, predicted: Array) -> dict[str, float]:
    """Mean squared error, mean absolute error and R².

    Args:
        y: True values, shape ``(n,)``; with several outputs ``(n, k)``, which are averaged.
        predicted: Predicted values, the same number.

    >>> regression_metrics(np.array([0.0, 1.0, 2.0]), np.array([[0.0], [1.0], [4.0]]))
    {'mse': 1.3333333333333333, 'mae': 0.6666666666666666, 'r2': -1.0}
    """
    from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

    flat = np.asarray(predicted).reshape(np.shape(y))
    scores = {"mse": mean_squared_error(y, flat), "mae": mean_absolute_error(y, flat), "r2": r2_score(y, flat)}
    return {name: float(value) for name, value in scores.items()}


def log_pictures(
    trial: TrialContext,
    y: Array,
    predicted: Array,
    probabilities: Array | None = None,
    classes: Sequence[Any] | None = None,
) -> None:
    """Log a confusion matrix and, with probabilities, ROC curves as pictures in the trial's run.

    Args:
        trial: The trial.
        y, predicted, probabilities, classes: As for :func:`classification_metrics`.
    """
    trial.log_artifact(confusion_picture(y, predicted, trial.scratch / "confusion_matrix.png"), "pictures")
    if probabilities is not None:
        table, labels = _columns(probabilities, classes)
        trial.log_artifact(roc_picture(y, table, labels, trial.scratch / "roc_curve.png"), "pictures")


def confusion_picture(y: Array, predicted: Array, path: Path) -> Path:
    """Draw the confusion matrix: rows are true classes, columns predicted ones."""
    from matplotlib.figure import Figure
    from sklearn.metrics import confusion_matrix
    from sklearn.utils.multiclass import unique_labels

    counts, labels = confusion_matrix(y, predicted), unique_labels(y, predicted)
    side = max(3.5, 1.5 + 0.45 * len(labels))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(counts, cmap="Blues")
    for row, column in np.ndindex(counts.shape):
        color = "white" if counts[row, column] > counts.max() / 2 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=color)
    axes.set_xticks(range(len(labels)), [str(label) for label in labels])
    axes.set_yticks(range(len(labels)), [str(label) for label in labels])
    axes.set(xlabel="predicted", ylabel="true")
    figure.savefig(path)
    return path


def roc_picture(y: Array, probabilities: Array, classes: Sequence[Any], path: Path) -> Path:
    """Draw the ROC curve of each class against the rest; with two classes, that of the second only."""
    from matplotlib.figure import Figure
    from sklearn.metrics import auc, roc_curve

    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1)
    sizes = [int(np.sum(np.asarray(y) == label)) for label in classes]
    shown = [1] if len(classes) == 2 else sorted(np.argsort(sizes, kind="stable")[::-1][:MOST_CURVES])
    for i in shown:
        if 0 < sizes[i] < len(y):
            false, true, _ = roc_curve(np.asarray(y) == classes[i], probabilities[:, i])
            axes.plot(false, true, linewidth=1.2, label=f"{classes[i]}: {auc(false, true):.3f}")
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(title="area under the curve", fontsize="small")
    figure.savefig(path)
    return path


def _columns(probabilities: Array, classes: Sequence[Any] | None) -> tuple[Array, Sequence[Any]]:
    """Probabilities with one column per class, and the classes."""
    table = np.asarray(probabilities, dtype=float)
    if table.ndim == 1 or (table.shape[1] == 1 and (classes is None or len(classes) == 2)):
        table = np.column_stack([1 - table.reshape(-1), table.reshape(-1)])
    labels = list(range(table.shape[1])) if classes is None else list(classes)
    if len(labels) != table.shape[1]:
        raise ValueError(f"probabilities: {table.shape[1]} columns for {len(labels)} classes; give one a class")
    sums = table.sum(axis=1, keepdims=True)
    # Rows of a single-precision softmax differ from 1 by more than scikit-learn tolerates.
    return table / sums if np.allclose(sums, 1, rtol=0, atol=1e-4) else table, labels

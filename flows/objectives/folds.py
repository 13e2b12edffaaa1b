"""Cross-validates inside one trial: hands out the folds one after the other and collects their scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from hpo_core.selection.evaluation import Fold
from hpo_flows.objectives.result import as_metrics

if TYPE_CHECKING:
    from hpo_flows.objectives.splits import Rows


@dataclass(frozen=True)
class TrialFold:
    """One fold of a trial: train on some rows, and score on the others.

    Attributes:
        train: The numbers of the rows to train on.
        held_out: The numbers of the rows to score on.
        index: Its place, from 0.
        of: How many folds the trial has, unless it is ended before the last one.
    """

    train: Rows
    held_out: Rows
    index: int
    of: int
    _take: Callable[[Mapping[str, float]], None]

    def score(self, metrics: Mapping[str, float] | None = None, /, **named: float) -> None:
        """Tell the metrics of this fold, the study's among them; call it once in each fold.

        Args:
            metrics: Values by name, where names are no Python names.
            named: Values by name: ``fold.score(accuracy=0.9)``.

        Raises:
            ValueError: There are none, a value is not a number, or the fold is scored already.
        """
        values = as_metrics({**(metrics or {}), **named})
        if not values:
            raise ValueError("fold.score: no metric is given; write fold.score(accuracy=0.9), say")
        self._take(values)


class CrossValidation:
    """The folds of one trial.

    Args:
        parts: Rows to train on and rows to score on, by fold.
        go_on: Called with each fold and its metrics; returns whether the next one is trained.
    """

    def __init__(self, parts: Sequence[tuple[Rows, Rows]], go_on: Callable[[Fold, Mapping[str, float]], bool]) -> None:
        self._parts, self._go_on = parts, go_on
        self._scores: list[Mapping[str, float]] = []
        self._goes_on = True

    def __iter__(self) -> Iterator[TrialFold]:
        """The folds in order. What is not scored cannot be compared, so each must be scored before the next."""
        of = len(self._parts)
        for i, (train, held_out) in enumerate(self._parts):
            yield TrialFold(train, held_out, i, of, partial(self._take, Fold(i, of)))
            if len(self._scores) == i:
                raise ValueError(f"{Fold(i, of)} has no score; call fold.score(accuracy=0.9), say, in the loop")
            if not self._goes_on:
                return

    def _take(self, fold: Fold, metrics: Mapping[str, float]) -> None:
        if len(self._scores) != fold.index:
            raise ValueError(f"{fold} is scored already; give all its metrics in one call of fold.score")
        self._scores.append(metrics)
        self._goes_on = self._go_on(fold, metrics)

    def means(self) -> dict[str, float]:
        """The mean of each metric over the folds that were scored.

        Raises:
            ValueError: None was, or a metric is missing in one of them.
        """
        if not self._scores:
            raise ValueError("trial.fold_means: no fold is scored; loop over trial.folds(...) to its end first")
        names = self._scores[0].keys()
        for i, scores in enumerate(self._scores):
            for name in names ^ scores.keys():
                raise ValueError(
                    f"trial.fold_means: fold {i + 1} and fold 1 do not both score {name!r}; score it in all"
                )
        return {name: sum(scores[name] for scores in self._scores) / len(self._scores) for name in names}

"""Says what several trainings of one configuration come to: their mean, and how far they differ."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from hpo_core.base import moments
from hpo_core.history.trial import Trial, TrialState


@dataclass(frozen=True)
class Noise:
    """The spread of losses of one configuration.

    Args:
        deviation: The standard deviation, pooled over configurations; NaN if none was trained twice.
        degrees: Its degrees of freedom: how many trainings beyond the first it rests on.
    """

    deviation: float = math.nan
    degrees: int = 0

    def error(self, trial: Trial) -> float:
        """The standard error of a trial's loss, a mean over its observations; NaN if the noise is unknown.

        Args:
            trial: One of :attr:`hpo_core.history.history.History.merged`.
        """
        return self.deviation / math.sqrt(trial.observations)


def noise_of(groups: Iterable[Sequence[float]]) -> Noise:
    """The noise, from the losses of several trainings of each of some configurations.

    >>> noise = noise_of([(1.0, 1.2), (3.0, 3.1, 3.2)])
    >>> round(noise.deviation, 4), noise.degrees
    (0.1155, 3)
    """
    spread = [(len(losses) - 1, moments.deviation(losses)) for losses in groups if len(losses) > 1]
    degrees = sum(free for free, _ in spread)
    if not degrees:
        return Noise()
    return Noise(math.hypot(*(s * math.sqrt(free / degrees) for free, s in spread)), degrees)


def by_base(repeats: Iterable[Trial]) -> dict[int, list[Trial]]:
    """Repeats by the number of the trial whose configuration they train again."""
    found: dict[int, list[Trial]] = {}
    for trial in repeats:
        if trial.repeat_of is not None:
            found.setdefault(trial.repeat_of, []).append(trial)
    return found


def mean_metrics(trainings: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric that all trainings have logged with a finite value.

    >>> mean_metrics([{"loss": 1.0, "seconds": 2.0}, {"loss": 3.0}])
    {'loss': 2.0}
    """
    shared = sorted(set.intersection(*map(set, trainings))) if trainings else []
    values = {name: [metrics[name] for metrics in trainings] for name in shared}
    return {name: moments.mean(each) for name, each in values.items() if all(map(math.isfinite, each))}


def merged(trial: Trial, repeats: Sequence[Trial]) -> Trial:
    """A trial with the mean loss and the mean metrics of all trainings of its configuration.

    It is not confirmed if one of them failed: what fails now and then cannot be relied on.
    """
    alike = [
        t for t in repeats if t.state is TrialState.COMPLETE and t.fidelity == trial.fidelity and t.loss is not None
    ]
    if trial.loss is None or not alike:
        return trial
    observed = (trial.loss, *(t.loss for t in alike if t.loss is not None))
    fails = any(t.state is TrialState.FAILED and not t.lost for t in repeats)
    confirmed = any(t.confirms for t in alike) and not fails
    excess = {name: moments.mean([each.excess[name] for each in (trial, *alike)]) for name in trial.excess}
    losses = tuple(map(moments.mean, zip(trial.losses, *(each.losses for each in alike), strict=True)))
    metrics = {**trial.metrics, **mean_metrics([each.metrics for each in (trial, *alike)])}
    return replace(
        trial,
        loss=moments.mean(observed),
        losses=losses,
        observed=observed,
        metrics=metrics,
        confirmed=confirmed,
        excess=excess,
    )

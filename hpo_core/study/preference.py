"""Picks one point of a Pareto front by what a user says matters: conditions on metrics, or weights of objectives.

Users say so of a front that they look at (``--prefer``), or of the study (``prefer``): then that point stands for it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hpo_core.base.errors import InputError
from hpo_core.base.settings import near_or_known
from hpo_core.history.front import compromise
from hpo_core.history.limits import Limit, contradiction
from hpo_core.history.trial import Trial
from hpo_core.study.objectives import Objective

FIELD = "--prefer"

_PART = re.compile(r"\s*(?P<metric>.+?)\s*(?P<sign><=|>=|=)\s*(?P<number>[^<>=]*?)\s*")


@dataclass(frozen=True)
class Preference:
    """What matters to a user.

    Args:
        conditions: What metrics must keep to: objectives, or others that trials have logged.
        weights: How much each objective matters; one that is not named does not.
    """

    conditions: tuple[Limit, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        weights = (f"{name}={weight:g}" for name, weight in self.weights.items())
        return ", ".join([*map(str, self.conditions), *weights])

    def choose(self, front: Sequence[Trial], objectives: Sequence[Objective]) -> Trial:
        """The point of a front that is preferred.

        With weights it is the one of those that keep the conditions that is nearest to the best value in each
        objective: distances are shares of their extent in an objective, times its weight. Without weights it is the
        best one in the first objective that no condition names; if conditions name all, the same as with equal weights.

        Raises:
            InputError: No point of the front keeps the conditions, or none has a metric that they name.
        """
        known = sorted({metric for trial in front for metric in trial.metrics})
        for each in self.conditions:
            if each.metric not in known:
                problem = f"no point of the front has a metric {each.metric!r}"
                raise InputError(FIELD, problem, near_or_known(each.metric, known))
        if unmet := self.unmet(front):
            raise InputError(FIELD, unmet, "ask for less")
        kept = [trial for trial in front if not self.broken(trial.metrics)]
        if not self.weights and (free := self.free(objectives)):
            first = list(objectives).index(free[0])
            return min(kept, key=lambda trial: (trial.outcome[first], trial.outcome, trial.number))
        chosen = compromise(kept, [self.weights.get(each.metric, 0.0) for each in objectives] if self.weights else ())
        assert chosen is not None
        return chosen

    def free(self, objectives: Sequence[Objective]) -> list[Objective]:
        """The objectives that no condition names."""
        bound = {each.metric for each in self.conditions}
        return [each for each in objectives if each.metric not in bound]

    def compared(self, objectives: Sequence[Objective]) -> Objective | None:
        """The one objective that conditions leave free; None if they leave none or several, or if weights count."""
        free = self.free(objectives)
        return free[0] if len(free) == 1 and not self.weights else None

    def broken(self, metrics: Mapping[str, float]) -> str:
        """The conditions that metrics break, with their values; empty if they keep all."""
        values = [(each, metrics.get(each.metric)) for each in self.conditions]
        return ", ".join(
            f"{each} ({'not logged' if value is None else f'{value:.6g}'})"
            for each, value in values
            if each.excess(value) > 0
        )

    def unmet(self, front: Sequence[Trial]) -> str:
        """That no point of a front keeps the conditions, with the nearest values; empty if one does."""
        if not all(self.broken(trial.metrics) for trial in front):
            return ""
        wishes = []
        for each in self.conditions:
            values = [value for trial in front if (value := trial.metrics.get(each.metric)) is not None]
            nearest = min(values, key=each.excess, default=None)
            if nearest is None:
                wishes.append(f"{each} (no point has this metric)")
            else:
                wishes.append(f"{each} (nearest: {nearest:.6g})" if each.excess(nearest) > 0 else str(each))
        return f"no point of the front has {' and '.join(wishes)}"


def preference_of(
    texts: Iterable[str], objectives: Sequence[Objective], field: str = FIELD, *, reading: bool = False
) -> Preference:
    """Read what a user prefers, such as ``latency_ms <= 10`` or ``val_accuracy=2, latency_ms=1``.

    Args:
        texts: Conditions and weights, each text with one or more between commas.
        objectives: The study's.
        field: Where they stand, for messages.
        reading: Whether they stand in a study that exists: earlier versions took two weights of one metric, of which
            the last one counts, and conditions that never hold together.

    Raises:
        InputError: A text is neither, it weighs something that is not an objective, or one twice, conditions contradict
            each other, or the study has only one objective.
    """
    if len(objectives) < 2:
        only = objectives[0].metric
        raise InputError(field, f"the study has one metric, {only}, so its best trial is the only choice")
    names = [each.metric for each in objectives]
    conditions: list[Limit] = []
    weights: dict[str, float] = {}
    for part in (part for text in texts for part in text.split(",")):
        found = _PART.fullmatch(part)
        number = _number(found["number"]) if found is not None else math.nan
        if found is None or not math.isfinite(number):
            remedy = f"write a condition such as '{names[-1]} <= 10', or weights such as '{names[0]}=2, {names[-1]}=1'"
            raise InputError(field, f"{part.strip()!r} is neither a condition nor a weight", remedy)
        metric = found["metric"]
        if found["sign"] != "=":
            conditions.append(Limit(metric, found["sign"], number))
        elif metric not in names:
            raise InputError(field, f"{metric!r} is not a metric that the study optimizes", f"weigh {', '.join(names)}")
        elif number < 0:
            raise InputError(field, f"the weight {number:g} of {metric} is below 0", "give 0 or more")
        elif metric in weights and not reading:
            raise InputError(field, f"{metric!r} is given two weights, {weights[metric]:g} and {number:g}", "keep one")
        else:
            weights[metric] = number
    if weights and not any(weights.values()):
        raise InputError(field, "all weights are 0", "give one above 0")
    if not reading and (never := contradiction(conditions)) is not None:
        raise InputError(field, f"'{never[0]}' and '{never[1]}' never hold together", "correct one of them")
    return Preference(tuple(conditions), weights)


def check_wishes(texts: Sequence[str], limits: Sequence[Limit], objectives: Sequence[Objective]) -> None:
    """Check that what a study prefers can be had within its limits.

    Args:
        texts: What it prefers, as for :func:`preference_of`.
        limits: Its limits.
        objectives: What it optimises.

    Raises:
        InputError: A metric has two weights, or no value of a metric can keep all that is asked of it.
    """
    wanted = preference_of(texts, objectives, "prefer")
    if (never := contradiction([*wanted.conditions, *limits])) is not None:
        problem = f"'{never[0]}' and '{never[1]}' of limits never hold together"
        raise InputError("prefer", problem, "correct one of them")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan

"""A study as its report sees it, and what every plot of it shares."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from hpo_core.champion.challenge import Challenge
from hpo_core.history.history import History
from hpo_core.history.trial import Trial, fidelity_key
from hpo_core.selection.final_choice import Choice, Standing
from hpo_core.study.spec import StudySpec
from hpo_flows.reports.html.curves import Curves
from hpo_flows.reports.html.figures.axes import ParameterAxis, brief, plotly_text
from hpo_flows.reports.html.figures.importance import Importance, importance
from hpo_flows.reports.text import ranked

MOST_DRAWN = 1e100
"""Larger values are drawn there: their squares and ranges would overflow. What the pointer shows is the true value."""

BEST = 10
"""How many of the best trials are taken to show where good values lie."""

MOST_TRIALS, BEST_DRAWN, LAST_DRAWN = 3_000, 1_000, 500
"""How many trials a page has of a larger study: the best, the last, those that were a new best, some of the others."""

FEWEST_CUT = 8
"""With fewer values, nothing is cut off."""


EXPECTED = ("predicted_mean", "predicted_std")
"""The notes with what the surrogate expected; of several objectives, the names of the later ones end in _2 and _3."""


@dataclass(frozen=True)
class Plot:
    """A plotly figure as plain data, with its place in the report.

    A colour that starts with two dashes is a variable of the page's style, and so is the colour scale ``--scale``. The
    points of a trace with ``customdata`` are trials, by number: the page says what they are and opens them.

    Args:
        name: Its id in the page.
        title, caption: What it shows and how to read it, as plain text.
        data, layout: The traces and the layout.
        height: In pixels.
        wide: Whether it takes the full width.
        least: The width in pixels below which it scrolls sideways.
    """

    name: str
    title: str
    caption: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    height: int = 320
    wide: bool = False
    least: int = 0


def poor_end(losses: Sequence[float]) -> float | None:
    """The loss at which a plot ends where a few poor ones would squash all others; None if all fit.

    The end is four times as far from the best loss as the median is, but no more than a fifth of the losses lie beyond
    it. It is used only if it at least halves the range.

    >>> poor_end([0.1, 0.2, 0.2, 0.3, 0.3, 0.3, 0.4, 90.0])
    0.9
    >>> poor_end([0.1, 0.2, 0.2, 0.3, 0.3, 0.3, 0.4, 0.9])
    >>> poor_end([0.1, 0.11, 0.12, 0.13, 0.14, 60.0, 70.0, 80.0, 90.0])
    """
    if len(losses) < FEWEST_CUT:
        return None
    ordered = sorted(min(max(loss, -MOST_DRAWN), MOST_DRAWN) for loss in losses)
    best, median, worst = ordered[0], ordered[len(ordered) // 2], ordered[-1]
    reach = max(4 * (median - best), ordered[math.ceil(0.8 * len(ordered)) - 1] - best)
    return brief(best + reach) if reach > 0 and worst - best > 2 * reach else None


def incumbents(history: History) -> list[Trial]:
    """The incumbent after each configuration, by number, with one metric; the last is the study's."""
    return best_after_each(history.merged.complete)


def best_after_each(trials: Iterable[Trial]) -> list[Trial]:
    """After each of some complete trials, in their order, the best by then."""
    best: list[Trial] = []
    for trial in trials:
        best.append(trial if not best or rank(trial) < rank(best[-1]) else best[-1])
    return best


def rank(trial: Trial) -> tuple[float, bool, float, bool, float | None]:
    """A sort key for complete trials, best first, as :attr:`History.incumbent` has it; ties are up to the order."""
    return -fidelity_key(trial.fidelity), not trial.whole, trial.violation, not trial.confirmed, trial.loss


def _of_one(trial: Trial, i: int) -> Trial:
    """A trial as if one objective were the only one: with its loss, and what the surrogate expected of that."""
    if not trial.losses:
        return trial
    own = {f"{name}_{i + 1}" if i else name: name for name in EXPECTED}
    notes = {key: value for key, value in trial.notes.items() if not key.startswith(EXPECTED)}
    notes |= {name: trial.notes[key] for key, name in own.items() if key in trial.notes}
    return replace(trial, loss=trial.losses[i], losses=(), notes=notes)


def moment(milliseconds: int) -> str:
    """A time as plotly reads it, in UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


@dataclass(frozen=True)
class Past:
    """A study as the report sees it: the metric in its own direction.

    Args:
        spec, history: The study.
        importance: Of its parameters; None if it cannot be estimated.
        curves: The trials' learning curves, if they were read.
        choice: The state of the final choice; None if the study asks for none.
        challenge: The state of the comparison with the champion; None if it asks for none or has no winner yet.
        ended: Why it has ended, where that was noted; empty if it was not, or the study goes on.
        whole: The study with all its metrics, if this is its view by one of them; see :attr:`views`.
    """

    spec: StudySpec
    history: History
    importance: Importance | None
    curves: Curves | None = None
    choice: Choice | None = None
    challenge: Challenge | None = None
    ended: str = ""
    whole: Past | None = None

    @cached_property
    def views(self) -> tuple[Past, ...]:
        """The study by each of its metrics, for what can be shown of one at a time; with one metric, itself."""
        return tuple(map(self._view, range(len(self.spec.objectives)))) if self.spec.metrics else (self,)

    def _view(self, i: int) -> Past:
        """The study as if the objective at this position were its only one."""
        objective = self.spec.objectives[i]
        spec = self.spec.model_copy(
            update={"metrics": {}, "prefer": [], "metric": objective.metric, "direction": objective.direction}
        )
        spec.__dict__.pop("objectives", None)  # which are cached, and copied
        history = History([_of_one(trial, i) for trial in self.history], self.history.next_number, self.history.prior)
        found = importance(spec.search_space, history.merged)
        return Past(spec, history, found, self.curves if i == 0 else None, whole=self)

    def of(self, trial: Trial) -> Trial:
        """A trial of the whole study as this view has it."""
        return self._by_number[trial.number]

    @cached_property
    def _by_number(self) -> Mapping[int, Trial]:
        return {trial.number: trial for trial in self.merged}

    @property
    def own(self) -> frozenset[str]:
        """The metrics that the study optimises."""
        return frozenset(each.metric for each in (self if self.whole is None else self.whole).spec.objectives)

    @property
    def merged(self) -> History:
        """One trial for each configuration, with the mean of its trainings: what plots of values show."""
        return self.history.merged

    def error(self, trial: Trial) -> float:
        """The standard error of a trial's value if it is the mean of several trainings, else 0."""
        error = self.history.noise.error(trial)
        return brief(min(error, MOST_DRAWN)) if trial.observed and error > 0 else 0.0

    def shown(self, loss: float) -> float:
        """The position of a loss, in the metric's own direction."""
        return brief(self.spec.sign * min(max(loss, -MOST_DRAWN), MOST_DRAWN))

    @cached_property
    def end(self) -> float | None:
        """The loss at which plots end; poorer trials are drawn there. None if all fit.

        The whole front fits, poor as its points may be in one of several metrics.
        """
        losses = [trial.loss for trial in self.merged.complete if trial.loss is not None]
        end, front = poor_end(losses), () if self.whole is None else self.whole.history.front
        on = [loss for trial in front if (loss := self.of(trial).loss) is not None]
        reach = None if end is None else max([end, *on])
        return reach if reach is not None and reach < max(losses) else None

    def beyond(self, trial: Trial) -> bool:
        """Whether a complete trial is poorer than what plots show."""
        return self.end is not None and trial.loss is not None and trial.loss > self.end

    def value(self, trial: Trial) -> float:
        """The position of a complete trial's value."""
        assert trial.loss is not None
        return self.shown(trial.loss if self.end is None else min(trial.loss, self.end))

    @cached_property
    def values(self) -> list[float]:
        return [self.value(trial) for trial in self.merged.complete]

    @property
    def cut(self) -> str:
        """What a caption says of the trials beyond the end of the plots; nothing if all fit."""
        if self.end is None:
            return ""
        poor = sum(map(self.beyond, self.merged.complete))
        lie = "1 trial is" if poor == 1 else f"{poor} trials are"
        return f" {lie} poorer than {self.spec.sign * self.end:.4g}: drawn there, as triangles."

    @cached_property
    def best(self) -> list[Trial]:
        """The complete trials, best first."""
        return ranked(self.history)

    @cached_property
    def leaders(self) -> list[Trial]:
        """What stands out: the best trials; with several metrics what stands for the front, then the rest of it."""
        if not self.spec.metrics:
            return self.best[:BEST]
        return sorted(self.history.front, key=lambda trial: trial is not self.point)

    @property
    def point(self) -> Trial | None:
        """What stands for the search: the incumbent; with several metrics, a point of the front."""
        return self.spec.stands_for(self.history.front)

    def drawn(self, trials: Iterable[Trial]) -> list[Trial]:
        """Those of some trials that the page has; all of them unless the study has very many."""
        chosen = (self if self.whole is None else self.whole)._chosen
        return [trial for trial in trials if chosen is None or trial.number in chosen]

    @property
    def all_drawn(self) -> bool:
        return (self if self.whole is None else self.whole)._chosen is None

    @property
    def latest(self) -> Sequence[Trial]:
        """All trials; of very many, the last."""
        return self.history.trials if self.all_drawn else self.history.trials[-LAST_DRAWN:]

    @cached_property
    def _chosen(self) -> frozenset[int] | None:
        """The numbers of the trials that the page has; None if it has all."""
        every = self.history.trials
        if len(every) <= MOST_TRIALS:
            return None
        steps = () if self.spec.metrics else incumbents(self.history)
        kept = [*self.best[:BEST_DRAWN], *every[-LAST_DRAWN:], *self.history.running, *self.history.front, *steps]
        numbers = {trial.number for trial in kept}
        rest = [trial.number for trial in every if trial.number not in numbers]
        return frozenset(numbers | set(rest[:: math.ceil(len(rest) / max(MOST_TRIALS - len(numbers), 1))]))

    @property
    def winner(self) -> Standing | None:
        """The winner of the final choice, if there is one yet."""
        return None if self.choice is None else self.choice.winner

    @property
    def reliable(self) -> Importance | None:
        """The importance of the parameters if it can be relied on."""
        return self.importance if self.importance is not None and self.importance.reliable else None

    @property
    def names(self) -> Sequence[str]:
        """The free parameters, most important first if that is known."""
        return self.spec.search_space.free if self.reliable is None else self.reliable.names

    @property
    def metric(self) -> str:
        """The metric's name as a title of an axis."""
        return plotly_text(self.spec.metric, 32)

    def axis(self, name: str) -> ParameterAxis:
        return ParameterAxis(name, self.spec.search_space.parameters[name])

    def seconds(self, trial: Trial) -> float | None:
        """How long a trial took; None if unknown: it still runs, or it was lost and only found later."""
        if trial.end is None or not trial.start or trial.number in self._lost:
            return None
        return max(trial.end - trial.start, 0) / 1000

    @cached_property
    def _lost(self) -> frozenset[int]:
        return frozenset(trial.number for trial in self.history.lost)

    def points(
        self, trials: Sequence[Trial], x: Sequence[Any], marker: Mapping[str, Any], **more: Any
    ) -> dict[str, Any]:
        """A dot for each trial at its value; a triangle where that is beyond the end of the plot."""
        edge = "triangle-up" if self.spec.sign > 0 else "triangle-down"
        usual = marker.get("symbol", "circle")
        symbols = [edge if self.beyond(trial) else usual for trial in trials]
        return {
            "type": "scatter", "mode": "markers", "x": list(x), "y": [self.value(trial) for trial in trials],
            "customdata": [trial.number for trial in trials],
            "marker": {"size": 7} | dict(marker) | {"symbol": symbols if len(set(symbols)) > 1 else usual},
            "showlegend": False,
        } | more  # fmt: skip

    def colours(self, trials: Sequence[Trial]) -> dict[str, Any]:
        """Colours by the rank of the configuration, so that the best stand out however far the poorest are off."""
        count = max(len(self.best) - 1, 1)
        ranks = {trial.number: 1 - i / count for i, trial in enumerate(self.best)}
        of = [ranks.get(t.number if t.repeat_of is None else t.repeat_of, 0.0) for t in trials]
        return {"color": [brief(rank**2) for rank in of], "colorscale": "--scale", "cmin": 0, "cmax": 1}


def finite(text: object) -> float:
    """A number from a tag, which anybody may have written; NaN if it is not a number."""
    try:
        value = float(str(text))
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan

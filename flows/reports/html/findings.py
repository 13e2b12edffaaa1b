"""What a study's history says by itself: why it ended, what failed, where the time went, which ranges are narrow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

from hpo_core.history.trial import Trial
from hpo_core.space.configuration import Scalar, scalar_key
from hpo_core.space.parameters import Listed
from hpo_flows.reports.html.figures.axes import ParameterAxis
from hpo_flows.reports.html.figures.durations import lanes
from hpo_flows.reports.html.figures.past import BEST, BEST_DRAWN, LAST_DRAWN, Past
from hpo_flows.reports.text import choice_limits_line, limits_line, number, outside_lines

FEWEST_FRONT = 4
"""A front of fewer trials says nothing about the ends of ranges."""

FEWEST_ALIKE = 3
"""How many failed trials must share a value before a remark blames it."""

_NUMBERS = re.compile(r"[\w.+-]*\d[\w.+-]*")


def status(past: Past) -> tuple[str, str]:
    """In one word whether the study goes on, and in a sentence why it stopped, as far as its trials tell."""
    word, why = _status(past)
    return word, "; ".join([why, *outside_lines(past.spec, past.history)])


def _status(past: Past) -> tuple[str, str]:
    spec, history = past.spec, past.history
    why = spec.stop_reason(history, 0.0)
    if history.running:
        count = len(history.running)
        trials = "1 trial is" if count == 1 else f"{count} trials are"
        return "running", f"{trials} running" + (f"; no other will start: {why}" if why else "")
    if why:
        return "ended", f"It ended: {why}"
    if spec.repeated_error(history) is not None:
        return "ended", "It ended: every trial failed with the same error"
    if past.ended:
        return "ended", f"It ended: {past.ended}"
    if not len(history):
        return "empty", "It has no trial yet"
    after = f"its {spec.stop.minutes:g} minutes were over, " if spec.stop.minutes is not None else ""
    return "paused", f"No trial is running, and no other rule ended it: {after}it was stopped, or it goes on soon"


@dataclass(frozen=True)
class Edge:
    """A parameter whose best value lies at the end of its range.

    Args:
        name, value: The parameter, and its value in the best trial.
        side: ``low`` or ``high``.
        bound: The value at that end.
        others: How many of the other best trials lie there, too.
    """

    name: str
    value: Scalar
    side: str
    bound: Scalar
    others: int


def edges(past: Past) -> list[Edge]:
    """The parameters whose range should be wider, for the best trial lies at its end.

    Of several metrics the ends of a range may well be the ends of the front: then most of the front must lie there.
    """
    if not past.best:
        return []
    if past.spec.metrics:
        return _edges_of_front(past)
    found = []
    for name in past.spec.search_space.free:
        axis, config = past.axis(name), past.best[0].config
        if side := axis.edge(config):
            others = sum(axis.edge(trial.config) == side for trial in past.best[1:BEST])
            found.append(Edge(name, config[name], side, _end(axis, side), others))
    return found


def _edges_of_front(past: Past) -> list[Edge]:
    found, front = [], past.history.front
    for name in past.spec.search_space.free:
        axis = past.axis(name)
        for side in ("low", "high"):
            there = [trial for trial in front if axis.edge(trial.config) == side]
            if len(front) >= FEWEST_FRONT and 2 * len(there) > len(front):
                found.append(Edge(name, there[0].config[name], side, _end(axis, side), len(there)))
    return found


def _end(axis: ParameterAxis, side: str) -> Scalar:
    ends = [axis.parameter.decode(0.0), axis.parameter.decode(1.0)]
    bound: Scalar = ends[side == "high"] if axis.numeric else axis.parameter.options[-(side == "high")]
    return bound


@dataclass(frozen=True)
class FailureGroup:
    """Trials that failed for the same reason, but for the numbers in it.

    Args:
        reason: The reason of the first of them.
        trials: All of them, by number.
        shared: The options that all of them have and that few others do.
    """

    reason: str
    trials: tuple[Trial, ...]
    shared: Mapping[str, Scalar]


def failures(past: Past) -> list[FailureGroup]:
    """What failed and why, the most frequent reason first."""
    groups: dict[str, list[Trial]] = {}
    for trial in past.history.failed:
        groups.setdefault(_NUMBERS.sub("#", trial.reason), []).append(trial)
    ordered = sorted(groups.values(), key=lambda trials: -len(trials))
    return [FailureGroup(trials[0].reason, tuple(trials), _shared(past, trials)) for trials in ordered]


def _shared(past: Past, failed: list[Trial]) -> dict[str, Scalar]:
    others = past.history.complete
    if len(failed) < FEWEST_ALIKE or not others:
        return {}
    found = {}
    for name in past.spec.search_space.free:
        if not isinstance(past.spec.search_space.parameters[name], Listed):
            continue
        keys = {scalar_key(trial.config[name]) if name in trial.config else "" for trial in failed}
        if len(keys) == 1 and (key := keys.pop()):
            alike = sum(name in trial.config and scalar_key(trial.config[name]) == key for trial in others)
            if alike <= 0.5 * len(others):
                found[name] = failed[0].config[name]
    return found


@dataclass(frozen=True)
class TimeSpent:
    """Seconds of all slots together, and of the study by the clock; ``most`` trials trained at a time."""

    shares: Mapping[str, float]
    elapsed: float
    most: int
    durations: tuple[float, ...]

    @property
    def trained(self) -> float:
        return sum(seconds for what, seconds in self.shares.items() if what != "idle")


def time_spent(past: Past) -> TimeSpent | None:
    """Where the time went; None if no trial has ended. A slot is idle between its flow's first trial and its last."""
    timed = {trial.number: seconds for trial in past.history if (seconds := past.seconds(trial)) is not None}
    trials = [trial for trial in past.history if trial.number in timed]
    if not trials:
        return None
    shares = dict.fromkeys(("trained to the end", "stopped early", "failed", "idle"), 0.0)
    for trial in trials:
        what = "failed" if trial.loss is None else "stopped early" if trial.stopped_early else "trained to the end"
        shares[what] += timed[trial.number]
    where = lanes(trials)
    by_owner: dict[str, list[Trial]] = {}
    for trial in trials:
        by_owner.setdefault(trial.owner, []).append(trial)
    for own in by_owner.values():
        span = (max(trial.end or 0 for trial in own) - min(trial.start for trial in own)) / 1000
        slots = len({where[trial.number] for trial in own})
        shares["idle"] += max(slots * span - sum(timed[trial.number] for trial in own), 0.0)
    elapsed = (max(trial.end or 0 for trial in trials) - min(trial.start for trial in trials)) / 1000
    complete = tuple(sorted(timed[trial.number] for trial in trials if trial.loss is not None))
    moves = sorted(move for trial in trials for move in ((trial.start, 1), (trial.end or 0, -1)))  # ends come first
    most = max(accumulate(step for _, step in moves))  # a later flow has slots of its own, but not beside the earlier's
    return TimeSpent(shares, elapsed, max(most, 1), complete)


WIDER = "a wider range may be better; hpo tune --change-space keeps the trials."


def remarks(past: Past) -> list[tuple[str, str]]:
    """What a reader should know first: how much it matters (``warn`` or ``info``), and a sentence."""
    found = []
    if past.spec.limiting and (best := past.history.incumbent) is not None:
        line, which = limits_line(past.spec, best), "compromise" if past.spec.metrics else "best trial"
        if past.choice is not None and past.choice.winner is not None:
            line, which, best = choice_limits_line(past.spec, past.choice), "winner", past.choice.winner.averaged
        found.append(("info", f"The {which} {line}.") if best.feasible else ("warn", f"{line[0].upper()}{line[1:]}."))
    for edge in edges(past):
        end = "lower" if edge.side == "low" else "upper"
        if past.spec.metrics:
            where = f"{edge.name} is at the {end} end of its range in {edge.others} of {len(past.history.front)} trials"
            found.append(("warn", f"{where} of the front: {WIDER}"))
            continue
        also = f", as in {edge.others} of the next {len(past.best[1:BEST])} best" if edge.others else ""
        lies = f"The best {edge.name} ({_said(edge.value)}) is at the {end} end of its range"
        found.append(("warn", f"{lies}{also}: {WIDER}"))
    complete, failed = past.history.complete, past.history.failed
    if failed and len(failed) >= 0.1 * (len(complete) + len(failed)):
        group = failures(past)[0]
        shared = " and ".join(f"{name} = {_said(value)}" for name, value in group.shared.items())
        most = f"; the {len(group.trials)} most alike all have {shared}" if shared else ""
        found.append(("warn", f"{len(failed)} of {len(complete) + len(failed)} ended trials failed{most}."))
    if complete and (since := past.history.since_improvement()) >= max(20, len(complete) // 2):
        nothing = "nothing new on the front" if past.spec.metrics else "no improvement"
        found.append(("info", f"The last {since} complete trials brought {nothing}."))
    matter: dict[str, list[str]] = {}
    for view in past.views:
        if view.reliable is not None and view.reliable.mean[0] > 0:
            matter.setdefault(view.reliable.names[0], []).append(view.spec.metric)
    for name, metrics in matter.items():
        for_some = f" for {' and '.join(metrics)}" if past.spec.metrics else ""
        found.append(("info", f"{name} matters most among the parameters{for_some}."))
    if not past.all_drawn:
        found.append(("info", _left_out(past)))
    return found


def _left_out(past: Past) -> str:
    """Which trials the page has, of a study of very many."""
    shown = f"{len(past.drawn(past.history)):,} of the {len(past.history):,} trials"
    new = "" if past.spec.metrics else "all that were a new best, "
    which = f"the best {BEST_DRAWN:,}, {new}the last {LAST_DRAWN:,}, and an even selection of the others"
    return f"Plots and table have {shown}: {which}. Counts and the best are of all; hpo export writes all."


def _said(value: Scalar) -> str:
    return number(value) if isinstance(value, float) else str(value)

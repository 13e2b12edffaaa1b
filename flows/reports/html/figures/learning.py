"""Learning curves: those that the objective logged, else the values at the rungs and milestones that were reached."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hpo_core.history.trial import Trial
from hpo_flows.reports.html.curves import MOST_POINTS, Curve, thinned
from hpo_flows.reports.html.figures.axes import plotly_text
from hpo_flows.reports.html.figures.past import MOST_DRAWN, Past, Plot, poor_end
from hpo_flows.reports.text import fidelity_name

BEST_CURVES = 5
"""How many curves stand out from the others."""

MOST_RUNGS = 9
"""How many rungs have a mark of their own on the axis."""

FEWEST_POINTS, ALL_POINTS = 30, 40_000
"""The fewest points drawn of one curve, and about how many of all curves together."""


def learning_curves(past: Past) -> list[Plot]:
    """The best trials' curves over those of all others.

    The trace of the others holds the curves one after the other: ``whose`` says which trial's has how many points, from
    which the page finds the curves of the trials that its reader picks.
    """
    by_rung, read = _by_rung(past), past.curves
    if past.whole is not None and past.spec.metric != past.whole.spec.metric:
        return []  # what is kept of trainings on their way is the first metric's
    metric = past.spec.metric if read is None else read.metric
    logged = {} if read is None else _whole(past, read.by_trial)
    ours = metric == past.spec.metric
    curves: dict[int, Curve] = (by_rung | logged) if ours else dict(logged)
    if len({step for curve in curves.values() for step, _ in curve}) < 2:
        return []
    most = max(FEWEST_POINTS, min(MOST_POINTS, ALL_POINTS // len(curves)))
    curves = _rounded({number: thinned(curve, most) for number, curve in sorted(curves.items())})
    order = [trial.number for trial in past.best if trial.number in curves][:BEST_CURVES]
    others = [number for number in curves if number not in order]
    mode = "lines" if logged else "lines+markers"
    traces = [_faint({number: curves[number] for number in others}, mode)]
    for place, number in reversed(list(enumerate(order))):
        name = f"next {len(order) - 1}" if place else f"trial {number}, the best"
        traces.append(_strong(number, curves[number], place, name, mode))
    title = past.metric if ours else plotly_text(metric, 32)
    layout = {"xaxis": _steps(past, curves, bool(logged)), "yaxis": {"title": {"text": title}}}
    caption = _caption(past, metric, order, others, bool(logged))
    if ours and (end := _lowest(past, curves)) is not None:
        layout["yaxis"]["range"] = end
        caption += " The poorest values lie outside: double-click to see all."
    name = "Learning curves" if past.whole is None else f"Learning curves by {metric}"
    return [Plot("rungs", name, caption, traces, layout, 400)]


def _faint(curves: Mapping[int, Curve], mode: str) -> dict[str, Any]:
    """One trace of many curves, one after the other."""
    x: list[float | None] = []
    y: list[float | None] = []
    for curve in curves.values():
        x += [*(step for step, _ in curve), None]
        y += [*(value for _, value in curve), None]
    return {
        "type": "scatter", "mode": mode, "name": "others", "x": x, "y": y, "opacity": _opacity(len(curves)),
        "whose": [[number, len(curve)] for number, curve in curves.items()],
        "line": {"color": "--mute", "width": 1}, "marker": {"size": 4},
    }  # fmt: skip


def _strong(number: int, curve: Curve, place: int, name: str, mode: str) -> dict[str, Any]:
    """The trace of one of the best curves; the best has place 0. The legend names it, and all others by the next."""
    return {
        "type": "scatter",
        "mode": mode,
        "name": name,
        "showlegend": place <= 1,
        "x": [step for step, _ in curve],
        "y": [value for _, value in curve],
        "whose": [[number, len(curve)]],
        "marker": {"size": 5},
        "opacity": 1 - 0.13 * place,
        "line": {"color": "--accent", "width": 1.4 if place else 3},
        "legendrank": 1 + place,
    }


def _opacity(count: int) -> float:
    """The opacity of each curve: fainter the more there are, so that dense regions can be seen."""
    return 0.6 if count <= 100 else max(0.6 - 0.2 * math.log10(count / 100), 0.35)


def _caption(past: Past, metric: str, order: Sequence[int], others: Sequence[int], logged: bool) -> str:
    ended = [trial for trial in past.history.complete if trial.number not in order]
    rest = "all others" if set(others) >= {trial.number for trial in ended} else f"{len(others)} others"
    caption = f"The best {len(order)} in colour over {rest} in grey." if others else ""
    if metric != past.spec.metric:
        caption = f"{past.spec.metric} is known only at the end; this is {metric}. {caption}"
    if not logged:
        return f"{caption} A dot is a rung or milestone that a configuration reached."
    return f"{caption} Pick trials in the table below to compare theirs."


def _steps(past: Past, curves: Mapping[int, Curve], logged: bool) -> dict[str, Any]:
    """The axis of the steps: rungs have marks of their own, and are often powers."""
    unit = fidelity_name(past.spec) if past.spec.fidelity is not None and not logged else "step"
    axis: dict[str, Any] = {"title": {"text": plotly_text(unit)}}
    steps = {step for curve in curves.values() for step, _ in curve}
    if not logged and len(steps) <= MOST_RUNGS:
        places = sorted(steps)
        axis |= {"tickmode": "array", "tickvals": places, "ticktext": [f"{place:g}" for place in places]}
    if not logged and min(steps) > 0 and max(steps) > 20 * min(steps):
        axis["type"] = "log"
    return axis


def _lowest(past: Past, curves: Mapping[int, Curve]) -> list[float] | None:
    """The range of values to show where a few poor ones would squash all others."""
    losses = [past.spec.sign * value for curve in curves.values() for _, value in curve]
    end = poor_end(losses)
    if end is None:
        return None
    best = min(losses)
    return sorted([past.shown(end), past.shown(best - 0.05 * (end - best))])


def _by_rung(past: Past) -> dict[int, Curve]:
    """The values of each configuration by fidelity, under the number of its last trial."""
    by_identity: dict[str, list[Trial]] = {}
    for trial in past.drawn((*past.history.complete, *past.history.running)):
        by_identity.setdefault(trial.identity, []).append(trial)
    found: dict[int, Curve] = {}
    for trials in by_identity.values():
        seen = {float(step): loss for trial in trials for step, loss in trial.rungs.items()}
        seen |= {t.fidelity: t.loss for t in trials if t.fidelity is not None and t.loss is not None}
        if seen:
            found[trials[-1].number] = [(fidelity, past.shown(seen[fidelity])) for fidelity in sorted(seen)]
    return found


def _whole(past: Past, curves: Mapping[int, Curve]) -> dict[int, Curve]:
    """The finite points of the curves; one of a trial that continues another begins with the other's."""
    by_number = {trial.number: trial for trial in past.history}
    found: dict[int, Curve] = {}
    for number in sorted(curves):
        points = [point for point in curves[number] if math.isfinite(point[1])]
        trial = by_number.get(number)
        if points and trial is not None and trial.resumed in found:
            points = [point for point in found[trial.resumed] if point[0] < points[0][0]] + points
        if points:
            found[number] = [(step, min(max(value, -MOST_DRAWN), MOST_DRAWN)) for step, value in points]
    return found


def _rounded(curves: Mapping[int, Curve]) -> dict[int, Curve]:
    """The curves with as many digits as it takes to tell the middle half of the values apart."""
    values = np.array([value for curve in curves.values() for _, value in curve])
    low, high = np.quantile(values, [0.25, 0.75])
    spread = float(high - low) / max(float(np.abs(values).max()), 1e-300)
    digits = min(max(4 - math.floor(math.log10(spread)), 5), 9) if spread > 0 else 9
    return {
        number: [(int(step) if step == int(step) else step, float(f"{value:.{digits}g}")) for step, value in curve]
        for number, curve in curves.items()
    }

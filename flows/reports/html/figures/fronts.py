"""The Pareto front of a study with several metrics, and how it came to be; nothing with one metric."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from hpo_core.history.trial import Trial
from hpo_flows.reports.html.figures.axes import brief
from hpo_flows.reports.html.figures.past import Past, Plot
from hpo_flows.reports.text import number


def pareto_front(past: Past) -> list[Plot]:
    """The front over all other trials, a plot for each pair of metrics."""
    if not past.spec.metrics or not past.merged.complete:
        return []
    pairs = list(combinations(past.views, 2))
    return [_pair(past, f"front-{i}", x, y, alone=len(pairs) == 1) for i, (x, y) in enumerate(pairs)]


def _pair(past: Past, id: str, x: Past, y: Past, *, alone: bool) -> Plot:
    """Two metrics of all complete trials."""
    front, point = list(past.history.front), past.point
    on = {trial.number for trial in front}
    others = [trial for trial in past.drawn(past.merged.complete) if trial.number not in on]
    highest = past.history.max_fidelity
    kinds = {
        "lower fidelity": ([t for t in others if t.fidelity != highest], {"color": "--mute", "symbol": "circle-open"}),
        "breaks limits": (
            [t for t in others if t.fidelity == highest and not t.feasible], {"color": "--bad", "symbol": "x-thin-open"}
        ),
        "dominated": ([t for t in others if t.fidelity == highest and t.feasible], {"color": "--mute"}),
    }  # fmt: skip
    traces = [_dots(x, y, trials, {"size": 6} | marker, name) for name, (trials, marker) in kinds.items() if trials]
    name = "Pareto front" if not front or front[0].feasible else "closest to the limits"
    if alone:
        corners = sorted(front, key=lambda trial: trial.outcome)
        traces.append(
            {
                "type": "scatter", "mode": "lines", "x": [x.value(x.of(t)) for t in corners],
                "y": [y.value(y.of(t)) for t in corners],
                "line": {"color": "--accent", "width": 1.5, "shape": "hv"}, "hoverinfo": "skip", "showlegend": False,
            }
        )  # fmt: skip
    traces.append(_dots(x, y, front, {"color": "--accent", "size": 9}, name))
    if point is not None:
        preferred = past.spec.preference is not None and not past.spec.preference.unmet(front)
        ring = {"color": "--ink", "symbol": "circle-open", "size": 14, "line": {"width": 2}}
        traces.append(_dots(x, y, [point], ring, "preferred" if preferred else "compromise"))
    layout = {"xaxis": {"title": {"text": x.metric}}, "yaxis": {"title": {"text": y.metric}}}
    title = "Pareto front" if alone else f"{x.spec.metric} and {y.spec.metric}"
    return Plot(id, title, _caption(past, x, y, alone), traces, layout, 400)


def _caption(past: Past, x: Past, y: Past, alone: bool) -> str:
    ways = " and ".join(f"{'less' if view.spec.sign > 0 else 'more'} {view.spec.metric}" for view in (x, y))
    cut = "".join(view.cut.partition(":")[0] + ": drawn there." for view in (x, y) if view.cut)
    if not alone:
        return f"Better is {ways}. A point of the front that seems beaten here is better in the third metric.{cut}"
    count = len(past.history.front)
    points = "its one trial" if count == 1 else f"one of its {count} trials"
    return f"No trial beats {points} in one metric without losing in the other. Better is {ways}.{cut}"


def _dots(x: Past, y: Past, trials: Sequence[Trial], marker: dict[str, Any], name: str) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "markers", "name": name, "x": [x.value(x.of(t)) for t in trials],
        "y": [y.value(y.of(t)) for t in trials], "customdata": [trial.number for trial in trials], "marker": marker,
    }  # fmt: skip


def hypervolume(past: Past) -> list[Plot]:
    """The hypervolume of the front after each trial."""
    pairs = past.history.hypervolumes()
    if len(pairs) < 2:
        return []
    numbers, volumes = [trial.number for trial, _ in pairs], [brief(volume) for _, volume in pairs]
    before = [0.0, *volumes]
    grown = [i for i, volume in enumerate(volumes) if volume > before[i]]
    steps = range(len(volumes)) if past.all_drawn else [*grown, len(volumes) - 1]
    line = {
        "type": "scatter", "mode": "lines", "x": [numbers[i] for i in steps], "y": [volumes[i] for i in steps],
        "fill": "tozeroy", "fillcolor": "--wash",
        "line": {"color": "--accent", "width": 2.5, "shape": "hv"}, "hoverinfo": "skip", "showlegend": False,
    }  # fmt: skip
    dots = {
        "type": "scatter", "mode": "markers", "x": [numbers[i] for i in grown], "y": [volumes[i] for i in grown],
        "customdata": [numbers[i] for i in grown], "marker": {"color": "--accent", "size": 7}, "showlegend": False,
    }  # fmt: skip
    corner = ", ".join(
        f"{each.metric} {number(each.sign * loss)}"
        for each, loss in zip(past.spec.objectives, past.history.reference, strict=True)
    )
    caption = (
        f"The volume of what the front is better than, up to {corner}: the worst values of the first trials. "
        "A dot is a trial that made it grow."
    )
    layout = {"xaxis": {"title": {"text": "trial"}}, "yaxis": {"title": {"text": "hypervolume"}, "rangemode": "tozero"}}
    return [Plot("hypervolume", "Hypervolume", caption, [line, dots], layout)]

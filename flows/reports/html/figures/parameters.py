"""How the values depend on the parameters: one at a time, two at a time, all at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from hpo_core.base.arrays import Array, evenly
from hpo_core.history.trial import Trial
from hpo_flows.reports.html.figures.axes import ParameterAxis, brief, short
from hpo_flows.reports.html.figures.importance import features, forest
from hpo_flows.reports.html.figures.past import MOST_TRIALS, Past, Plot

MOST_SLICES = 12

MOST_AXES = 10
"""How many axes of parallel coordinates can be told apart."""

AXIS_WIDTH = 108
"""Pixels for each axis of parallel coordinates."""

SECOND = 0.6
"""How far lines beside the front stand out at most."""

BEST_LINES, MOST_LINES = 500, 1_500
"""How many of the best trials are lines there, and how many trials at most."""

LABEL = 15
"""Characters of a name above such an axis."""

TOGETHER = 3
"""How many of the most important parameters are drawn against each other, in pairs."""

FEWEST_FALL = 0.01
"""Beyond the first two, a parameter that matters less, or less than the spread, is not drawn with others."""

MOST_DOTS = 60
"""How many of the best trials are shown there; more would hide what is below."""

GRID = 18
"""Points along each side of such a picture."""

AVERAGED = 24
"""The number of configurations over which such a picture averages all other parameters."""


def parallel_coordinates(past: Past) -> list[Plot]:
    """Each complete trial as a line through its parameters and its value, the best last: over all others."""
    complete, names = past.merged.complete, past.names[:MOST_AXES]
    if len(complete) < 2 or not names:
        return []
    rest = past.drawn(past.best[BEST_LINES:])
    sample = rest[:: -(-len(rest) // (MOST_LINES - BEST_LINES))] if rest else []
    drawn = [*past.best[:BEST_LINES], *sample][::-1]
    count = max(len(past.best) - 1, 1)
    ranks = {trial.number: brief(1 - i / count) for i, trial in enumerate(past.best)}
    if past.spec.metrics:  # the front stands out from all others
        on = {trial.number for trial in past.history.front}
        ranks = {n: 1.0 if n in on else brief(SECOND * rank) for n, rank in ranks.items()}
        drawn.sort(key=lambda trial: ranks[trial.number])
    axes = [_axis(past.axis(name), drawn) for name in names] + [_values(view, drawn) for view in past.views]
    trace = {"axes": axes, "trials": [t.number for t in drawn], "ranks": [ranks[t.number] for t in drawn]}
    caption = "A line is a trial: the more it stands out, the better."
    if past.spec.metrics:
        caption = "A line is a trial; those of the front stand out."
    cut = "".join(view.cut.replace(", as triangles", "") for view in past.views)
    caption += " Drag along an axis to choose trials, click it to "
    caption += f"end that, drag a name to move its axis. The table follows.{cut}"
    if len(past.names) > MOST_AXES:
        caption += f" Drawn are {MOST_AXES} of {len(past.names)} parameters."
    if len(drawn) < len(complete):
        caption += f" Drawn are the best {BEST_LINES} and {len(sample)} others of {len(complete):,} trials."
    least = AXIS_WIDTH * len(axes)
    return [Plot("parallel", "Parallel coordinates", caption, [trace], {}, 400, wide=True, least=least)]


def _values(view: Past, trials: Sequence[Trial]) -> dict[str, Any]:
    """The axis of a metric."""
    values = [view.value(view.of(trial)) for trial in trials]
    low, high = min(values), max(values)
    high = high if high > low else low + 1
    return {
        "name": view.spec.metric, "label": short(view.spec.metric, LABEL), "values": values, "low": low, "high": high,
        "ticks": _even(low, high, 5),
    }  # fmt: skip


def _axis(axis: ParameterAxis, trials: Sequence[Trial]) -> dict[str, Any]:
    """One axis of parallel coordinates; an inactive parameter has a place of its own below the others."""
    low, high = axis.range
    high = high if high > low else low + 1
    places = [axis.spread(trial.config, trial.number) for trial in trials]
    inactive = low - 0.12 * (high - low)
    absent = None in places
    ticks = _even(low, high, 3) if axis.ticks is None else list(zip(*axis.ticks, strict=True))
    return {
        "name": axis.name,
        "label": short(axis.name, LABEL),
        "values": [brief(inactive if place is None else place) for place in places],
        "low": inactive if absent else low,
        "high": high,
        "ticks": [*([(inactive, "inactive")] if absent else []), *ticks],
    }


def _even(low: float, high: float, count: int) -> list[tuple[float, str]]:
    """Evenly spaced marks, with as many digits as tell them apart."""
    places = [low + i * (high - low) / (count - 1) for i in range(count)]
    digits = next((d for d in range(3, 8) if len({f"{place:.{d}g}" for place in places}) == count), 8)
    return [(brief(place), f"{place:.{digits}g}") for place in places]


def slices(past: Past) -> list[Plot]:
    """The value against each parameter alone, a plot for each."""
    complete = past.drawn(past.merged.complete)
    if not complete:
        return []
    found = []
    numbers = [trial.number for trial in complete]
    for i, name in enumerate(past.names[:MOST_SLICES]):
        axis = past.axis(name)
        here = [trial for trial in complete if name in trial.config]
        if not here:
            continue
        marker = {
            "color": [trial.number for trial in here], "colorscale": "--scale", "cmin": numbers[0],
            "cmax": max(numbers[-1], numbers[0] + 1), "size": 6,
        }  # fmt: skip
        trace = past.points(here, [axis.spread(trial.config, trial.number) for trial in here], marker)
        layout = {"xaxis": axis.layout()}
        rings = [trial for trial in past.best[:1] if name in trial.config]
        ring = {"color": "--ink", "symbol": "circle-open", "size": 12, "line": {"width": 2}}
        best = past.points(rings, [axis.spread(trial.config, trial.number) for trial in rings], ring)
        found.append(Plot(f"slice-{i}", name, "", [trace, best], layout, 230))
    return found


def interplay(past: Past) -> list[Plot]:
    """Each pair of the most important parameters: what a forest expects, averaged over all others."""
    if past.reliable is None or len(past.names) < 2:
        return []
    complete = evenly(past.merged.complete, MOST_TRIALS)
    X = features(past.spec.search_space, complete)
    losses = [past.spec.sign * past.value(trial) for trial in complete]
    model = forest(0).fit(X, losses)
    found = zip(past.names, past.reliable.mean, past.reliable.spread, strict=True)
    clear = [name for i, (name, fall, spread) in enumerate(found) if i < 2 or fall > max(spread, FEWEST_FALL)]
    pairs = list(combinations(clear[:TOGETHER], 2))
    drawn = [_pair(past, f"pair-{i}", names, complete, X, model) for i, names in enumerate(pairs)]
    return [plot for plot in drawn if plot is not None]


def _pair(past: Past, id: str, names: Sequence[str], complete: Sequence[Trial], X: Array, model: Any) -> Plot | None:
    """What the forest expects of two parameters; cells where one has options, for nothing lies between options.

    Args:
        past: The study.
        id: Of the plot.
        names: The two parameters.
        complete, X: The trials that the forest knows, and their features.
        model: The forest.
    """
    space = past.spec.search_space
    axes = [past.axis(name) for name in names]
    here = [i for i, trial in enumerate(complete) if all(name in trial.config for name in names)]
    if len(here) < 2 or any(axis.range[0] == axis.range[1] for axis in axes):
        return None
    units, places = zip(*(_grid(axis) for axis in axes), strict=True)
    base = X[here][np.linspace(0, len(here) - 1, min(AVERAGED, len(here))).astype(int)]
    U, V = np.meshgrid(*units)
    rows = np.tile(base, (U.size, 1))
    for name, grid in zip(names, (U, V), strict=True):
        rows[:, space.free.index(name)] = np.repeat(grid.ravel(), len(base))
    Z = past.spec.sign * model.predict(rows).reshape(U.size, len(base)).mean(axis=1).reshape(U.shape)
    cells = not all(axis.numeric for axis in axes)
    heights: dict[str, Any] = {
        "type": "heatmap" if cells else "contour", "x": places[0], "y": places[1],
        "z": [[brief(z) for z in row] for row in Z], "colorscale": "--scale", "reversescale": past.spec.sign > 0,
        "colorbar": {"thickness": 8, "outlinewidth": 0, "title": {"text": past.metric, "side": "right"}},
        "hovertemplate": "expected %{z:.6g}<extra></extra>",
    }  # fmt: skip
    heights |= (
        {"xgap": 0 if axes[0].numeric else 4, "ygap": 0 if axes[1].numeric else 4}
        if cells
        else {"contours": {"coloring": "heatmap"}, "line": {"width": 0.6, "color": "--card"}}
    )
    for row, v in enumerate(places[1]):
        for column, u in enumerate(places[0]):
            if not _together(axes, (u, v)):
                heights["z"][row][column] = None
    trials = [trial for trial in past.best if all(name in trial.config for name in names)][:MOST_DOTS]
    x, y = ([axis.spread(trial.config, trial.number, i) for trial in trials] for i, axis in enumerate(axes))
    points = {
        "type": "scatter", "mode": "markers", "x": x, "y": y, "customdata": [trial.number for trial in trials],
        "marker": {"color": "--card", "size": 5, "line": {"color": "--ink", "width": 1}}, "showlegend": False,
        "cliponaxis": False,
    }  # fmt: skip
    layouts = [axis.layout() for axis in axes]
    for axis, layout in zip(axes, layouts, strict=True):
        layout["range"] = list(axis.range)
    return Plot(id, f"{names[0]} and {names[1]}", "", [heights, points], {"xaxis": layouts[0], "yaxis": layouts[1]})


def _together(axes: Sequence[ParameterAxis], places: Sequence[float]) -> bool:
    """Whether both parameters are active at these places, as far as one of them depends on the other."""
    for axis, (other, place) in zip(axes, reversed(list(zip(axes, places, strict=True))), strict=True):
        wanted = axis.parameter.when.get(other.name)
        if wanted is not None and not any(abs(other.at(value) - place) < 1e-6 for value in wanted):
            return False
    return True


def _grid(axis: ParameterAxis) -> tuple[Array, list[float]]:
    """Coordinates in the unit cube along an axis, and their positions in a plot."""
    if not axis.numeric:
        count = len(axis.parameter.options)
        return (np.arange(count) + 0.5) / count, [float(i) for i in range(count)]
    values = list(dict.fromkeys(axis.parameter.decode(float(u)) for u in np.linspace(0, 1, GRID)))
    return np.array([axis.parameter.encode(value) for value in values]), [brief(axis.at(value)) for value in values]

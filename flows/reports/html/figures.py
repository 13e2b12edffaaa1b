"""Draws a study's plots as plotly figures, each with a caption. A plot is None if there is nothing to show."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hpo_core.history.history import History, continues
from hpo_core.history.trial import Trial, TrialState, fidelity_key
from hpo_core.study.spec import StudySpec
from hpo_flows.reports.html.axes import ParameterAxis, plotly_text
from hpo_flows.reports.html.importance import METHOD, Importance, features, forest, importance
from hpo_flows.reports.text import fidelity_name, metric_value, number, show

BLUE, ORANGE, RED, GREY = "#3b82c4", "#e07b39", "#d14b4b", "#8a8f98"

SCALE = "Viridis"

MOST_SLICES = 12

GRID = 24
"""Points along each side of a contour plot."""

MOST_DRAWN = 1e100
"""Larger values are drawn there, with the true value in the label: their squares and ranges would overflow."""

AVERAGED = 50
"""The number of configurations over which a contour averages all other parameters."""


@dataclass(frozen=True)
class Plot:
    """A figure with its place in the report.

    Args:
        name: The name of its files.
        title, caption: What it shows and how to read it, as plain text.
    """

    name: str
    title: str
    caption: str
    figure: go.Figure


@dataclass(frozen=True)
class Past:
    """A study as the plots see it: the metric in its own direction."""

    spec: StudySpec
    history: History
    importance: Importance | None

    def shown(self, loss: float) -> float:
        """The position of a loss, in the metric's own direction."""
        return self.spec.sign * min(max(loss, -MOST_DRAWN), MOST_DRAWN)

    def value(self, trial: Trial) -> float:
        assert trial.loss is not None
        return self.shown(trial.loss)

    @property
    def values(self) -> list[float]:
        return [self.value(trial) for trial in self.history.complete]

    @property
    def names(self) -> Sequence[str]:
        """The free parameters, most important first if that is known."""
        return self.spec.search_space.free if self.importance is None else self.importance.names

    def axis(self, name: str) -> ParameterAxis:
        return ParameterAxis(name, self.spec.search_space.parameters[name])


def incumbents(history: History) -> list[Trial]:
    """The incumbent after each complete trial, in the order of their numbers: higher fidelity first, then loss."""
    best: list[Trial] = []
    for trial in history.complete:
        rank = (-fidelity_key(trial.fidelity), trial.loss)
        best.append(trial if not best or rank < (-fidelity_key(best[-1].fidelity), best[-1].loss) else best[-1])
    return best


def plots(spec: StudySpec, history: History) -> list[Plot]:
    """All plots that the study's history gives."""
    past = Past(spec, history, importance(spec.search_space, history))
    return [plot for draw in DRAWN if (plot := draw(past)) is not None]


def _hover(past: Past, trial: Trial) -> str:
    settings = "".join(f"<br>{plotly_text(name)} = {plotly_text(show(value))}" for name, value in trial.config.items())
    far = trial.loss is not None and abs(trial.loss) > MOST_DRAWN
    value = f"<br>{plotly_text(past.spec.metric)} = {number(metric_value(past.spec, trial))}" if far else ""
    return f"trial {trial.number}{value}{settings}"


def _figure(*traces: Any, **layout: Any) -> go.Figure:
    figure = go.Figure(list(traces))
    figure.update_layout(margin={"l": 60, "r": 20, "t": 30, "b": 50}, legend={"orientation": "h", "y": 1.08}, **layout)
    return figure


def optimisation_history(past: Past) -> Plot | None:
    """Every complete trial's value, and the incumbent's, by trial number."""
    complete = past.history.complete
    if not complete:
        return None
    numbers = [trial.number for trial in complete]
    points = go.Scatter(
        x=numbers, y=past.values, mode="markers", name="trials", marker={"color": BLUE, "size": 7, "opacity": 0.75},
        text=[_hover(past, trial) for trial in complete], hovertemplate="%{text}<br><b>%{y:.6g}</b><extra></extra>",
    )  # fmt: skip
    best = [past.value(trial) for trial in incumbents(past.history)]
    line = go.Scatter(
        x=numbers, y=best, mode="lines", name="incumbent", line={"color": ORANGE, "width": 2.5, "shape": "hv"}
    )
    failed = past.history.failed
    floor = [(max if past.spec.sign > 0 else min)(past.values)] * len(failed)
    crosses = go.Scatter(
        x=[trial.number for trial in failed], y=floor, mode="markers", name="failed",
        marker={"color": RED, "symbol": "x", "size": 8},
        text=[f"trial {trial.number} failed<br>{plotly_text(trial.reason)}" for trial in failed],
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip
    figure = _figure(points, line, *([crosses] if failed else []))
    figure.update_layout(xaxis_title="trial", yaxis_title=past.spec.metric)
    return Plot(
        "history", "Optimisation history", "Each trial's value and the incumbent so far; crosses failed.", figure
    )


def parameter_importance(past: Past) -> Plot | None:
    """How much each parameter matters, most at the top."""
    found = past.importance
    if found is None:
        return None
    bars = go.Bar(
        x=found.mean[::-1].tolist(), y=list(found.names[::-1]), orientation="h", marker={"color": BLUE},
        error_x={"type": "data", "array": found.spread[::-1].tolist(), "color": GREY},
    )  # fmt: skip
    figure = _figure(bars, xaxis_title="fall of held-out R2 when shuffled")
    caption = (
        f"By {METHOD}; bars are the mean and whiskers the standard deviation over splits of the trials. The forests "
        f"explain {max(found.explained, 0):.0%} of the variance of ranks on held-out trials"
        + (": too little to rely on." if found.explained < 0.3 else ".")
    )
    return Plot("importance", "Hyperparameter importance", caption, figure)


def parallel_coordinates(past: Past) -> Plot | None:
    """Each complete trial as a line through its parameters and its value."""
    complete, names = past.history.complete, past.names[:MOST_SLICES]
    if len(complete) < 2 or not names:
        return None
    dimensions: list[dict[str, Any]] = []
    for name in names:
        axis = past.axis(name)
        low, high = axis.range
        places = [axis.of(trial.config) for trial in complete]
        inactive = low - 0.12 * ((high - low) or 1.0)
        absent = None in places
        dimension: dict[str, Any] = {
            "label": name,
            "values": [inactive if place is None else place for place in places],
            "range": [inactive if absent else low, high if high > low else low + 1],
        }
        ticks = axis.ticks
        if ticks is None and absent:
            ticks = [low, (low + high) / 2, high], [f"{v:.3g}" for v in (low, (low + high) / 2, high)]
        if ticks is not None:
            extra = ([inactive], ["inactive"]) if absent else ([], [])
            dimension |= {"tickvals": extra[0] + ticks[0], "ticktext": extra[1] + ticks[1]}
        dimensions.append(dimension)
    dimensions.append({"label": past.spec.metric, "values": past.values})
    line = {"color": past.values, "colorscale": SCALE, "reversescale": past.spec.sign > 0, "showscale": True}
    figure = _figure(go.Parcoords(dimensions=dimensions, line=line, labelangle=-12))
    figure.update_layout(margin={"l": 70, "r": 40, "t": 80, "b": 30})
    return Plot("parallel", "Parallel coordinates", "A line a trial; drag along an axis to choose.", figure)


def slices(past: Past) -> Plot | None:
    """The value against each parameter alone."""
    complete, names = past.history.complete, past.names[:MOST_SLICES]
    if not complete or not names:
        return None
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure = make_subplots(rows, columns, shared_yaxes=True, vertical_spacing=0.28 / rows if rows > 1 else 0)
    for i, name in enumerate(names):
        axis, row, column = past.axis(name), i // columns + 1, i % columns + 1
        here = [trial for trial in complete if name in trial.config]
        points = go.Scatter(
            x=[axis.of(trial.config) for trial in here], y=[past.value(trial) for trial in here], mode="markers",
            marker={"color": [trial.number for trial in here], "colorscale": SCALE, "size": 6}, showlegend=False,
            text=[_hover(past, trial) for trial in here], hovertemplate="%{text}<br><b>%{y:.6g}</b><extra></extra>",
        )  # fmt: skip
        figure.add_trace(points, row, column)
        figure.update_xaxes(axis.layout(), row=row, col=column)
    figure.update_layout(height=max(300, 230 * rows), margin={"l": 60, "r": 20, "t": 20, "b": 50})
    figure.update_yaxes(title_text=past.spec.metric, col=1)
    return Plot("slices", "Slices", "The value by each parameter alone; the brighter, the later the trial.", figure)


def contour(past: Past) -> Plot | None:
    """The two most important parameters: the forest's mean over all others, and the trials."""
    if past.importance is None or len(past.names) < 2:
        return None
    space, (first, second) = past.spec.search_space, past.names[:2]
    X = features(space, past.history)
    model = forest(0).fit(X, past.values)
    base = X[np.linspace(0, len(X) - 1, min(AVERAGED, len(X))).astype(int)]
    axes, grids, columns = [], [], []
    for name in (first, second):
        axis, column = past.axis(name), space.free.index(name)
        options = None if axis.numeric else len(axis.parameter.options)
        units = np.linspace(0, 1, GRID) if options is None else (np.arange(options) + 0.5) / options
        axes.append(axis)
        grids.append((units, [axis.at(axis.parameter.decode(float(u))) for u in units]))
        columns.append(column)
    U, V = np.meshgrid(grids[0][0], grids[1][0])
    rows = np.tile(base, (U.size, 1))
    rows[:, columns[0]] = np.repeat(U.ravel(), len(base))
    rows[:, columns[1]] = np.repeat(V.ravel(), len(base))
    Z = model.predict(rows).reshape(U.size, len(base)).mean(axis=1).reshape(U.shape)
    heights = go.Contour(
        x=grids[0][1], y=grids[1][1], z=Z.tolist(), colorscale=SCALE, reversescale=past.spec.sign > 0,
        colorbar={"title": {"text": past.spec.metric}}, contours={"coloring": "heatmap"}, line={"width": 0.5},
    )  # fmt: skip
    here = [trial for trial in past.history.complete if first in trial.config and second in trial.config]
    points = go.Scatter(
        x=[axes[0].of(t.config) for t in here], y=[axes[1].of(t.config) for t in here], mode="markers",
        marker={"color": "#ffffff", "size": 6, "line": {"color": "#222222", "width": 1}}, showlegend=False,
        text=[f"{_hover(past, t)}<br><b>{number(past.value(t))}</b>" for t in here],
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip
    figure = _figure(heights, points, xaxis=axes[0].layout(), yaxis=axes[1].layout())
    caption = f"What a forest expects of {first} and {second}, averaged over all other parameters; dots are trials."
    return Plot("contour", "Contours of the two most important parameters", caption, figure)


def distribution(past: Past) -> Plot | None:
    """The empirical distribution function of the values."""
    values = sorted(past.values)
    if len(values) < 2:
        return None
    steps = [(i + 1) / len(values) for i in range(len(values))]
    line = go.Scatter(x=values, y=steps, mode="lines", line={"color": BLUE, "width": 2.5, "shape": "hv"})
    figure = _figure(line, xaxis_title=past.spec.metric, yaxis_title="share of trials at or below")
    return Plot("edf", "Distribution of values", "Empirical distribution function of all complete trials.", figure)


def _moment(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def lanes(trials: Sequence[Trial]) -> dict[int, tuple[int, int]]:
    """A lane per trial number: the flow and the slot, each from 1. A trial gets its flow's first free slot."""
    free: dict[str, list[float]] = {}
    found: dict[int, tuple[int, int]] = {}
    flows: dict[str, int] = {}
    for trial in sorted(trials, key=lambda trial: (trial.start, trial.number)):
        slots = free.setdefault(trial.owner, [])
        flow = flows.setdefault(trial.owner, len(flows) + 1)
        end = trial.start if trial.end is None else trial.end
        ends = math.inf if trial.state is TrialState.RUNNING else end
        slot = next((i for i, until in enumerate(slots) if until <= trial.start), len(slots))
        slots[slot : slot + 1] = [ends]
        found[trial.number] = (flow, slot + 1)
    return found


def timeline(past: Past) -> Plot | None:
    """Which trial each slot of each flow trained when; gaps are idle times."""
    trials = [trial for trial in past.history if trial.start]
    if not trials:
        return None
    now = max(trial.end or trial.start for trial in trials)
    where = lanes(trials)
    order = sorted(set(where.values()))
    label = {lane: f"flow {lane[0]}, slot {lane[1]}" for lane in order}
    traces = []
    for state, color in ((TrialState.COMPLETE, BLUE), (TrialState.FAILED, RED), (TrialState.RUNNING, ORANGE)):
        here = [trial for trial in trials if trial.state is state]
        x: list[str | None] = []
        y: list[str | None] = []
        text: list[str] = []
        for trial in here:
            x += [_moment(trial.start), _moment(trial.end or now), None]
            y += [label[where[trial.number]]] * 2 + [None]
            text += [_hover(past, trial)] * 3
        if here:
            traces.append(
                go.Scatter(
                    x=x,
                    y=y,
                    mode="lines+markers",
                    name=state.value,
                    line={"color": color, "width": 9},
                    marker={"color": color, "symbol": "line-ns-open", "size": 12},
                    text=text,
                    hovertemplate="%{text}<br>%{x}<extra></extra>",
                )
            )
    figure = _figure(*traces, height=max(280, 60 + 34 * len(order)))
    figure.update_layout(xaxis={"title": {"text": "time (UTC)"}, "type": "date"})
    figure.update_yaxes(categoryorder="array", categoryarray=[label[lane] for lane in reversed(order)], type="category")
    return Plot("timeline", "Timeline of workers", "A row a slot of a flow; gaps are time without training.", figure)


def _curve(trials: Sequence[Trial]) -> dict[float, float]:
    """The losses of one configuration by fidelity: at milestones, and at the ends of its trials."""
    seen = {float(step): loss for trial in trials for step, loss in trial.rungs.items()}
    return seen | {
        fidelity_key(trial.fidelity): trial.loss
        for trial in trials
        if trial.fidelity is not None and trial.loss is not None
    }


def rungs(past: Past) -> Plot | None:
    """The values of each configuration at the fidelities it was trained to, and at milestones on the way."""
    by_identity: dict[str, list[Trial]] = {}
    for trial in (*past.history.complete, *past.history.running):
        by_identity.setdefault(trial.identity, []).append(trial)
    curves = [(trials[-1], curve) for trials in by_identity.values() if (curve := _curve(trials))]
    if len({fidelity for _, curve in curves for fidelity in curve}) < 2:
        return None
    x: list[float | None] = []
    y: list[float | None] = []
    text: list[str] = []
    for trial, curve in curves:
        x += [*sorted(curve), None]
        y += [*(past.shown(curve[fidelity]) for fidelity in sorted(curve)), None]
        text += [_hover(past, trial)] * (len(curve) + 1)
    line = go.Scatter(
        x=x, y=y, mode="lines+markers", line={"color": BLUE, "width": 1.2}, marker={"size": 5}, text=text,
        hovertemplate="%{text}<br><b>%{y:.6g}</b> at %{x:g}<extra></extra>", opacity=0.7,
    )  # fmt: skip
    figure = _figure(line, xaxis_title=plotly_text(fidelity_name(past.spec)), yaxis_title=past.spec.metric)
    figure.update_xaxes(type="log")
    return Plot("rungs", "Learning curves by rung", "A line a configuration, a dot a rung that it reached.", figure)


def predictions(past: Past) -> Plot | None:
    """What the surrogate expected of each trial before it ran, and what was observed."""
    points: list[tuple[float, float, float, str]] = []
    for trial in past.history.complete:
        try:
            mean, std = float(str(trial.notes["predicted_mean"])), float(str(trial.notes.get("predicted_std", "nan")))
        except (KeyError, ValueError):  # anybody may have written other tags
            continue
        if math.isfinite(mean):
            spread = min(std, MOST_DRAWN) if std >= 0 else 0.0
            points.append((past.shown(mean), past.value(trial), spread, _hover(past, trial)))
    if len(points) < 3:
        return None
    expected, observed, spreads, text = map(list, zip(*points, strict=True))
    dots = go.Scatter(
        x=expected, y=observed, mode="markers", marker={"color": BLUE, "size": 7}, name="trials", text=text,
        error_x={"type": "data", "array": spreads, "color": GREY, "thickness": 0.8, "width": 0},
        hovertemplate="%{text}<br>expected %{x:.6g}<br>observed <b>%{y:.6g}</b><extra></extra>",
    )  # fmt: skip
    ends = [min(expected + observed), max(expected + observed)]
    same = go.Scatter(x=ends, y=ends, mode="lines", line={"color": GREY, "dash": "dot"}, name="as expected")
    figure = _figure(dots, same, xaxis_title=f"expected {past.spec.metric}", yaxis_title=f"observed {past.spec.metric}")
    caption = "What the surrogate expected before each trial, with its standard deviation, and what came."
    return Plot("predictions", "Predicted against observed", caption, figure)


def fidelity_spent(past: Past) -> Plot | None:
    """The fidelity spent by all trials together; a trial that resumes from another counts what it added."""
    reached = {trial.number: trial.fidelity or 0.0 for trial in past.history}
    ended = sorted((t for t in past.history if t.end is not None and t.fidelity is not None), key=lambda t: t.end or 0)
    if not ended:
        return None
    had = [reached.get(t.parent, 0.0) if t.parent is not None and continues(t) else 0.0 for t in ended]
    added = [max(reached[trial.number] - before, 0.0) for trial, before in zip(ended, had, strict=True)]
    line = go.Scatter(
        x=[_moment(trial.end or 0) for trial in ended], y=np.cumsum(added).tolist(), mode="lines",
        line={"color": BLUE, "width": 2.5, "shape": "hv"},
    )  # fmt: skip
    figure = _figure(line, xaxis_title="time (UTC)", yaxis_title=f"{plotly_text(fidelity_name(past.spec))} spent")
    return Plot("fidelity", "Fidelity spent", "By all ended trials together; promotions count what they added.", figure)


DRAWN: tuple[Callable[[Past], Plot | None], ...] = (
    optimisation_history,
    parameter_importance,
    parallel_coordinates,
    slices,
    contour,
    distribution,
    timeline,
    rungs,
    predictions,
    fidelity_spent,
)

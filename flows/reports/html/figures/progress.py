"""How the search went: values by trial, their distribution, and what the surrogate expected."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from hpo_core.history.trial import Trial
from hpo_flows.reports.html.curves import thinned
from hpo_flows.reports.html.figures.axes import brief, plotly_text
from hpo_flows.reports.html.figures.past import (
    MOST_DRAWN,
    MOST_TRIALS,
    Past,
    Plot,
    best_after_each,
    finite,
    incumbents,
    moment,
)
from hpo_flows.reports.text import fidelity_name


def optimisation_history(past: Past) -> list[Plot]:
    """Every complete trial's value, and the incumbent's, by trial number."""
    complete = past.merged.complete
    if not complete or past.spec.metrics:
        return []
    line = incumbents(past.history)
    leaders = list({trial.number: trial for trial in line}.values())
    so_far = {trial.number: best for trial, best in zip(complete, line, strict=True)}
    highest = past.history.max_fidelity
    drawn = past.drawn(complete)
    first_shown = sorted(drawn, key=past.beyond)  # a legend takes its symbol from the first point
    full = [trial for trial in first_shown if trial.fidelity == highest]
    rest = [trial for trial in first_shown if trial.fidelity != highest]
    leaders.sort(key=past.beyond)
    traces = [
        past.points(full, [t.number for t in full], {"color": "--mute"}, name="trial", showlegend=True),
        {
            "type": "scatter", "mode": "lines", "name": "best so far", "x": [trial.number for trial in drawn],
            "y": [past.value(so_far[trial.number]) for trial in drawn],
            "line": {"color": "--accent", "width": 2.5, "shape": "hv"}, "hoverinfo": "skip",
        },
        past.points(leaders, [t.number for t in leaders], {"color": "--accent", "size": 9}, name="new best",
                    showlegend=True),
    ]  # fmt: skip
    if sure := [trial for trial in full if past.error(trial)]:
        traces.append(_means(past, sure))
    if again := past.drawn(t for t in past.history.complete if t.repeat_of is not None):
        marker = {"color": "--mute", "symbol": "diamond-open", "size": 7}
        again.sort(key=past.beyond)
        traces.append(past.points(again, [t.number for t in again], marker, name="trained again", showlegend=True))
    if rest:
        marker = {"color": "--mute", "symbol": "circle-open", "size": 6}
        lower = past.points(rest, [t.number for t in rest], marker, name="lower fidelity", showlegend=True)
        traces.insert(0, lower)
    if failed := past.drawn(past.history.failed):
        traces.append(_crosses(past, failed))
    layout = {"xaxis": {"title": {"text": "trial"}}, "yaxis": {"title": {"text": past.metric}}}
    caption = f"Each configuration's value, and the best so far at the highest fidelity.{past.cut}"
    if again:
        caption += " One that was trained again has the mean, with its standard error; what was confirmed comes first."
    return [Plot("history", "Optimization history", caption, traces, layout, 380)]


def _means(past: Past, trials: Sequence[Trial]) -> dict[str, Any]:
    """The trials that were trained several times, with the errors of their means."""
    errors = [past.error(trial) for trial in trials]
    bars = {"type": "data", "array": errors, "color": "--accent", "thickness": 1.5, "width": 3}
    return past.points(trials, [t.number for t in trials], {"color": "--accent", "size": 5}, error_y=bars)


def _crosses(past: Past, failed: Sequence[Trial]) -> dict[str, Any]:
    """The failed trials, at the poorer edge of the plot."""
    reach = max(past.values) - min(past.values)
    edge = brief((max(past.values) + reach / 20) if past.spec.sign > 0 else (min(past.values) - reach / 20))
    numbers = [trial.number for trial in failed]
    return {
        "type": "scatter", "mode": "markers", "name": "failed", "x": numbers, "y": [edge] * len(failed),
        "customdata": numbers,
        "marker": {"color": "--bad", "symbol": "x-thin-open", "size": 8, "line": {"width": 2}},
    }  # fmt: skip


def best_by_cost(past: Past) -> list[Plot]:
    """The incumbent's value by the cost of all trials until then."""
    if not past.spec.cost or len(past.spec.objectives) > 1:
        return []
    every = (t for t in past.history.every if t.end is not None and t.cost is not None)
    ended = sorted(every, key=lambda t: t.end or 0)
    spent = dict(zip((t.number for t in ended), accumulate(t.cost or 0.0 for t in ended), strict=True))
    means = {trial.number: trial for trial in past.merged.complete}
    complete = [means[trial.number] for trial in ended if trial.number in means]
    if len(complete) < 2:
        return []
    pairs, drawn = list(zip(complete, best_after_each(complete), strict=True)), past.drawn(complete)
    leaders = past.drawn(trial for trial, leader in pairs if trial is leader)
    numbers = {trial.number for trial in drawn}
    pairs = [(trial, leader) for trial, leader in pairs if trial is leader or trial.number in numbers]
    x, y = [brief(spent[trial.number]) for trial, _ in pairs], [past.value(leader) for _, leader in pairs]
    total = brief(spent[ended[-1].number])
    line = {
        "type": "scatter", "mode": "lines", "name": "best so far", "x": [*x, total], "y": [*y, y[-1]],
        "line": {"color": "--accent", "width": 2.5, "shape": "hv"}, "hoverinfo": "skip",
    }  # fmt: skip
    costs = [brief(spent[trial.number]) for trial in drawn]
    dots = past.points(drawn, costs, {"color": "--mute"}, name="trial", showlegend=True)
    marker = {"color": "--accent", "size": 9}
    new = past.points(leaders, [brief(spent[t.number]) for t in leaders], marker, name="new best", showlegend=True)
    unit = plotly_text(past.spec.cost, 32)
    layout = {
        "xaxis": {"title": {"text": f"cost spent ({unit})"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": past.metric}},
    }
    caption = f"What all trials together had cost when each ended, and the best value by then.{past.cut}"
    return [Plot("cost", "Best by cost", caption, [dots, line, new], layout, 340)]


def distribution(past: Past) -> list[Plot]:
    """The empirical distribution function of the values."""
    values = sorted(past.values)
    if len(values) < 2:
        return []
    steps = thinned([(value, brief((i + 1) / len(values))) for i, value in enumerate(values)], MOST_TRIALS)
    line = {
        "type": "scatter", "mode": "lines", "x": [value for value, _ in steps], "y": [share for _, share in steps],
        "line": {"color": "--accent", "width": 2, "shape": "hv"}, "fill": "tozeroy", "fillcolor": "--wash",
        "hovertemplate": "%{y:.0%} of the trials are at or below %{x:.6g}<extra></extra>",
    }  # fmt: skip
    title = {"text": "share of trials at or below"}
    layout = {"xaxis": {"title": {"text": past.metric}}, "yaxis": {"title": title, "tickformat": ".0%"}}
    caption = "The empirical distribution function of all complete trials."
    if past.end is not None:
        caption += f"{past.cut.partition(':')[0]}, and counted there."
    return [Plot("edf", "Distribution of values", caption, [line], layout)]


def predictions(past: Past) -> list[Plot]:
    """What the surrogate expected of each trial before it ran, and what was observed."""
    predicted: list[Trial] = []
    expected: list[float] = []
    spreads: list[float] = []
    for trial in past.drawn(past.merged.complete):
        mean, std = (finite(trial.notes.get(key)) for key in ("predicted_mean", "predicted_std"))
        if math.isfinite(mean):
            predicted.append(trial)
            expected.append(past.shown(mean if past.end is None else min(mean, past.end)))
            spreads.append(brief(min(std, MOST_DRAWN)) if std >= 0 else 0.0)
    if len(predicted) < 3:
        return []
    whiskers = {"type": "data", "array": spreads, "color": "--line", "thickness": 1, "width": 0}
    dots = past.points(predicted, expected, {"color": "--accent", "opacity": 0.75}, error_x=whiskers)
    ends = [min(expected + dots["y"]), max(expected + dots["y"])]
    same = {
        "type": "scatter", "mode": "lines", "x": ends, "y": ends, "line": {"color": "--dim", "dash": "dot", "width": 1},
        "showlegend": False, "hoverinfo": "skip",
    }  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": f"expected {past.metric}"}},
        "yaxis": {"title": {"text": f"observed {past.metric}"}},
    }
    caption = (
        "What the surrogate expected before each trial, with its standard deviation, and what came. On the dotted "
    )
    caption += f"line they agree.{past.cut}"
    return [Plot("predictions", "Predicted against observed", caption, [same, dots], layout)]


def fidelity_spent(past: Past) -> list[Plot]:
    """The fidelity spent by all trials together; a trial that resumes from another counts what it added."""
    reached = {trial.number: trial.fidelity or 0.0 for trial in past.history}
    ended = sorted((t for t in past.history if t.end is not None and t.fidelity is not None), key=lambda t: t.end or 0)
    if not ended or past.history.max_fidelity is None:
        return []
    had = [0.0 if t.resumed is None else reached.get(t.resumed, 0.0) for t in ended]
    added = [max(reached[trial.number] - before, 0.0) for trial, before in zip(ended, had, strict=True)]
    points = thinned(list(zip((t.end or 0 for t in ended), accumulate(added), strict=True)), MOST_TRIALS)
    line = {
        "type": "scatter", "mode": "lines", "x": [moment(int(end)) for end, _ in points],
        "y": [brief(total) for _, total in points], "fill": "tozeroy", "fillcolor": "--wash",
        "line": {"color": "--accent", "width": 2, "shape": "hv"},
        "hovertemplate": "%{x}<br>%{y:.6g}<extra></extra>",
    }  # fmt: skip
    unit = plotly_text(fidelity_name(past.spec))
    layout = {"xaxis": {"title": {"text": "time (UTC)"}}, "yaxis": {"title": {"text": f"{unit} spent"}}}
    caption = "By all ended trials together; promotions count what they added."
    return [Plot("fidelity", "Fidelity spent", caption, [line], layout)]

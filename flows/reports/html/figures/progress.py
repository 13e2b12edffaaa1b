"""How the search went: values by trial, their distribution, and what the surrogate expected."""

from __future__ import annotations

import math
from itertools import accumulate

from hpo_core.history.history import continues
from hpo_core.history.trial import Trial
from hpo_flows.reports.html.figures.axes import brief, plotly_text
from hpo_flows.reports.html.figures.past import MOST_DRAWN, Past, Plot, finite, incumbents, moment
from hpo_flows.reports.text import fidelity_name


def optimisation_history(past: Past) -> list[Plot]:
    """Every complete trial's value, and the incumbent's, by trial number."""
    complete = past.merged.complete
    if not complete or past.spec.metrics:
        return []
    line = incumbents(past.history)
    leaders = list({trial.number: trial for trial in line}.values())
    highest = past.history.max_fidelity
    first_shown = sorted(complete, key=past.beyond)  # a legend takes its symbol from the first point
    full = [trial for trial in first_shown if trial.fidelity == highest]
    rest = [trial for trial in first_shown if trial.fidelity != highest]
    leaders.sort(key=past.beyond)
    traces = [
        past.points(full, [t.number for t in full], {"color": "--mute"}, name="trial", showlegend=True),
        {
            "type": "scatter", "mode": "lines", "name": "best so far", "x": [trial.number for trial in complete],
            "y": [past.value(best) for best in line], "line": {"color": "--accent", "width": 2.5, "shape": "hv"},
            "hoverinfo": "skip",
        },
        past.points(leaders, [t.number for t in leaders], {"color": "--accent", "size": 9}, name="new best",
                    showlegend=True),
    ]  # fmt: skip
    if sure := [trial for trial in full if past.error(trial)]:
        bars = {
            "type": "data",
            "array": [past.error(t) for t in sure],
            "color": "--accent",
            "thickness": 1.5,
            "width": 3,
        }
        means = past.points(sure, [t.number for t in sure], {"color": "--accent", "size": 5}, error_y=bars)
        traces.append(means)
    if again := [t for t in past.history.complete if t.repeat_of is not None]:
        marker = {"color": "--mute", "symbol": "diamond-open", "size": 7}
        again.sort(key=past.beyond)
        traces.append(past.points(again, [t.number for t in again], marker, name="trained again", showlegend=True))
    if rest:
        marker = {"color": "--mute", "symbol": "circle-open", "size": 6}
        lower = past.points(rest, [t.number for t in rest], marker, name="lower fidelity", showlegend=True)
        traces.insert(0, lower)
    if failed := past.history.failed:
        reach = max(past.values) - min(past.values)
        floor = brief((max(past.values) + reach / 20) if past.spec.sign > 0 else (min(past.values) - reach / 20))
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "failed",
                "x": [trial.number for trial in failed],
                "y": [floor] * len(failed),
                "customdata": [trial.number for trial in failed],
                "marker": {"color": "--bad", "symbol": "x-thin-open", "size": 8, "line": {"width": 2}},
            }
        )
    layout = {"xaxis": {"title": {"text": "trial"}}, "yaxis": {"title": {"text": past.metric}}}
    caption = f"Each configuration's value, and the best so far at the highest fidelity.{past.cut}"
    if again:
        caption += " A configuration that was trained again has the mean, with its standard error."
    return [Plot("history", "Optimization history", caption, traces, layout, 380)]


def distribution(past: Past) -> list[Plot]:
    """The empirical distribution function of the values."""
    values = sorted(past.values)
    if len(values) < 2:
        return []
    steps = [brief((i + 1) / len(values)) for i in range(len(values))]
    line = {
        "type": "scatter", "mode": "lines", "x": values, "y": steps,
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
    told: list[Trial] = []
    expected: list[float] = []
    spreads: list[float] = []
    for trial in past.merged.complete:
        mean, std = (finite(trial.notes.get(key)) for key in ("predicted_mean", "predicted_std"))
        if math.isfinite(mean):
            told.append(trial)
            expected.append(past.shown(mean if past.end is None else min(mean, past.end)))
            spreads.append(brief(min(std, MOST_DRAWN)) if std >= 0 else 0.0)
    if len(told) < 3:
        return []
    whiskers = {"type": "data", "array": spreads, "color": "--line", "thickness": 1, "width": 0}
    dots = past.points(told, expected, {"color": "--accent", "opacity": 0.75}, error_x=whiskers)
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
    had = [reached.get(t.parent, 0.0) if t.parent is not None and continues(t) else 0.0 for t in ended]
    added = [max(reached[trial.number] - before, 0.0) for trial, before in zip(ended, had, strict=True)]
    line = {
        "type": "scatter", "mode": "lines", "x": [moment(trial.end or 0) for trial in ended],
        "y": [brief(total) for total in accumulate(added)], "fill": "tozeroy", "fillcolor": "--wash",
        "line": {"color": "--accent", "width": 2, "shape": "hv"},
        "hovertemplate": "%{x}<br>%{y:.6g}<extra></extra>",
    }  # fmt: skip
    unit = plotly_text(fidelity_name(past.spec))
    layout = {"xaxis": {"title": {"text": "time (UTC)"}}, "yaxis": {"title": {"text": f"{unit} spent"}}}
    caption = "By all ended trials together; promotions count what they added."
    return [Plot("fidelity", "Fidelity spent", caption, [line], layout)]

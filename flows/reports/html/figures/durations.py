"""Where the time went, and what else the objective measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import rankdata

from hpo_core.history.trial import HYPERGRADIENT, HYPERGRADIENT_NORM, Trial, TrialState
from hpo_flows.reports.html.figures.axes import brief, plotly_text
from hpo_flows.reports.html.figures.past import MOST_DRAWN, Past, Plot, moment

MOST_METRICS = 9

FEWEST_MEASURED = 3
"""A metric that fewer complete trials have is not drawn."""


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


def timeline(past: Past) -> list[Plot]:
    """Which trial each slot of each flow trained when; gaps are idle times."""
    trials = [trial for trial in past.latest if trial.start]
    if not trials:
        return []
    last = "" if past.all_drawn else f" The last {len(past.latest):,} trials are drawn."
    where = lanes(trials)
    order = sorted(set(where.values()))
    row = {lane: i for i, lane in enumerate(order)}
    several = len({flow for flow, _ in order}) > 1
    labels = [f"{flow}: slot {slot}" if several else f"slot {slot}" for flow, slot in order]
    rows = {trial.number: row[where[trial.number]] for trial in trials}
    states = (TrialState.COMPLETE, TrialState.FAILED, TrialState.RUNNING)
    traces = [_bars(past, trials, state, rows) for state in states if any(trial.state is state for trial in trials)]
    ticks = list(range(len(order)))[:: max(1, len(order) // 30)]
    layout = {
        "barmode": "overlay", "xaxis": {"type": "date", "title": {"text": "time (UTC)"}},
        "yaxis": {
            "autorange": "reversed", "tickmode": "array", "tickvals": ticks, "ticktext": [labels[i] for i in ticks],
            "showgrid": False,
        },
    }  # fmt: skip
    caption = "A row is a slot" + (" of a flow" if several else "") + "; gaps are time without training. The more "
    caption += f"a trial stands out, the better it is.{last}"
    height = min(130 + 26 * len(order), 640)
    return [Plot("timeline", "Timeline", caption, traces, layout, height, wide=True)]


def _bars(past: Past, trials: Sequence[Trial], state: TrialState, rows: Mapping[int, int]) -> dict[str, Any]:
    """A bar for each trial of one state, from its start to its end, in its row."""
    now = max(trial.end or trial.start for trial in trials)
    here = [trial for trial in trials if trial.state is state]
    marker: dict[str, Any] = {"line": {"color": "--card", "width": 1 if len(trials) < 300 else 0}}
    if state is TrialState.COMPLETE:
        marker |= past.colours(here)
    else:
        marker["color"] = "--bad" if state is TrialState.FAILED else "--busy"
    return {
        "type": "bar",
        "orientation": "h",
        "name": state.value,
        "base": [moment(trial.start) for trial in here],
        "x": [max((trial.end or now) - trial.start, 1) for trial in here],
        "y": [rows[trial.number] for trial in here],
        "width": 0.72,
        "marker": marker,
        "customdata": [trial.number for trial in here],
        "showlegend": state is not TrialState.COMPLETE,
    }


def durations(past: Past) -> list[Plot]:
    """The value of each complete trial against the time that it took."""
    timed = [
        (trial, seconds) for trial in past.drawn(past.history.complete) if (seconds := past.seconds(trial)) is not None
    ]
    if len(timed) < 2:
        return []
    longest = max(seconds for _, seconds in timed)
    unit, divisor = next(
        (unit, each)
        for unit, each in (("hours", 3600), ("minutes", 60), ("seconds", 1))
        if longest > 2 * each or each == 1
    )
    trials = [trial for trial, _ in timed]
    trace = past.points(trials, [brief(s / divisor) for _, s in timed], {"color": "--accent", "opacity": 0.7})
    layout = {
        "xaxis": {"title": {"text": unit}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": past.metric}},
    }
    caption = f"The value of each complete trial by its duration.{past.cut}"
    return [Plot("durations", "Is longer better?", caption, [trace], layout)]


def other_metrics(past: Past) -> list[Plot]:
    """The study's metric against each other one that the objective logged, a plot for each."""
    complete = past.merged.complete
    names = {name for trial in complete for name in trial.metrics}
    measured: list[tuple[str, list[Trial]]] = []
    for name in sorted(names - past.own):
        here = [trial for trial in complete if math.isfinite(trial.metrics.get(name, math.nan))]
        varies = len({trial.metrics[name] for trial in here}) > 1
        if len(here) >= FEWEST_MEASURED and varies and not name.startswith((HYPERGRADIENT, HYPERGRADIENT_NORM)):
            measured.append((name, here))
    measured.sort(key=lambda each: -len(each[1]))
    found = []
    for i, (name, here) in enumerate(measured[:MOST_METRICS]):
        drawn = past.drawn(here)
        x = [brief(min(max(trial.metrics[name], -MOST_DRAWN), MOST_DRAWN)) for trial in drawn]
        trace = past.points(drawn, x, {"color": "--accent", "opacity": 0.7, "size": 6})
        layout = {"xaxis": {"title": {"text": plotly_text(name, 32)}}, "yaxis": {"title": {"text": past.metric}}}
        caption = _agreement([trial.metrics[name] for trial in here], [past.spec.sign * (t.loss or 0) for t in here])
        found.append(Plot(f"metric-{i}", name, caption, [trace], layout, 240))
    return found


def _agreement(x: Sequence[float], y: Sequence[float]) -> str:
    """Spearman's rank correlation, as a caption; nothing if one side is constant."""
    a, b = rankdata(x), rankdata(y)
    if a.min() == a.max() or b.min() == b.max():
        return ""
    a, b = a - a.mean(), b - b.mean()
    return f"rank correlation {(a @ b) / math.sqrt((a @ a) * (b @ b)):+.2f}"

"""Writes the report as one self-contained HTML page."""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

from hpo_core.history.trial import HYPERGRADIENT, HYPERGRADIENT_NORM, Trial
from hpo_core.space.parameters import Float, Int
from hpo_flows.reports.html import cards
from hpo_flows.reports.html.cards import card
from hpo_flows.reports.html.decisions import champion_card, choice_card, confirm_card
from hpo_flows.reports.html.figures import plots, plots_by_metric
from hpo_flows.reports.html.figures.parameters import MOST_DOTS
from hpo_flows.reports.html.figures.past import Past, Plot, finite
from hpo_flows.reports.html.parallel import PARALLEL
from hpo_flows.reports.html.place import QUERY, Place
from hpo_flows.reports.html.script import SCRIPT
from hpo_flows.reports.html.style import STYLE
from hpo_flows.reports.text import fidelity_name, metric_values

HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
"""

TOOLS = """<div class="tools">
<input id="words" type="search" aria-label="Filter" placeholder="{example}">
<select id="kind" aria-label="State"><option value="">all states</option><option>complete</option>
{front}<option value="early">stopped early</option><option>failed</option><option>running</option></select>
<button id="chosen" hidden></button><button id="before">previous</button><button id="after">next</button>
<span id="count"></span></div>
<div class="table" id="table"><table><thead><tr></tr></thead><tbody></tbody></table></div>"""

PICKS = '<div class="picks" id="picks"></div>'
"""The place of the trials that are picked to have their curves stand out."""

NO_SCRIPT = "<noscript><p>The plots and the table of all trials need JavaScript.</p></noscript>"

MOST_METRICS = 12
"""How many other metrics have a column in the table; all of them are shown with each trial."""

NOTES = ("strategy", "why", "picked", "predicted_mean", "predicted_std", "acquisition", "retry_of")
"""What is shown of the notes of a proposal."""

MOST_REASON = 2_000


@cache
def plotly_script() -> str:
    """The library's source, compressed and as text; about 2 MB."""
    source = (files("plotly") / "package_data" / "plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(source, mtime=0)).decode()


def report_page(past: Past, place: Place | None, written: str) -> str:
    """The whole report. Opens from a file and without a network.

    Args:
        past: The study.
        place: Where the study is in MLflow, for links.
        written: When the report was made, as shown to its readers.
    """
    drawn, by_metric = plots(past), plots_by_metric(past)
    sections = _sections(past, place, drawn, by_metric)
    tabs = "".join(f'<button data-to="{name.lower()}">{name}</button>' for name in sections)
    shown = [plot for each in (drawn, *(each for _, each in by_metric)) for made in each.values() for plot in made]
    parts = [
        HEAD.format(title=escape(f"{past.spec.name}: report"), style=STYLE),
        f"<nav><div>{tabs}</div></nav><main>",
        cards.header(past, place, written),
        NO_SCRIPT,
        cards.facts(past),
        cards.to_know(past),
        *(f'<h2 id="{name.lower()}">{name}</h2>{body}' for name, body in sections.items()),
        "<footer>Click a point or a row to see its trial. The camera above a plot saves it as a picture.</footer>",
        "</main><dialog></dialog>",
        f'<script type="text/plain" id="plotly">{plotly_script()}</script>',
        _data(past, place, shown),
        f"<script>{SCRIPT}{PARALLEL}</script>",
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _sections(
    past: Past,
    place: Place | None,
    drawn: Mapping[str, list[Plot]],
    by_metric: Sequence[tuple[Past, dict[str, list[Plot]]]],
) -> dict[str, str]:
    """The sections of the page that have something to show, by their headings.

    Args:
        past, place: As for :func:`report_page`.
        drawn: The plots of the study as a whole, by name.
        by_metric: The plots of one metric at a time.
    """
    single = not past.spec.metrics
    sections = {
        "Search": _grid(
            _plots(drawn["optimisation_history"], 8),
            _plots(drawn["pareto_front"], 8 if len(drawn["pareto_front"]) == 1 else 4),
            cards.best_configuration(past, place),
            _plots(drawn["hypervolume"], 12 if len(drawn["pareto_front"]) == 1 else 8),
            _plots(drawn["best_by_cost"], 12),
            *(_plots(each["learning_curves"], 12, PICKS) for _, each in by_metric),
        ),
        "Winner": _grid(confirm_card(past), choice_card(past), champion_card(past)),
        "Parameters": _grid(
            *map(cards.importance_card, past.views),
            *map(cards.deciding_card, past.views),
            cards.space_card(past),
            _plots(drawn["parallel_coordinates"], 12),
            *(
                _small(_titled("One at a time", view), _slices_caption(view), each["slices"])
                + _small(_titled("Two at a time", view), _pairs_caption(), each["interplay"])
                for view, each in by_metric
            ),
        ),
        "Time": _grid(
            cards.time_card(past),
            *(_plots(each["durations"], 6) for _, each in by_metric),
            _plots(drawn["timeline"], 12),
            _plots(drawn["fidelity_spent"], 12),
        ),
        "Metrics": _grid(
            *(
                _small(_titled("Other metrics", view), _other_caption(view), each["other_metrics"])
                + _plots([*each["predictions"], *each["distribution"]], 6 if each["predictions"] or not single else 12)
                for view, each in by_metric
            ),
        ),
        "Failures": _grid(cards.failures_card(past)),
        "Trials": _grid(card("All trials", _tools(past), span=12)),
    }
    return {name: body for name, body in sections.items() if body}


def _grid(*made: str) -> str:
    body = "".join(made)
    return f'<div class="grid">{body}</div>' if body else ""


def _place(plot: Plot) -> str:
    least = f";min-width:{plot.least}px" if plot.least else ""
    return f'<div class="plot" id="{escape(plot.name)}" style="height:{plot.height}px{least}"></div>'


def _plots(drawn: Sequence[Plot], span: int, above: str = "") -> str:
    made = []
    for plot in drawn:
        body = f'<div class="scroll">{_place(plot)}</div>' if plot.least else _place(plot)
        made.append(card(plot.title, above + body, plot.caption, span=span))
    return "".join(made)


def _small(title: str, caption: str, drawn: Sequence[Plot]) -> str:
    """A card of small plots, side by side as far as there is room."""
    made = []
    for plot in drawn:
        below = f"<figcaption>{escape(plot.caption)}</figcaption>" if plot.caption else ""
        made.append(f"<figure>{below}{_place(plot)}</figure>")
    return card(title, f'<div class="small">{"".join(made)}</div>', caption, span=12) if made else ""


def _titled(title: str, view: Past) -> str:
    """The title of a card; with several metrics, with the one that it is about."""
    return title if view.whole is None else f"{title}: {view.spec.metric}"


def _other_caption(view: Past) -> str:
    which = "the study's metric" if view.whole is None else view.spec.metric
    return f"What else the objective measured, against {which}."


def _tools(past: Past) -> str:
    front = '<option value="front">on the front</option>' if past.spec.metrics else ""
    return TOOLS.format(example=escape(_example(past)), front=front)


def _slices_caption(past: Past) -> str:
    first = "the most important first; " if past.reliable is not None else ""
    colours = "the stronger the colour, the later the trial; the ring is the best."
    return f"{past.spec.metric} by each parameter alone, {first}{colours}{past.cut}"


def _pairs_caption() -> str:
    return (
        "What a forest expects of pairs of the most important parameters, averaged over all others; the stronger the "
        f"colour, the better. Dots are the best {MOST_DOTS} trials; between options nothing is drawn."
    )


def _example(past: Past) -> str:
    """An example of what the filter understands."""
    numeric = [name for name in past.names if isinstance(past.spec.search_space.parameters[name], Float | Int)]
    if not numeric or " " in numeric[0] or not past.best or numeric[0] not in past.best[0].config:
        return "Filter: any text"
    return f"Filter: any text, or {numeric[0]}<{past.best[0].config[numeric[0]]:.2g}"


def _data(past: Past, place: Place | None, shown: Sequence[Plot]) -> str:
    """All that the script needs, as JSON, escaped so that no text can end the script element."""
    spec, history = past.spec, past.history
    names = {
        name for trial in history for name in trial.metrics if not name.startswith((HYPERGRADIENT, HYPERGRADIENT_NORM))
    }
    data = {
        "objectives": [{"name": each.metric, "minimize": each.sign > 0} for each in spec.objectives],
        "fidelity": fidelity_name(spec),
        "best": [trial.number for trial in history.front],
        "address": "" if place is None else place.address,
        "query": QUERY,
        "names": list(past.names),
        "numeric": [n for n in past.names if isinstance(spec.search_space.parameters[n], Float | Int)],
        "metrics": sorted(names - past.own)[:MOST_METRICS],
        "trials": [_trial(past, trial) for trial in past.drawn(history)],
        "total": len(history),
        "plots": [
            {"name": plot.name, "height": plot.height, "data": plot.data, "layout": plot.layout} for plot in shown
        ],
    }
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, default=float)
    return f'<script type="application/json" id="data">{text.replace("<", chr(92) + "u003c")}</script>'


def _signed(noted: object, sign: int) -> float | str:
    """A note's number in the metric's own direction; any other note as text."""
    value = finite(noted)
    return str(noted) if math.isnan(value) else sign * value


def _trial(past: Past, trial: Trial) -> dict[str, Any]:
    notes = {key: trial.notes[key] for key in NOTES if key in trial.notes}
    for i, each in enumerate(past.spec.objectives):
        ending, name = f"_{i + 1}" if i else "", f" {each.metric}" if past.spec.metrics else ""
        for key, sign in (("predicted_mean", each.sign), ("predicted_std", 1)):
            notes.pop(key, None)
            if (noted := trial.notes.get(f"{key}{ending}")) is not None:
                notes[f"{key}{name}"] = _signed(noted, sign)
    if "acquisition" in notes:
        notes["acquisition"] = _signed(notes["acquisition"], 1)
    return {
        "n": trial.number,
        "s": trial.state.value,
        "v": list(metric_values(past.spec, trial).values()) or None,
        "f": trial.fidelity,
        "t": past.seconds(trial),
        "at": trial.start,
        "p": trial.resumed,
        "e": trial.stopped_early,
        "why": (trial.reason or (trial.proposed if trial.repeat_of is not None else ""))[:MOST_REASON],
        "run": trial.run_id,
        "c": dict(trial.config),
        "m": {name: value if math.isfinite(value) else str(value) for name, value in trial.metrics.items()},
        "notes": notes,
    }

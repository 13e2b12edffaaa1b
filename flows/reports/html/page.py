"""Writes the report as one self-contained HTML page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

from hpo_core.history.history import History
from hpo_core.study.spec import StudySpec
from hpo_flows.reports.html.figures import Plot
from hpo_flows.reports.text import metric_value, number, ranked, show

BEST = 10

STYLE = """
:root { color-scheme: light dark; --back: #ffffff; --card: #f6f7f9; --ink: #1c2430; --dim: #5d6675; --line: #d9dde3; }
@media (prefers-color-scheme: dark) {
  :root { --back: #14181e; --card: #1c222a; --ink: #e4e8ee; --dim: #9aa4b2; --line: #39424e; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 1rem; background: var(--back); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: 0.3rem 0; } h2 { font-size: 1.1rem; margin: 0; }
p { color: var(--dim); margin: 0.3rem 0 0.8rem; }
.facts { display: flex; flex-wrap: wrap; gap: 0.6rem; margin: 0.8rem 0; }
.facts div { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 0.5rem 0.9rem; }
.facts b { display: block; font-size: 1.2rem; } .facts span { color: var(--dim); font-size: 0.85rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 0.9rem;
  margin: 0 0 1rem; min-width: 0; }
.grid { display: grid; gap: 0 1rem; grid-template-columns: repeat(2, minmax(0, 1fr));
  grid-auto-flow: dense; }
.wide { grid-column: 1 / -1; overflow-x: auto; } #parallel, #slices { min-width: 620px; }
 .scroll { overflow-x: auto; } .plot { width: 100%; min-height: 280px; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; }
th, td { text-align: left; padding: 0.25rem 0.6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
@media (max-width: 760px) { .grid { grid-template-columns: minmax(0, 1fr); } body { padding: 0.5rem; } }
"""

SCRIPT = """
const plots = JSON.parse(document.getElementById("plots").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
function themed(layout) {
  const css = getComputedStyle(document.documentElement), of = name => css.getPropertyValue(name).trim();
  const themed = Object.assign({}, layout, { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: of("--ink"), family: "system-ui, sans-serif", size: 12 }, autosize: true });
  for (const axis of Object.keys(layout).filter(key => /^[xy]axis/.test(key)).concat("xaxis", "yaxis"))
    themed[axis] = Object.assign({ automargin: true }, layout[axis], { gridcolor: of("--line"),
      zerolinecolor: of("--line"), linecolor: of("--line") });
  return themed;
}
function draw() {
  for (const plot of plots) {
    const place = document.getElementById(plot.name);
    Plotly.react(place, plot.data, themed(plot.layout), { responsive: true, displaylogo: false })
      .then(() => { place.dataset.drawn = "yes"; });
  }
}
draw();
dark.addEventListener("change", draw);
"""

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

WIDE = {"history", "parallel", "slices", "timeline"}


def plotly_script() -> str:
    """The library's source; about 5 MB."""
    return (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def report_page(spec: StudySpec, history: History, plots: Sequence[Plot], written: str) -> str:
    """The whole report. Opens from a file and without a network.

    Args:
        spec, history: The study.
        plots: Its plots.
        written: When the report was made, as shown to its readers.
    """
    parts = [
        _head(f"{spec.name}: report"),
        f"<h1>{escape(spec.name)}</h1>",
        f"<p>{escape(spec.direction)} {escape(spec.metric)} of {escape(spec.objective)} by "
        f"{escape(spec.strategy.name)}. Written {escape(written)}.</p>",
        _facts(spec, history),
        _table(spec, history),
        '<div class="grid">',
        *(_section(plot) for plot in plots),
        "</div>",
        f"<script>{plotly_script()}</script>",
        _data(plots),
        f"<script>{SCRIPT}</script>",
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _head(title: str) -> str:
    return HEAD.format(title=escape(title), style=STYLE)


def _section(plot: Plot) -> str:
    wide = ' class="wide"' if plot.name in WIDE else ""
    height = plot.figure.layout.height or 380
    return (
        f"<section{wide}><h2>{escape(plot.title)}</h2><p>{escape(plot.caption)}</p>"
        f'<div class="plot" id="{escape(plot.name)}" style="height:{height:g}px"></div></section>'
    )


def _data(plots: Sequence[Plot]) -> str:
    """The figures as JSON, escaped so that no text can end the script element."""
    data: list[dict[str, Any]] = []
    for plot in plots:
        figure = json.loads(plot.figure.to_json())
        figure["layout"].pop("template", None)
        data.append({"name": plot.name, "data": figure["data"], "layout": figure["layout"]})
    text = json.dumps(data).replace("<", "\\u003c")
    return f'<script type="application/json" id="plots">{text}</script>'


def _facts(spec: StudySpec, history: History) -> str:
    best = history.incumbent
    facts = [
        ("trials complete", str(len(history.complete))),
        ("failed", str(len(history.failed))),
        ("running", str(len(history.running))),
        (f"best {spec.metric}", number(metric_value(spec, best))),
        ("incumbent", "-" if best is None else f"trial {best.number}"),
    ]
    return (
        '<div class="facts">'
        + "".join(f"<div><b>{escape(b)}</b><span>{escape(a)}</span></div>" for a, b in facts)
        + "</div>"
    )


def _table(spec: StudySpec, history: History) -> str:
    names = spec.search_space.free
    head = "".join(f"<th>{escape(cell)}</th>" for cell in ("trial", spec.metric, *names))
    rows = []
    for trial in ranked(history)[:BEST]:
        cells = [str(trial.number), number(metric_value(spec, trial))]
        cells += [show(trial.config[name]) if name in trial.config else "" for name in names]
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    table = f"<table><tr>{head}</tr>{''.join(rows)}</table>"
    return f'<section><h2>Best trials</h2><div class="scroll">{table}</div></section>'

"""Renders a plotly figure as PNG with matplotlib: plotly's own export needs a browser, which a server lacks.

It only supports the plotly traces that :mod:`hpo_flows.reports.html.figures` makes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from hpo_flows.reports.html.figures import Plot

WIDTH, DOTS_PER_INCH, PIXELS_PER_INCH = 8.0, 100, 90

MARKERS = {"x": "x", "line-ns-open": "|"}


def png(plot: Plot) -> bytes:
    """The plot as a picture with its title, 800 pixels wide."""
    figure = plot.figure.to_plotly_json()
    layout, traces = figure["layout"], figure["data"]
    picture = Figure((WIDTH, (layout.get("height") or 400) / PIXELS_PER_INCH), DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(picture)
    picture.suptitle(plot.title)
    names = sorted({trace.get("xaxis", "x") for trace in traces}, key=lambda name: (len(name), name))
    columns = min(len(names), 3)
    for i, name in enumerate(names):
        axes = picture.add_subplot(-(-len(names) // columns), columns, i + 1)
        here = [trace for trace in traces if trace.get("xaxis", "x") == name]
        for trace in here:
            DRAW[trace["type"]](axes, trace, layout)
        if here[0]["type"] != "parcoords":
            _label(axes, layout, name[1:], first=i % columns == 0)
        if any(trace.get("name") for trace in here):
            axes.legend(loc="best", fontsize=8)
    out = io.BytesIO()
    picture.savefig(out, format="png")
    return out.getvalue()


def _colors() -> Colormap:
    from matplotlib import colormaps

    return colormaps["viridis"]


def _plain(text: str, most: int = 80) -> str:
    """Escape a text for matplotlib, which reads anything between two dollar signs as a formula."""
    return text.replace("&lt;", "<").replace("&amp;", "&")[:most].replace("$", r"\$")


def _label(axes: Axes, layout: Mapping[str, Any], suffix: str, *, first: bool) -> None:
    for side, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        wanted = layout.get(f"{side}axis{suffix}", {})
        title = wanted.get("title", {}).get("text", "") if side == "x" or first else ""
        axis.set_label_text(_plain(title))
        if "tickvals" in wanted:
            axis.set_ticks(list(wanted["tickvals"]), [_plain(text, 20) for text in wanted["ticktext"]])
        if wanted.get("type") == "log":
            (axes.set_xscale if side == "x" else axes.set_yscale)("log")
        if wanted.get("type") == "date":
            locator = AutoDateLocator(tz=UTC)
            axis.set_major_locator(locator)
            axis.set_major_formatter(ConciseDateFormatter(locator, tz=UTC))
        if wanted.get("autorange") == "reversed":
            axes.invert_yaxis()
    axes.grid(alpha=0.25)


def _numbers(values: Any, layout: Mapping[str, Any], side: str) -> list[Any]:
    axis = layout.get(f"{side}axis", {})
    if axis.get("type") == "date":
        return [math.nan if v is None else datetime.fromisoformat(v).replace(tzinfo=UTC) for v in values]
    if "categoryarray" in axis:
        places = {name: i for i, name in enumerate(axis["categoryarray"])}
        return [math.nan if v is None else places[v] for v in values]
    return [math.nan if value is None else value for value in values]


def _scatter(axes: Axes, trace: Mapping[str, Any], layout: Mapping[str, Any]) -> None:
    x, y = _numbers(trace["x"], layout, "x"), _numbers(trace["y"], layout, "y")
    marker, line = trace.get("marker", {}), trace.get("line", {})
    color = marker.get("color") or line.get("color")
    label = trace.get("name")
    if "categoryarray" in layout.get("yaxis", {}):
        for i in range(0, len(x), 3):
            axes.barh(y[i], x[i + 1] - x[i], left=x[i], height=0.6, color=color, label=label if i == 0 else None,
                      edgecolor="white", linewidth=0.5)  # fmt: skip
        names = layout["yaxis"]["categoryarray"]
        axes.set_yticks(range(len(names)), names)
        return
    if "error_x" in trace:
        axes.errorbar(x, y, xerr=trace["error_x"]["array"], fmt="none", ecolor=trace["error_x"]["color"], alpha=0.6)
    if "lines" in trace["mode"]:
        style = "steps-post" if line.get("shape") == "hv" else "default"
        dash = ":" if line.get("dash") else "-"
        axes.plot(x, y, dash, color=line.get("color"), linewidth=line.get("width", 1.5), drawstyle=style, label=label)
        label = None
    if "markers" in trace["mode"]:
        edge = None if marker.get("symbol") == "x" else marker.get("line", {}).get("color", "none")
        axes.scatter(x, y, c=color, s=(marker.get("size") or 6) ** 2 / 1.6, label=label,
                     cmap=None if isinstance(color, str | None) else "viridis",
                     marker=MARKERS.get(marker.get("symbol", ""), "o"), edgecolors=edge,
                     alpha=marker.get("opacity", 1.0))  # fmt: skip


def _bar(axes: Axes, trace: Mapping[str, Any], layout: Mapping[str, Any]) -> None:
    names = [_plain(name) for name in trace["y"]]
    axes.barh(range(len(names)), trace["x"], xerr=trace["error_x"]["array"], color=trace["marker"]["color"])
    axes.set_yticks(range(len(names)), names)


def _contour(axes: Axes, trace: Mapping[str, Any], layout: Mapping[str, Any]) -> None:
    colors = _colors().reversed() if trace["reversescale"] else _colors()
    z = np.array(trace["z"])
    if min(z.shape) < 2:
        return
    drawn = axes.contourf(trace["x"], trace["y"], z, levels=14, cmap=colors)
    axes.figure.colorbar(drawn, ax=axes, label=_plain(trace["colorbar"]["title"]["text"]))


def _parcoords(axes: Axes, trace: Mapping[str, Any], layout: Mapping[str, Any]) -> None:
    scaled = []
    for dimension in trace["dimensions"]:
        values = np.array(dimension["values"], dtype=float)
        low, high = dimension.get("range", (values.min(), values.max()))
        scaled.append((values - low) / ((high - low) or 1.0))
    colors = _colors().reversed() if trace["line"]["reversescale"] else _colors()
    shade = colors(scaled[-1])
    for row, color in zip(np.array(scaled).T, shade, strict=True):
        axes.plot(row, color=color, linewidth=0.8, alpha=0.7)
    axes.set_xticks(range(len(scaled)), [_plain(d["label"]) for d in trace["dimensions"]], rotation=20, ha="right")
    axes.set_yticks([])
    axes.grid(axis="x")


DRAW = {"scatter": _scatter, "bar": _bar, "contour": _contour, "parcoords": _parcoords}

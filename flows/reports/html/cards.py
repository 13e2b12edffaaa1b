"""The parts of the report that are not plots, as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from statistics import median
from typing import Any

import numpy as np

from hpo_core.history.trial import Trial
from hpo_core.space.configuration import displayed
from hpo_flows.reports.ending import as_yaml
from hpo_flows.reports.front import COMPROMISE, standing_line
from hpo_flows.reports.html.figures.axes import short
from hpo_flows.reports.html.figures.importance import FEWEST, METHOD
from hpo_flows.reports.html.figures.past import BEST, Past
from hpo_flows.reports.html.findings import edges, failures, remarks, status, time_spent
from hpo_flows.reports.html.place import Place
from hpo_flows.reports.ped_anova import TENTH, Deciding, TooFew, deciding
from hpo_flows.reports.text import (
    duration,
    fidelity_name,
    mean_text,
    metric_value,
    number,
    outcome_text,
    repeats_lines,
    spread_text,
    spreads,
)

DECIDING = (
    "By PED-ANOVA: how differently the values of the best trials are distributed from those of all trials they were "
    "chosen from, as a share of the sum over the parameters. Whiskers hold 90 % of the shares when the trials are "
    "drawn again. A parameter that chance would let differ as much has no bar."
)

BINS = 24

MOST_ROWS = 9
"""More parameters take the full width, in two columns."""

LEAST = 0.005
"""A parameter that matters less has no bar."""

NEXT = 4
"""How many trials are named after the best."""

MOST_NUMBERS = 24
"""How many failed trials of one reason are named."""


def run_link(place: Place | None, run: str, text: str) -> str:
    """A link to a run in MLflow, or its id to copy where MLflow has no address."""
    if not run:
        return ""
    if place is not None and place.address:
        address = escape(place.of(run))
        return f'<a class="link" href="{address}" target="_blank" rel="noopener">{escape(text)}</a>'
    return (
        f'<span class="run">run <code>{escape(run)}</code>'
        f'<button class="copy" data-text="{escape(run)}">copy</button></span>'
    )


def card(title: str, body: str, caption: str = "", span: int = 6) -> str:
    """A card that spans ``span`` of twelve columns on a wide screen."""
    shown = f"<p>{escape(caption)}</p>" if caption else ""
    return f'<section class="card s{span}"><h3>{escape(title)}</h3>{shown}{body}</section>'


def took(seconds: float) -> str:
    """
    >>> took(0.034), took(3.21), took(75.0)
    ('34 ms', '3.2 s', '1 min 15 s')
    """
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)


def header(past: Past, place: Place | None, written: str) -> str:
    """The name of the study, whether it goes on, and what it does."""
    spec, (word, why) = past.spec, status(past)
    link = run_link(place, place.run, "Open in MLflow") if place is not None else ""
    of = f" of {escape(spec.objective)}" if spec.objective else ""
    goal = ", ".join(f"{each.direction} <b>{escape(each.metric)}</b>" for each in spec.objectives)
    words = f"{goal}{of} by {escape(spec.strategy.name)}"
    return (
        f'<header><div class="title"><h1>{escape(spec.name)}</h1><span class="pill {word}">{word}</span>{link}</div>'
        f"<p>{words}</p><p>{escape(why)}. Written {escape(written)}.</p></header>"
    )


def facts(past: Past) -> str:
    """The numbers of a study at a glance."""
    spec, history, best, spent = past.spec, past.history, past.history.incumbent, time_spent(past)
    ended = spec.ended(history)
    total = spec.stop.trials
    progress = (
        f'<i class="bar"><i style="width:{100 * min(ended / total, 1):.4g}%"></i></i>' if total is not None else ""
    )
    lead = (f"best {spec.metric}", number(metric_value(spec, best)), "" if best is None else f"trial {best.number}")
    if spec.metrics:
        points = f"{len(history.front)} trial{'s' * (len(history.front) != 1)}"
        lead = ("Pareto front", points, f"hypervolume {history.hypervolume:.4g}")
    elif best is not None and past.error(best):
        mean, _, error = mean_text(spec, history, best).partition(" ")
        lead = (lead[0], mean, f"{error}, {best.observations} trainings of trial {best.number}")
    if (winner := past.winner) is not None:
        mean, _, error = spreads(spec, winner)[spec.metric].partition(" ")
        lead = (f"winner's {spec.metric}", mean, f"{error} over its folds, trial {winner.trial.number}")
        if spec.metrics:
            lead = ("winner", f"trial {winner.trial.number}", f"{spread_text(spec, winner)} over its folds")
    tiles = [
        ("lead", *lead),
        ("", "trials ended", f"{ended:,}" + (f" of {total:,}" if total is not None else ""), progress),
        ("bad" if history.failed else "", "failed", str(len(history.failed)), ""),
        ("", "running", str(len(history.running)), ""),
    ]
    if spent is not None:
        side = f"{spent.most} at a time" if spent.most > 1 else "one at a time"
        tiles.append(("", "by the clock", took(spent.elapsed), side))
        if spent.durations:
            tiles.append(("", "a trial takes", took(median(spent.durations)), f"up to {took(spent.durations[-1])}"))
    made = [
        f'<div class="tile {kind}"><span>{escape(name)}</span><b>{escape(value)}</b>'
        f"<small>{note if note.startswith('<i') else escape(note)}</small></div>"
        for kind, name, value, note in tiles
    ]
    return f'<div class="tiles">{"".join(made)}</div>'


def best_configuration(past: Past, place: Place | None) -> str:
    """The configuration of the winner of the final choice, else of the incumbent, to be copied."""
    best = past.winner.trial if past.winner is not None else past.point
    if best is None:
        return card("Best configuration", '<p class="empty">No trial is complete yet.</p>', span=4)
    if past.winner is not None:
        caption = f"Trial {best.number}, the winner: {spread_text(past.spec, past.winner)} over its folds."
    elif past.spec.metrics:
        return _front_card(past, best, place)
    else:
        extent = f" at {fidelity_name(past.spec)} {best.fidelity:g}" if best.fidelity is not None else ""
        caption = f"Trial {best.number}: {past.spec.metric} = {mean_text(past.spec, past.history, best)}{extent}."
        caption += "".join(f" {line[0].upper()}{line[1:]}." for line in repeats_lines(past.spec, past.history)[1:])
    body = _configuration(best, place)
    if past.spec.metrics:
        body += _ends(past)
    elif next_best := [trial for trial in past.best if trial is not best][:NEXT]:
        title = "Next best" if past.winner is None else "Best of the search"
        body += f'<h4>{title}</h4><div class="next">{"".join(_next(past, trial) for trial in next_best)}</div>'
    return card("Best configuration", body, caption, span=4)


def _configuration(best: Trial, place: Place | None) -> str:
    return (
        f'<pre id="best-yaml">{escape(chr(10).join(as_yaml(best.config)))}</pre><div class="row">'
        f'<button class="copy main" data-from="best-yaml">Copy YAML</button>'
        f'<button class="more" data-trial="{best.number}">trial {best.number}</button>'
        f"{run_link(place, best.run_id, 'MLflow')}</div>"
    )


def _front_card(past: Past, best: Trial, place: Place | None) -> str:
    """The point that stands for the front, to be copied, and the best trial in each metric."""
    standing = standing_line(past.spec, past.history.front)
    caption = f"Trial {best.number}, {standing}: {outcome_text(past.spec, best)}."
    title = "Compromise" if standing.startswith(COMPROMISE) else "Preferred"
    return card(title, _configuration(best, place) + _ends(past), caption, span=4)


def _ends(past: Past) -> str:
    ends = "".join(_end(past, i) for i in range(len(past.spec.objectives)))
    return f'<h4>Best in each metric</h4><div class="next">{ends}</div>'


def _end(past: Past, i: int) -> str:
    """The point of the front that is best in the objective at a position."""
    objective, trial = past.spec.objectives[i], min(past.history.front, key=lambda t: (t.outcome[i], t.outcome))
    value = escape(number(objective.sign * trial.outcome[i]))
    name = escape(short(objective.metric, 24))
    return f'<button class="more" data-trial="{trial.number}">{name} <b>{value}</b></button>'


def _next(past: Past, trial: Trial) -> str:
    value = escape(number(metric_value(past.spec, trial)))
    return f'<button class="more" data-trial="{trial.number}">trial {trial.number} <b>{value}</b></button>'


def to_know(past: Past) -> str:
    """What a reader should know first; empty if there is nothing."""
    found = remarks(past)
    items = "".join(f'<li class="{kind}">{escape(text)}</li>' for kind, text in found)
    return f'<ul class="remarks">{items}</ul>' if found else ""


def bar(name: str, length: float, low: float, high: float, text: str, title: str) -> str:
    """A row of a chart of bars: all lengths as shares of the longest; the whisker is from ``low`` to ``high``."""
    return (
        f'<div class="bars" title="{escape(name)}: {escape(title)}">'
        f"<span>{escape(short(name, 34))}</span>"
        f'<i><i style="width:{100 * length:.4g}%"></i>'
        f'<u style="left:{100 * low:.4g}%;width:{100 * (high - low):.4g}%"></u></i>'
        f"<em>{escape(text)}</em></div>"
    )


def unseen_line(names: Sequence[str]) -> str:
    """The parameters without a bar; nothing if all have one."""
    return f'<p class="unseen">No effect seen: {escape(", ".join(names))}.</p>' if names else ""


def importance_card(past: Past) -> str:
    """How much each parameter matters, or why that cannot be said."""
    title, found = "Importance of the parameters", past.importance
    if past.whole is not None:
        title += f" for {past.spec.metric}"
    if found is None:
        varied = len(past.merged.complete) >= FEWEST
        why = "All trials are equally good." if varied else f"It is estimated from {FEWEST} complete trials on."
        return card(title, f'<p class="empty">{why}</p>', span=6)
    explained = f"{max(found.explained, 0):.0%} of the variance of ranks on held-out trials"
    if not found.reliable:
        why = f"Not known yet: the forests explain {explained}, too little to rank parameters by. More trials may help."
        return card(title, f'<p class="empty">{why}</p>', span=6)
    most = max(float((found.mean + found.spread).max()), 1e-12)
    rows, unseen = [], []
    for name, mean, deviation in zip(found.names, found.mean, found.spread, strict=True):
        if mean < LEAST:
            unseen.append(name)
            continue
        low, high = max(mean - deviation, 0.0), mean + deviation
        rows.append(bar(name, mean / most, low / most, high / most, f"{mean:.2f}", f"{mean:.3f} ± {deviation:.3f}"))
    rest = unseen_line(unseen)
    caption = (
        f"By {METHOD}: how far R2 on held-out trials falls when a parameter's values are shuffled; whiskers are the "
        f"standard deviation over splits. The forests explain {explained}."
    )
    many = len(found.names) > MOST_ROWS
    return card(title, f'<div class="rows">{"".join(rows)}</div>{rest}', caption, span=12 if many else 6)


def deciding_card(past: Past) -> str:
    """What decides whether a trial is among the best; nothing for a study of one parameter."""
    space, history = past.spec.search_space, past.history
    if space.dimensions < 2:
        return ""
    parts = []
    for title, region in (("Of all trials", 1.0), ("Of the best tenth", TENTH)):
        found = deciding(space, history, region)
        parts.append(f"<h4>{title}</h4>{_few(found) if isinstance(found, TooFew) else _chart(found)}")
    many = space.dimensions > MOST_ROWS
    return card("What the best trials have in common", "".join(parts), DECIDING, span=12 if many else 6)


def _few(found: TooFew) -> str:
    why = f"It is estimated from {found.needed} complete trials on; there are {found.complete}."
    return f'<p class="empty">{why}</p>'


def _chart(found: Deciding) -> str:
    rows, unseen, most = [], [], max(float(found.high.max()), 1e-12)
    for name, share, low, high, seen in zip(found.names, found.share, found.low, found.high, found.seen, strict=True):
        if seen:
            title = f"{share:.0%}, {low:.0%} to {high:.0%}"
            rows.append(bar(name, share / most, low / most, high / most, f"{share:.0%}", title))
        else:
            unseen.append(name)
    about = f"The best {found.target} of {found.region} trials."
    if not rows:
        return f'<p class="empty">{about} None of the parameters sets them apart more than chance would.</p>'
    return f'<div class="rows">{"".join(rows)}</div><p class="unseen">{escape(about)}</p>{unseen_line(unseen)}'


def space_card(past: Past) -> str:
    """Each parameter's range, where the trials and the best of them lie in it, and whether it is too narrow."""
    at_edge = {edge.name: edge for edge in edges(past)}
    rows = []
    for name in past.names:
        parameter = past.spec.search_space.parameters[name]
        best = past.leaders[0].config if past.leaders else {}
        note = f"<mark>widen: {at_edge[name].side}</mark>" if name in at_edge else ""
        value = escape(displayed(best[name])) if name in best else "-"
        when = "; ".join(f"if {key} is {' or '.join(map(str, values))}" for key, values in parameter.when.items())
        rows.append(
            f'<div class="param"><div><b>{escape(name)}</b><small>{escape(short(_range(parameter), 90))} '
            f"{escape(short(when, 90))}</small></div>{_strip(past, name)}"
            f"<div><b>{value}</b>{note}</div></div>"
        )
    caption = (
        f"Bars: where the trials lie in a range. Marks: the best {min(BEST, len(past.best))}, the tallest the best."
    )
    if past.spec.metrics:
        caption = "Bars: where the trials lie in a range. Marks: the Pareto front, the tallest its compromise."
    body, many = f'<div class="rows">{"".join(rows)}</div>', len(rows) > MOST_ROWS
    alone = len(past.views) % 2 == 0  # beside the importance by each metric
    return card("Search space", body, caption if past.best else "", span=12 if many or alone else 6)


def _range(parameter: Any) -> str:
    if hasattr(parameter, "options"):
        return ", ".join(map(str, parameter.options))
    step = "" if parameter.step is None else f", {'factor' if parameter.log else 'step'} {parameter.step:g}"
    return f"{parameter.low:g} to {parameter.high:g}{', log' if parameter.log else ''}{step}"


def _strip(past: Past, name: str) -> str:
    """A histogram of the complete trials over a parameter's range, with marks for the best of them."""
    parameter = past.spec.search_space.parameters[name]
    places = [parameter.encode(trial.config[name]) for trial in past.best if name in trial.config]
    bins = BINS if parameter.size > BINS else max(int(parameter.size), 1)
    counts, _ = np.histogram(places, bins=bins, range=(0.0, 1.0))
    most = max(int(counts.max()), 1)
    bars = "".join(
        f"M{200 * i / bins + 0.5:.4g} 30v-{24 * int(count) / most:.3g}h{200 / bins - 1:.4g}V30z"
        for i, count in enumerate(counts)
        if count
    )
    marks = ""
    for place, trial in reversed(list(enumerate(past.leaders))):
        if name in trial.config:
            x, y = 4 + 192 * parameter.encode(trial.config[name]), 18 if place else 0
            marks += f'<path class="{"good" if place else "first"}" d="M{x:.4g} {y}V30"/>'
    return (
        f'<svg viewBox="0 0 200 32" preserveAspectRatio="none" role="img" aria-label="{escape(name)}">'
        f'<path class="all" d="{bars}"/><path class="base" d="M0 30.5H200"/>{marks}</svg>'
    )


KINDS = {"trained to the end": "accent", "stopped early": "soft", "failed": "bad", "idle": "line"}


def time_card(past: Past) -> str:
    """Where the time of all slots went; nothing if no trial has ended."""
    spent = time_spent(past)
    total = sum(spent.shares.values()) if spent is not None else 0.0
    if spent is None or not total:
        return ""
    shares = {what: seconds for what, seconds in spent.shares.items() if seconds}
    bar = "".join(
        f'<i class="{KINDS[what]}" style="width:{100 * seconds / total:.4g}%" title="{what}"></i>'
        for what, seconds in shares.items()
    )
    legend = "".join(
        f'<li><i class="{KINDS[what]}"></i>{what}<b>{took(seconds)}</b><em>{seconds / total:.0%}</em></li>'
        for what, seconds in shares.items()
    )
    times = spent.durations
    notes = (
        f'<dl class="pairs"><dt>fastest</dt><dd>{took(times[0])}</dd><dt>median</dt><dd>{took(median(times))}</dd>'
        f"<dt>slowest</dt><dd>{took(times[-1])}</dd></dl>"
        if times
        else ""
    )
    body = f'<div class="stack">{bar}</div><ul class="legend">{legend}</ul>{notes}'
    caption = "The time of all slots together. A slot is idle between its flow's first trial and its last."
    return card("Where the time went", body, caption, span=6)


def failures_card(past: Past) -> str:
    """What failed and why; nothing if nothing did."""
    groups = failures(past)
    if not groups:
        return ""
    rows = []
    for group in groups:
        shared = ", ".join(f"{name} = {displayed(value)}" for name, value in group.shared.items())
        hint = f"<mark>all with {escape(shared)}</mark>" if shared else ""
        rest = len(group.trials) - MOST_NUMBERS
        more = f" and {rest} more" if rest > 0 else ""
        reason = escape(short(group.reason or "no reason is recorded", 400))
        rows.append(
            f'<div class="failure"><b>{len(group.trials)}x</b><div><code>{reason}</code>{hint}'
            f'<div class="row">{_numbers(group.trials[:MOST_NUMBERS])}{more}</div></div></div>'
        )
    failed = len(past.history.failed)
    caption = f"{failed} failed trial{'s' * (failed != 1)} by reason; reasons that differ only in numbers count as one."
    return card("What failed, and why", "".join(rows), caption, span=12)


def _numbers(trials: Sequence[Trial]) -> str:
    return "".join(f'<button class="more" data-trial="{trial.number}">{trial.number}</button>' for trial in trials)

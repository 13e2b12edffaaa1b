"""What followed the search, as cards: what was confirmed, the final choice, the comparison with the champion."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import escape

from hpo_core.base.moments import deviation
from hpo_core.champion.challenge import Challenge
from hpo_core.champion.succession import PROMOTED
from hpo_core.history.trial import Trial
from hpo_core.ledger.store import Version
from hpo_core.ledger.tags import Tag
from hpo_core.selection.final_choice import Choice, Standing
from hpo_core.study.objectives import Objective
from hpo_flows.reports.front import standing_line
from hpo_flows.reports.html.cards import card
from hpo_flows.reports.html.figures.axes import short
from hpo_flows.reports.html.figures.past import Past, finite
from hpo_flows.reports.text import (
    choice_limits_line,
    choice_line,
    mean_text,
    number,
    repeats_lines,
    spread_text,
    test_lines,
    tuning_lines,
    with_error,
)


class Track:
    """A horizontal axis that several rows share; positions are shares of its width."""

    def __init__(self, values: Sequence[float]) -> None:
        sound = [value for value in values if math.isfinite(value)]
        low, high = min(sound, default=0.0), max(sound, default=1.0)
        margin = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
        self.low, self.high = low - margin, high + margin

    def at(self, value: float) -> str:
        share = (value - self.low) / (self.high - self.low)
        return f"{100 * min(max(share, 0.0), 1.0):.4g}%"

    def _span(self, kind: str, low: float, high: float) -> str:
        width = (min(high, self.high) - max(low, self.low)) / (self.high - self.low)
        return f'<u class="{kind}" style="left:{self.at(low)};width:{100 * max(width, 0.0):.4g}%"></u>'

    def row(
        self,
        values: Sequence[tuple[float, str]],
        mean: float = math.nan,
        error: float = math.nan,
        band: tuple[float, float] | None = None,
    ) -> str:
        """Dots with their titles, the mean with its error as a bar, and a band behind them."""
        made = self._span("band", *sorted(band)) if band is not None else ""
        if math.isfinite(mean) and math.isfinite(error):
            made += self._span("error", mean - error, mean + error)
        made += "".join(f'<b style="left:{self.at(value)}" title="{escape(title)}"></b>' for value, title in values)
        if math.isfinite(mean):
            made += f'<s style="left:{self.at(mean)}"></s>'
        return f'<i class="track">{made}</i>'

    def scale(self) -> str:
        """The values at both ends and in the middle."""
        places = (self.low, (self.low + self.high) / 2, self.high)
        return f'<i class="scale">{"".join(f"<small>{escape(number(value))}</small>" for value in places)}</i>'


def confirm_card(past: Past) -> str:
    """The configurations that were trained again, with their single values; nothing without noise."""
    history, spec = past.history, past.spec
    shown = [trial for trial in past.best if trial.observed]
    if not shown or not history.noise.deviation > 0:
        return ""
    track = Track([spec.sign * loss for trial in shown for loss in trial.observed])
    rows = "".join(_confirmed(past, trial, track) for trial in shown)
    head = (
        f'<div class="final head"><span>trial</span><span>in the search</span><span>{escape(spec.metric)} of each '
        "training</span><span>mean ± standard error</span></div>"
    )
    scale = f'<div class="final foot"><span></span><span></span>{track.scale()}<span></span></div>'
    sure, *luck = repeats_lines(spec, history) or [""]
    lines = [f"trial {shown[0].number} has {sure}", *luck, *tuning_lines(spec, history, past.choice)]
    said = " ".join(f"{line[0].upper()}{line[1:]}." for line in lines if sure)
    deviation = f"{history.noise.deviation:.2g}"
    caption = (
        f"One configuration's {spec.metric} differs by {deviation} (standard deviation) from training to training, so "
        "the best were trained again. A dot is a training, the stroke their mean."
    )
    return card("Trained again", f'<p class="said">{escape(said)}</p>{head}{rows}{scale}', caption, span=12)


def _confirmed(past: Past, trial: Trial, track: Track) -> str:
    sign, wins = past.spec.sign, trial is past.history.incumbent
    dots = [(sign * loss, number(sign * loss)) for loss in trial.observed]
    assert trial.loss is not None
    mark = "<mark>best</mark>" if wins else ""
    return (
        f'<div class="final{" wins" if wins else ""}"><span><button class="more" data-trial="{trial.number}">'
        f"trial {trial.number}</button></span><span>{escape(number(sign * trial.observed[0]))}</span>"
        f"{track.row(dots, sign * trial.loss, past.error(trial))}"
        f"<span><span>{escape(mean_text(past.spec, past.history, trial))}</span>{mark}</span></div>"
    )


def choice_card(past: Past) -> str:
    """The finalists and their folds; nothing if the study asks for no final choice, or its search goes on."""
    choice, spec = past.choice, past.spec
    if choice is None or spec.final is None or not choice.standings:
        return ""
    order = sorted(choice.standings, key=lambda s: (s is not choice.winner, bool(s.reason), s.mean, s.trial.number))
    tables = "".join(_folds(past, choice, order, i) for i in range(len(spec.objectives)))
    rule = "the best mean wins"
    if spec.metrics:
        rule = "the means form a new front"
    elif spec.final.rule == "one_standard_error":
        rule = "the simplest within one standard error of the best mean (shaded) wins"
    count = len(choice.standings)
    what = f"The best {count} of the search" if count > 1 else "The best of the search"
    if spec.metrics:
        what = f"{count} points of the search's front" if count > 1 else "The search's front, one point"
    caption = f"{what}, trained again on {spec.final.folds} folds: {rule}. A dot is a fold, the stroke their mean."
    return card("Final choice", f'<p class="said">{escape(_why(past, choice))}</p>{tables}', caption, span=12)


def _folds(past: Past, choice: Choice, order: Sequence[Standing], i: int) -> str:
    """The finalists' folds by one of the study's metrics."""
    spec, objective = past.spec, past.spec.objectives[i]
    sign, views = objective.sign, [standing.by(i) for standing in order]
    best = min((s for s in views if s.losses and not s.reason), key=lambda s: s.mean, default=None)
    near = spec.final is not None and spec.final.rule == "one_standard_error" and choice.decided and best is not None
    band = (sign * best.mean, sign * (best.mean + best.standard_error)) if near and best is not None else None
    track = Track([sign * loss for s in views for loss in s.losses] + list(band or ()))
    marks = {trial.number: "on the front" for trial in choice.front} if spec.metrics else {}
    if choice.winner is not None:
        marks[choice.winner.trial.number] = "winner"
    rows = "".join(_finalist(objective, view, marks.get(view.trial.number, ""), track, band) for view in views)
    head = (
        f'<div class="final head"><span>trial</span><span>in the search</span><span>{escape(objective.metric)} of each '
        "fold</span><span>mean ± standard error</span></div>"
    )
    return f'{head}{rows}<div class="final foot"><span></span><span></span>{track.scale()}<span></span></div>'


def _finalist(
    objective: Objective, standing: Standing, marked: str, track: Track, band: tuple[float, float] | None
) -> str:
    sign, wins = objective.sign, marked == "winner"
    dots = [
        (sign * fold.loss, f"fold {i + 1}: {number(sign * fold.loss)}")
        for i, fold in sorted(standing.folds.items())
        if fold.loss is not None
    ]
    mean = math.nan if standing.reason or not dots else sign * standing.mean
    if standing.reason:
        result = f"<em>{escape(short(standing.reason, 90))}</em>"
    elif dots:
        result = f"<span>{escape(with_error(mean, standing.standard_error))}</span>"
    else:
        result = "<span>-</span>"
    done = "" if standing.done else f"<small>{len(dots)} of {standing.folds_wanted} folds</small>"
    mark = f"<mark>{marked}</mark>" if marked else ""
    searched = number(sign * standing.trial.outcome[0])
    return (
        f'<div class="final{" wins" if wins else ""}"><span><button class="more" data-trial="{standing.trial.number}">'
        f"trial {standing.trial.number}</button></span><span>{escape(searched)}"
        f"</span>{track.row(dots, mean, standing.standard_error, band)}<span>{result}{done}{mark}</span></div>"
    )


def _why(past: Past, choice: Choice) -> str:
    """Who won and why, and what its test gave."""
    spec, winner = past.spec, choice.winner
    if winner is None or spec.final is None:
        line = choice_line(spec, choice)
        return f"{line[0].upper()}{line[1:]}."
    sound = [standing for standing in choice.standings if not standing.reason]
    least = winner.averaged.violation
    alike = [standing for standing in sound if standing.averaged.violation == least]
    best = min(alike, key=lambda standing: (standing.mean, standing.trial.number))
    said = f"Trial {winner.trial.number} wins: {spread_text(spec, winner)} over its folds"
    if spec.metrics:
        count, by = len(choice.front), "of the front by these means"
        said += f", the one point {by}." if count == 1 else ""
        said += f", of the {count} points {by} {standing_line(spec, choice.front)}." if count > 1 else ""
    elif winner is best:
        which = "keep the limits" if least == 0 else "break the limits least"
        said += ", the best mean." if alike == sound else f", the best mean of those that {which}."
    else:
        near = sum(standing.mean <= best.mean + best.standard_error for standing in alike)
        by = " and ".join(f"{name} {way}" for name, way in spec.final.prefer.items()) or "the fastest training"
        said += (
            f"; of the {near} within one standard error of the best mean (trial {best.trial.number}, "
            f"{number(spec.sign * best.mean)}) it is the simplest, by {by}."
        )
    if spec.limiting:
        line = choice_limits_line(spec, choice)
        said += f" It {line}." if winner.averaged.feasible else f" {line[0].upper()}{line[1:]}."
    if (first := choice.standings[0]) is not winner and not spec.metrics:
        said += f" Trial {first.trial.number} was the best of the search."
    if choice.test is None:
        return f"{said} Its test is running."
    return f"{said} On the test set: {', '.join(line.removeprefix('test ') for line in test_lines(choice)) or '-'}."


def champion_card(past: Past) -> str:
    """The comparison with the served model; nothing if the study asks for none, or it has not begun."""
    challenge, asked = past.challenge, past.spec.champion
    if challenge is None or asked is None:
        return ""
    record, compared = challenge.record, past.spec.compared
    sign = compared.sign
    seeds = [sign * each.loss for each in challenge.retrained if each.loss is not None]
    against = str(challenge.reigning or "")
    rival = math.nan if challenge.scored is None else sign * (challenge.scored.loss or 0.0)
    margin = math.nan
    if record is not None:  # as it was compared: the champion may be another by now
        seeds, against = _values(record) or seeds, record.tags.get(Tag.AGAINST, "")
        rival, margin = (finite(record.tags.get(tag)) for tag in (Tag.AGAINST_VALUE, Tag.MARGIN))
    mean = sum(seeds) / len(seeds) if seeds else math.nan
    band = (rival, rival - sign * margin) if math.isfinite(rival) and math.isfinite(margin) else None
    track = Track([*seeds, rival, *(band or ())])
    dots = [(value, f"seed {i + 1}: {number(value)}") for i, value in enumerate(seeds)]
    result = "-"
    if seeds:
        result = escape(with_error(mean, deviation(seeds) / math.sqrt(len(seeds))))
    rows = [
        f'<div class="final wins"><span><button class="more" data-trial="{challenge.trial.number}">trial '
        f"{challenge.trial.number}</button></span><span>{len(seeds)} seed{'s' * (len(seeds) != 1)}</span>"
        f"{track.row(dots, mean, band=band)}<span>{result}</span></div>"
    ]
    if math.isfinite(rival):
        dots = [(rival, f"version {against}: {number(rival)}")]
        rows.append(
            f'<div class="final"><span>version {escape(against)}</span><span>champion then</span>'
            f"{track.row(dots, band=band)}<span>{escape(number(rival))}</span></div>"
        )
    if seeds or math.isfinite(rival):
        rows.append(f'<div class="final foot"><span></span><span></span>{track.scale()}<span></span></div>')
    caption = f"The winner, trained again on {challenge.seeds} seeds, against the champion of {asked.model} on the "
    caption += f"same held-out rows, by {compared.metric}."
    if band is not None:
        caption += f" Shaded: gains that may be luck, at a confidence of {challenge.confidence:g}."
    body = f'<p class="said">{escape(_verdict(challenge, asked.model))}</p>{"".join(rows)}'
    return card("Champion", body, caption, span=12)


def _values(record: Version) -> list[float]:
    """The values of the seeds in a version's tags, which anybody may have written."""
    try:
        values = [finite(value) for value in json.loads(record.tags.get(Tag.VALUES, ""))]
    except (ValueError, TypeError):
        return []
    return values if all(map(math.isfinite, values)) else []


def _verdict(challenge: Challenge, model: str) -> str:
    """Whether the champion was replaced, by which version, and why."""
    record, reigning = challenge.record, challenge.reigning
    if record is None:
        if challenge.done:
            return f"Refused: {challenge.obstacle or 'no re-training gave a model'}."
        return f"Being compared: {challenge.pending} evaluations have not ended."
    reason, against = record.tags.get(Tag.REASON, ""), record.tags.get(Tag.AGAINST, "")
    if record.tags.get(Tag.DECISION) == PROMOTED:
        instead = f" in place of version {against}" if against else ""
        said = f"Promoted: version {record.number} of {model} became the champion{instead}: {reason}."
    else:
        stays = f"version {against} stayed the champion" if against else "there is no champion"
        said = f"Refused: {stays}; the winner is version {record.number} of {model}: {reason}."
    if Tag.ROLLED_BACK in record.tags:
        said += f" Rolled back since: {record.tags[Tag.ROLLED_BACK]}."
    now = "no version has the alias champion" if reigning is None else f"the champion is version {reigning}"
    return said if reigning == record.number else f"{said} Now {now}."

"""Writes a study's description in MLflow, as Markdown."""

from __future__ import annotations

from hpo_core.history.history import History
from hpo_core.ledger.note import as_markdown
from hpo_core.selection.final_choice import Choice
from hpo_core.study.spec import StudySpec
from hpo_flows.reports.front import ranges
from hpo_flows.reports.news import settings
from hpo_flows.reports.text import (
    certainty_lines,
    choice_line,
    choice_rows,
    failed_line,
    mean_text,
    metric_values,
    number,
    one_line,
    test_lines,
)

MOST_POINTS = 30
"""How many points of a front the description has."""


def study_description(spec: StudySpec, history: History, choice: Choice | None = None) -> str:
    """The study's description in MLflow, as Markdown."""
    best, complete = history.incumbent, len(history.complete)
    of = f" of `{spec.objective}`" if spec.objective else ""
    lines = [
        f"**{as_markdown(spec.name)}**: {_goal(spec)}{of} by `{spec.strategy.name}`.",
        "",
        f"{complete} trial{'s' * (complete != 1)} complete, {failed_line(spec, history)}, "
        f"{len(history.running)} running.",
    ]
    if best is not None and spec.metrics:
        lines += ["", *front_description(spec, history)]
    elif best is not None:
        lines += [
            "",
            f"Incumbent: trial {best.number}, `{spec.metric}` = **{mean_text(spec, history, best)}**",
            *(f"\n{as_markdown(line)}" for line in certainty_lines(spec, history)),
            "",
            "| parameter | value |",
            "| --- | --- |",
            *(f"| {as_markdown(name)} | {as_markdown(value)} |" for name, value in best.config.items()),
        ]
    if choice is not None and choice.standings:
        lines += ["", *choice_description(spec, choice)]
    return "\n".join(lines)


def _goal(spec: StudySpec) -> str:
    return ", ".join(f"{each.direction} `{each.metric}`" for each in spec.objectives)


def front_description(spec: StudySpec, history: History) -> list[str]:
    """The Pareto front in a study's description, as Markdown: what it reaches, and its first points."""
    front, names = history.front, [f"`{each.metric}`" for each in spec.objectives]
    points = "1 trial" if len(front) == 1 else f"{len(front)} trials"
    lines = [
        f"Pareto front: {points}, {as_markdown('; '.join(ranges(spec, front)))}; "
        f"hypervolume {number(history.hypervolume)}.",
        *(f"\n{as_markdown(line)}" for line in certainty_lines(spec, history) if not front[0].feasible),
        "",
        f"| trial | {' | '.join(names)} | configuration |",
        "| ---: |" + " ---: |" * len(names) + " --- |",
    ]
    for trial in front[:MOST_POINTS]:
        values = [number(value) for value in metric_values(spec, trial).values()]
        config = as_markdown(settings(trial.config.items()))
        lines.append(f"| {trial.number} | {' | '.join(values)} | {config} |")
    if len(front) > MOST_POINTS:
        lines += ["", f"All {len(front)} are in the artifacts `pareto.json` and `pareto.csv`."]
    return lines


def choice_description(spec: StudySpec, choice: Choice) -> list[str]:
    """The final choice in a study's description, as Markdown."""
    lines = [f"**{choice_line(spec, choice)}**", ""]
    lines += ["| trial | in the search | over the folds | |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {' | '.join(as_markdown(one_line(cell, 200)) for cell in row)} |" for row in choice_rows(spec, choice)
    ]
    if choice.winner is not None:
        winner = choice.winner.trial.config
        lines += ["", *(f"- {as_markdown(name)} = {as_markdown(value)}" for name, value in winner.items())]
    return [*lines, *(f"- {line}" for line in test_lines(choice))]

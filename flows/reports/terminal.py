"""Prints tables and the closing summary of a study on a terminal."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hpo_core.history.repeated import Noise
from hpo_core.selection.final_choice import best_front
from hpo_core.space.configuration import displayed
from hpo_flows.reports.ending import as_yaml, model_lines, serve_line
from hpo_flows.reports.front import prefer_hint, standing_line
from hpo_flows.reports.screens import say
from hpo_flows.reports.text import (
    certainty_lines,
    choice_limits_line,
    choice_line,
    choice_rows,
    failed_line,
    fidelity_name,
    metric_values,
    number,
    one_line,
    outcome_text,
    outside_lines,
    ranked,
    test_lines,
    tuning_lines,
)

if TYPE_CHECKING:
    from hpo_core.history.history import History
    from hpo_core.history.trial import Trial
    from hpo_core.selection.final_choice import Choice
    from hpo_core.study.spec import StudySpec
    from hpo_flows.reports.ending import Places

TOP = 5

MOST_POINTS = 10
"""How many points of a front are shown when a study ends."""

QUIET = Noise()

MAX_COLUMNS = 12

FRAME = 3
"""The characters that a column takes beside its text."""


def new_table(title: str) -> Table:
    """An empty table. Titles, headings and cells are ``Text``, because rich interprets markup in a ``str``."""
    return Table(title=Text(title, "table.title"), title_justify="left")


def add_column(table: Table, name: str, *, right: bool = False) -> None:
    table.add_column(Text(name), justify="right" if right else "left")


def add_row(table: Table, *cells: str) -> None:
    table.add_row(*(Text(one_line(cell)) for cell in cells))


def trials_table(
    spec: StudySpec, trials: Sequence[Trial], title: str, width: int | None = None, noise: Noise = QUIET
) -> Table:
    """Trials as rows, and as many parameters as fit; those in which the trials differ come first.

    Args:
        spec: The study.
        trials: The trials.
        title: The table's title.
        width: The width of the screen; by default the terminal's.
        noise: How much the losses of one configuration differ.
    """
    columns = [("trial", [str(trial.number) for trial in trials])]
    for each in spec.objectives:
        columns.append((each.metric, [number(metric_values(spec, trial).get(each.metric)) for trial in trials]))
    own = [each.metric for each in spec.objectives] if spec.metrics else []
    for limit in spec.limiting:
        if limit.metric in own:
            continue  # it has a column
        values = [limit.value(trial.excess.get(limit.metric, math.inf)) for trial in trials]
        columns.append((str(limit), [number(value) if math.isfinite(value) else "" for value in values]))
    if noise.deviation > 0:
        columns.append(("±", [f"{noise.error(trial):.2g}" for trial in trials]))
        columns.append(("trainings", [str(trial.observations) for trial in trials]))
    if any(trial.fidelity is not None for trial in trials):
        columns.append(
            (fidelity_name(spec), ["" if trial.fidelity is None else f"{trial.fidelity:g}" for trial in trials])
        )
    free = {
        name: [one_line(displayed(trial.config[name])) if name in trial.config else "" for trial in trials]
        for name in spec.search_space.free
    }
    left = (Console().width if width is None else width) - 1 - sum(map(_breadth, columns))
    fitting: set[str] = set()
    for column in sorted(free.items(), key=lambda column: len(set(column[1])) < 2):
        if _breadth(column) <= left and len(fitting) < MAX_COLUMNS:
            fitting.add(column[0])
            left -= _breadth(column)
    table = new_table(title)
    for name, _ in columns:
        add_column(table, name, right=True)
    for name in free:
        if name in fitting:
            add_column(table, name)
    shown = [values for _, values in columns] + [values for name, values in free.items() if name in fitting]
    for row in zip(*shown, strict=True):
        add_row(table, *row)
    if missing := len(free) - len(fitting):
        more = "1 more parameter" if missing == 1 else f"{missing} more parameters"
        table.caption, table.caption_justify = Text(f"{more} in MLflow", "dim"), "left"
    return table


def _breadth(column: tuple[str, Sequence[str]]) -> int:
    return max(map(cell_len, [column[0], *column[1]])) + FRAME


def best_table(spec: StudySpec, history: History, title: str, width: int | None = None) -> Table:
    """The best configurations as rows; see :func:`trials_table`."""
    return trials_table(spec, ranked(history)[:TOP], title, width, history.noise)


def front_table(
    spec: StudySpec, front: Sequence[Trial], title: str, width: int | None = None, most: int | None = None
) -> Table:
    """A Pareto front as rows, in order of the first metric; of a long one ``most`` points, evenly chosen."""
    if most is not None and len(front) > most:
        front = [front[round(i * (len(front) - 1) / (most - 1))] for i in range(most)]
    return trials_table(spec, front, title, width)


def front_title(spec: StudySpec, history: History, front: Sequence[Trial], shown: int | None = None) -> str:
    """The title of a table of the front: how many points it has, and what volume it dominates."""
    points = "1 trial" if len(front) == 1 else f"{len(front)} trials"
    some = f", {shown} of them" if shown is not None and shown < len(front) else ""
    if front != history.front:
        return f"Pareto front of {spec.name} by its folds: {points}{some}"
    return f"Pareto front of {spec.name}: {points}, hypervolume {history.hypervolume:.4g}{some}"


def choice_table(spec: StudySpec, choice: Choice) -> Table:
    """The finalists as rows."""
    rule = "" if spec.final is None or spec.metrics else f" by {spec.final.rule}"
    table = new_table(f"Final choice{rule} of {', '.join(each.metric for each in spec.objectives)}")
    add_column(table, "trial", right=True)
    add_column(table, "in the search", right=True)
    add_column(table, "over the folds", right=True)
    add_column(table, "")
    for trial, searched, mean, remark in choice_rows(spec, choice):
        add_row(table, trial, searched, mean, one_line(remark, 200))
    return table


def print_summary(
    spec: StudySpec,
    history: History,
    reason: str,
    places: Places,
    console: Console | None = None,
    choice: Choice | None = None,
) -> None:
    """Print the end of a run: why it ended, the best trials, the winner or incumbent, and where everything is."""
    console = console or Console()
    counts = f"{len(history.complete)} complete, {failed_line(spec, history)}"
    if history.outside:
        counts += f", {len(history.outside)} outside the space"
    if history.running:
        counts += f", {len(history.running)} running elsewhere"
    say(console, f"Study {spec.name}: {reason} ({counts}).")
    best = history.incumbent
    if best is None:
        say(console, "No trial is complete yet.")
    elif spec.metrics:
        print_front(spec, history, console, choice)
    else:
        console.print(best_table(spec, history, f"Best trials by {spec.metric}", console.width))
        if choice is None or choice.winner is None:
            say(console, f"Best: trial {best.number}")
            remarks = [*certainty_lines(spec, history), *tuning_lines(spec, history, choice)]
            for line in [*remarks, *outside_lines(spec, history)]:
                say(console, f"  # {line}")
            for line in as_yaml(best.config):
                say(console, f"  {line}")
            for name in sorted(best.metrics, key=lambda name: (name != spec.metric, not name.startswith("test"), name)):
                if (name == spec.metric and not best.observed) or name.startswith("test"):
                    say(console, f"  # {one_line(name)}: {number(best.metrics[name])}")
    if choice is not None and choice.standings:
        print_choice(spec, history, choice, console)
    print_places(places, console)


def print_front(spec: StudySpec, history: History, console: Console, choice: Choice | None = None) -> None:
    """Print the Pareto front of a study that ends, and what stands for it unless the final choice names a winner."""
    front = best_front(history, choice)
    title = front_title(spec, history, front, MOST_POINTS)
    console.print(front_table(spec, front, title, console.width, MOST_POINTS))
    if len(front) > MOST_POINTS:
        say(console, f"All of it: hpo best {shlex.quote(spec.name)}")
    point = spec.stands_for(front)
    if point is not None and (choice is None or choice.winner is None):
        print_point(spec, history, point, standing_line(spec, front), console)
    if len(front) > 1:
        say(console, f"Another point: hpo best {shlex.quote(spec.name)} {prefer_hint(spec, front)}")


def print_point(spec: StudySpec, history: History, point: Trial, what: str, console: Console) -> None:
    """Print one point of the front with its configuration.

    Args:
        spec, history: The study.
        point: The trial.
        what: Why it is this one.
        console: The output.
    """
    say(console, f"Trial {point.number}, {what}:")
    say(console, f"  # {outcome_text(spec, point)}")
    for line in certainty_lines(spec, history) if not point.feasible else []:
        say(console, f"  # {line}")
    for line in as_yaml(point.config):
        say(console, f"  {line}")


def print_choice(spec: StudySpec, history: History, choice: Choice, console: Console) -> None:
    """Print the finalists, the winner, its score on the test set, and what tuning was worth."""
    console.print(choice_table(spec, choice))
    line = choice_line(spec, choice)
    say(console, f"{line[0].upper()}{line[1:]}")
    if choice.winner is None:
        return
    if spec.metrics and len(choice.front) > 1:
        say(console, f"  # {standing_line(spec, choice.front)}")
    if line := choice_limits_line(spec, choice):
        say(console, f"  # {line}")
    for line in as_yaml(choice.winner.trial.config):
        say(console, f"  {line}")
    for line in [*test_lines(choice), *tuning_lines(spec, history, choice)]:
        say(console, f"  # {line}")


def print_places(places: Places, console: Console) -> None:
    """Print where the best configuration, its model, the report and the study are."""
    if places.file:
        say(console, f"Configuration: {places.file}")
    if places.model is not None:
        say(console, f"Model: {places.model.uri}, loaded by")
        for line in model_lines(places.model):
            say(console, line)
        say(console, "and served by")
        say(console, serve_line(places.model))
    say(console, f"Report: {places.report}")
    say(console, f"MLflow: {places.ui}")

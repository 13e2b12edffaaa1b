"""Prints tables and the closing summary of a study on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hpo_core.history.history import History
from hpo_core.history.trial import Trial
from hpo_core.selection.final_choice import Choice
from hpo_core.study.spec import StudySpec

if TYPE_CHECKING:
    pass
from hpo_flows.reports.text import (
    choice_line,
    choice_rows,
    failed_line,
    fidelity_name,
    metric_value,
    number,
    one_line,
    ranked,
    show,
    test_lines,
)

TOP = 5

MAX_COLUMNS = 8


def say(console: Console, line: str, style: str = "") -> None:
    """Print a line unchanged: rich interprets neither markup nor emoji names in it, and does not wrap it."""
    console.print(Text(line, style), soft_wrap=True)


def new_table(title: str) -> Table:
    """An empty table. Titles, headings and cells are ``Text``, because rich interprets markup in a ``str``."""
    return Table(title=Text(title, "table.title"), title_justify="left")


def add_column(table: Table, name: str, *, right: bool = False) -> None:
    table.add_column(Text(name), justify="right" if right else "left")


def add_row(table: Table, *cells: str) -> None:
    table.add_row(*(Text(one_line(cell)) for cell in cells))


def trials_table(spec: StudySpec, trials: Sequence[Trial], title: str) -> Table:
    """Trials as rows; if there are many parameters, only the first few."""
    table = new_table(title)
    names = [name for name in spec.search_space.free][:MAX_COLUMNS]
    add_column(table, "trial", right=True)
    add_column(table, spec.metric, right=True)
    graded = any(trial.fidelity is not None for trial in trials)
    if graded:
        add_column(table, fidelity_name(spec), right=True)
    for name in names:
        add_column(table, name)
    for trial in trials:
        row = [show(trial.config[name]) if name in trial.config else "" for name in names]
        extent = [] if not graded else ["" if trial.fidelity is None else f"{trial.fidelity:g}"]
        add_row(table, str(trial.number), number(metric_value(spec, trial)), *extent, *row)
    return table


def choice_table(spec: StudySpec, choice: Choice) -> Table:
    """The finalists as rows."""
    rule = "" if spec.final is None else f" by {spec.final.rule}"
    table = new_table(f"Final choice{rule} of {spec.metric}")
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
    ui: str,
    console: Console | None = None,
    choice: Choice | None = None,
) -> None:
    """Print the end of a run: why it ended, the best trials, the winner or incumbent, and where to look further."""
    console = console or Console()
    counts = f"{len(history.complete)} complete, {failed_line(spec, history)}"
    if history.running:
        counts += f", {len(history.running)} running elsewhere"
    say(console, f"Study {spec.name}: {reason} ({counts}).")
    best = history.incumbent
    if best is None:
        say(console, "No trial is complete yet.")
    else:
        console.print(trials_table(spec, ranked(history)[:TOP], f"Best trials by {spec.metric}"))
        say(console, f"Incumbent: trial {best.number}")
        for name, value in best.config.items():
            say(console, f"  {name} = {value}")
        for name in sorted(best.metrics, key=lambda name: (name != spec.metric, not name.startswith("test"), name)):
            if name == spec.metric or name.startswith("test"):
                say(console, f"  {name}: {number(best.metrics[name])}")
    if choice is not None and choice.standings:
        print_choice(spec, choice, console)
    say(console, f"Browse it in MLflow: {ui}")


def print_choice(spec: StudySpec, choice: Choice, console: Console) -> None:
    """Print the finalists, the winner and its score on the test set."""
    console.print(choice_table(spec, choice))
    line = choice_line(spec, choice)
    say(console, f"{line[0].upper()}{line[1:]}")
    if choice.winner is None:
        return
    for name, value in choice.winner.trial.config.items():
        say(console, f"  {name} = {value}")
    for line in test_lines(choice):
        say(console, f"  {line}")

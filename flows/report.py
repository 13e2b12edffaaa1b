"""What people see of a study: live progress, the closing table, and the description in MLflow."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hpo_core.history import History
from hpo_core.selection import Choice, Standing
from hpo_core.study import StudySpec
from hpo_core.trial import Trial, TrialState

if TYPE_CHECKING:
    from flows.trial import Progress

TOP = 5
MAX_COLUMNS = 8


def number(value: float | None) -> str:
    """A number for a table: six significant digits.

    >>> number(0.98333333), number(1e-7), number(None)
    ('0.983333', '1e-07', '-')
    """
    return "-" if value is None else f"{value:.6g}"


def duration(seconds: float) -> str:
    """
    >>> duration(5), duration(125), duration(7325)
    ('5 s', '2 min 05 s', '2 h 02 min')
    """
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def one_line(text: object, length: int = 500) -> str:
    """A text that was written elsewhere, fit for a line of a terminal.

    >>> one_line("two\\n lines, \\x1b[31mred")
    'two lines, ?[31mred'
    """
    line = "".join(c if c.isprintable() else "?" for c in " ".join(str(text).split()))
    return line if len(line) <= length else line[: length - 3] + "..."


def skipped_line(skipped: Mapping[str, str], most: int = 3) -> str:
    """How many runs are no trials, by reason.

    >>> skipped_line({"a": "it has no trial number", "b": "it has no trial number", "c": "'x' is missing"})
    "3 runs are no trials and are skipped: 2 x it has no trial number, 1 x 'x' is missing"
    """
    counts = Counter(skipped.values()).most_common()
    reasons = [f"{count} x {one_line(reason, 120)}" for reason, count in counts[:most]]
    if len(counts) > most:
        reasons.append(f"{sum(count for _, count in counts[most:])} for other reasons")
    runs = "1 run is no trial and is" if len(skipped) == 1 else f"{len(skipped)} runs are no trials and are"
    return f"{runs} skipped: {', '.join(reasons)}"


def metric_value(spec: StudySpec, trial: Trial | None) -> float | None:
    """The study's metric of a trial, in the metric's own direction."""
    return None if trial is None or trial.loss is None else spec.sign * trial.loss


def ranked(history: History) -> list[Trial]:
    """The complete trials, best first; those of the highest fidelity before all others."""
    return sorted(history.complete, key=lambda trial: (-trial.extent, trial.loss, trial.number))


def seconds_left(spec: StudySpec, history: History, elapsed: float) -> float | None:
    """About how long the study will go on, by the trials so far; None where that cannot be said."""
    bounds: list[float] = []
    durations = [(trial.end - trial.start) / 1000 for trial in history if trial.end is not None]
    if spec.stop.trials is not None and durations:
        left = spec.stop.trials - history.next_number + len(history.running) / 2
        bounds.append(max(left, 0) * sum(durations) / len(durations) / spec.parallel)
    if spec.stop.full_trainings is not None and spec.scale is not None and (spent := history.spent(spec.scale)):
        left = max(spec.stop.full_trainings - spent, 0)
        bounds.append(left * sum(durations) / spent / spec.parallel)
    if spec.stop.minutes is not None:
        bounds.append(max(60 * spec.stop.minutes - elapsed, 0))
    return min(bounds, default=None)


def status_line(spec: StudySpec, history: History, elapsed: float) -> str:
    """One line that says how far a study is."""
    done = len(history.complete) + len(history.failed)
    total = f" of {spec.stop.trials}" if spec.stop.trials is not None else ""
    parts = [f"trial {done}{total}", f"{len(history.running)} running"]
    if history.failed:
        parts.append(f"{len(history.failed)} failed")
    if spec.stop.full_trainings is not None and spec.scale is not None:
        parts.append(f"{history.spent(spec.scale):.3g} of {spec.stop.full_trainings:g} full trainings")
    if (best := history.incumbent) is not None:
        parts.append(f"best {spec.metric} {number(metric_value(spec, best))} (trial {best.number})")
    left = seconds_left(spec, history, elapsed)
    parts.append(f"about {duration(left)} left" if left is not None and done else "time left not known yet")
    return "  |  ".join(parts)


class Warnings(logging.Handler):
    """Shows this project's warnings above the live progress. Prefect's set-up of logging would leave them unseen."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record as one line."""
        text = f"{record.levelname.lower()}: {record.getMessage()}"
        self._console.print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)


class LiveProgress:
    """Shows a study while it runs: a moving line on a terminal, a line a trial elsewhere (a scheduler's log)."""

    def __init__(self, spec: StudySpec, console: Console | None = None) -> None:
        self._spec = spec
        self._console = console or Console(stderr=True)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        self._warnings = Warnings(self._console)
        self._told: set[int] = set()
        self._first = True
        self._told_choice = ""

    def __enter__(self) -> LiveProgress:
        logging.getLogger("hpo").addHandler(self._warnings)
        if self._console.is_terminal:
            self._live.start()
            self._live.update(Text(f"{self._spec.name}: opening the study ..."))
        else:
            self._console.print(f"{self._spec.name}: opening the study ...", highlight=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logging.getLogger("hpo").removeHandler(self._warnings)
        self._live.stop()

    def __call__(self, progress: Progress) -> None:
        spec, history = self._spec, progress.history
        ended = [trial for trial in history if trial.state is not TrialState.RUNNING and trial.number not in self._told]
        self._told |= {trial.number for trial in ended}
        line = status_line(spec, history, progress.seconds)
        if progress.choice is not None and progress.choice.standings:
            told, self._told_choice = self._told_choice, choice_line(spec, progress.choice)
            if told != self._told_choice and not self._console.is_terminal:
                self._console.print(self._told_choice, highlight=False, markup=False, soft_wrap=True)
        line = self._told_choice or line
        if self._first:  # what earlier runs of the study did is no news
            self._first, ended = False, []
        for trial in ended:
            self._console.print(trial_line(spec, trial), highlight=False, markup=False, soft_wrap=True)
        if self._console.is_terminal:
            done = len(history.complete) + len(history.failed)
            bar = ProgressBar(total=spec.stop.trials or None, completed=done, width=40)
            self._live.update(Group(Text(line), bar))
        elif ended:
            self._console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def trial_line(spec: StudySpec, trial: Trial) -> str:
    """What became of a trial, in one line."""
    settings = ", ".join(f"{name}={show(value)}" for name, value in trial.config.items())
    if trial.state is TrialState.FAILED:
        return f"trial {trial.number:>4}  failed: {trial.reason}  ({settings})"
    took = f" in {duration((trial.end - trial.start) / 1000)}" if trial.end is not None else ""
    extent = "" if trial.fidelity is None else f" at {fidelity_name(spec)} {trial.fidelity:g}"
    why = f", {trial.reason}" if trial.reason else ""
    return (
        f"trial {trial.number:>4}  {spec.metric} {number(metric_value(spec, trial))}{extent}{took}{why}  ({settings})"
    )


def fidelity_name(spec: StudySpec) -> str:
    """What a trial's fidelity counts; without one in the study, the steps after which a trial was stopped."""
    return "steps" if spec.fidelity is None else spec.fidelity.name


def show(value: Any) -> str:
    """A parameter's value for people."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def trials_table(spec: StudySpec, trials: Sequence[Trial], title: str) -> Table:
    """Trials as rows; of many parameters the first few."""
    table = Table(title=title, title_justify="left")
    names = [name for name in spec.search_space.free][:MAX_COLUMNS]
    table.add_column("trial", justify="right")
    table.add_column(spec.metric, justify="right")
    graded = any(trial.fidelity is not None for trial in trials)
    if graded:
        table.add_column(fidelity_name(spec), justify="right")
    for name in names:
        table.add_column(name)
    for trial in trials:
        row = [show(trial.config[name]) if name in trial.config else "" for name in names]
        extent = [] if not graded else ["" if trial.fidelity is None else f"{trial.fidelity:g}"]
        table.add_row(str(trial.number), number(metric_value(spec, trial)), *extent, *row)
    return table


def choice_line(spec: StudySpec, choice: Choice) -> str:
    """One line that says how far the final choice is."""
    if choice.winner is None and choice.decided:
        return "final choice: every configuration has failed a fold"
    if choice.winner is None:
        done, wanted = choice.folds
        return f"final choice: {done} of {wanted} folds are done"
    winner = f"final choice: trial {choice.winner.trial.number} with {spec.metric} {spread(spec, choice.winner)}"
    return winner if choice.test is not None else f"{winner}; its test is running"


def spread(spec: StudySpec, standing: Standing) -> str:
    """The mean over a finalist's folds and its standard error."""
    return f"{number(spec.sign * standing.mean)} ± {number(standing.standard_error)}"


def choice_rows(spec: StudySpec, choice: Choice) -> list[tuple[str, str, str, str]]:
    """The finalists, a row each: trial, value in the search, mean over the folds, remark; the winner first."""
    winner = choice.winner
    rows = []
    for standing in sorted(choice.standings, key=lambda s: (s is not winner, s.mean, s.trial.number)):
        remark = "winner" if standing is winner else standing.reason
        mean = spread(spec, standing) if not standing.reason and standing.losses else "-"
        rows.append((str(standing.trial.number), number(metric_value(spec, standing.trial)), mean, remark))
    return rows


def choice_table(spec: StudySpec, choice: Choice) -> Table:
    """The finalists as rows."""
    rule = "" if spec.final is None else f" by {spec.final.rule}"
    table = Table(title=f"Final choice{rule} of {spec.metric}", title_justify="left")
    table.add_column("trial", justify="right")
    table.add_column("in the search", justify="right")
    table.add_column("over the folds", justify="right")
    table.add_column("")
    for trial, searched, mean, remark in choice_rows(spec, choice):
        table.add_row(trial, searched, mean, Text(one_line(remark, 200)))
    return table


def test_lines(choice: Choice) -> list[str]:
    """The winner's score on the test set, a line a metric; or why there is none."""
    test = choice.test
    if test is None:
        return []
    if test.loss is None:
        return [f"the test failed: {test.reason}"]
    return [f"test {name}: {number(value)}" for name, value in sorted(test.metrics.items())]


def print_summary(
    spec: StudySpec,
    history: History,
    reason: str,
    ui: str,
    console: Console | None = None,
    choice: Choice | None = None,
) -> None:
    """The end of a run: why it ended, the best trials, the winner or incumbent, and where to look further."""
    console = console or Console()
    counts = f"{len(history.complete)} complete, {len(history.failed)} failed"
    if history.running:
        counts += f", {len(history.running)} running elsewhere"
    console.print(f"Study {spec.name}: {reason} ({counts}).", markup=False, highlight=False, soft_wrap=True)
    best = history.incumbent
    if best is None:
        console.print("No trial is complete yet.")
    else:
        console.print(trials_table(spec, ranked(history)[:TOP], f"Best trials by {spec.metric}"))
        console.print(f"Incumbent: trial {best.number}", markup=False, highlight=False)
        for name, value in best.config.items():
            console.print(f"  {name} = {value}", markup=False, highlight=False, soft_wrap=True)
        for name in sorted(best.metrics, key=lambda name: (name != spec.metric, not name.startswith("test"), name)):
            if name == spec.metric or name.startswith("test"):
                console.print(f"  {name}: {number(best.metrics[name])}", markup=False, highlight=False)
    if choice is not None and choice.standings:
        print_choice(spec, choice, console)
    console.print(f"Browse it in MLflow: {ui}", markup=False, highlight=False, soft_wrap=True)


def print_choice(spec: StudySpec, choice: Choice, console: Console) -> None:
    """The finalists, the winner and its score on the test set."""
    console.print(choice_table(spec, choice))
    console.print(
        f"{choice_line(spec, choice)[0].upper()}{choice_line(spec, choice)[1:]}", markup=False, highlight=False
    )
    if choice.winner is None:
        return
    for name, value in choice.winner.trial.config.items():
        console.print(f"  {name} = {value}", markup=False, highlight=False, soft_wrap=True)
    for line in test_lines(choice):
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


def study_description(spec: StudySpec, history: History, choice: Choice | None = None) -> str:
    """The study's description in MLflow, as Markdown."""
    best = history.incumbent
    lines = [
        f"**{spec.name}**: {spec.direction} `{spec.metric}` of `{spec.objective}` by `{spec.strategy.name}`.",
        "",
        f"{len(history.complete)} trials complete, {len(history.failed)} failed, {len(history.running)} running.",
    ]
    if best is not None:
        lines += [
            "",
            f"Incumbent: trial {best.number}, `{spec.metric}` = **{number(metric_value(spec, best))}**",
            "",
            "| parameter | value |",
            "| --- | --- |",
            *(f"| {name} | {value} |" for name, value in best.config.items()),
        ]
    if choice is not None and choice.standings:
        lines += ["", *choice_description(spec, choice)]
    return "\n".join(lines)


def choice_description(spec: StudySpec, choice: Choice) -> list[str]:
    """The final choice in a study's description, as Markdown."""
    lines = [f"**{choice_line(spec, choice)}**", ""]
    lines += ["| trial | in the search | over the folds | |", "| --- | --- | --- | --- |"]
    lines += [f"| {' | '.join(one_line(cell, 200) for cell in row)} |" for row in choice_rows(spec, choice)]
    if choice.winner is not None:
        lines += ["", *(f"- {name} = {value}" for name, value in choice.winner.trial.config.items())]
    return [*lines, *(f"- {line}" for line in test_lines(choice))]


def error(message: str) -> None:
    """A message on standard error, as it is."""
    print(message, file=sys.stderr)

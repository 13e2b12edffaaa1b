"""Shows a running study and this project's warnings: one live view on a terminal or in a notebook, elsewhere lines."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from hpo_core.history.trial import TrialState
from hpo_flows.base.waiting import log as waiting
from hpo_flows.reports.front import ranges
from hpo_flows.reports.news import Ended, News, settings, trial_line
from hpo_flows.reports.screens import screen_for
from hpo_flows.reports.text import (
    best_line,
    choice_line,
    confirm_line,
    count_line,
    duration,
    failed_line,
    number,
    one_line,
    roughly,
    seconds_left,
    spent_parts,
    status_line,
)
from hpo_flows.workers.output import log as printed

if TYPE_CHECKING:
    from hpo_core.study.spec import StudySpec
    from hpo_flows.base.board import Running
    from hpo_flows.base.progress import Progress

NEW_SECONDS = 15.0
"""How long a new best value is marked."""

ROOM = 160
"""Without a terminal, a configuration that makes a line longer than this is told by what differs from the best."""

KEEP, KEEP_VERBOSE = 15, 200
"""How many lines a notebook shows."""

GAP = "  |  "


class Warnings(logging.Handler):
    """Shows this project's warnings above the live progress, and the trials' output if requested.

    Without it they would be invisible, because of Prefect's logging configuration.
    """

    def __init__(self, live: LiveProgress) -> None:
        super().__init__()
        self.addFilter(lambda record: record.levelno >= logging.WARNING or record.name in (printed.name, waiting.name))
        self.addFilter(lambda record: _in_charge() is live and (live.verbose or record.name != printed.name))
        self._live = live

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record."""
        if record.name == waiting.name:
            self._live.say(record.getMessage())
            return
        lines = (line.expandtabs() for line in record.getMessage().split("\n"))
        text = "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines)
        if record.levelno < logging.WARNING:
            self._live.tell(text)
        else:
            self._live.tell(f"{record.levelname.lower()}: {text}", "yellow")


_SHOWN: list[LiveProgress] = []
"""The views of the studies that run in this process, the first one first."""

_here: ContextVar[LiveProgress | None] = ContextVar("hpo_live", default=None)
"""The view of the study that the present thread works for."""


def _in_charge() -> LiveProgress | None:
    """The view that shows what the present thread says: of two studies in two threads, each has its own lines."""
    here = _here.get()
    return here if here in _SHOWN else next(iter(_SHOWN), None)


class LiveProgress:
    """Shows a study while it runs. It may be entered before the study is known, so that the start is shown, too.

    Args:
        spec: The study; None until :meth:`begin`.
        console: The output; by default standard error.
        verbose: Also show what trials print.
        moving: False for lines alone, also on a terminal: a debugger needs that for itself.
    """

    def __init__(
        self,
        spec: StudySpec | None = None,
        console: Console | None = None,
        *,
        verbose: bool = False,
        moving: bool = True,
    ) -> None:
        self._spec, self.verbose = spec, verbose
        self._progress: Progress | None = None
        self._news = News()
        self._said, self._said_at = "", time.monotonic()
        self._started = self._improved = 0.0  # on the monotonic clock: the first look, and the last new best
        self._stage_line = ""
        self._parts: tuple[list[str], list[str]] = [], []  # what is told above and below the best
        self._warnings = Warnings(self)
        keep = KEEP_VERBOSE if verbose else KEEP
        # The stream itself, since a trial in this process may replace sys.stderr to keep what it prints.
        self._screen = screen_for(console or Console(file=sys.stderr), self._view, keep=keep, moving=moving)

    def __enter__(self) -> LiveProgress:
        _SHOWN.append(self)
        self._before = _here.get()
        _here.set(self)
        logging.getLogger("hpo").addHandler(self._warnings)
        _set_levels()
        self._screen.start()
        if self._spec is not None:
            self.say(f"{self._spec.name}: starting ...")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logging.getLogger("hpo").removeHandler(self._warnings)
        _SHOWN.remove(self)
        _here.set(self._before)
        _set_levels()
        self._said = ""
        self._screen.stop()

    def begin(self, spec: StudySpec) -> None:
        """Name the study that is shown."""
        self._spec = spec

    def say(self, text: str) -> None:
        """Say what is being waited for."""
        self._said, self._said_at = one_line(text), time.monotonic()
        if self._screen.moving:
            self._screen.refresh()
        else:
            self._screen.line(f"{_now()}  {self._said}")

    def tell(self, text: str, style: str = "") -> None:
        """Show a line that stays."""
        self._screen.line(text, style)

    def __call__(self, progress: Progress) -> None:
        self._spec = progress.spec or self._spec
        assert self._spec is not None
        first, now = self._progress is None, time.monotonic()
        news = self._news.look(progress.history)
        self._progress, self._said = progress, ""
        if first:
            self._started = now
            if progress.history.complete or progress.history.failed:
                known = status_line(self._spec, progress.history, progress.seconds)
                self.tell(f"{self._time()}  {self._spec.name} goes on: {known}")
        for ended in news:
            self._tell_end(ended)
            self._improved = now if ended.is_best else self._improved
        self._tell_stage(progress)
        pace = [self._stage_line] if self._stage_line else self._pace(progress)
        self._parts = self._counts(progress), pace  # once, however often the screen is drawn
        self._screen.refresh()

    def _tell_stage(self, progress: Progress) -> None:
        """Say what goes on once the search is over."""
        assert self._spec is not None
        before = self._stage_line
        self._stage_line = before or confirm_line(self._spec, progress.history)
        if progress.choice is not None and progress.choice.standings and not progress.history.running:
            self._stage_line = choice_line(self._spec, progress.choice)
        if self._stage_line not in ("", before) and not self._screen.moving:
            self.tell(f"{self._time()}  {self._stage_line}")

    def _tell_end(self, ended: Ended) -> None:
        assert self._spec is not None
        trial, width, when = ended.trial, self._screen.width, self._time(ended.trial.end)
        room = (width or ROOM) - len(when) - 2
        line = f"{when}  {trial_line(self._spec, ended, room)}"
        if trial.state is TrialState.FAILED:
            self.tell(line, "red")  # in full: the reason matters
        else:
            text = Text(line)
            text.truncate(width or len(line), overflow="ellipsis")
            self.tell(text.plain, "green" if ended.is_best else "")

    def _time(self, when: int | None = None) -> str:
        """A time stamp; with the date where the lines may be read later."""
        return _now(when, "%H:%M:%S" if self._screen.moving else "%Y-%m-%d %H:%M:%S")

    def _view(self, width: int, height: int) -> RenderableType:
        """The present state."""
        if self._progress is None or self._spec is None:
            return self._start_view()
        seen = self._progress
        lines: list[RenderableType] = [*_folded(self._parts[0], width)]
        if self._spec.stop.trials:
            done = len(seen.history.complete) + len(seen.history.failed)
            lines.append(_bar(done, self._spec.stop.trials, min(width, 60)))
        if (best := seen.history.incumbent) is not None:
            line = Text(best_line(self._spec, seen.history, best), "bold")
            if self._improved and time.monotonic() - self._improved < NEW_SECONDS:
                line.append("  * new", "bold green")
            several = self._spec.metrics and best.feasible
            said = GAP.join(ranges(self._spec, seen.history.front)) if several else settings(best.config.items())
            lines += [_cut(line), _cut(Text(f"  {said}", "dim"))]
        lines += _folded(self._parts[1], width)
        lines.append(_running_table(self._spec, seen, height - len(lines) - 2))
        if self._said:
            lines.append(self._start_view())
        return Group(*lines)

    def _start_view(self) -> RenderableType:
        waited = time.monotonic() - self._said_at
        text = f"{self._said} {duration(int(waited))}" if self._said and waited >= 2 else self._said
        return Spinner("dots", Text(text)) if text else Text("")

    def _counts(self, seen: Progress) -> list[str]:
        assert self._spec is not None
        spec, history = self._spec, seen.history
        running = {(each.number, each.kind) for each in seen.running} | {(each.number, "") for each in history.running}
        parts = [f"{spec.name}: {count_line(spec, history)}", f"{len(running)} running"]
        parts += ["paused: hpo resume goes on"] if seen.paused else []
        parts += [failed_line(spec, history)] if history.failed else []
        return parts + spent_parts(spec, history)

    def _pace(self, seen: Progress) -> list[str]:
        """Trials per minute in this run, and the time left; each only if it is known."""
        assert self._spec is not None
        minutes, count = (time.monotonic() - self._started) / 60, self._news.count
        parts = [f"{pace(count / minutes)} trials per minute"] if count > 1 and minutes > 0 else []
        left = seconds_left(self._spec, seen.history, seen.seconds)
        return parts + ([f"about {roughly(left)} left"] if left is not None else [])


def _set_levels() -> None:
    """Have said what some view shows."""
    waiting.setLevel(logging.INFO if _SHOWN else logging.WARNING)
    printed.setLevel(logging.INFO if any(view.verbose for view in _SHOWN) else logging.WARNING)


def pace(rate: float) -> str:
    """A rate, to two digits.

    >>> pace(0.333), pace(9.6), pace(643.2)
    ('0.33', '9.6', '643')
    """
    return f"{rate:.0f}" if rate >= 99.5 else f"{rate:.2g}"


def _now(when: int | None = None, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """The local time of a time in milliseconds since 1970; by default of now."""
    return time.strftime(form, time.localtime(None if when is None else when / 1000))


def _cut(text: Text) -> Text:
    """The text in one line, cut where the screen ends."""
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _folded(parts: Iterable[str], width: int) -> list[Text]:
    """Short texts in as few lines as they fit into."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(GAP) + len(part) <= width:
            lines[-1] += GAP + part
        else:
            lines.append(part)
    return [_cut(Text(line)) for line in lines]


def _bar(done: int, total: int, width: int) -> Table:
    bar = Table.grid()  # the bar alone does not end its line
    bar.add_row(ProgressBar(total, done, width=width))
    return bar


def _running_table(spec: StudySpec, seen: Progress, rows: int) -> RenderableType:
    """What runs now: this run's trainings with their last report, and those of others with their time alone."""
    table = Table.grid(padding=(0, 2))
    here = {each.number for each in seen.running}
    trials = {trial.number: trial for trial in seen.history.running}
    for each in seen.running[: max(rows, 1)]:
        trial = None if each.kind else trials.get(each.number)
        table.add_row(*_cells(spec, each, None if trial is None else trial.fidelity))
    for number_, trial in list(trials.items())[: max(rows - len(seen.running), 0)]:
        if number_ not in here:
            table.add_row(Text(f"  trial {number_}"), Text(""), Text(""), _since(trial.start / 1000))
    shown, every = table.row_count, len(seen.running) + sum(each not in here for each in trials)
    return table if shown == every else Group(table, Text(f"  and {every - shown} more"))


def _cells(spec: StudySpec, each: Running, fidelity: float | None) -> list[Text]:
    name = f"  trial {each.number}" + (f", {each.kind}" if each.kind else "")
    steps = "" if each.steps is None else f"step {each.steps}"
    if each.steps is not None and spec.fidelity is not None and fidelity is not None:
        steps = f"{spec.fidelity.name} {each.steps} of {fidelity:g}"
    own = [objective.metric for objective in spec.objectives if objective.metric in each.metrics]
    shown = own or list(each.metrics)[:1]
    value = ", ".join(f"{one_line(metric, 40)} {number(each.metrics[metric])}" for metric in shown)
    return [_cut(Text(name)), _cut(Text(one_line(steps, 40))), _cut(Text(value)), _since(each.since)]


def _since(start: float) -> Text:
    return Text(duration(int(max(time.time() - start, 0))), justify="right", no_wrap=True)

"""Shows a running study's progress and this project's warnings on a terminal or in a log."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from hpo_core.history.trial import TrialState
from hpo_core.study.spec import StudySpec
from hpo_flows.reports.terminal import say
from hpo_flows.reports.text import choice_line, status_line, trial_line
from hpo_flows.workers.output import log as printed

if TYPE_CHECKING:
    from hpo_flows.base.progress import Progress


class Warnings(logging.Handler):
    """Shows this project's warnings above the live progress, and the trials' output if requested.

    Without it they would be invisible, because of Prefect's logging configuration.
    """

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.addFilter(lambda record: record.levelno >= logging.WARNING or record.name == printed.name)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        lines = (line.expandtabs() for line in record.getMessage().split("\n"))
        text = "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines)
        if record.levelno < logging.WARNING:
            say(self._console, text)
        else:
            say(self._console, f"{record.levelname.lower()}: {text}", "yellow")


class LiveProgress:
    """Shows a study while it runs: a live line on a terminal; elsewhere, as in a scheduler's log, one line per trial.

    Args:
        spec: The study.
        console: The output; by default standard error.
        verbose: Also show what trials print.
    """

    def __init__(self, spec: StudySpec, console: Console | None = None, *, verbose: bool = False) -> None:
        self._spec, self._verbose = spec, verbose
        self._console = console or Console(stderr=True)
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        self._warnings = Warnings(self._console)
        self._told: set[int] = set()
        self._first = True
        self._told_choice = ""

    def __enter__(self) -> LiveProgress:
        logging.getLogger("hpo").addHandler(self._warnings)
        if self._verbose:
            printed.setLevel(logging.INFO)
        if self._console.is_terminal:
            self._live.start()
            self._live.update(Text(f"{self._spec.name}: opening the study ..."))
        else:
            say(self._console, f"{self._spec.name}: opening the study ...")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logging.getLogger("hpo").removeHandler(self._warnings)
        if self._verbose:
            printed.setLevel(logging.WARNING)
        self._live.stop()

    def __call__(self, progress: Progress) -> None:
        spec, history = self._spec, progress.history
        ended = [trial for trial in history if trial.state is not TrialState.RUNNING and trial.number not in self._told]
        self._told |= {trial.number for trial in ended}
        line = status_line(spec, history, progress.seconds)
        if progress.choice is not None and progress.choice.standings:
            told, self._told_choice = self._told_choice, choice_line(spec, progress.choice)
            if told != self._told_choice and not self._console.is_terminal:
                say(self._console, self._told_choice)
        line = self._told_choice or line
        if self._first:  # trials of earlier runs of the study are not shown
            self._first, ended = False, []
        for trial in ended:
            say(self._console, trial_line(spec, trial))
        if self._console.is_terminal:
            bar = ProgressBar(total=spec.stop.trials or None, completed=spec.ended(history), width=40)
            self._live.update(Group(Text(line), bar))
        elif ended:
            say(self._console, f"  {line}")

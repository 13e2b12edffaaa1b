"""Shows a study in Prefect: its story in the flow run's log, artifacts on its page, and events.

This is only a view: if Prefect refuses it, the study goes on, and one warning says so.
"""

from __future__ import annotations

import time

from prefect import get_run_logger

from hpo_core.history.history import History
from hpo_core.ledger.ledger import Ledger
from hpo_core.selection.evaluation import Training
from hpo_core.selection.final_choice import best_trial
from hpo_flows.loop.prefect_link import Link
from hpo_flows.loop.stages import Stages
from hpo_flows.loop.view.artifacts import StudyArtifacts
from hpo_flows.loop.view.events import StudyEvents
from hpo_flows.reports.news import News, trial_line
from hpo_flows.reports.text import confirm_line, status_line

EVERY_SECONDS = 30.0

ROOM = 160
"""A configuration that makes a line of the log longer than this is told by what differs from the best."""


class PrefectView:
    """The view of one flow run. Use it in the flow's own thread, where Prefect knows the flow run.

    Args:
        ledger: The study.
        link: The connection to Prefect's server.
        stages: What the study does.
    """

    def __init__(self, ledger: Ledger, link: Link, stages: Stages) -> None:
        self._ledger, self._link, self._stages = ledger, link, stages
        self._artifacts, self._events = StudyArtifacts(ledger), StudyEvents(ledger, link)
        self._due = 0.0
        self._refused = set[str]()
        self._news, self._first = News(), True
        self._stage = ""

    def tell(self, line: str) -> None:
        """Write a line to the flow run's log. Prefect sends it from a thread of its own."""
        if self._link.lost or "log" in self._refused:
            return
        try:
            get_run_logger().info("%s", line)
        except Exception as error:  # there is no flow run, for instance
            self._fail("log", error)

    def begin(self, training: Training) -> None:
        """Note that this flow starts a training."""
        if training.evaluation is None:
            self._events.own(training.run_id)

    def show(self, history: History, seconds: float, *, last: bool = False) -> None:
        """Tell what is new, and update the artifacts if that is due or this is the last time."""
        self._tell_news(history)
        if self._link.lost or "artifacts" in self._refused or (time.monotonic() < self._due and not last):
            return
        self._due = time.monotonic() + EVERY_SECONDS
        try:
            best = best_trial(history, self._stages.choice, self._ledger.spec.stands_for)
            self._artifacts.show(history, best, seconds, last=last)
        except Exception as error:  # Prefect's client raises many kinds
            self._fail("artifacts", error)

    def end(self, history: History, seconds: float, reason: str) -> None:
        """Show the study a last time, and tell why it ended."""
        self.show(history, seconds, last=True)
        self.tell(f"{self._ledger.spec.name} ends: {reason}")
        self._events.finished(history, reason, self._stages)

    def _tell_news(self, history: History) -> None:
        spec, news = self._ledger.spec, self._news.look(history)
        if self._first:
            self._first = False
            self.tell(f"{spec.name}: {status_line(spec, history, 0.0)}")
            self._events.started(history)
        if not self._stage and (line := confirm_line(spec, history)):
            self._stage = line
            self.tell(line)
        for ended in news:
            self.tell(trial_line(spec, ended, ROOM))
        self._events.look(history, news, self._stages)

    def _fail(self, what: str, error: Exception) -> None:
        self._refused.add(what)
        self._link.failed(error)

"""Shows a study in Prefect: its story in the flow run's log, and as artifacts its progress and its best trials.

This is only a view: if Prefect refuses it, the study goes on, and one warning says so.
"""

from __future__ import annotations

import re
import time
from typing import cast
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact

from hpo_core.history.history import History
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.note import as_markdown
from hpo_flows.loop.prefect_link import Link
from hpo_flows.reports.links import run_url
from hpo_flows.reports.news import News, trial_line
from hpo_flows.reports.text import confirm_line, mean_text, ranked, show, status_line

EVERY_SECONDS = 30.0

BEST, COLUMNS = 10, 6

ROOM = 160
"""A configuration that makes a line of the log longer than this is told by what differs from the best."""


def share_done(ledger: Ledger, history: History, seconds: float) -> float:
    """The study's progress in percent, by the stop rule that is closest to holding."""
    stop = ledger.spec.stop
    done = [0.0]
    if stop.trials is not None:
        done.append(ledger.spec.ended(history) / stop.trials)
    if stop.minutes is not None:
        done.append(seconds / (60 * stop.minutes))
    return 100 * min(max(done), 1.0)


def best_trials(ledger: Ledger, history: History, seconds: float) -> str:
    """The study in Markdown: a status line and a table of the best trials."""
    spec = ledger.spec
    names = spec.search_space.free[:COLUMNS]
    uri, experiment = ledger.store.uri, ledger.study_run.experiment
    link = run_url(uri, experiment, ledger.study_run.id)
    lines = [
        f"**{as_markdown(spec.name)}**: {as_markdown(status_line(spec, history, seconds))}",
        "",
        f"[The study in MLflow]({link})" if link else f"MLflow run `{ledger.study_run.id}` (`hpo ui` opens MLflow).",
        "",
        f"| trial | {as_markdown(spec.metric)} | {' | '.join(map(as_markdown, names))} | MLflow |",
        "| ---: | ---: |" + " --- |" * (len(names) + 1),
    ]
    for trial in ranked(history)[:BEST]:
        link = run_url(uri, experiment, trial.run_id)
        cells = [str(trial.number), mean_text(spec, history, trial)]
        cells += [as_markdown(show(trial.config[name])) if name in trial.config else "" for name in names]
        lines.append(f"| {' | '.join(cells)} | {f'[run]({link})' if link else f'`{trial.run_id[:8]}`'} |")
    return "\n".join(lines)


class PrefectView:
    """The log and the artifacts of one flow run. Use it in the flow's own thread, where Prefect knows the flow run.

    Args:
        ledger: The study.
        link: The connection to Prefect's server.
    """

    def __init__(self, ledger: Ledger, link: Link) -> None:
        self._ledger, self._link = ledger, link
        self._key = re.sub(r"[^a-z0-9]+", "-", ledger.spec.name.lower()).strip("-") or "study"
        self._progress: UUID | None = None
        self._due = 0.0
        self._failed = False
        self._news, self._first = News(), True
        self._stage = ""

    def _unavailable(self) -> bool:
        return self._link.lost or self._failed

    def tell(self, line: str) -> None:
        """Write a line to the flow run's log. Prefect sends it from a thread of its own."""
        if self._unavailable():
            return
        try:
            get_run_logger().info("%s", line)
        except Exception as error:  # there is no flow run, for instance
            self._fail(error)

    def _tell_news(self, history: History) -> None:
        spec, news = self._ledger.spec, self._news.look(history)
        if self._first:
            self._first = False
            self.tell(f"{spec.name}: {status_line(spec, history, 0.0)}")
        if not self._stage and (line := confirm_line(spec, history)):
            self._stage = line
            self.tell(line)
        for ended in news:
            self.tell(trial_line(spec, ended, ROOM))

    def _fail(self, error: Exception) -> None:
        self._failed = True
        self._link.failed(error)

    def show(self, history: History, seconds: float, *, last: bool = False) -> None:
        """Update Prefect's view, if that is due or this is the last time."""
        self._tell_news(history)
        if self._unavailable() or (time.monotonic() < self._due and not last):
            return
        self._due = time.monotonic() + EVERY_SECONDS
        try:
            share = 100.0 if last else share_done(self._ledger, history, seconds)
            text = status_line(self._ledger.spec, history, seconds)
            if self._progress is None:
                self._progress = cast(UUID, create_progress_artifact(share, f"{self._key}-progress", text))
            else:
                update_progress_artifact(self._progress, share, text)
            if history.complete:
                about = f"The best trials of the study {self._ledger.spec.name}, with their runs in MLflow."
                table = best_trials(self._ledger, history, seconds)
                create_markdown_artifact(table, f"{self._key}-best", description=about)
        except Exception as error:  # Prefect's client raises many kinds
            self._fail(error)

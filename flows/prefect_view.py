"""What Prefect shows of a study: how far it is, and its best trials with links to their MLflow runs.

A view only: whatever Prefect answers, the study goes on, and one warning says so.
"""

from __future__ import annotations

import logging
import re
import time
from typing import cast
from uuid import UUID

from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact

from flows.report import metric_value, number, ranked, show, status_line
from hpo_core.history import History
from hpo_core.ledger import Ledger
from hpo_core.tracking import redact

log = logging.getLogger("hpo")

EVERY_SECONDS = 30.0
BEST, COLUMNS = 10, 6


def run_url(ledger: Ledger, run: str) -> str | None:
    """Where a run stands in MLflow's UI; None where that is not known, since no server was named."""
    uri = redact(ledger.store.uri)
    return f"{uri}/#/experiments/{ledger.study_run.experiment}/runs/{run}" if uri.startswith("http") else None


def share_done(ledger: Ledger, history: History, seconds: float) -> float:
    """How far the study is by the stop rule that is nearest, from 0 to 100."""
    stop = ledger.spec.stop
    done = [0.0]
    if stop.trials is not None:
        done.append((len(history.complete) + len(history.failed)) / stop.trials)
    if stop.minutes is not None:
        done.append(seconds / (60 * stop.minutes))
    return 100 * min(max(done), 1.0)


def best_trials(ledger: Ledger, history: History, seconds: float) -> str:
    """The study in Markdown: a line on how far it is, and a table of the best trials."""
    spec = ledger.spec
    names = spec.search_space.free[:COLUMNS]
    link = run_url(ledger, ledger.study_run.id)
    lines = [
        f"**{_cell(spec.name)}**: {_cell(status_line(spec, history, seconds))}",
        "",
        f"[The study in MLflow]({link})" if link else f"MLflow run `{ledger.study_run.id}` (`hpo ui` opens MLflow).",
        "",
        f"| trial | {_cell(spec.metric)} | {' | '.join(map(_cell, names))} | MLflow |",
        "| ---: | ---: |" + " --- |" * (len(names) + 1),
    ]
    for trial in ranked(history)[:BEST]:
        link = run_url(ledger, trial.run_id)
        cells = [str(trial.number), number(metric_value(spec, trial))]
        cells += [_cell(show(trial.config[name])) if name in trial.config else "" for name in names]
        lines.append(f"| {' | '.join(cells)} | {f'[run]({link})' if link else f'`{trial.run_id[:8]}`'} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return re.sub(r"([|\\`*_\[\]<])", r"\\\1", " ".join(text.split()))


class PrefectView:
    """The artifacts of one flow run; to be used in the flow's own thread.

    Args:
        ledger: The study.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._key = re.sub(r"[^a-z0-9]+", "-", ledger.spec.name.lower()).strip("-") or "study"
        self._progress: UUID | None = None
        self._due = 0.0
        self._failed = False

    def show(self, history: History, seconds: float, *, last: bool = False) -> None:
        """Bring Prefect's view up to date, if it is time for that or the last time."""
        if self._failed or (time.monotonic() < self._due and not last):
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
                create_markdown_artifact(best_trials(self._ledger, history, seconds), f"{self._key}-best")
        except Exception as error:  # Prefect's client has many
            self._failed = True
            log.warning("Prefect shows no progress of %s: %s: %s", self._key, type(error).__name__, error)

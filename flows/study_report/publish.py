"""Writes the report to a folder, and from there to the study's run, every few minutes and at the end.

Nothing here can fail a study: whatever goes wrong is one warning.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from hpo_core.history import History
from hpo_core.ledger import Ledger
from hpo_core.store import Metric
from hpo_core.study import StudySpec
from hpo_core.trial import TrialState

log = logging.getLogger("hpo")

EVERY_SECONDS = 180.0
PAUSES = 20
"""A report that takes long is made less often: its work stays below a twentieth of the time."""
METRICS_A_REQUEST = 1_000
BEST_SO_FAR = "best_so_far"
FOLDER = "plots"
WRITTEN = "hpo.report"
"""The tag that says of which history the report is, so that a finished study does not get the same one again."""
SWITCH = "HPO_REPORT"
"""The environment variable that turns reports off where it is ``off``."""


def write_report(spec: StudySpec, history: History, folder: Path, *, library: bool = True) -> Path:
    """Write ``report.html``, and ``plots/`` with a page and a picture a plot.

    Args:
        spec, history: The study.
        folder: Where to; made if absent.
        library: Put plotly's script beside the pages in ``plots/``, which need it.

    Returns:
        The path of ``report.html``.
    """
    from flows.study_report.figures import plots
    from flows.study_report.page import PLOTLY, plot_page, plotly_script, report_page
    from flows.study_report.png import png

    drawn = plots(spec, history)
    beside = folder / FOLDER
    beside.mkdir(parents=True, exist_ok=True)
    for plot in drawn:
        picture = png(plot)
        (beside / f"{plot.name}.png").write_bytes(picture)
        (beside / f"{plot.name}.html").write_text(plot_page(plot, picture), encoding="utf-8")
    if library:
        (beside / PLOTLY).write_text(plotly_script(), encoding="utf-8")
    path = folder / "report.html"
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    path.write_text(report_page(spec, history, drawn, written), encoding="utf-8")
    return path


def best_so_far(spec: StudySpec, history: History) -> list[Metric]:
    """The incumbent's value after each complete trial: the step is the trial's number, the time its end.

    Only up to the first trial that still runs, so that no point has to be taken back.
    """
    from flows.study_report.figures import incumbents

    open_from = min((trial.number for trial in history.running), default=history.next_number)
    settled = History(trial for trial in history if trial.number < open_from)
    pairs = zip(settled.complete, incumbents(settled), strict=True)
    return [
        Metric(BEST_SO_FAR, spec.sign * (best.loss or 0.0), trial.end or trial.start, trial.number)
        for trial, best in pairs
    ]


class Publisher:
    """Keeps the report of one study in MLflow as new as it has to be; used by one thread.

    Args:
        ledger: The study.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self._store = ledger, ledger.store.with_patience(5.0)
        self._due = time.monotonic() + EVERY_SECONDS
        self._digest = ledger.study_run.tags.get(WRITTEN, "")
        self._sent = 0  # points of best_so_far
        self._library_sent = False
        self._warned = False
        self._thread: threading.Thread | None = None

    def tick(self, history: History) -> None:
        """Write in the background what is due; returns at once."""
        if time.monotonic() < self._due or (self._thread is not None and self._thread.is_alive()):
            return
        self._due = time.monotonic() + EVERY_SECONDS
        self._thread = threading.Thread(target=self.publish, args=[history], name="report", daemon=True)
        self._thread.start()

    def finish(self, history: History) -> None:
        """Write the last report; waits for it, and for one that is just being written."""
        if self._thread is not None:
            self._thread.join()
        self.publish(history)

    def publish(self, history: History) -> None:
        """Write the report and the curve of the incumbent, if there is anything new to show."""
        ended = any(trial.state is not TrialState.RUNNING for trial in history)
        if os.environ.get(SWITCH) == "off" or not ended or history.digest == self._digest:
            return
        began = time.monotonic()
        try:
            self._publish(history)
        except Exception as error:  # plotly, matplotlib, the artifact store: each has its own
            (log.debug if self._warned else log.warning)(
                "the report of %s could not be written: %s: %s", self._ledger.spec.name, type(error).__name__, error
            )
            self._warned = True
        else:
            self._digest = history.digest
        self._due = time.monotonic() + max(EVERY_SECONDS, PAUSES * (time.monotonic() - began))

    def _publish(self, history: History) -> None:
        run, spec = self._ledger.study_run.id, self._ledger.spec
        points = best_so_far(spec, history)
        while batch := points[self._sent : self._sent + METRICS_A_REQUEST]:
            self._store.log(run, batch, {}, {})
            self._sent += len(batch)
        with tempfile.TemporaryDirectory() as folder:
            report = write_report(spec, history, Path(folder), library=not self._library_sent)
            self._store.upload(run, report, "")
            self._store.upload(run, report.parent / FOLDER, FOLDER)
        self._library_sent = True
        self._store.log(run, [], {}, {WRITTEN: history.digest})

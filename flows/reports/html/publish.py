"""Writes the report to a folder and uploads it to the study's run, every few minutes and at the end.

Nothing here can fail a study: the first error is one warning. plotly, behind the figures, is imported only when a
report is written.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from hpo_core.champion.challenge import Challenge
from hpo_core.history.front import REFERENCE_TRIALS
from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.store import Metric
from hpo_core.ledger.study_run import why_ended
from hpo_core.ledger.tags import Tag
from hpo_core.selection.final_choice import Choice, best_front
from hpo_core.study.spec import StudySpec
from hpo_flows.reports.front import front_csv, front_json
from hpo_flows.reports.html.curves import CurveReader, Curves
from hpo_flows.reports.html.place import Place

log = logging.getLogger("hpo")

SOON_SECONDS = 5.0
"""How long a study that a signal has ended waits for its last report."""

EVERY_SECONDS = 180.0

PAUSES = 20
"""After a report, the pause is at least this many times its duration, so that reports take a twentieth of the time."""

METRICS_A_REQUEST = 1_000

MOST_POINTS = 2_000
"""About how many points are sent of a longer curve of the study, besides all at which it changes."""

TABLE = "pareto.json"
"""The artifact with the Pareto front."""

MOST_NUMBERS = 500
"""How many trials of a front a tag can hold."""

BEST_SO_FAR, HYPERVOLUME = "best_so_far", "hypervolume"

WRITTEN = Tag.REPORT
"""The tag with the state that the report shows, so that a finished study does not get the same report again."""

SWITCH = "HPO_REPORT"
"""The environment variable that turns reports off if it is ``off``."""


def write_report(
    spec: StudySpec,
    history: History,
    folder: Path,
    place: Place | None = None,
    curves: Curves | None = None,
    choice: Choice | None = None,
    challenge: Challenge | None = None,
    ended: str = "",
) -> Path:
    """Write ``report.html`` to a folder, which is created if absent; returns its path.

    Args:
        spec, history: The study.
        folder: Where to write.
        place: Where the study is in MLflow; without it, trials have no links.
        curves: The trials' learning curves. Without them, the report draws rungs and milestones.
        choice: The state of the final choice, if the study asks for one.
        challenge: The state of the comparison with the champion, if the study asks for one.
        ended: Why the study has ended, if that is known.
    """
    from hpo_flows.reports.html.figures import past_of
    from hpo_flows.reports.html.page import report_page

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.html"
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    past = past_of(spec, history, curves, choice, challenge, ended)
    path.write_text(report_page(past, place, written), encoding="utf-8")
    return path


def place_of(ledger: Ledger) -> Place:
    """Where a study is in MLflow."""
    run = ledger.study_run
    return Place(ledger.store.uri, run.experiment, run.id)


def best_so_far(spec: StudySpec, history: History) -> list[Metric]:
    """The incumbent's value after each complete trial: the step is the trial's number, the time its end.

    It ends at the first trial that still runs, and leaves repeats out, so that no point has to be revised. With several
    metrics there is none.
    """
    if spec.metrics:
        return []
    from hpo_flows.reports.html.figures.past import incumbents

    settled = _settled(history)
    pairs = zip(settled.complete, incumbents(settled), strict=True)
    return _without_most(
        [
            Metric(BEST_SO_FAR, spec.sign * (best.loss or 0.0), trial.end or trial.start, trial.number)
            for trial, best in pairs
        ]
    )


def hypervolumes(spec: StudySpec, history: History) -> list[Metric]:
    """The hypervolume after each trial of the highest fidelity, as :func:`best_so_far`; none with one metric.

    It begins once its reference is known for good. A trial that is trained further than all before it begins it anew.
    """
    settled = _settled(history)
    if not spec.metrics or len(settled.complete) < REFERENCE_TRIALS:
        return []
    pairs = settled.hypervolumes()
    return _without_most([Metric(HYPERVOLUME, value, trial.end or trial.start, trial.number) for trial, value in pairs])


def _without_most(points: list[Metric]) -> list[Metric]:
    """A curve of steps without most of the points at which nothing changes, if there are very many.

    Those that stay are the same as the curve grows, but for every other one each time its length has doubled.
    """
    every = 2 ** max(math.ceil(math.log2(max(len(points), 1) / MOST_POINTS)), 0)
    values = [math.nan, *(point.value for point in points), math.nan]
    turns = [not values[i] == values[i + 1] == values[i + 2] for i in range(len(points))]
    return [point for point, turn in zip(points, turns, strict=True) if turn or point.step % every == 0]


def write_front(spec: StudySpec, front: Sequence[Trial], folder: Path) -> list[Path]:
    """Write a Pareto front to a folder, as the table that MLflow shows and as CSV; nothing with one metric."""
    if not spec.metrics or not front:
        return []
    table, csv = folder / TABLE, folder / "pareto.csv"
    table.write_text(front_json(spec, front), encoding="utf-8")
    csv.write_text(front_csv(spec, front), encoding="utf-8", newline="")
    return [table, csv]


def front_tags(spec: StudySpec, front: Sequence[Trial]) -> dict[str, str]:
    """The tags of the study's run that say which trials are on the front, and that its artifact is a table."""
    if not spec.metrics or not front:
        return {}
    numbers = [str(trial.number) for trial in front]
    listed = json.dumps([{"path": TABLE, "type": "table"}])
    return {Tag.FRONT: " ".join(numbers[:MOST_NUMBERS]), "mlflow.loggedArtifacts": listed}


def reference_tag(spec: StudySpec, history: History) -> dict[str, str]:
    """The tag with the corner from which the hypervolume counts; none with one metric."""
    values = zip(spec.objectives, _settled(history).reference)  # noqa: B905  (one metric has no reference)
    corner = {each.metric: each.sign * loss for each, loss in values}
    return {Tag.REFERENCE: json.dumps(corner)} if corner else {}


def _settled(history: History) -> History:
    """The trials before the first one that still runs, without repeats."""
    open_from = min((trial.number for trial in history.running), default=history.next_number)
    return History(trial for trial in history if trial.number < open_from and trial.repeat_of is None)


class Publisher:
    """Keeps one study's report in MLflow up to date. Call it from one thread.

    Args:
        ledger: The study.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self._store = ledger, ledger.store.with_patience(5.0)
        self._due = time.monotonic() + EVERY_SECONDS
        self._digest = ledger.study_run.tags.get(WRITTEN, "")
        self._curves = CurveReader(self._store, ledger.spec)
        self._sent = -1  # the step of the last point of the study's curve
        self._warned = False
        self._thread: threading.Thread | None = None

    def tick(self, history: History, choice: Choice | None = None, challenge: Challenge | None = None) -> None:
        """Write a report in the background if one is due; returns at once."""
        if time.monotonic() < self._due or (self._thread is not None and self._thread.is_alive()):
            return
        self._due = time.monotonic() + EVERY_SECONDS
        what = [history, choice, challenge]
        self._thread = threading.Thread(target=self.publish, args=what, name="report", daemon=True)
        self._thread.start()

    def finish(self, history: History, choice: Choice | None = None, challenge: Challenge | None = None) -> None:
        """Write the last report and wait for it, and for one that is being written."""
        if self._thread is not None:
            self._thread.join()
        self.publish(history, choice, challenge)

    def finish_soon(self, history: History, choice: Choice | None = None, challenge: Challenge | None = None) -> None:
        """Write the last report after a signal: for a few seconds at most, and never with an error."""

        def finish() -> None:
            with contextlib.suppress(Exception):
                self.finish(history, choice, challenge)

        # Waiting for a thread cannot put off a second signal, which ends the process wherever it is.
        thread = threading.Thread(target=finish, name="last report", daemon=True)
        thread.start()
        thread.join(SOON_SECONDS)

    def publish(self, history: History, choice: Choice | None = None, challenge: Challenge | None = None) -> None:
        """Write the report and the incumbent's curve, if there is anything new."""
        ended = any(trial.state is not TrialState.RUNNING for trial in history)
        why = why_ended(self._ledger.study_run, history)
        digest = _digest(history, choice, challenge, why)
        if os.environ.get(SWITCH) == "off" or not ended or digest == self._digest:
            return
        began = time.monotonic()
        try:
            self._publish(history, choice, challenge, why)
            tags = front_tags(self._ledger.spec, best_front(history, choice))
            self._store.log(self._ledger.study_run.id, [], {}, tags | {WRITTEN: digest})
        except Exception as error:  # plotly and the artifact store raise their own kinds
            (log.debug if self._warned else log.warning)(
                "the report of %s could not be written: %s: %s", self._ledger.spec.name, type(error).__name__, error
            )
            self._warned = True
        else:
            self._digest = digest
        self._due = time.monotonic() + max(EVERY_SECONDS, PAUSES * (time.monotonic() - began))

    def _publish(self, history: History, choice: Choice | None, challenge: Challenge | None, why: str) -> None:
        run, spec = self._ledger.study_run.id, self._ledger.spec
        points = hypervolumes(spec, history) or best_so_far(spec, history)
        points = [point for point in points if point.step > self._sent]
        for i in range(0, len(points), METRICS_A_REQUEST):
            batch = points[i : i + METRICS_A_REQUEST]
            self._store.log(run, batch, {}, reference_tag(spec, history))
            self._sent = batch[-1].step
        with tempfile.TemporaryDirectory() as folder:
            place, curves = place_of(self._ledger), self._curves.read(history)
            report = write_report(spec, history, Path(folder), place, curves, choice, challenge, why)
            self._store.upload(run, report, "")
            for path in write_front(spec, best_front(history, choice), Path(folder)):
                self._store.upload(run, path, "")


def _digest(history: History, choice: Choice | None, challenge: Challenge | None, why: str) -> str:
    """Changes with the trials, the folds, the verdict and the end."""
    done = [] if choice is None else [choice.folds[0], int(choice.test is not None)]
    if challenge is not None:
        done += [challenge.pending, 0 if challenge.record is None else challenge.record.number]
    return ".".join([history.digest, *map(str, done), *(["ended"] if why else [])])


__all__ = ["Publisher", "write_report"]

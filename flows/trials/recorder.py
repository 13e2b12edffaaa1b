"""Records an attempt at a trial: batches what the objective reports, writes it to MLflow, and ends the run."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from hpo_core.base.errors import TrackingError, TrackingRefusal
from hpo_core.base.storable import bad_metric, plain
from hpo_core.history.spending import SECONDS, usable
from hpo_core.ledger.ledger import Report
from hpo_core.ledger.note import trial_note
from hpo_core.ledger.ownership import RENEW_SECONDS, new_lease
from hpo_core.ledger.store import FAILED, FINISHED, RUNNING, Dataset, Metric
from hpo_core.ledger.tags import (
    CHECKPOINT_KEPT,
    FOLD_VALUE,
    INTERNAL,
    MEASURED_SECONDS,
    MODEL,
    MODEL_KEPT,
    NOTE,
    RUNG,
    SNAPSHOT_FOLDER,
    TABLES,
    Tag,
    refused_tag,
)
from hpo_core.selection.evaluation import Training
from hpo_core.study.editions import params_of
from hpo_core.tracking.trial_run import Logged
from hpo_flows.objectives.messages import Artifact, DatasetUsed, FoldScore, FromObjective, LoggedByMlflow, NotKept, Use
from hpo_flows.objectives.messages import Report as Reported
from hpo_flows.reports.text import number, one_line
from hpo_flows.trials.judge import Judge
from hpo_flows.trials.session import CHAMPION_FIELD, Session
from hpo_flows.trials.trace import Trace
from hpo_flows.workers.job import TrialFailed
from hpo_flows.workers.output import PRINTED, Printed

log = logging.getLogger("hpo")


FIRST_WRITE_SECONDS = 2.0

WRITE_SECONDS = 10.0
"""Params and curves are written in batches. A one-second trial costs one request for both; a long one shows its params
soon and its curves every ten seconds, however many epochs it reports."""


def as_reason(text: str) -> str:
    """Why a trial ended, as MLflow stores it."""
    return plain(text)[:1000]


class TrialLog:
    """Collects what an attempt at a trial reports and writes it in few requests.

    Args:
        session: The session it belongs to.
        training: What is trained.
        tags: Initial tags.
        folder: The attempt's own folder.
    """

    def __init__(self, session: Session, training: Training, tags: Mapping[str, str], folder: Path) -> None:
        ledger = session.ledger
        self._folder, self.name = folder, f"trial {training.number} of {ledger.spec.name}"
        self._ledger, self._training = ledger, training
        self._spool, self._unsent = session.spool, session.folder / "unsent"
        self._params = params_of(ledger.spec, training)
        self._metrics: list[Metric] = []
        self._tags = dict(tags)
        self._last_step = 0
        self._logged_steps: dict[str, int] = {}  # the highest step of what the objective logged by MLflow itself
        self._latest: dict[str, tuple[int, float]] = {}  # by metric: its last step and value in this attempt
        self._refused: dict[str, str] = {}
        self._judge = Judge(ledger.spec, training.trial, session.rungs, session.warn)
        self.use: Use | None = None  # what the objective used, once it has ended
        self._checkpoint: Path | None = None  # the archive to keep for trials that resume from this one
        self._artifacts: list[tuple[Path, str]] = []
        self._datasets: list[Dataset] = []
        self._not_kept: list[str] = []
        self._tables: list[dict[str, str]] = []
        self._session = session
        self.printed = ""  # by this attempt
        self._trace = session.traces.setdefault(training.run_id, Trace())
        self._stale = dict(self._trace.steps)
        for key in self._stale:
            if key.startswith(INTERNAL):  # void it now: another flow may read it before this attempt ends
                self._add(key, math.nan, self._trace.tick(), 0, ours=True)
        self._renewed = time.monotonic()
        self._due = self._renewed + FIRST_WRITE_SECONDS

    def receive(self, message: FromObjective) -> bool:
        """Handle a message from the objective; returns whether the trial may continue."""
        match message:
            case Artifact(path, folder, kind):
                self._artifacts.append((Path(path), folder))
                if kind == "table":
                    self._tables.append({"path": str(PurePosixPath(folder, Path(path).name)), "type": kind})
                    self._tags[TABLES] = json.dumps(self._tables)
            case NotKept(what, reason):
                self._note_not_kept(what, reason)
            case LoggedByMlflow(logged):
                self._note_logged(logged)
            case DatasetUsed(dataset):
                self._datasets.append(dataset)
            case Use():
                self.use = message
            case Reported(step, metrics, milestone):
                return self._take_report(step, metrics, milestone)
            case FoldScore():
                return self._take_fold(message)
        return True

    def _note_not_kept(self, what: str, reason: str) -> None:
        """Say in the run, and once per reason on the screen, that something of the best trial is missing."""
        missing = f"{what}: {one_line(reason)}"
        self._not_kept.append(missing)
        self._tags[Tag.NOT_KEPT] = plain("; ".join(self._not_kept))[:1000]
        self._session.warn(f"of the best trial, {missing} (the tag {Tag.NOT_KEPT} of its run)")

    def _note_logged(self, logged: Logged) -> None:
        """Log the result at a higher step than the objective used by MLflow, which shows the value of the highest."""
        self._ledger.share(self._training.run_id)
        for key, step in logged.steps.items():
            self._logged_steps[key] = max(step, self._logged_steps.get(key, 0))
        self._trace.time = max(self._trace.time, logged.time)
        for key in logged.clashes:
            self._session.warn(
                f"the objective logs the param {plain(key)!r} by MLflow with another value than the configuration's, "
                f"which stays (the tag {Tag.PARAMS_REFUSED} of its run)"
            )
        if logged.clashes:
            clashes = "; ".join(f"{key}={value}" for key, value in sorted(logged.clashes.items()))
            self._tags[Tag.PARAMS_REFUSED] = plain(clashes)[:1000]

    def note_seconds(self, seconds: float) -> None:
        """Add to how long the trial trained, all attempts together."""
        self._trace.seconds += seconds

    def note_usage(self, usage: Mapping[str, float], step: int) -> None:
        """Queue what the trial uses now; it is written with whatever is due next."""
        for key, value in usage.items():
            self._add(key, value, self._trace.tick(), step, ours=True)

    def _note_step(self, step: int, metrics: Mapping[str, float]) -> int:
        """Queue the metrics of a step; returns its time."""
        now = self._trace.tick()
        self._last_step = max(self._last_step, step)
        for key, reported in metrics.items():
            self._add(key, reported, now, step)
        self._session.board.note(self._training.run_id, step, metrics)
        return now

    def _take_fold(self, scored: FoldScore) -> bool:
        now = self._note_step(scored.fold.index, scored.metrics)
        if self._ledger.spec.metrics:
            return True  # no fold of one metric says that a trial is worse in all
        self._tags[Tag.FOLDS_WANTED] = str(scored.fold.of)
        if (value := scored.metrics.get(self._ledger.spec.metric)) is not None:
            # Each under a name of its own, since a search returns only the latest value of a metric.
            self._add(f"{FOLD_VALUE}{scored.fold.index + 1}", value, now, 0, ours=True)
        return self._judge.judge_fold(scored)

    def _take_report(self, step: int, metrics: Mapping[str, float], milestone: int | None) -> bool:
        now = self._note_step(step, metrics)
        self._judge.note(step, metrics)
        if milestone is None:
            return True
        go_on = self._judge.judge(milestone)
        if (value := self._judge.rung(milestone)) is not None:
            # Always at step 0, so that MLflow's latest value is the one of the latest attempt.
            self._add(f"{RUNG}{milestone}", value, now, 0, ours=True)
            self._due = 0.0  # write at the next tick, with all else that waits, so that other flows see it
        return go_on

    def _add(self, key: str, value: float, time: int, step: int, *, ours: bool = False) -> None:
        """Queue a value. A metric whose name MLflow cannot hold is left out, and nothing else is."""
        if key not in self._refused and not ours and (problem := bad_metric(key)):
            self._leave_out({key: problem})
        if key in self._refused:
            return
        self._metrics.append(Metric(key, value, time, step))
        if step >= self._latest.get(key, (step, 0.0))[0]:
            self._latest[key] = step, value

    def _leave_out(self, refused: Mapping[str, str]) -> None:
        for key, problem in refused.items():
            if key not in self._refused:
                self._session.warn(f"MLflow cannot keep the metric {plain(key)!r}, so it is left out: {problem}")
        self._refused |= refused
        self._metrics = [metric for metric in self._metrics if metric.key not in self._refused]
        self._tags |= refused_tag(self._refused)

    def attach(self, name: str, text: str) -> None:
        """Keep a text as an artifact of the run. If the disk refuses, only warn: recording the outcome matters more."""
        path = self._folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(plain(text), encoding="utf-8")
        except OSError as error:
            log.warning("%s of trial %d cannot be kept: %s", name, self._training.number, error)
        else:
            self._artifacts.append((path, ""))

    def keep_for_next(self, attempt: int, reason: str) -> None:
        """Hand this attempt's output to the next one, under a heading with the reason it ended."""
        self._trace.printed.add(plain(f"=== attempt {attempt}: {reason} ===\n{self.printed}\n").encode())

    def _attach_output(self) -> None:
        """Keep what the trial printed, if anything."""
        earlier = self._trace.printed
        if earlier.text():
            earlier.add(plain(f"=== the last attempt ===\n{self.printed}").encode())
            self.attach(PRINTED, earlier.text())
        elif self.printed:
            self.attach(PRINTED, self.printed)
        self.printed, self._trace.printed = "", Printed()

    def tick(self) -> None:
        """Write what is due. The lease is renewed in the same request, or in its own if nothing else is due.

        If the store does not respond, training continues and everything is kept for the next tick.

        Raises:
            TrackingRefusal: MLflow refuses the run itself, for example because it was deleted.
        """
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + WRITE_SECONDS
        if not (self._metrics or self._params or now - self._renewed > RENEW_SECONDS):
            return
        lease = {Tag.LEASE: new_lease()}
        self._trace.note(self._metrics)
        try:
            refused = self._ledger.write(self._report(RUNNING, self._tags | lease), patience=0.0)
        except TrackingError as error:
            log.warning("trial %d goes on without MLflow: %s", self._training.number, error)
        else:
            self._renewed = now
            self._metrics, self._params, self._tags = [], {}, {}
            if refused:
                self._leave_out(refused)

    def finish(self, status: str, metrics: Mapping[str, float] | None = None, reason: str = "", **tags: str) -> None:
        """Write what is left and end the run. It goes to disk first, to survive a crash of the server or this process.

        The result is logged at the highest step that any attempt reported, with a later timestamp than any value there.

        Raises:
            TrialFailed: MLflow refuses the study's metric; the run is marked as failed and says so.
            TrackingError: MLflow does not respond; the result waits in the spool.
            TrackingRefusal: MLflow refuses the run itself.
        """
        self._add_last(metrics or {})
        self._tags |= {f"hpo.{key}": plain(value) for key, value in tags.items()}
        spec = self._ledger.spec
        no_value = status == FINISHED and (ours := spec.first_of(self._refused))
        if no_value:
            status, reason = FAILED, f"MLflow refused {ours}: {self._refused[ours]}"
        self._conclude(status, reason)
        waiting = self._save(status)
        self._attach_output()
        try:
            if self._artifacts or self._checkpoint is not None:
                self._upload()
            for dataset in self._datasets:
                self._note_dataset(dataset)
            refused = self._ledger.write(self._report(status, self._tags))
        except TrackingRefusal:
            self._forget(waiting)
            raise
        self._forget(waiting)
        self._session.traces.pop(self._training.run_id, None)
        if refused:
            self._leave_out(refused)
        if no_value or (status == FINISHED and spec.first_of(refused)):
            ours = spec.first_of(self._refused)
            raise TrialFailed(f"MLflow refused {ours}: {self._refused[ours]}", retry=False)

    def _add_last(self, metrics: Mapping[str, float]) -> None:
        """Add the result's metrics, what was measured, and what overwrites values of earlier attempts."""
        now, last = self._trace.tick(), max([self._last_step, *self._stale.values()])
        for key, value in metrics.items():
            self._add(key, value, now, max(last, self._logged_steps.get(key, 0)))
        if self._ledger.spec.cost == SECONDS and self._trace.seconds:
            self._add(MEASURED_SECONDS, self._trace.seconds, now, 0, ours=True)
        for key, step in self._stale.items():  # MLflow still shows these as the latest
            own = self._latest.get(key, (-1, math.nan))
            if own[0] < step:
                self._add(key, own[1], now, step, ours=True)

    def _conclude(self, status: str, reason: str) -> None:
        """Add the tags that say how the training ended."""
        if status == FINISHED:
            self._tags[Tag.RESULT] = self._ledger.spec.metric
            outcome = self._judge.outcome()
            reason = outcome.pop("reason", reason)
            self._tags |= {f"hpo.{key}": value for key, value in outcome.items()}
        if reason:
            self._tags[Tag.REASON] = as_reason(reason)
        if self._training.evaluation is None:
            self._tags[NOTE] = trial_note(self._training.trial, self._ledger.study_run, self._outcome(status, reason))
        if self._refused:
            self._tags |= refused_tag(self._refused)

    def _outcome(self, status: str, reason: str) -> str:
        """How the trial ended, in words."""
        if status != FINISHED:
            return f"Failed: {reason}"
        values = self.latest
        names = [objective.metric for objective in self._ledger.spec.objectives]
        outcome = ", ".join(f"{name} {number(values.get(name, math.nan))}" for name in names)
        return f"{outcome}{f': {reason}' if reason else ''}"

    def _save(self, status: str) -> Path | None:
        """Keep the report on disk until MLflow has it. If the disk refuses, the result goes out without this backup."""
        try:
            return self._spool.put(self._report(status, self._tags))
        except OSError as error:
            self._session.warn(f"results go to MLflow unsecured, since they cannot be kept on disk meanwhile: {error}")
            return None

    @staticmethod
    def _forget(waiting: Path | None) -> None:
        if waiting is not None:
            with contextlib.suppress(OSError):  # another process of this machine may have delivered it
                waiting.unlink()

    def _report(self, status: str, tags: Mapping[str, str]) -> Report:
        return Report(self._training.run_id, self._metrics, self._params, tags, status)

    def _upload(self) -> None:
        """Upload the artifacts. Refused ones stay on disk and a tag says so; the result counts either way."""
        self._ledger.store.ping()  # waits for an outage to end, so a failure below is the artifact store's alone
        store = self._ledger.store.with_patience(5.0)
        for i, (path, folder) in enumerate(self._artifacts):
            try:
                store.upload(self._training.run_id, path, folder)
                if folder == MODEL:
                    self._tags[Tag.MODEL] = MODEL_KEPT
            except Exception as error:  # each artifact store has exceptions of its own
                self._note_refused(self._artifacts[i:], f"{type(error).__name__}: {one_line(str(error))}")
                break
        self._artifacts = []
        if self._checkpoint is not None:
            try:
                store.upload(self._training.run_id, self._checkpoint, SNAPSHOT_FOLDER)
                self._tags[Tag.CHECKPOINT] = CHECKPOINT_KEPT
            except Exception as error:  # each artifact store has exceptions of its own
                log.warning("the artifact store refuses the checkpoint of trial %d: %s", self._training.number, error)

    def _note_refused(self, left: Sequence[tuple[Path, str]], reason: str) -> None:
        """Set aside artifacts that the store refuses, and say so in the run, and once on the screen."""
        where = self._set_aside([path for path, _ in left])
        self._tags[Tag.ARTIFACTS_LOST] = plain(f"{where}: {reason}")[:500]
        if any(folder == MODEL for _, folder in left):
            self._note_not_kept("the model", f"the artifact store refuses it (the tag {Tag.ARTIFACTS_LOST})")
        self._session.warn(
            f"the artifact store refuses what trial {self._training.number} has logged, maybe that of others, too; it "
            f"is {where} (the tag {Tag.ARTIFACTS_LOST} of each run): {reason}",
            about=Tag.ARTIFACTS_LOST,
        )

    def _set_aside(self, files: Sequence[Path]) -> str:
        """Move files to a folder that outlives the attempt; returns where they are, as text for the user."""
        folder = self._unsent / self._training.run_id
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for file in files:
                shutil.move(file, folder / file.name)
        except OSError as error:
            return f"lost, since {folder} cannot be written ({error})"
        return f"kept in {folder}"

    def _note_dataset(self, dataset: Dataset) -> None:
        """Log which dataset the trial used; the study's run gets each dataset once per flow."""
        spec = self._ledger.spec
        runs = [self._training.run_id]
        if dataset not in self._session.datasets:
            self._session.datasets.append(dataset)
            runs.append(self._ledger.study_run.id)
        try:
            for run in runs:
                self._ledger.store.log_dataset(run, dataset, spec.objective)
        except TrackingRefusal as error:
            log.warning("MLflow refuses the data set %r of trial %d: %s", dataset.name, self._training.number, error)

    @property
    def latest(self) -> dict[str, float]:
        """The latest value of each metric that this attempt has reported."""
        return {name: value for name, (_, value) in self._latest.items()}

    def check_limits(self, metrics: Mapping[str, float]) -> None:
        """Check that the trial has logged every metric that has a limit, and its cost.

        Args:
            metrics: What the objective returned.

        Raises:
            TrialFailed: One is missing, or not finite; or the cost is not above 0.
        """
        latest = self.latest | dict(metrics)
        for limit in self._ledger.spec.limiting:
            if (value := latest.get(limit.metric)) is None:
                why = f"the objective neither returned nor reported {limit.metric!r}; return it, or remove its limit"
                raise TrialFailed(why, retry=False, blamed_key=f"limits.{limit.metric}")
            if not math.isfinite(value):
                raise TrialFailed(f"it has {limit.metric} = {value}, which has a limit", retry=False)
        cost = self._ledger.spec.cost
        if cost in ("", SECONDS):
            return
        if cost not in latest:
            why = f"the objective neither returned nor reported {cost!r}; return it, or give cost: seconds"
            raise TrialFailed(why, retry=False, blamed_key="cost")
        if usable(latest[cost]) is None:
            raise TrialFailed(f"it has {cost} = {latest[cost]}, and a cost is a finite number above 0", retry=False)

    def check(self) -> None:
        """Check that an evaluation for the champion did its job.

        Raises:
            TrialFailed: It logged no model, or did not score the one it was given.
        """
        phase = self._training.phase
        if phase == "seed" and all(folder != MODEL for _, folder in self._artifacts):
            why = "the objective logged no model; call trial.log_model(model, example)"
            if self._not_kept:
                why = "; ".join(self._not_kept)
            raise TrialFailed(why, retry=False, blamed_key=CHAMPION_FIELD)
        if phase == "champion" and "champion" not in (self.use or Use()).read:
            why = "the objective did not read trial.champion; if that is not None, score it and do not train"
            raise TrialFailed(why, retry=False, blamed_key=CHAMPION_FIELD)

    def keep_output(self, text: str) -> None:
        """Keep what the objective printed in this attempt."""
        self.printed = text

    def keep_checkpoint(self, archive: Path | None) -> None:
        """Upload an archive at the end, for trials that continue this one; None if there is none."""
        self._checkpoint = archive

    def give_up(self, reason: str) -> None:
        """End the trial as failed, and drop whatever it logged that is not written yet."""
        self._metrics, self._params, self._artifacts, self._datasets, self._checkpoint = [], {}, [], [], None
        self.printed = ""
        self.finish(FAILED, reason=reason)

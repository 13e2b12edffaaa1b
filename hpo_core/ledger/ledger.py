"""The ledger: decides how any number of flows share one study through MLflow without losing a result.

What is stored where:

* The **study** is a run with the tag ``hpo.role = study``. A **trial** is a run below it (``mlflow.parentRunId``) whose
  number and configuration never change. **Claims** are write-once params of one further run, kept in
  an experiment of its own (:data:`CLAIMS`) so that they do not crowd the tables of the study.
* A run is trial ``n`` if and only if the claim ``trial.n`` holds its id.

To reserve trial ``n``, a flow that knows the runs of all trials below ``n`` proposes a configuration, creates the run
with it, and then claims ``n`` for that run. Because the run exists *before* the claim, a flow that loses the claim
finds the winner's configuration on the next load. Because every flow knows all lower trials before proposing, no
configuration is claimed twice. A flow that dies between the two steps leaves a run without a claim; any flow that finds
it may claim the number on its behalf. ``docs/decisions/0001-claims.md`` has the argument in full.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from hpo_core.base.errors import InputError, TrackingError, TrackingRefusal
from hpo_core.base.source import source_tags
from hpo_core.base.storable import plain
from hpo_core.history.history import History
from hpo_core.history.trial import Proposal, Trial, TrialState
from hpo_core.ledger import ownership
from hpo_core.ledger.known_runs import number_of
from hpo_core.ledger.note import trial_note
from hpo_core.ledger.ownership import lost_because
from hpo_core.ledger.reader import LedgerReader
from hpo_core.ledger.store import FAILED, FINISHED, RUNNING, Metric, Run, Store
from hpo_core.ledger.tags import (
    CHECKPOINT,
    CHECKPOINT_DELETED,
    CHECKPOINT_LEFT,
    INTERRUPTED,
    NO_TOTAL,
    NOTE,
    SCHEMA,
    SEARCHED,
    Tag,
    fold,
    refused_tag,
)
from hpo_core.selection.evaluation import Training
from hpo_core.space.configuration import config_to_json
from hpo_core.study.editions import params_of

log = logging.getLogger("hpo")


@dataclass(frozen=True)
class Report:
    """What remains to be written for a trial, as plain data that can wait on disk."""

    run_id: str
    metrics: Sequence[Metric] = ()
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    status: str = RUNNING


class Ledger(LedgerReader):
    """One study in MLflow, as one flow sees it.

    Created by :func:`open_study` or :func:`find_study`. Not safe for several threads, except :meth:`write`.
    """

    def reserve(self, proposal: Proposal, history: History) -> Trial | None:
        """Make a proposal the next trial. Its run exists in MLflow before training starts.

        Args:
            proposal: What the strategy proposed.
            history: The history it was based on; the trial gets ``history.next_number``.

        Returns:
            The trial, or None if another flow was faster; then wait (``backoff.seconds()``), load and propose again.
        """
        number, spec = history.next_number, self.spec
        notes = {"strategy": spec.strategy.name} | dict(proposal.notes)
        proposed = Trial(
            number, proposal.config, TrialState.RUNNING, None, proposal.fidelity, proposal.parent, notes=notes
        )
        again = "" if proposed.repeat_of is None else f" ({proposed.repeat_of:04d} again)"
        name, tags = f"{spec.name}-{number:04d}{again}", self._tags_of(proposed, history)
        run = self.store.create_run(self.study_run.experiment, name, tags)
        if not self.claim(f"trial.{number}", run.id):
            self.store.delete_run(run.id)
            self._lost_number = number
            self._read_at = None  # so that the next look reads
            self.backoff.lost()
            return None
        self.backoff.won()
        self._trial_runs[number] = run.id
        self._owned.add(run.id)
        self._mine.add(run.id)
        self._put(run)
        self._own.begin(run)
        return self._as_trial(run)

    def _tags_of(self, proposed: Trial, history: History) -> dict[str, str]:
        """The tags with which the run of a proposed trial begins."""
        spec, notes = self.spec, proposed.notes
        facts = {
            "schema": SCHEMA,
            "seed": spec.seed,
            "history": history.digest,
            "total": spec.stop.trials or NO_TOTAL,
            **({"edition": spec.edition} if spec.edition else {}),
            "config": config_to_json(proposed.config),
            **{key: value for key, value in notes.items() if key not in SEARCHED},
        }
        tags = {
            "mlflow.parentRunId": self.study_run.id,
            **source_tags(spec.objective),
            NOTE: trial_note(proposed, self.study_run),
            Tag.ROLE: "trial",
            Tag.STUDY: spec.name,
            Tag.NUMBER: str(proposed.number),
            Tag.OWNER: self.owner,
            Tag.LEASE: ownership.new_lease(self.lease_seconds),
            **{f"{Tag.PREFIX}{key}": str(value) for key, value in notes.items() if key in SEARCHED},
            **fold(facts),
        }
        if proposed.fidelity is not None:
            tags[Tag.FIDELITY] = repr(proposed.fidelity)
        if proposed.parent is not None:
            tags[Tag.PARENT] = str(proposed.parent)
        return tags

    def write(self, report: Report, *, patience: float | None = None) -> dict[str, str]:
        """Write a report to MLflow: values first, status last. Idempotent, so it is safe to repeat after a failure.

        A metric that MLflow refuses is left out; the rest is still written. If it is one of the study's own, a trial
        that finished has no value and is marked failed.

        Args:
            report: What to write.
            patience: Seconds to keep retrying an unresponsive store; None for the store's default.

        Returns:
            The metrics left out, each with MLflow's reason.

        Raises:
            TrackingError: MLflow does not respond.
            TrackingRefusal: MLflow refuses the run, its params or its tags.
        """
        store = self.store if patience is None else self.store.with_patience(patience)
        refused: dict[str, str] = {}
        try:
            store.log(report.run_id, report.metrics, report.params, report.tags)
        except TrackingRefusal:
            if not report.metrics:
                raise
            store.log(report.run_id, [], report.params, {Tag.SCHEMA: SCHEMA})  # raises if the metrics are not to blame
            refused = _log_what_is_taken(store, report.run_id, report.metrics)
            if (ours := self.spec.first_of(refused)) and report.status == FINISHED:
                why = f"MLflow refused {ours}: {refused[ours]}"
                kept = {key: text for key, text in report.tags.items() if key not in (Tag.RESULT, NOTE)}
                report = replace(report, status=FAILED, tags=kept | {Tag.REASON: plain(why)[:1000]})
            store.log(report.run_id, [], {}, {**report.tags, **refused_tag(refused, report.tags)})
        if refused:
            self._own.forget(report.run_id)
        if report.status != RUNNING:
            store.set_status(report.run_id, report.status)
        self._own.note(report.run_id, report.metrics, report.params, report.tags, report.status, ownership.now_ms())
        return refused

    def share(self, run_id: str) -> None:
        """Note that somebody else writes to a run of this flow, too, so that its outcome has to be read."""
        self._own.forget(run_id)

    def release(self, trial: Trial) -> None:
        """Stop treating the trial as in training here; the next load reads its outcome if another process wrote it."""
        self._take_own()
        self.share(trial.run_id)
        self._mine.discard(trial.run_id)

    def stale(self) -> list[tuple[Run, int, str]]:
        """Running runs of the last load whose flow is presumed dead, with number and reason, sorted by number.

        A flow is presumed dead if its lease expired, or if its process is known to be gone from this machine.
        """
        found: list[tuple[Run, int, str]] = []
        for run in [self._runs[id] for id in self._runs.open - self._mine]:
            if (number := number_of(run)) is None:
                continue
            if why := lost_because(run):
                found.append((run, number, why))
        return sorted(found, key=lambda item: (item[1], item[0].id))

    def owners(self) -> set[str]:
        """The live processes that owned running trials at the last load."""
        dead = {run.id for run, _, _ in self.stale()}
        running = [run for run in map(self._runs.__getitem__, self._runs.open) if number_of(run) is not None]
        return {run.tags.get(Tag.OWNER, "") for run in running if run.id not in dead}

    def reap(self) -> list[Trial]:
        """Mark trials whose flow is dead as failed, with the reason, and return them.

        Also deletes runs that lost their claim and whose flow died before deleting them.
        """
        reaped: list[Trial] = []
        for run, number, why in self.stale():
            if run.id in self._losers:
                self.store.delete_run(run.id)
                self._drop(run.id)
                continue
            if not self.end_lost(run, why, self.params_of(run)):
                continue
            log.warning("trial %d of %s is lost: %s", number, self.spec.name, why)
            if (trial := self._as_trial(run)) is not None:
                reaped.append(trial)
        return reaped

    def take_over(self, run: Run, giver: str) -> bool:
        """Make this process the owner of a reserved run, so that others can tell whether it is alive.

        Args:
            run: The run, freshly read.
            giver: The process that reserved it.

        Returns:
            False if a third process already took it over; that process may be dead or still training.
        """
        if run.tags.get(Tag.OWNER) not in (giver, self.owner):
            return False
        self.write(Report(run.id, tags={Tag.OWNER: self.owner, Tag.LEASE: ownership.new_lease()}))
        return True

    def end_lost(self, run: Run, why: str, params: Mapping[str, str]) -> bool:
        """Mark a run whose flow is dead as failed, with the reason; False if it turned out to have a result."""
        return self._end(run, {Tag.REASON: f"lost: {why}", Tag.LOST: "died"}, params)

    def interrupt(self, run: Run, params: Mapping[str, str]) -> bool:
        """Mark a run as failed because its flow is being stopped; its training sees that and stops too."""
        return self._end(run, {Tag.REASON: INTERRUPTED, Tag.LOST: "interrupted"}, params)

    def _end(self, run: Run, tags: Mapping[str, str], params: Mapping[str, str]) -> bool:
        self.share(run.id)
        self.write(Report(run.id, params=params, tags=tags, status=FAILED))
        if Tag.RESULT in self.store.get(run.id).tags:
            # Race: it was slow, not dead, and finished just now. The result counts, whoever wrote the status last.
            self.store.set_status(run.id, FINISHED)
            return False
        return True

    def params_of(self, run: Run) -> dict[str, str]:
        """The params to log for a run's trial; none if its configuration is unreadable."""
        trial = self._as_trial(run)
        return {} if trial is None else params_of(self.spec, Training(trial))

    def discard_checkpoint(self, trial: Trial) -> None:
        """Delete a trial's checkpoint. On failure, log a warning and do not retry."""
        store, run, state = self.store.with_patience(5.0), self._runs[trial.run_id], CHECKPOINT_DELETED
        try:
            store.discard(run.id, CHECKPOINT)
        except Exception as error:  # each artifact store raises its own exceptions
            log.warning("the checkpoint of trial %d cannot be deleted: %s", trial.number, error)
            state = CHECKPOINT_LEFT
        try:
            store.log(run.id, [], {}, {Tag.CHECKPOINT: state})
        except (TrackingError, TrackingRefusal) as error:
            log.warning("MLflow still shows a checkpoint of trial %d: %s", trial.number, error)
        self._put(replace(run, tags={**run.tags, Tag.CHECKPOINT: state}))

    def discard(self) -> None:
        """Move the study, its trials and their evaluations to MLflow's trash, which frees its name.

        The study's own run goes first, so a crash half way leaves orphaned runs rather than a damaged study.

        Raises:
            InputError: A flow is working on it.
        """
        self.load()
        evaluations = self.evaluation_runs()
        if self.owners() or any(run.status == RUNNING and not lost_because(run) for run in evaluations):
            raise InputError(f"study {self.spec.name!r}", "a flow works on it now", "stop that first (hpo stop)")
        self.store.delete_run(self.study_run.id)
        with contextlib.suppress(TrackingRefusal):  # deleted before, by hand
            self.store.delete_run(self.claims_run)
        for run in [*self._search(), *evaluations]:
            self.store.delete_run(run.id)

    def evaluation_runs(self) -> list[Run]:
        """The runs below trials: folds, tests, re-trainings; one request."""
        return self.store.search([self.study_run.experiment], {Tag.FINAL: self.study_run.id})


def _log_what_is_taken(store: Store, run: str, metrics: Sequence[Metric]) -> dict[str, str]:
    """Write metrics of which MLflow refuses at least one; returns the refused ones, each with its reason.

    Bisects by metric name, since there may be thousands; values of one name stay together.
    """
    names = list(dict.fromkeys(metric.key for metric in metrics))
    refused: dict[str, str] = {}
    for half in (names[: len(names) // 2], names[len(names) // 2 :]):
        some = [metric for metric in metrics if metric.key in set(half)]
        if not some:
            continue
        try:
            store.log(run, some, {}, {})
        except TrackingRefusal as error:
            refused |= {half[0]: str(error)} if len(half) == 1 else _log_what_is_taken(store, run, some)
    return refused

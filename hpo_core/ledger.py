"""The ledger: the rules by which any number of flows share one study through MLflow, and lose nothing.

What stands where:

* The **study** is a run with the tag ``hpo.role = study``. A **trial** is a run below it (``mlflow.parentRunId``) whose
  number and configuration never change once it exists. **Claims** are write-once params of one further run, kept in
  an experiment of its own (:data:`CLAIMS`) so that they do not crowd the tables of the study.
* A run is trial ``n`` if and only if the claim ``trial.n`` holds its id.

To reserve trial ``n``, a flow that knows the runs of all trials below ``n`` proposes a configuration, creates the run
with it, and then claims ``n`` for that run. Because the run is there *before* the claim, whoever loses the claim finds
the winner's configuration on the next load; because everybody knows all lower trials before proposing, no
configuration is claimed twice. A flow that dies between the two steps leaves a run without a claim; whoever meets it
may claim its number on its behalf. ``docs/decisions/0001-claims.md`` has the argument in full.
"""

from __future__ import annotations

import json
import logging
import math
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeGuard

from hpo_core.configuration import Scalar, config_from_json, config_to_json
from hpo_core.errors import InputError, StudyUnknown, TrackingError, TrackingRefusal
from hpo_core.history import History
from hpo_core.prior import Source
from hpo_core.runs import KnownRuns, number_of, whole
from hpo_core.snapshot import Snapshot, pack, unpack
from hpo_core.space import SearchSpace
from hpo_core.store import FAILED, FINISHED, RUNNING, Metric, Run, Store
from hpo_core.study import StudySpec, compare, study_from, study_name
from hpo_core.trial import Proposal, Trial, TrialState, hypergradient_of

log = logging.getLogger("hpo")

CLAIMS = "hpo-claims"
"""The experiment that holds the claims of all studies of a tracking server."""

SCHEMA = "1"
RESULT = "hpo.result"
"""The tag that is written with a trial's last values: the run has a result, whatever its status says. A status can be
overwritten by a flow that thinks the trial dead; the tag tells the two apart, and a value from an epoch does not."""

TAG_LENGTH = 5_000
"""Long texts are cut into tags of this length; MLflow keeps 8,000 characters of one, older releases 5,000."""

LEASE_SECONDS = 240.0
RENEW_SECONDS = 60.0
"""A running trial renews its lease every minute, and is thought dead after four."""

ELECTION_SECONDS = 10.0
"""How long a flow that begins a study waits for another that began it earlier."""

MARGIN_MS = 200
"""So far behind ours the clocks of other machines may be at first; a ledger that meets slower ones allows for more."""

FEW = 200
"""So many known runs may be read once more to spare a second request."""

SNAPSHOT_FOLDER, SNAPSHOT = "hpo", "snapshot.json.gz"
SNAPSHOT_FROM = 200
"""The number of ended runs from which on a snapshot is worth its requests."""

CHECKPOINT_NAME = "checkpoint.zip"
CHECKPOINT = f"{SNAPSHOT_FOLDER}/{CHECKPOINT_NAME}"
"""The artifact of a trial's run that holds its checkpoint; whether it is there says the tag ``hpo.checkpoint``."""

CHECKPOINT_KEPT, CHECKPOINT_DELETED, CHECKPOINT_LEFT = "kept", "deleted", "left: it could not be deleted"

INTERRUPTED = "interrupted: the flow was stopped"

RUNG = "hpo.rung."
"""Before the number of steps: the name of the metric at a milestone. A search answers only the latest value of a
metric, so each milestone needs a key of its own."""

INFINITE = sys.float_info.max
"""MLflow's databases keep an infinity as the largest float of its sign."""

_TRIAL_TAGS = {
    "hpo.role", "hpo.schema", "hpo.study", "hpo.number", "hpo.fidelity", "hpo.reached", "hpo.parent", "hpo.seed",
    "hpo.history", "hpo.lease", "hpo.owner", "hpo.reason", "hpo.task_run", "hpo.task_run_url", RESULT,
}  # fmt: skip


def now_ms() -> int:
    return int(time.time() * 1000)


def split_tag(key: str, text: str) -> dict[str, str]:
    """A text as tags ``key``, ``key.1``, ... that MLflow does not cut."""
    parts = [text[i : i + TAG_LENGTH] for i in range(0, len(text), TAG_LENGTH)] or [""]
    return {key if i == 0 else f"{key}.{i}": part for i, part in enumerate(parts)}


def join_tag(key: str, tags: Mapping[str, str]) -> str:
    """The inverse of :func:`split_tag`; empty if there is none."""
    parts = [tags.get(key, "")]
    while (more := tags.get(f"{key}.{len(parts)}")) is not None:
        parts.append(more)
    return "".join(parts)


@dataclass(frozen=True)
class Owner:
    """The process that answers for a trial, precise enough to see on the same machine that it is gone."""

    host: str
    pid: int
    started: str

    @classmethod
    def of_this_process(cls) -> Self:
        return cls(_host(), os.getpid(), _process_start(os.getpid()))

    def __str__(self) -> str:
        return f"{self.host}/{self.pid}/{self.started}"

    @staticmethod
    def surely_gone(text: str) -> bool:
        """Whether an owner ran on this very machine and no longer does. False where that cannot be told."""
        host, pid, started = [*text.split("/"), "", ""][:3]
        return host == _host() and whole(pid, 12) is not None and bool(started) and _process_start(int(pid)) != started


def _host() -> str:
    """This machine since its last start, and this process namespace: containers may share a host name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
        namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        boot = namespace = ""
    return f"{socket.gethostname()}.{boot}.{namespace}"


def _process_start(pid: int) -> str:
    """When a process started, in the system's ticks; empty if there is none or the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


@dataclass(frozen=True)
class Report:
    """All that is still to be written of a trial, as plain data that can wait on disk."""

    run_id: str
    metrics: Sequence[Metric] = ()
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    status: str = RUNNING


class Ledger:
    """One study in MLflow, as one flow sees it.

    Made by :func:`open_study` or :func:`find_study`. Not safe for several threads, except :meth:`write`.
    """

    def __init__(self, store: Store, spec: StudySpec, study_run: Run) -> None:
        self.store, self.spec, self.study_run = store, spec, study_run
        self.claims_run = study_run.tags.get("hpo.claims", "")
        if not self.claims_run:
            raise InputError(f"study run {study_run.id}", "its tag hpo.claims is missing", "delete the run in MLflow")
        self.owner = str(Owner.of_this_process())
        self.prior: tuple[Source, ...] = ()  # what was imported; see hpo_core/warm_start.py
        self.skipped: dict[str, str] = {}  # run id -> why it is no trial
        self._runs = KnownRuns()
        self._unsettled: dict[str, Run] = {}  # runs that are new or changed since the last look at their claims
        self._known_below = 0  # every number below is known: its run, or that it is gone
        self._history: History | None = None  # None: something has changed since it was made
        self._snapshot_size = 0  # how many runs the snapshot holds that was last read or written
        self._mine: set[str] = set()  # runs that this flow trains now
        self._owned: set[str] = set()  # every run that this flow has claimed for itself
        self._trial_runs: dict[int, str] = {}  # number -> run, once known to be claimed
        self._losers: set[str] = set()  # runs whose number is another's
        self._missing: set[int] = set()  # numbers whose run is gone for good
        self._lost_number = -1  # the last number whose claim went to another flow
        self._margin = MARGIN_MS
        self._trials: dict[str, tuple[Run, Trial | None]] = {}

    # -- load ---------------------------------------------------------------------------------------------------

    def load(self) -> History:
        """The study as it stands now. Finished runs are read once; later loads ask for what started since.

        Doubtful runs (running, and without sign of a claim) are settled by claiming their number on their behalf,
        so every trial below ``next_number`` is known for certain.
        """
        if self._runs:
            self._read_news()
        elif not self._read_snapshot():
            self._read_all()
        self._settle()
        unknown = self._unknown()
        while unknown:
            # The run of such a number was there before the claim on it, so a full read finds it or it was deleted.
            newest, known = self._runs.newest, self._runs
            self._read_all()
            self._settle()
            late = [run.start for run in self._runs if run.id not in known]
            self._margin = max([self._margin, *(newest - start + 1_000 for start in late)])
            self._missing |= unknown & self._unknown()
            unknown = self._unknown()
        return self.history()

    def history(self) -> History:
        """The history as of the last load and of what this flow has reserved since."""
        if self._history is None:
            trials = [trial for run in self._runs if (trial := self._as_trial(run)) is not None]
            chosen = [trial for trial in trials if self._trial_runs.get(trial.number) == trial.run_id]
            next_number = max(self._runs.highest, *self._missing, -1) + 1
            self._history = History(chosen, next_number=next_number, prior=self.prior)
        return self._history

    def _search(self, since: int | None = None, **which: Any) -> list[Run]:
        """Runs below the study's. MLflow finds a tag by passing over all that bear it, so news are sought without."""
        few = since is not None and self.spec.experiment == self.spec.name  # what else starts there is logged by hand
        tags = {} if few or "ids" in which else self._below
        found = self.store.search([self.study_run.experiment], tags, since, **which)
        return found if tags else [run for run in found if self._below.items() <= run.tags.items()]

    @property
    def _below(self) -> dict[str, str]:
        return {"mlflow.parentRunId": self.study_run.id}

    def _read_all(self) -> None:
        self._restart(self._search())

    def _restart(self, runs: Iterable[Run]) -> None:
        """Forget all runs and take these."""
        self._runs, self._known_below, self._history = KnownRuns(runs), 0, None
        self._unsettled = {run.id: run for run in self._runs}

    def _read_news(self) -> None:
        """Read every run that is new, or that was not known to have ended."""
        since, running = self._runs.newest, [self._runs[id] for id in self._runs.open - self._mine]
        if (first := min([since, *(run.start for run in running)])) < since:
            # Usually they are among the newest. But one long training must not make every load read all the others.
            if len(self._runs) - self._runs.before(first - self._margin) <= FEW:
                since = first
        since -= self._margin
        old = [run.id for run in running if run.start < since and number_of(run) is not None]
        found = self._search(since) + (self._search(ids=old) if old else [])
        kept = {run.id for run in found} | self._mine
        for id in {*old, *(run.id for run in self._runs.since(since))} - kept:
            self._drop(id)
        for run in found:
            self._put(run)

    def _put(self, run: Run) -> None:
        if self._runs.put(run):
            self._unsettled[run.id] = run
            self._history = None

    def _drop(self, id: str) -> None:
        number = number_of(self._runs.drop(id))
        self._unsettled.pop(id, None)
        self._history = None
        if number is not None:
            self._known_below = min(self._known_below, number)

    def _unknown(self) -> set[int]:
        """Numbers that are certainly claimed, by a run that is not known."""
        end = max(self._lost_number, self._runs.highest) + 1
        unknown = {n for n in range(self._known_below, end) if not self._is_known(n)}
        self._known_below = min(unknown, default=max(end, self._known_below))
        return unknown

    def _is_known(self, number: int) -> bool:
        return self._trial_runs.get(number) in self._runs or number in self._missing

    def _settle(self) -> None:
        doubtful: list[tuple[int, Run]] = []
        for run in self._unsettled.values():
            number = number_of(run)
            if number is None or run.id in self._losers:
                continue
            # Only the holder of a claim trains, and only who trains logs params or ends a run.
            if run.id in self._owned or run.status != RUNNING or run.params:
                self._trial_runs.setdefault(number, run.id)
            else:
                doubtful.append((number, run))
        for number, run in sorted(doubtful, key=lambda item: (item[0], item[1].start, item[1].id)):
            if self._trial_runs.get(number) == run.id:
                continue
            if number not in self._trial_runs and self.store.claim(self.claims_run, f"trial.{number}", run.id):
                self._trial_runs[number] = run.id
            else:
                self._losers.add(run.id)
        self._unsettled.clear()

    def _as_trial(self, run: Run) -> Trial | None:
        cached = self._trials.get(run.id)
        if cached is None or cached[0] is not run:
            try:
                cached = (run, trial_of(run, self.spec))
                self.skipped.pop(run.id, None)
            except ValueError as error:
                cached = (run, None)
                self.skipped[run.id] = str(error)
            self._trials[run.id] = cached
        return cached[1]

    # -- reserve ------------------------------------------------------------------------------------------------

    def reserve(self, proposal: Proposal, history: History) -> Trial | None:
        """Make a proposal the next trial: its run exists in MLflow before anything is trained.

        Args:
            proposal: What the strategy answered.
            history: The history that it saw; the trial gets ``history.next_number``.

        Returns:
            The trial, or None if another flow was faster. Then load again and propose anew.
        """
        number, spec = history.next_number, self.spec
        notes = {"strategy": spec.strategy.name} | dict(proposal.notes)
        tags = {
            "mlflow.parentRunId": self.study_run.id,
            "mlflow.source.name": spec.objective,
            "hpo.role": "trial",
            "hpo.schema": SCHEMA,
            "hpo.study": spec.name,
            "hpo.number": str(number),
            "hpo.seed": str(spec.seed),
            "hpo.history": history.digest,
            "hpo.owner": self.owner,
            "hpo.lease": self.lease(),
            **split_tag("hpo.config", config_to_json(proposal.config)),
            **{f"hpo.{key}": str(value) for key, value in notes.items()},
        }
        if proposal.fidelity is not None:
            tags["hpo.fidelity"] = repr(proposal.fidelity)
        if proposal.parent is not None:
            tags["hpo.parent"] = str(proposal.parent)
        run = self.store.create_run(self.study_run.experiment, f"{spec.name}-{number:04d}", tags)
        if not self.store.claim(self.claims_run, f"trial.{number}", run.id):
            self.store.delete_run(run.id)
            self._lost_number = number
            return None
        self._trial_runs[number] = run.id
        self._owned.add(run.id)
        self._mine.add(run.id)
        self._put(run)
        return self._as_trial(run)

    def lease(self) -> str:
        """The lease of a trial that is alive now: when it runs out, in milliseconds since 1970."""
        return str(now_ms() + int(LEASE_SECONDS * 1000))

    # -- report -------------------------------------------------------------------------------------------------

    def write(self, report: Report, *, patience: float | None = None) -> None:
        """Write a report to MLflow: values first, the status last. Repeating it does no harm.

        Args:
            report: What to write.
            patience: Seconds for which a store that does not answer is asked again; None for the store's own.
        """
        store = self.store if patience is None else self.store.with_patience(patience)
        store.log(report.run_id, report.metrics, report.params, report.tags)
        if report.status != RUNNING:
            store.set_status(report.run_id, report.status)

    def release(self, trial: Trial) -> None:
        """This flow no longer trains the trial; what became of it is read at the next load."""
        self._mine.discard(trial.run_id)

    def stale(self) -> list[tuple[Run, int, str]]:
        """The running runs of the last load whose flow is dead, by number, and why it is thought so.

        A trial is dead if its lease has run out, or if its process is known to be gone from this machine.
        """
        found: list[tuple[Run, int, str]] = []
        for run in [self._runs[id] for id in self._runs.open - self._mine]:
            if (number := number_of(run)) is None:
                continue
            if why := lost_because(run):
                found.append((run, number, why))
        return sorted(found, key=lambda item: (item[1], item[0].id))

    def owners(self) -> set[str]:
        """The processes that answered for running trials at the last load, dead ones apart."""
        dead = {run.id for run, _, _ in self.stale()}
        running = [run for run in map(self._runs.__getitem__, self._runs.open) if number_of(run) is not None]
        return {run.tags.get("hpo.owner", "") for run in running if run.id not in dead}

    def reap(self) -> list[Trial]:
        """End the trials whose flow is dead, as failed ones with the reason; answers which.

        A run that lost its number and whose flow died before deleting it is deleted.
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
        """Make this process the one that answers for a reserved run; whoever looks can then tell whether it lives.

        Args:
            run: As it is now.
            giver: The process that reserved it.

        Returns:
            False if a third process has taken it over before, which has died or still trains.
        """
        if run.tags.get("hpo.owner") not in (giver, self.owner):
            return False
        self.write(Report(run.id, tags={"hpo.owner": self.owner, "hpo.lease": self.lease()}))
        return True

    def end_lost(self, run: Run, why: str, params: Mapping[str, str]) -> bool:
        """End a run whose flow is dead, as failed with the reason; False if it had a result all the same."""
        return self._end(run, {"hpo.reason": f"lost: {why}", "hpo.lost": "died"}, params)

    def interrupt(self, run: Run, params: Mapping[str, str]) -> bool:
        """End a run because its flow is being stopped; whoever trains it sees that and stops, too."""
        return self._end(run, {"hpo.reason": INTERRUPTED, "hpo.lost": "interrupted"}, params)

    def _end(self, run: Run, tags: Mapping[str, str], params: Mapping[str, str]) -> bool:
        self.write(Report(run.id, params=params, tags=tags, status=FAILED))
        if RESULT in self.store.get(run.id).tags:
            # It was slow, not dead, and has ended in this very moment: its result stands, whoever wrote last.
            self.store.set_status(run.id, FINISHED)
            return False
        return True

    def params_of(self, run: Run) -> dict[str, str]:
        """The params that a run's trial should show; none where its configuration is unreadable."""
        trial = self._as_trial(run)
        return {} if trial is None else self.spec.search_space.to_params(trial.config)

    def discard_checkpoint(self, trial: Trial) -> None:
        """Delete a trial's checkpoint. Where it cannot be, a warning says so, and it is not tried again."""
        store, run, state = self.store.with_patience(5.0), self._runs[trial.run_id], CHECKPOINT_DELETED
        try:
            store.discard(run.id, CHECKPOINT)
        except Exception as error:  # each artifact store has its own
            log.warning("the checkpoint of trial %d cannot be deleted: %s", trial.number, error)
            state = CHECKPOINT_LEFT
        try:
            store.log(run.id, [], {}, {"hpo.checkpoint": state})
        except (TrackingError, TrackingRefusal) as error:
            log.warning("MLflow still shows a checkpoint of trial %d: %s", trial.number, error)
        self._put(replace(run, tags={**run.tags, "hpo.checkpoint": state}))

    def request_stop(self) -> None:
        """Ask every flow that works on the study now to start no further trial."""
        self.store.log(self.study_run.id, [], {}, {"hpo.stop": str(now_ms())})

    def stop_requested(self) -> bool:
        """Whether a stop was asked for since this ledger was opened; a request."""
        run = self.store.get(self.study_run.id)
        return run.tags.get("hpo.stop") != self.study_run.tags.get("hpo.stop")

    # -- snapshot -----------------------------------------------------------------------------------------------

    def save_snapshot(self, news: int = 1) -> bool:
        """Keep the finished runs, as last loaded, as an artifact of the study's run, for the next process to read.

        It is a cache: where it cannot be written, a warning says so and the study goes on.

        Args:
            news: Write only if so many runs have ended since the last snapshot.

        Returns:
            Whether it was written. A small study needs none.
        """
        if len(self._runs) - len(self._runs.open) < max(self._snapshot_size + news, SNAPSHOT_FROM):
            return False
        settled = [run for run in self._runs if is_settled(run)]
        others = [run.id for run in self._runs if not is_settled(run)]
        self._snapshot_size = len(self._runs) - len(self._runs.open)
        store = self.store.with_patience(5.0)
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / SNAPSHOT
                path.write_bytes(pack(Snapshot(self.study_run.id, settled, others)))
                store.upload(self.study_run.id, path, SNAPSHOT_FOLDER)
            store.log(self.study_run.id, [], {}, {"hpo.snapshot": str(len(settled))})
        except Exception as error:  # each artifact store has its own
            log.warning("no snapshot of %s could be written, so it will load slowly: %s", self.spec.name, error)
            return False
        return True

    def _read_snapshot(self) -> bool:
        """Read the study from its snapshot, and from MLflow what the snapshot cannot know.

        Returns:
            Whether that gave exactly the runs that a full read would give.
        """
        if "hpo.snapshot" not in self.study_run.tags:
            return False
        data = self.store.download(self.study_run.id, f"{SNAPSHOT_FOLDER}/{SNAPSHOT}")
        snapshot = None if data is None else unpack(data)
        if snapshot is None or snapshot.study != self.study_run.id or not snapshot.runs:
            return False
        since = max(run.start for run in snapshot.runs) - self._margin
        deleted = {run.id for run in self._search(trash=True)}
        kept = [run for run in snapshot.runs if run.id not in deleted]
        others = self._search(ids=snapshot.others) if snapshot.others else []
        self._restart([*(run for run in kept if run.start < since), *others, *self._search(since)])
        self._settle()
        if gaps := self._unknown():
            # Deleted before the snapshot or restored after it: the claims say of which runs to ask.
            claims = self.store.get(self.claims_run).params
            for run in self._search(ids=[claims[key] for n in sorted(gaps) if (key := f"trial.{n}") in claims]):
                self._put(run)
            self._settle()
            self._missing |= self._unknown()
        # What is left are runs that were deleted for good (mlflow gc), or made by clocks that are far behind.
        expected = self._runs.before(since)
        if expected and self.store.has_exactly(expected, [self.study_run.experiment], self._below, since):
            self._snapshot_size = len(kept) + len(others)
            return True
        self._missing.clear()
        return False

    # -- the study itself ---------------------------------------------------------------------------------------

    def describe(self, text: str) -> None:
        """Write the study's description, in Markdown."""
        self.store.log(self.study_run.id, [], {}, {"mlflow.note.content": text[:TAG_LENGTH]})

    def discard(self) -> None:
        """Move the study with all its trials to MLflow's trash; its name is free then.

        The study's own run goes first, so a process that dies on the way leaves runs that are of no study.

        Raises:
            InputError: A flow works on it.
        """
        self.load()
        if self.owners():
            raise InputError(f"study {self.spec.name!r}", "a flow works on it now", "stop that first (hpo stop)")
        self.store.delete_run(self.study_run.id)
        self.store.delete_run(self.claims_run)
        for run in self._search():
            self.store.delete_run(run.id)

    def set_study_status(self, status: str) -> None:
        if status != self.study_run.status:
            self.store.set_status(self.study_run.id, status)
            self.study_run = Run(**{**self.study_run.__dict__, "status": status})


def lost_because(run: Run) -> str:
    """Why the flow that answers for a running run is thought dead; empty if it is not."""
    return dead_because(run.tags)


def dead_because(tags: Mapping[str, str]) -> str:
    """Why the process is thought dead that is named by an owner and a lease; empty if it is not.

    Where no lease can be read there is none, since nobody will renew that.
    """
    if Owner.surely_gone(tags.get("hpo.owner", "")):
        return "its process is gone"
    lease = whole(tags.get("hpo.lease", ""), 15) or 0
    return "its lease ran out" if lease <= now_ms() else ""


def finite(value: float | None) -> TypeGuard[float]:
    """Whether a metric as MLflow keeps it is there and finite."""
    return value is not None and abs(value) < INFINITE


def is_settled(run: Run) -> bool:
    """Whether nothing will ever change what a run says as a trial.

    That is so once it has its result; or, if it failed, once it has done so for so long that no other flow can just be
    about to take it for lost. What was lost may still have a late result, and what a person ended, too.
    """
    if "hpo.lost" in run.tags:
        return False
    if run.status == FINISHED and RESULT in run.tags and "hpo.reason" not in run.tags:
        return True
    ended = run.status in (FINISHED, FAILED) and run.end is not None and "hpo.reason" in run.tags
    return ended and (run.end or 0) + 1000 * LEASE_SECONDS < now_ms()


def trial_of(run: Run, spec: StudySpec) -> Trial:
    """A run as a trial of the study: here direction, NaN and infinity are settled.

    Raises:
        ValueError: The run is no trial of this study, or is damaged; the message says how.
    """
    number = number_of(run)
    if number is None:
        raise ValueError("it has no trial number")
    if run.tags.get("hpo.schema") != SCHEMA:
        raise ValueError(f"it was written by schema {run.tags.get('hpo.schema')!r}, this is {SCHEMA}")
    config = _config_of(run, spec.search_space)
    value = run.metrics.get(spec.metric)
    reason = run.tags.get("hpo.reason", "")
    notes: dict[str, Scalar] = {
        key.removeprefix("hpo."): text
        for key, text in run.tags.items()
        if key.startswith("hpo.") and key not in _TRIAL_TAGS and not key.startswith("hpo.config")
    }
    ended_well = run.status == FINISHED or (RESULT in run.tags and "lost" in notes)
    if run.status in (RUNNING, "SCHEDULED"):
        state, loss = TrialState.RUNNING, None
    elif ended_well and finite(value):
        state, loss = TrialState.COMPLETE, spec.loss(value)
        if notes.pop("lost", None):  # it was thought dead, and its result came after all
            reason = ""
    else:
        state, loss = TrialState.FAILED, None
        reason = reason or f"{run.status.lower()} without a finite {spec.metric}"
    fidelity, asked = _fidelity_of(run, "hpo.fidelity"), None
    if state is TrialState.COMPLETE and (reached := _fidelity_of(run, "hpo.reached")) is not None:
        fidelity, asked = reached, math.inf if fidelity is None else fidelity
    return Trial(
        number=number,
        config=config,
        state=state,
        loss=loss,
        fidelity=fidelity,
        parent=whole(run.tags.get("hpo.parent", ""), 6),
        notes=notes,
        reason=reason,
        run_id=run.id,
        asked=asked,
        metrics={key: value for key, value in run.metrics.items() if not key.startswith(RUNG)},
        hypergradient=hypergradient_of(run.metrics, spec.sign),
        rungs=_rungs_of(run, spec),
        start=run.start,
        end=run.end,
        owner=run.tags.get("hpo.owner", ""),
    )


def _fidelity_of(run: Run, key: str) -> float | None:
    fidelity = float(run.tags[key]) if key in run.tags else None
    if fidelity is not None and not math.isfinite(fidelity):
        raise ValueError(f"its fidelity is {fidelity}")
    return fidelity


def _rungs_of(run: Run, spec: StudySpec) -> dict[int, float]:
    """The losses at milestones, by number of steps; what somebody else logged under such a name is passed over."""
    found = {whole(key.removeprefix(RUNG), 9): value for key, value in run.metrics.items() if key.startswith(RUNG)}
    return {steps: spec.loss(value) for steps, value in found.items() if steps and abs(value) < INFINITE}


def _config_of(run: Run, space: SearchSpace) -> dict[str, Scalar]:
    if text := join_tag("hpo.config", run.tags):
        return space.validated(config_from_json(text), check_constraints=False)
    return space.from_params(run.params)


# -- opening a study --------------------------------------------------------------------------------------------


def _study_runs(store: Store, experiments: Sequence[str], name: str) -> list[Run]:
    return store.search(experiments, {"hpo.role": "study", "hpo.study": name})


def _elected(runs: Sequence[Run], name: str) -> Run | None:
    """The study's run among those of its name: the one that holds the param ``study``.

    Raises:
        InputError: There are two.
    """
    elected = [run for run in runs if run.params.get("study") == name]
    if len(elected) > 1:
        raise InputError(
            f"study {name!r}",
            f"two runs claim to be it: {', '.join(run.id for run in elected)}",
            "delete the wrong one in MLflow (mlflow runs delete --run-id ID)",
        )
    return elected[0] if elected else None


def stored_spec(run: Run) -> StudySpec:
    """The specification that stands with a study.

    Raises:
        InputError: It is damaged.
    """
    try:
        return study_from(json.loads(join_tag("hpo.spec", run.tags)))
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"study run {run.id}", f"its stored specification cannot be used ({error})", "delete the run in MLflow"
        ) from None


def open_study(
    store: Store,
    spec: StudySpec,
    *,
    announce: Callable[[str], Any] = log.info,
    tell: Callable[[str], Any] = log.info,
    tags: Mapping[str, str] | None = None,
) -> Ledger:
    """The study of this specification: created if it is new, compared and resumed if it is not.

    Several flows may call this at the same moment; see :func:`_elect` for why they end up with one study.

    Args:
        store: MLflow.
        spec: The study.
        announce: Told each key that a resumed study takes over from ``spec``.
        tell: Told to which total a study goes on that is to have more trials.
        tags: Tags of the study's run, which it has from its first moment.

    Raises:
        StudyConflict: The stored space, metric or direction is another.
        InputError: The experiment was deleted, or two studies have this name.
    """
    experiment = store.experiment(spec.experiment, create=True)
    assert experiment is not None
    run = _elect(store, experiment, spec, tags or {})
    changes = {key: value for key, value in (tags or {}).items() if run.tags.get(key) != value}
    stored = stored_spec(run)
    if spec.stop.more:
        spec, why = spec.settled(stored, *_progress(store, stored, run))
        tell(f"{spec.name}: {why}")
        changes["hpo.target"] = why
    if join_tag("hpo.spec", run.tags) != spec.to_json():
        for line in compare(stored, spec):
            announce(f"{spec.name}: {line}")
        changes |= split_tag("hpo.spec", spec.to_json())
    if changes:
        store.log(run.id, [], {}, changes)
    return Ledger(store, spec, run)


def _progress(store: Store, stored: StudySpec, run: Run) -> tuple[int, bool]:
    """How many trials a stored study has, and whether its last run came to its end: a killed one leaves it RUNNING."""
    return Ledger(store, stored, run).load().next_number, run.status == FINISHED


def _elect(store: Store, experiment: str, spec: StudySpec, tags: Mapping[str, str]) -> Run:
    """The one run that is the study, whoever else is creating it now.

    A candidate becomes the study by the write-once param ``study``, and is withdrawn by the same param with another
    value. Each flow creates its candidate before it looks for others, and elects it only after withdrawing all that
    it sees; of two flows at least one sees the other's. The oldest candidate goes first, so that they do not
    withdraw each other for ever; one that does not move (its flow died) is withdrawn after :data:`ELECTION_SECONDS`.
    """
    mine: Run | None = None
    deadline = time.monotonic() + ELECTION_SECONDS
    while True:
        runs = _study_runs(store, [experiment], spec.name)
        if (elected := _elected(runs, spec.name)) is not None:
            if mine is not None and mine.id != elected.id:
                _withdraw(store, mine)
            return elected
        waiting = [run for run in runs if "study" not in run.params]
        if mine is None or all(run.id != mine.id for run in waiting):
            mine = _create_study(store, experiment, spec, tags)
            continue
        first = min(waiting, key=lambda run: (run.start, run.id))
        if first.id != mine.id and time.monotonic() < deadline:
            time.sleep(0.2)
            continue
        others = [run for run in waiting if run.id != mine.id]
        if all(store.claim(other.id, "study", "withdrawn") for other in others):
            for other in others:
                store.delete_run(other.id)
            if store.claim(mine.id, "study", spec.name):
                return mine


def _create_study(store: Store, experiment: str, spec: StudySpec, extra: Mapping[str, str]) -> Run:
    claims_experiment = store.experiment(CLAIMS, create=True)
    assert claims_experiment is not None
    note = f"The trial numbers that flows have claimed in study {spec.name!r}. Do not delete it while the study lives."
    claims = store.create_run(
        claims_experiment, spec.name, {"hpo.role": "claims", "hpo.study": spec.name, "mlflow.note.content": note}
    )
    store.set_status(claims.id, FINISHED)
    tags = {
        "hpo.role": "study",
        "hpo.schema": SCHEMA,
        "hpo.study": spec.name,
        "hpo.claims": claims.id,
        "mlflow.source.name": spec.objective,
        **split_tag("hpo.spec", spec.begun.to_json()),
        **extra,
    }
    return store.create_run(experiment, spec.name, tags)


def _withdraw(store: Store, candidate: Run) -> None:
    store.delete_run(candidate.tags["hpo.claims"])
    store.delete_run(candidate.id)


def find_study(store: Store, name: str, experiment: str | None = None) -> Ledger:
    """The study of this name.

    Args:
        store: Where to look.
        name: The study's name.
        experiment: The name of its experiment; None to look into all of them.

    Raises:
        StudyUnknown: There is none.
        InputError: No study can have this name, there is more than one, or its experiment was deleted.
    """
    study_name(name)
    if experiment is None:
        experiments = store.experiments()
    else:
        id = store.experiment(experiment, create=False)
        experiments = [] if id is None else [id]
    runs = _study_runs(store, experiments, name) if experiments else []
    found = [run for run in runs if run.params.get("study") == name]
    if not found:
        raise StudyUnknown(
            "study", f"there is no study {name!r} in the MLflow store", "give the study file, or start it with hpo tune"
        )
    if len({run.experiment for run in found}) > 1:
        raise InputError("study", f"{name!r} stands in {len(found)} experiments", "give the study file instead")
    run = _elected(found, name)
    assert run is not None
    return Ledger(store, stored_spec(run), run)


__all__ = ["Ledger", "Report", "TrackingError", "find_study", "open_study", "trial_of"]

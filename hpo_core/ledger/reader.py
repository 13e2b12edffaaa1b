"""Reads a study: decides which MLflow runs are its trials, with as few and as small requests as possible."""

from __future__ import annotations

import contextlib
import gc
import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

from hpo_core.base.errors import InputError, TrackingRefusal
from hpo_core.history.history import History
from hpo_core.history.prior import Source
from hpo_core.history.trial import Trial
from hpo_core.ledger.backoff import Backoff
from hpo_core.ledger.decode import is_settled, trial_of, written_spec
from hpo_core.ledger.known_runs import KnownRuns, OwnRuns, number_of
from hpo_core.ledger.ownership import Owner
from hpo_core.ledger.snapshot import Snapshot, pack, unpack
from hpo_core.ledger.store import RUNNING, Run, Store
from hpo_core.ledger.study_run import StudyRun, last_edition
from hpo_core.ledger.tags import (
    CLAIMS,
    SNAPSHOT,
    SNAPSHOT_FOLDER,
    Tag,
)
from hpo_core.study.editions import prior_in_space
from hpo_core.study.instructions import Instruction
from hpo_core.study.resume import news_in, with_changes, with_space_of
from hpo_core.study.spec import StudySpec

log = logging.getLogger("hpo")

MARGIN_MS = 200
"""Clock lag of other machines tolerated at first; grows when a ledger meets a slower clock."""

FEW = 200
"""Up to this many known runs are read again to save a second request."""

NEWS_SECONDS = 5.0
"""How long :meth:`LedgerReader.look` may go without reading what others did, as long as no other flow is known."""

CROWD = 25
"""From so many open trials of other flows on, a look reads only which runs began and ended, as long as all of them
have been read within :data:`NEWS_SECONDS`."""

QUEUE_MS = 2_000
"""How late what another flow began or ended may be seen by then, as its requests wait at a busy server."""

COMPANY_SECONDS = 30.0
"""For so long after the last sign of another flow each look reads, so that not every trial costs a lost claim."""

SNAPSHOT_FROM = 200
"""Number of ended runs from which a snapshot is worth its requests."""


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Inside the block Python looks for no garbage: it would go through all that is read, again and again."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


class LedgerReader:
    """The trials of one study as one flow knows them; :class:`hpo_core.ledger.ledger.Ledger` adds writing.

    Reading also settles doubtful runs: it claims numbers on behalf of flows that died between run and claim.
    """

    def __init__(self, store: Store, spec: StudySpec, study_run: Run) -> None:
        self.store, self.spec, self.study = store, spec, StudyRun(store, study_run, spec.name)
        self.claims_run = study_run.tags.get(Tag.CLAIMS, "")
        if not self.claims_run:
            raise InputError(f"study run {study_run.id}", "its tag hpo.claims is missing", "delete the run in MLflow")
        self.owner = str(Owner.of_this_process())
        self.lease_seconds: float | None = None  # of the trials that this flow reserves; None: as usual
        self.prior: tuple[Source, ...] = ()  # what was imported; see hpo_core/lineage/warm_start.py
        self.skipped: dict[str, str] = {}  # run id -> why it is not a trial
        self.outdated = ""  # why no trial is to start here: the space has become one that the objective may not know
        self._runs = KnownRuns()
        self._unsettled: dict[str, Run] = {}  # new or changed since their claims were last checked
        self._known_below = 0  # for every number below, the run is known, or known to be gone
        self._history: History | None = None  # None: to be made of all runs
        self._learnt_from: tuple[Source, ...] = ()  # what it was made with
        self._changed: set[str] = set()  # the runs that have changed since it was made
        self._snapshot_size = 0  # ended runs at the last snapshot read or written
        self._mine: set[str] = set()  # runs this flow is training
        self._owned: set[str] = set()  # every run this flow has claimed for itself
        self._trial_runs: dict[int, str] = {}  # number -> run, once known to be claimed
        self._losers: set[str] = set()  # runs whose number was claimed for another run
        self._missing: set[int] = set()  # numbers whose run is gone for good
        self._lost_number = -1  # the last number whose claim went to another flow
        self.backoff = Backoff()
        self._margin = MARGIN_MS
        self._own = OwnRuns()  # those of _mine that nobody else writes to
        self._unread: set[str] = set()  # runs whose outcome this flow knows because it wrote it
        self._read_at: float | None = None
        self._all_read_at = -NEWS_SECONDS  # when every open run was last read
        self._last_end = 0  # the latest end of another flow's run that was read
        self._company_at = -COMPANY_SECONDS
        self.up_to_date = False
        self._trials: dict[str, tuple[Run, Trial | None]] = {}

    @property
    def study_run(self) -> Run:
        """The study's run, as this process last saw or wrote it."""
        return self.study.run

    def hear(self, patience: float | None = None) -> list[Instruction]:
        """Read what people have told the study since the last call; changed settings hold from now on. One request.

        If its space was changed, its trials are read in the new one from now on.

        Args:
            patience: Seconds to keep retrying an unresponsive store; None for the store's default.

        Raises:
            InputError: The study was deleted in MLflow.
        """
        heard = self.study.refresh(patience)
        if last_edition(self.study_run.tags) != self.spec.edition:
            self._change_space()
        for each in heard:
            if each.kind == "set":
                self.spec = with_changes(self.spec, each.value)
        return heard

    def _change_space(self) -> None:
        """Go on in the space that somebody has given the study."""
        before, self.spec = self.spec, with_space_of(self.spec, written_spec(self.study_run))
        self._trials.clear()
        self.skipped.clear()
        self._history = None
        if news := news_in(before, self.spec):
            self.outdated = f"the space was changed, and this run began before that ({news}); run it again to go on"
        log.warning("%s: the space was changed (hpo tune --change-space)", self.spec.name)

    def load(self) -> History:
        """Load the current study. Finished runs are read once; later loads fetch only what started since.

        Doubtful runs (running, with no sign of a claim) are settled by claiming their number on their behalf, so every
        trial below ``next_number`` is known for certain.
        """
        self._take_own()
        if self._runs:
            return self._load()
        with _without_collections():
            return self._load()

    def _load(self, *, briefly: bool = False) -> History:
        began = monotonic()
        if briefly:
            self._read_beginnings_and_ends()
        elif self._runs:
            self._read_news()
        elif not self._read_snapshot():
            self._read_all()
        self._settle()
        unknown = self._unknown()
        if briefly and unknown:
            return self._load()
        while unknown:
            # A run exists before its claim, so a full read finds the run of such a number, or it was deleted.
            newest, known = self._runs.newest, self._runs
            self._read_all()
            self._settle()
            late = [run.start for run in self._runs if run.id not in known]
            self._margin = max([self._margin, *(newest - start + 1_000 for start in late)])
            self._missing |= unknown & self._unknown()
            unknown = self._unknown()
        self._read_at, self.up_to_date = began, not briefly
        if not briefly:
            self._all_read_at = began
            self._unread.clear()
        return self.history()

    def look(self) -> History:
        """As :meth:`load`, but without a request while this flow is alone with the study.

        Its own trials are known from what it wrote. What another flow does in the meantime is known after
        :data:`NEWS_SECONDS` at the latest, and before this flow reserves another trial: the other's trial has the
        number that this flow would claim next, so that the claim is lost. Where many trials of others are open, they
        are not all read each time. ``docs/decisions/0001-claims.md`` has more.
        """
        self._take_own()
        if self._alone():
            self._settle()
            self.up_to_date = False
            return self.history()
        crowded = len(self._runs.open - self._mine) >= CROWD
        return self._load(briefly=True) if crowded and self._all_read_lately() else self.load()

    def _all_read_lately(self) -> bool:
        return monotonic() - self._all_read_at < NEWS_SECONDS

    def _alone(self) -> bool:
        """Whether no other flow is known to work on the study, nor may have come too long ago."""
        now = monotonic()
        return (
            self._read_at is not None
            and now - self._read_at < NEWS_SECONDS
            and now - self._company_at > COMPANY_SECONDS
            and self._runs.open <= self._mine
        )

    def _take_own(self) -> None:
        """Take over the outcomes that this flow has written."""
        for run in self._own.take_ended():
            if run.id in self._runs and self._runs[run.id].status == RUNNING:
                self._put(run)
                self._unread.add(run.id)

    @contextlib.contextmanager
    def patience(self, seconds: float) -> Iterator[None]:
        """Inside the block, retry an unresponsive store only this long."""
        usual, self.store = self.store, self.store.with_patience(seconds)
        try:
            yield
        finally:
            self.store = usual

    def history(self) -> History:
        """The history as of the last load, plus what this flow has reserved since."""
        if self._learnt_from is not self.prior:
            self._history, self._learnt_from = None, self.prior
        if self._history is not None and self._changed:
            self._history = self._with_changes(self._history)
        if self._history is None:
            trials = [trial for run in self._runs if (trial := self._chosen(run)) is not None]
            prior = prior_in_space(self.spec, self.prior)
            self._history = History(trials, next_number=self._next_number, prior=prior)
        self._changed.clear()
        return self._history

    def _with_changes(self, history: History) -> History | None:
        """A history with the runs that have changed; None if one of them is no longer a trial."""
        runs = [self._runs[id] for id in self._changed]
        trials = [trial for run in runs if (trial := self._chosen(run)) is not None]
        chosen = {trial.run_id for trial in trials}
        for run in runs:
            shown = None if (number := number_of(run)) is None else history.find(number)
            if run.id not in chosen and shown is not None and shown.run_id == run.id:
                return None
        return history.updated(trials, self._next_number)

    @property
    def _next_number(self) -> int:
        return max(self._runs.highest, *self._missing, -1) + 1

    def _chosen(self, run: Run) -> Trial | None:
        """The trial in a run, if the run holds its number's claim."""
        trial = self._as_trial(run)
        return trial if trial is not None and self._trial_runs.get(trial.number) == run.id else None

    def _search(self, since: int | None = None, **which: Any) -> list[Run]:
        """Runs below the study's. MLflow filters tags by scanning, so search new runs by start time."""
        recent = since is not None or "ended" in which
        few = recent and self.spec.experiment == self.spec.name  # only manual runs start there besides
        tags = {} if few or "ids" in which else self._below
        found = self.store.search([self.study_run.experiment], tags, since, **which)
        return found if tags else [run for run in found if self._below.items() <= run.tags.items()]

    @property
    def _below(self) -> dict[str, str]:
        return {"mlflow.parentRunId": self.study_run.id}

    def _read_all(self) -> None:
        self._restart(self._search())

    def _restart(self, runs: Iterable[Run]) -> None:
        """Replace all known runs with these."""
        self._runs, self._known_below, self._history = KnownRuns(runs), 0, None
        self._last_end = max((run.end or 0 for run in self._runs if run.id not in self._owned), default=0)
        self._changed.clear()
        self._unsettled = {run.id: run for run in self._runs}

    def _read_news(self) -> None:
        """Read every run that is new or not known to have ended, and those whose outcome was not read yet."""
        open_ = (self._runs.open - self._mine) | self._unread
        since, running = self._runs.newest, [self._runs[id] for id in open_]
        if (first := min([since, *(run.start for run in running)])) < since:
            # Usually they are among the newest, but one long training must not make every load reread all others.
            if len(self._runs) - self._runs.before(first - self._margin) <= FEW:
                since = first
        since -= self._margin
        old = [run.id for run in running if run.start < since and number_of(run) is not None]
        found = self._search(since) + (self._search(ids=old) if old else [])
        kept = {run.id for run in found} | self._mine
        for id in {*old, *(run.id for run in self._runs.since(since))} - kept:
            self._drop(id)
        self._take(found)

    def _read_beginnings_and_ends(self) -> None:
        """Read the runs that began or ended since the last read, and none that has been open all the time."""
        margin = self._margin + QUEUE_MS
        self._take(self._search(self._runs.newest - margin) + self._search(ended=self._last_end - margin))

    def _take(self, found: Iterable[Run]) -> None:
        for run in found:
            changed = self._put(run)
            if run.id not in self._owned:
                self._last_end = max(self._last_end, run.end or 0)
                if changed:
                    self._company_at = monotonic()

    def _put(self, run: Run) -> bool:
        if changed := self._runs.put(run):
            self._unsettled[run.id] = run
            self._changed.add(run.id)
        return changed

    def _drop(self, id: str) -> None:
        number = number_of(self._runs.drop(id))
        self._unsettled.pop(id, None)
        self._history = None
        self._changed.discard(id)
        if number is not None:
            self._known_below = min(self._known_below, number)

    def _unknown(self) -> set[int]:
        """Numbers that are certainly claimed, but by an unknown run."""
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
            # Only the claim holder trains, and only training logs params or ends a run.
            if run.id in self._owned or run.status != RUNNING or run.params:
                self._trial_runs.setdefault(number, run.id)
            else:
                doubtful.append((number, run))
        for number, run in sorted(doubtful, key=lambda item: (item[0], item[1].start, item[1].id)):
            if self._trial_runs.get(number) == run.id:
                continue
            if number not in self._trial_runs and self.claim(f"trial.{number}", run.id):
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

    def claim(self, key: str, value: str) -> bool:
        """Claim ``key`` for ``value`` permanently; True if ``value`` now holds it, False if another value does.

        Restores the claims run from MLflow's trash if needed, because the study cannot continue without it.

        Raises:
            InputError: The claims run is gone for good.
        """
        try:
            return self.store.claim(self.claims_run, key, value)
        except TrackingRefusal as refusal:
            try:
                deleted = self.store.get(self.claims_run).deleted
            except TrackingRefusal:
                raise InputError(
                    f"study {self.spec.name!r}",
                    f"its claims are gone (run {self.claims_run} of the experiment {CLAIMS!r}: {refusal})",
                    "go on under another name; with warm_start it learns from this one",
                ) from None
        if deleted:
            self.store.restore_run(self.claims_run)
            log.warning("the claims of %s were deleted in MLflow, and are restored: it needs them", self.spec.name)
        return self.store.claim(self.claims_run, key, value)

    def save_snapshot(self, news: int = 1) -> bool:
        """Store the finished runs, as last loaded, as an artifact of the study's run for the next process.

        The snapshot is only a cache: if it cannot be written, log a warning and continue.

        Args:
            news: Write only if at least this many runs have ended since the last snapshot.

        Returns:
            Whether it was written. A small study needs no snapshot.
        """
        if len(self._runs) - len(self._runs.open) < max(self._snapshot_size + news, SNAPSHOT_FROM):
            return False
        if self._unread:
            self.load()  # a snapshot has what MLflow has
        settled = [run for run in self._runs if is_settled(run)]
        others = [run.id for run in self._runs if not is_settled(run)]
        self._snapshot_size = len(self._runs) - len(self._runs.open)
        store = self.store.with_patience(5.0)
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / SNAPSHOT
                path.write_bytes(pack(Snapshot(self.study_run.id, settled, others)))
                store.upload(self.study_run.id, path, SNAPSHOT_FOLDER)
            store.log(self.study_run.id, [], {}, {Tag.SNAPSHOT: str(len(settled))})
        except Exception as error:  # each artifact store raises its own exceptions
            log.warning("no snapshot of %s could be written, so it will load slowly: %s", self.spec.name, error)
            return False
        return True

    def _read_snapshot(self) -> bool:
        """Read the study from its snapshot, and the rest from MLflow.

        Returns:
            Whether this found exactly the runs that a full read would find.
        """
        if Tag.SNAPSHOT not in self.study_run.tags:
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
            # Deleted before the snapshot or restored after it: the claims tell which runs to fetch.
            claims = self.store.get(self.claims_run).params
            for run in self._search(ids=[claims[key] for n in sorted(gaps) if (key := f"trial.{n}") in claims]):
                self._put(run)
            self._settle()
            self._missing |= self._unknown()
        # Still missed: runs deleted for good (mlflow gc), and runs from machines whose clock lags far behind.
        expected = self._runs.before(since)
        if expected and self.store.has_exactly(expected, [self.study_run.experiment], self._below, since):
            self._snapshot_size = len(kept) + len(others)
            return True
        self._missing.clear()
        return False

"""Keeps, on another machine, what the agent needs to train trials of a study, and shares it between trials."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

from hpo_core.base.errors import InputError, TrackingError, TrackingRefusal
from hpo_core.history.history import History
from hpo_core.ledger.decode import evaluation_of, reserved_trial, stored_spec
from hpo_core.ledger.ledger import Ledger, Report
from hpo_core.ledger.store import FAILED, RUNNING, Run, Store
from hpo_core.ledger.tags import Tag
from hpo_core.selection.evaluation import Training
from hpo_core.study.editions import params_of
from hpo_core.tracking.connection import connect
from hpo_flows.base.paths import home
from hpo_flows.objectives.reference import Objective
from hpo_flows.trials.judge import Rungs
from hpo_flows.trials.remote.request import URI, TrialRequest
from hpo_flows.trials.session import Session
from hpo_flows.workers.job import Flag, TrialCancelled, TrialFailed
from hpo_flows.workers.pool import WorkerPool
from hpo_flows.workers.resources import VISIBLE, check, devices, variables

log = logging.getLogger("hpo")


IDLE_SECONDS = 120.0
"""A remote session without a trial for this long is closed; its worker processes then free their memory and GPUs."""

CONNECT_SECONDS = 60.0
"""How long a new remote session tries to reach MLflow."""

REFRESH_SECONDS = 5.0
"""How old the losses of other trials may be when a trial is compared with them."""

WATCH_SECONDS = 10.0
"""How often a trial checks whether its flow was stopped."""

OWN = bool(os.environ.get(URI))
"""Whether this process has an MLflow address in its own environment; it then ignores the flow's."""


class AlreadyStarted(Exception):
    """Another process started the trial before and is gone; the engine has now started the task again."""


class FreshRungs(Rungs):
    """:class:`Rungs` that load the study themselves, since no loop runs in this process.

    Args:
        ledger: The study; used for nothing else.
    """

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger
        self._lock, self._read = threading.Lock(), 0.0

    def load(self, patience: float | None = None) -> History:
        """Load the study's current state.

        Args:
            patience: Seconds to keep retrying an unresponsive store; None for the store's default.
        """
        with self._lock:  # several trials of this process may load at a time, and the ledger holds the state
            with contextlib.nullcontext() if patience is None else self._ledger.patience(patience):
                self.show(self._ledger.load())
            self._read = time.monotonic()
            return self.history

    def latest(self) -> History:
        if time.monotonic() - self._read > REFRESH_SECONDS:
            try:
                self.load(patience=0.0)
            except TrackingError as error:
                log.warning("a trial is judged by what was known before: %s", error)
        return super().latest()


class StopCheck:
    """A flag that is set once the trial is to end. Its run then says so.

    If its flow was stopped, that has ended the run as interrupted; if the trial alone was, the run has a tag.
    """

    def __init__(self, session: Session, run: str) -> None:
        self._store, self._session, self._run = session.ledger.store.with_patience(0.0), session, run
        self._due, self._set = time.monotonic() + WATCH_SECONDS, False

    def is_set(self) -> bool:
        if not self._set and time.monotonic() > self._due:
            with contextlib.suppress(TrackingError, TrackingRefusal):
                run = self._store.get(self._run)
                if (why := run.tags.get(Tag.STOP)) is not None:
                    self._session.stops[self._run] = why
                self._set = why is not None or _interrupted(run)
            self._due = time.monotonic() + WATCH_SECONDS
        return self._set


def _interrupted(run: Run) -> bool:
    return run.status != RUNNING and run.tags.get(Tag.LOST) == "interrupted"


class InterruptibleSession(Session):
    """A session whose trials can be stopped one by one."""

    def stopped(self, run_id: str) -> Flag:
        return StopCheck(self, run_id)


class RemoteSession:
    """What this process needs to train trials of one study.

    Args:
        request: The first trial.

    Raises:
        TrackingError: MLflow cannot be reached from here.
    """

    def __init__(self, request: TrialRequest) -> None:
        store = _connect(request.tracking.get(URI))
        run = store.get(request.study_run)
        spec = stored_spec(run)
        ledger = Ledger(store, spec, run)
        here = os.getcwd()
        objective = request.objective or Objective(spec.objective, needs_hypergradient=spec.needs_hypergradient)
        objective = replace(objective, path=(here, *(folder for folder in objective.path if folder != here)))
        self._devices = devices() if spec.resources.gpus else []
        pool = WorkerPool(0, objective, lambda slot: variables(spec.resources, self._devices, slot))
        self._rungs = FreshRungs(Ledger(store, spec, run))
        self.session = InterruptibleSession(ledger, pool, objective, home(), rungs=self._rungs)
        self.session.spool.deliver(ledger)
        self.trials = 0  # running now
        self.idle_since = time.monotonic()
        self._checked, self._lock = False, threading.Lock()

    def begin(self, request: TrialRequest) -> Training:
        """Take over a trial's run.

        Raises:
            TrialCancelled: Its flow was stopped meanwhile.
            AlreadyStarted: Another process started it before.
        """
        ledger = self.session.ledger
        run = ledger.store.get(request.run)
        if run.status != RUNNING:
            raise TrialCancelled
        if not ledger.take_over(run, request.owner):
            raise AlreadyStarted(f"{run.tags.get('hpo.owner')} had started it and is gone")
        history = self._rungs.load()
        if (evaluation := evaluation_of(run, ledger.spec)) is None:
            return Training(reserved_trial(run, ledger.spec))
        trial = next(trial for trial in history.every if trial.number == evaluation.number)
        return Training(trial, evaluation)

    def check(self, training: Training) -> None:
        """Check, once, that the objective can be imported here and that the machine has the resources it needs.

        Raises:
            TrialFailed: One of them is missing; the trial's run says which.
        """
        with self._lock:  # trials that start at the same time wait for one check
            if self._checked:
                return
            ledger = self.session.ledger
            try:
                check(ledger.spec.resources, 1, self._devices)
                self.session.pool.check()
            except InputError as error:
                where = f"on {ledger.owner.partition('.')[0]}: "
                tags = {Tag.REASON: f"{error.field}: {where}{error.problem}; {error.remedy}"[:1000]}
                tags |= {Tag.BLAMED_KEY: error.field, Tag.LOST: "unfit"}
                params = params_of(ledger.spec, training)
                ledger.write(Report(training.run_id, params=params, tags=tags, status=FAILED))
                raise TrialFailed(str(error), retry=False) from None
            self._checked = True


def _connect(uri: str | None) -> Store:
    """Connect to MLflow as this process's own environment says, or else at the flow's address.

    Raises:
        TrackingError: It has not responded for a minute.
    """
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            return connect(None if OWN else uri)
        except TrackingError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


_SESSIONS: dict[tuple[str, str, str | None], RemoteSession] = {}
"""The open remote sessions, by study run, spec digest and visible GPUs."""

_LOCK = threading.Lock()  # guards _SESSIONS, and the count of trials in each


@contextlib.contextmanager
def remote_session(request: TrialRequest) -> Iterator[RemoteSession]:
    """The remote session of a trial's study. A new one is opened if the specification or the GPUs have changed."""
    if not OWN:
        os.environ.update({key: value for key, value in request.tracking.items() if key != URI})
    key = (request.study_run, request.spec_digest, os.environ.get(VISIBLE))  # Ray gives each task GPUs of its own
    with _LOCK:
        if key not in _SESSIONS:
            _SESSIONS[key] = RemoteSession(request)
        remote = _SESSIONS[key]
        remote.trials += 1
    try:
        yield remote
    finally:
        with _LOCK:
            remote.trials -= 1
            remote.idle_since = time.monotonic()
        timer = threading.Timer(IDLE_SECONDS + 1, _give_up_idle)
        timer.daemon = True
        timer.start()


def _give_up_idle() -> None:
    with _LOCK:
        for key, remote in list(_SESSIONS.items()):
            if not remote.trials and time.monotonic() - remote.idle_since > IDLE_SECONDS:
                remote.session.pool.close()
                del _SESSIONS[key]

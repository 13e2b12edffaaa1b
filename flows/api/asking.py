"""Ask and tell: a study whose trials are trained by whoever asks for them, in a loop of their own.

The ledger, the claims, the leases, the stop rules and the repeats are those of a flow, so any number of askers and
flows may work on one study. There is no Prefect in it, and no worker process.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hpo_core.base.errors import InputError, StudyFailed, TrackingError, TrackingRefusal
from hpo_core.history.history import History
from hpo_core.history.trial import Trial
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.ownership import ASKER, now_ms
from hpo_core.ledger.store import FINISHED, RUNNING
from hpo_core.ledger.study_run import STOPPED, end_of, stop_holds
from hpo_core.ledger.tags import Tag
from hpo_core.lineage.opening import find_study
from hpo_core.selection.evaluation import Training
from hpo_core.space.configuration import Config
from hpo_core.study.file import load_study, study_from
from hpo_core.study.names import is_file
from hpo_core.study.spec import StudySpec
from hpo_core.tracking.connection import check_there, connect
from hpo_flows.api import instructing
from hpo_flows.api.asked import AskedTrial, Attempt
from hpo_flows.api.running import break_off, conclude, deliver, open_ledger, spec_of
from hpo_flows.base.paths import home
from hpo_flows.loop.stage import Step, advance
from hpo_flows.loop.stages import Stages
from hpo_flows.objectives.reference import Objective
from hpo_flows.reports.html.publish import Publisher
from hpo_flows.results import StudyResult, result_of
from hpo_flows.trials.session import Session
from hpo_flows.workers.pool import WorkerPool

log = logging.getLogger("hpo")

TICK_SECONDS = 1.0
"""How often it is checked whether a trial's lease or its reports are due to be written."""

HEAR_SECONDS = 5.0
"""How often it is read what people have told the study."""

ROUND_SECONDS = 2.0
"""How often the study is loaded while :meth:`AskedStudy.ask` waits for the trials of others."""


def open_study(
    study: StudySpec | Mapping[str, Any] | str | Path | None = None,
    *,
    space: Mapping[str, Any] | None = None,
    trials: int | str | None = None,
    stop: Mapping[str, Any] | None = None,
    tracking_uri: str | None = None,
    change_space: bool = False,
    **settings: Any,
) -> AskedStudy:
    """Open a study in order to ask for its trials. It is created if it is new; otherwise it goes on.

    Args:
        study: The study: as a specification, as a dict with the keys of a study file, as the path of one, or as the
            name of a study that exists. Leave it out to give its keys as keyword arguments.
        space: Parameters by name: :class:`hpo_core.Float` and the like, or dicts as in a study file.
        trials: The total number of trials, or "+20" for 20 more; short for ``stop={"trials": trials}``.
        stop: Stop rules as in a study file.
        tracking_uri: An MLflow tracking URI; by default ``MLFLOW_TRACKING_URI``, or sqlite in the working folder.
        change_space: Go on in the given space if the study has another one; see :func:`hpo_flows.run_study`.
        **settings: The other keys of a study file: ``name``, ``metric``, ``direction``, ``strategy``, ...

    Raises:
        InputError: An argument is invalid.
        TrackingError: MLflow does not respond.
    """
    keywords = {"space": space, "trials": trials, "stop": stop} | settings
    given = [key for key, value in keywords.items() if value is not None]
    if study is not None and given:
        raise InputError(
            given[0], "it is given beside a whole study", "write it there, or give keyword arguments alone"
        )
    if study is None:
        spec = spec_of(space or {}, trials, stop, settings)
    elif isinstance(study, StudySpec):
        spec = study
    elif isinstance(study, Mapping):
        spec = study_from(study)
    elif is_file(str(study)):
        spec = load_study(Path(study))
    elif change_space:
        raise InputError(
            "change_space", f"{str(study)!r} is a name, and only a file can have another space", "give a study file"
        )
    else:
        check_there(str(study), tracking_uri)
        return AskedStudy(find_study(connect(tracking_uri), str(study)))
    return AskedStudy(open_ledger(spec, tracking_uri, change_space=change_space))


class AskedStudy:
    """A study in MLflow whose trials are asked for; made by :func:`open_study`. Threads may share it.

    As a context manager, trials that are still out at the end of its block count as interrupted.

    Attributes:
        over: Whether no further trial is to be had, as of the last :meth:`ask`.
        reason: Why it is over; empty while it is not.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.over, self.reason = False, ""
        self.ledger, self._stages = ledger, Stages(ledger)
        self._heard = time.monotonic()
        objective = Objective(ledger.spec.objective)
        self.session = Session(ledger, WorkerPool(0, objective), objective, home())
        self._lock = threading.Lock()  # for the ledger and the stages
        self._out: dict[str, Attempt] = {}  # by run id
        self._out_lock = threading.Lock()  # for the attempts, so that leases are renewed whatever the ledger waits for
        self._renewer: threading.Thread | None = None
        deliver(ledger)

    @property
    def spec(self) -> StudySpec:
        """The study's specification."""
        return self.ledger.spec

    def ask(self, *, wait: float | None = None) -> AskedTrial | None:
        """Reserve the next trial, to be trained here.

        Args:
            wait: How many seconds to wait while there is none because others still run. By default as long as it takes,
                unless a trial of this process is out, which may be what the study waits for.

        Returns:
            The trial. None if there is none: for good if :attr:`over`, otherwise for now.

        Raises:
            InputError: ``wait`` is not a number of seconds.
            StudyFailed: The first trials all failed with the same error.
            TrackingError: MLflow does not respond.
        """
        if wait is not None and not (isinstance(wait, Real) and wait >= 0):
            raise InputError("wait", f"{wait!r} is not a number of seconds", "give 0 or more, or None")
        deadline = None if wait is None else time.monotonic() + wait
        while True:
            if (training := self.reserve()) is not None:
                return self._begin(training)
            if self.over or (deadline is None and self._out):
                return None
            left = ROUND_SECONDS if deadline is None else min(ROUND_SECONDS, deadline - time.monotonic())
            if left <= 0:
                return None
            time.sleep(left)

    def tell(self, trial: AskedTrial | int, result: Any = None, *, error: BaseException | str | None = None) -> None:
        """End a trial; as :meth:`AskedTrial.tell`.

        Args:
            trial: The trial, or its number.
            result: The metric as a number, or a dict of metrics with it; an exception counts as an error.
            error: Why there is none: an exception or a text.
        """
        if not isinstance(trial, AskedTrial):
            with self._out_lock:
                numbers = {attempt.trial.number: attempt.trial for attempt in self._out.values()}
            if not isinstance(trial, Integral) or trial not in numbers:
                known = f"out are {sorted(numbers)}" if numbers else "none is out"
                raise InputError("trial", f"{trial!r:.80} is not a trial that this process asked for", known)
            trial = numbers[int(trial)]
        trial.tell(result, error=error)

    def enqueue(self, config: Mapping[str, Any]) -> Config:
        """Have a configuration tried next, by whoever reserves the next trial.

        Args:
            config: Values by parameter; those that are left out are the best trial's.

        Returns:
            The whole configuration.
        """
        with self._telling():
            return instructing.enqueue(self.ledger, config)

    def set(self, *changes: str) -> None:
        """Change settings for every flow that works on the study: ``set("parallel=4", "trials=+20")``."""
        with self._telling():
            instructing.change(self.ledger, list(changes))

    def stop(self, trial: int, reason: str = "") -> None:
        """End one running trial, wherever it runs, as failed."""
        with self._telling():
            instructing.stop_trial(self.ledger, trial, reason)

    def pause(self) -> None:
        """Start no further trial, here or elsewhere, until :meth:`resume`."""
        with self._telling():
            self.ledger.study.instruct("pause")

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        with self._telling():
            self.ledger.study.instruct("resume")

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Apply at once what this process tells the study in the block."""
        with self._lock:
            yield
            self._heard = -math.inf
            self._hear()

    @property
    def best(self) -> Trial | None:
        """The best trial so far, read from MLflow; of a front, what stands for it. None if none is complete."""
        with self._lock:
            self._hear()
            return self.spec.stands_for(self.ledger.load().front)

    def result(self) -> StudyResult:
        """What the study came to so far, read from MLflow."""
        with self._lock:
            self._hear()
            history = self.ledger.load()
            self._stages.load(history)
            return result_of(self.ledger, history, self.reason or self._stages.search.reason or "not yet", self._stages)

    def close(self) -> None:
        """End the trials that are out as interrupted; others may then take them up."""
        with self._out_lock:
            out = list(self._out.values())
        for attempt in out:
            attempt.interrupt()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def reserve(self, owner: str | None = None, lease_seconds: float | None = None) -> Training | None:
        """Reserve the next trial; None if there is none now.

        Args:
            owner: Who trains it; by default this process.
            lease_seconds: For how long; by default as usual, and somebody renews it.
        """
        with self._lock:
            self.ledger.owner, self.ledger.lease_seconds = owner or self.ledger.owner, lease_seconds
            if self.session.fatal is not None:  # MLflow was away when a result was told
                deliver(self.ledger)
                self.session.forgive()
            while True:
                self._hear()
                history = self.session.load()
                begun: list[Training] = []
                if owner == ASKER:  # each of whose processes lasts for a moment
                    asked = [trial.start for trial in history.every if trial.owner == ASKER]
                    self._stages.search.count_from(min(asked, default=now_ms()))
                    self._stages.search.forget_failures_before(end_of(self.ledger.study_run)[0])
                free = int(not self.ledger.study.instructions.paused)
                step = Step(over=True)
                if not (outside := self._ended_from_outside(history, owner)):
                    step = self._advance(history, free, begun)
                if begun:
                    self.over, self.reason = False, ""
                    self.session.rungs.show(history.with_trials([begun[0].trial]))
                    self.ledger.study.set_status(RUNNING)
                    return begun[0]
                if step.stale:
                    time.sleep(self.ledger.backoff.seconds())
                    continue
                self.over = step.over
                self.reason = self._why_over(history, outside) if step.over else ""
                return None

    def _advance(self, history: History, free: int, begun: list[Training]) -> Step:
        try:
            return advance(self._stages.of_trials, history, free, begun.extend)
        except (StudyFailed, InputError) as error:
            self.over, self.reason = True, str(error).partition("\n")[0]
            break_off(self.ledger, self._stages, Publisher(self.ledger), error)
            raise

    def _ended_from_outside(self, history: History, owner: str | None = None) -> str:
        """Why this process gets no further trials, whatever the study's rules say; empty if it does."""
        stopped = self.ledger.study.stop_requested
        if stopped or (owner == ASKER and stop_holds(self.ledger.study_run, history, now_ms())):
            return STOPPED
        return self.ledger.outdated

    def end_if_stopped(self, owner: str | None = None) -> None:
        """Note that ``hpo stop`` has ended the study, if it was called and no trial is out any more.

        Args:
            owner: As for :meth:`reserve`.
        """
        if Tag.STOP not in self.ledger.study_run.tags:
            return
        history = self.session.load()
        if self._ended_from_outside(history, owner) == STOPPED:
            self._note_stop(history)

    def _note_stop(self, history: History) -> None:
        noted = end_of(self.ledger.study_run) == (history.next_number, STOPPED)
        if not history.under_way and not (noted and self.ledger.study_run.status == FINISHED):
            self._stages.load(history)
            conclude(self.ledger, self._stages, Publisher(self.ledger), history, STOPPED)

    def _why_over(self, history: History, outside: str) -> str:
        if outside == STOPPED:
            self._note_stop(history)
        if outside:
            return outside
        reason = self._stages.search.reason
        if not history.under_way and all([stage.load(history) for stage in self._stages.after_trials]):
            conclude(self.ledger, self._stages, Publisher(self.ledger), history, reason)
        return reason

    def _hear(self, patience: float | None = None) -> None:
        """Do what people have told the study; asks MLflow every few seconds."""
        if time.monotonic() - self._heard <= HEAR_SECONDS:
            return
        self._heard = time.monotonic()
        for instruction in self.ledger.hear(patience):
            log.warning("%s: %s", self.spec.name, instruction)
            if instruction.kind == "stop":
                with self._out_lock:
                    for attempt in self._out.values():
                        if attempt.trial.number == instruction.value:
                            self.session.stop(attempt.training, instruction.reason)

    def _begin(self, training: Training) -> AskedTrial:
        attempt = Attempt(self.session, training, self._release)
        with self._out_lock:
            self._out[training.run_id] = attempt
            if self._renewer is None:
                self._renewer = threading.Thread(target=self._renew, name="hpo-leases", daemon=True)
                self._renewer.start()
        return attempt.trial

    def _release(self, training: Training) -> None:
        with self._out_lock:
            self._out.pop(training.run_id, None)
        with self._lock:
            self._stages.release(training)
            if self.ledger.study.stop_requested:  # whoever asked may not ask again
                try:
                    self.end_if_stopped()
                except (TrackingError, TrackingRefusal) as error:  # what was told is told
                    log.warning("%s: %s", self.spec.name, error)

    def _renew(self) -> None:
        """Write what the trials that are out report, and renew their leases, until none is out."""
        while True:
            with self._out_lock:
                out = list(self._out.values())
                if not out:
                    self._renewer = None
                    return
            for attempt in out:
                attempt.tick()
            if self._lock.acquire(blocking=False):  # otherwise ask() has the ledger, and looks itself
                try:
                    self._hear(patience=0.0)
                except (TrackingError, TrackingRefusal, InputError) as error:
                    log.warning("%s: %s", self.spec.name, error)
                finally:
                    self._lock.release()
            time.sleep(TICK_SECONDS)

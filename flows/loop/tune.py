"""The strategy loop as a Prefect flow: load, propose, reserve, submit, and repeat as each trial ends.

:func:`reap_after` imports the tracking store when called, since only Prefect's workers call it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import copy_context
from queue import Empty, SimpleQueue
from typing import Any

from prefect import flow, runtime, tags
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.urls import url_for

from hpo_core.base.errors import EngineError, InputError
from hpo_core.history.history import History
from hpo_core.history.trial import Trial
from hpo_core.ledger.decode import stored_spec
from hpo_core.ledger.evaluations import FoldLedger, evaluation_name
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.store import RUNNING
from hpo_core.ledger.study_run import STOPPED
from hpo_core.ledger.tags import Tag
from hpo_core.selection.evaluation import Training
from hpo_core.study.definition import MOST_PARALLEL
from hpo_core.study.spec import StudySpec
from hpo_core.tracking.connection import connect
from hpo_flows.base.progress import Progress
from hpo_flows.base.stopping import Stopped, noted
from hpo_flows.base.waiting import waiting_for
from hpo_flows.loop.engine import Engine, PrefectTasks, Threads
from hpo_flows.loop.flow_runs import Renewal, crash_dead_flow_runs, owned_flow_run
from hpo_flows.loop.prefect_link import Link, forget_events, impatient, reached
from hpo_flows.loop.stage import Step, advance
from hpo_flows.loop.stages import SESSIONS, FlowSession
from hpo_flows.loop.view.prefect_view import PrefectView
from hpo_flows.objectives.context import CHECKPOINT
from hpo_flows.trials.remote.dispatcher import RemoteTrials
from hpo_flows.trials.remote.runner import Runner
from hpo_flows.trials.session import CHAMPION_FIELD
from hpo_flows.trials.task import study_tags, untagged
from hpo_flows.workers.resources import check, devices
from hpo_flows.workers.this_process import ThisProcess

log = logging.getLogger("hpo")

TICK_SECONDS = 1.0
"""How long the loop waits for a trial to end before it checks the clock again."""

HEAR_SECONDS = 5.0
"""How often the loop reads what people have told the study; by time, so that quick trials cost no request each."""

DESCRIBE_SECONDS = 60.0
"""The minimum time between two updates of the study's description with a new incumbent."""

RELOAD_SECONDS = 15.0
"""How often the loop loads what other flows did while none of its own trials ends."""

FATAL_FIELDS = (CHECKPOINT, CHAMPION_FIELD, "objective", "resources.gpus", "resources.cpus", "resources.memory")
"""Errors in these fields end the study even if other trials have succeeded."""


def reap_after(flow: Any, flow_run: Any, state: Any) -> None:
    """Prefect's hook for a cancelled or crashed flow: ends the MLflow runs that its process left RUNNING.

    A Prefect worker calls it after it has ended the flow's process. Inside that process the loop has already done it.
    """
    if flow_run.parameters["study_run"] in SESSIONS:
        return

    store = connect(patience=30.0)
    run = store.get(flow_run.parameters["study_run"])
    ledger = Ledger(store, stored_spec(run), run)
    ledger.load()
    ledger.reap()
    if not ledger.load().under_way:
        FoldLedger(ledger).load()  # loading also ends the folds whose flow is gone


@flow(
    name="tune",
    flow_run_name="{name}",
    persist_result=False,
    on_cancellation=[reap_after],
    on_crashed=[reap_after],
)
def tune(name: str, study_run: str) -> str:
    """Run trials of one study until a stop rule holds; returns which.

    Args:
        name: The study, for Prefect's UI.
        study_run: The id of the study's MLflow run, which names the session.
    """
    return loop_of(study_run).run()


_LOOPS: dict[str, Loop] = {}
"""The loops of this process, by the id of the study's run. They cannot be a flow's parameter, which is serialised."""


def loop_of(study_run: str) -> Loop:
    """The loop of a study. A function of its own, because the flow is pickled by value to other machines with its tasks
    and so must not refer to a session."""
    return _LOOPS[study_run]


def run_loop(session: FlowSession) -> str:
    """Run trials of a study until a stop rule holds; returns which.

    The loop runs inside a flow run, so that Prefect shows it. It runs without one if Prefect's temporary server does
    not start, or is lost before the loop starts. The state that Prefect gives an ended flow run does not matter.

    Raises:
        Unreachable: A Prefect server is named but does not respond.
        EngineError: Trials are to be trained on other machines, which needs Prefect.
        Stopped: SIGINT or SIGTERM came.
    """
    runner, spec, id = session.runner, session.ledger.spec, session.ledger.study_run.id
    complaining = logging.raiseExceptions
    with reached() as link:
        session.ledger.study.set_status(RUNNING)
        loop = _LOOPS[id] = Loop(session, link)
        try:
            if not link.lost:
                _run_flow(loop, make_flow(spec.parallel, runner), spec, id)
            if loop.begun:
                return loop.outcome()
            if runner is not None:
                why = "trains trials by way of Prefect, which is not there; start its server"
                raise EngineError(f"{runner.name} {why}")
            return loop.run()
        finally:
            del _LOOPS[id]
            if link.lost or (loop.signalled and link.ended):
                forget_events()  # again, since the end of the flow run has added some
            logging.raiseExceptions = complaining


def _run_flow(loop: Loop, made: Any, spec: StudySpec, id: str) -> None:
    """Run the loop inside a flow run. Errors after the loop has ended are Prefect's alone and are dropped.

    Raises:
        BaseException: The flow was stopped from outside before the loop ended.
    """
    try:
        with impatient(), tags(*study_tags(spec)):
            made(spec.name, id)
    except Exception as error:
        if not loop.ended:
            loop.link.give_up(error)
    except BaseException:
        if not loop.ended:
            raise


Event = Training | Callable[[], None] | None
"""What the loop waits for: the end of a training, a training that needs this thread, or None: check the signal."""


class Loop:
    """The loop of ``docs/explanation/architecture.md``. Its state is disposable: whatever must last is in MLflow.

    Args:
        session: What it shares with the trials.
        link: The connection to Prefect's server.

    Attributes:
        begun, ended: Whether it has started, and whether it has ended.
    """

    def __init__(self, session: FlowSession, link: Link) -> None:
        self.link, self.begun, self.ended = link, False, False
        self._reason = ""
        self._error: BaseException | None = None
        self._session, self._ledger = session, session.ledger
        self._stages = session.stages
        self._running: dict[str, Training] = {}  # by run id
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._signal: int | None = None
        self._interruptible = False
        self._started = self._heard = time.monotonic()
        self._described: tuple[float, Trial | None] = (self._started, None)
        self._renewal = Renewal(link)
        self._view = PrefectView(session.ledger, link, session.stages)
        self._engine: Engine = Threads(session) if link.lost else PrefectTasks(session, link)
        self._remote = RemoteTrials(session, session.runner) if session.runner is not None else None
        self._here = session.pool if isinstance(session.pool, ThisProcess) else None
        if self._here is not None:
            self._here.serve(self._events.put, self._note)

    def run(self) -> str:
        """Loop until no trial runs and none is to be started.

        Raises:
            Stopped: SIGINT or SIGTERM came. This flow's trials are ended, and their runs say so.
        """
        self.begun = True
        try:
            with noted(self._note), self._shown():
                self._reason = self._run()
        except BaseException as error:
            self._error = error
            raise
        finally:
            self.ended = True
        return self._reason

    @property
    def signalled(self) -> bool:
        """Whether SIGINT or SIGTERM came."""
        return self._signal is not None

    def outcome(self) -> str:
        """Return or raise what :meth:`run` did."""
        if self._error is not None:
            raise self._error
        return self._reason

    def _note(self, number: int) -> None:
        """Remember a signal, which the loop checks between two steps, and cut short any wait for MLflow.

        As a signal handler it could interrupt a write to MLflow, so it raises only while the objective is imported or
        trains in this thread.
        """
        if self._interruptible:
            raise Stopped(number)
        self._signal = number
        logging.raiseExceptions = False  # Ctrl-C also ends Prefect's temporary server, so that its log cannot be sent
        self._stages.search.halt()
        self._ledger.store.hurry()
        self._events.put(None)
        if self._here is not None:
            self._here.interrupt(number)

    @contextlib.contextmanager
    def _shown(self) -> Iterator[None]:
        """Label this flow run as owned by this process, and crash dead ones, unless Prefect is lost."""
        if self.link.lost:
            yield
            return
        with owned_flow_run(self.link), untagged(self._spec):
            crash_dead_flow_runs(self.link)
            yield

    def _run(self) -> str:
        try:
            self._tell_url()
            if self._remote is None:
                self._check_objective()
            while True:
                if self._signal is not None:
                    raise Stopped(self._signal)
                history = self._load(fresh=bool(self._stages.search.reason))
                self._observe(history)
                edition = self._spec.edition
                self._hear()
                if self._spec.edition != edition:
                    continue  # the history is one of the old space
                if reason := STOPPED if self._ledger.study.stop_requested else self._ledger.outdated:
                    step = Step(over=True)
                else:
                    step, reason = self._advance(history), self._stages.search.reason
                if step.stale:
                    self._sleep(self._ledger.backoff.seconds())
                    continue
                if step.over and not self._running:
                    self._view.end(self._load(fresh=True), self._seconds, reason)
                    return reason
                self._wait()
        except BaseException:
            # Stopped, or MLflow is out of reach: end the workers, and wait until each trial has recorded it in its run.
            self._session.pool.cancelled.set()
            if self._remote is not None:
                self._remote.interrupt()
                self._running.clear()
            while self._running:
                self._take(self._events.get())
            self._view.tell(f"{self._spec.name} is ended by {'a signal' if self._signal is not None else 'an error'}")
            if self._signal is not None:  # the error may only be MLflow's, which gets little time after a signal
                raise Stopped(self._signal) from None
            raise

    def _check_objective(self) -> None:
        """Check that the objective can be imported. That may take long, so a signal interrupts it at once."""
        self._interruptible = True
        waiting_for(f"importing the objective {self._spec.objective}")
        try:
            self._session.pool.check()
        finally:
            self._interruptible = False

    def _tell_url(self) -> None:
        """Write the address of this flow run in Prefect's UI to the study's run, if Prefect has a UI."""
        if self.link.lost or self.link.server is not None:
            return
        if (url := url_for("flow-run", obj_id=runtime.flow_run.id)) is not None:
            self._ledger.study.log({Tag.FLOW_RUN_URL: url})

    def _load(self, *, fresh: bool) -> History:
        history = self._session.load(fresh=fresh)
        for training in self._remote.ended() if self._remote is not None else ():
            del self._running[training.run_id]
            self._session.board.end(training)
        when, incumbent = self._described
        if history.incumbent != incumbent and time.monotonic() - when > DESCRIBE_SECONDS:
            self._stages.describe(history)
            self._described = time.monotonic(), history.incumbent
        return history

    def _advance(self, history: History) -> Step:
        """Let the stages start trainings in the free slots."""

        def begin(started: Sequence[Training]) -> None:
            reserved = [each.trial for each in started if each.evaluation is None]
            self._session.rungs.show(history.with_trials(reserved))
            for training in started:
                self._submit(training)

        free = 0 if self._paused else self._spec.parallel - len(self._running)
        step = advance(self._stages, history, free, begin)
        self._observe(history)
        return step

    def _observe(self, history: History) -> None:
        """Show the state of the study, and do what is due by the clock."""
        self._view.show(history, self._seconds)
        running = self._session.board.shown()
        self._session.observe(
            Progress(history, self._seconds, self._stages.choice, running, spec=self._spec, paused=self._paused)
        )
        self._session.publisher.tick(history, self._stages.choice, self._stages.challenge)
        self.link.look()
        self._renewal.tick()

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._started

    @property
    def _spec(self) -> StudySpec:
        return self._ledger.spec  # which changes while the study runs: hpo set

    @property
    def _paused(self) -> bool:
        return self._ledger.study.instructions.paused

    def _hear(self) -> None:
        """Do what people have told the study; asks MLflow every few seconds."""
        if time.monotonic() - self._heard <= HEAR_SECONDS:
            return
        self._heard, before = time.monotonic(), self._spec.parallel
        for instruction in self._ledger.hear():
            log.warning("%s: %s", self._spec.name, instruction)
            if instruction.kind == "stop":
                for training in self._running.values():
                    if training.number == instruction.value and training.evaluation is None:
                        self._session.stop(training, instruction.reason)
        if self._spec.parallel > before and self._remote is None:
            self._check_resources(before)

    def _check_resources(self, before: int) -> None:
        """Keep the number of trials at a time if this machine cannot train more."""
        resources = self._spec.resources
        try:
            check(resources, self._spec.parallel, devices() if resources.gpus else [])
        except InputError as error:
            log.warning("%s: this flow stays at parallel=%d: %s", self._spec.name, before, error)
            self._ledger.spec = self._spec.model_copy(update={"parallel": before})

    def _submit(self, training: Training) -> None:
        self._running[training.run_id] = training
        self._view.begin(training)
        name = task_name(self._spec, training)
        if self._remote is None:
            future = self._engine.submit(name, training)
        else:
            self._session.board.begin(training)  # its agent shows its steps nowhere here
            self._stages.release(training)  # the dispatcher and then the agent renew its lease
            future = self._remote.submit(name, training)
        future.add_done_callback(lambda _: self._events.put(training))

    def _wait(self) -> None:
        """Wait until one of this flow's trials ends, or it is time to load what other flows did."""
        if self._running:
            self._sleep(RELOAD_SECONDS)
        else:
            self._sleep(HEAR_SECONDS if self._paused else TICK_SECONDS)

    def _sleep(self, seconds: float) -> None:
        """Wait so long, or until one of this flow's trials ends or a signal comes."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                event = self._events.get(timeout=min(left, TICK_SECONDS))
            except Empty:
                self._observe(self._ledger.history())
            else:
                self._take(event)
                if not callable(event):
                    return

    def _take(self, event: Event) -> None:
        if callable(event):
            with self._clock():
                event()
        elif event is not None and self._running.pop(event.run_id, None) is not None:
            self._settle(event)

    @contextlib.contextmanager
    def _clock(self) -> Iterator[None]:
        """While a trial has this thread, let another one do what is due by the clock."""
        assert self._here is not None
        over, errors, cancelled = threading.Event(), list[Exception](), self._here.cancelled

        def tick() -> None:
            try:
                while not over.wait(TICK_SECONDS):
                    self._observe(self._ledger.history())
                    self._hear()
            except Exception as error:
                errors.append(error)
                cancelled.set()  # the trial ends at its next report

        # In this context, which is that of Prefect's flow run.
        clock = threading.Thread(target=copy_context().run, args=[tick], name="hpo-clock", daemon=True)
        clock.start()
        try:
            yield
        finally:
            over.set()
            clock.join()
        if errors:
            raise errors[0]

    def _settle(self, training: Training) -> None:
        """Free the slot of a training that has ended.

        Raises:
            Exception: It ended by an error that ends the study.
        """
        self._session.board.end(training)
        self._stages.release(training)
        if self._remote is not None and (error := self._remote.settle(training)) is not None:
            self._session.fail(error)
        fatal = self._session.fatal
        if fatal is None or self._session.pool.cancelled.is_set():
            return
        # If other trials have completed, an input error concerns this trial alone. Exceptions are FATAL_FIELDS: after a
        # checkpoint that does not fit the code has changed, and no other will fit; the champion's evaluations belong to
        # no trial; and a machine that lacks the objective or the resources would fail trial after trial.
        if isinstance(fatal, InputError) and fatal.field not in FATAL_FIELDS and self._ledger.load().complete:
            self._session.forgive()
            return
        raise fatal


def task_name(spec: StudySpec, training: Training) -> str:
    """The name of a training in Prefect's UI."""
    name = f"{spec.name}-{training.number:04d}"
    return name if training.evaluation is None else f"{name} {evaluation_name(training.evaluation)}"


def make_flow(parallel: int, runner: Runner | None = None) -> Any:
    """The flow with the engine's task runner, or with one thread per parallel trial, which waits for a worker.

    There may be more threads than trials at first: ``hpo set`` can ask for more while the flow runs.
    """
    tasks: Any = ThreadPoolTaskRunner(max_workers=MOST_PARALLEL) if runner is None else runner.task_runner(parallel)
    return tune.with_options(task_runner=tasks)

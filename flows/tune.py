"""The strategy loop as a Prefect flow: load, propose, reserve, submit, and again as each trial ends."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import Any

from prefect import flow, runtime
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.urls import url_for

from flows.away import Away
from flows.champion import ChampionStage
from flows.checkpoints import discard_superfluous
from flows.context import CHECKPOINT
from flows.final import FinalStage, task_name
from flows.flow_runs import Renewal, end_dead, held
from flows.prefect_view import PrefectView
from flows.report import study_description
from flows.runners import Runner
from flows.trial import CHAMPION_FIELD, SESSIONS, FlowSession, Progress, run_trial
from hpo_core.errors import InputError
from hpo_core.folds import FoldLedger
from hpo_core.history import History
from hpo_core.selection import Choice, Evaluation
from hpo_core.trial import Proposal, Trial

TICK_SECONDS = 1.0
"""How long the loop waits for a trial to end before it looks at the clock again."""

STOP_SECONDS = 5.0
"""How often it asks whether ``hpo stop`` was called; by time, so that a study of quick trials hardly pays for it."""

DESCRIBE_SECONDS = 60.0
"""How often, at the most, a new incumbent is written into the study's description while the study runs."""

RELOAD_SECONDS = 15.0
"""How often it looks for what other flows did while none of its own trials ends."""


UNCURABLE = (CHECKPOINT, CHAMPION_FIELD, "objective", "resources.gpus", "resources.cpus", "resources.memory")
"""The fields of errors that end the study although other trials went well."""


def reap_after(flow: Any, flow_run: Any, state: Any) -> None:
    """Prefect's hook for a flow that was cancelled or crashed: no run of a process that is gone stays RUNNING.

    A worker calls it after it has ended the flow's process; inside that process the loop has already done it.
    """
    if flow_run.parameters["study_run"] in SESSIONS:
        return
    from hpo_core.ledger import Ledger, stored_spec
    from mlflow_server.embedded import connect

    store = connect(patience=30.0)
    run = store.get(flow_run.parameters["study_run"])
    ledger = Ledger(store, stored_spec(run), run)
    ledger.load()
    ledger.reap()
    if not ledger.load().running:
        FoldLedger(ledger).load()  # which ends the folds whose flow is gone


@flow(
    name="tune",
    flow_run_name="{name}",
    persist_result=False,
    on_cancellation=[reap_after],
    on_crashed=[reap_after],
)
def tune(name: str, study_run: str) -> str:
    """Run trials of one study until a stop rule holds; answers which.

    Args:
        name: The study, for Prefect's UI.
        study_run: The id of the study's MLflow run, which names the session.
    """
    return loop_of(study_run).run()


def loop_of(study_run: str) -> Loop:
    """The loop of a session. The flow itself goes to other machines with its tasks, by value: it names no session."""
    return Loop(SESSIONS[study_run])


class Stopped(KeyboardInterrupt):
    """The flow was told to stop by a signal.

    Args:
        number: The signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Loop:
    """The round of ``docs/architecture.md``. All that it holds can be thrown away: MLflow has the rest."""

    def __init__(self, session: FlowSession) -> None:
        self._session, self._ledger, self._spec = session, session.ledger, session.ledger.spec
        self._running: dict[str, Trial] = {}  # by run id
        self._ended: SimpleQueue[Trial | None] = SimpleQueue()  # None: look at the signal
        self._signal: int | None = None
        self._started = self._asked = time.monotonic()
        self._stop_requested = False
        self._described: tuple[float, Trial | None] = (self._started, None)
        self._renewal = Renewal()
        self._view = PrefectView(session.ledger)
        self._task = run_trial.with_options(retries=self._spec.retries)
        self._away = Away(session, session.runner) if session.runner is not None else None
        self._folds = FoldLedger(self._ledger)
        self._final = FinalStage(self._ledger, self._folds) if self._spec.final is not None else None
        self._champion = ChampionStage(self._ledger, self._folds) if self._spec.champion is not None else None
        self._choice: Choice | None = None

    def run(self) -> str:
        """Loop until nothing runs and nothing is to be started.

        Raises:
            Stopped: SIGINT or SIGTERM came; this flow's trials are ended and say so in their runs.
        """
        with self._signals(), held():
            end_dead()
            return self._run()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM between two steps, never inside one; a second one ends the process at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, frame: object) -> None:
            self._signal = number
            self._ended.put(None)
            signal.signal(number, signal.default_int_handler)

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _run(self) -> str:
        try:
            self._link()
            if self._away is None:
                self._session.pool.check()
            while True:
                if self._signal is not None:
                    raise Stopped(self._signal)
                history = self._load()
                reason, contested = self._fill(history)
                over = reason is not None
                if over and self._final is not None and not self._stop_requested and not contested:
                    over, contested = self._choose(self._final, history)
                if over and self._champion is not None and not self._stop_requested and not contested:
                    over, contested = self._challenge(self._champion, history)
                if contested:
                    continue
                if over and reason is not None and not self._running:
                    self._view.show(history, time.monotonic() - self._started, last=True)
                    return reason
                self._wait()
        except BaseException:
            # Stopped, or MLflow is out of reach: end the workers, and let their tasks say so in their runs.
            self._session.pool.cancelled.set()
            if self._away is not None:
                self._away.interrupt()
                self._running.clear()
            while self._running:
                self._take(self._ended.get())
            raise

    def _link(self) -> None:
        """Let the study's run say where Prefect shows this flow run, if Prefect has a UI."""
        if (url := url_for("flow-run", obj_id=runtime.flow_run.id)) is not None:
            self._ledger.store.log(self._ledger.study_run.id, [], {}, {"hpo.flow_run_url": url})

    def _load(self) -> History:
        history = self._ledger.load()
        if self._ledger.reap():
            history = self._ledger.load()
        for trial in self._away.ended() if self._away is not None else ():
            del self._running[trial.run_id]
        self._session.rungs.history = history
        discard_superfluous(self._ledger, history)
        when, incumbent = self._described
        if history.incumbent != incumbent and time.monotonic() - when > DESCRIBE_SECONDS:
            self._ledger.describe(study_description(self._spec, history))
            self._described = time.monotonic(), history.incumbent
        self._ledger.save_snapshot(news=1_000)
        return history

    def _fill(self, history: History) -> tuple[str | None, bool]:
        """Start as many trials as there are free slots.

        Returns:
            Why nothing more is to be started, if so; and whether another flow was faster, so that this one has to
            load again.
        """
        while True:
            seconds = time.monotonic() - self._started
            reason = self._stop_reason(history, seconds)
            self._session.observe(Progress(history, seconds))
            self._view.show(history, seconds)
            self._renewal.tick()
            self._session.publisher.tick(history)
            free = self._spec.parallel - len(self._running)
            if reason is not None or free <= 0:
                return reason, False
            if self._spec.stop.trials is not None:
                free = min(free, self._spec.stop.trials - history.next_number)
            proposals = self._spec.propose(history, free)
            if not proposals:
                return (None if history.running else "the strategy has nothing more to propose"), False
            for proposal in proposals:
                trial = self._ledger.reserve(proposal, history)
                if trial is None:
                    return None, True
                self._submit(trial)
                if self._signal is not None:
                    return None, False
                history = history.with_pending([Proposal(trial.config, trial.fidelity, trial.parent, trial.notes)])
                self._session.rungs.history = history

    def _stop_reason(self, history: History, seconds: float) -> str | None:
        now = time.monotonic()
        if not self._stop_requested and now - self._asked > STOP_SECONDS:
            self._asked = now
            self._stop_requested = self._ledger.stop_requested()
        if self._stop_requested:
            return "hpo stop was called"
        return self._spec.stop_reason(history, seconds / 60)

    def _choose(self, final: FinalStage, history: History) -> tuple[bool, bool]:
        """Start as many evaluations of the final choice as there are free slots, once no trial runs anywhere.

        Returns:
            Whether the choice is made; and whether another flow was faster, so that this one has to load again.
        """
        choice = self._choice = final.load(history)
        if history.running:
            return not choice.standings, False
        self._session.observe(Progress(history, time.monotonic() - self._started, choice))
        started, contested = final.start(history, self._spec.parallel - len(self._running))
        for trial, evaluation in started:
            self._submit(trial, evaluation)
        return not choice.standings or choice.done, contested

    def _challenge(self, champion: ChampionStage, history: History) -> tuple[bool, bool]:
        """Start as many evaluations for the champion's sake as there are free slots, and come to the verdict.

        Returns:
            Whether the verdict stands, or none is due; and whether something has changed, so that this flow has to load
            again.
        """
        if history.running:  # elsewhere
            return history.incumbent is None, False
        challenge = champion.load(history, self._choice)
        if challenge is None or challenge.done:
            return True, False
        if challenge.pending == 0:
            champion.decide(challenge)
            return False, True
        started, contested = champion.start(history, challenge, self._spec.parallel - len(self._running))
        for trial, evaluation in started:
            self._submit(trial, evaluation)
        return False, contested

    def _submit(self, trial: Trial, evaluation: Evaluation | None = None) -> None:
        self._running[trial.run_id] = trial
        spec = self._spec
        name = f"{spec.name}-{trial.number:04d}" if evaluation is None else task_name(spec, evaluation)
        if self._away is None:
            future = self._task.submit(name, trial, self._ledger.study_run.id, evaluation)
        else:
            self._release(trial)  # whoever trains it answers for it
            future = self._away.submit(name, trial)
        future.add_done_callback(lambda _: self._ended.put(trial))

    def _wait(self) -> None:
        """Until one of this flow's trials ends, or it is time to look what others did."""
        deadline = time.monotonic() + RELOAD_SECONDS
        while time.monotonic() < deadline:
            try:
                self._take(self._ended.get(timeout=TICK_SECONDS))
            except Empty:
                self._session.observe(Progress(self._ledger.history(), time.monotonic() - self._started))
                self._session.publisher.tick(self._ledger.history())
                if not self._running:
                    return
            else:
                return

    def _take(self, trial: Trial | None) -> None:
        if trial is None or self._running.pop(trial.run_id, None) is None:
            return
        self._release(trial)
        if self._away is not None:
            self._session.fatal = self._away.settle(trial)
        fatal = self._session.fatal
        if fatal is None or self._session.pool.cancelled.is_set():
            return
        # Where others have returned the study's metric, it is the trial's own affair; but where a checkpoint does not
        # fit, the code has changed, and no other will fit; what an objective does for the champion is of no trial; and
        # a machine that cannot train would fail trial upon trial.
        if isinstance(fatal, InputError) and fatal.field not in UNCURABLE and self._ledger.load().complete:
            self._session.fatal = None
            return
        raise fatal

    def _release(self, trial: Trial) -> None:
        self._ledger.release(trial)
        self._folds.release(trial.run_id)


def make_flow(parallel: int, runner: Runner | None = None) -> Any:
    """The flow with its runner, or with as many threads as trials run at a time; each waits for a worker process."""
    tasks: Any = ThreadPoolTaskRunner(max_workers=parallel) if runner is None else runner.task_runner(parallel)
    return tune.with_options(task_runner=tasks)

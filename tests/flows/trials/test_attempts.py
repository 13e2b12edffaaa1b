"""What of a trial's attempts stands in MLflow: the values of the one that ended it, and always an ending."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo_core.base.errors import DiskError, TrackingError, TrackingRefusal
from hpo_core.history.trial import Trial, TrialState
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.spool import Spool
from hpo_core.ledger.store import FAILED, FINISHED, RUNNING, Metric
from hpo_core.ledger.tags import Tag
from hpo_core.lineage.opening import find_study, open_study
from hpo_core.selection.evaluation import Fold, Training
from hpo_core.study.file import study_from
from hpo_core.tracking.trial_run import Logged
from hpo_flows.objectives.messages import FoldScore, LoggedByMlflow, NotKept, Report
from hpo_flows.objectives.reference import Objective
from hpo_flows.trials import evaluate as evaluate_module
from hpo_flows.trials import recorder
from hpo_flows.trials.evaluate import evaluate
from hpo_flows.trials.session import Session
from hpo_flows.workers.job import Job, TrialCancelled, TrialFailed
from hpo_flows.workers.pool import WorkerPool
from tests.memory_store import MemoryStore

Supervisor = Any
"""A call of :meth:`hpo_flows.workers.worker.Worker.run`: it has ``message``, ``tick`` and ``job``."""


class PlayedPool:
    """A pool whose workers do what a script says, in this process."""

    def __init__(self, script: Callable[[Supervisor], Mapping[str, float]]) -> None:
        self.script = script

    @contextlib.contextmanager
    def worker(self) -> Iterator[PlayedPool]:
        yield self

    def run(self, job: Job, *, on_message: Any, on_tick: Any, **limits: Any) -> dict[str, float]:
        self.job, self.tick = job, on_tick
        self.send = on_message
        self.message = lambda step, metrics, **more: on_message(Report(step, metrics, **more))
        self.fold = lambda index, of, **metrics: on_message(FoldScore(Fold(index, of), metrics, asks=index + 1 < of))
        return dict(self.script(self))

    def printed(self) -> str:
        return ""


class PickyStore(MemoryStore):
    """Refuses metrics of some names, or all that concerns deleted runs, as MLflow does."""

    refuses: frozenset[str] = frozenset()

    def log(self, run: str, metrics: Sequence[Metric], params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        if run in self.deleted:
            raise TrackingRefusal("INVALID_PARAMETER_VALUE", f"The run {run} must be in the 'active' state")
        if refused := sorted({metric.key for metric in metrics} & self.refuses):
            raise TrackingRefusal("INVALID_PARAMETER_VALUE", f"Invalid value {refused[0]!r}")
        super().log(run, metrics, params, tags)


def opened(store: MemoryStore, **changes: Any) -> Ledger:
    data: dict[str, Any] = {
        "name": "attempts",
        "objective": "tests.objectives:quick",
        "metric": "loss",
        "direction": "minimize",
        "space": {"x": {"type": "float", "low": 0, "high": 1}},
        "stop": {"trials": 12},
        "retries": 9,
    }
    return open_study(store, study_from(data | changes))


def session_of(ledger: Ledger, folder: Path, script: Callable[[Supervisor], Mapping[str, float]]) -> Session:
    pool = cast(WorkerPool, PlayedPool(script))
    pool.cancelled = cast(Any, None)
    return Session(ledger, pool, Objective("tests.objectives:quick"), folder)


def reserved(ledger: Ledger) -> Trial:
    history = ledger.load()
    [proposal] = ledger.spec.propose(history, 1)
    made = ledger.reserve(proposal, history)
    assert made is not None
    return made


def now(ledger: Ledger) -> Trial:
    """The trial as another flow sees it."""
    return find_study(ledger.store, ledger.spec.name).load().trials[-1]


@pytest.fixture(autouse=True)
def _written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "FIRST_WRITE_SECONDS", 0.0)
    monkeypatch.setattr(recorder, "WRITE_SECONDS", 0.0)


# -- which attempt's values -------------------------------------------------------------------------------------

NAMES = ["loss", "curve", "hypergradient/x", "rest"]
REPORT = st.tuples(
    st.integers(0, 12),
    st.dictionaries(st.sampled_from(NAMES), st.floats(-9, 9), min_size=1),
    st.booleans(),  # whether it is written before the next
    st.none() | st.sampled_from([1, 3, 9]),
)
ATTEMPTS = st.lists(st.lists(REPORT, max_size=6), min_size=1, max_size=4)
RETURNED = st.dictionaries(st.sampled_from(NAMES), st.floats(-9, 9)).map(lambda some: {"loss": 0.25} | some)


@given(attempts=ATTEMPTS, returned=RETURNED)
def test_what_is_read_of_a_trial_is_what_its_last_attempt_said(
    attempts: list[list[Any]], returned: dict[str, float], tmp_path_factory: pytest.TempPathFactory
) -> None:
    ledger = opened(MemoryStore(), early_stop={"rule": "median", "first": 1})
    turns = iter(attempts)
    left = itertools.count(len(attempts) - 1, -1)

    def script(supervisor: Supervisor) -> Mapping[str, float]:
        for step, metrics, written, milestone in next(turns):
            more = {} if milestone is None else {"milestone": milestone}
            supervisor.message(step, metrics, **more)
            if written:
                supervisor.tick()
        if next(left):
            raise TrialFailed("it died", retry=True)
        return returned

    session = session_of(ledger, tmp_path_factory.mktemp("home"), script)
    trial = reserved(ledger)
    for attempt in range(1, len(attempts)):
        with pytest.raises(TrialFailed, match="it died"):
            evaluate(session, Training(trial), attempt, {})
    assert evaluate(session, Training(trial), len(attempts), {}) == returned

    latest: dict[str, tuple[int, float]] = {}
    rungs: dict[int, float] = {}
    curve: dict[int, float] = {}
    for step, metrics, _, milestone in attempts[-1]:
        for name, value in metrics.items():
            if step >= latest.get(name, (step, 0.0))[0]:
                latest[name] = step, value
        if "loss" in metrics:
            curve[step + 1] = metrics["loss"]
        if milestone is not None and curve:
            rungs[milestone] = curve[max(curve)]
    found = now(ledger)
    assert found.state is TrialState.COMPLETE and found.loss == returned["loss"]
    assert found.metrics == {name: value for name, (_, value) in latest.items()} | returned
    assert found.hypergradient == (
        {"x": found.metrics["hypergradient/x"]} if "hypergradient/x" in found.metrics else {}
    )
    assert found.rungs == rungs
    live = session.rungs.view()
    assert next(each for each in live if each.number == trial.number).rungs == rungs
    assert not session.traces


def test_another_flow_sees_no_rung_of_an_attempt_that_died(tmp_path: Path) -> None:
    ledger = opened(MemoryStore(), early_stop={"rule": "median", "first": 1})
    seen: list[Mapping[int, float]] = []

    def script(supervisor: Supervisor) -> Mapping[str, float]:
        if seen:
            supervisor.tick()
            seen.append(now(ledger).rungs)
            return {"loss": 1.0}
        supervisor.message(8, {"loss": 5.0}, milestone=9)
        supervisor.tick()
        seen.append(now(ledger).rungs)
        raise TrialFailed("it died", retry=True)

    session, trial = session_of(ledger, tmp_path, script), reserved(ledger)
    with pytest.raises(TrialFailed):
        evaluate(session, Training(trial), 1, {})
    evaluate(session, Training(trial), 2, {})
    assert seen == [{9: 5.0}, {}]


# -- folds -----------------------------------------------------------------------------------------------------


def cross_validated(
    ledger: Ledger, folder: Path, *folds: float, of: int = 5, attempt: int = 1, dies: bool = False, **again: Any
) -> Trial:
    """A trial of an objective that cross-validates, as another flow sees it afterwards; its loss is the mean."""

    def script(supervisor: Supervisor) -> Mapping[str, float]:
        scored: list[float] = []
        for index, loss in enumerate(folds):
            scored.append(loss)
            if not supervisor.fold(index, of, loss=loss):
                break
        supervisor.tick()
        if dies:
            raise TrialFailed("it died", retry=True)
        return {"loss": math.fsum(scored) / len(scored)}

    session = again.get("session") or session_of(ledger, folder, script)
    session.pool.script = script
    session.rungs.show(ledger.load())
    training = Training(again.get("trial") or reserved(ledger))
    with pytest.raises(TrialFailed) if dies else contextlib.nullcontext():
        evaluate(session, training, attempt, {})
    ledger.release(training.trial)
    return now(ledger)


def test_a_trial_that_is_worse_after_some_folds_is_complete_with_them(tmp_path: Path) -> None:
    ledger = opened(MemoryStore())
    for level in (0.5, 0.4, 0.3):
        found = cross_validated(ledger, tmp_path, *(level + loss for loss in (0.01, 0.3, 0.11, -0.2, level / 10)))
        assert (found.whole, found.reason, len(found.folds), found.folds_wanted) == (True, "", 5, 5)
    worse = cross_validated(ledger, tmp_path, *(0.6 + loss for loss in (0.0, 0.32, 0.1, -0.2, 0.0)))
    assert worse.state is TrialState.COMPLETE and not worse.whole and not worse.stopped_early
    assert worse.loss == pytest.approx(0.6) and worse.folds == (0.6,) and worse.weight == 0.2
    assert worse.reason == "stopped after 1 of 5 folds: worse than trial 2 by more than the noise"
    assert worse.metrics == {"loss": 0.6} and "folds_wanted" not in worse.notes
    history = ledger.load()
    assert history.incumbent is not None and history.incumbent.number == 2
    assert history.trials[2].folds == pytest.approx([0.31, 0.6, 0.41, 0.1, 0.33])


def test_an_objective_that_leaves_its_folds_has_some_of_them(tmp_path: Path) -> None:
    found = cross_validated(opened(MemoryStore()), tmp_path, 0.5, 0.7)
    assert (found.state, found.whole, found.loss) == (TrialState.COMPLETE, False, 0.6)
    assert found.reason == "the objective returned after 2 of 5 folds"


@given(dead=st.lists(st.floats(-9, 9), min_size=1, max_size=5), last=st.lists(st.floats(-9, 9), max_size=5))
def test_the_folds_of_a_trial_are_those_of_its_last_attempt(
    dead: list[float], last: list[float], tmp_path_factory: pytest.TempPathFactory
) -> None:
    ledger, folder = opened(MemoryStore()), tmp_path_factory.mktemp("home")
    trial = reserved(ledger)
    session = session_of(ledger, folder, lambda supervisor: {})
    died = cross_validated(ledger, folder, *dead, dies=True, session=session, trial=trial)
    assert died.state is TrialState.RUNNING and not died.folds
    if last:
        found = cross_validated(ledger, folder, *last, attempt=2, session=session, trial=trial)
        assert found.folds == tuple(last)


# -- names that MLflow cannot keep ------------------------------------------------------------------------------


def test_a_metric_that_cannot_be_kept_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = PickyStore()
    store.refuses = frozenset({"colon:ed", "tail"})  # as a server on Windows, or an older one
    ledger = opened(store)

    def script(supervisor: Supervisor) -> Mapping[str, float]:
        for step in range(3):
            supervisor.message(step, {"top@5": 1.0, "colon:ed": 2.0, "hpo.rung.3": 3.0, "curve": float(step)})
            supervisor.tick()
        return {"loss": 0.5, "loss (val)": 1.0, "a//b": 1.0, "tail": 1.0} | {f"m{i}": float(i) for i in range(40)}

    with caplog.at_level(logging.WARNING, logger="hpo"):
        evaluate(session_of(ledger, tmp_path, script), Training(reserved(ledger)), 1, {})
    trial = now(ledger)
    assert (trial.state, trial.loss, trial.rungs) == (TrialState.COMPLETE, 0.5, {})
    assert trial.metrics == {"loss": 0.5, "curve": 2.0} | {f"m{i}": float(i) for i in range(40)}
    left_out = ["a//b", "colon:ed", "hpo.rung.3", "loss (val)", "tail", "top@5"]
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == len(left_out) and all(any(repr(name) in line for line in told) for name in left_out)
    assert store.runs[trial.run_id].tags["hpo.metrics_refused"] == ", ".join(left_out)


@pytest.mark.parametrize("when", ["at the end", "on the way", "from the spool"])
def test_a_trial_whose_own_metric_is_refused_has_failed(when: str, tmp_path: Path) -> None:
    store = PickyStore()
    ledger = opened(store)

    def script(supervisor: Supervisor) -> Mapping[str, float]:
        store.refuses = frozenset({"loss"})
        if when == "on the way":
            supervisor.message(0, {"loss": 1.0, "other": 2.0})
            supervisor.tick()
        if when == "from the spool":
            store.before = lambda operation: unreachable() if operation == "log" else None
        return {"loss": 0.5, "other": 2.0}

    session = session_of(ledger, tmp_path, script)
    with pytest.raises(TrackingError if when == "from the spool" else TrialFailed):
        evaluate(session, Training(reserved(ledger)), 1, {})
    if when == "from the spool":
        store.before = lambda operation: None
        assert session.spool.deliver(ledger) == 1 and not list(session.spool.waiting())
    trial = now(ledger)
    assert (trial.state, trial.metrics) == (TrialState.FAILED, {"other": 2.0})
    assert "loss" in trial.reason


def unreachable() -> None:
    raise TrackingError("the MLflow store does not respond")


# -- every way out ----------------------------------------------------------------------------------------------


def test_a_deleted_run_ends_its_trial_and_nothing_else(tmp_path: Path) -> None:
    store = PickyStore()
    ledger = opened(store)
    trial = reserved(ledger)

    def script(supervisor: Supervisor) -> Mapping[str, float]:
        store.delete_run(trial.run_id)
        supervisor.message(0, {"curve": 1.0})
        supervisor.tick()
        raise AssertionError("it trains on for nobody")

    session = session_of(ledger, tmp_path, script)
    with pytest.raises(TrialFailed, match="must be in the 'active' state"):
        evaluate(session, Training(trial), 1, {})
    assert session.fatal is None and not list(session.spool.waiting())
    ledger.release(trial)
    assert len(ledger.load()) == 0
    history = ledger.load()
    assert ledger.reserve(ledger.spec.propose(history, 1)[0], history) is None, "its number is given out for good"
    assert reserved(ledger).number == 1


def full(*anything: object, **more: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


FAULTS: dict[str, Callable[[pytest.MonkeyPatch, Path], None]] = {
    "none": lambda patch, home: None,
    "home is a file": lambda patch, home: home.write_text(""),
    "no spool": lambda patch, home: patch.setattr(Spool, "put", full),
    "no text": lambda patch, home: patch.setattr(Path, "write_text", full),
    "no folder": lambda patch, home: patch.setattr(Path, "mkdir", full),
    "a bug": lambda patch, home: patch.setattr(evaluate_module, "worth_keeping", lambda *given: 1 / 0),
}
OUTCOMES: dict[str, Callable[[Supervisor], Mapping[str, float]]] = {}


def outcome(function: Callable[[Supervisor], Mapping[str, float]]) -> Callable[[Supervisor], Mapping[str, float]]:
    OUTCOMES[function.__name__] = function
    return function


@outcome
def fine(supervisor: Supervisor) -> Mapping[str, float]:
    return {"loss": 0.5}


@outcome
def refused_metric_then_error(supervisor: Supervisor) -> Mapping[str, float]:
    supervisor.message(0, {"top@5": 1.0})
    raise TrialFailed("ValueError: caf\udcff \0", retry=False, details="caf\udcff \0")


@outcome
def server_refuses_then_error(supervisor: Supervisor) -> Mapping[str, float]:
    supervisor.message(0, {"refused": 1.0})
    raise TrialFailed("the objective returned loss = nan", retry=False, details="x")


@outcome
def cancelled(supervisor: Supervisor) -> Mapping[str, float]:
    supervisor.message(0, {"refused": 1.0})
    raise TrialCancelled


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("how", OUTCOMES)
def test_every_way_out_of_a_trial_ends_it_with_a_reason(
    fault: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PickyStore()
    store.refuses = frozenset({"refused"})
    ledger = opened(store)
    session = session_of(ledger, tmp_path / "home", OUTCOMES[how])
    trial = reserved(ledger)
    with monkeypatch.context() as patch:
        FAULTS[fault](patch, tmp_path / "home")
        with contextlib.suppress(TrialFailed, TrialCancelled, OSError, ZeroDivisionError):
            evaluate(session, Training(trial), 10, {})
    run = store.runs[trial.run_id]
    assert run.status != RUNNING
    found = now(ledger)
    if fault in ("home is a file", "no folder"):
        assert isinstance(session.fatal, DiskError)
        assert found.state is TrialState.FAILED and "cannot be trained" in found.reason
    elif how != "fine":
        assert run.status == FAILED and session.fatal is None
        expected = {"cancelled": "interrupted", "refused_metric_then_error": "ValueError: caf? ?"}
        assert found.reason.startswith(expected.get(how, "the objective returned"))
    elif fault == "a bug":
        assert session.fatal is not None and found.reason
    else:
        assert (run.status, found.loss, session.fatal) == (FINISHED, 0.5, None)


def test_where_nothing_can_be_written_the_flow_is_told(tmp_path: Path) -> None:
    """Neither MLflow nor the disk: the trial stays RUNNING, and the whole flow ends with what MLflow said."""
    store = PickyStore()
    ledger = opened(store)

    def script(supervisor: Supervisor) -> Mapping[str, float]:
        store.before = lambda operation: unreachable()
        return {"loss": 0.5}

    session = session_of(ledger, tmp_path, script)
    trial = reserved(ledger)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Spool, "put", full)
        with pytest.raises(TrackingError):
            evaluate(session, Training(trial), 1, {})
    assert isinstance(session.fatal, TrackingError)
    assert store.runs[trial.run_id].status == RUNNING


def test_a_metric_is_never_nan_in_a_history() -> None:
    ledger = opened(MemoryStore())
    trial = reserved(ledger)
    ledger.store.log(trial.run_id, [Metric("curve", math.nan, 1, 0), Metric("loss", 1.0, 1, 0)], {}, {})
    ledger.store.set_status(trial.run_id, FINISHED)
    ledger.release(trial)
    assert now(ledger).metrics == {"loss": 1.0}


def test_a_model_that_could_not_be_kept_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In the run, each time; on the screen, once per reason."""
    ledger = opened(MemoryStore())

    def script(supervisor: Supervisor) -> Mapping[str, float]:
        supervisor.send(NotKept("the model is not kept", "ValueError: the example\nhas no rows"))
        return {"loss": 0.5}

    session = session_of(ledger, tmp_path, script)
    with caplog.at_level(logging.WARNING, "hpo"):
        for _ in range(2):
            trial = reserved(ledger)
            evaluate(session, Training(trial), 1, {})
            assert ledger.store.get(trial.run_id).tags[Tag.NOT_KEPT].startswith("the model is not kept: ValueError")
            ledger.release(trial)
    assert caplog.text.count("ValueError: the example") == 1


@pytest.mark.parametrize("step", [0, 500])
def test_the_result_outdoes_what_the_objective_logs_by_mlflow_itself(tmp_path: Path, step: int) -> None:
    """Under the metric's own name, at whatever step, and by a clock that is ahead."""
    store = MemoryStore()
    ledger = opened(store)
    ahead = recorder.Trace().tick() + 3_600_000

    def script(supervisor: Supervisor) -> Mapping[str, float]:
        store.log(supervisor.job.run.id, [Metric("loss", 9.0, ahead, step)], {}, {})
        supervisor.send(LoggedByMlflow(Logged({"loss": step}, ahead, {"x": "other"})))
        return {"loss": 0.5}

    trial = reserved(ledger)
    evaluate(session_of(ledger, tmp_path, script), Training(trial), 1, {})
    ledger.release(trial)
    assert now(ledger).loss == 0.5
    assert store.get(trial.run_id).tags[Tag.PARAMS_REFUSED] == "x=other"

"""Opens and runs studies from Python. The command line uses the same two functions.

The loop, the worker pool and the live progress are imported where a study runs, since they load Prefect and rich: a
mistake in the study is told before that, and workers import the objective meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from hpo_core.base.errors import InputError, StudyFailed, TrackingError, TrackingRefusal
from hpo_core.champion.publication import publish_model
from hpo_core.ledger.spool import Spool
from hpo_core.ledger.store import FAILED, FINISHED, KILLED
from hpo_core.lineage.opening import open_study
from hpo_core.lineage.series import open_current
from hpo_core.lineage.warm_start import warm_start
from hpo_core.selection.final_choice import best_trial
from hpo_core.space.search_space import KINDS, SearchSpace
from hpo_core.study.file import study_from
from hpo_core.study.spec import StudySpec
from hpo_core.tracking.connection import connect
from hpo_core.tracking.connection import tracking_uri as uri_in_force
from hpo_flows.base.paths import home
from hpo_flows.base.stopping import second_signal_ends
from hpo_flows.base.waiting import waiting_for
from hpo_flows.loop.stages import SESSIONS, FlowSession, Stages
from hpo_flows.loop.temporary_server import start_early
from hpo_flows.objectives.reference import Objective
from hpo_flows.reports.ending import model_runs
from hpo_flows.reports.html.publish import Publisher
from hpo_flows.reports.notify import Notifier, both, notifier_of, reporting_failures, tell_end
from hpo_flows.reports.text import skipped_line
from hpo_flows.results import StudyResult, result_of
from hpo_flows.trials.remote.engines import check_store, make_runner
from hpo_flows.workers.channel import shown
from hpo_flows.workers.data import declared
from hpo_flows.workers.pool import WorkerPool
from hpo_flows.workers.resources import check, devices, variables
from hpo_flows.workers.this_process import ThisProcess

if TYPE_CHECKING:
    from hpo_core.history.history import History
    from hpo_core.ledger.ledger import Ledger
    from hpo_core.space.configuration import Scalar
    from hpo_flows.base.progress import Observer
    from hpo_flows.trials.session import Pool
log = logging.getLogger("hpo")


def run_study(
    objective: Callable[..., Any],
    *,
    name: str,
    space: Mapping[str, Any],
    metric: str = "",
    direction: str = "",
    metrics: Mapping[str, str] | None = None,
    trials: int | str | None = None,
    stop: Mapping[str, Any] | None = None,
    tracking_uri: str | None = None,
    progress: bool = True,
    verbose: bool = False,
    change_space: bool = False,
    **settings: Any,
) -> StudyResult:
    """Tune a plain function. Run again under the same name, the study continues where it ended.

    Args:
        objective: Takes a :class:`hpo_flows.TrialContext` and returns the metric, or a dict of metrics with it.
        name: The study's name.
        space: Parameters by name: :class:`hpo_core.Float` and the like, or dicts as in a study file.
        metric: The name of the returned metric in MLflow.
        direction: ``minimize``, which is the default, or ``maximize``.
        metrics: Two or three metrics with their directions, in place of ``metric`` and ``direction``.
        trials: The total number of trials, or "+20" for 20 more; short for ``stop={"trials": trials}``.
        stop: Stop rules as in a study file.
        tracking_uri: An MLflow tracking URI; by default ``MLFLOW_TRACKING_URI``, or sqlite in the working folder.
        progress: Show live progress.
        verbose: Also show what trials print, after their numbers.
        change_space: Go on in the given space if the study has another one. Its trials inside that stay as evidence.
        **settings: The other keys of a study file: ``strategy``, ``parallel``, ``isolation``, ``seed``, ...

    Raises:
        InputError: An argument is invalid.
        StudyFailed: The first trials all failed with the same error.
        TrackingError: MLflow does not respond.
    """
    function = Objective.of(objective, isolation=settings.get("isolation", "process"))
    goal = {"metric": metric, "direction": direction, "metrics": metrics or {}}
    given = {key: value for key, value in goal.items() if value}
    spec = spec_of(space, trials, stop, {"name": name, "objective": function.reference} | given | settings)
    from hpo_flows.reports.live import LiveProgress

    with second_signal_ends():
        start_early()  # it comes up while MLflow is imported
        with contextlib.ExitStack() as stack:
            live = stack.enter_context(LiveProgress(spec, verbose=verbose)) if progress else None
            pool = stack.enter_context(early_workers(spec, function))
            say = log.info if live is None else live.tell
            ledger = open_ledger(spec, tracking_uri, say, path=function.path, change_space=change_space)
            if live is not None:
                live.begin(ledger.spec)
            return run(ledger, function, live, pool)


def spec_of(
    space: Mapping[str, Any], trials: int | str | None, stop: Mapping[str, Any] | None, others: Mapping[str, Any]
) -> StudySpec:
    """The study of keyword arguments.

    Args:
        space, trials, stop: As for :func:`run_study`.
        others: The other keys of a study file; a metric is minimised where it has no direction.

    Raises:
        InputError: Something in it cannot be used.
    """
    if not isinstance(space, Mapping):
        whole = isinstance(space, SearchSpace)
        remedy = "give its parameters, and its constraints as constraints" if whole else "give {name: parameter}"
        problem = f"{'a SearchSpace' if whole else repr(space)} is not a mapping of names to parameters"
        raise InputError("space", problem, remedy)
    if not isinstance(stop or {}, Mapping):
        raise InputError("stop", f"{stop!r} is not a mapping of keys to values", f"write {{'trials': {stop!r}}}")
    rules = dict(stop or {})
    if trials is not None and "trials" in rules:
        raise InputError("trials", f"{trials!r} is given beside stop.trials, {rules['trials']!r}", "give one of them")
    if trials is not None:
        rules["trials"] = trials
    parameters = {key: value.model_dump() if isinstance(value, KINDS) else value for key, value in space.items()}
    direction = {} if others.get("metrics") else {"direction": "minimize"}
    return study_from({"space": parameters, "stop": rules} | direction | dict(others))


@contextlib.contextmanager
def early_workers(spec: StudySpec, objective: Objective) -> Iterator[Pool | None]:
    """The workers of a study, which import the objective (TensorFlow: 11 s) while this process opens MLflow.

    None if other machines train, or if this one lacks what the study needs, which :func:`run` then reports.
    """
    with contextlib.ExitStack() as stack:
        pool = None
        if not spec.runner.elsewhere:
            with contextlib.suppress(InputError):
                pool = _workers(spec, objective)
                stack.enter_context(pool)
        yield pool


def _workers(spec: StudySpec, objective: Objective) -> Pool:
    if spec.isolation == "none":
        return ThisProcess(_complete(objective, spec))
    present = devices() if spec.resources.gpus else []
    check(spec.resources, spec.parallel, present)
    return WorkerPool(
        spec.parallel, _complete(objective, spec), lambda slot: variables(spec.resources, present, slot, spec.parallel)
    )


def _complete(objective: Objective, spec: StudySpec) -> Objective:
    return replace(objective, needs_hypergradient=spec.needs_hypergradient)


def open_ledger(
    spec: StudySpec,
    tracking_uri: str | None = None,
    on_message: Callable[[str], Any] = log.info,
    path: Sequence[str] = (),
    defaults: Mapping[str, Scalar] | None = None,
    change_space: bool = False,
) -> Ledger:
    """Open the study in MLflow, creating it if it is new, with the past trials that it learns from.

    If the specification declares its data, this is the current study of these data, which may have another name.

    Args:
        spec: The study.
        tracking_uri: As for :func:`run_study`.
        on_message: Called with messages on what was decided and what was imported.
        path: Folders searched first for the function that returns the data.
        defaults: As for :func:`hpo_core.lineage.opening.open_study`; only for studies that declare no data.
        change_space: As for :func:`run_study`.
    """

    waiting_for(f"{spec.name}: opening the study in MLflow")
    with reporting_failures(Notifier(spec)):
        check_store(spec, uri_in_force(tracking_uri))
        store = connect(tracking_uri)
        if spec.data:
            ledger = open_current(
                store, spec, declared(spec.data, path), on_message=on_message, change_space=change_space
            )
        else:
            ledger = open_study(store, spec, on_message=on_message, defaults=defaults, change_space=change_space)
        warm_start(ledger, on_message)
    return ledger


def run(ledger: Ledger, objective: Objective, observe: Observer | None = None, pool: Pool | None = None) -> StudyResult:
    """Run trials of an opened study until a stop rule holds, and send the study's notifications.

    Args:
        ledger: The study.
        objective: What its trials train.
        observe: Called after each load and about once a second.
        pool: The workers, if they were started early; they end with whoever started them.
    """

    with second_signal_ends(), reporting_failures(notifier_of(ledger)) as notifier:
        try:
            result = _run(ledger, objective, both(observe or (lambda progress: None), notifier.observe), pool)
            tell_end(notifier, ledger, result)
        except TrackingRefusal:
            ledger.study.check_there()  # raises a clearer error if the study was deleted meanwhile
            raise
    return result


def _run(ledger: Ledger, objective: Objective, observe: Observer, pool: Pool | None) -> StudyResult:

    spec = ledger.spec
    deliver(ledger)
    publisher = Publisher(ledger)
    objective = _complete(objective, spec)
    history = ledger.load()
    if ledger.skipped:
        log.warning("%s: %s", spec.name, skipped_line(ledger.skipped))
    stages = Stages(ledger)
    over, reason = stages.load(history), stages.search.reason
    if not over or history.under_way:
        reason = _run_flow(ledger, objective, stages, publisher, observe, pool)
        history = ledger.load()
        stages.load(history)
    conclude(ledger, stages, publisher, history, reason)
    return result_of(ledger, history, reason, stages)


def deliver(ledger: Ledger) -> None:
    """Send to MLflow what has waited on this machine's disk for it."""
    if delivered := Spool(home() / "spool" / ledger.study_run.id).deliver(ledger):
        log.warning("%d results of %s had waited on disk and are now in MLflow", delivered, ledger.spec.name)


def conclude(ledger: Ledger, stages: Stages, publisher: Publisher, history: History, reason: str) -> None:
    """Write what the study came to into its run, from its stages as last loaded, and why it ended."""
    stages.record(history)
    if not history.under_way:  # otherwise another flow still works on it
        ledger.study.set_status(FINISHED)
        ledger.study.end(history, reason)
        if (best := best_trial(history, stages.choice, ledger.spec.stands_for)) is not None:
            publish_model(ledger, model_runs(history, best, stages.choice))
    publisher.finish(history, stages.choice, stages.challenge)
    ledger.save_snapshot(news=100)


def break_off(ledger: Ledger, stages: Stages, publisher: Publisher, ended: BaseException) -> None:
    """Write into the study's run that an error or a signal ended it, unless another flow still works on it.

    After a signal the report is written only if that takes little time.
    """
    if (history := ledger.load()).under_way:
        return
    interrupted = isinstance(ended, KeyboardInterrupt)
    ledger.study.set_status(KILLED if interrupted else FAILED)
    why = str(ended) if isinstance(ended, StudyFailed | InputError) else shown(ended)
    ledger.study.end(history, "it was interrupted" if interrupted else why.partition("\n")[0])
    if interrupted:
        publisher.finish_soon(history, stages.choice, stages.challenge)
        return
    stages.describe(history)
    publisher.finish(history, stages.choice, stages.challenge)


def _run_flow(
    ledger: Ledger,
    objective: Objective,
    stages: Stages,
    publisher: Publisher,
    observe: Observer,
    pool: Pool | None,
) -> str:
    spec = ledger.spec
    with contextlib.ExitStack() as stack:
        if (runner := make_runner(spec)) is not None:
            runner.check(objective)
            pool = stack.enter_context(WorkerPool(0, objective))
        elif pool is None:
            pool = _workers(spec, objective)
            stack.enter_context(pool)
        # Prefect's console lines would garble the live progress; its UI still gets all of them. Set before the import.
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
        os.environ.setdefault("PREFECT_LOGGING_INTERNAL_LEVEL", "CRITICAL")
        waiting_for("loading Prefect")
        from hpo_flows.loop.tune import run_loop

        import_module("scipy.stats.qmc")  # most strategies use it; meanwhile Prefect's server comes up
        session = SESSIONS[ledger.study_run.id] = FlowSession(
            ledger, pool, objective, home(), stages=stages, publisher=publisher, observe=observe, runner=runner
        )
        try:
            return run_loop(session)
        except (TrackingError, TrackingRefusal):  # there is nowhere to write
            raise
        except BaseException as ended:
            try:
                break_off(ledger, stages, publisher, ended)
            except TrackingRefusal as error:
                log.debug("%s", error)  # the study was deleted, which is what ended it
            except Exception as error:
                log.warning("why %s ended is not in its run: %s", spec.name, shown(error))
            raise
        finally:
            del SESSIONS[ledger.study_run.id]
            if count := sum(1 for _ in session.spool.waiting()):
                log.warning(
                    "%d results of %s wait in %s: the next run on this machine takes them to MLflow",
                    count, spec.name, session.spool.folder,
                )  # fmt: skip
            ledger.store.hurry(False)

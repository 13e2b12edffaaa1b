"""Running a study from Python; the command line stands on the same two functions."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.objective import Objective
from hpo_core.configuration import Scalar
from hpo_core.history import History
from hpo_core.selection import Choice, best_trial
from hpo_core.study import StudySpec, study_from
from hpo_core.trial import Trial

if TYPE_CHECKING:
    from flows.study_report import Publisher
    from flows.trial import Observer
    from hpo_core.challenge import Challenge
    from hpo_core.ledger import Ledger

log = logging.getLogger("hpo")


@dataclass(frozen=True)
class StudyResult:
    """A study after a run.

    Attributes:
        spec: The study.
        history: All its trials.
        reason: Why no further trial was started.
        tracking_uri: Where it stands in MLflow.
        run_id: Its run there.
        choice: How its final choice stands; None if the study asks for none.
        challenge: How the comparison with the champion stands; None if the study asks for none, or has no winner.
    """

    spec: StudySpec
    history: History
    reason: str
    tracking_uri: str = field(repr=False)  # it may hold a password
    run_id: str
    choice: Choice | None = None
    challenge: Challenge | None = None

    @property
    def best(self) -> Trial | None:
        """The winner of the final choice, or else the incumbent of the search; None if no trial is complete."""
        return best_trial(self.history, self.choice)

    @property
    def test_metrics(self) -> Mapping[str, float]:
        """What the winner of the final choice reached on the test set, by metric; empty where there is none."""
        return {} if self.choice is None or self.choice.test is None else self.choice.test.metrics

    @property
    def best_config(self) -> Mapping[str, Scalar]:
        """The configuration of :attr:`best`.

        Raises:
            ValueError: No trial is complete.
        """
        if self.best is None:
            raise ValueError(f"study {self.spec.name!r} has no complete trial")
        return self.best.config

    @property
    def best_value(self) -> float:
        """The metric of :attr:`best`, in the metric's own direction: of a winner, the mean over its folds.

        Raises:
            ValueError: No trial is complete.
        """
        if self.best is None or self.best.loss is None:
            raise ValueError(f"study {self.spec.name!r} has no complete trial")
        winner = None if self.choice is None else self.choice.winner
        return self.spec.sign * (self.best.loss if winner is None else winner.mean)


def run_study(
    objective: Callable[..., Any],
    *,
    name: str,
    space: Mapping[str, Any],
    metric: str,
    direction: str = "minimize",
    trials: int | str | None = None,
    stop: Mapping[str, Any] | None = None,
    tracking_uri: str | None = None,
    progress: bool = True,
    **settings: Any,
) -> StudyResult:
    """Tune a plain function; run again under the same name, it goes on where it ended.

    Args:
        objective: Takes a :class:`flows.TrialContext` and returns the metric, or a dict of metrics with it.
        name: The study's name.
        space: Parameters by name: :class:`hpo_core.Float` and the like, or dicts as in a study file.
        metric: The name under which MLflow shows what the objective returns.
        direction: ``minimize`` or ``maximize``.
        trials: Total number of trials, or "+20" for 20 more; short for ``stop={"trials": trials}``.
        stop: Stop rules as in a study file.
        tracking_uri: An MLflow tracking URI; by default ``MLFLOW_TRACKING_URI``, or sqlite in the working folder.
        progress: Show live progress.
        **settings: The other keys of a study file: ``strategy``, ``parallel``, ``retries``, ``seed``, ...

    Raises:
        InputError: Something given cannot be used.
        TrackingError: MLflow does not answer.
    """
    function = Objective.of(objective)
    rules = dict(stop or {}) | ({} if trials is None else {"trials": trials})
    parameters = {key: value.model_dump() if hasattr(value, "model_dump") else value for key, value in space.items()}
    spec = study_from(
        {
            "name": name,
            "objective": function.reference,
            "space": parameters,
            "metric": metric,
            "direction": direction,
            "stop": rules,
        }
        | settings
    )
    from flows.report import LiveProgress

    ledger = open_ledger(spec, tracking_uri, path=function.path)
    if not progress:
        return run(ledger, function)
    with LiveProgress(ledger.spec) as observe:
        return run(ledger, function, observe)


def open_ledger(
    spec: StudySpec,
    tracking_uri: str | None = None,
    announce: Callable[[str], Any] = log.info,
    tell: Callable[[str], Any] = log.info,
    path: Sequence[str] = (),
) -> Ledger:
    """The study in MLflow, created if it is new, with the past that it learns from.

    Where the specification declares its data, it is the current study of these data, which may have another name.

    Args:
        spec: The study.
        tracking_uri: As for :func:`run_study`.
        announce: Told each key that a resumed study takes over from ``spec``.
        tell: Told what was decided, and what was imported.
        path: Folders in which the function that returns the data is looked for first.
    """
    from flows.notify import Notifier, failures_told
    from flows.runners import check_store
    from hpo_core.ledger import open_study
    from hpo_core.series import open_current
    from hpo_core.warm_start import warm_start
    from mlflow_server.embedded import connect
    from mlflow_server.embedded import tracking_uri as uri_in_force

    with failures_told(Notifier(spec)):
        check_store(spec, uri_in_force(tracking_uri))
        store = connect(tracking_uri)
        if spec.data:
            from flows.data import declared

            ledger = open_current(store, spec, declared(spec.data, path), announce=announce, tell=tell)
        else:
            ledger = open_study(store, spec, announce=announce, tell=tell)
        warm_start(ledger, tell)
    return ledger


def run(ledger: Ledger, objective: Objective, observe: Observer | None = None) -> StudyResult:
    """Run trials of an opened study until a stop rule holds, and tell whom the study says."""
    from flows.notify import both, failures_told, notifier_of, tell_end

    with failures_told(notifier_of(ledger)) as notifier:
        result = _run(ledger, objective, both(observe or (lambda progress: None), notifier.observe))
        tell_end(notifier, ledger, result)
    return result


def _run(ledger: Ledger, objective: Objective, observe: Observer) -> StudyResult:
    from flows.champion import challenge_in, name_verdict
    from flows.final import choice_of, name_winner
    from flows.report import skipped_line, study_description
    from flows.study_report import Publisher
    from hpo_core.spool import Spool
    from hpo_core.store import FINISHED

    spec = ledger.spec
    if delivered := Spool(home() / "spool" / ledger.study_run.id).deliver(ledger):
        log.warning("%d results of %s had waited on disk and are now in MLflow", delivered, spec.name)
    publisher = Publisher(ledger)
    objective = replace(objective, needs_hypergradient=spec.needs_hypergradient)
    history = ledger.load()
    if ledger.skipped:
        log.warning("%s: %s", spec.name, skipped_line(ledger.skipped))
    reason, choice = spec.stop_reason(history, 0.0), choice_of(ledger, history)
    challenge = challenge_in(ledger, history, choice)
    open_ends = (choice is not None and choice.standings and not choice.done) or (challenge and not challenge.done)
    if reason is None or history.running or open_ends:
        reason = _run_flow(ledger, objective, publisher, observe)
        history = ledger.load()
        choice = choice_of(ledger, history)
        challenge = challenge_in(ledger, history, choice)
    ledger.describe(study_description(spec, history, choice))
    if choice is not None:
        name_winner(ledger, choice)
    if challenge is not None:
        name_verdict(ledger, challenge)
    if not history.running:  # else another flow still works on it
        ledger.set_study_status(FINISHED)
    publisher.finish(history)
    ledger.save_snapshot(news=100)
    return StudyResult(spec, history, reason, ledger.store.uri, ledger.study_run.id, choice, challenge)


def home() -> Path:
    """Where files stand that are on their way to MLflow: ``HPO_HOME``, or ``.hpo`` in the working folder."""
    return Path(os.environ.get("HPO_HOME", ".hpo")).absolute()


def _run_flow(ledger: Ledger, objective: Objective, publisher: Publisher, observe: Observer) -> str:
    from flows.resources import check, devices, variables
    from flows.runners import make_runner
    from flows.worker import WorkerPool
    from hpo_core.store import KILLED, RUNNING

    spec = ledger.spec
    present = devices() if spec.resources.gpus else []
    if (runner := make_runner(spec)) is None:
        check(spec.resources, spec.parallel, present)
    else:
        runner.check(objective)
    ledger.set_study_status(RUNNING)
    # The workers import the objective (TensorFlow: 11 s) while this process imports Prefect and starts its server.
    size = spec.parallel if runner is None else 0
    with WorkerPool(size, objective, lambda slot: variables(spec.resources, present, slot)) as pool:
        # Prefect's console lines would tear the live progress; its own UI still gets every one of them.
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
        os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
        from flows.trial import SESSIONS, FlowSession
        from flows.tune import make_flow

        SESSIONS[ledger.study_run.id] = FlowSession(
            ledger, pool, objective, home(), publisher=publisher, observe=observe, runner=runner
        )
        try:
            reason: str = make_flow(spec.parallel, runner)(spec.name, ledger.study_run.id)
        except KeyboardInterrupt:
            if not ledger.load().running:
                ledger.set_study_status(KILLED)
            raise
        finally:
            del SESSIONS[ledger.study_run.id]
    return reason

"""Lists the studies of an MLflow store with their states, in a few requests however many studies there are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from hpo_core.base.errors import InputError
from hpo_core.history.history import History
from hpo_core.history.trial import Trial
from hpo_core.ledger.decode import stored_spec, trial_of
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.ownership import LEASE_SECONDS, lost_because, now_ms
from hpo_core.ledger.store import FAILED, FINISHED, KILLED, RUNNING, Run, Store
from hpo_core.ledger.study_run import instructions_of, stop_asked, winner_of
from hpo_core.ledger.tags import Tag
from hpo_core.study.spec import StudySpec


class StudyState(StrEnum):
    """What a study is doing."""

    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    """It was stopped, or its flows died; ``hpo tune`` goes on with it."""
    FAILED = "failed"
    """Its trials all failed with the same error, or one showed a mistake in the study."""
    UNREADABLE = "unreadable"
    """Its stored specification is damaged."""


@dataclass(frozen=True)
class ListedStudy:
    """A study of the store.

    Args:
        run: The study's run.
        state: What it is doing.
        active: When something last happened, in milliseconds since 1970.
        spec: Its specification; None if unreadable.
        history: Its trials; none if unreadable.
    """

    run: Run
    state: StudyState
    active: int
    spec: StudySpec | None = None
    history: History = field(default_factory=History)

    @property
    def name(self) -> str:
        return self.run.params["study"]

    @property
    def winner(self) -> int | None:
        """The trial that won the final choice of a study that is over; None if there is none."""
        return winner_of(self.run, self.history)

    @property
    def final(self) -> float | None:
        """The mean of the study's one metric over the winner's folds; None if there is none."""
        return None if self.winner is None or self.spec is None else self.run.metrics.get(f"final/{self.spec.metric}")

    @property
    def paused(self) -> bool:
        """Whether no trial of it is to start for now."""
        return instructions_of(self.run).paused

    @property
    def shown_state(self) -> str:
        """Its state for people; see :func:`shown_state`."""
        return shown_state(self.state, self.paused)


def shown_state(state: StudyState, paused: bool) -> str:
    """A state in words. A pause matters only where anything is left to do.

    >>> shown_state(StudyState.RUNNING, True), shown_state(StudyState.FINISHED, True)
    ('running, paused', 'finished')
    """
    return f"{state}, paused" if paused and state in (StudyState.RUNNING, StudyState.STOPPED) else state.value


def list_studies(store: Store) -> list[ListedStudy]:
    """All studies of the store, the one that was active last first. Changes nothing.

    One search finds the studies, another the trials of all of them. Thousands of trials are read faster from a
    snapshot: an experiment that holds one is read study by study. One more search sees whether a study that runs
    without a running trial evaluates finalists.
    """
    experiments = store.experiments()
    runs = store.search(experiments, {Tag.ROLE: "study"}) if experiments else []
    runs = [run for run in runs if run.params.get("study") == run.tags.get(Tag.STUDY)]
    large = {run.experiment for run in runs if Tag.SNAPSHOT in run.tags}
    small = sorted({run.experiment for run in runs} - large)
    trials: dict[str, list[Run]] = defaultdict(list)
    for run in store.search(small, {Tag.ROLE: "trial"}) if small else []:
        trials[run.tags.get("mlflow.parentRunId", "")].append(run)
    found = [_listed(store, run, None if run.experiment in large else trials[run.id]) for run in runs]
    return sorted(found, key=lambda study: (-study.active, study.name, study.run.id))


def _listed(store: Store, run: Run, trials: list[Run] | None) -> ListedStudy:
    """A study by its run and, unless it is to be read by itself, those of its trials."""
    try:
        spec = stored_spec(run)
        ledger = Ledger(store, spec, run) if trials is None else None
    except InputError:
        return ListedStudy(run, StudyState.UNREADABLE, run.end or run.start)
    if ledger is not None:
        history, live = ledger.load(), bool(ledger.owners())
    else:
        history = _history(trials or [], spec)
        live = any(trial.status == RUNNING and not lost_because(trial) for trial in trials or [])
    state = study_state(store, run, spec, history, live=live)
    return ListedStudy(run, state, now_ms() if live else _last_activity(run, history), spec, history)


def _history(runs: Iterable[Run], spec: StudySpec) -> History:
    """The trials of runs. Where two have one number, the one that lost its claim has not been trained."""
    trials: dict[int, Trial] = {}
    for run in sorted(runs, key=lambda run: (run.status != RUNNING or bool(run.params), run.start)):
        try:
            trial = trial_of(run, spec)
        except ValueError:
            continue
        trials[trial.number] = trial
    return History(trials.values())


def study_state(store: Store, run: Run, spec: StudySpec, history: History, *, live: bool) -> StudyState:
    """What a study is doing. At most one request, and only if its run says that it runs and no trial does.

    Args:
        store: Where it is.
        run: Its run, freshly read.
        spec: Its specification.
        history: Its trials.
        live: Whether a live process trains a trial of it.
    """
    if live:
        return StudyState.RUNNING
    if run.status == FAILED:
        return StudyState.FAILED
    if run.status == KILLED:
        return StudyState.STOPPED
    if run.status == FINISHED:
        return StudyState.STOPPED if _was_stopped(run, spec, history) else StudyState.FINISHED
    if history.under_way:  # their flow is dead
        return StudyState.STOPPED
    if spec.final is not None or spec.champion is not None:
        evaluations = store.search([run.experiment], {Tag.FINAL: run.id})
        running = [each for each in evaluations if each.status == RUNNING]
        if running:
            return StudyState.STOPPED if all(map(lost_because, running)) else StudyState.RUNNING
    # A flow that has only begun, or is between two trials, leaves no other trace than what it did last.
    recent = now_ms() - _last_activity(run, history) < 1000 * LEASE_SECONDS
    return StudyState.RUNNING if recent else StudyState.STOPPED


def _was_stopped(run: Run, spec: StudySpec, history: History) -> bool:
    """Whether a study ended because ``hpo stop`` said so: nothing was started since, though there was more to do."""
    return stop_asked(run, history) is not None and spec.stop_reason(history, minutes=0.0) is None


def _last_activity(run: Run, history: History) -> int:
    return max([run.start, run.end or 0, *(trial.end or trial.start for trial in history)])

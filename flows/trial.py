"""One trial as one Prefect task: supervises a worker process and writes what it reports to MLflow."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect import runtime, task
from prefect.cache_policies import NO_CACHE

from flows.checkpoints import inherited, packed, worth_keeping
from flows.context import CHECKPOINT as OUTBOX_CHECKPOINT
from flows.context import MODEL, ON_BEST
from flows.early_stop import Judge, Rungs
from flows.objective import Objective
from flows.runners import Runner
from flows.study_report import Publisher
from flows.worker import Flag, Job, TrialCancelled, TrialFailed, WorkerPool
from hpo_core.errors import InputError, TrackingError, TrackingRefusal
from hpo_core.history import History
from hpo_core.ledger import (
    CHECKPOINT_KEPT,
    CHECKPOINT_NAME,
    INTERRUPTED,
    RENEW_SECONDS,
    RESULT,
    RUNG,
    SNAPSHOT_FOLDER,
    Ledger,
    Report,
    now_ms,
)
from hpo_core.seeding import fold_seed, repeat_seed, trial_seed
from hpo_core.selection import Choice, Evaluation
from hpo_core.spool import Spool
from hpo_core.store import FAILED, FINISHED, RUNNING, Dataset, Metric
from hpo_core.trial import Fold, Part, Phase, Reigning, Repeat, Trial, phase_of

log = logging.getLogger("hpo")

CHAMPION_FIELD = "champion"
"""The field of errors that are the objective's, as far as it is called for the champion's sake."""

FIRST_WRITE_SECONDS = 2.0
WRITE_SECONDS = 10.0
"""A trial's params and curves are written in batches: a trial of a second costs one request for both, and a long one
shows its params soon and its curves every ten seconds, however many epochs it reports."""


@dataclass(frozen=True)
class Progress:
    """What an observer of a study is shown: the study as last loaded, and the seconds since this run of it began.

    The final choice is None as long as the search goes on.
    """

    history: History
    seconds: float
    choice: Choice | None = None


Observer = Callable[[Progress], None]


@dataclass
class Session:
    """What the trials of one study share that this process trains.

    Args:
        ledger: The study.
        pool: The worker processes.
        objective: What they train.
        folder: Where files of trials stand until they are in MLflow.
        fatal: What went wrong in a task that the whole flow cannot go on from.
        rungs: What is known of all trials, for the rule of early stopping.
        warned: What the user has been told.
        datasets: Those that the study's run is already said to use.
    """

    ledger: Ledger
    pool: WorkerPool
    objective: Objective
    folder: Path
    fatal: Exception | None = None
    rungs: Rungs = field(default_factory=Rungs)
    warned: set[str] = field(default_factory=set)
    datasets: list[Dataset] = field(default_factory=list)

    def warn(self, message: str) -> None:
        """Tell the user something, once."""
        if message not in self.warned:
            self.warned.add(message)
            log.warning("%s: %s", self.ledger.spec.name, message)

    @property
    def spool(self) -> Spool:
        """Where results wait for MLflow."""
        return Spool(self.folder / "spool" / self.ledger.study_run.id)

    def stopped(self, trial: Trial) -> Flag:
        """What is set once the trial is to be killed."""
        return self.pool.cancelled


@dataclass(kw_only=True)
class FlowSession(Session):
    """What the loop and the tasks of one flow run share.

    Args:
        publisher: Writes the report.
        observe: Called after each load and about once a second.
        runner: Where trials are trained, if not in this process's pool.
    """

    publisher: Publisher
    observe: Observer
    runner: Runner | None = None


MISFIT = "misfit"
"""The tag that names the key of the study which is to blame for a failed trial; a flow elsewhere reads it."""

SESSIONS: dict[str, FlowSession] = {}
"""The sessions of this process, by the id of the study's run: a task's parameters are data, and these are not."""


class TrialLog:
    """Collects what a trial reports and writes it in few requests.

    Args:
        session: The flow run that it belongs to.
        trial: The trial.
        tags: Tags to begin with.
    """

    def __init__(self, session: Session, trial: Trial, tags: Mapping[str, str]) -> None:
        ledger = session.ledger
        self._ledger, self._trial, self._spool, self._unsent = ledger, trial, session.spool, session.folder / "unsent"
        self._params = ledger.spec.search_space.to_params(trial.config)
        self._metrics: list[Metric] = []
        self._tags = dict(tags)
        self._last_step = 0
        self._judge = Judge(ledger.spec, trial, session.rungs, session.warn)
        self.use: Mapping[str, Any] | None = None  # what the objective used, once it has ended
        self.checkpoint: Path | None = None  # what is to be kept for other trials
        self._artifacts: list[tuple[Path, str]] = []
        self._datasets: list[Dataset] = []
        self._session = session
        self._renewed = time.monotonic()
        self._due = self._renewed + FIRST_WRITE_SECONDS

    def receive(self, message: Mapping[str, Any]) -> bool:
        """Take a report, an artifact, a data set or a note on what was used; answers whether the trial is to go on."""
        if message["kind"] == "artifact":
            self._artifacts.append((Path(message["path"]), message["folder"]))
            return True
        if message["kind"] == "dataset":
            self._datasets.append(message["dataset"])
            return True
        if message["kind"] == "use":
            self.use = message
            return True
        now, self._last_step = now_ms(), max(self._last_step, message["step"])
        self._metrics += [Metric(key, value, now, message["step"]) for key, value in message["metrics"].items()]
        self._judge.note(message["step"], message["metrics"])
        if (milestone := message.get("milestone")) is None:
            return True
        go_on = self._judge.judge(milestone)
        if (value := self._judge.rung(milestone)) is not None:
            self._metrics.append(Metric(f"{RUNG}{milestone}", value, now, message["step"]))
            self._due = 0.0  # so that other flows see it; it takes along all that is still to be written
        return go_on

    def tick(self) -> None:
        """Write what is due; renew the lease in the same request, or in one of its own if nothing else is to say.

        A store that does not answer is not waited for: training goes on, and all is kept for the next time.
        """
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + WRITE_SECONDS
        if not (self._metrics or self._params or now - self._renewed > RENEW_SECONDS):
            return
        lease = {"hpo.lease": self._ledger.lease()}
        try:
            self._ledger.write(self._report(RUNNING, self._tags | lease), patience=0.0)
        except TrackingError as error:
            log.warning("trial %d goes on without MLflow: %s", self._trial.number, error)
        else:
            self._renewed = now
            self._metrics, self._params, self._tags = [], {}, {}

    def finish(self, status: str, metrics: Mapping[str, float] | None = None, reason: str = "", **tags: str) -> None:
        """Write the rest and the trial's end; on disk first, so that it outlives a server or this process.

        MLflow's latest value of a metric is the one of the highest step, then of the latest time: the result stands
        at the trial's last step, a moment after whatever the trial reported there.

        Raises:
            TrackingError: MLflow does not answer; the result waits in the spool.
            TrackingRefusal: MLflow will not have it.
        """
        now = now_ms() + 1
        self._metrics += [Metric(key, value, now, self._last_step) for key, value in (metrics or {}).items()]
        self._tags |= {f"hpo.{key}": value for key, value in tags.items()}
        if status == FINISHED:
            self._tags[RESULT] = self._ledger.spec.metric
            outcome = self._judge.outcome()
            reason = outcome.pop("reason", reason)
            self._tags |= {f"hpo.{key}": value for key, value in outcome.items()}
        if reason:
            self._tags["hpo.reason"] = reason[:1000]
        waiting = self._spool.put(self._report(status, self._tags))
        try:
            if self._artifacts or self.checkpoint is not None:
                self._upload()
            for dataset in self._datasets:
                self._note_dataset(dataset)
            self._ledger.write(self._report(status, self._tags))
        except TrackingRefusal:
            waiting.unlink(missing_ok=True)  # another process of this machine may have delivered it
            raise
        waiting.unlink(missing_ok=True)

    def _report(self, status: str, tags: Mapping[str, str]) -> Report:
        return Report(self._trial.run_id, self._metrics, self._params, tags, status)

    def _upload(self) -> None:
        """Copy the artifacts to MLflow; what is refused is kept on disk, a tag says so, and the result counts."""
        self._ledger.store.ping()  # an outage is waited for here, so what fails next is the artifact store alone
        store = self._ledger.store.with_patience(5.0)
        for i, (path, folder) in enumerate(self._artifacts):
            try:
                store.upload(self._trial.run_id, path, folder)
            except Exception as error:  # each artifact store has exceptions of its own
                log.warning("the artifact store refuses %s of trial %d: %s", path.name, self._trial.number, error)
                kept = self._unsent / self._trial.run_id
                kept.mkdir(parents=True, exist_ok=True)
                for left, _ in self._artifacts[i:]:
                    shutil.move(left, kept / left.name)
                self._tags["hpo.artifacts_lost"] = f"kept in {kept}: {type(error).__name__}: {error}"[:500]
                break
        self._artifacts = []
        if self.checkpoint is not None:
            try:
                store.upload(self._trial.run_id, self.checkpoint, SNAPSHOT_FOLDER)
                self._tags["hpo.checkpoint"] = CHECKPOINT_KEPT
            except Exception as error:  # each artifact store has exceptions of its own
                log.warning("the artifact store refuses the checkpoint of trial %d: %s", self._trial.number, error)

    def _note_dataset(self, dataset: Dataset) -> None:
        """Say which data the trial used, and once a flow that the study does."""
        spec = self._ledger.spec
        runs = [self._trial.run_id]
        if dataset not in self._session.datasets:
            self._session.datasets.append(dataset)
            runs.append(self._ledger.study_run.id)
        try:
            for run in runs:
                self._ledger.store.log_dataset(run, dataset, spec.objective)
        except TrackingRefusal as error:
            log.warning("MLflow refuses the data set %r of trial %d: %s", dataset.name, self._trial.number, error)

    def check(self, phase: Phase) -> None:
        """See that an evaluation for the champion's sake has done what it was for.

        Raises:
            TrialFailed: It has logged no model, or has not scored the one that it was given.
        """
        if phase == "seed" and all(folder != MODEL for _, folder in self._artifacts):
            why = "the objective logged no model; call trial.log_model(model, example)"
            if any(path.name == ON_BEST for path, _ in self._artifacts):
                why = f"trial.log_model raised; correct what {ON_BEST} in the run says"
            raise TrialFailed(why, retry=False, misfit=CHAMPION_FIELD)
        if phase == "champion" and "champion" not in (self.use or {"read": []})["read"]:
            why = "the objective did not read trial.champion; where that is not None, score it, and train nothing"
            raise TrialFailed(why, retry=False, misfit=CHAMPION_FIELD)

    def give_up(self, reason: str) -> None:
        """End the trial as failed although something it logged cannot be written: that is dropped."""
        self._metrics, self._params, self._artifacts, self._datasets, self.checkpoint = [], {}, [], [], None
        self.finish(FAILED, reason=reason)


def worth_another(task_: Any, task_run: Any, state: Any) -> bool:
    """Prefect asks after a failure whether another attempt makes sense."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, TrialFailed) and error.retry


@task(
    name="trial", task_run_name="{name}", retry_condition_fn=worth_another, cache_policy=NO_CACHE, persist_result=False
)
def run_trial(name: str, trial: Trial, study_run: str, evaluation: Evaluation | None = None) -> dict[str, float]:
    """Train one trial and report it. A retry continues the same MLflow run.

    Args:
        name: The study and the trial's number, for Prefect's UI.
        trial: The reserved trial.
        study_run: The id of the study's MLflow run, which names the session.
        evaluation: What of the final choice it is trained for, in whose run it is reported; None in the search.

    Raises:
        TrialFailed: The trial gave no value; its run says why.
        TrialCancelled: The flow is being stopped; its run says so.
    """
    return evaluate(SESSIONS[study_run], trial, *this_task(), evaluation)


def this_task() -> tuple[int, dict[str, str]]:
    """Which attempt of its task this is, and the tags that say where Prefect shows it."""
    tags = {"hpo.task_run": runtime.task_run.id, "hpo.task_run_url": runtime.task_run.ui_url}
    return int(runtime.task_run.run_count or 1), {key: str(value) for key, value in tags.items() if value}


def _to_beat(session: Session, trial: Trial, phase: Phase) -> float:
    """The loss below which a trial is the best so far. Where a final choice follows, only its winner ever is."""
    if phase in ("test", "seed"):
        return math.inf
    if phase in ("fold", "champion") or session.ledger.spec.final is not None:
        return -math.inf
    best = session.rungs.history.incumbent
    if best is None or best.loss is None or trial.extent > best.extent:
        return math.inf
    return best.loss if trial.extent == best.extent else -math.inf


def _seed(session: Session, trial: Trial, phase: Phase, part: Part | None) -> int:
    """A promoted trial has the seed of the one that its training began as; each evaluation beyond has its own."""
    seed = session.ledger.spec.seed
    if phase == "search":
        return trial_seed(seed, session.rungs.history.origin(trial))
    if isinstance(part, Repeat):
        return repeat_seed(seed, trial.number, part.index)
    return fold_seed(seed, trial.number, part.index if isinstance(part, Fold) else -1)


def _champion(session: Session, part: Part | None, folder: Path) -> Path | None:
    """The champion's model, where it is to be scored.

    Raises:
        TrialFailed: It cannot be had.
    """
    spec = session.ledger.spec.champion
    if spec is None or not isinstance(part, Reigning):
        return None
    target = folder / "champion"
    target.mkdir(parents=True, exist_ok=True)
    found = session.ledger.store.fetch_version(spec.model, part.version, target)
    if found is None:
        raise TrialFailed(f"the files of version {part.version} of {spec.model!r} cannot be fetched", retry=False)
    return found


def evaluate(
    session: Session, trial: Trial, attempt: int, tags: Mapping[str, str], evaluation: Evaluation | None = None
) -> dict[str, float]:
    """One attempt at a trial; the body of :func:`run_trial`. The tags say where Prefect shows it."""
    spec = session.ledger.spec
    folder = session.folder / "trials" / f"{trial.number:04d}-{trial.run_id[:8]}-{attempt}"
    part = None if evaluation is None else evaluation.part
    phase: Phase = "search" if evaluation is None else phase_of(part)
    record = TrialLog(session, trial, tags)
    try:
        resume, obstacle = None, ""
        if trial.parent is not None and spec.promotes:
            resume, obstacle = inherited(session.ledger.store, session.rungs.history, trial, folder)
        job = Job(
            session.objective,
            spec.metric,
            trial.config,
            trial.number,
            _seed(session, trial, phase, part),
            trial.fidelity,
            folder,
            resume,
            spec.stop_rule.milestones if spec.stop_rule is not None and phase == "search" else None,
            spec.callbacks,
            phase=phase,
            fold=part if isinstance(part, Fold) else None,
            champion=_champion(session, part, folder),
            sign=spec.sign,
            to_beat=_to_beat(session, trial, phase),
        )
        with session.pool.worker() as worker:
            metrics = worker.run(
                job,
                timeout=spec.trial_timeout,
                memory_limit=spec.memory_cap,
                on_message=record.receive,
                on_tick=record.tick,
                cancelled=session.stopped(trial),
            )
        record.check(phase)
        if phase == "search" and worth_keeping(spec, session.rungs.history, trial, spec.loss(metrics[spec.metric])):
            record.checkpoint = packed(folder / "outbox" / OUTBOX_CHECKPOINT, folder / CHECKPOINT_NAME)
        record.finish(FINISHED, metrics, **_use_tags(session, trial, record, resume, obstacle, phase))
        return metrics
    except TrialCancelled:
        record.finish(FAILED, reason=INTERRUPTED, lost="interrupted")
        raise
    except TrialFailed as error:
        if error.retry and attempt <= spec.retries:
            raise  # Prefect tries again, and the run goes on
        if error.details:
            details = folder / "failure.txt"
            details.parent.mkdir(parents=True, exist_ok=True)
            details.write_text(error.details, encoding="utf-8")
            record.receive({"kind": "artifact", "path": str(details), "folder": ""})
        reason = f"{error.reason} (going on from trial {trial.parent})" if resume is not None else error.reason
        if error.misfit and phase in ("seed", "champion"):  # once it is mended, this is evaluated once more
            record.finish(FAILED, None, reason, lost="interrupted", **{MISFIT: CHAMPION_FIELD})
            session.fatal = InputError(CHAMPION_FIELD, f"in phase {phase!r}, {error.reason}")
            raise
        tags = {MISFIT: error.misfit} if error.misfit else {}
        record.finish(FAILED, None, reason, **tags)
        if error.misfit:
            session.fatal = InputError(error.misfit, error.reason.removeprefix(f"{error.misfit}: "))
        raise
    except TrackingRefusal as error:
        record.give_up(f"MLflow refused what the trial logged: {error}")
        raise TrialFailed(str(error), retry=False) from None
    except TrackingError as error:
        session.fatal = error
        raise
    except Exception as error:
        session.fatal = error
        record.give_up(f"internal error: {type(error).__name__}: {error}")
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _use_tags(
    session: Session, trial: Trial, record: TrialLog, resume: Path | None, obstacle: str, phase: Phase
) -> dict[str, str]:
    """Whether a trial went on from its parent's checkpoint, and what of the study's offer the objective ignored."""
    use, spec, tags = record.use or {"read": [], "scratch_instead": ""}, session.ledger.spec, {}
    if trial.parent is not None and spec.promotes:
        if resume is not None and "resume_from" not in use["read"]:
            obstacle = "the objective did not read trial.resume_from"
        obstacle = obstacle or use["scratch_instead"]
        tags["continued"] = f"no: {obstacle}"[:500] if obstacle else f"yes: trial {trial.parent}"
    if spec.fidelity is not None and "fidelity" not in use["read"]:
        session.warn(f"the objective did not read trial.fidelity: it trains all alike, whatever {spec.fidelity.name}")
        tags["warning"] = "the objective did not read trial.fidelity"
    if phase in ("fold", "seed") and "phase" not in use["read"]:
        session.warn("the objective asked for neither split, fold nor phase: all folds are scored on the same rows")
        tags["warning"] = "the objective asked for neither split, fold nor phase"
    return tags

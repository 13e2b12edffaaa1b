"""Runs one attempt at a trial: builds the job, runs it in a worker process, and records how it ended in MLflow."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Mapping
from pathlib import Path

from hpo_core.base.errors import DiskError, InputError, TrackingError, TrackingRefusal
from hpo_core.base.seeding import fold_seed, repeat_seed, trial_seed
from hpo_core.history.trial import Trial, fidelity_key
from hpo_core.ledger.store import FAILED, FINISHED
from hpo_core.ledger.tags import CHECKPOINT_NAME, INTERRUPTED
from hpo_core.selection.evaluation import ChampionVersion, Evaluation, EvaluationKind, Fold, Phase, Retraining, phase_of
from hpo_flows.objectives.context import CHECKPOINT as OUTBOX_CHECKPOINT
from hpo_flows.objectives.messages import Use
from hpo_flows.trials.checkpoints import inherited, packed, worth_keeping
from hpo_flows.trials.recorder import TrialLog
from hpo_flows.trials.session import BLAMED_KEY, CHAMPION_FIELD, FAILURE, Session
from hpo_flows.workers.channel import shown
from hpo_flows.workers.job import Job, TrialCancelled, TrialFailed
from hpo_flows.workers.output import last_lines
from hpo_flows.workers.output import log as output

log = logging.getLogger("hpo")


def _to_beat(session: Session, trial: Trial, phase: Phase) -> float:
    """The loss a trial must beat to be the best so far. With a final choice, only the winner ever counts as best."""
    if phase in ("test", "seed"):
        return math.inf
    if phase in ("fold", "champion") or session.ledger.spec.final is not None:
        return -math.inf
    best = session.rungs.history.incumbent
    if best is None or best.loss is None or fidelity_key(trial.fidelity) > fidelity_key(best.fidelity):
        return math.inf
    return best.loss if fidelity_key(trial.fidelity) == fidelity_key(best.fidelity) else -math.inf


def _seed(session: Session, trial: Trial, phase: Phase, kind: EvaluationKind | None) -> int:
    """The seed of a run. A promoted trial keeps the seed of its first ancestor; each later evaluation has its own."""
    seed = session.ledger.spec.seed
    if phase == "search":
        return trial_seed(seed, session.rungs.history.origin(trial))
    if isinstance(kind, Retraining):
        return repeat_seed(seed, trial.number, kind.index)
    return fold_seed(seed, trial.number, kind.index if isinstance(kind, Fold) else -1)


def _champion(session: Session, kind: EvaluationKind | None, folder: Path) -> Path | None:
    """Fetch the champion's model if this evaluation scores it, else None.

    Raises:
        TrialFailed: The registry does not have its files.
    """
    spec = session.ledger.spec.champion
    if spec is None or not isinstance(kind, ChampionVersion):
        return None
    target = folder / "champion"
    target.mkdir(parents=True, exist_ok=True)
    found = session.ledger.store.fetch_version(spec.model, kind.version, target)
    if found is None:
        raise TrialFailed(f"the files of version {kind.version} of {spec.model!r} cannot be fetched", retry=False)
    return found


def evaluate(
    session: Session, trial: Trial, attempt: int, tags: Mapping[str, str], evaluation: Evaluation | None = None
) -> dict[str, float]:
    """Make one attempt at a trial. The tags say where Prefect shows it.

    Every exit ends the trial in MLflow with a reason, except when another attempt follows, when MLflow does not answer
    and the report waits in the spool, or when the trial's run no longer exists. An error that must stop the whole flow
    is stored in ``session.fatal``.
    """
    folder = session.folder / "trials" / f"{trial.number:04d}-{trial.run_id[:8]}-{attempt}"
    record = TrialLog(session, trial, tags, folder)
    try:
        return _attempt(session, trial, attempt, record, folder, evaluation)
    except (TrialFailed, TrialCancelled):
        raise
    except TrackingRefusal as error:
        _give_up(session, record, f"MLflow refused what the trial logged: {error}")
        raise TrialFailed(str(error), retry=False) from None
    except TrackingError as error:
        session.fatal = error
        raise
    except OSError as error:
        session.fatal = DiskError(f"trial {trial.number} cannot be trained: {shown(error)}; free or repair the disk")
        _give_up(session, record, str(session.fatal))
        raise
    except Exception as error:
        session.fatal = error
        _give_up(session, record, f"internal error: {shown(error)}")
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _attempt(
    session: Session, trial: Trial, attempt: int, record: TrialLog, folder: Path, evaluation: Evaluation | None
) -> dict[str, float]:
    """Train, and record the outcome."""
    spec = session.ledger.spec
    kind = None if evaluation is None else evaluation.kind
    phase: Phase = "search" if evaluation is None else phase_of(kind)
    resume, obstacle = None, ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if phase == "search":
            session.rungs.restart(trial)
        if trial.parent is not None and spec.promotes:
            resume, obstacle = inherited(session.ledger.store, session.rungs.history, trial, folder)
        job = Job(
            session.objective,
            spec.metric,
            trial.config,
            trial.number,
            _seed(session, trial, phase, kind),
            trial.fidelity,
            folder,
            resume,
            spec.stop_rule.milestones if spec.stop_rule is not None and phase == "search" else None,
            spec.callbacks,
            phase=phase,
            fold=kind if isinstance(kind, Fold) else None,
            champion=_champion(session, kind, folder),
            sign=spec.sign,
            to_beat=_to_beat(session, trial, phase),
        )
        with session.pool.worker() as worker:
            try:
                metrics = worker.run(
                    job,
                    timeout=spec.trial_timeout,
                    memory_limit=spec.memory_cap,
                    on_message=record.receive,
                    on_tick=record.tick,
                    cancelled=session.stopped(trial),
                )
            finally:
                record.printed = worker.printed()
        record.check(phase)
    except TrialCancelled:
        record.finish(FAILED, reason=INTERRUPTED, lost="interrupted")
        raise
    except TrialFailed as error:
        if error.retry and attempt <= spec.retries:
            record.keep_for_next(attempt, error.reason)
            raise  # the caller makes another attempt in the same run
        if error.details:
            record.attach(FAILURE, error.details)
        # Skipped if the output is already shown live, or if the study is to blame: that is reported as one error.
        if record.printed and not error.blamed_key and not output.isEnabledFor(logging.INFO):
            log.warning("the last that trial %d printed:\n%s", trial.number, last_lines(record.printed))
        reason = f"{error.reason} (going on from trial {trial.parent})" if resume is not None else error.reason
        _end_failed(session, record, error, reason, phase)
        raise
    if phase == "search" and worth_keeping(spec, session.rungs.history, trial, spec.loss(metrics[spec.metric])):
        record.checkpoint = packed(folder / "outbox" / OUTBOX_CHECKPOINT, folder / CHECKPOINT_NAME)
    record.finish(FINISHED, metrics, **_use_tags(session, trial, record, resume, obstacle, phase))
    return metrics


def _end_failed(session: Session, record: TrialLog, error: TrialFailed, reason: str, phase: Phase) -> None:
    """Record a failed trial. If the study is to blame, store the error in the session, which ends the flow."""
    if not error.blamed_key:
        record.finish(FAILED, None, reason)
    elif phase in ("seed", "champion"):  # marked as interrupted, so it is evaluated again once the error is fixed
        record.finish(FAILED, None, reason, lost="interrupted", **{BLAMED_KEY: CHAMPION_FIELD})
        session.fatal = InputError(CHAMPION_FIELD, f"in phase {phase!r}, {error.reason}")
    else:
        record.finish(FAILED, None, reason, **{BLAMED_KEY: error.blamed_key})
        session.fatal = InputError(error.blamed_key, error.reason.removeprefix(f"{error.blamed_key}: "))


def _give_up(session: Session, record: TrialLog, reason: str) -> None:
    """End a trial that cannot be written in full. Errors are logged, so that they do not hide the original one."""
    try:
        record.give_up(reason)
    except TrackingRefusal as error:
        log.warning("%s has no run to be ended in: %s", record.name, error)
    except Exception as error:
        log.warning("%s stays RUNNING in MLflow (%s): %s", record.name, shown(error), reason)
        session.fatal = session.fatal or error


def _use_tags(
    session: Session, trial: Trial, record: TrialLog, resume: Path | None, obstacle: str, phase: Phase
) -> dict[str, str]:
    """Tags saying whether a trial resumed from its parent's checkpoint, and which offered inputs it ignored."""
    use, spec = record.use or Use(), session.ledger.spec
    tags: dict[str, str] = {}
    if trial.parent is not None and spec.promotes:
        if resume is not None and "resume_from" not in use.read:
            obstacle = "the objective did not read trial.resume_from"
        obstacle = obstacle or use.scratch_instead
        tags["continued"] = f"no: {obstacle}"[:500] if obstacle else f"yes: trial {trial.parent}"
    if spec.fidelity is not None and "fidelity" not in use.read:
        session.warn(f"the objective did not read trial.fidelity: it trains all alike, whatever {spec.fidelity.name}")
        tags["warning"] = "the objective did not read trial.fidelity"
    if phase in ("fold", "seed") and "phase" not in use.read:
        session.warn("the objective asked for neither split, fold nor phase: all folds are scored on the same rows")
        tags["warning"] = "the objective asked for neither split, fold nor phase"
    return tags

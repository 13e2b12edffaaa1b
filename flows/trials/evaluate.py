"""Runs one attempt at a trial: prepares it, trains it, and records how it ended in MLflow."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from hpo_core.base.errors import DiskError, InputError, TrackingError, TrackingRefusal
from hpo_core.ledger.store import FAILED, FINISHED
from hpo_core.ledger.tags import CHECKPOINT_NAME, INTERRUPTED
from hpo_core.selection.evaluation import Training
from hpo_flows.objectives.context import CHECKPOINT as OUTBOX_CHECKPOINT
from hpo_flows.objectives.messages import Use
from hpo_flows.trials.checkpoints import packed, worth_keeping
from hpo_flows.trials.prepare import Prepared, prepare
from hpo_flows.trials.recorder import TrialLog
from hpo_flows.trials.session import BLAMED_KEY, CHAMPION_FIELD, FAILURE, Session
from hpo_flows.trials.usage import Usage
from hpo_flows.workers.channel import shown
from hpo_flows.workers.job import TrialCancelled, TrialFailed
from hpo_flows.workers.output import last_lines

log = logging.getLogger("hpo")


def evaluate(session: Session, training: Training, attempt: int, tags: Mapping[str, str]) -> dict[str, float]:
    """Make one attempt at a training. The tags say where Prefect shows it.

    Every exit ends the run in MLflow with a reason, except when another attempt follows, when MLflow does not respond
    and the report waits in the spool, or when the run no longer exists. An error that must stop the whole flow is noted
    in the session.

    Raises:
        TrialFailed: The objective returned no value.
        TrialCancelled: The flow is being stopped.
    """
    folder = session.folder / "trials" / f"{training.number:04d}-{training.run_id[:8]}-{attempt}"
    record = TrialLog(session, training, tags, folder)
    with session.board.showing(training), ended_in_any_case(session, training, record, folder):
        prepared = None
        try:
            prepared = prepare(session, training, folder)
            metrics = _train(session, training, prepared, record)
        except TrialCancelled:
            if (why := session.stops.get(training.run_id)) is not None:
                stopped = TrialFailed(why, retry=False)
                record_failure(session, training, prepared, record, stopped)
                raise stopped from None
            record.finish(FAILED, reason=INTERRUPTED, lost="interrupted")
            raise
        except TrialFailed as error:
            if error.retry and attempt <= session.ledger.spec.retries:
                record.keep_for_next(attempt, error.reason)
                raise  # the caller makes another attempt in the same run
            record_failure(session, training, prepared, record, error)
            raise
        record_result(session, training, prepared, record, metrics)
        return metrics


@contextmanager
def ended_in_any_case(session: Session, training: Training, record: TrialLog, folder: Path) -> Iterator[None]:
    """End the run after any error, also one that is not the objective's, and remove the attempt's folder."""
    try:
        yield
    except (TrialFailed, TrialCancelled):
        raise
    except TrackingRefusal as error:
        _give_up(session, record, f"MLflow refused what the trial logged: {error}")
        raise TrialFailed(str(error), retry=False) from None
    except TrackingError as error:
        session.fail(error)
        raise
    except OSError as error:
        why = DiskError(f"trial {training.number} cannot be trained: {shown(error)}; free or repair the disk")
        session.fail(why)
        _give_up(session, record, str(why))
        raise
    except Exception as error:
        session.fail(error)
        _give_up(session, record, f"internal error: {shown(error)}")
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _give_up(session: Session, record: TrialLog, reason: str) -> None:
    """End a trial that cannot be written in full. Errors are logged, so that they do not hide the original one."""
    try:
        record.give_up(reason)
    except TrackingRefusal as error:
        log.warning("%s has no run to be ended in: %s", record.name, error)
    except Exception as error:
        log.warning("%s stays RUNNING in MLflow (%s): %s", record.name, shown(error), reason)
        session.fail(error)


def _train(session: Session, training: Training, prepared: Prepared, record: TrialLog) -> dict[str, float]:
    """Run the job in a worker process, or in this one; returns the metrics that the objective returned.

    Raises:
        TrialFailed: It returned no value, or did not do what its phase asks for.
        TrialCancelled: The flow is being stopped.
    """
    spec = session.ledger.spec
    with session.pool.worker() as worker:
        usage = Usage(worker.pid, worker.variables) if spec.resources.log else None

        def tick() -> None:
            if usage is not None and (measured := usage.due()):
                record.note_usage(measured, usage.measured - 1)
            record.tick()

        began = time.monotonic()
        try:
            metrics = worker.run(
                prepared.job,
                timeout=spec.trial_timeout,
                memory_limit=spec.memory_cap,
                on_message=record.receive,
                on_tick=tick,
                cancelled=session.stopped(training.run_id),
            )
        finally:
            record.note_seconds(time.monotonic() - began)
            record.keep_output(worker.printed())
    record.check()
    if training.phase == "search":
        record.check_limits(metrics)
    return metrics


def record_result(
    session: Session, training: Training, prepared: Prepared, record: TrialLog, metrics: Mapping[str, float]
) -> None:
    """End the run of a training that returned a value, with its checkpoint if a later trial may continue it."""
    spec, history, folder = session.ledger.spec, session.rungs.history, prepared.job.folder
    known = record.latest | dict(metrics)
    if training.phase == "search" and worth_keeping(spec, history, training.trial, known):
        record.keep_checkpoint(packed(folder / "outbox" / OUTBOX_CHECKPOINT, folder / CHECKPOINT_NAME))
    record.finish(FINISHED, metrics, **_use_tags(session, training, prepared, record))


def record_failure(
    session: Session, training: Training, prepared: Prepared | None, record: TrialLog, error: TrialFailed
) -> None:
    """End the run of a training that failed. If the study is to blame, note the error, which ends the flow."""
    if error.details:
        record.attach(FAILURE, error.details)
    # Skipped if the output is already shown live, or if the study is to blame: that is reported as one error.
    if record.printed and not error.blamed_key and not session.pool.shows_output:
        log.warning("the last that trial %d printed:\n%s", training.number, last_lines(record.printed))
    resumed = f" (going on from trial {training.parent})" if _resumed(prepared) else ""
    reason = f"{error.reason}{resumed}"
    if not error.blamed_key:
        record.finish(FAILED, None, reason)
    elif training.phase in ("seed", "champion"):  # as interrupted, so it is evaluated again once the error is fixed
        record.finish(FAILED, None, reason, lost="interrupted", **{BLAMED_KEY: CHAMPION_FIELD})
        session.fail(InputError(CHAMPION_FIELD, f"in phase {training.phase!r}, {error.reason}"))
    else:
        record.finish(FAILED, None, reason, **{BLAMED_KEY: error.blamed_key})
        session.fail(InputError(error.blamed_key, error.reason.removeprefix(f"{error.blamed_key}: ")))


def _resumed(prepared: Prepared | None) -> bool:
    """Whether the attempt began with its parent's checkpoint."""
    return prepared is not None and prepared.job.resume_from is not None


def _use_tags(session: Session, training: Training, prepared: Prepared, record: TrialLog) -> dict[str, str]:
    """Tags saying whether a trial resumed from its parent's checkpoint, and which offered inputs it ignored."""
    use, spec, obstacle = record.use or Use(), session.ledger.spec, prepared.obstacle
    tags: dict[str, str] = {}
    if training.parent is not None and spec.promotes:
        if _resumed(prepared) and "resume_from" not in use.read:
            obstacle = "the objective did not read trial.resume_from"
        obstacle = obstacle or use.scratch_instead
        tags["continued"] = f"no: {obstacle}"[:500] if obstacle else f"yes: trial {training.parent}"
    if spec.fidelity is not None and "fidelity" not in use.read:
        session.warn(f"the objective did not read trial.fidelity: it trains all alike, whatever {spec.fidelity.name}")
        tags["warning"] = "the objective did not read trial.fidelity"
    if training.phase in ("fold", "seed") and "phase" not in use.read:
        session.warn("the objective asked for neither split, fold nor phase: all folds are scored on the same rows")
        tags["warning"] = "the objective asked for neither split, fold nor phase"
    return tags

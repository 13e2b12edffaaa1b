"""Holds the state that all trials of one study share in one process."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from hpo_core.history.history import History
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.spool import Spool
from hpo_core.ledger.store import Dataset
from hpo_core.ledger.tags import Tag
from hpo_core.selection.evaluation import Training
from hpo_flows.base.board import Board
from hpo_flows.objectives.reference import Objective
from hpo_flows.trials.checkpoints import discard_superfluous
from hpo_flows.trials.judge import Rungs
from hpo_flows.trials.trace import Trace
from hpo_flows.workers.job import Flag
from hpo_flows.workers.pool import WorkerPool
from hpo_flows.workers.this_process import ThisProcess

log = logging.getLogger("hpo")


Pool = WorkerPool | ThisProcess

FAILURE = "failure.txt"
"""The artifact of a failed trial's run: the traceback, or the end of its output if there is none."""

CHAMPION_FIELD = "champion"
"""The field of errors that the objective makes when it is called for the champion."""


@dataclass
class Session:
    """What the trials of one study share in this process.

    Args:
        ledger: The study.
        pool: The worker processes, or this process.
        objective: What they train.
        folder: Holds files of trials until they are in MLflow.
        fatal: The error of a trial that must end the whole flow; see :meth:`fail`.
        rungs: What is known of all trials, for early stopping.
        warned: The warnings already shown.
        datasets: The datasets already logged to the study's run.
        traces: What the attempts at the running trials have left in MLflow, by run id.
        board: What the running trials have reported last, for display.
        stops: Why single trials are to end, by run id.
    """

    ledger: Ledger
    pool: Pool
    objective: Objective
    folder: Path
    fatal: Exception | None = None
    rungs: Rungs = field(default_factory=Rungs)
    warned: set[str] = field(default_factory=set)
    datasets: list[Dataset] = field(default_factory=list)
    traces: dict[str, Trace] = field(default_factory=dict)
    board: Board = field(default_factory=Board)
    stops: dict[str, str] = field(default_factory=dict)

    def stop(self, training: Training, reason: str = "") -> None:
        """End a trial, because somebody wants it to end; see :func:`stop_reason`."""
        self.stops[training.run_id] = stop_reason(training.number, reason)

    def load(self, *, fresh: bool = True) -> History:
        """Load the study, end the trials whose owner is dead, and drop the checkpoints that nothing goes on from.

        Args:
            fresh: Read MLflow even if this flow seems to be alone with the study.
        """
        history = self.ledger.load() if fresh else self.ledger.look()
        if self.ledger.reap():
            history = self.ledger.load()
        self.rungs.show(history)
        discard_superfluous(self.ledger, history)
        # A share of a long study: every thousand trials would take the square of them.
        self.ledger.save_snapshot(news=max(1_000, len(history) // 20))
        return history

    def fail(self, error: Exception) -> None:
        """Note an error that must end the whole flow; the loop raises it. The first of several counts."""
        self.fatal = self.fatal or error

    def forgive(self) -> None:
        """Forget the error, because it concerns one trial alone."""
        self.fatal = None

    def warn(self, message: str, about: str = "") -> None:
        """Show a warning once; for something that each trial would put in other words, also once."""
        if (about or message) not in self.warned:
            self.warned.add(about or message)
            log.warning("%s: %s", self.ledger.spec.name, message)

    @property
    def spool(self) -> Spool:
        """Where results wait for MLflow."""
        return Spool(self.folder / "spool" / self.ledger.study_run.id)

    def stopped(self, run_id: str) -> Flag:
        """The flag that is set once the trial in this run is to be killed."""
        return StopFlag(self, run_id)


class StopFlag:
    """Set once a trial is to end, alone or with the whole flow."""

    def __init__(self, session: Session, run_id: str) -> None:
        self._session, self._run_id = session, run_id

    def is_set(self) -> bool:
        return self._session.pool.cancelled.is_set() or self._run_id in self._session.stops


def stop_reason(number: int, reason: str = "") -> str:
    """Why a trial failed that somebody ended with ``hpo stop --trial``."""
    return f"stopped by hpo stop --trial {number}" + (f": {reason}" if reason else "")


BLAMED_KEY = Tag.BLAMED_KEY.removeprefix(Tag.PREFIX)
"""The tag naming the study's key that is to blame for a failed trial; a flow on another machine reads it."""

"""Runs the search: asks the strategy for configurations and reserves them as trials, until a stop rule holds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from hpo_core.base.errors import StudyFailed
from hpo_core.history.history import History
from hpo_core.history.trial import Trial
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.ownership import now_ms
from hpo_core.selection.evaluation import Training
from hpo_core.study.spec import StudySpec
from hpo_flows.loop.stage import Step, collect, reserve_trial
from hpo_flows.trials.session import FAILURE

MAX_SHOWN = 1500
"""How many characters of a traceback are shown, counted from its end."""


class SearchStage:
    """The search of one study, shared with all other flows that work on it.

    Args:
        ledger: The study.

    Attributes:
        reason: Why the search is over; empty while it is not.
        exhausted: Whether that is because the strategy has nothing more to propose.
        halted: Whether no further trial is reserved because this flow is being stopped.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.reason = ""
        self.exhausted = self.halted = False
        self._began: float | None = None
        self._earlier: frozenset[int] | None = None  # the trials that failed before this run of the study

    @property
    def _spec(self) -> StudySpec:
        return self._ledger.spec  # which changes while the study runs: hpo set

    def halt(self) -> None:
        """Reserve no further trial, because this flow is being stopped. A signal handler may call it."""
        self.halted = True

    def count_from(self, milliseconds: int) -> None:
        """Count the minutes from a time, in milliseconds since 1970, instead of from this process's first trial."""
        self._began = time.monotonic() - max(now_ms() - milliseconds, 0) / 1000

    def forget_failures_before(self, number: int) -> None:
        """Ignore failures below this trial number when looking for a lasting error: the study has gone on since."""
        self._earlier = frozenset(range(number))

    def load(self, history: History) -> bool:
        self.reason = self._spec.stop_reason(history, self.minutes) or ""
        return bool(self.reason)

    def advance(self, history: History, free: int) -> Step:
        """Reserve up to ``free`` trials.

        Raises:
            StudyFailed: The first trials of this run all failed with the same error.
        """
        if self._began is None:
            self._began = time.monotonic()
        if self._earlier is None:
            self._earlier = frozenset(trial.number for trial in history.failed)
        step = collect(self._reserve(history, free))
        over = bool(self.reason) and not step.stale
        if over and not self._ledger.up_to_date:  # another flow may have begun a trial, which the end has to wait for
            return replace(step, stale=True)
        return replace(step, over=over)

    def _reserve(self, history: History, free: int) -> Iterator[Training | None]:
        """Ask the strategy, and reserve what it proposes; None if another flow was faster."""
        while not self.load(history) and free > 0:
            if (alike := self._spec.repeated_error(history, self._earlier or ())) is not None:
                if not history.running:
                    raise self._failed(alike, history)
                return  # the running ones were started at the same time and may still succeed
            left = self._spec.search_left(history)
            queue = self._ledger.study.instructions.queue
            proposals = self._spec.propose(history, int(min(free, left)), queue)
            if not proposals:
                self.exhausted = not history.running
                self.reason = "the strategy has nothing more to propose" if self.exhausted else ""
                return
            for proposal in proposals:
                if self.halted:
                    return
                training, history = reserve_trial(self._ledger, proposal, history)
                yield training
                free -= 1

    @property
    def minutes(self) -> float:
        """Minutes since this run of the study started its first trial."""
        return 0.0 if self._began is None else (time.monotonic() - self._began) / 60

    def _failed(self, trial: Trial, history: History) -> StudyFailed:
        """The error for a study whose trials all failed in the same way as this one."""
        details = self._ledger.store.download(trial.run_id, FAILURE) or b""
        end = details.decode(errors="replace").strip()[-MAX_SHOWN:]
        count = sum(each.number not in (self._earlier or ()) for each in history.failed)
        return StudyFailed(
            f"the first {count} trials all failed with the same error, so no further one is started: {trial.reason}\n"
            + "".join(f"  {line}\n" for line in end.splitlines())
            + "correct it and run the same command to go on; stop: {same_error: false} goes on in any case"
        )

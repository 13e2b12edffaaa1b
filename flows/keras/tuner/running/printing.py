"""Prints a search in KerasTuner's layout: a table for each trial that begins, and the best so far when one ends."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from hpo_core.history.history import History
from hpo_core.history.trial import Trial as Recorded
from hpo_core.history.trial import TrialState
from hpo_flows.keras.tuner.trial import Trial, number_of

if TYPE_CHECKING:
    from hpo_flows.base.progress import Progress
    from hpo_flows.keras.space.objective import Objective

WIDTH = 18
"""The width of the table's first two columns."""


class Table:
    """Prints the trials of one search.

    Args:
        objective: What is optimised.
        best: The best trial so far; None if there is none.
        verbose: 0 to print nothing.
    """

    def __init__(self, objective: Objective, best: Trial | None, verbose: int) -> None:
        self._objective, self._best, self._verbose = objective, best, verbose
        self._started = time.monotonic()
        self._begun: dict[str, float] = {}

    def begin(self, trial: Trial) -> None:
        """Print what a trial tries, beside what the best one has."""
        self._begun[trial.trial_id] = time.monotonic()
        if self._verbose < 1:
            return
        print(f"\nSearch: Running Trial #{number_of(trial.trial_id) + 1}\n")
        if trial.hyperparameters.values:
            print(_row("Value", "Best Value So Far", "Hyperparameter"))
        else:
            print("default configuration")
        best = None if self._best is None else self._best.hyperparameters.values
        for name, value in trial.hyperparameters.values.items():
            print(_row(_shown(value), _shown("?" if best is None else best.get(name)), name))
        print(flush=True)

    def end(self, trial: Trial) -> None:
        """Print what came of a trial, and the best value so far."""
        if trial.score is not None and (
            self._best is None or self._best.score is None or self._objective.better_than(trial.score, self._best.score)
        ):
            self._best = trial
        if self._verbose < 1:
            return
        _clear()
        took = time.monotonic() - self._begun.pop(trial.trial_id, self._started)
        print(f"Trial {number_of(trial.trial_id) + 1} Complete [{_clock(took)}]")
        if trial.score is not None:
            print(f"{self._objective.name}: {trial.score}")
        elif trial.message:
            print(trial.message.strip().splitlines()[-1])
        best = None if self._best is None else self._best.score
        print(f"\nBest {self._objective.name} So Far: {best}")
        print(f"Total elapsed time: {_clock(time.monotonic() - self._started)}", flush=True)


class Watching:
    """Observes a study whose trials train in other processes, and prints them as they begin and end.

    Args:
        table: Prints.
        trial_of: Makes a trial of this room out of a recorded one and its history.
    """

    def __init__(self, table: Table, trial_of: Callable[[Recorded, History], Trial]) -> None:
        self._table, self._trial_of = table, trial_of
        self._seen: dict[int, TrialState] | None = None

    def __call__(self, progress: Progress) -> None:
        now = {trial.number: trial.state for trial in progress.history}
        if self._seen is None:  # what has ended before this search is not told again
            self._seen = {number: state for number, state in now.items() if state is not TrialState.RUNNING}
        changed = [trial for trial in progress.history if self._seen.get(trial.number) != trial.state]
        for trial in sorted(changed, key=lambda each: (each.end or float("inf"), each.number)):
            if trial.number not in self._seen:
                self._table.begin(self._trial_of(trial, progress.history))
            if trial.state is not TrialState.RUNNING:
                self._table.end(self._trial_of(trial, progress.history))
        self._seen = now


@contextlib.contextmanager
def warnings_shown() -> Iterator[None]:
    """Show this project's warnings, and no line of Prefect's or MLflow's, while a search runs."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger = logging.getLogger("hpo")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _row(*cells: str) -> str:
    return f"{cells[0]:{WIDTH}}|{cells[1]:{WIDTH}}|{cells[2]}"


def _shown(value: Any) -> str:
    """A value as a cell: numbers to five digits, and no text that is longer than its column.

    >>> _shown(0.000123456), _shown(True), _shown("a text that is too long")
    ('0.00012346', 'True', 'a text that is ...')
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:.5g}"
    text = str(value)
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 3]}..."


def _clock(seconds: float) -> str:
    """
    >>> _clock(3.4), _clock(90061)
    ('00h 00m 03s', '1d 01h 01m 01s')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (f"{days}d " if days else "") + f"{hours:02d}h {minutes:02d}m {rest:02d}s"


def _clear() -> None:
    """In a notebook remove the output of the trial; elsewhere end its last line."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if hasattr(shell, "kernel"):
        from IPython.display import clear_output

        clear_output()
    else:
        print()

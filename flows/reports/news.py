"""Tells which trials have ended since the last look, in the order in which they ended, a line each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_core.space.configuration import displayed
from hpo_flows.reports.text import (
    broken_limits,
    duration,
    fidelity_name,
    one_line,
    outcome_text,
    seconds_of,
)

if TYPE_CHECKING:
    from hpo_core.space.configuration import Config
    from hpo_core.study.spec import StudySpec

MIN_ROOM = 16
"""The fewest characters that a configuration gets."""


class Ended(NamedTuple):
    """A trial that has ended, and the front before it: with one metric, the best trial, if there was any."""

    trial: Trial
    front: tuple[Trial, ...]

    @property
    def before(self) -> Trial | None:
        """The best trial before it; with several metrics, a compromise."""
        return History(self.front).incumbent

    @property
    def is_best(self) -> bool:
        """Whether it is the best so far; with several metrics, whether it is on the front."""
        return self.trial.repeat_of is None and self.trial in History((*self.front, self.trial)).front


class News:
    """What is new in a study since the last look. The first look finds nothing new: earlier runs have reported it.

    Attributes:
        count: How many trials have ended since the first look.
    """

    def __init__(self) -> None:
        self._known: set[int] | None = None
        self._front: tuple[Trial, ...] = ()
        self.count = 0

    def look(self, history: History) -> list[Ended]:
        """The trials that have ended since the last look."""
        known = self._known or set()
        ended = [trial for trial in history if trial.state is not TrialState.RUNNING and trial.number not in known]
        if self._known is None:
            self._known, self._front = {trial.number for trial in ended}, history.front
            return []
        news = list[Ended]()
        for trial in sorted(ended, key=lambda trial: (trial.end or 0, trial.number)):
            news.append(Ended(trial, self._front))
            if news[-1].is_best:
                self._front = History((*self._front, trial)).front
        self._front = history.front
        self._known |= {trial.number for trial in ended}
        self.count += len(news)
        return news


def trial_line(spec: StudySpec, ended: Ended, room: int | None = None) -> str:
    """How a trial ended, in one line.

    Args:
        spec: The study.
        ended: The trial.
        room: The longest line that is wanted. A configuration that does not fit is told by what differs from the best.
    """
    trial = ended.trial
    head = f"trial {trial.number:>{len(str((spec.stop.trials or 1000) - 1))}}  "
    if trial.state is TrialState.FAILED:
        head += f"failed: {one_line(trial.reason)}"
    else:
        took = seconds_of(trial)
        mark = f"  * {_mark(spec, trial)}" if ended.is_best else ""
        head += outcome_text(spec, trial) + (mark if spec.metrics else "")
        head += "" if trial.fidelity is None else f" at {fidelity_name(spec)} {trial.fidelity:g}"
        head += "" if took is None else f" in {duration(took)}"
        head += f", {one_line(trial.reason)}" if trial.reason else ""
        head += f", breaks {broken}" if (broken := broken_limits(spec, trial)) else ""
        head += mark if not spec.metrics else ""
    if trial.repeat_of is not None:
        return f"{head}  ({trial.origin})"
    left = None if room is None else max(room - len(head) - 2, MIN_ROOM)
    return f"{head}  {settings_text(trial.config, ended.before, left)}"


def _mark(spec: StudySpec, trial: Trial) -> str:
    """What the best trial so far is called."""
    return "closest" if not trial.feasible else "front" if spec.metrics else "best"


def settings_text(config: Config, than: Trial | None, room: int | None) -> str:
    """A configuration in brackets; if that is too long, only what differs from another trial's.

    >>> best = Trial(4, {"a": 1, "b": 2, "c": 3}, TrialState.COMPLETE)
    >>> settings_text({"a": 1, "b": 5}, best, None), settings_text({"a": 1, "b": 5}, best, 9)
    ('(a=1, b=5)', '(a=1, b=5)')
    >>> settings_text({"activation": "relu", "b": 5, "c": 3}, Trial(4, {"activation": "relu", "b": 2}, best.state), 20)
    '(as 4, but b=5, c=3)'
    """
    whole = f"({settings(config.items())})"
    if room is None or len(whole) <= room or than is None:
        return whole
    others = [(name, value) for name, value in config.items() if than.config.get(name) != value]
    gone = [f"no {name}" for name in than.config if name not in config]
    differing = ", ".join([settings(others)] * bool(others) + gone)
    return min(whole, f"(as {than.number}, but {differing})" if differing else f"(as {than.number})", key=len)


def settings(items: Iterable[tuple[str, Any]]) -> str:
    """
    >>> settings({"rate": 0.0123456, "kind": "a b"}.items())
    'rate=0.01235, kind=a b'
    """
    return one_line(", ".join(f"{name}={displayed(value)}" for name, value in items), 2000)

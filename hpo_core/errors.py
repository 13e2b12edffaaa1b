"""The one exception that a user is meant to read."""

from __future__ import annotations


class InputError(ValueError):
    """Something the user gave cannot be used.

    The command line prints it as a single message, without a traceback, and exits with code 2.

    Args:
        field: Where the value stands, as a dotted path (``space.learning_rate.low``).
        problem: What is wrong, with the offending value in it.
        remedy: What to do about it, as an imperative clause. May be empty where the problem says it.

    >>> print(InputError("stop.trials", "0 is not positive", "give at least 1"))
    stop.trials: 0 is not positive; give at least 1
    """

    def __init__(self, field: str, problem: str, remedy: str = "") -> None:
        self.field, self.problem, self.remedy = field, problem, remedy
        super().__init__(f"{field}: {problem}" + (f"; {remedy}" if remedy else ""))


class StudyConflict(InputError):
    """The study that is stored under this name is not the one that was given."""


class StudyUnknown(InputError):
    """No study of this name is stored."""


class Unreachable(RuntimeError):
    """A server that is needed does not answer."""


class TrackingError(Unreachable):
    """The MLflow store does not answer; nothing is wrong with the study itself."""


class EngineError(Unreachable):
    """What trials are to be trained by (Dask, Ray, Prefect's workers) does not answer, or cannot begin one."""


class TrackingRefusal(RuntimeError):
    """The MLflow store answered that it will not do what was asked, such as keeping a metric of an impossible name."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)

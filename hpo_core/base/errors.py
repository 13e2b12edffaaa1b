"""Defines the exceptions of the project: errors in the user's input, and failures of what a study depends on."""

from __future__ import annotations

from collections.abc import Sequence


class InputError(ValueError):
    """Something in the user's input cannot be used.

    The command line prints it as a single message, without a traceback, and exits with code 2.

    Args:
        field: Where the value is, as a dotted path (``space.learning_rate.low``).
        problem: What is wrong, including the offending value.
        remedy: What to do about it, as an imperative clause. Empty if the problem already says it.

    >>> print(InputError("stop.trials", "0 is not positive", "give at least 1"))
    stop.trials: 0 is not positive; give at least 1
    """

    def __init__(self, field: str, problem: str, remedy: str = "") -> None:
        self.field, self.problem, self.remedy = field, problem, remedy
        super().__init__(f"{field}: {problem}" + (f"; {remedy}" if remedy else ""))

    def below(self, field: str) -> InputError:
        """The same about a value inside another one, which is at ``field``.

        >>> print(InputError("low", "3 is above high 1", "swap them").below("space.x"))
        space.x.low: 3 is above high 1; swap them
        """
        return InputError(".".join(part for part in (field, self.field) if part), self.problem, self.remedy)


class StudyConflict(InputError):
    """A different study is already stored under this name.

    Args:
        study: Its name.
        differences: What differs, a line each.
        remedy: What to do about it.
    """

    def __init__(self, study: str, differences: Sequence[str], remedy: str) -> None:
        self.study, self.differences = study, tuple(differences)
        problem = "the stored study differs from the given one, and trials of the two do not compare:\n"
        super().__init__(f"study {study!r}", problem + "".join(f"  {line}\n" for line in differences) + remedy)


class StudyUnknown(InputError):
    """No study with this name is stored."""


class Unreachable(RuntimeError):
    """Something a study depends on, such as a server or a disk, is not available."""


class TrackingError(Unreachable):
    """The MLflow store does not respond; nothing is wrong with the study itself."""


class DiskError(Unreachable):
    """A disk cannot be written to, for example because it is full or read-only."""


class EngineError(Unreachable):
    """The engine that trains trials (Dask, Ray, Prefect workers) does not respond, or cannot start a trial."""


class StudyFailed(RuntimeError):
    """The first trials of a study run all failed with the same error, so no more were started."""


class TrackingRefusal(RuntimeError):
    """The MLflow store rejected a request, such as logging a metric with an invalid name."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)

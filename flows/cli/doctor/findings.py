"""Defines what a check of ``hpo doctor`` reports, and turns its errors into findings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from hpo_core.base.errors import InputError, StudyUnknown
from hpo_flows.reports.text import one_line

PATIENCE_SECONDS = 5.0


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Args:
        check: The name of the check.
        level: How bad it is.
        found: The result, in one line.
        remedy: What to do about it, as an imperative clause; empty if there is nothing to do.
    """

    check: str
    level: Level
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.level:<8} {self.check:<15} {self.found}" + (f"; {self.remedy}" if self.remedy else "")


STORE = "make it reachable and writable, or correct MLFLOW_TRACKING_URI"


def guarded(check: str, findings: Iterator[Finding], remedy: str = "") -> Iterator[Finding]:
    """The findings of a check. If it raises, the error becomes the last one."""
    try:
        yield from findings
    except StudyUnknown:
        raise
    except InputError as error:
        yield Finding(check, Level.PROBLEM, one_line(f"{error.field}: {error.problem}"), one_line(error.remedy))
    except Exception as error:  # a store, a driver or a file system may raise any kind
        known = type(error).__module__.startswith("hpo_core.")
        yield Finding(check, Level.PROBLEM, one_line(error if known else f"{type(error).__name__}: {error}"), remedy)

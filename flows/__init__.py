"""Prefect flows around the strategy loop. Importing this package loads neither prefect, mlflow nor tensorflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.context import TrialContext
from flows.objective import gives_hypergradient

if TYPE_CHECKING:
    from flows.api import StudyResult, run_study

__all__ = ["StudyResult", "TrialContext", "gives_hypergradient", "run_study"]


def __getattr__(name: str) -> Any:
    if name in ("StudyResult", "run_study"):
        from flows import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

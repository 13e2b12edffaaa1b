"""Hyperparameter optimization in Prefect flows, with MLflow as the only state.

This package exports all that user code needs: ``run_study``, ``open_study``, ``load_study``, the parameters of a search
space, and the types of the objects that these give. Importing it loads neither prefect, mlflow nor tensorflow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hpo_flows.objectives.context import TrialContext
from hpo_flows.objectives.reference import gives_hypergradient

if TYPE_CHECKING:
    from hpo_core.space.parameters import Boolean, Choice, Fixed, Float, Int, Ordinal
    from hpo_flows.api.asked import AskedTrial
    from hpo_flows.api.asking import AskedStudy, open_study
    from hpo_flows.api.running import run_study
    from hpo_flows.results import StudyResult, load_study

# Loaded on demand: a worker process must not wait for pydantic or the loop.
_HOMES = (
    {"run_study": "hpo_flows.api.running", "AskedTrial": "hpo_flows.api.asked"}
    | dict.fromkeys(("AskedStudy", "open_study"), "hpo_flows.api.asking")
    | dict.fromkeys(("StudyResult", "load_study"), "hpo_flows.results")
    | dict.fromkeys(("Boolean", "Choice", "Fixed", "Float", "Int", "Ordinal"), "hpo_core.space.parameters")
)

__all__ = [
    "AskedStudy",
    "AskedTrial",
    "Boolean",
    "Choice",
    "Fixed",
    "Float",
    "Int",
    "Ordinal",
    "StudyResult",
    "TrialContext",
    "gives_hypergradient",
    "load_study",
    "open_study",
    "run_study",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Search spaces, strategies and the ledger. Importing it does not load mlflow, prefect or tensorflow."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hpo_core.base import telemetry

if TYPE_CHECKING:
    from hpo_core.space.parameters import Boolean, Choice, Fixed, Float, Int, Ordinal
    from hpo_core.space.search_space import SearchSpace

telemetry.turn_off()  # here, since every process of this project imports this package before MLflow and Prefect

__all__ = ["Boolean", "Choice", "Fixed", "Float", "Int", "Ordinal", "SearchSpace"]


def __getattr__(name: str) -> Any:
    # Loaded on demand: a worker process that imports one small module should not wait for numpy and pydantic.
    if name in __all__:
        home = "search_space" if name == "SearchSpace" else "parameters"
        return getattr(import_module(f"hpo_core.space.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

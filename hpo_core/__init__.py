"""Search spaces, strategies and the ledger. Importing it loads neither mlflow, prefect nor tensorflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpo_core.space import Boolean, Choice, Fixed, Float, Int, Ordinal, SearchSpace

__all__ = ["Boolean", "Choice", "Fixed", "Float", "Int", "Ordinal", "SearchSpace"]


def __getattr__(name: str) -> Any:
    # On demand: a worker process that only wants a name from a small module should not wait for numpy and pydantic.
    if name in __all__:
        from hpo_core import space

        return getattr(space, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Search spaces, strategies and the ledger. Importing it does not load mlflow, prefect or tensorflow."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hpo_core.base import quiet

if TYPE_CHECKING:
    from hpo_core.base.seeding import trial_rng
    from hpo_core.history.fidelity import Fidelity
    from hpo_core.history.history import History
    from hpo_core.history.trial import Proposal, Trial, TrialState
    from hpo_core.space.parameters import Boolean, Choice, Fixed, Float, Int, Ordinal
    from hpo_core.space.search_space import SearchSpace
    from hpo_core.strategies.base import Strategy
    from hpo_core.strategies.common.sampling import fill

quiet.set_defaults()  # here, since every process of this project imports this package before MLflow and Prefect

_HOMES = {
    **dict.fromkeys(("Boolean", "Choice", "Fixed", "Float", "Int", "Ordinal"), "space.parameters"),
    "SearchSpace": "space.search_space",
    # For strategies of one's own.
    "Fidelity": "history.fidelity",
    "History": "history.history",
    **dict.fromkeys(("Proposal", "Trial", "TrialState"), "history.trial"),
    "Strategy": "strategies.base",
    "fill": "strategies.common.sampling",
    "trial_rng": "base.seeding",
}

__all__ = [
    "Boolean", "Choice", "Fidelity", "Fixed", "Float", "History", "Int", "Ordinal", "Proposal", "SearchSpace",
    "Strategy", "Trial", "TrialState", "fill", "trial_rng",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # Loaded on demand: a worker process that imports one small module should not wait for numpy and pydantic.
    if name in _HOMES:
        return getattr(import_module(f"hpo_core.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

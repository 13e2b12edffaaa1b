"""The size of a model."""

from __future__ import annotations

import math
from typing import Any

from hpo_flows.keras.errors import FailedTrialError


def check_size(network: Any, limit: float | None) -> None:
    """Raise FailedTrialError if a model has more parameters than allowed."""
    size = sum(math.prod(each.shape) for each in network.trainable_variables) if network.built else 0
    if limit and size > limit:
        raise FailedTrialError(f"the model has {size} parameters, more than max_model_size, {limit}")

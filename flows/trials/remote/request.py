"""Defines the request that sends a trial to another machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

from hpo_core.study.spec import StudySpec
from hpo_flows.objectives.reference import Objective

URI = "MLFLOW_TRACKING_URI"

CREDENTIALS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


@dataclass(frozen=True)
class TrialRequest:
    """What an agent on another machine is told about a trial.

    Args:
        study_run: The study's run.
        run: The run of the trial, or of the evaluation of the final choice.
        owner: The flow that reserved it.
        spec_digest: The digest of the specification that the flow works with; see :func:`spec_digest`.
        tracking: The environment variables that lead to MLflow, for a worker without its own. They may hold a password,
            so a request goes only from the flow to its engine and is never a parameter that Prefect stores.
        objective: What to train; None means the objective that the study names.
    """

    study_run: str
    run: str
    owner: str
    spec_digest: str
    tracking: Mapping[str, str] = field(repr=False)
    objective: Objective | None = None


def spec_digest(spec: StudySpec) -> str:
    """A digest that differs between two versions of a study's specification, as far as who trains needs it."""
    shared = {key: value for key, value in spec.stored().items() if key not in ("parallel", "stop")}
    return blake2b(json.dumps(shared).encode(), digest_size=8).hexdigest()

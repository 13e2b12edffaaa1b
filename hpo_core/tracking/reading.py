"""A store that reads without MLflow's client, and loads the client only for what it cannot do itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import distributions
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpo_core.tracking.mlflow_store import MlflowStore


_SETTINGS = (
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_AWS_SIGV4",
    "MLFLOW_WORKSPACE",
    "MLFLOW_ENABLE_WORKSPACES",
    "MLFLOW_DATABRICKS_",
    "DATABRICKS_",
)
"""Beginnings of the names of settings that change what MLflow's client asks for, in ways that only it knows."""

_PLUGINS = {"mlflow.request_header_provider", "mlflow.tracking_store", "mlflow.artifact_repository"}
"""Where other packages change what MLflow's client does."""


def reason_for_mlflow() -> str:
    """What in this environment only MLflow's client can deal with; empty if nothing."""
    if names := [name for name in os.environ if name.startswith(_SETTINGS)]:
        return f"{names[0]} is set"
    for package in distributions():
        if any(entry.group in _PLUGINS for entry in package.entry_points):
            return f"{package.name} extends MLflow"
    return ""


class ReadingStore:
    """The part of a store that reads without importing mlflow, which takes longer than most commands.

    A subclass handles what it is certain of. Whatever else it is asked, and whatever it meets on the way (an error, an
    answer that it does not know), goes to MLflow's client, which asks anew; so retries and errors are the same as ever.

    Args:
        uri: The tracking URI.
        connect: Opens the store by MLflow's client; told whether the store has responded before.
    """

    def __init__(self, uri: str, connect: Callable[[bool], MlflowStore]) -> None:
        self.uri, self._connect = uri, connect
        self._answered = False
        self._client: MlflowStore | None = None

    @property
    def mlflow(self) -> MlflowStore:
        """The same store by MLflow's client."""
        if self._client is None:
            self._client = self._connect(self._answered)
        return self._client

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # what Python itself looks for
            raise AttributeError(name)
        return getattr(self.mlflow, name)

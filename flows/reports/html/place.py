"""Where a study is in MLflow, for links from its report."""

from __future__ import annotations

from dataclasses import dataclass

from hpo_core.tracking.credentials import without_credentials

QUERY = "?workflowType=machine_learning"
"""Has MLflow's UI show a run as a training, not as an application of a language model."""


@dataclass(frozen=True)
class Place:
    """Where a study is in MLflow.

    Args:
        uri: The tracking URI.
        experiment, run: The ids of the experiment and of the study's run.

    >>> Place("http://me:secret@mlflow.test/", "7", "ab").of("cd")
    'http://mlflow.test/#/experiments/7/runs/cd?workflowType=machine_learning'
    >>> Place("sqlite:///mlflow.db", "7", "ab").of("cd")
    ''
    """

    uri: str
    experiment: str
    run: str

    @property
    def address(self) -> str:
        """The part of a run's address before its id, without credentials; empty if MLflow is not a server."""
        if not self.uri.startswith(("http://", "https://")):
            return ""
        return f"{without_credentials(self.uri).rstrip('/')}/#/experiments/{self.experiment}/runs/"

    def of(self, run: str) -> str:
        """The address of a run; empty if MLflow is not a server."""
        return f"{self.address}{run}{QUERY}" if self.address else ""

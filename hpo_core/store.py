"""What the ledger needs of MLflow: a handful of operations, of which one is a compare-and-set.

:class:`hpo_core.tracking.MlflowStore` is the real one. Tests put an in-memory double behind the same interface, to
interleave and crash flows at every single operation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

from hpo_core.registry import Registry

RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"


class Metric(NamedTuple):
    """One value of a metric; ``timestamp`` in milliseconds since 1970."""

    key: str
    value: float
    timestamp: int
    step: int = 0


class Dataset(NamedTuple):
    """A data set as MLflow shows it.

    ``arrays`` has a type and a shape by name, -1 for the number of rows; ``profile`` whatever else is worth showing.
    """

    name: str
    digest: str
    arrays: Mapping[str, tuple[str, Sequence[int]]]
    profile: Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """An MLflow run: the latest value of each metric, times in milliseconds since 1970."""

    id: str
    experiment: str
    name: str
    status: str
    start: int
    end: int | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


class Store(Registry, Protocol):
    """MLflow's tracking API as far as the ledger uses it, and its registry.

    Every method is one request unless it says otherwise.

    Every method raises :class:`hpo_core.errors.TrackingError` where the server does not answer or refuses.
    """

    uri: str

    def with_patience(self, patience: float) -> Self:
        """The same store, which is asked again for only so many seconds where it does not answer."""
        ...

    def ping(self) -> None:
        """Ask for next to nothing, to see whether the store answers."""
        ...

    def experiment(self, name: str, *, create: bool) -> str | None:
        """The id of the active experiment of this name; created if absent and asked for. Up to three requests."""
        ...

    def experiments(self) -> list[str]:
        """The ids of all active experiments, a request a page."""
        ...

    def create_run(self, experiment: str, name: str, tags: Mapping[str, str]) -> Run:
        """A new run in status RUNNING, started now."""
        ...

    def claim(self, run: str, key: str, value: str) -> bool:
        """Write a param once: True if it now holds ``value``, False if it holds another.

        Of any number of callers with different values exactly one is told True; repeating a successful call is told
        True again.
        """
        ...

    def log(self, run: str, metrics: Sequence[Metric], params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Add params, metrics and tags, in this order. May stop half way if the server dies."""
        ...

    def log_dataset(self, run: str, dataset: Dataset, source: str) -> None:
        """Note that a run has used a data set; ``source`` says what has made it. Repeating it does no harm."""
        ...

    def set_status(self, run: str, status: str) -> None:
        """Set a run's status; a terminal one with the end time now."""
        ...

    def delete_run(self, run: str) -> None:
        """Move a run to MLflow's trash."""
        ...

    def get(self, run: str) -> Run:
        """A run as it is now."""
        ...

    def search(
        self,
        experiments: Sequence[str],
        tags: Mapping[str, str],
        since: int | None = None,
        *,
        ids: Sequence[str] | None = None,
        trash: bool = False,
    ) -> list[Run]:
        """The active runs with all these tags, oldest first, a request a page.

        Args:
            experiments: Ids of the experiments to look into.
            tags: Exact values that the runs' tags must have.
            since: Only runs that started at this time or later.
            ids: Only these runs; a request a hundred.
            trash: Not the active runs, but those that were deleted after they had ended.
        """
        ...

    def find(self, experiments: Sequence[str], query: str, field: str) -> list[Run]:
        """The active runs that a filter of MLflow's own language finds, oldest first, a request a page.

        Args:
            experiments: Ids of the experiments to look into.
            query: The filter; empty for all.
            field: Where the query stands, for the error.

        Raises:
            InputError: MLflow does not understand the query.
        """
        ...

    def has_exactly(self, count: int, experiments: Sequence[str], tags: Mapping[str, str], before: int) -> bool:
        """Whether so many active runs, at least one, with all these tags started before a time.

        False also where the server cannot tell in one request.
        """
        ...

    def upload(self, run: str, path: Path, folder: str) -> None:
        """Copy a file or a folder into the run's artifacts, below ``folder``."""
        ...

    def fetch(self, run: str, path: str, folder: Path) -> Path | None:
        """Copy one of the run's artifacts into a folder; None if it cannot be had at once, for whatever reason."""
        ...

    def discard(self, run: str, path: str) -> None:
        """Delete one of the run's artifacts, if it is there. Each artifact store has exceptions of its own."""
        ...

    def download(self, run: str, path: str) -> bytes | None:
        """The content of one of the run's artifacts; None if it cannot be had at once, for whatever reason."""
        ...

"""Defines what the ledger needs from MLflow: a handful of operations, one of them a compare-and-set.

:class:`hpo_core.tracking.mlflow_store.MlflowStore` is the real one; those of :mod:`hpo_core.tracking.reading` read
without mlflow. Tests put an in-memory double behind the same interface, to interleave and crash flows at every single
operation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

from hpo_core.ledger.tags import Tag

RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"


class Metric(NamedTuple):
    """One value of a metric; ``timestamp`` in milliseconds since 1970."""

    key: str
    value: float
    timestamp: int
    step: int = 0


class Dataset(NamedTuple):
    """A data set as MLflow shows it.

    ``arrays`` maps names to type and shape, -1 for the number of rows; ``profile`` holds anything else worth showing.
    """

    name: str
    digest: str
    arrays: Mapping[str, tuple[str, Sequence[int]]]
    profile: Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """An MLflow run with the latest value of each metric; times in ms since 1970; ``deleted``: in the trash."""

    id: str
    experiment: str
    name: str
    status: str
    start: int
    end: int | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    deleted: bool = False


CHAMPION = "champion"
"""The alias of the served version."""


@dataclass(frozen=True)
class Version:
    """One version of a registered model.

    Args:
        number: From 1.
        run: The MLflow run whose model it is; empty if registered without one.
        tags: As MLflow keeps them.
    """

    number: int
    run: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def replaces(self) -> int | None:
        """The champion that this version replaced; None if there was none."""
        return _number(self.tags.get(Tag.REPLACES, ""))

    @property
    def seen(self) -> int:
        """The latest version known at the time of its comparison; 0 if there was none."""
        return _number(self.tags.get(Tag.SEEN, "")) or 0


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 10 else None


class Registry(Protocol):
    """MLflow's model registry, as far as champions need it; errors as in :class:`hpo_core.ledger.store.Store`."""

    def champion(self, model: str) -> int | None:
        """The version with the alias ``champion``; None if no version has it or the model does not exist.

        Raises:
            InputError: The name is not a valid model name.
        """
        ...

    def versions(self, model: str) -> list[Version]:
        """All versions of a model, lowest number first; empty if the model does not exist."""
        ...

    def register(
        self, model: str, run: str, path: str, tags: Mapping[str, str], description: str, logged: str | None = None
    ) -> Version:
        """Register one of a run's artifacts as a new version; creates the model if needed.

        Args:
            model: The registered model.
            run, path: The run, and the artifact.
            tags, description: Of the version.
            logged: The logged model that was made of the artifact; the version is then one of that.
        """
        ...

    def publish(self, run: str, study_run: str, name: str, tags: Mapping[str, str]) -> str | None:
        """Copy a run's model into a new logged model of MLflow, shown under both runs. Some ten requests.

        Returns:
            Its id; None if the run has no model.
        """
        ...

    def set_champion(self, model: str, number: int) -> None:
        """Move the alias ``champion`` to a version."""
        ...

    def tag_version(self, model: str, number: int, tags: Mapping[str, str]) -> None:
        """Add tags to a version; one request per tag."""
        ...

    def delete_version(self, model: str, number: int) -> None:
        """Delete a version; the run's artifact stays."""
        ...

    def fetch_version(self, model: str, number: int, folder: Path) -> Path | None:
        """Copy a version's files into a folder; None if they are unavailable for any reason."""
        ...


class Store(Registry, Protocol):
    """The parts of MLflow's tracking API and registry that the ledger uses.

    Every method is one request unless it says otherwise.

    Every method raises :class:`hpo_core.base.errors.TrackingError` if the server does not respond or refuses.
    """

    uri: str

    def with_patience(self, patience: float) -> Self:
        """The same store, but retrying an unresponsive server for at most this many seconds."""
        ...

    def hurry(self, on: bool = True) -> None:
        """Limit retries to a few seconds from now on, whatever the patience; ``on=False`` restores the patience.

        Affects all copies of this store and requests that already wait. Safe to call from a signal handler.
        """
        ...

    def ping(self) -> None:
        """Send a minimal request to check that the store responds."""
        ...

    def experiment(self, name: str, *, create: bool, restore: bool = False, unlisted: bool = False) -> str | None:
        """The id of the active experiment of this name; created if absent and ``create``. Up to four requests.

        If it is in the trash, ``restore`` brings it back with all its runs; otherwise it is an InputError.
        ``unlisted`` keeps it out of the UI's list of experiments, if the UI can do that.
        """
        ...

    def experiments(self) -> list[str]:
        """The ids of all active experiments, one request per page."""
        ...

    def create_run(self, experiment: str, name: str, tags: Mapping[str, str]) -> Run:
        """A new run in status RUNNING, started now."""
        ...

    def claim(self, run: str, key: str, value: str) -> bool:
        """Write a param once: True if it now holds ``value``, False if it holds another.

        Of any number of concurrent callers with different values, exactly one gets True. Idempotent: repeating a
        successful call returns True again.
        """
        ...

    def log(self, run: str, metrics: Sequence[Metric], params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Add params, metrics and tags, in this order. Not atomic: may stop half way if the server dies."""
        ...

    def log_dataset(self, run: str, dataset: Dataset, source: str) -> None:
        """Record that a run used a data set; ``source`` names what produced it. Idempotent."""
        ...

    def set_status(self, run: str, status: str) -> None:
        """Set a run's status; a terminal one also sets the end time to now."""
        ...

    def delete_run(self, run: str) -> None:
        """Move a run to MLflow's trash."""
        ...

    def restore_run(self, run: str) -> None:
        """Take a run out of MLflow's trash, with its experiment if that is deleted too. Up to four requests."""
        ...

    def get(self, run: str) -> Run:
        """Read a run, even from the trash."""
        ...

    def search(
        self,
        experiments: Sequence[str],
        tags: Mapping[str, str],
        since: int | None = None,
        *,
        ids: Sequence[str] | None = None,
        ended: int | None = None,
        trash: bool = False,
    ) -> list[Run]:
        """The active runs with all these tags, oldest first, one request per page.

        Args:
            experiments: Ids of the experiments to look into.
            tags: Exact values that the runs' tags must have.
            since: Only runs that started at this time or later.
            ids: Only these runs; one request per hundred.
            ended: Only runs that ended at this time or later.
            trash: Search deleted runs that had ended, instead of active ones.
        """
        ...

    def find(self, experiments: Sequence[str], query: str, field: str) -> list[Run]:
        """The active runs that match an MLflow filter string, oldest first, one request per page.

        Args:
            experiments: Ids of the experiments to look into.
            query: The filter; empty for all.
            field: Where the query comes from, for the error message.

        Raises:
            InputError: MLflow does not understand the query.
        """
        ...

    def metric_history(self, runs: Sequence[str], key: str, most: int) -> Mapping[str, Sequence[Metric]]:
        """All values of a metric in these runs, by run, oldest first; up to two requests per hundred runs.

        Args:
            runs: Their ids. A run without the metric is left out of the result.
            key: The metric.
            most: If there are too many points for one request, a run may come with an even selection of this many.
        """
        ...

    def has_exactly(self, count: int, experiments: Sequence[str], tags: Mapping[str, str], before: int) -> bool:
        """Whether exactly ``count`` (at least one) active runs with all these tags started before a time.

        Also False if the server cannot tell in one request.
        """
        ...

    def upload(self, run: str, path: Path, folder: str) -> None:
        """Copy a file or a folder into the run's artifacts, below ``folder``."""
        ...

    def fetch(self, run: str, path: str, folder: Path) -> Path | None:
        """Copy one of the run's artifacts into a folder; None if it is not available at once."""
        ...

    def discard(self, run: str, path: str) -> None:
        """Delete one of the run's artifacts, if it exists. Each artifact store raises its own exceptions."""
        ...

    def download(self, run: str, path: str) -> bytes | None:
        """The content of one of the run's artifacts; None if it is not available at once."""
        ...

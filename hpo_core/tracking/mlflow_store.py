"""Implements the interface of :mod:`hpo_core.ledger.store` with MLflow's client.

MLflow's active run is thread-local and its fluent API guesses, so only ``MlflowClient`` is used, with explicit ids.
"""

from __future__ import annotations

import copy
import functools
import json
import logging
import math
import os
import random
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from hpo_core.tracking.retry import (
    CREATION_SECONDS,
    HASTE_SECONDS,
    HASTY_SETTINGS,
    INTERNAL_SECONDS,
    LOOK_SECONDS,
    Haste,
    is_internal,
    is_transient,
)

# MLflow would wait for minutes inside one call; waiting is done here, where it can be bounded and seen.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
# It would also read every run once more as it ends, to print its address.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

import mlflow.entities as entities
import requests
import sqlalchemy.exc
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from hpo_core.base.errors import InputError, TrackingError, TrackingRefusal
from hpo_core.base.extras import missing_extra
from hpo_core.ledger.store import CHAMPION, FAILED, FINISHED, KILLED, Dataset, Metric, Run, Version
from hpo_core.ledger.tags import MODEL
from hpo_core.tracking.credentials import redact, scrub
from hpo_core.tracking.histories import histories
from hpo_core.tracking.searches import OLDEST_FIRST, PAGE, Searches, quotable
from hpo_core.tracking.sqlite_rows import Rows
from hpo_core.tracking.trial_run import own_request

T = TypeVar("T")

log = logging.getLogger("hpo")

UNLISTED = "mlflow.experiment.isGateway"
"""A tag by which MLflow's UI leaves an experiment out of its list: docs/decisions/0015-mlflow-ui.md."""

CLAIMED = "Changing param values is not allowed"
"""How MLflow says that a param holds another value; its error code is shared with other mistakes."""


def make_tables(uri: str, artifact_root: Path) -> None:
    """Make MLflow's tables in an empty database.

    Its client would have the experiment ``Default`` keep artifacts in the working folder, whose name it writes into SQL
    as Python quotes it: with both kinds of quotes in it, that is an error.

    Raises:
        TrackingError: They cannot be made.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # which clients of a server do not need

    try:
        SqlAlchemyStore(uri, artifact_root.absolute().as_uri())
    except (MlflowException, sqlalchemy.exc.SQLAlchemyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise TrackingError(f"the database {redact(uri)} cannot be made: {reason}; see to its folder") from None


class MlflowStore(Searches):
    """The MLflow tracking store at a URI.

    Args:
        uri: ``http(s)://...``, ``sqlite:///...`` or ``postgresql://...``.
        artifact_root: Where a new experiment keeps its artifacts, if the store itself does not decide (a server does).
        patience: Seconds for which a store that does not respond is asked again before TrackingError is raised.
        rows: The database file behind the store, in which searches read what they are certain of.
    """

    def __init__(
        self, uri: str, artifact_root: Path | None = None, patience: float = 1800.0, rows: Rows | None = None
    ) -> None:
        self.uri, self.artifact_root, self.patience, self._rows = uri, artifact_root, patience, rows
        self._haste = Haste()
        try:
            if re.match(r"(postgresql|mysql|mssql)[+:]", uri):
                self._call(self._reach)
            self._client = self._call(self._connect)
        except (ValueError, ImportError, sqlalchemy.exc.ArgumentError) as error:
            if (missing := missing_extra(error, "MLFLOW_TRACKING_URI")) is not None:
                raise missing from None
            problem = f"{redact(uri)} cannot be used ({scrub(error, uri)})"
            raise InputError("MLFLOW_TRACKING_URI", problem, "correct it, or install the database's driver") from None

    def _reach(self) -> None:
        """Reach the database once. MLflow itself would ask an absent one for minutes, and print every attempt."""
        engine = sqlalchemy.create_engine(self.uri)
        try:
            engine.connect().close()
        finally:
            engine.dispose()

    def _connect(self) -> MlflowClient:
        """MLflow's client; on a database, the first of it creates the tables.

        Of several processes that find an empty database at once, MLflow lets all create the tables, and all but one
        fail somewhere on the way. They have to wait until that one is done.
        """
        deadline = time.monotonic() + CREATION_SECONDS
        while True:
            try:
                return MlflowClient(self.uri)
            except (sqlalchemy.exc.SQLAlchemyError, MlflowException) as error:
                late = isinstance(error, MlflowException) and "out-of-date database schema" not in str(error)
                if late or isinstance(error, sqlalchemy.exc.OperationalError) or time.monotonic() > deadline:
                    raise
            time.sleep(0.5)

    def with_patience(self, patience: float) -> Self:
        """The same store, with its own limit of seconds for repeating requests."""
        other = copy.copy(self)
        other.patience = patience
        return other

    def hurry(self, on: bool = True) -> None:
        if on == self._haste.on:
            return
        self._haste.until = time.monotonic() + HASTE_SECONDS if on else math.inf
        # MLflow reads these at each request: one that hangs is given up, too.
        if on:
            self._haste.usual = {key: os.environ[key] for key in HASTY_SETTINGS if key in os.environ}
            os.environ.update(HASTY_SETTINGS)
        else:
            for key in HASTY_SETTINGS:
                os.environ.pop(key, None)
            os.environ.update(self._haste.usual)

    def _sleep(self, seconds: float) -> None:
        """Sleep, but not past the moment at which somebody begins to be in a hurry."""
        until, hasty = time.monotonic() + seconds, self._haste.on
        while (left := until - time.monotonic()) > 0 and self._haste.on == hasty:
            time.sleep(min(left, LOOK_SECONDS))

    def _call(self, request: Callable[[], T], remedy: str = "start the server, or correct MLFLOW_TRACKING_URI") -> T:
        began, pause = time.monotonic(), 0.05
        while True:
            try:
                with own_request():
                    return request()
            except Exception as error:
                if (missing := missing_extra(error)) is not None:  # the driver of a database, the client of S3
                    raise missing from None
                if "readonly database" in str(error):
                    raise TrackingError(f"the database {redact(self.uri)} is read-only; make it writable") from None
                hopeless = is_internal(error) and time.monotonic() - began > INTERNAL_SECONDS
                if hopeless or not is_transient(error):
                    message = scrub(error, self.uri)
                    if isinstance(error, MlflowException):
                        raise TrackingRefusal(error.error_code, message) from None
                    if message != str(error):
                        raise TrackingError(f"{type(error).__name__}: {message}") from None
                    raise
                if time.monotonic() + pause > min(began + self.patience, self._haste.until):
                    reason = scrub(error, self.uri).strip().splitlines()[0]
                    reason = (
                        reason if len(reason) <= 300 else f"{reason[:140]} ... {reason[-155:]}"
                    )  # the cause is last
                    problem = f"the MLflow store {redact(self.uri)} does not respond: {reason}"
                    raise TrackingError(f"{problem}; {remedy}") from None
                if pause > 2:
                    log.warning("the MLflow store %s does not respond; asking again", redact(self.uri))
                self._sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  (spreads waiting flows; proposals do not see it)
                pause = min(2 * pause, 5.0)

    def ping(self) -> None:
        """Ask for next to nothing, to see whether the store responds."""
        self._call(lambda: self._client.search_experiments(max_results=1))

    def experiment(self, name: str, *, create: bool, restore: bool = False, unlisted: bool = False) -> str | None:
        found = self._call(lambda: self._client.get_experiment_by_name(name))
        if found is None:
            if not create:
                return None
            root = self.artifact_root
            location = None if root is None else (root / _as_folder(name)).absolute().as_uri()
            tags = {"mlflow.experimentKind": "custom_model_development"}  # opens the UI on runs, not on traces
            tags |= {UNLISTED: "true"} if unlisted else {}
            try:
                return str(self._call(lambda: self._client.create_experiment(name, location, tags)))
            except TrackingRefusal as error:
                if error.code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self._call(lambda: self._client.get_experiment_by_name(name))
                assert found is not None
        if found.lifecycle_stage != "active" and restore:
            self._restore_experiment(found.experiment_id)
        elif found.lifecycle_stage != "active":
            raise InputError(
                "experiment",
                f"{name!r} was deleted in MLflow",
                f"restore it (mlflow experiments restore --experiment-id {found.experiment_id}) or choose another name",
            )
        if unlisted and UNLISTED not in found.tags:  # made by an earlier version
            self._call(lambda: self._client.set_experiment_tag(found.experiment_id, UNLISTED, "true"))
        return str(found.experiment_id)

    def create_run(self, experiment: str, name: str, tags: Mapping[str, str]) -> Run:
        return _run(self._call(lambda: self._client.create_run(experiment, tags=dict(tags), run_name=name)))

    def claim(self, run: str, key: str, value: str) -> bool:
        try:
            self._call(lambda: self._client.log_param(run, key, value))
        except TrackingRefusal as error:
            if CLAIMED in str(error):
                return False
            raise
        return True

    def log(self, run: str, metrics: Sequence[Metric], params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        batch = (
            [entities.Metric(m.key, m.value, m.timestamp, m.step) for m in metrics],
            [entities.Param(key, value) for key, value in params.items()],
            [entities.RunTag(key, value) for key, value in tags.items()],
        )
        try:
            self._call(lambda: self._client.log_batch(run, *batch))
        except requests.RequestException:
            raise
        except ValueError as error:  # of a client that cannot even write the request, where a database would refuse it
            raise TrackingRefusal("INVALID_PARAMETER_VALUE", scrub(error, self.uri)) from None

    def log_dataset(self, run: str, dataset: Dataset, source: str) -> None:
        specs = {
            name: json.dumps([{"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": list(shape)}}])
            for name, (dtype, shape) in dataset.arrays.items()
        }
        made_by = {"tags": {"mlflow.source.name": source, "mlflow.source.type": "LOCAL"}}
        entity = entities.Dataset(
            name=dataset.name,
            digest=dataset.digest,
            source_type="code",
            source=json.dumps(made_by),
            schema=json.dumps({"mlflow_tensorspec": specs}),
            profile=json.dumps(dict(dataset.profile)),
        )
        used = entities.DatasetInput(entity, [entities.InputTag("mlflow.data.context", "training")])
        try:
            self._call(lambda: self._client.log_inputs(run, [used]))
        except TrackingRefusal:  # two that log one data set for the first time collide; the second time it is there
            self._call(lambda: self._client.log_inputs(run, [used]))

    def set_status(self, run: str, status: str) -> None:
        if status in (FINISHED, FAILED, KILLED):
            self._call(lambda: self._client.set_terminated(run, status))
        else:
            self._call(lambda: self._client.update_run(run, status))

    def delete_run(self, run: str) -> None:
        self._call(lambda: self._client.delete_run(run))

    def restore_run(self, run: str) -> None:
        experiment = self._call(lambda: self._client.get_experiment(self.get(run).experiment))
        if experiment.lifecycle_stage != "active":
            self._restore_experiment(experiment.experiment_id)
        if self.get(run).deleted:
            self._call(lambda: self._client.restore_run(run))

    def _restore_experiment(self, id: str) -> None:
        try:
            self._call(lambda: self._client.restore_experiment(id))
        except TrackingRefusal:
            if self._call(lambda: self._client.get_experiment(id)).lifecycle_stage != "active":
                raise  # else another process was faster

    def get(self, run: str) -> Run:
        return _run(self._call(lambda: self._client.get_run(run)))

    def experiments_page(self, token: str | None) -> tuple[list[str], str | None]:
        page = self._call(lambda: self._client.search_experiments(max_results=PAGE, page_token=token))
        return [str(experiment.experiment_id) for experiment in page], page.token

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
        which: dict[str, Any] = {"ids": ids, "ended": ended, "trash": trash}
        found = None if self._rows is None else self._rows.search(experiments, tags, since, **which)
        return super().search(experiments, tags, since, **which) if found is None else found

    def has_exactly(self, count: int, experiments: Sequence[str], tags: Mapping[str, str], before: int) -> bool:
        found = None if self._rows is None else self._rows.has_exactly(count, experiments, tags, before)
        return super().has_exactly(count, experiments, tags, before) if found is None else found

    def runs_page(
        self, experiments: Sequence[str], query: str, size: int, token: str | None = None, *, trash: bool = False
    ) -> tuple[list[Run], str | None]:
        view = entities.ViewType.DELETED_ONLY if trash else entities.ViewType.ACTIVE_ONLY
        page = self._call(lambda: self._client.search_runs(list(experiments), query, view, size, OLDEST_FIRST, token))
        return [_run(run) for run in page], page.token

    def metric_history(self, runs: Sequence[str], key: str, most: int) -> dict[str, list[Metric]]:
        return self._call(lambda: histories(self._client, runs, key, most))

    def upload(self, run: str, path: Path, folder: str) -> None:
        def copy() -> None:
            if path.is_dir():
                self._client.log_artifacts(run, str(path), folder)
            else:
                self._client.log_artifact(run, str(path), folder)

        self._call(copy, "see to its artifact store")

    def download(self, run: str, path: str) -> bytes | None:
        with tempfile.TemporaryDirectory() as folder:
            file = self.fetch(run, path, Path(folder))
            return None if file is None else file.read_bytes()

    def fetch(self, run: str, path: str, folder: Path) -> Path | None:
        try:
            return Path(self._artifacts(run).download_artifacts(path, str(folder)))
        except Exception as error:  # each artifact store has its own
            log.debug("the artifact %s of run %s cannot be read: %s", path, run, error)
            return None

    def discard(self, run: str, path: str) -> None:
        self._artifacts(run).delete_artifacts(path)

    # -- the model registry ---------------------------------------------------------------------------------------

    def champion(self, model: str) -> int | None:
        try:
            found = self._call(lambda: self._client.get_registered_model(model))
        except TrackingRefusal as error:
            if error.code == "RESOURCE_DOES_NOT_EXIST":
                return None
            if error.code == "INVALID_PARAMETER_VALUE":
                raise InputError(
                    "champion.model", f"MLflow refuses the name {model!r} ({error})", "choose another"
                ) from None
            raise
        version = found.aliases.get(CHAMPION)
        return None if version is None else int(version)

    def versions(self, model: str) -> list[Version]:
        found: list[Version] = []
        token: str | None = None
        while True:
            page = self._call(
                lambda token=token: self._client.search_model_versions(  # type: ignore[misc]
                    f"name = '{quotable(model)}'", max_results=PAGE, page_token=token
                )
            )
            found.extend(_version(version) for version in page)
            token = page.token
            if not token:
                return sorted({each.number: each for each in found}.values(), key=lambda each: each.number)

    def register(
        self, model: str, run: str, path: str, tags: Mapping[str, str], description: str, logged: str | None = None
    ) -> Version:
        try:
            self._call(lambda: self._client.create_registered_model(model))
        except TrackingRefusal as error:
            if error.code != "RESOURCE_ALREADY_EXISTS":
                raise
        if logged is not None:
            source = self._call(lambda: self._client.get_logged_model(logged)).artifact_location
        else:
            source = f"{self._call(lambda: self._client.get_run(run)).info.artifact_uri}/{path}"
        version = _version(
            self._call(
                lambda: self._client.create_model_version(
                    model, source, run, dict(tags), description=description, await_creation_for=0, model_id=logged
                )
            )
        )
        if logged is not None:
            from hpo_core.tracking.models.logged import link_version

            self._call(lambda: link_version(self._client, logged, model, version.number))
        return version

    def publish(self, run: str, study_run: str, name: str, tags: Mapping[str, str]) -> str | None:
        from hpo_core.tracking.models.logged import publish  # loads what only models need

        fetch = functools.partial(self.fetch, run, MODEL)
        return self._call(lambda: publish(self._client, run, study_run, name, tags, fetch))

    def set_champion(self, model: str, number: int) -> None:
        self._call(lambda: self._client.set_registered_model_alias(model, CHAMPION, str(number)))

    def tag_version(self, model: str, number: int, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            self._call(
                lambda key=key, value=value: self._client.set_model_version_tag(model, str(number), key, value)  # type: ignore[misc]
            )

    def delete_version(self, model: str, number: int) -> None:
        self._call(lambda: self._client.delete_model_version(model, str(number)))

    def fetch_version(self, model: str, number: int, folder: Path) -> Path | None:
        uri = self._call(lambda: self._client.get_model_version_download_uri(model, str(number)))
        try:
            return Path(get_artifact_repository(uri, self.uri).download_artifacts("", str(folder)))
        except Exception as error:  # each artifact store has its own
            log.warning("version %d of the model %s cannot be fetched: %s", number, model, error)
            return None

    def _artifacts(self, run: str) -> Any:
        # The client's own methods ask for the run twice, and for its models; and none of them deletes.
        return get_artifact_repository(self._client.get_run(run).info.artifact_uri, self.uri)


def _run(run: Any) -> Run:
    return Run(
        run.info.run_id,
        run.info.experiment_id,
        run.info.run_name or "",
        run.info.status,
        run.info.start_time,
        run.info.end_time,
        run.data.params,
        run.data.metrics,
        run.data.tags,
        run.info.lifecycle_stage != "active",
    )


def _version(version: Any) -> Version:
    return Version(int(version.version), version.run_id or "", dict(version.tags))


def _as_folder(name: str) -> str:
    return re.sub(r"[^\w\-. ]", "_", name).strip(". ") or "_"

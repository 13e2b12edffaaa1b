"""MLflow behind the interface of :mod:`hpo_core.store`. Nothing else in the project imports mlflow.

MLflow's active run is thread-local and its fluent API guesses, so only ``MlflowClient`` is used, with explicit ids.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import random
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import unquote

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
from mlflow.utils.search_utils import SearchUtils

from hpo_core.errors import InputError, TrackingError, TrackingRefusal
from hpo_core.registry import CHAMPION, Version
from hpo_core.store import FAILED, FINISHED, KILLED, RUNNING, Dataset, Metric, Run

T = TypeVar("T")
log = logging.getLogger("hpo")

PAGE = 1_000
FEW = 100
"""How many runs one filter names; MLflow's parser slows down with the length of the filter."""

CREATION_SECONDS = 60.0
"""How long the tables of an empty database may take to be created by another process."""
CLAIMED = "Changing param values is not allowed"
"""How MLflow says that a param holds another value; its error code is shared with other mistakes."""

_TRANSIENT_CODES = {"TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED", "INTERNAL_ERROR"}
_TRANSIENT_TEXT = re.compile(
    r"API request to .* failed with (exception|error code 5\d\d)|Max retries exceeded|"
    r"database is locked|Connection refused|response code: 5\d\d",
    re.DOTALL,
)


def redact(uri: str) -> str:
    """The URI without user and password, for messages, logs and runs.

    >>> redact("https://me:secret@mlflow.example/api")
    'https://***@mlflow.example/api'
    """
    if uri.startswith(("sqlite:", "file:")):
        return uri
    # Not by urllib: a password may hold what an address may not.
    return _SECRET_SETTING.sub(r"\1***", re.sub(r"(?s)(?<=://).*@", "***@", uri))


_SECRET_SETTING = re.compile(r"([?&][^=&]*(?:password|secret|token)[^=&]*=)[^&]*", re.IGNORECASE)


def without_credentials(uri: str) -> str:
    """The URI as it leads to the same place without user, password and settings that are secret.

    >>> without_credentials("https://me:secret@mlflow.example/api")
    'https://mlflow.example/api'
    """
    plain = re.sub(r"(?s)(?<=://).*@", "", uri)
    return re.sub(r"(?<=\?)&", "", _SECRET_SETTING.sub("", plain)).rstrip("?")


def scrub(text: object, uri: str) -> str:
    """A message without the secrets of an address, whatever part of it the message quotes.

    >>> scrub("cannot parse 'me:secret@host' of http://me:secret@host/api", "http://me:secret@host")
    "cannot parse '***@host' of http://***@host/api"
    """
    message = str(text).replace(uri, redact(uri))
    if (shown := redact(uri)) == uri:
        return message
    credentials = uri.partition("://")[2].rpartition("@")[0]
    settings = [setting.partition("=")[2] for setting in re.split("[?&]", uri) if setting not in shown]
    user, *password = re.split("[:/@?#]", credentials)
    words = [*password, *settings] if password else [user, *settings]
    for secret in [credentials, *sorted(words, key=len, reverse=True)]:
        for form in (secret, unquote(secret)):
            if len(form) > 3:
                message = message.replace(form, "***")
    return message


def _is_transient(error: Exception) -> bool:
    if isinstance(
        error,
        requests.ConnectionError | requests.Timeout | sqlalchemy.exc.OperationalError | ConnectionError | TimeoutError,
    ):
        return True
    if isinstance(error, MlflowException):
        return error.error_code in _TRANSIENT_CODES or bool(_TRANSIENT_TEXT.search(str(error)))
    return False


class MlflowStore:
    """The MLflow tracking store at a URI.

    Args:
        uri: ``http(s)://...``, ``sqlite:///...`` or ``postgresql://...``.
        artifact_root: Where a new experiment keeps its artifacts, if the store itself does not decide (a server does).
        patience: Seconds for which a store that does not answer is asked again before TrackingError is raised.
    """

    def __init__(self, uri: str, artifact_root: Path | None = None, patience: float = 1800.0) -> None:
        self.uri, self.artifact_root, self.patience = uri, artifact_root, patience
        try:
            if re.match(r"(postgresql|mysql|mssql)[+:]", uri):
                self._call(self._reach)
            self._client = self._call(self._connect)
        except (ValueError, ImportError, sqlalchemy.exc.ArgumentError) as error:
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
        """The same store, asked again for so many seconds only."""
        other = copy.copy(self)
        other.patience = patience
        return other

    def _call(self, request: Callable[[], T]) -> T:
        deadline, pause = time.monotonic() + self.patience, 0.05
        while True:
            try:
                return request()
            except Exception as error:
                if not _is_transient(error):
                    message = scrub(error, self.uri)
                    if isinstance(error, MlflowException):
                        raise TrackingRefusal(error.error_code, message) from None
                    if message != str(error):
                        raise TrackingError(f"{type(error).__name__}: {message}") from None
                    raise
                if time.monotonic() + pause > deadline:
                    reason = scrub(error, self.uri).strip().splitlines()[0][:300]
                    raise TrackingError(
                        f"the MLflow store {redact(self.uri)} does not answer: {reason}; start the server, or correct "
                        "MLFLOW_TRACKING_URI"
                    ) from None
                if pause > 2:
                    log.warning("the MLflow store %s does not answer; asking again", redact(self.uri))
                time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  (spreads waiting flows; proposals do not see it)
                pause = min(2 * pause, 5.0)

    def ping(self) -> None:
        """Ask for next to nothing, to see whether the store answers."""
        self._call(lambda: self._client.search_experiments(max_results=1))

    def experiment(self, name: str, *, create: bool) -> str | None:
        found = self._call(lambda: self._client.get_experiment_by_name(name))
        if found is None:
            if not create:
                return None
            root = self.artifact_root
            location = None if root is None else (root / _as_folder(name)).absolute().as_uri()
            tags = {"mlflow.experimentKind": "custom_model_development"}  # opens the UI on runs, not on traces
            try:
                return str(self._call(lambda: self._client.create_experiment(name, location, tags)))
            except TrackingRefusal as error:
                if error.code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self._call(lambda: self._client.get_experiment_by_name(name))
                assert found is not None
        if found.lifecycle_stage != "active":
            raise InputError(
                "experiment",
                f"{name!r} was deleted in MLflow",
                f"restore it (mlflow experiments restore --experiment-id {found.experiment_id}) or choose another name",
            )
        return str(found.experiment_id)

    def experiments(self) -> list[str]:
        found: list[str] = []
        token: str | None = None
        while True:
            page = self._call(
                lambda token=token: self._client.search_experiments(max_results=PAGE, page_token=token)  # type: ignore[misc]
            )
            found.extend(str(experiment.experiment_id) for experiment in page)
            token = page.token
            if not token:
                return found

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
        self._call(lambda: self._client.log_batch(run, *batch))

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

    def get(self, run: str) -> Run:
        return _run(self._call(lambda: self._client.get_run(run)))

    def search(
        self,
        experiments: Sequence[str],
        tags: Mapping[str, str],
        since: int | None = None,
        *,
        ids: Sequence[str] | None = None,
        trash: bool = False,
    ) -> list[Run]:
        terms = _terms(tags)
        if since is not None:
            terms.append(f"attributes.start_time >= {since}")
        if trash:
            terms.append(f"attributes.status != '{RUNNING}'")
        view = entities.ViewType.DELETED_ONLY if trash else entities.ViewType.ACTIVE_ONLY
        if ids is None:
            return self._pages(experiments, terms, view)
        found: list[Run] = []
        for i in range(0, len(ids), FEW):
            named = ", ".join(f"'{_quotable(id)}'" for id in ids[i : i + FEW])
            found += self._pages(experiments, [*terms, f"attributes.run_id IN ({named})"], view)
        return sorted(found, key=lambda run: run.start)

    def find(self, experiments: Sequence[str], query: str, field: str) -> list[Run]:
        try:
            return self._pages(experiments, [query] if query else [], entities.ViewType.ACTIVE_ONLY)
        except TrackingRefusal as error:
            if error.code != "INVALID_PARAMETER_VALUE":
                raise
            remedy = "write it as for MLflow's search_runs: metrics.accuracy > 0.9 and params.model = 'cnn'"
            raise InputError(field, f"MLflow does not understand the query {query!r} ({error})", remedy) from None

    def _pages(self, experiments: Sequence[str], terms: Sequence[str], view: str) -> list[Run]:
        runs: list[Run] = []
        token: str | None = None
        while True:
            # Tokens are offsets: with writers active only an order that new runs extend at the end loses none.
            page = self._call(
                lambda token=token: self._client.search_runs(  # type: ignore[misc]
                    list(experiments), " and ".join(terms), view, PAGE, ["attributes.start_time ASC"], token
                )
            )
            runs.extend(_run(run) for run in page)
            token = page.token
            if not token:
                return list({run.id: run for run in runs}.values())

    def has_exactly(self, count: int, experiments: Sequence[str], tags: Mapping[str, str], before: int) -> bool:
        terms = [*_terms(tags), f"attributes.start_time < {before}"]
        # MLflow does not count. But its page tokens are offsets, and after `count - 1` runs there must be just one.
        token = SearchUtils.create_page_token(count - 1).decode()
        order = ["attributes.start_time ASC"]
        try:
            page = self._call(
                lambda: self._client.search_runs(
                    list(experiments), " and ".join(terms), max_results=2, order_by=order, page_token=token
                )
            )
        except TrackingRefusal:
            return False  # a server whose tokens are something else
        return len(page) == 1

    def upload(self, run: str, path: Path, folder: str) -> None:
        def copy() -> None:
            if path.is_dir():
                self._client.log_artifacts(run, str(path), folder)
            else:
                self._client.log_artifact(run, str(path), folder)

        self._call(copy)

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
                    f"name = '{_quotable(model)}'", max_results=PAGE, page_token=token
                )
            )
            found.extend(_version(version) for version in page)
            token = page.token
            if not token:
                return sorted({each.number: each for each in found}.values(), key=lambda each: each.number)

    def register(self, model: str, run: str, path: str, tags: Mapping[str, str], description: str) -> Version:
        try:
            self._call(lambda: self._client.create_registered_model(model))
        except TrackingRefusal as error:
            if error.code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{self._call(lambda: self._client.get_run(run)).info.artifact_uri}/{path}"
        return _version(
            self._call(
                lambda: self._client.create_model_version(
                    model, source, run, dict(tags), description=description, await_creation_for=0
                )
            )
        )

    def crown(self, model: str, number: int) -> None:
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


def save_model(model: Any, path: Path, example: Any) -> None:
    """Write a trained model as MLflow keeps models: with signature and input example, fit for ``mlflow models serve``.

    Args:
        model: A Keras model or a scikit-learn estimator.
        path: The folder to write.
        example: A few rows of input.

    Raises:
        TypeError: The model is neither.
    """
    package = _package_of(model)
    if package is None:
        raise TypeError(f"{type(model).__name__!r} is neither a Keras model nor a scikit-learn estimator")
    from mlflow.models import infer_signature  # loads half of MLflow, which whoever only reads runs need not wait for

    path.mkdir(parents=True)  # for Keras, MLflow writes the example before it makes the folder
    # Found out by itself, they would take MLflow a process that loads the model and watches what it imports.
    needed = [f"{name}=={version(name)}" for name in ("tensorflow" if package == "keras" else "scikit-learn", "numpy")]
    settings: dict[str, Any] = {"input_example": example, "pip_requirements": needed}
    if package == "keras":
        import mlflow.keras

        settings["signature"] = infer_signature(example, model.predict(example, verbose=0))
        mlflow.keras.save_model(model, str(path), **settings)
    else:
        import mlflow.sklearn

        logging.getLogger("mlflow.sklearn").setLevel(logging.ERROR)  # it warns of pickle at every model
        settings["signature"] = infer_signature(example, model.predict(example))
        mlflow.sklearn.save_model(model, str(path), serialization_format="cloudpickle", **settings)


def load_model(path: Path) -> Any:
    """A model from a folder as MLflow keeps models: scikit-learn's and Keras' as themselves, others as MLflow's pyfunc.

    A scikit-learn model is a pickle: loading it runs code of whoever could write it.
    """
    from mlflow.models import Model

    flavors = Model.load(str(path)).flavors
    if "keras" in flavors or "tensorflow" in flavors:
        import mlflow.keras as flavor
    elif "sklearn" in flavors:
        import mlflow.sklearn as flavor
    else:
        import mlflow.pyfunc as flavor
    return flavor.load_model(str(path))


def _package_of(model: Any) -> str | None:
    """``keras`` or ``sklearn``, whose class the model's class descends from; without importing either."""
    packages = [base.__module__.partition(".")[0] for base in type(model).__mro__]
    return next((package for package in packages if package in ("keras", "sklearn")), None)


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
    )


def _version(version: Any) -> Version:
    return Version(int(version.version), version.run_id or "", dict(version.tags))


def _terms(tags: Mapping[str, str]) -> list[str]:
    return [f"tags.`{key}` = '{_quotable(value)}'" for key, value in tags.items()]


def _quotable(value: str) -> str:
    """A value that may stand between single quotes in a filter; MLflow's filter language cannot escape any."""
    if "'" in value or "\\" in value:
        raise InputError("name", f"{value!r} cannot stand in a search of MLflow", "choose one without quotes")
    return value


def _as_folder(name: str) -> str:
    return re.sub(r"[^\w\-. ]", "_", name).strip(". ") or "_"

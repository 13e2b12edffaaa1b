"""Reads from an MLflow server over its REST API, https://mlflow.org/docs/latest/api_reference/rest-api.html."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from hpo_core.ledger.store import Metric, Run
from hpo_core.tracking.credentials import redact, scrub
from hpo_core.tracking.reading import ReadingStore
from hpo_core.tracking.rest_session import RestSession
from hpo_core.tracking.searches import OLDEST_FIRST, PAGE, Searches

if TYPE_CHECKING:
    from hpo_core.tracking.mlflow_store import MlflowStore

T = TypeVar("T")

log = logging.getLogger("hpo")

API = "/api/2.0/mlflow"

ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"

PROXIED = "mlflow-artifacts:/"
"""How the address of artifacts begins that the server itself hands out. A second slash would name another server."""


class RestStore(ReadingStore, Searches):
    """The tracking store of a server.

    Args:
        uri: ``http(s)://...``.
        connect: Opens the store by MLflow's client; told whether the store has responded before.
    """

    def __init__(self, uri: str, connect: Callable[[bool], MlflowStore]) -> None:
        super().__init__(uri, connect)
        self._session = RestSession(uri)

    def experiment(self, name: str, *, create: bool, restore: bool = False, unlisted: bool = False) -> str | None:
        if not (create or restore or unlisted):
            found = self._ask("GET", "experiments/get-by-name", {"experiment_name": name}, lambda it: it["experiment"])
            if found is not None and found.get("lifecycle_stage") == "active":
                return str(found["experiment_id"])
        return self.mlflow.experiment(name, create=create, restore=restore, unlisted=unlisted)

    def experiments_page(self, token: str | None) -> tuple[list[str], str | None]:
        def read(it: Any) -> tuple[list[str], str | None]:
            ids = [str(experiment["experiment_id"]) for experiment in it.get("experiments", [])]
            return ids, it.get("next_page_token")

        fields = _given(max_results=PAGE, view_type="ACTIVE_ONLY", page_token=token)
        return self._ask("POST", "experiments/search", fields, read) or self.mlflow.experiments_page(token)

    def runs_page(
        self, experiments: Sequence[str], query: str, size: int, token: str | None = None, *, trash: bool = False
    ) -> tuple[list[Run], str | None]:
        fields = _given(
            experiment_ids=list(experiments),
            filter=query,
            run_view_type="DELETED_ONLY" if trash else "ACTIVE_ONLY",
            max_results=size,
            order_by=OLDEST_FIRST,
            page_token=token,
        )
        found = self._ask(
            "POST", "runs/search", fields, lambda it: (list(map(_run, it.get("runs", []))), it.get("next_page_token"))
        )
        return found or self.mlflow.runs_page(experiments, query, size, token, trash=trash)

    def get(self, run: str) -> Run:
        return self._ask("GET", "runs/get", {"run_id": run}, lambda it: _run(it["run"])) or self.mlflow.get(run)

    def claim(self, run: str, key: str, value: str) -> bool:
        fields = {"run_id": run, "key": key, "value": value}
        return self._ask("POST", "runs/log-parameter", fields, lambda it: True) or self.mlflow.claim(run, key, value)

    def log(self, run: str, metrics: Sequence[Metric], params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        fields = {"run_id": run, "tags": [{"key": key, "value": value} for key, value in tags.items()]}
        if metrics or params or not self._ask("POST", "runs/log-batch", fields, lambda it: True):
            self.mlflow.log(run, metrics, params, tags)

    def download(self, run: str, path: str) -> bytes | None:
        place = self._ask("GET", "runs/get", {"run_id": run}, lambda it: str(it["run"]["info"]["artifact_uri"])) or ""
        if place.startswith(PROXIED) and not place.startswith(f"{PROXIED}/"):
            try:
                answer = self._session.request("GET", f"{ARTIFACTS}/{quote(place.removeprefix(PROXIED))}/{quote(path)}")
            except Exception as error:
                self._leave(error)
            else:
                if answer.status_code == 200:
                    return answer.content
                if answer.status_code == 404:  # most runs have no model
                    return None
        return self.mlflow.download(run, path)

    def _ask(self, method: str, path: str, fields: Mapping[str, Any], read: Callable[[Any], T]) -> T | None:
        """What a request brings, as ``read`` understands the answer; None if MLflow's client has to ask."""
        try:
            answer = self._session.request(method, f"{API}/{path}", dict(fields))
            if answer.status_code != 200:
                raise LookupError(f"status {answer.status_code}")
            found = read(json.loads(answer.text))
        except Exception as error:  # whatever it is: MLflow's client meets it again, and says so as ever
            self._leave(error)
            return None
        self._answered = True
        return found

    def _leave(self, error: Exception) -> None:
        log.debug("MLflow's client has to ask %s: %s", redact(self.uri), scrub(error, self.uri))


def _given(**fields: Any) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}


def _run(found: Any) -> Run:
    info, data = found["info"], found.get("data", {})
    return Run(
        info["run_id"],
        info["experiment_id"],
        info.get("run_name", ""),
        info["status"],
        int(info["start_time"]),
        int(info.get("end_time", 0)) or None,
        {param["key"]: param["value"] for param in data.get("params", [])},
        {metric["key"]: float(metric["value"]) for metric in data.get("metrics", [])},
        {tag["key"]: tag["value"] for tag in data.get("tags", [])},
        info["lifecycle_stage"] != "active",
    )

"""Makes a model that a run holds as an artifact one of MLflow's logged models: what its *Models* page shows.

A logged model has files of its own, so they are copied. Only the model that a study ends with becomes one.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlflow.entities as entities
from mlflow import MlflowClient
from mlflow.models import Model

from hpo_core.ledger.tags import HIDDEN

FILE = "MLmodel"

VERSIONS = "mlflow.modelVersions"
"""The tag of a logged model by which MLflow's UI knows the versions that were registered from it."""


def publish(
    client: MlflowClient,
    run_id: str,
    study_run: str,
    name: str,
    tags: Mapping[str, str],
    fetch: Callable[[Path], Path | None],
) -> str | None:
    """Copy the model of a run into a new logged model, with the run's params, metrics and data set.

    Args:
        client: MLflow.
        run_id: The run.
        study_run: The study's run, under which the model is shown, too.
        name: The model's name; characters that MLflow refuses are replaced.
        tags: The model's tags.
        fetch: Copies the run's model into a folder, and returns where it is; None if there is none.

    Returns:
        The id of the logged model; None if the run has no model.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = fetch(Path(folder))
        if found is None or not (found / FILE).is_file():
            return None
        run = client.get_run(run_id)
        model = client.create_logged_model(
            run.info.experiment_id,
            re.sub("[/:.%\"']", "-", name),
            source_run_id=run_id,
            tags=dict(tags),
            params=dict(run.data.params),
        )
        try:
            _adopt(found / FILE, model)
            client.log_model_artifacts(model.model_id, str(found))
        except Exception:
            client.finalize_logged_model(model.model_id, entities.LoggedModelStatus.FAILED)
            raise
    client.finalize_logged_model(model.model_id, entities.LoggedModelStatus.READY)
    for each in dict.fromkeys((run_id, study_run)):
        client.log_outputs(each, [entities.LoggedModelOutput(model.model_id, step=0)])
    # The same points again, which changes nothing in the run.
    own = [metric for metric in run.to_proto().data.metrics if not metric.key.startswith(HIDDEN)]
    client.log_batch(run_id, [_of_model(metric, model.model_id, run) for metric in own])
    return str(model.model_id)


def link_version(client: MlflowClient, model_id: str, name: str, number: int) -> None:
    """Let the logged model name a version that was registered from it. A server does that itself, a database not."""
    known = json.loads(client.get_logged_model(model_id).tags.get(VERSIONS, "[]"))
    version = {"name": name, "version": number}
    if not any(each["name"] == name and int(each["version"]) == number for each in known):
        client.set_logged_model_tags(model_id, {VERSIONS: json.dumps([*known, version])})


def _adopt(file: Path, model: Any) -> None:
    """Write into the model's files which logged model they are."""
    described = Model.load(str(file))
    described.model_id = described.model_uuid = model.model_id
    described.artifact_path, described.run_id = model.artifact_location, model.source_run_id
    described.save(str(file))


def _of_model(metric: Any, model_id: str, run: Any) -> entities.Metric:
    inputs = run.inputs.dataset_inputs if run.inputs is not None else []
    data = inputs[0].dataset if inputs else None
    return entities.Metric(
        metric.key,
        metric.value,
        metric.timestamp,
        metric.step,
        model_id=model_id,
        dataset_name=None if data is None else data.name,
        dataset_digest=None if data is None else data.digest,
        run_id=run.info.run_id,
    )

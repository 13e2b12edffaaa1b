"""Has the model that a study ends with shown on MLflow's *Models* page, as one of its logged models."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.tags import MODEL_KEPT, Tag

log = logging.getLogger("hpo")

ORIGIN = ("mlflow.source.", "mlflow.user")
"""What the model's page shows of where it was logged from."""


def publish_model(ledger: Ledger, runs: Sequence[str]) -> str | None:
    """Make the model of the first of these runs that has one a logged model, unless it is one.

    Nothing depends on it: if MLflow refuses, there is a warning, and the run still has its model.

    Returns:
        The id of the logged model; None if there is none.
    """
    store, study = ledger.store.with_patience(5.0), ledger.study_run
    try:
        for id in runs:
            run = store.get(id)
            if (known := run.tags.get(Tag.LOGGED_MODEL)) is not None:
                return known
            if run.tags.get(Tag.MODEL) != MODEL_KEPT:
                continue
            number = run.tags.get(Tag.TRIAL, run.tags.get(Tag.NUMBER, ""))
            tags = {key: text for key, text in run.tags.items() if key.startswith(ORIGIN)}
            tags |= {Tag.STUDY: ledger.spec.name, Tag.STUDY_RUN: study.id, Tag.TRIAL: number}
            if (model := store.publish(id, study.id, ledger.spec.name, tags)) is not None:
                for each in (id, study.id):
                    store.log(each, [], {}, {Tag.LOGGED_MODEL: model})
                return model
    except Exception as error:  # each artifact store has its own
        log.warning("%s: its model is not among MLflow's logged models: %s", ledger.spec.name, error)
    return None

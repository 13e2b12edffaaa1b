"""The flow of a deployment: one run of a study, from its file, in whatever process and folder Prefect starts it.

A Prefect worker or ``hpo serve`` imports this module in a fresh process. The function opens the study and hands over to
:func:`flows.api.run`, whose flow is the one subflow.
"""

from __future__ import annotations

import os
from pathlib import Path

from prefect import flow, get_run_logger

from flows.flow_runs import held
from flows.objective import search_path


@flow(name="scheduled-study", persist_result=False)
def run_scheduled(study: str, overrides: list[str] | None = None) -> str:
    """Run a study until a stop rule holds: new, resumed, extended, or of a new date, as its file and MLflow say.

    Args:
        study: The study file, from the folder in which the flow is started.
        overrides: ``key=value`` each, as for ``hpo tune --set``.

    Returns:
        Why no further trial was started.

    Raises:
        RuntimeError: No trial gave a value.
    """
    from flows.api import open_ledger, run
    from flows.objective import Objective
    from hpo_core.study import load_study

    logger = get_run_logger()
    with held():
        spec = load_study(Path(study), overrides or [])
        objective = Objective(spec.objective, search_path(study))
        objective.precheck()
        logger.info("study file %s in %s", study, os.getcwd())
        ledger = open_ledger(spec, announce=logger.info, tell=logger.info, path=objective.path)
        result = run(ledger, objective)
    if result.best is None:
        raise RuntimeError(f"{ledger.spec.name}: no trial gave a value; {result.reason}")
    logger.info("%s: %s; best is trial %d", ledger.spec.name, result.reason, result.best.number)
    return result.reason

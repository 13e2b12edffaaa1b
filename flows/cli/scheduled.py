"""The flow of a scheduled deployment: runs a study once, from its file, in the process and folder that Prefect chooses.

A Prefect worker or ``hpo serve`` imports this module in a fresh process. The function opens the study and calls
:func:`hpo_flows.api.run`, whose flow is the only subflow. The function imports these itself, because ``hpo deploy``
only needs its signature.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from prefect import flow, get_run_logger, runtime

from hpo_core.study.file import load_study
from hpo_flows.api import open_ledger, run
from hpo_flows.loop.flow_runs import owned_flow_run
from hpo_flows.objectives.reference import Objective, search_path


def run_name() -> str:
    """The name of this flow run: the study, and when it was due, in local time."""
    due = runtime.flow_run.scheduled_start_time.astimezone()
    return f"{runtime.deployment.name or Path(runtime.flow_run.parameters['study']).stem} {due:%Y-%m-%d %H:%M:%S}"


@flow(name="scheduled-study", flow_run_name=run_name, persist_result=False)
def run_scheduled(study: str, overrides: list[str] | None = None) -> str:
    """Run a study until a stop rule holds. Its file and MLflow decide whether it is new, resumed, extended or dated.

    Args:
        study: The study file, relative to the folder in which the flow is started.
        overrides: Texts ``key=value``, as for ``hpo tune --set``.

    Returns:
        Why no further trial was started.

    Raises:
        RuntimeError: No trial returned a value.
    """
    logger = get_run_logger()
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # `hpo serve` has it wait until here
    with owned_flow_run():
        spec = load_study(Path(study), overrides or [])
        objective = Objective(spec.objective, search_path(study))
        objective.precheck()
        logger.info("study file %s in %s", study, os.getcwd())
        ledger = open_ledger(spec, on_message=logger.info, path=objective.path)
        result = run(ledger, objective)
    if result.best is None:
        raise RuntimeError(f"{ledger.spec.name}: no trial gave a value; {result.reason}")
    logger.info("%s: %s; best is trial %d", ledger.spec.name, result.reason, result.best.number)
    return result.reason

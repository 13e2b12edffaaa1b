"""The flow of a scheduled deployment: runs a study once, from its file, in the process and folder that Prefect chooses.

A Prefect worker or ``hpo serve`` imports this module in a fresh process. The function opens the study and calls
:func:`hpo_flows.api.run`, whose flow is the only subflow. ``hpo deploy`` only needs the function's signature, of which
Prefect's UI makes a form.
"""

# Annotations are evaluated here: where Prefect checks a flow run's parameters, it may not find what a text refers to.

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import flow, get_run_logger, runtime
from prefect.states import Failed
from pydantic import Field

from hpo_core.base.errors import InputError, StudyFailed, TrackingRefusal, Unreachable
from hpo_core.base.extras import missing_extra
from hpo_core.strategies.make import STRATEGIES
from hpo_core.study.file import load_study
from hpo_flows.api import open_ledger, run
from hpo_flows.cli.common import overrides_of
from hpo_flows.loop.flow_runs import owned_flow_run
from hpo_flows.objectives.reference import Objective, search_path
from hpo_flows.prefect import load_tracking

StrategyName: Any = Literal[tuple(["", *STRATEGIES])]  # the form lists them

TOLD_OF = ["finished", "failed"]
"""What an address in the form is told of."""


def run_name() -> str:
    """The name of this flow run: the study, and when it was due, in local time."""
    due = runtime.flow_run.scheduled_start_time.astimezone()
    return f"{runtime.deployment.name or Path(runtime.flow_run.parameters['study']).stem} {due:%Y-%m-%d %H:%M:%S}"


@flow(name="scheduled-study", flow_run_name=run_name, persist_result=False)
def run_scheduled(
    study: str,
    trials: str = "",
    parallel: Annotated[int, Field(ge=1)] | None = None,
    strategy: StrategyName = "",
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None,
    notify: str = "",
    tracking: str = "",
    overrides: list[str] | None = None,
) -> Any:
    """Run a study until a stop rule holds. Its file and MLflow decide whether it is new, resumed, extended or dated.

    Args:
        study: The study file, relative to the folder in which the flow is started.
        trials: How many trials the study is to have, such as 40; +20 for 20 more. Empty: as in the file.
        parallel: Trials at a time. None: as in the file.
        strategy: A strategy with its own defaults. Empty: as in the file.
        seed: Of the further proposals and trainings. None: as in the file.
        notify: An address that is told how the study ends, instead of those in the file: https://..., or ${NAME} for
            an environment variable of the worker, if the address is a secret.
        tracking: The name of a block "MLflow Tracking" with the tracking server and its credentials. Empty: the
            worker's environment names the server.
        overrides: Other keys of the study file, as key=value each, such as stop.minutes=5.

    Returns:
        Why no further trial was started; or a failed state, whose message is the error.
    """
    logger = get_run_logger()
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # `hpo serve` has it wait until here
    named = overrides_of((), trials=trials or None, parallel=parallel, strategy=strategy or None, seed=seed)
    if notify:
        named.append(f"notify={json.dumps({'on': TOLD_OF, 'url': notify})}")
    # What is filled in for one run replaces what its deployment was made with.
    own = [each.partition("=")[0] for each in named]
    replaced = [
        each for each in overrides or () if any(f"{each.partition('=')[0]}.".startswith(f"{key}.") for key in own)
    ]
    if replaced:
        logger.info("instead of %s: %s", ", ".join(replaced), ", ".join(named))
    chosen = [*(each for each in overrides or () if each not in replaced), *named]
    try:
        with owned_flow_run(), _tracking(tracking):
            spec = load_study(Path(study), chosen)
            objective = Objective(spec.objective, search_path(study))
            objective.precheck()
            logger.info("study file %s in %s", study, os.getcwd())
            ledger = open_ledger(spec, on_message=logger.info, path=objective.path)
            result = run(ledger, objective)
    except Exception as error:
        shown = missing_extra(error) or error
        if isinstance(shown, InputError | StudyFailed | TrackingRefusal | Unreachable):
            return Failed(message=str(shown))
        raise
    if result.best is None:
        return Failed(message=f"{ledger.spec.name}: no trial gave a value; {result.reason}")
    logger.info("%s: %s; best is trial %d", ledger.spec.name, result.reason, result.best.number)
    return result.reason


def _tracking(block: str) -> contextlib.AbstractContextManager[None]:
    """The tracking server of a block, or the one that the environment names."""
    if not block:
        return contextlib.nullcontext()
    return load_tracking(block).in_force()

"""Chooses the engine that trains a study's trials on other machines, and checks that they can reach MLflow.

Each engine is imported only if a study names it: Dask and Ray are optional packages, and heavy.
"""

from __future__ import annotations

from collections.abc import Callable

from hpo_core.base.errors import InputError
from hpo_core.base.extras import require
from hpo_core.study.spec import StudySpec
from hpo_flows.trials.remote.runner import Runner

PACKAGES = {"dask": ("distributed", "prefect_dask"), "ray": ("ray", "prefect_ray")}


def make_runner(spec: StudySpec) -> Runner | None:
    """The engine that a study asks for; None if the flow's own worker processes train its trials.

    Raises:
        InputError: A package that the engine needs is not installed.
    """
    runner = spec.runner
    for package in PACKAGES.get(runner.type, ()):
        require(package, "runner.type")
    made: Callable[[StudySpec], Runner]
    if runner.type == "dask":
        from hpo_flows.trials.remote.dask import DaskRunner as made
    elif runner.type == "ray":
        from hpo_flows.trials.remote.ray import RayRunner as made
    elif runner.type == "deployment":
        from hpo_flows.trials.remote.deployment import DeploymentRunner as made
    else:
        return None
    return made(spec)


def check_store(spec: StudySpec, uri: str) -> None:
    """Check that other machines can reach MLflow at this address.

    Raises:
        InputError: The store is a file on this machine.
    """
    if spec.runner.elsewhere and not uri.startswith(("http://", "https://", "postgresql", "mysql", "mssql")):
        raise InputError(
            "runner.type",
            f"{spec.runner.type!r} trains on other machines, which cannot reach {uri}",
            "start a tracking server (python -m mlflow_server up) and set MLFLOW_TRACKING_URI to its address",
        )

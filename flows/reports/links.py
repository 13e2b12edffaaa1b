"""Builds addresses of pages in MLflow's UI. Only a tracking server has them, so the other ones give an empty text."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from hpo_core.ledger.tags import Tag
from hpo_core.tracking.credentials import without_credentials

_WORKFLOW = {"workflowType": "machine_learning"}
"""MLflow shows experiments in one of two layouts; without this, it asks which."""


def experiments_url(uri: str) -> str:
    """The address of all experiments; empty if the tracking URI is not a server's.

    >>> experiments_url("http://host:5000")
    'http://host:5000/#/experiments?workflowType=machine_learning'
    """
    return _page(uri, "experiments", _WORKFLOW)


def run_url(uri: str, experiment: str, run: str) -> str:
    """The address of a run, without credentials; empty if the tracking URI is not a server's.

    >>> run_url("http://me:secret@host:5000/", "1", "ab")
    'http://host:5000/#/experiments/1/runs/ab?workflowType=machine_learning'
    >>> run_url("sqlite:///mlflow.db", "1", "ab")
    ''
    """
    return _page(uri, f"experiments/{experiment}/runs/{run}", _WORKFLOW)


def artifact_url(uri: str, experiment: str, run: str, path: str) -> str:
    """The address of an artifact of a run, without credentials; empty if the tracking URI is not a server's.

    >>> artifact_url("http://host:5000", "1", "ab", "report.html")
    'http://host:5000/#/experiments/1/runs/ab/artifacts/report.html?workflowType=machine_learning'
    """
    return _page(uri, f"experiments/{experiment}/runs/{run}/artifacts/{quote(path)}", _WORKFLOW)


def trials_url(
    uri: str, experiment: str, metric: str, ascending: bool, *, study: str = "", charts: bool = False
) -> str:
    """The address of trials, best first; empty if the tracking URI is not a server's.

    Args:
        uri: The tracking URI.
        experiment: The experiment's id.
        metric: What the trials are sorted by.
        ascending: Whether the lowest value is the best.
        study: Only this study's trials, should the experiment have several.
        charts: Show the metrics as curves beside the trials.

    >>> trials_url("https://host", "1", "val loss", True)  # doctest: +ELLIPSIS
    'https://host/#/experiments/1/runs?searchFilter=tags.%22hpo.role%22%20%3D%20%27trial%27&orderByKey=metrics.%60val...'
    """
    only = f" and tags.\"{Tag.STUDY}\" = '{study}'" if study else ""
    query = {
        "searchFilter": f"tags.\"{Tag.ROLE}\" = 'trial'{only}",
        "orderByKey": f"metrics.`{metric}`",
        "orderByAsc": "true" if ascending else "false",
    }
    view = {"compareRunsMode": "CHART"} if charts else {}
    return _page(uri, f"experiments/{experiment}/runs", query | _WORKFLOW | view)


def _page(uri: str, path: str, query: dict[str, str]) -> str:
    if not uri.startswith(("http://", "https://")):
        return ""
    return f"{without_credentials(uri).rstrip('/')}/#/{path}?{urlencode(query, quote_via=quote)}"

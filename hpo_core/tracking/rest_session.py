"""Sends requests to an MLflow server as MLflow's client does, if that can be done without the client.

The settings are those of ``mlflow.environment_variables`` and of the file ``~/.mlflow/credentials``.
"""

from __future__ import annotations

import base64
import os
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import requests

TIMEOUT, CONNECT_TIMEOUT = 30, 3
"""Seconds for an answer, unless ``MLFLOW_HTTP_REQUEST_TIMEOUT`` says otherwise, and for a connection."""

_SWITCH = {"true": True, "1": True, "false": False, "0": False}


class RestSession:
    """Requests with the credentials and certificates of the environment.

    Args:
        uri: The tracking URI; may have a path, user and password.

    Raises:
        Exception: A setting is not one that MLflow takes; of several classes.
    """

    def __init__(self, uri: str) -> None:
        self._server = uri.removesuffix("/")
        self._session = requests.Session()
        read = int(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", TIMEOUT))
        self._settings: dict[str, Any] = {
            "headers": {"User-Agent": "hpo-flows", **_authorization()},
            "verify": _verification(),
            "cert": os.environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH"),
            "timeout": (min(read, CONNECT_TIMEOUT), read),
            "allow_redirects": False,
        }

    def request(self, method: str, path: str, fields: dict[str, Any] | None = None) -> requests.Response:
        """Send one request; ``fields`` go into the address of a GET, and as JSON into the body of a POST."""
        body: dict[str, Any] = {"params" if method == "GET" else "json": fields}
        return self._session.request(method, self._server + path, **body, **self._settings)


def _authorization() -> dict[str, str]:
    file = ConfigParser()
    file.read(Path("~/.mlflow/credentials").expanduser())
    user, password = (
        os.environ.get(f"MLFLOW_TRACKING_{name}") or file.get("mlflow", f"mlflow_tracking_{name}", fallback=None)
        for name in ("USERNAME", "PASSWORD")
    )
    if user and password:
        return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _verification() -> bool | str:
    """What ``requests`` calls ``verify``: whether to check the server's certificate, or by which authority."""
    insecure = _SWITCH[os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "false").lower()]
    authority = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH")
    if insecure and authority is not None:
        raise ValueError("MLFLOW_TRACKING_INSECURE_TLS and MLFLOW_TRACKING_SERVER_CERT_PATH exclude each other")
    return not insecure if authority is None else authority

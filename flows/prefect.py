"""A block of Prefect's for the tracking server: its address and credentials, kept by Prefect, encrypted.

    prefect block register -m hpo_flows.prefect

Whoever loads this module loads Prefect; only what runs studies on a schedule does.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import cast

from prefect.blocks.core import Block
from prefect.exceptions import PrefectHTTPStatusError
from pydantic import ConfigDict, Field, SecretStr, field_validator, model_validator

from hpo_core.base.errors import InputError
from hpo_core.tracking.credentials import redact

URI = "MLFLOW_TRACKING_URI"

USERNAME, PASSWORD, TOKEN = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"

REGISTER = "prefect block register -m hpo_flows.prefect"


class MlflowTracking(Block):
    """An MLflow tracking server, with user and password or a token.

    Args:
        uri: The server's address, without a password.
        username, password: For basic authentication.
        token: A bearer token, instead of these.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)  # what is wrong may be a secret

    _block_type_name = "MLflow Tracking"
    _block_type_slug = "mlflow-tracking"
    _description = "An MLflow tracking server and its credentials, for studies of hpo-flows."
    _code_example = 'from hpo_flows.prefect import MlflowTracking\n\ntracking = MlflowTracking.load("BLOCK_NAME")'

    uri: str = Field(
        title="Tracking URI", description="The server's address, such as https://mlflow.example; without a password."
    )
    username: str | None = Field(None, description="For basic authentication, with a password.")
    password: SecretStr | None = Field(None, description="For basic authentication.")
    token: SecretStr | None = Field(None, description="A bearer token, instead of user and password.")

    @field_validator("uri")
    @classmethod
    def _plain(cls, value: str) -> str:
        if redact(value) != value:
            raise ValueError("the address contains a secret; give username and password, or token, on their own")
        return value

    @model_validator(mode="after")
    def _complete(self) -> MlflowTracking:
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password belong together; give both, or neither")
        if self.token is not None and self.username is not None:
            raise ValueError("MLflow takes user and password or a token; give one of the two")
        return self

    def environment(self) -> dict[str, str]:
        """The environment variables by which MLflow finds the server; they contain the secrets."""
        secrets = {PASSWORD: self.password, TOKEN: self.token}
        given = {name: secret.get_secret_value() for name, secret in secrets.items() if secret is not None}
        return {URI: self.uri, **given} | ({} if self.username is None else {USERNAME: self.username})

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        """Within this context, this process and those that it starts use this server and no other credentials."""
        names = (URI, USERNAME, PASSWORD, TOKEN)
        before = {name: os.environ.pop(name) for name in names if name in os.environ}
        os.environ.update(self.environment())
        try:
            yield
        finally:
            for name in names:
                os.environ.pop(name, None)
            os.environ.update(before)


def load_tracking(name: str) -> MlflowTracking:
    """The block of a name.

    Raises:
        InputError: Prefect does not have the block, or knows no blocks at all.
    """
    try:
        return cast(MlflowTracking, MlflowTracking.load(name))
    except (ValueError, PrefectHTTPStatusError) as error:
        why = f"Prefect has no block {MlflowTracking.get_block_type_slug()}/{name} ({str(error).splitlines()[0]})"
        raise InputError("tracking", why, f"create it in Prefect's UI (once, before: {REGISTER})") from None

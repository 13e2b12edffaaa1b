"""Removes credentials from tracking URIs and from messages that quote them."""

from __future__ import annotations

import re
from urllib.parse import unquote


def redact(uri: str) -> str:
    """The URI without user and password, for messages, logs and runs.

    >>> redact("https://me:secret@mlflow.example/api")
    'https://***@mlflow.example/api'
    """
    if uri.startswith(("sqlite:", "sqlite+", "file:")):
        return uri
    # Not with urllib: a password may contain characters that are invalid in a URL.
    return _SECRET_SETTING.sub(r"\1***", re.sub(r"(?s)(?<=://).*@", "***@", uri))


_SECRET_SETTING = re.compile(r"([?&][^=&]*(?:password|secret|token)[^=&]*=)[^&]*", re.IGNORECASE)


def without_credentials(uri: str) -> str:
    """The URI of the same place without user, password and secret settings.

    >>> without_credentials("https://me:secret@mlflow.example/api")
    'https://mlflow.example/api'
    """
    plain = re.sub(r"(?s)(?<=://).*@", "", uri)
    return re.sub(r"(?<=\?)&", "", _SECRET_SETTING.sub("", plain)).rstrip("?")


def scrub(text: object, uri: str) -> str:
    """A message without the secrets of a URI, whichever part of the URI it quotes.

    >>> scrub("cannot parse 'me:secret@host' of http://me:secret@host/api", "http://me:secret@host")
    "cannot parse '***@host' of http://***@host/api"
    """
    message = str(text).replace(uri, redact(uri))
    if (shown := redact(uri)) == uri:
        return message
    credentials = uri.partition("://")[2].rpartition("@")[0]
    settings = [setting.partition("=")[2] for setting in re.split("[?&]", uri) if setting not in shown]
    user, *password = re.split("[:/@?#]", credentials)
    words = [*password, *settings] if password else [user, *settings]
    for secret in [credentials, *sorted(words, key=len, reverse=True)]:
        for form in (secret, unquote(secret)):
            if len(form) > 3:
                message = message.replace(form, "***")
    return message

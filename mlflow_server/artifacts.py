"""Reads and writes artifacts as keys and bytes: in a folder, or in a bucket of an S3-compatible store."""

from __future__ import annotations

import contextlib
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit

from hpo_core.base.errors import InputError, TrackingError
from hpo_core.base.extras import missing_extra

DESTINATION = "MLFLOW_ARTIFACTS_DESTINATION"
ENDPOINT = "MLFLOW_S3_ENDPOINT_URL"
PAGE = 1_000
"""How many objects one request deletes at most."""


class Stored(NamedTuple):
    """A stored file: its key, a relative path with slashes, and its size in bytes."""

    key: str
    size: int


class Artifacts(ABC):
    """All artifacts of a tracking server."""

    @abstractmethod
    def stored(self) -> Iterator[Stored]:
        """All files."""

    @abstractmethod
    @contextlib.contextmanager
    def read(self, key: str) -> Iterator[tuple[int, IO[bytes]]]:
        """The size of a file and its bytes; FileNotFoundError if it is gone."""

    @abstractmethod
    def write(self, key: str, content: IO[bytes]) -> None:
        """Write a file under a key."""

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> None:
        """Delete files; those that are gone already are not an error."""

    @abstractmethod
    def prepare(self) -> None:
        """Make the folder or bucket if it is missing."""

    @property
    def empty(self) -> bool:
        return next(self.stored(), None) is None


class Folder(Artifacts):
    """Artifacts as files below a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def __str__(self) -> str:
        return str(self.path)

    def stored(self) -> Iterator[Stored]:
        for parent, folders, names in os.walk(self.path):
            folders.sort()
            for name in sorted(names):
                path = Path(parent, name)
                with contextlib.suppress(FileNotFoundError):
                    yield Stored(path.relative_to(self.path).as_posix(), path.stat().st_size)

    @contextlib.contextmanager
    def read(self, key: str) -> Iterator[tuple[int, IO[bytes]]]:
        with open(self.path / key, "rb") as content:
            yield os.fstat(content.fileno()).st_size, content

    def write(self, key: str, content: IO[bytes]) -> None:
        path = self.path / key
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as output:
            shutil.copyfileobj(content, output)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            path = self.path / key
            path.unlink(missing_ok=True)
            for folder in path.parents:
                if folder == self.path or not folder.exists() or any(folder.iterdir()):
                    break
                folder.rmdir()

    def prepare(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)


class Bucket(Artifacts):
    """Artifacts as objects of an S3-compatible store, below a prefix; credentials as boto3 finds them.

    Args:
        uri: ``s3://bucket`` or ``s3://bucket/prefix``.
        environment: Where ``MLFLOW_S3_ENDPOINT_URL`` and ``AWS_...`` stand.
    """

    def __init__(self, uri: str, environment: Mapping[str, str]) -> None:
        parts = urlsplit(uri)
        self.uri, self.name, prefix = uri, parts.netloc, parts.path.strip("/")
        if not self.name:
            raise InputError(DESTINATION, f"{uri!r} names no bucket", "write s3://bucket or s3://bucket/prefix")
        self.prefix = f"{prefix}/" if prefix else ""
        self._client = _client(environment)

    def __str__(self) -> str:
        return self.uri

    def stored(self) -> Iterator[Stored]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=self.prefix)
        with self._explained():
            for page in pages:
                for each in page.get("Contents", ()):
                    yield Stored(each["Key"].removeprefix(self.prefix), each["Size"])

    @contextlib.contextmanager
    def read(self, key: str) -> Iterator[tuple[int, IO[bytes]]]:
        with self._explained():
            found = self._client.get_object(Bucket=self.name, Key=self.prefix + key)
        with contextlib.closing(found["Body"]) as body:
            yield found["ContentLength"], body

    def write(self, key: str, content: IO[bytes]) -> None:
        with self._explained():
            self._client.upload_fileobj(content, self.name, self.prefix + key)

    def delete(self, keys: Iterable[str]) -> None:
        named = [{"Key": self.prefix + key} for key in keys]
        for i in range(0, len(named), PAGE):
            with self._explained():
                done = self._client.delete_objects(Bucket=self.name, Delete={"Objects": named[i : i + PAGE]})
            if errors := done.get("Errors"):
                raise TrackingError(f"{self.uri}: {errors[0].get('Message') or errors[0].get('Code')}")

    def prepare(self) -> None:
        from botocore.exceptions import ClientError

        with self._explained():
            try:
                self._client.head_bucket(Bucket=self.name)
            except ClientError as error:
                if str(error.response["Error"]["Code"]) not in ("404", "NoSuchBucket"):
                    raise
                self._client.create_bucket(Bucket=self.name)

    def check(self) -> None:
        """Check that the bucket exists and that the credentials give access to it.

        Raises:
            InputError: It is not, or they do not.
            TrackingError: The store does not respond.
        """
        with self._explained():
            self._client.head_bucket(Bucket=self.name)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        try:
            yield
        except NoCredentialsError:
            raise InputError(
                "AWS_ACCESS_KEY_ID", "no credentials for the S3 store", "set it in the environment"
            ) from None
        except ClientError as error:
            code = str(error.response["Error"]["Code"])
            if code == "NoSuchKey":
                raise FileNotFoundError(str(error)) from None
            if code in ("404", "NoSuchBucket"):
                raise InputError(DESTINATION, f"there is no bucket {self.name!r}", "make it, or correct it") from None
            if code in ("401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"):
                problem = f"the S3 store refuses bucket {self.name!r} to these credentials ({code})"
                raise InputError("AWS_ACCESS_KEY_ID", problem, "correct it and AWS_SECRET_ACCESS_KEY") from None
            raise TrackingError(f"the S3 store behind {self.uri} refuses: {error}") from None
        except BotoCoreError as error:
            raise TrackingError(f"the S3 store behind {self.uri} does not respond: {error}") from None


def _client(environment: Mapping[str, str]) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise missing_extra(error, DESTINATION) or error from None
    endpoint = environment.get(ENDPOINT)
    settings = Config(
        connect_timeout=5, retries={"total_max_attempts": 3}, s3={"addressing_style": "path"} if endpoint else {}
    )
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=environment.get("AWS_ACCESS_KEY_ID"),
        aws_secret_access_key=environment.get("AWS_SECRET_ACCESS_KEY"),
        region_name=environment.get("AWS_DEFAULT_REGION", "us-east-1" if endpoint else None),
        config=settings,
    )


def checked_key(key: str) -> str:
    """The key, if it does not lead outside the artifacts.

    Raises:
        InputError: It would.
    """
    path = PurePosixPath(key)
    if not key or path.is_absolute() or ".." in path.parts:
        raise InputError("archive", f"{key!r} is not the path of an artifact", "it was not made by `backup`")
    return key

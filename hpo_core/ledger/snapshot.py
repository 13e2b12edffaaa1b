"""Packs the finished runs of a study into one small file, which saves a new process from reading each from MLflow.

The file is gzip over lines of JSON: a header with the format, the study and how many runs there are; the runs, a number
of them in each line, so that no more than these are in memory twice; the ids of the other runs; and the checksum of the
lines between. It is a cache: if anything is wrong with it, :func:`unpack` returns None and the caller reads MLflow.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any

from hpo_core.ledger.store import Run

FORMAT, EARLIER_FORMAT = "hpo-snapshot-2", "hpo-snapshot-1"
"""The earlier one has the runs and the other ids in one line, and the checksum in the header."""

A_LINE = 1_000
"""How many runs a line holds."""

MAX_BYTES = 1 << 30
"""Limit on the unpacked size: anything larger is not our snapshot and would exhaust memory."""

GZIP = 16 + zlib.MAX_WBITS


@dataclass(frozen=True)
class Snapshot:
    """What was known of a study at one point in time.

    Args:
        study: The id of the study's run.
        runs: The runs that can no longer change, in any order.
        others: The ids of all other runs below the study; they may have changed since, so read them again.
    """

    study: str
    runs: Sequence[Run]
    others: Sequence[str] = ()


def pack(snapshot: Snapshot) -> bytes:
    """The snapshot as bytes; equal snapshots give equal bytes.

    >>> run = Run("r1", "1", "a-0000", "FINISHED", 1, 2, {"x": "0.5"}, {"loss": 0.1}, {"hpo.number": "0"})
    >>> unpack(pack(Snapshot("s", [run], ["r2"]))) == Snapshot("s", [run], ["r2"])
    True
    """
    packer = zlib.compressobj(6, wbits=GZIP)  # unlike gzip.compress, writes no timestamp
    packed, checksum = [], hashlib.sha256()

    def add(line: Any) -> None:
        text = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        checksum.update(text)
        packed.append(packer.compress(text))

    header = {"format": FORMAT, "study": snapshot.study, "runs": len(snapshot.runs)}
    packed.append(packer.compress(json.dumps(header).encode() + b"\n"))
    for start in range(0, len(snapshot.runs), A_LINE):
        add(_line(snapshot.runs[start : start + A_LINE]))
    add(list(snapshot.others))
    packed.append(packer.compress(json.dumps(checksum.hexdigest()).encode()))
    return b"".join([*packed, packer.flush()])


def unpack(data: bytes) -> Snapshot | None:
    """The inverse of :func:`pack`; None if the bytes are damaged, truncated, of another version or not a snapshot.

    >>> unpack(b"not a snapshot") is None
    True
    """
    try:
        with gzip.open(io.BytesIO(data)) as file:
            return _read(file)
    except (OSError, EOFError, zlib.error, ValueError, TypeError, KeyError, RecursionError, MemoryError):
        return None


def _line(runs: Sequence[Run]) -> list[Any]:
    """Some runs as JSON: the tags that all of them have, which are many, and a row for each run."""
    common = set(runs[0].tags.items()).intersection(*(run.tags.items() for run in runs[1:]))

    def row(run: Run) -> list[Any]:
        own = {key: text for key, text in run.tags.items() if (key, text) not in common}
        columns = [run.id, run.experiment, run.name, run.status, run.start, run.end]
        return [*columns, dict(run.params), dict(run.metrics), own]

    return [dict(sorted(common)), [row(run) for run in runs]]


def _read(file: gzip.GzipFile) -> Snapshot | None:
    left, checksum = MAX_BYTES, hashlib.sha256()

    def line() -> Any:
        nonlocal left
        text = file.readline(left)
        left -= len(text)
        checksum.update(text)
        return json.loads(text)

    facts, runs = line(), list[Run]()
    checksum = hashlib.sha256()
    if facts["format"] == EARLIER_FORMAT:
        rows, others = line()
        runs, found, recorded = [_run(row, {}) for row in rows], checksum.hexdigest(), facts["sha256"]
    elif facts["format"] == FORMAT:
        while len(runs) < facts["runs"]:
            common, rows = line()
            runs += [_run(row, common) for row in rows]
        others, found = line(), checksum.hexdigest()
        recorded = line()
    else:
        return None
    if recorded != found or file.read(1):
        return None
    return Snapshot(facts["study"], runs, [str(id) for id in others])


_TYPES = (str, str, str, str, int, (int, NoneType), dict, dict, dict)


def _run(row: list[Any], common: dict[str, str]) -> Run:
    if not all(map(isinstance, row, _TYPES)):  # type: ignore[arg-type]  # mypy knows no tuple of classes here
        raise TypeError("a column holds what it never does")
    id, experiment, name, status, start, end, params, metrics, tags = row
    return Run(id, experiment, name, status, start, end, params, metrics, common | tags)

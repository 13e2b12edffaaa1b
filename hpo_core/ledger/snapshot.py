"""Packs the finished runs of a study into one small file, which saves a new process from reading each from MLflow.

The file is gzip over two lines of JSON: a header with the format, the study and the checksum of the second line, then
the runs. It is a cache: if anything is wrong with it, :func:`unpack` returns None and the caller reads MLflow instead.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hpo_core.ledger.store import Run

FORMAT = "hpo-snapshot-1"

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
    rows = [
        [r.id, r.experiment, r.name, r.status, r.start, r.end, dict(r.params), dict(r.metrics), dict(r.tags)]
        for r in snapshot.runs
    ]
    body = json.dumps([rows, list(snapshot.others)], separators=(",", ":")).encode()
    header = {"format": FORMAT, "study": snapshot.study, "sha256": hashlib.sha256(body).hexdigest()}
    packer = zlib.compressobj(6, wbits=GZIP)  # unlike gzip.compress, writes no timestamp
    return packer.compress(json.dumps(header).encode() + b"\n" + body) + packer.flush()


def unpack(data: bytes) -> Snapshot | None:
    """The inverse of :func:`pack`; None if the bytes are damaged, truncated, of another version or not a snapshot.

    >>> unpack(b"not a snapshot") is None
    True
    """
    try:
        unpacker = zlib.decompressobj(wbits=GZIP)
        header, _, body = unpacker.decompress(data, MAX_BYTES).partition(b"\n")
        facts = json.loads(header)
        if not unpacker.eof or facts["format"] != FORMAT or facts["sha256"] != hashlib.sha256(body).hexdigest():
            return None
        rows, others = json.loads(body)
        return Snapshot(facts["study"], [_run(row) for row in rows], [str(id) for id in others])
    except (zlib.error, ValueError, TypeError, KeyError, RecursionError, MemoryError):
        return None


_TYPES = (str, str, str, str, int, int | None, dict, dict, dict)


def _run(row: list[Any]) -> Run:
    if not all(map(isinstance, row, _TYPES)):
        raise TypeError("a column holds what it never does")
    return Run(*row)

"""The finished runs of a study in one small file, so that a new process need not read them one by one from MLflow.

The file is gzip over two lines of JSON: a header that names the format, the study and the checksum of the second line,
and there the runs. It is a cache: whatever is wrong with it, :func:`unpack` answers None, and MLflow is read instead.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hpo_core.store import Run

FORMAT = "hpo-snapshot-1"
MAX_BYTES = 1 << 30
"""No snapshot unpacks to more; what does is not one of ours, and would only fill the memory."""

GZIP = 16 + zlib.MAX_WBITS


@dataclass(frozen=True)
class Snapshot:
    """What was known of a study at some time.

    Args:
        study: The id of the study's run.
        runs: The runs that will not change any more, in any order.
        others: The ids of all other runs below the study: they may have changed since, and are to be read.
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
    packer = zlib.compressobj(6, wbits=GZIP)  # unlike gzip.compress, it writes no time
    return packer.compress(json.dumps(header).encode() + b"\n" + body) + packer.flush()


def unpack(data: bytes) -> Snapshot | None:
    """The inverse of :func:`pack`; None if the bytes are damaged, cut off, of another version or of another origin.

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

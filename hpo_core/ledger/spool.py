"""Keeps results on disk until MLflow has stored them.

A training may have taken hours, so its result must not depend on the server being up or on this process surviving. The
spool writes and syncs it to a file before contacting MLflow, and removes the file once MLflow has accepted it. What a
crash or an outage leaves behind is delivered when the study next runs on this machine.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from hpo_core.base.errors import TrackingRefusal
from hpo_core.ledger.ledger import Ledger, Report
from hpo_core.ledger.store import Metric

log = logging.getLogger("hpo")

REFUSED = ".refused"


class Spool:
    """The waiting results of one study.

    Args:
        folder: Where they are stored, one file per trial.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, report: Report) -> Path:
        """Write a report so that it survives a crash of this process or the machine."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{report.run_id}.json"
        draft = path.with_suffix(".tmp")
        with open(draft, "w", encoding="utf-8") as file:
            json.dump(report.__dict__, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        directory = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(directory)  # makes the rename durable too
        finally:
            os.close(directory)
        return path

    def waiting(self) -> Iterator[tuple[Path, Report]]:
        """The results still to be delivered; logs a warning for unreadable files and leaves them in place."""
        for path in sorted(self.folder.glob("*.json")):
            try:
                data = json.loads(path.read_text(encoding="utf-8"))
                data["metrics"] = [Metric(*metric) for metric in data["metrics"]]
                yield path, Report(**data)
            except (OSError, ValueError, TypeError, KeyError) as error:
                log.warning("the waiting result %s cannot be read (%s); it is left there", path, error)

    def refused(self) -> list[Path]:
        """The results that MLflow refused; they are kept but not delivered again."""
        return sorted(self.folder.glob(f"*{REFUSED}"))

    def deliver(self, ledger: Ledger) -> int:
        """Write all waiting results to MLflow; returns how many were accepted."""
        count = 0
        for path, report in self.waiting():
            try:
                ledger.write(report)
            except TrackingRefusal as error:  # e.g. its run was deleted
                aside = path.rename(path.with_suffix(REFUSED))
                log.warning("MLflow refuses a result that waited on disk (%s); it is kept as %s", error, aside)
                continue
            path.unlink(missing_ok=True)
            count += 1
        return count

"""Results that wait on disk until MLflow has them.

A training may have taken hours when it ends; from then on its result must not depend on a server being up or on this
process living. It is written to a file and synced before MLflow is asked, and removed once MLflow has answered. What a
crash or an outage leaves behind is delivered when the study is next run on this machine.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from hpo_core.errors import TrackingRefusal
from hpo_core.ledger import Ledger, Report
from hpo_core.store import Metric

log = logging.getLogger("hpo")


class Spool:
    """The waiting results of one study.

    Args:
        folder: Where they stand, one file a trial.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, report: Report) -> Path:
        """Write a report so that it survives this process and the machine's restart."""
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
            os.fsync(directory)  # the name, too
        finally:
            os.close(directory)
        return path

    def waiting(self) -> Iterator[tuple[Path, Report]]:
        """The results that are still to be delivered; files that cannot be read are told and left where they are."""
        for path in sorted(self.folder.glob("*.json")):
            try:
                data = json.loads(path.read_text(encoding="utf-8"))
                data["metrics"] = [Metric(*metric) for metric in data["metrics"]]
                yield path, Report(**data)
            except (OSError, ValueError, TypeError, KeyError) as error:
                log.warning("the waiting result %s cannot be read (%s); it is left there", path, error)

    def deliver(self, ledger: Ledger) -> int:
        """Write all waiting results to MLflow; answers how many."""
        count = 0
        for path, report in self.waiting():
            try:
                ledger.write(report)
            except TrackingRefusal as error:  # its run was deleted, say
                log.warning("MLflow refuses the waiting result %s (%s); it is left there", path, error)
                path.rename(path.with_suffix(".refused"))
                continue
            path.unlink(missing_ok=True)
            count += 1
        return count

"""What this project's Prefect tasks share: when to retry, and the tags that lead from MLflow to Prefect's UI."""

from __future__ import annotations

import logging
from typing import Any

from prefect import runtime

from hpo_core.ledger.tags import Tag
from hpo_flows.workers.job import TrialFailed

log = logging.getLogger("hpo")


def should_retry(task_: Any, task_run: Any, state: Any) -> bool:
    """Prefect's retry condition: whether another attempt makes sense after a failure."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, TrialFailed) and error.retry


def this_task() -> tuple[int, dict[str, str]]:
    """The number of this attempt, and the tags that say where Prefect shows the task."""
    tags = {Tag.TASK_RUN: runtime.task_run.id, Tag.TASK_RUN_URL: runtime.task_run.ui_url}
    return int(runtime.task_run.run_count or 1), {key: str(value) for key, value in tags.items() if value}

"""What this project's Prefect tasks share: when to retry, how they are named and tagged, and the way back from MLflow.

A task run's tags and its final name are set while it runs, and reach Prefect's server with the event of its next state,
so they cost no request. Tags that are given when a task is submitted do: before each attempt, Prefect asks the server
for a concurrency limit of theirs.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

from prefect import runtime
from prefect.context import TagsContext, TaskRunContext

from hpo_core.ledger.tags import Tag
from hpo_core.study.spec import StudySpec
from hpo_flows.reports.text import number
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


def study_tags(spec: StudySpec) -> list[str]:
    """The tags of a study's flow runs and task runs."""
    return [study_tag(spec.name), f"strategy:{spec.strategy.name}"]


def study_tag(name: str) -> str:
    """The tag of all that belongs to a study."""
    return f"study:{name}"


@contextlib.contextmanager
def untagged(spec: StudySpec) -> Iterator[None]:
    """Within this context, a new task run does not get the study's tags from its flow run; :func:`tag_task` adds them.

    Tags that the user has set around the study stay.
    """
    with TagsContext(current_tags=TagsContext.get().current_tags - set(study_tags(spec))):
        yield


def tag_task(spec: StudySpec) -> None:
    """Tag the task run in which this is called."""
    if (context := TaskRunContext.get()) is not None:
        context.task_run.tags = sorted({*context.task_run.tags, *study_tags(spec)})


def name_task(name: str, spec: StudySpec, metrics: Mapping[str, float]) -> None:
    """Add the trial's values to the name of the task run in which this is called."""
    own = [f"{each.metric} {number(metrics[each.metric])}" for each in spec.objectives if each.metric in metrics]
    if (context := TaskRunContext.get()) is not None and own:
        context.task_run.name = f"{name}: {', '.join(own)}"


def plain_name(text: str) -> str:
    """The text as a name that Prefect accepts, for a deployment or a work queue.

    >>> plain_name("cats & dogs")
    'cats - dogs'
    """
    return re.sub(r"[/%&><]", "-", text)

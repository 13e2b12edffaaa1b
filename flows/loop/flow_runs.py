"""Labels this project's Prefect flow runs with owner and lease, and sets runs whose process died to CRASHED.

A killed flow leaves its run RUNNING in Prefect, and nothing there ends it. So each flow run has two labels: its owner,
which is the process, and a lease that is renewed every minute. The next flow to start finds the dead runs, by the rule
for trials (:mod:`hpo_core.ledger.ledger`), and sets them to CRASHED. That also frees the slot that a scheduled run
occupies in its deployment's concurrency limit.

This only affects Prefect's view: whatever Prefect does, the study goes on.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from uuid import UUID

from prefect import runtime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Crashed
from prefect.types import KeyValueLabels

from hpo_core.ledger.ownership import RENEW_SECONDS, Owner, dead_because, new_lease
from hpo_core.ledger.tags import Tag
from hpo_flows.loop.prefect_link import Link

log = logging.getLogger("hpo")

FLOWS = ["tune", "scheduled-study"]
"""The names of this project's flows. Another project's flow may have the same name, but not the labels."""

_held: set[UUID] = set()  # the flow runs of this process

_refused: set[UUID] = set()  # those for which Prefect refused the labels, and a warning was shown


@contextlib.contextmanager
def owned_flow_run(link: Link | None = None) -> Iterator[None]:
    """Within this context, the current flow run is labelled as owned by this process. Use it inside a flow only."""
    id = UUID(str(runtime.flow_run.id))
    _held.add(id)
    try:
        renew(link or Link())
        yield
    finally:
        _held.discard(id)


def renew(link: Link) -> None:
    """Renew the leases of all flow runs of this process, with one request each."""
    if link.lost:
        return
    labels: KeyValueLabels = {
        Tag.OWNER: str(Owner.of_this_process()),
        Tag.LEASE: new_lease(),
    }
    try:
        with get_client(sync_client=True) as client:
            for id in _held:
                client.update_flow_run_labels(id, labels)
    except Exception as error:  # Prefect's client raises many kinds
        if not _held <= _refused:
            link.failed(error)
        _refused.update(_held)


class Renewal:
    """Renews the leases when they are due."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._due = time.monotonic() + RENEW_SECONDS

    def tick(self) -> None:
        if time.monotonic() > self._due:
            self._due = time.monotonic() + RENEW_SECONDS
            renew(self._link)


def crash_dead_flow_runs(link: Link | None = None) -> list[FlowRun]:
    """Set the flow runs whose process is dead to CRASHED and return them. Costs one request if there is none."""
    ended: list[FlowRun] = []
    try:
        with get_client(sync_client=True) as client:
            for run, why in _dead(client):
                with contextlib.suppress(PrefectHTTPStatusError):  # deployment deleted; a later flow retries
                    client.set_flow_run_state(run.id, Crashed(message=f"Set by a later run of hpo-flows: {why}."))
                    log.warning("the flow run %s was RUNNING in Prefect, but %s; it is CRASHED now", run.name, why)
                    ended.append(run)
    except Exception as error:  # Prefect's client raises many kinds
        (link or Link()).failed(error)
    return ended


def _dead(client: SyncPrefectClient) -> list[tuple[FlowRun, str]]:
    """The labelled flow runs that Prefect shows as running although their process is dead, each with the evidence."""
    running = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.CANCELLING]))
    found = client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=FLOWS)),
        flow_run_filter=FlowRunFilter(state=running),
        limit=200,  # the server refuses this client's request without limit and order
        sort=FlowRunSort.START_TIME_ASC,
    )
    labelled = [(run, {key: str(value) for key, value in run.labels.items()}) for run in found]
    return [(run, why) for run, labels in labelled if Tag.OWNER in labels and (why := dead_because(labels))]

"""Who answers for a flow run, as Prefect keeps it, and the end of those for whom nobody does any more.

A killed flow leaves its run RUNNING in Prefect, and nothing there ends it. So each of this project's flow runs bears
labels: its owner, which is the process, and a lease that is renewed every minute. Whoever starts next looks which of
them are dead, by the rule for trials (:mod:`hpo_core.ledger`), and sets those to CRASHED. That also frees the slot
which a scheduled run takes of its deployment's concurrency limit.

A view only: whatever Prefect answers, the study goes on.
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

from hpo_core.ledger import LEASE_SECONDS, RENEW_SECONDS, Owner, dead_because, now_ms

log = logging.getLogger("hpo")

FLOWS = ["tune", "scheduled-study"]
"""The names of this project's flows; a flow of somebody else's that has such a name bears no labels."""

_held: set[UUID] = set()
_refused: set[UUID] = set()  # those of which the user has been told that Prefect does not keep their owner


@contextlib.contextmanager
def held() -> Iterator[None]:
    """While it lasts, the flow run that is running now says who answers for it; inside a flow alone."""
    id = UUID(str(runtime.flow_run.id))
    _held.add(id)
    try:
        renew()
        yield
    finally:
        _held.discard(id)


def renew() -> None:
    """Renew the leases of all flow runs that this process holds; a request each."""
    labels: KeyValueLabels = {
        "hpo.owner": str(Owner.of_this_process()),
        "hpo.lease": str(now_ms() + int(LEASE_SECONDS * 1000)),
    }
    try:
        with get_client(sync_client=True) as client:
            for id in _held:
                client.update_flow_run_labels(id, labels)
    except Exception as error:  # Prefect's client has many
        if not _held <= _refused:
            log.warning("Prefect does not keep who answers for this flow run: %s: %s", type(error).__name__, error)
        _refused.update(_held)


class Renewal:
    """Renews the leases when it is time to."""

    def __init__(self) -> None:
        self._due = time.monotonic() + RENEW_SECONDS

    def tick(self) -> None:
        if time.monotonic() > self._due:
            self._due = time.monotonic() + RENEW_SECONDS
            renew()


def end_dead() -> list[FlowRun]:
    """Set the flow runs whose process is dead to CRASHED; answers which. One request if there is none."""
    ended: list[FlowRun] = []
    try:
        with get_client(sync_client=True) as client:
            for run, why in _dead(client):
                with contextlib.suppress(PrefectHTTPStatusError):  # of a deleted deployment: later
                    client.set_flow_run_state(run.id, Crashed(message=f"Set by a later run of hpo-flows: {why}."))
                    log.warning("the flow run %s stood as RUNNING in Prefect, but %s; it is CRASHED now", run.name, why)
                    ended.append(run)
    except Exception as error:  # Prefect's client has many
        log.warning("flow runs that are dead may go on RUNNING in Prefect: %s: %s", type(error).__name__, error)
    return ended


def _dead(client: SyncPrefectClient) -> list[tuple[FlowRun, str]]:
    """The labelled flow runs that go on in Prefect although their process is dead, and why it is thought so."""
    running = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.CANCELLING]))
    found = client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=FLOWS)),
        flow_run_filter=FlowRunFilter(state=running),
        limit=200,  # without limit and order this client is refused
        sort=FlowRunSort.START_TIME_ASC,
    )
    labels = [(run, {key: str(value) for key, value in run.labels.items()}) for run in found]
    return [(run, why) for run, told in labels if "hpo.owner" in told and (why := dead_because(told))]

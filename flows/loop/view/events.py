"""Emits events about a study, on which Prefect's automations act; ``docs/how-to/prefect.md`` lists them.

To emit an event is to queue it: a thread of Prefect's own sends it. That queue has no limit, so the events have one
here: a study whose trials take milliseconds tells of some of them only, and how many it left out. Nothing is emitted
to the temporary server, which has no automations, nor to a server that is lost.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from prefect import runtime
from prefect.context import FlowRunContext
from prefect.events import emit_event

from hpo_core.base.errors import InputError, TrackingRefusal
from hpo_core.history.history import History
from hpo_core.history.trial import Trial
from hpo_core.ledger.decode import stored_spec
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.store import Store
from hpo_core.ledger.tags import Tag
from hpo_flows.base.progress import Outcome
from hpo_flows.loop.prefect_link import Link, named_server, silence
from hpo_flows.loop.stages import Stages
from hpo_flows.reports.front import front_facts, goal_facts
from hpo_flows.reports.links import run_url
from hpo_flows.reports.news import Ended
from hpo_flows.reports.text import metric_value, metric_values

log = logging.getLogger("hpo")

EventName = Literal[
    "hpo.study.started", "hpo.study.trial.finished", "hpo.study.incumbent", "hpo.study.champion", "hpo.study.finished"
]

BURST, A_SECOND = 60, 1.0
"""How many events a flow may emit at once, and how many more become due each second."""

REASON = 500
"""The most characters of a reason: an event is to stay small."""


class Allowance:
    """Allows ``burst`` things at once, and ``a_second`` more each second.

    >>> allowance = Allowance(2, 1.0, now=10.0)
    >>> [allowance.take(10.0), allowance.take(10.0), allowance.take(10.5), allowance.take(11.5)]
    [True, True, False, True]
    """

    def __init__(self, burst: int, a_second: float, now: float) -> None:
        self._burst, self._a_second = float(burst), a_second
        self._left, self._then = float(burst), now

    def take(self, now: float) -> bool:
        """Whether one more is allowed now."""
        self._left = min(self._left + (now - self._then) * self._a_second, self._burst)
        self._then = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class StudyEvents:
    """The events of one flow run. Use it in the flow's own thread, where Prefect knows the flow run.

    Several flows may work on a study; each tells of its own trials, and the last one of the end.

    Args:
        ledger: The study.
        link: The connection to Prefect's server.
    """

    def __init__(self, ledger: Ledger, link: Link) -> None:
        self._ledger, self._spec, self._link = ledger, ledger.spec, link
        self._allowance = Allowance(BURST, A_SECOND, time.monotonic())
        self._own = set[str]()  # run ids
        self._announced: tuple[str, ...] = ()  # the runs of the front, as it was announced
        self._omitted = 0
        self._crowned: int | None = None
        self._deployment: list[dict[str, str]] | None = None

    def own(self, run_id: str) -> None:
        """Note that this flow has started a trial."""
        self._own.add(run_id)

    def started(self, history: History) -> None:
        """Tell that this flow begins to work on the study."""
        self._announced = tuple(trial.run_id for trial in history.front)
        self._emit("hpo.study.started", trials=len(history), target=self._spec.stop.trials)

    def look(self, history: History, news: Iterable[Ended], stages: Stages) -> None:
        """Tell what is new: trials, a new incumbent, a new champion."""
        for trial, _ in news:
            if trial.run_id not in self._own:
                continue
            if self._allowance.take(time.monotonic()):
                self._emit("hpo.study.trial.finished", trial, state=trial.state.value, reason=trial.reason[:REASON])
            else:
                self._omitted += 1
        self._tell_incumbent(history)
        self._tell_champion(stages)

    def _tell_incumbent(self, history: History, *, last: bool = False) -> None:
        """Tell the incumbent, or a point of the front, if it is a new one.

        It is told later if too many events are due: what is no longer on the front then does not count.
        """
        kept = []
        for trial in history.front:
            new = trial.run_id not in self._announced
            if new and trial.run_id in self._own:
                if not (last or self._allowance.take(time.monotonic())):
                    continue
                self._emit("hpo.study.incumbent", trial, **front_facts(self._spec, history))
            kept.append(trial.run_id)
        self._announced = tuple(kept)

    def _tell_champion(self, stages: Stages) -> None:
        version, model = stages.crowned, self._spec.champion
        if version is None or model is None or version.number == self._crowned:
            return
        self._crowned = version.number
        trial = None if stages.challenge is None else stages.challenge.trial
        self.champion(trial, champion_facts(model.model, version.number, version.tags.get(Tag.REASON, "")))

    def champion(self, trial: Trial | None, facts: Mapping[str, Any]) -> None:
        """Tell that a version of a trial's model is the champion now."""
        self._emit("hpo.study.champion", trial, **facts)

    def finished(self, history: History, reason: str, stages: Stages) -> None:
        """Tell how the study ended, unless another flow still works on it."""
        self._tell_incumbent(history, last=True)
        if history.running:
            return
        run = self._ledger.study_run
        outcome = Outcome(self._spec, history, reason, "", run.id, stages.choice, stages.challenge)
        best = outcome.best
        facts: dict[str, Any] = front_facts(self._spec, history)
        facts |= {} if best is None or self._spec.metrics else {"value": outcome.best_value}
        facts |= {"reason": reason[:REASON], "complete": len(history.complete), "failed": len(history.failed)}
        self._emit("hpo.study.finished", best, **facts, omitted=self._omitted)

    def _emit(self, event: EventName, trial: Trial | None = None, **facts: Any) -> None:
        if self._link.lost or self._link.server is not None:
            return
        _emit(event, self._resource(), self._related(trial), self._payload(trial) | facts)

    def _resource(self) -> dict[str, str]:
        spec = self._spec
        return {
            **_study_resource(spec.name),
            "hpo.experiment": spec.experiment,
            "hpo.metric": ", ".join(each.metric for each in spec.objectives),
            "hpo.strategy": spec.strategy.name,
        }

    def _related(self, trial: Trial | None) -> list[dict[str, str]]:
        """What the event is about beside the study. Prefect itself adds the flow run, its flow and its tags."""
        if self._deployment is None:
            self._deployment = _deployment()
        run = self._ledger.study_run.id if trial is None else trial.run_id
        return [{"prefect.resource.id": f"mlflow.run.{run}", "prefect.resource.role": "mlflow-run"}, *self._deployment]

    def _payload(self, trial: Trial | None) -> dict[str, Any]:
        spec, run, uri = self._spec, self._ledger.study_run, self._ledger.store.uri
        payload: dict[str, Any] = {
            "study": spec.name,
            **goal_facts(spec),
            "study_run_id": run.id,
            "study_url": run_url(uri, run.experiment, run.id),
        }
        if trial is not None:
            payload |= {
                "trial": trial.number,
                "value": metric_value(spec, trial),
                **({"values": metric_values(spec, trial)} if spec.metrics else {}),
                "run_id": trial.run_id,
                "url": run_url(uri, run.experiment, trial.run_id),
            }
        return payload


@contextlib.contextmanager
def announcing_by_hand(store: Store, model: str, reason: str) -> Iterator[None]:
    """Announce it if a command in the block makes another version the champion, and a Prefect server is named.

    Args:
        store: MLflow.
        model: The registered model.
        reason: Why, in the user's words.
    """
    before = store.champion(model)
    yield
    number = store.champion(model)
    if number is None or number == before or named_server() is None or silence() is not None:
        return
    version = next(each for each in store.versions(model) if each.number == number)
    facts = champion_facts(model, number, reason, by_hand=True)
    try:
        run = store.get(version.tags[Tag.STUDY_RUN])
        ledger = Ledger(store, stored_spec(run), run)
        trials = {str(trial.number): trial for trial in ledger.load()}
        StudyEvents(ledger, Link()).champion(trials.get(version.tags[Tag.TRIAL]), facts)
    except (KeyError, InputError, TrackingRefusal):  # registered by other means, or its study is gone
        study = version.tags.get(Tag.STUDY, model)
        run_resource = {"prefect.resource.id": f"mlflow.run.{version.run}", "prefect.resource.role": "mlflow-run"}
        _emit("hpo.study.champion", _study_resource(study), [run_resource], {"study": study} | facts)


def champion_facts(model: str, version: int, reason: str, *, by_hand: bool = False) -> dict[str, Any]:
    """What the event about a new champion says of it."""
    uri = f"models:/{model}/{version}"
    return {"model": model, "version": version, "model_uri": uri, "reason": reason[:REASON], "by_hand": by_hand}


def _study_resource(study: str) -> dict[str, str]:
    return {"prefect.resource.id": f"hpo.study.{study}", "prefect.resource.name": study}


def _emit(event: EventName, resource: dict[str, str], related: list[dict[str, str]], payload: dict[str, Any]) -> None:
    try:
        emit_event(event, resource, None, related, payload)
    except Exception as error:  # Prefect's events are only a view
        log.debug("Prefect does not take the event %s: %s", event, error)


def _deployment() -> list[dict[str, str]]:
    """The deployment of a scheduled run, whose subflow this flow is. Any other has none, and Prefect need not look."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow_run.parent_task_run_id is None:
        return []
    if (id := runtime.deployment.id) is None:
        return []
    return [{"prefect.resource.id": f"prefect.deployment.{id}", "prefect.resource.role": "deployment"}]

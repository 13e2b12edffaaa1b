"""Holds the state that the loop and the trials of one flow run share."""

from __future__ import annotations

from dataclasses import dataclass

from hpo_flows.base.progress import Observer
from hpo_flows.loop.stages import Stages
from hpo_flows.reports.html.publish import Publisher
from hpo_flows.trials.remote.runner import Runner
from hpo_flows.trials.session import Session


@dataclass(kw_only=True)
class FlowSession(Session):
    """What the loop and the trials of one flow run share.

    Args:
        stages: What the study does, one after the other.
        publisher: Writes the report.
        observe: Called after each load and about once a second.
        runner: The engine that trains the trials; None if this process's pool does.
    """

    stages: Stages
    publisher: Publisher
    observe: Observer
    runner: Runner | None = None


SESSIONS: dict[str, FlowSession] = {}
"""The sessions of this process, by the id of the study's run."""

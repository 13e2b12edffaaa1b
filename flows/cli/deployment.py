"""The commands that run a study on a schedule: deploy and serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpo_core.study.names import file_name
from hpo_flows.cli import schedules
from hpo_flows.cli.common import SetOption, StudyFileArgument, load_spec, search_path
from hpo_flows.cli.schedules import Deployed, Plan
from hpo_flows.objectives.reference import Objective

CronOption = Annotated[str | None, typer.Option(metavar="LINE", help='When: "0 2 * * *" is two at night.')]

EveryOption = Annotated[float | None, typer.Option(metavar="SECONDS", help="How often, instead of --cron.")]

TrackingOption = Annotated[
    str | None,
    typer.Option("--tracking", metavar="BLOCK", help="The block with the tracking server and its credentials."),
]

TimezoneOption = Annotated[str, typer.Option(metavar="ZONE", help="The timezone of --cron, such as Europe/Berlin.")]


def deploy(
    study: StudyFileArgument,
    cron: CronOption = None,
    every: EveryOption = None,
    timezone: TimezoneOption = "UTC",
    work_pool: Annotated[str, typer.Option(help="The work pool, of type process, whose workers run it.")] = "hpo",
    work_queue: Annotated[
        str | None, typer.Option(help="The queue of the pool; by default one with the study's name.")
    ] = None,
    tracking: TrackingOption = None,
    set_: SetOption = None,
) -> None:
    """Have Prefect's workers run a study on a schedule."""
    deployed = _deployed(study, Plan(cron, every, timezone), tracking, set_)
    plan = deployed.plan.described
    name = schedules.deploy(deployed, work_pool, work_queue)
    typer.echo(f"{name} runs {plan}, in {deployed.folder}, once a worker is there:")
    typer.echo(f"  prefect worker start --pool {work_pool} --type process")


def serve(
    study: StudyFileArgument,
    cron: CronOption = None,
    every: EveryOption = None,
    timezone: TimezoneOption = "UTC",
    tracking: TrackingOption = None,
    set_: SetOption = None,
) -> None:
    """Run a study on a schedule from this process, until Ctrl-C."""
    deployed = _deployed(study, Plan(cron, every, timezone), tracking, set_)
    typer.echo(f"{deployed.name} runs {deployed.plan.described} (Ctrl-C ends it)")
    schedules.serve(deployed)


def _deployed(study: str, plan: Plan, tracking: str | None, set_: list[str] | None) -> Deployed:
    """A study file with its plan. The file and its objective are checked now, not when the schedule is due."""
    overrides = list(set_ or [])
    spec = load_spec(study, overrides)
    Objective(spec.objective, search_path(study)).precheck()
    return Deployed(study, Path.cwd(), file_name(spec.name), plan, overrides, tracking)

"""Puts a study on a schedule, as a Prefect deployment for a work pool's workers or for ``hpo serve``.

Prefect and pydantic are imported in the functions, because the command line imports this file to check a plan first.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import re
import signal
import zoneinfo
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo_core.base.errors import InputError, Unreachable
from hpo_core.tracking.credentials import redact

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.schedules import SCHEDULE_TYPES


ENTRYPOINT = "hpo_flows.cli.scheduled.run_scheduled"

TAG = "hpo"
"""The tag of all deployments made here, and of their flow runs."""

HEARTBEAT_SECONDS = 30

SILENCE_SECONDS = 120
"""Prefect considers a run dead after this many seconds without a heartbeat."""

AUTOMATION = "hpo: end flow runs whose heartbeat stopped"

MOST_SECONDS = 366 * 24 * 3600

CRON = 'write minute, hour, day, month and weekday, such as "0 2 * * *" for two at night'


@dataclass(frozen=True)
class Plan:
    """When a study is run: by a cron line, or at an interval in seconds.

    Raises:
        InputError: Neither or both are given, or one is invalid.
    """

    cron: str | None = None
    every: float | None = None
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        if (self.cron is None) == (self.every is None):
            given = "neither --cron nor --every" if self.cron is None else "both --cron and --every"
            raise InputError("--cron", f"{given} is given", 'give one of them, such as --cron "0 2 * * *"')
        if self.every is not None and not 1 <= self.every <= MOST_SECONDS:
            raise InputError(
                "--every", f"{self.every:g} seconds is not a valid interval", f"give 1 or more, up to {MOST_SECONDS}"
            )
        if self.cron is not None and not self.cron.startswith("@") and (count := len(self.cron.split())) != 5:
            problem = f"{self.cron!r} has {count} field{'' if count == 1 else 's'} and not five"
            raise InputError("--cron", problem, CRON)
        try:
            zoneinfo.ZoneInfo(self.timezone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            raise InputError(
                "--timezone", f"unknown timezone {self.timezone!r}", "name one such as Europe/Berlin"
            ) from None

    def schedule(self) -> SCHEDULE_TYPES:
        """The plan as a Prefect schedule.

        Raises:
            InputError: The cron line is invalid.
        """
        from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
        from pydantic import ValidationError

        if self.every is not None:
            start = datetime.datetime.now(datetime.UTC)
            return IntervalSchedule(
                interval=datetime.timedelta(seconds=self.every), anchor_date=start, timezone=self.timezone
            )
        try:
            return CronSchedule(cron=str(self.cron), timezone=self.timezone)
        except ValidationError:
            raise InputError(
                "--cron",
                f"{self.cron!r} is not a cron line",
                CRON,
            ) from None

    def next_due(self) -> datetime.datetime:
        """When the study is run next, computed as Prefect's server does.

        Raises:
            InputError: The cron line is invalid or never comes due.
        """
        from prefect.server.schemas.schedules import CronSchedule

        self.schedule()
        if self.every is not None:
            return datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=self.every)
        try:
            (due,) = asyncio.run(CronSchedule(cron=str(self.cron), timezone=self.timezone).get_dates(n=1))
        except ValueError:  # no date within fifty years
            problem = f"{self.cron!r} never comes due: no month that it names has such a day"
            raise InputError("--cron", problem, "correct day or month (L is a month's last day)") from None
        return due

    @property
    def described(self) -> str:
        """The plan and its next date, as text."""
        return f"{self}, next at {self.next_due():%Y-%m-%d %H:%M:%S %Z}"

    def __str__(self) -> str:
        return f"every {self.every:g} s" if self.every is not None else f"{self.cron} {self.timezone}"


@dataclass(frozen=True)
class Deployed:
    """A study to deploy.

    Args:
        study: Its file, relative to the folder.
        folder: The folder in which its runs are started.
        name: The name of the study and of the deployment.
        plan: When it is run.
        overrides: Texts ``key=value``.
        tracking: The block with the tracking server; None if the environment names it.
    """

    study: str
    folder: Path
    name: str
    plan: Plan
    overrides: Sequence[str] = ()
    tracking: str | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        block = {"tracking": self.tracking} if self.tracking else {}
        return {"study": self.study, "overrides": list(self.overrides)} | block

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that a run inherits: the MLflow store, unless a block or a secret names it."""
        uri = "" if self.tracking else os.environ.get("MLFLOW_TRACKING_URI", "")
        server = {"MLFLOW_TRACKING_URI": uri} if uri and redact(uri) == uri else {}
        return server | {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS)}

    @property
    def tags(self) -> list[str]:
        """The tags of the deployment and its flow runs."""
        from hpo_flows.trials.task import study_tag

        return [TAG, study_tag(self.name)]

    @property
    def description(self) -> str:
        return f"Study `{self.name}` ({self.study}), run {self.plan} by hpo-flows."


def deploy(deployed: Deployed, work_pool: str, work_queue: str | None = None) -> str:
    """Create or update the deployment of a study; returns its full name.

    Args:
        deployed: The study.
        work_pool: Whose workers run it.
        work_queue: The queue of the pool, which is made if it is absent; by default one for the study alone.

    Raises:
        InputError: The work pool or block does not exist, or no server is named.
        Unreachable: Prefect's server does not respond.
    """
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.exceptions import ObjectNotFound
    from prefect.utilities.callables import parameter_schema

    from hpo_flows.cli.scheduled import run_scheduled
    from hpo_flows.loop.flow_runs import crash_dead_flow_runs
    from hpo_flows.trials.task import plain_name

    schedule = DeploymentScheduleCreate(schedule=deployed.plan.schedule())
    with _server() as client:
        try:
            client.read_work_pool(work_pool)
        except ObjectNotFound:
            raise InputError(
                "--work-pool",
                f"Prefect's server has no work pool {work_pool!r}",
                f"make it (prefect work-pool create {work_pool} --type process), or name another",
            ) from None
        _check_block(deployed.tracking)
        crash_dead_flow_runs()
        _watch_heartbeats(client)
        limit, options = _one_at_a_time()
        client.create_deployment(
            flow_id=client.create_flow_from_name(run_scheduled.name),
            name=deployed.name,
            description=deployed.description,
            entrypoint=ENTRYPOINT,
            pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(deployed.folder)}}],
            parameters=deployed.parameters,
            parameter_openapi_schema=parameter_schema(run_scheduled).model_dump_for_openapi(),
            work_pool_name=work_pool,
            work_queue_name=work_queue or plain_name(deployed.name),
            job_variables={"env": deployed.environment},
            schedules=[schedule],
            concurrency_limit=limit,
            concurrency_options=options,
            tags=deployed.tags,
        )
    return f"{run_scheduled.name}/{deployed.name}"


def serve(deployed: Deployed) -> None:
    """Run a study on its schedule from this process, until the process ends.

    Raises:
        InputError: No server is named.
        Unreachable: Prefect's server does not respond.
    """
    from prefect.client.schemas.objects import ConcurrencyLimitConfig
    from prefect.types.entrypoint import EntrypointType

    from hpo_flows.cli.scheduled import run_scheduled
    from hpo_flows.loop.flow_runs import crash_dead_flow_runs

    if deployed.name.endswith(".py") or Path(deployed.name).is_file():
        problem = f"Prefect takes {deployed.name!r} for a file, and would serve the study under another name"
        raise InputError("name", problem, "give the study another name, or use hpo deploy")
    schedule = deployed.plan.schedule()
    with _server() as client:
        _check_block(deployed.tracking)
        crash_dead_flow_runs()
        _watch_heartbeats(client)
    os.environ |= deployed.environment
    limit, options = _one_at_a_time()
    _start_runs_deaf()
    try:
        run_scheduled.serve(
            name=deployed.name,
            schedules=[schedule],
            parameters=deployed.parameters,
            description=deployed.description,
            global_limit=ConcurrencyLimitConfig(limit=limit, collision_strategy=options.collision_strategy),
            tags=deployed.tags,
            entrypoint_type=EntrypointType.MODULE_PATH,
            print_starting_message=False,
        )
    finally:
        # Prefect pauses the schedule at Ctrl-C, but not at SIGTERM; runs would then become due that nobody starts.
        with _server() as client:
            client.pause_deployment(client.read_deployment_by_name(f"{run_scheduled.name}/{deployed.name}").id)


def _start_runs_deaf() -> None:
    """Make the process of a run ignore Ctrl-C until its flow begins; a terminal sends it to all processes at once.

    Otherwise a process that is still importing would end with a traceback, and without a state in Prefect.
    """
    from multiprocessing import resource_tracker

    from prefect.flow_engine import run_flow_in_subprocess
    from prefect.runner import _starter_direct

    def start(*args: Any, **settings: Any) -> Any:
        resource_tracker.ensure_running()  # the first new process would, and unblocks the signal thereby
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which a new process inherits
        try:
            return run_flow_in_subprocess(*args, **settings)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    # Prefect looks it up there for such a purpose.
    _starter_direct.run_flow_in_subprocess = start  # type: ignore[attr-defined]


def _one_at_a_time() -> tuple[int, Any]:
    """The limit of one run of a study at a time; runs that become due meanwhile are cancelled."""
    from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions

    return 1, ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)


def _check_block(name: str | None) -> None:
    """Check that Prefect has the block of a tracking server, if one is named.

    Raises:
        InputError: It has none.
    """
    if name:
        from hpo_flows.prefect import load_tracking

        load_tracking(name)


@contextmanager
def _server() -> Iterator[SyncPrefectClient]:
    """Connect to Prefect's server, which must not be a temporary one.

    Raises:
        InputError: No server is named.
        Unreachable: It does not respond.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    if not url:
        raise InputError(
            "PREFECT_API_URL",
            "no Prefect server is named, and a schedule needs one that stays",
            "start one (prefect server start, or make team) and export PREFECT_API_URL=http://127.0.0.1:4200/api",
        )
    shown = re.sub(r"//[^/@]*@", "//", url)
    try:
        with get_client(sync_client=True) as client:
            client.hello().raise_for_status()
            yield client
    except (httpx.TransportError, httpx.InvalidURL, PrefectHTTPStatusError) as error:
        problem = f"Prefect's server at {shown} does not respond as it should ({type(error).__name__}: {error})"
        raise Unreachable(f"{problem}; start it, or correct PREFECT_API_URL") from None


def _watch_heartbeats(client: SyncPrefectClient) -> None:
    """Create an automation with which Prefect ends a scheduled run that died with its worker, to free its slot.

    Otherwise the slot stays taken until the server's lease on it expires; and for ever if the server forgets that
    lease, which it does when it restarts.
    """
    from prefect.client.schemas.objects import StateType
    from prefect.events import AutomationCore, EventTrigger, Posture, ResourceSpecification
    from prefect.events.actions import ChangeFlowRunState

    if client.read_automations_by_name(AUTOMATION):
        return
    ends = [f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")]
    beat = "prefect.flow-run.heartbeat"
    client.create_automation(
        AutomationCore(
            name=AUTOMATION,
            description="Made by hpo deploy and hpo serve, for all flow runs with the tag hpo.",
            trigger=EventTrigger(
                match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
                match_related=ResourceSpecification({"prefect.resource.id": f"prefect.tag.{TAG}"}),
                for_each={"prefect.resource.id"},
                after={beat},
                expect={beat, *ends},
                posture=Posture.Proactive,
                threshold=1,
                within=datetime.timedelta(seconds=SILENCE_SECONDS),
            ),
            actions=[ChangeFlowRunState(state=StateType.CRASHED, message="Its heartbeat stopped.")],
        )
    )

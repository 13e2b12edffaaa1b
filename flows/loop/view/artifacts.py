"""Shows a study's progress, its best trials and links into MLflow on the page of its flow run.

Each is one artifact, which is created once and then updated.
"""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

from prefect import runtime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate

from hpo_core.history.history import History
from hpo_core.history.spending import spent
from hpo_core.history.trial import Trial
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.note import as_markdown
from hpo_core.space.configuration import displayed
from hpo_flows.reports.front import standing_line
from hpo_flows.reports.links import artifact_url, run_url
from hpo_flows.reports.text import mean_text, metric_values, number, outcome_text, ranked, status_line

BEST, FRONT, COLUMNS = 10, 30, 6


def share_done(ledger: Ledger, history: History, seconds: float) -> float:
    """The study's progress in percent, by the stop rule that is closest to holding."""
    stop = ledger.spec.stop
    done = [0.0]
    if stop.trials is not None:
        done.append(ledger.spec.ended(history) / stop.trials)
    if stop.cost is not None:
        done.append(spent(history) / stop.cost)
    if stop.minutes is not None:
        done.append(seconds / (60 * stop.minutes))
    return 100 * min(max(done), 1.0)


def best_trials(ledger: Ledger, history: History, seconds: float) -> str:
    """The study in Markdown: a status line and a table of the best trials, or of the Pareto front."""
    spec = ledger.spec
    names, metrics = spec.search_space.free[:COLUMNS], [each.metric for each in spec.objectives]
    uri, experiment = ledger.store.uri, ledger.study_run.experiment
    link = run_url(uri, experiment, ledger.study_run.id)
    lines = [
        f"**{as_markdown(spec.name)}**: {as_markdown(status_line(spec, history, seconds))}",
        "",
        f"[The study in MLflow]({link})" if link else f"MLflow run `{ledger.study_run.id}` (`hpo ui` opens MLflow).",
        "",
        f"| trial | {' | '.join(as_markdown(name) for name in [*metrics, *names])} | MLflow |",
        "| ---: |" + " ---: |" * len(metrics) + " --- |" * (len(names) + 1),
    ]
    for trial in history.front[:FRONT] if spec.metrics else ranked(history)[:BEST]:
        link = run_url(uri, experiment, trial.run_id)
        values = [number(value) for value in metric_values(spec, trial).values()]
        cells = [str(trial.number), *(values if spec.metrics else [mean_text(spec, history, trial)])]
        cells += [as_markdown(displayed(trial.config[name])) if name in trial.config else "" for name in names]
        lines.append(f"| {' | '.join(cells)} | {f'[run]({link})' if link else f'`{trial.run_id[:8]}`'} |")
    return "\n".join(lines)


class StudyArtifacts:
    """The artifacts of one flow run. Use it in the flow's own thread, where Prefect knows the flow run.

    Args:
        ledger: The study.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._key = re.sub(r"[^a-z0-9]+", "-", ledger.spec.name.lower()).strip("-") or "study"
        self._shown: dict[str, tuple[UUID, Any]] = {}  # by the end of the key: the artifact and what it shows

    def show(self, history: History, best: Trial | None, seconds: float, *, last: bool = False) -> None:
        """Update what has changed, with a request each. Raises what Prefect's client raises.

        Args:
            history: The study as last loaded.
            best: Its best trial.
            seconds: Since this run of it started.
            last: Whether the study is over.
        """
        spec = self._ledger.spec
        with get_client(sync_client=True) as client:
            if self._shown:  # at first the trials wait for this
                self._show_links(client, history, best)
            share = 100.0 if last else share_done(self._ledger, history, seconds)
            self._put(client, "progress", "progress", share, status_line(spec, history, seconds))
            if history.complete:
                which = "Pareto front" if spec.metrics else "best trials"
                about = f"The {which} of the study {spec.name}, with their runs in MLflow."
                self._put(client, "best", "markdown", best_trials(self._ledger, history, seconds), about)

    def _show_links(self, client: SyncPrefectClient, history: History, best: Trial | None) -> None:
        """Link the study, its report and its best trial; only a tracking server has pages to link."""
        spec, run, uri = self._ledger.spec, self._ledger.study_run, self._ledger.store.uri
        name = as_markdown(spec.name)
        links = {
            "mlflow": (run_url(uri, run.experiment, run.id), f"{name} in MLflow", "The study's run."),
            "report": (
                artifact_url(uri, run.experiment, run.id, "report.html"),
                f"The report of {name}",
                "Written some minutes after the start, every few minutes from then on, and at the end.",
            ),
        }
        if best is not None:
            text = f"Trial {best.number}: {as_markdown(outcome_text(spec, best, history))}"
            what = standing_line(spec, history.front) if spec.metrics else "the best so far"
            links["best-trial"] = run_url(uri, run.experiment, best.run_id), text, f"{text}, {what}."
        for end, (link, text, about) in links.items():
            if link:
                self._put(client, end, "markdown", f"[{text}]({link})", about)

    def _put(self, client: SyncPrefectClient, end: str, type: str, data: Any, description: str) -> None:
        """Create an artifact, or update it if it shows anything else."""
        wanted = data, description
        if end not in self._shown:
            made = ArtifactCreate(
                key=f"{self._key}-{end}",
                type=type,
                data=data,
                description=description,
                flow_run_id=UUID(str(runtime.flow_run.id)),
            )
            self._shown[end] = client.create_artifact(made).id, wanted
        elif self._shown[end][1] != wanted:
            client.update_artifact(self._shown[end][0], ArtifactUpdate(data=data, description=description))
            self._shown[end] = self._shown[end][0], wanted

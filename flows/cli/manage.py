"""The commands that change or repair what is stored: stop, promote, rollback and doctor."""

from __future__ import annotations

from typing import Annotated

import typer

from hpo_core.base.errors import InputError
from hpo_core.study.names import is_file, model_name, study_name
from hpo_core.tracking.connection import connect
from hpo_flows.base.paths import home
from hpo_flows.cli.common import JsonOption, StudyArgument, load_spec, open_stored, print_json, search_path


def stop(
    study: StudyArgument,
    trial: Annotated[int | None, typer.Option(metavar="N", help="End this trial alone, at once.", min=0)] = None,
    reason: Annotated[str, typer.Option(help="Why the trial is to end; its run shows it.")] = "",
) -> None:
    """End a study in order: running trials finish, nothing new starts. With --trial, end that trial alone."""
    ledger = open_stored(study)
    if trial is not None:
        from hpo_flows.api.instructing import stop_trial

        stop_trial(ledger, trial, reason)
        when = "with its next report" if ledger.spec.isolation == "none" else "within seconds"
        typer.echo(f"{ledger.spec.name}: trial {trial} ends {when}, as failed; another one takes its slot")
        return
    if reason:
        raise InputError("--reason", "it says why a trial ends", "give --trial, too")
    from hpo_flows.api.instructing import stop_study

    typer.echo(f"{ledger.spec.name}: no further trial starts; {stop_study(ledger)} running ones finish")


def promote(
    study: StudyArgument,
    force: Annotated[bool, typer.Option("--force", help="Against the verdict, or after a rollback.")] = False,
    reason: Annotated[str, typer.Option(help="Why; kept in the registry.")] = "",
) -> None:
    """Make the study's registered model the champion of its registered model."""
    from hpo_core.champion import registry
    from hpo_core.champion.record import champion_spec
    from hpo_flows.loop.view.events import announcing_by_hand

    ledger = open_stored(study)
    with announcing_by_hand(ledger.store, champion_spec(ledger).model, reason):
        typer.echo(registry.promote(ledger, force=force, reason=reason))


def rollback(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model in MLflow's registry.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the registry.")] = "",
) -> None:
    """Make the champion before the present one the champion again."""
    from hpo_core.champion import registry
    from hpo_flows.loop.view.events import announcing_by_hand

    store = connect()
    with announcing_by_hand(store, model_name(model), reason):
        undone, champion = registry.rollback(store, model, reason)
        typer.echo(f"{model}: version {champion} is the champion again; version {undone} is rolled back")


def doctor(
    study: Annotated[str | None, typer.Argument(metavar="[STUDY]", help="A study file (YAML), or a name.")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="End the trials whose flow is dead, as failed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check installation, store and study: a line each, with the remedy. Exit code 1 if there is a problem."""
    from hpo_flows.cli.doctor.checks import examine
    from hpo_flows.cli.doctor.findings import PATIENCE_SECONDS, Finding, Level

    spec = load_spec(study, []) if study is not None and is_file(study) else None
    name = spec.name if spec is not None else None if study is None else study_name(study)
    findings: list[Finding] = []
    for finding in examine(
        lambda: connect(patience=PATIENCE_SECONDS),
        spec,
        name,
        search_path(study or ""),
        home(),
        repair=repair,
    ):
        findings.append(finding)
        if not as_json:
            typer.echo(finding)
    healthy = all(finding.level is not Level.PROBLEM for finding in findings)
    if as_json:
        print_json(study=study, healthy=healthy, findings=[vars(finding) for finding in findings])
    if not healthy:
        raise typer.Exit(1)

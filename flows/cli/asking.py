"""The commands for trainings outside a flow, in any language: ask and tell."""

from __future__ import annotations

from typing import Annotated

import typer

from hpo_core.base.errors import InputError
from hpo_flows.cli.common import ChangeSpaceOption, StudyArgument, print_json


def ask(
    study: StudyArgument,
    for_: Annotated[
        str, typer.Option("--for", metavar="TIME", help="How long you may train: 90s, 30m, 8h, 2d.")
    ] = "1h",
    change_space: ChangeSpaceOption = False,
) -> None:
    """Reserve the next trial of a study and print it as one JSON object; hpo tell ends it."""
    from hpo_flows.api.asking import open_study
    from hpo_flows.api.outside import ask_for, seconds_of

    seconds = seconds_of(for_)
    print_json(**ask_for(open_study(study, change_space=change_space), seconds))


def tell(
    study: StudyArgument,
    trial: Annotated[int, typer.Argument(metavar="TRIAL", help="The number that hpo ask printed.", min=0)],
    result: Annotated[
        str, typer.Argument(metavar="[RESULT]", help="The metric, or a JSON object of metrics with it.")
    ] = "",
    error: Annotated[str, typer.Option(help="Why the trial has no result.")] = "",
    id: Annotated[str, typer.Option("--id", help="The id that hpo ask printed, to be sure.")] = "",
) -> None:
    """End a trial that hpo ask reserved, with its result or an error."""
    from hpo_flows.api.asking import open_study
    from hpo_flows.api.outside import tell_for

    if bool(result) == bool(error):
        given = "both a result and --error are" if error else "neither a result nor --error is"
        raise InputError("RESULT", f"{given} given", "give one of them")
    outcome = tell_for(open_study(study), trial, result, error, id)
    typer.echo(f"trial {trial}: {outcome}")

"""The commands that instruct a running study: enqueue, set, pause and resume; stop is in manage."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpo_core.base.errors import InputError
from hpo_flows.cli.common import StudyArgument, open_stored

if TYPE_CHECKING:
    from hpo_core.ledger.ledger import Ledger


def enqueue(
    study: StudyArgument,
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="As in '{lr: 0.01}'; what is left out is the best trial's.")
    ],
) -> None:
    """Have a configuration tried next."""
    from hpo_flows.api.instructing import enqueue as enqueue_in

    ledger = open_stored(study)
    whole = enqueue_in(ledger, _config(config))
    shown = ", ".join(f"{name}: {value}" for name, value in whole.items())
    typer.echo(f"{ledger.spec.name}: {{{shown}}} is tried next{_when(ledger)}")


def _config(text: str) -> dict[str, Any]:
    from hpo_core.study.yaml import YAMLError, parse_yaml

    try:
        found = parse_yaml(text)
    except YAMLError as error:
        raise InputError("CONFIG", f"{text!r} is not YAML ({error})", "write it as '{lr: 0.01}'") from None
    if not isinstance(found, dict) or not found:
        raise InputError("CONFIG", f"{text!r} has no values by parameter", "write it as '{lr: 0.01}'")
    return found


def set_settings(
    study: StudyArgument,
    changes: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", help="parallel=4 trials=+20 stop.minutes=60")],
) -> None:
    """Change settings of a study that runs: every flow takes them up."""
    from hpo_flows.api.instructing import change

    ledger = open_stored(study)
    typer.echo(f"{ledger.spec.name}: {' '.join(change(ledger, changes))}{_when(ledger)}")


def pause(study: StudyArgument) -> None:
    """Start no further trial until hpo resume; running trials go on."""
    ledger = open_stored(study)
    ledger.study.instruct("pause")
    typer.echo(f"{ledger.spec.name}: no further trial starts; hpo resume {shlex.quote(ledger.spec.name)} goes on")


def resume(study: StudyArgument) -> None:
    """Go on with a study that is paused."""
    ledger = open_stored(study)
    if not ledger.study.instructions.paused:
        raise InputError(
            "STUDY", f"{ledger.spec.name!r} is not paused", f"if no flow runs, {_next(ledger)} goes on with it"
        )
    ledger.study.instruct("resume")
    typer.echo(f"{ledger.spec.name}: trials start again{_when(ledger)}")


def _when(ledger: Ledger) -> str:
    """What is to be done for an instruction to take effect; empty if a flow has trials to start and so takes it up."""
    name = shlex.quote(ledger.spec.name)
    ledger.hear()  # the instruction itself
    history, spec = ledger.load(), ledger.spec
    hints = []
    if ledger.study.instructions.paused:
        hints.append(f"it is paused: hpo resume {name}")
    if why := spec.stop_reason(history, 0.0):
        by_count = spec.search_left(history) <= 0
        change = f"trials={spec.total_for_another(history)} lets one more start" if by_count else "can change that rule"
        hints.append(f"but {why}: hpo set {name} {change}")
    if not ledger.owners():
        hints.append(f"no trial runs now: if no flow does, {_next(ledger)}")
    return "".join(f"; {hint}" for hint in hints)


def _next(ledger: Ledger) -> str:
    """The command that starts the next trial."""
    return f"hpo {'tune' if ledger.spec.objective else 'ask'} {shlex.quote(ledger.spec.name)}"

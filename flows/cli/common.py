"""What several commands share: their arguments, and how they find the study that is meant.

What loads mlflow, pydantic or the strategies is imported where it is used, since each command starts a process.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from hpo_core.study.names import is_file, study_name
from hpo_core.tracking.connection import check_there, connect_to_read
from hpo_core.tracking.credentials import redact
from hpo_flows.objectives.reference import search_path as folders_of
from hpo_flows.reports.links import run_url

if TYPE_CHECKING:
    from hpo_core.ledger.ledger import Ledger
    from hpo_core.study.spec import StudySpec


StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="A study file (YAML), or the name of a study.")]

StudyFileArgument = Annotated[str, typer.Argument(metavar="STUDY.yaml", help="A study file.")]

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]

SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key: stop.minutes=5")
]

ChangeSpaceOption = Annotated[
    bool, typer.Option("--change-space", help="Go on in the file's space; trials outside it no longer count.")
]


def load_spec(study: str, overrides: list[str], *, reading: bool = False) -> StudySpec:
    from hpo_core.study.file import load_study

    return load_study(Path(study), overrides, reading=reading)


def overrides_of(
    given: Sequence[str] | None,
    *,
    trials: str | None = None,
    parallel: int | None = None,
    strategy: str | None = None,
    seed: int | None = None,
) -> list[str]:
    """Overrides of a study file: those given as such, and the keys that have an option of their own."""
    own = {
        "stop.trials": trials,
        "parallel": parallel,
        "strategy": None if strategy is None else json.dumps(strategy),
        "seed": seed,
    }
    return [*(given or ()), *(f"{key}={value}" for key, value in own.items() if value is not None)]


def open_stored(study: str) -> Ledger:
    """The stored study for a file or a name. Creates nothing."""
    from hpo_core.lineage.opening import find_study
    from hpo_core.lineage.series import find_current

    if is_file(study):
        spec = load_spec(study, [], reading=True)
        check_there(spec.name)
        return find_current(connect_to_read(), spec)
    name = study_name(study)
    check_there(name)
    return find_study(connect_to_read(), name)


def search_path(study: str) -> tuple[str, ...]:
    """The folders searched for an objective: the working folder, then the study file's."""
    return folders_of(study) if is_file(study) else (os.getcwd(),)


def shown_uri(ledger: Ledger) -> str:
    return redact(ledger.store.uri)


def ui_hint(ledger: Ledger) -> str:
    """Where MLflow shows the study: an address, or the command that opens it."""
    run = ledger.study_run
    return run_url(ledger.store.uri, run.experiment, run.id) or f"hpo ui {shlex.quote(ledger.spec.name)}"


class Once(TyperCommand):
    """A command that refuses an option with two values, of which typer would silently take the last."""

    def make_parser(self, ctx: Any) -> Any:
        parser: Any = super().make_parser(ctx)
        parse = parser.parse_args

        def parse_once(args: list[str]) -> Any:
            options, rest, params = parse(args)
            for param in params:
                valued = param.param_type_name == "option" and not param.is_flag and not param.multiple
                if valued and params.count(param) > 1:
                    ctx.fail(f"{param.opts[0]} is given twice; keep one")
            return options, rest, params

        parser.parse_args = parse_once
        return parser


def optional_value(option: str, default: str) -> type[Any]:
    """A command with an option whose value may be left out, and is then the default; typer does not have these."""

    class Command(Once):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            end = args.index("--") if "--" in args else len(args)
            if option in args[:end]:
                place = args.index(option)
                given = args[place + 1 : place + 2]
                if not given or not _is_number(given[0]):
                    args = [*args[:place], f"{option}={default}", *args[place + 1 :]]
            return super().parse_args(ctx, args)

    return Command


class NegativeNumbers(Once):
    """A command among whose arguments there may be a negative number, which typer itself takes for an option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        negative, others = list[str](), list[str]()
        for arg in args[:end]:
            is_option_value = bool(others) and others[-1].startswith("--") and "=" not in others[-1]
            is_negative = arg.startswith("-") and _is_number(arg) and not is_option_value
            (negative if is_negative else others).append(arg)
        return super().parse_args(ctx, [*others, "--", *negative, *args[end + 1 :]] if negative else args)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def print_json(**fields: Any) -> None:
    print(json.dumps(fields))

"""Writes ``commands.md`` from the command line itself: every command, argument and option of ``hpo`` and of the server.

One without a help text is an error.
"""

from __future__ import annotations

import argparse
import inspect
import typing
from collections.abc import Iterator
from enum import Enum
from typing import Any

from typer.models import ArgumentInfo, CommandInfo, OptionInfo

from hpo_flows.cli.app import app
from mkdocs_reference.text import Row, cell, markdown, summary, table
from mlflow_server.__main__ import parser as server_parser

INTRODUCTION = """# Commands

`STUDY` is a study file or, once the study has been started, its name. Every command explains itself with `--help`;
where `hpo` is not on the path, `python -m hpo_flows.cli` is the same. `MLFLOW_TRACKING_URI` names an MLflow server
and `PREFECT_API_URL` a Prefect server; without them everything stays in the working folder.

`hpo --version` prints the version. `hpo --install-completion` has bash, zsh, fish or PowerShell complete commands,
options and values; `hpo --show-completion` prints the script instead.

## Exit codes

| code | meaning |
| --- | --- |
| 0 | done |
| 1 | no trial gave a value; of `doctor`: there is a problem; of `delete`: the answer was no |
| 2 | bad input, or a package is missing: the message names the extra that brings it |
| 3 | a server does not respond, or the disk cannot be written |
| 130, 143 | stopped by SIGINT, by SIGTERM |

## States

| `hpo list` says | the study |
| --- | --- |
| running | has a live flow |
| finished | ended by one of its stop rules |
| stopped | was stopped (`hpo stop`, Ctrl-C), or its flow died; `hpo tune` goes on with it |
| failed | ended because its first trials all failed with the same error, or a trial showed a mistake in the study |
| unreadable | has a damaged specification in MLflow |

A flow that died on another machine counts as alive until its [lease](glossary.md#lease) runs out, four minutes
later.

## Columns of an export

One row for each trial: `number`, `state`, `value` (the study's metric), `fidelity`, `params.NAME` for each
parameter, `metrics.NAME` for each metric, `start` and `end` in UTC, `seconds`, `reason` and `run_id`. What does not
exist is empty (null in JSON and Parquet). In Parquet, a parameter with choices of several types is a column of JSON
texts.
"""

SERVER = """## The tracking server

`python -m mlflow_server` starts MLflow's tracking server and looks after it: [servers for a
team](../how-to/team.md). Exit codes: 0 ended cleanly, 2 bad input, 3 a server does not respond or refuses."""

PLAIN = {str: "TEXT", int: "N", float: "X"}


def page() -> str:
    """The whole page in Markdown."""
    parts = [INTRODUCTION.rstrip()]
    for command in app.registered_commands:
        parts += _command(command)
    parts.append(SERVER)
    for name, parser in _servers(server_parser()):
        parts += _server(name, parser)
    return "\n\n".join(part for part in parts if part) + "\n"


def _command(command: CommandInfo) -> Iterator[str]:
    function = command.callback
    assert function is not None
    name = command.name or function.__name__
    yield f"## `hpo {name}`"
    yield summary(function.__doc__)
    rows = []
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        kind, info = typing.get_args(parameter.annotation)
        rows.append(_row(name, parameter, kind, info))
    yield table(["argument", "default", "meaning"], rows) if rows else ""


def _row(command: str, parameter: inspect.Parameter, kind: Any, info: ArgumentInfo | OptionInfo) -> Row:
    if not info.help:
        raise ValueError(f"`hpo {command}`: {parameter.name} has no help; give it one where it is declared")
    (kind, *_) = [each for each in typing.get_args(kind) or [kind] if each is not type(None)]
    many = typing.get_origin(kind) is list
    kind = typing.get_args(kind)[0] if many else kind
    values = ", ".join(f"`{each.value}`" for each in kind) if isinstance(kind, type) and issubclass(kind, Enum) else ""
    shown = info.metavar or PLAIN.get(kind, parameter.name.strip("_").upper())
    if isinstance(info, OptionInfo):
        first = [info.default] if isinstance(info.default, str) else []  # where typer keeps what is given first
        names = [*first, *(info.param_decls or ())] or [f"--{parameter.name.replace('_', '-')}"]
        spelled = ", ".join(f"`{each}`" if kind is bool else f"`{each} {shown}`" for each in names)
    else:
        spelled = f"`{shown}`"
    default = parameter.default
    absent = default is inspect.Parameter.empty or default is None or default is False
    required = "*required*" if default is inspect.Parameter.empty else ""
    more = (f"Values: {values}." if values else "", "May be repeated." if many else "")
    meaning = " ".join(filter(None, (info.help if info.help.endswith(".") else f"{info.help}.", *more)))
    return spelled, required if absent else f"`{getattr(default, 'value', default)}`", cell(meaning)


def _servers(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The commands of the server with their parsers."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {each.dest: each.help for each in action._choices_actions}
            for name, inner in action.choices.items():
                inner.description = helps[name]
                yield name, inner


def _server(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f"### `{name}`"
    yield markdown(f"{(parser.description or '')[:1].upper()}{(parser.description or '')[1:]}.")
    rows: list[Row] = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        metavar = action.metavar or "|".join(action.choices or ()) or action.dest.upper()
        takes = "" if action.nargs == 0 else f" {metavar}"
        spelled = ", ".join(f"`{option}{takes}`" for option in action.option_strings) or f"`{metavar}`"
        default = "" if action.default in (None, False) else f"`{action.default}`"
        required = "*required*" if not action.option_strings and action.nargs != "?" else default
        rows.append((spelled.replace("|", "\\|"), required, cell(action.help or "")))
    yield table(["argument", "default", "meaning"], rows)

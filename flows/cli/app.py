"""The command line, ``hpo``: its commands and exit codes.

Exit codes: 0 done, 1 no trial returned a value, 2 bad input, 3 a server does not respond, 130 or 143 interrupted.
"""

from __future__ import annotations

import errno
import sys
from typing import Annotated, Any

import typer

from hpo_core.base.errors import InputError, StudyFailed, TrackingRefusal, Unreachable
from hpo_core.base.extras import missing_extra
from hpo_flows.base import stopping
from hpo_flows.cli import asking, deployment, instruct, look, manage, run, studies
from hpo_flows.cli.common import NegativeNumbers, Once, optional_value
from hpo_flows.cli.starter import command as starter

_NAMES = {
    "check_strategy": "check-strategy",
    "explain_trial": "explain",
    "list_studies": "list",
    "set_settings": "set",
    "write_study_report": "report",
}
"""The commands whose functions have a longer name."""

app = typer.Typer(
    pretty_exceptions_enable=False,
    help="Tune hyperparameters in Prefect flows, with MLflow as the only state.",
)

UsageError: type[Any] = next(each for each in typer.BadParameter.__mro__ if each.__name__ == "ClickException")
"""What typer raises for an invalid command line: the error of click, or of its own copy in some releases."""


def _print_version(wanted: bool) -> None:
    from importlib.metadata import version

    if wanted:
        typer.echo(f"hpo-flows {version('hpo-flows')}")
        raise typer.Exit


@app.callback()
def _before_all(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


_CLASSES: dict[Any, type[Any]] = {look.status: optional_value("--watch", "5"), asking.tell: NegativeNumbers}

for _command in (
    starter.init,
    run.validate,
    run.check_strategy,
    run.tune,
    studies.list_studies,
    look.status,
    look.best,
    look.explain_trial,
    look.write_study_report,
    studies.export,
    look.ui,
    instruct.enqueue,
    instruct.set_settings,
    instruct.pause,
    instruct.resume,
    manage.stop,
    asking.ask,
    asking.tell,
    studies.delete,
    manage.promote,
    manage.rollback,
    manage.doctor,
    deployment.deploy,
    deployment.serve,
):
    app.command(_NAMES.get(_command.__name__), cls=_CLASSES.get(_command, Once))(_command)


def main() -> None:
    """The console script: typer's commands, with errors that users can act on instead of tracebacks."""

    stopping.begin()
    try:
        code = app(standalone_mode=False)
    except UsageError as error:
        print(f"error: {_usage_line(error)}", file=sys.stderr)
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort) as stopped:
        cause = stopped.__cause__
        # For example a pipe that ended early, which typer takes for Ctrl-D at a prompt.
        code = _explain(cause) if isinstance(cause, EOFError) else 128 + getattr(stopped, "number", 2)
    except Exception as error:
        code = _explain(error)
    sys.exit(code or 0)


UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST}
"""The errors for a folder that is read-only, full, or not a folder."""


def _usage_line(error: Any) -> str:
    """One line that says what is wrong with a command line, and where to find help."""
    if hasattr(error.__cause__, "errors"):  # of pydantic, by which some versions of typer read values
        from hpo_core.base.settings import problem_of

        detail = error.__cause__.errors()[0]
        error.message = str(detail["ctx"]["error"]) if detail["type"] == "value_error" else problem_of(detail)
    problem = " ".join(error.format_message().split()).rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{problem}; see {'hpo' if context is None else context.command_path} --help"


def _explain(error: Exception) -> int:

    error = missing_extra(error) or error
    if isinstance(error, StudyFailed):
        print(f"error: {error}", file=sys.stderr)
        return 1
    if isinstance(error, InputError):
        print(f"error: {error}", file=sys.stderr)
        return 2
    if isinstance(error, Unreachable | TrackingRefusal):
        print(f"error: {error}", file=sys.stderr)
        return 3
    if isinstance(error, OSError) and error.errno in UNWRITABLE and error.filename is not None:
        print(f"error: {error.filename} cannot be written ({error.strerror}); see to it and try again", file=sys.stderr)
        return 3
    raise error

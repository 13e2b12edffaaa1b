"""Runs a KerasTuner script as it is: ``python -m hpo_flows.keras script.py [args]``.

``import keras_tuner`` in it imports :mod:`hpo_flows.keras`. The script is ``__main__``, so what it defines travels to
the workers by value, as from any script.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import ModuleType

from hpo_core.base.errors import InputError
from hpo_flows.keras.modules import stand_in_for_keras_tuner

USAGE = "python -m hpo_flows.keras SCRIPT.py [ARGUMENTS]"


def run_script(path: str, arguments: list[str]) -> None:
    """Run a script as ``python path arguments`` does, with this package under KerasTuner's name.

    Raises:
        InputError: The file does not exist.
        SystemExit: The script ended itself, or raised.
    """
    file = Path(path).absolute()
    try:
        with io.open_code(str(file)) as opened:
            source = opened.read()
    except OSError as error:
        raise InputError("script", f"{path!r} cannot be read ({error.strerror})", f"usage: {USAGE}") from None
    stand_in_for_keras_tuner()
    main = ModuleType("__main__")
    main.__dict__.update(__file__=str(file), __builtins__=__builtins__)
    sys.modules["__main__"], sys.argv, sys.path[0] = main, [path, *arguments], str(file.parent)
    try:
        exec(compile(source, file, "exec"), main.__dict__)  # noqa: S102 (the user's own script)
    except Exception as error:
        here = error.__traceback__
        error.with_traceback(here and here.tb_next)  # it begins in the script
        sys.excepthook(type(error), error, error.__traceback__)
        raise SystemExit(1) from None


def _main() -> None:
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        raise InputError("script", "no script is named", f"usage: {USAGE}")
    run_script(sys.argv[1], sys.argv[2:])


if __name__ == "__main__":
    try:
        _main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None

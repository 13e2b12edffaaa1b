"""Runs scripts written for KerasTuner as they are, and as a script of ours, and compares what they say at the end.

    python -m benchmarks.keras_scripts [NAME ...] [--ways keras_tuner import name] [--jsonl FILE]

The scripts in ``tests/compat/scripts/`` have the shape of what people write, and print a line of JSON at the end. Each
runs in three ways, every time in a process and an empty folder of its own: *keras_tuner* is the script as it is,
*import* has ``hpo_flows.keras`` in its import lines, and *name* is ``python -m hpo_flows.keras SCRIPT``. Seconds are of
the processor, start and imports included, so that another program on the machine does not count.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SCRIPTS = {path.stem: path for path in sorted((ROOT / "tests/compat/scripts").glob("*/*.py"))}
WAYS = ("keras_tuner", "import", "name")
NEEDS = {"jax_mlp": "jax", "torch_cnn": "torch"}
"""The package that a script imports and that is not always there."""

SILENT = {"TF_CPP_MIN_LOG_LEVEL": "3", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1"}


@dataclass(frozen=True)
class Outcome:
    """How one run of a script ended.

    Attributes:
        facts: What it printed as JSON; None if it did not come to its end.
        last: The last lines of its error output.
    """

    script: str
    way: str
    code: int
    seconds: float
    wall: float
    facts: dict[str, Any] | None
    last: str


def lacking(script: str) -> str | None:
    """The package that a script needs and that is not installed."""
    package = NEEDS.get(script)
    return package if package and find_spec(package) is None else None


def with_import_changed(source: str) -> str:
    """The script, with its import lines naming our package."""
    source = re.sub(r"(?m)^import keras_tuner$", "import hpo_flows.keras as keras_tuner", source)
    return re.sub(r"(?m)^(import|from) keras_tuner\b", r"\1 hpo_flows.keras", source)


def run(script: str, way: str, folder: Path, timeout: float = 600) -> Outcome:
    """Run it in ``folder``, which should be empty."""
    source = SCRIPTS[script].read_text(encoding="utf-8")
    path = folder / f"{script}.py"
    path.write_text(with_import_changed(source) if way == "import" else source, encoding="utf-8")
    command = [sys.executable, *(["-m", "hpo_flows.keras"] if way == "name" else []), path.name]
    path_ = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | SILENT | {"PYTHONPATH": path_, "HPO_HOME": str(folder / "home")}
    environment.pop("MLFLOW_TRACKING_URI", None)
    before, began = _processor(), time.monotonic()
    with open(folder / "out.txt", "w") as out, open(folder / "err.txt", "w") as err:
        try:
            code = subprocess.run(
                command, cwd=folder, env=environment, stdout=out, stderr=err, stdin=subprocess.DEVNULL, timeout=timeout
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
    printed = (folder / "out.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    errors = (folder / "err.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    found = [line for line in printed if line.startswith('{"')]
    return Outcome(
        script=script,
        way=way,
        code=code,
        seconds=_processor() - before,
        wall=time.monotonic() - began,
        facts=json.loads(found[-1]) if found and code == 0 else None,
        last="\n".join(errors[-12:]),
    )


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def differences(expected: Outcome, got: Outcome) -> list[str]:
    """What is of another kind: real numbers may have another value, everything else is the same."""
    if got.code != 0:
        return [f"it ended with code {got.code}: {got.last}"]
    if expected.facts is None or got.facts is None:
        return [f"no line of JSON from {each.way}" for each in (expected, got) if each.facts is None]
    found = [f"only one says {name!r}" for name in sorted(set(expected.facts) ^ set(got.facts))]
    for name in sorted(set(expected.facts) & set(got.facts)):
        theirs, ours = expected.facts[name], got.facts[name]
        if isinstance(theirs, float) and isinstance(ours, int | float):
            if math.isfinite(theirs) and not math.isfinite(ours):
                found.append(f"{name}: {ours}")
        elif theirs != ours:
            found.append(f"{name}: {theirs} there, {ours} here")
    return found


def _row(script: str, outcomes: Mapping[str, Outcome]) -> str:
    """A line of a Markdown table."""
    cells = [script]
    theirs = outcomes.get("keras_tuner")
    for way in WAYS:
        each = outcomes.get(way)
        if each is None:
            cells.append("")
        elif each.code:
            cells.append(f"fails, {each.seconds:.0f} s")
        else:
            differs = way != "keras_tuner" and theirs is not None and differences(theirs, each)
            cells.append(f"{'differs' if differs else 'runs'}, {each.seconds:.0f} s")
    return "| " + " | ".join(cells) + " |"


def main() -> int:
    """Print the table; returns how many runs were of another kind than KerasTuner's."""
    parser = argparse.ArgumentParser()
    parser.add_argument("scripts", nargs="*", metavar="NAME", default=list(SCRIPTS))
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--jsonl", help="append every outcome to this file")
    given = parser.parse_args()
    wrong = 0
    print("| script | keras_tuner | import changed | python -m hpo_flows.keras |\n| --- | --- | --- | --- |")
    for script in given.scripts:
        if package := lacking(script):
            print(f"| {script} | not run: {package} is not installed | | |", flush=True)
            continue
        outcomes: dict[str, Outcome] = {}
        for way in given.ways:
            with tempfile.TemporaryDirectory() as folder:
                outcomes[way] = run(script, way, Path(folder))
            if given.jsonl:
                with open(given.jsonl, "a", encoding="utf-8") as lines:
                    lines.write(json.dumps(asdict(outcomes[way])) + "\n")
        print(_row(script, outcomes), flush=True)
        for way in given.ways:
            if way != "keras_tuner" and "keras_tuner" in outcomes:
                found = differences(outcomes["keras_tuner"], outcomes[way])
                wrong += bool(found)
                for difference in found:
                    print(f"    {way}: {difference}", file=sys.stderr, flush=True)

    return wrong


if __name__ == "__main__":
    sys.exit(main())

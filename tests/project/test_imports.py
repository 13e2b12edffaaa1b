"""What an import may cost: `hpo --help` answers at once because nothing heavy is loaded for it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import hpo_core
import hpo_flows
import hpo_flows.keras

ROOT = Path(hpo_core.__file__).parents[1]
HEAVY = {"mlflow", "prefect", "tensorflow", "keras", "torch", "sklearn", "pandas", "pyarrow"}
HELP = """
import sys
sys.argv = ["hpo", *{arguments}]
from hpo_flows.cli.app import main
try:
    main()
except SystemExit as end:
    assert end.code == 0, end.code
"""
INIT = """
import tempfile
folder = tempfile.TemporaryDirectory()
""" + HELP.replace("{arguments}", "['init', folder.name, '--kind', 'keras']")
COMPLETION = "import os; os.environ |= dict(_HPO_COMPLETE='complete_bash', COMP_WORDS='hpo tu', COMP_CWORD='1')\n" + (
    HELP.format(arguments=[])
)


STUDY = """
import os, pathlib, tempfile
folder = tempfile.TemporaryDirectory()
os.chdir(folder.name)
pathlib.Path("nothing.py").write_text("def train(trial): return 1.0")
pathlib.Path("study.yaml").write_text(
    "{name: s, objective: 'nothing:train', metric: m, direction: minimize, stop: {trials: 1}, "
    "space: {x: {type: float, low: 0, high: 1}}}"
)
"""
VALIDATE = STUDY + HELP.format(arguments=["validate", "study.yaml"])


def loaded_by(code: str) -> set[str]:
    """The top-level modules that stand in sys.modules after some code ran."""
    report = "\nimport sys; print('LOADED', *sorted({name.partition('.')[0] for name in sys.modules}))"
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code + report],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return set(child.stdout.rpartition("LOADED ")[2].split())


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import hpo_core", HEAVY | {"numpy", "scipy", "pydantic"}),
        ("import hpo_flows", HEAVY | {"numpy", "scipy", "pydantic"}),
        (
            "import hpo_flows.objectives.context, hpo_flows.objectives.reference, hpo_flows.workers.worker",
            HEAVY | {"scipy", "pydantic"},
        ),
        ("import hpo_core.ledger.ledger, hpo_core.strategies.make, hpo_core.study.spec", HEAVY - {"sklearn"}),
        ("import hpo_flows.hypergradient", HEAVY | {"numpy", "scipy", "pydantic"}),
        ("import mlflow_server", HEAVY),
        ("import hpo_flows.keras", HEAVY | {"numpy", "scipy", "pydantic"}),
        ("from hpo_flows.keras import HyperModel, Hyperband, Tuner, callbacks, keras_objective", HEAVY),
        (HELP.format(arguments=["--help"]), HEAVY | {"numpy", "scipy", "pydantic"}),
        (HELP.format(arguments=["tune", "--help"]), HEAVY | {"numpy", "scipy"}),
        (HELP.format(arguments=["--version"]), HEAVY | {"numpy", "scipy", "pydantic", "rich"}),
        (INIT, HEAVY | {"numpy", "scipy", "rich"}),
        (COMPLETION, HEAVY | {"numpy", "scipy"}),
        (VALIDATE, HEAVY | {"rich", "httpx", "sqlalchemy"}),
        *(
            (HELP.format(arguments=[command, "--help"]), HEAVY | {"numpy", "scipy"})
            for command in ("list", "status", "export", "delete")
        ),
    ],
    ids=[
        *("hpo_core", "flows", "worker", "ledger", "hypergradient", "mlflow_server", "keras", "keras_names", "help"),
        *(
            "tune_help",
            "version",
            "init",
            "completion",
            "validate",
            "list_help",
            "status_help",
            "export_help",
            "delete_help",
        ),
    ],
)
def test_nothing_heavy_is_imported(code: str, forbidden: set[str]) -> None:
    modules = loaded_by(code)
    assert {"sys", "hpo_core"} & modules
    assert modules & forbidden == set()


def test_heavy_modules_would_be_seen() -> None:
    assert "pydantic" in loaded_by("import hpo_core; hpo_core.Float")


@pytest.mark.parametrize("package", [hpo_core, hpo_flows, hpo_flows.keras], ids=["hpo_core", "flows", "keras"])
def test_what_a_package_promises_is_there_and_nothing_else(package: ModuleType) -> None:
    for name in package.__all__:
        assert callable(getattr(package, name))
    with pytest.raises(AttributeError, match="has no attribute 'absent'"):
        package.absent  # noqa: B018


def test_every_tag_has_its_name_in_the_schema() -> None:
    """Tags are written and read in twenty files: a name that is spelled out in one of them is a second schema."""
    tags = "hpo_core/ledger/tags.py"
    # What is refused to users, the names of loggers and of Prefect's events, and an example of a stored run.
    others = {"hpo_core/base/storable.py", "hpo_core/ledger/snapshot.py"}
    others |= {"flows/workers/output.py", "flows/base/waiting.py", "flows/loop/view/events.py"}
    spelled = re.compile(r'"hpo\.[a-z_.]+"')
    files = [path for package in ("hpo_core", "flows", "mlflow_server") for path in (ROOT / package).rglob("*.py")]
    found = {str(path.relative_to(ROOT)) for path in files if spelled.search(path.read_text(encoding="utf-8"))}
    assert tags in found and found - others - {tags} == set()

"""What an import may cost: `hpo --help` answers at once because nothing heavy is loaded for it."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
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


@cache
def ours() -> dict[str, ast.Module]:
    """The trees of our modules, by name."""
    found = {}
    for package, folder in (("hpo_core", "hpo_core"), ("hpo_flows", "flows"), ("mlflow_server", "mlflow_server")):
        for path in (ROOT / folder).rglob("*.py"):
            parts = [package, *path.relative_to(ROOT / folder).with_suffix("").parts]
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports(node: ast.AST, *, inside: bool) -> Iterator[str]:
    """The modules that are imported inside functions, or those outside; what is for types alone is neither."""
    for child in ast.iter_child_nodes(node):
        function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import | ast.ImportFrom):
            module = getattr(child, "module", None)
            for alias in [] if inside else child.names:
                name = alias.name if module is None else f"{module}.{alias.name}"
                yield name if module is None or name in ours() else module
        elif function and inside:
            yield from imports(child, inside=False)
        elif not function:
            yield from imports(child, inside=inside)


@cache
def loaded(module: str) -> frozenset[str]:
    """All modules that an import of a module loads, itself among them, as far as they say so outside of functions."""
    found, waiting = set[str](), [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        if name in ours():
            parents = [name.rpartition(".")[0]] if "." in name else []
            waiting += [*imports(ours()[name], inside=False), *parents]
    return frozenset(found)


def packages(module: str) -> set[str]:
    """The packages of others that an import of a module loads."""
    return {name.partition(".")[0] for name in loaded(module) - ours().keys()} - sys.stdlib_module_names


def test_a_module_of_ours_is_imported_in_a_function_only_where_that_spares_a_package() -> None:
    spared = {
        (name, inner): packages(inner) - packages(name)
        for name, tree in ours().items()
        for inner in imports(tree, inside=True)
        if inner in ours()
    }
    assert len(spared) > 50 and spared["hpo_flows.api.running", "hpo_flows.loop.tune"] >= {"prefect"}
    assert [pair for pair, found in spared.items() if not found] == []

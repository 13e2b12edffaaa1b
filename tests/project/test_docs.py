"""Every block of the documents is run, validated or parsed by what would take it; a new one that is not fails here.

Python blocks run as they stand, in a temporary folder; what fragments take for granted stands in ``tests/snippets.py``.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from hpo_core.base.extras import is_installed
from hpo_core.strategies.make import known_class
from hpo_core.study.file import study_from
from hpo_core.study.spec import StudySpec
from hpo_core.study.yaml import parse_yaml
from hpo_flows.cli.app import app
from tests.documents import ROOT, Block, blocks, commands, spans
from tests.snippets import AFTER, BEFORE, ENVIRONMENT, NEEDS, NOT_RUN, SLOW, a_trial

BLOCKS = list(blocks())
QUICKSTART = [block for block in BLOCKS if block.key.startswith("docs/tutorial/first-study.md")]
DELETE = next(block for block in BLOCKS if "find_study(connect()" in block.text)
"""Needs the study of the quickstart, and is run after it."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def of(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language and block.key not in NOT_RUN]


def by_key(found: list[Block]) -> Any:
    marks = {block.key: [pytest.mark.slow] if block.key in SLOW else [] for block in found}
    return pytest.mark.parametrize("block", [pytest.param(each, id=each.key, marks=marks[each.key]) for each in found])


def test_every_block_is_run_or_excused() -> None:
    known = {"python", "yaml", "console"}
    assert [block.key for block in BLOCKS if block.language not in known and block.key not in NOT_RUN] == []
    keys = {block.key for block in BLOCKS}
    for table in (BEFORE, AFTER, NOT_RUN, SLOW, NEEDS):
        assert set(table) <= keys, "tests/snippets.py names a block that is gone"
    assert all(NOT_RUN.values())


@pytest.mark.filterwarnings("ignore")  # Keras' and MLflow's own
@pytest.mark.usefixtures("prefect_server")
@by_key([block for block in of("python") if block not in (*QUICKSTART, DELETE)])
def test_a_python_block_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if (package := NEEDS.get(block.key)) and not is_installed(package):
        pytest.skip(f"{package} is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    # As a script's, so that functions go to worker processes by value.
    names: dict[str, Any] = {"__name__": "__main__", "a_trial": lambda **given: a_trial(tmp_path, **given)}
    parts = (BEFORE.get(block.key, ""), block.text, AFTER.get(block.key, ""))
    exec(compile("\n".join(filter(None, parts)), block.key, "exec"), names)


BASE: dict[str, Any] = {
    "name": "base",
    "objective": "examples.digits_gradient:train",
    "metric": "loss",
    "direction": "minimize",
    "space": {
        "learning_rate": {"type": "float", "low": 1e-4, "high": 0.1, "log": True},
        "max_depth": {"type": "int", "low": 1, "high": 9},
        "optimizer": {"type": "choice", "choices": ["adam", "sgd"]},
    },
    "stop": {"trials": 10},
}
FIDELITY = {"name": "epochs", "min": 1, "max": 27, "eta": 3}


def validate(text: str) -> None:
    """Validate a study file, or some of its keys with a base study for the rest."""
    data = parse_yaml(text)
    whole = BASE | data
    if "prefer" in data:  # of several metrics
        whole.setdefault("metrics", {"val_accuracy": "maximize", "latency_ms": "minimize"})
    if "metrics" in whole:  # in place of the base's one
        del whole["metric"], whole["direction"]
    if {"cost", "worth"} & {*dict(data.get("stop") or {})}:
        whole.setdefault("cost", "seconds")
    strategy = whole.get("strategy", "auto")
    name = strategy["name"] if isinstance(strategy, dict) else strategy
    rule = whole.get("early_stop", "")
    if known_class(name).chooses_fidelity or "extrapolation" in str(rule):
        whole.setdefault("fidelity", FIDELITY)
    package = known_class(name).package
    spec = study_from(whole, reading=":" in name or bool(package and not is_installed(package)))
    if "objective" in data and spec.objective.startswith("examples."):
        assert (ROOT / f"{spec.objective.partition(':')[0].replace('.', '/')}.py").is_file()


def alternatives(text: str) -> list[str]:
    """A block whose lines all give the same key shows several ways to give it."""
    keys = [line.partition(":")[0] for line in text.splitlines()]
    return text.splitlines() if len(keys) > 1 and len(set(keys)) == 1 else [text]


@by_key(of("yaml"))
def test_a_study_block_is_valid(block: Block) -> None:
    for text in alternatives(block.text):
        validate(text)


KEY = re.compile(rf"({'|'.join(StudySpec.model_fields)}): \S.*")
KEYS = [(page, code) for page, code in spans() if KEY.fullmatch(code) and "..." not in code]


def test_keys_in_sentences_are_valid() -> None:
    assert len(KEYS) > 20
    for page, code in KEYS:
        if re.search(r": [A-Z]", code):
            continue  # a placeholder
        try:
            validate(code)
        except Exception as error:
            raise AssertionError(f"{page}: `{code}`") from error


class Parsed(Exception):
    """Raised in place of what a command would do."""


def _typer(group: Any, words: list[str]) -> None:
    """Parse a command of typer's or click's without calling it."""
    while hasattr(group, "commands"):
        assert words and words[0] in group.commands, f"unknown command: {words[:1]}"
        group, words = group.commands[words[0]], words[1:]
    group.make_context(group.name, list(words))


def _hpo(words: list[str]) -> None:
    numbers = {"N": "1", "K": "1", "TRIAL": "1", "SECONDS": "1"}
    command = typer.main.get_command(app)
    if words[0].startswith("--"):
        assert any(words[0] in parameter.opts for parameter in command.params) and len(words) == 1
        return
    _typer(command, [numbers.get(word.strip("[]"), word.strip("[]")) for word in words])


def _python(words: list[str]) -> None:
    """Parse the arguments of ``python -m MODULE`` by its own parser."""
    assert words[0] == "-m", "only modules are run"
    found = importlib.util.find_spec(words[1])
    assert found is not None, f"no module named {words[1]}"
    source = ROOT / words[1].replace(".", "/")
    source = source / "__main__.py" if source.is_dir() else source.with_suffix(".py")
    if words[1] == "hpo_flows.keras":  # which takes a script and whatever that takes
        assert len(words) > 2
        return
    text = source.read_text(encoding="utf-8")
    parses = "parse_args" in text or "from benchmarks.command import" in text  # the command line that several share
    if not parses or len(words) == 2:
        assert len(words) == 2, f"{words[1]} takes no arguments"
        return  # it would start at once
    parse = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, *given: Any) -> None:
        parse(parser, *given)
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(sys, "argv", words[1:])
        with pytest.raises(Parsed):
            runpy.run_module(words[1], run_name="__main__")


def _make(words: list[str]) -> None:
    subprocess.run(["make", "--dry-run", *words], cwd=ROOT, check=True, capture_output=True)


def _mlflow(words: list[str]) -> None:
    from mlflow.cli import cli

    _typer(cli, words)


def _dask(words: list[str]) -> None:
    from distributed.cli.dask_scheduler import main as scheduler
    from distributed.cli.dask_worker import main as worker

    _typer({"scheduler": scheduler, "worker": worker}[words[0]], words[1:])


def _ray(words: list[str]) -> None:
    from ray.scripts.scripts import cli

    _typer(cli, words)


def _prefect(words: list[str]) -> None:
    from prefect.cli._app import _app

    _app.parse_args(words, exit_on_error=False, print_error=False)


def _docker(words: list[str]) -> None:
    """Services and profiles are those of the compose file."""
    assert words.pop(0) == "compose"
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    profiles = {profile for service in compose["services"].values() for profile in service.get("profiles", ())}
    if words[0] == "--profile":
        assert words[1] in profiles
        words = words[2:]
    assert words[0] in ("up", "run", "down", "build")
    valued = {"--volume"}
    rest = [word for before, word in itertools.pairwise(words) if before not in valued]
    services = [word for word in rest if not word.startswith("-")]
    if words[0] == "run":
        image, arguments = services[0], rest[rest.index(services[0]) + 1 :]
        assert image == "mlflow"
        _python(["-m", "mlflow_server", *arguments])
        services = [image]
    assert set(services) <= set(compose["services"])


def _pip(words: list[str]) -> None:
    assert words[0] == "install"
    for extra in re.findall(r"\[(.+?)\]", " ".join(words)):
        assert set(extra.split(",")) <= set(PROJECT["optional-dependencies"])


def _shell(words: list[str]) -> None:
    """Of the shell itself; that the line is one is checked for all."""


PROGRAMS: dict[str, Callable[[list[str]], None]] = {
    "hpo": _hpo, "python": _python, "make": _make, "mlflow": _mlflow, "prefect": _prefect, "docker": _docker,
    "dask": _dask, "ray": _ray, "pip": _pip, "set": _shell, ".": _shell, "export": _shell, "printf": _shell,
}  # fmt: skip


def check(command: str) -> None:
    """Parse a line by the programs that it names.

    Raises:
        AssertionError: One would refuse it, or is not known here.
    """
    subprocess.run(["bash", "-n", "-c", command], check=True, capture_output=True)
    for part in re.split(r"\s*(?:;|&&)\s*", command):
        words = shlex.split(re.split(r"\s>>?\s", part)[0])
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            del words[0]
        if words:
            assert words[0] in PROGRAMS, f"{words[0]} is not known to this test"
            PROGRAMS[words[0]](words[1:])


LINES = [(block.key, line) for block in of("console") for line in commands(block)]
SPOKEN = [
    (page, code) for page, code in spans() if re.match(r"(hpo|make|docker|pip|mlflow|prefect|python -m) [\w'-]", code)
]


@pytest.mark.filterwarnings("ignore")  # of packages that a benchmark imports
def test_commands_are_understood_by_their_programs() -> None:
    assert len(LINES) > 20 and len(SPOKEN) > 40
    wrong = []
    for where, line in dict.fromkeys([*LINES, *SPOKEN]):
        try:
            check(line)
        except BaseException as error:  # parsers end by SystemExit
            if type(error).__name__ == "MissingParameter" and (where, line) not in LINES:
                continue  # a sentence may speak of `hpo tune` as such
            wrong.append(f"{where}: `{line}`: {type(error).__name__} {error}")
    assert wrong == []


def test_the_checks_can_fail() -> None:
    for line in (
        "hpo tune",
        "hpo best x --jsn",
        "make nothing",
        "python -m benchmarks.regret rum",
        "rm -r x",
        "hpo fly x",
    ):
        with pytest.raises(BaseException):  # noqa: B017  (parsers end by SystemExit)
            check(line)
    with pytest.raises(Exception, match="not a strategy"):
        validate("strategy: bayes")


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_the_quickstart_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("HPO_REPORT", raising=False)  # tests do without
    (code,), (study,) = ([each for each in QUICKSTART if each.language == kind] for kind in ("python", "yaml"))
    (tmp_path / "forest.py").write_text(code.text)
    (tmp_path / "forest.yaml").write_text(study.text)
    lines = [line for block in QUICKSTART if block.language == "console" for line in commands(block)]
    outputs = {}
    for line in lines:
        program, *words = shlex.split(line)
        if (program, words[0]) in (("pip", "install"), ("hpo", "ui")):
            continue  # parsed above; the one changes the environment, the other serves until it is ended
        answer = CliRunner().invoke(app, words)
        assert answer.exit_code == 0, (line, answer.output, answer.exception)
        outputs[line] = answer.output
    assert "16" in outputs["hpo status forest"]
    assert "n_estimators: " in outputs["hpo best forest"]
    assert (tmp_path / "report-forest" / "report.html").exists()
    assert {"mlflow.db", "mlartifacts", ".hpo", "best-forest.yaml"} <= {path.name for path in tmp_path.iterdir()}
    exec(DELETE.text, {})
    assert CliRunner().invoke(app, ["status", "forest"]).exception is not None

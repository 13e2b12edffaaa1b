"""The command line: whatever cannot be read is one line and exit code 2."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import typer

from hpo_flows.cli import app as cli
from mlflow_server import __main__ as server

HPO = Path(sys.executable).with_name("hpo")

USAGE = {
    "": "Missing command",
    "statsu": "Did you mean 'status'?",
    "--wrong": "No such option: --wrong",
    "best": "Missing argument 'STUDY'",
    "tune --wrong x": "No such option: --wrong",
    "tune x y": "unexpected extra argument",
    "tune x --parallel many": "'--parallel': 'many' is not a whole number",
    "export x --format xls": "'--format': 'xls' is not one of 'csv', 'json', 'parquet'",
    "tune x --trials": "'--trials' requires an argument",
    "explain x first": "'[TRIAL]': 'first' is not a whole number",
    "ui --port 99999999": "'--port': '99999999' is not ",
    "tune x --trials 3 --trials=+20": "--trials is given twice; keep one",
}


def commands() -> list[str]:
    return [each.name or each.callback.__name__ for each in cli.app.registered_commands if each.callback]


@pytest.mark.parametrize("line", USAGE)
def test_the_installed_command_tells_a_usage_error_in_one_line(line: str, tmp_path: Path) -> None:
    done = subprocess.run([HPO, *line.split()], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (said,) = done.stderr.splitlines()
    assert said.startswith("error: ") and USAGE[line] in said and said.endswith("--help")
    assert not list(tmp_path.iterdir())


def test_the_installed_command_says_its_version(tmp_path: Path) -> None:
    done = subprocess.run([HPO, "--version"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"hpo-flows {version('hpo-flows')}\n", "")


def called(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr("sys.argv", ["hpo", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


@pytest.mark.parametrize("name", commands())
def test_every_command_tells_an_unknown_option_in_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called([name, "x", "--wrong"], monkeypatch) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1


def valued_options() -> list[tuple[str, str]]:
    group = typer.main.get_command(cli.app)
    return [
        (name, param.opts[0])
        for name, command in group.commands.items()  # type: ignore[attr-defined]
        for param in command.params
        if param.param_type_name == "option" and not param.is_flag and not param.multiple
    ]


@pytest.mark.parametrize(("name", "option"), valued_options())
def test_an_option_is_not_given_twice(
    name: str, option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Typer would silently take the last."""
    assert called([name, "x", option, "1", f"{option}=2"], monkeypatch) == 2
    assert capsys.readouterr().err == f"error: {option} is given twice; keep one; see hpo {name} --help\n"


def test_every_error_of_typers_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> None:
        raise typer.BadParameter("it is\nnot so")

    app = typer.Typer()
    app.command()(refuse)
    monkeypatch.setattr(cli, "app", app)
    assert called([], monkeypatch) == 2
    assert capsys.readouterr().err.startswith("error: Invalid value: it is not so; see ")


def test_a_pipe_that_ends_is_not_taken_for_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise EOFError("the pipe has ended")

    app = typer.Typer()
    app.command()(broken)
    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr("sys.argv", ["hpo"])
    with pytest.raises(EOFError):
        cli.main()


@pytest.mark.parametrize(
    "line", ["", "upp", "--wrong", "up --port x", "restore", "gc --older-than", "up --port 1 --port=2"]
)
def test_the_servers_command_line_does_likewise(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        server.main(line.split())
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and said.endswith("--help\n")


def test_validate_keeps_what_an_import_writes_to_itself_unless_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """TensorFlow greets from C++, past sys.stderr."""
    greeting = "import os\nos.write(2, b'greetings')\n"
    (tmp_path / "loud.py").write_text(greeting + "def train(trial): return 1.0\n")
    (tmp_path / "broken.py").write_text(greeting + "raise ValueError('x')\n")
    study = tmp_path / "study.yaml"
    study.write_text(
        "{name: s, objective: 'loud:train', metric: m, direction: minimize, stop: {trials: 1}, "
        "space: {x: {type: float, low: 0, high: 1}}}"
    )
    assert called(["validate", str(study)], monkeypatch) == 0
    told = capfd.readouterr()
    assert "is valid" in told.out and told.err == ""
    assert called(["validate", str(study), "--set", "objective=broken:train"], monkeypatch) == 2
    told = capfd.readouterr().err
    assert told.startswith("greetings") and "importing 'broken' raised ValueError: x" in told
    (tmp_path / "script.py").write_text("exit(3)\n")
    for objective, says in {
        "script:train": "objective: importing 'script' raised SystemExit: 3; correct it there",
        "loud.py:train": "objective: 'loud.py:train' names a file; name the module: loud:train",
    }.items():
        assert called(["validate", str(study), "--set", f"objective={objective}"], monkeypatch) == 2
        assert says in capfd.readouterr().err

"""hpo init: what it writes runs as it stands, and it never overwrites."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from hpo_core.base.extras import is_installed
from hpo_core.study.file import load_study
from hpo_flows.cli.starter import command
from hpo_flows.cli.starter.command import Kind
from tests.flows.cli.test_cli import HPO, called
from tests.studies import _somewhere_else as _somewhere_else
from tests.studies import environment


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    "kind", [Kind.FUNCTION, *(pytest.param(kind, marks=pytest.mark.slow) for kind in Kind if kind is not Kind.FUNCTION)]
)
def test_what_it_writes_runs_as_it_stands(kind: Kind, tmp_path: Path) -> None:
    name, package = command.LIBRARIES.get(kind, ("", ""))
    if package and not is_installed(package):
        pytest.skip(f"{name} is not installed")
    env = environment()

    def hpo(*arguments: str) -> str:
        done = subprocess.run(
            [HPO, *arguments], capture_output=True, text=True, cwd=tmp_path, env=env, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = hpo("init", "first", "--kind", kind).splitlines()
    assert said[-2:] == ["next: hpo validate first/study.yaml", "then: hpo tune first/study.yaml"]
    assert {path.name for path in (tmp_path / "first").iterdir()} == {"study.yaml", "objective.py"}
    assert hpo("validate", "first/study.yaml").splitlines()[-1] == "start it: hpo tune first/study.yaml"
    hpo("tune", "first/study.yaml", "--trials", "3")
    status = json.loads(hpo("status", "first", "--json"))
    assert (status["complete"], status["failed"]) == (3, 0)
    models = [path for path in (tmp_path / "mlartifacts").rglob("MLmodel") if path.parent.name == "model"]
    assert bool(models) == (kind is not Kind.FUNCTION)


def test_every_kind_is_commented_and_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in Kind:
        assert called(["init", str(tmp_path / kind), "--kind", kind], monkeypatch) == 0
        text = (tmp_path / kind / "study.yaml").read_text()
        commented_out = [
            line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ") and ": " in line
        ]
        assert "STUDY" not in text and max(map(len, text.splitlines())) <= 80
        spec = load_study(tmp_path / kind / "study.yaml")
        assert spec.name == kind and spec.stop.trials == 20
        # What is commented out is valid, too, once the mark is taken away.
        wanted = [line for line in commented_out if line.partition(":")[0].isidentifier()]
        assert len(wanted) >= 3
        (tmp_path / kind / "whole.yaml").write_text(text + "\n" + "\n".join(wanted))
        load_study(tmp_path / kind / "whole.yaml")


@pytest.mark.parametrize("name", ["study.yaml", "objective.py"])
def test_a_file_that_is_there_stays(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("mine")
    assert called(["init"], monkeypatch) == 2
    remedy = "name another folder (hpo init FOLDER), or move it away"
    assert capsys.readouterr() == ("", f"error: {name}: it is there already; {remedy}\n")
    assert (tmp_path / name).read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {name, "mlflow.db"}  # the latter is the test's own


def test_a_file_is_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes").write_text("")
    assert called(["init", "notes"], monkeypatch) == 2
    assert capsys.readouterr().err == "error: FOLDER: notes is not a folder; name another one\n"


@pytest.mark.parametrize(
    ("folder", "name"),
    [("wine", "wine"), ("true", "true"), ("2026-11", "2026-11"), ("größe 1", "größe 1"), ("it's", "my-study")],
)
def test_the_study_is_called_after_its_folder(
    folder: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert called(["init", folder], monkeypatch) == 0
    assert load_study(tmp_path / folder / "study.yaml").name == name


def test_without_tensorflow_it_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert called(["init", "--kind", "keras"], monkeypatch) == 0
    assert 'TensorFlow is not installed: pip install "hpo-flows[keras]"' in capsys.readouterr().out


def test_on_a_terminal_it_asks_until_it_knows(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    child = subprocess.Popen([HPO, "init"], stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path)
    os.close(theirs)
    os.write(ours, b"nonsense\nsklearn\n")
    said = b""
    while b"then: hpo tune" not in said:
        said += os.read(ours, 1000)
    assert child.wait() == 0 and said.count(b"function, sklearn, keras") == 2
    assert "RandomForestClassifier" in (tmp_path / "objective.py").read_text()


def test_every_template_has_its_kind() -> None:
    folder = Path(command.__file__).parent
    templates = {path.parent.name for path in folder.glob("*/study.yaml")}
    assert templates == set(Kind)

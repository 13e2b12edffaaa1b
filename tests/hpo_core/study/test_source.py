"""Who started a study, from which commit, for the columns of MLflow's UI."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpo_core.base import source


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    source._git.cache_clear()
    source._user.cache_clear()
    yield
    source._git.cache_clear()
    source._user.cache_clear()


def git(*command: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    return subprocess.run(["git", *who, *command], check=True, capture_output=True, text=True).stdout.strip()


def about_git() -> dict[str, str]:
    source._git.cache_clear()
    prefix = "mlflow.source.git."
    tags = source.source_tags("m:f")
    return {key.removeprefix(prefix): value for key, value in tags.items() if key.startswith(prefix)}


def test_commit_branch_and_whether_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert about_git() == {}  # not in a repository
    git("init", "-q", "-b", "trunk")
    assert about_git() == {}  # without a commit
    (tmp_path / "a.py").write_text("1")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    (tmp_path / "results.txt").write_text("untracked files are no change of the code")
    assert about_git() == {"commit": git("rev-parse", "HEAD"), "branch": "trunk", "dirty": "false"}
    (tmp_path / "a.py").write_text("2")
    git("checkout", "-q", "--detach")
    assert about_git() == {"commit": git("rev-parse", "HEAD"), "dirty": "true"}
    monkeypatch.setenv("PATH", "")
    assert about_git() == {}


def test_an_environment_behind_a_link_is_none_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (script := tmp_path / "there" / "bin" / "hpo").parent.mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "there")
    (work := tmp_path / "work").mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "link"))
    monkeypatch.setitem(sys.modules, "__main__", types.SimpleNamespace(__file__=str(script), __spec__=None))
    assert source._folder() == work


def test_git_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    run = subprocess.run
    monkeypatch.setattr(source.subprocess, "run", lambda *args, **kwargs: (asked.append(args), run(*args, **kwargs))[1])
    assert source.source_tags("m:f")["mlflow.source.name"] == "m:f"
    source.source_tags("m:g")
    assert len(asked) == 1


def test_the_user_is_the_servers_or_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    monkeypatch.setenv("LOGNAME", "ada")
    assert source.source_tags("m:f")["mlflow.user"] == "ada"
    source._user.cache_clear()
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "countess")
    assert source.source_tags("m:f")["mlflow.user"] == "countess"

"""Shell completion, as bash does it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.flows.cli.test_cli import HPO

COMPLETE = """
source "$HOME/.bash_completions/hpo.sh"
COMP_WORDS=({words})
COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
_hpo_completion "$HPO"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder into which bash has had the completion installed."""
    folder = tmp_path_factory.mktemp("home")
    done = in_bash(f'"{HPO}" --install-completion; exit $?', folder)
    assert done.returncode == 0, done.stderr
    assert "hpo.sh" in (folder / ".bashrc").read_text()
    return folder


def in_bash(script: str, home: Path) -> subprocess.CompletedProcess[str]:
    if (bash := shutil.which("bash")) is None:
        pytest.skip("there is no bash here")
    env = os.environ | {"HOME": str(home), "HPO": str(HPO)}
    return subprocess.run([bash, "--norc", "-c", script], capture_output=True, text=True, env=env)


@pytest.mark.parametrize(
    ("words", "proposed"),
    [
        ("hpo tu", {"tune"}),
        ("hpo de", {"delete", "deploy"}),
        ("hpo --ver", {"--version"}),
        ("hpo status study --w", {"--watch"}),
        ("hpo tune study.yaml --tr", {"--trials"}),
        ("hpo tune study.yaml --ch", {"--change-space"}),
        ("hpo init --kind s", {"sklearn"}),
        ("hpo export study --format ''", {"csv", "json", "parquet"}),
        ("hpo absent", {""}),
    ],
)
def test_bash_completes_commands_options_and_values(words: str, proposed: set[str], home: Path) -> None:
    done = in_bash(COMPLETE.format(words=words), home)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.rstrip("\n").split("\n")) == proposed


def test_the_script_can_be_shown(home: Path) -> None:
    done = in_bash(f'"{HPO}" --show-completion; exit $?', home)
    assert done.returncode == 0 and "complete -o default -F _hpo_completion hpo" in done.stdout


def test_a_shell_without_completion_is_told_so_in_one_line(tmp_path: Path) -> None:
    if (dash := shutil.which("dash")) is None:
        pytest.skip("dash is not installed")
    done = subprocess.run(
        [dash, "-c", f'"{HPO}" --install-completion; exit $?'],
        capture_output=True,
        text=True,
        env=os.environ | {"HOME": str(tmp_path)},
    )
    assert done.returncode == 1 and (done.stdout + done.stderr).strip() == "Shell dash is not supported."

"""The wheel: what is in it, and that a user who has nothing else can work with it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from requirements.install import index_of_pip, python_in
from tests.conftest import PATIENCE
from tests.studies import ROOT

OURS = {"hpo_core", "hpo_flows", "mlflow_server"}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since building leaves files beside the sources."""
    copy, built = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    for name in sources():
        if name.split("/")[0] in {*OURS, "flows", "pyproject.toml", "README.md", "LICENSE"}:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_symlink():
                (copy / name).symlink_to(os.readlink(ROOT / name))
            else:
                (copy / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*command, str(built), str(copy)], check=True, timeout=PATIENCE)
    [made] = built.glob("*.whl")
    return made


def sources() -> list[str]:
    """The repository's files, those included that are not committed yet."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


def test_the_wheel_has_our_three_packages_with_all_their_files_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    renamed = {"hpo_flows" + name.removeprefix("flows") if name.startswith("flows/") else name for name in sources()}
    assert packed == {name for name in renamed if name.split("/")[0] in OURS and "/" in name}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("resolution", "extra", "kind"), [("lowest-direct", "", "sklearn"), ("highest", "keras", "keras")]
)
def test_a_study_in_an_empty_environment(resolution: str, extra: str, kind: str, wheel: Path, tmp_path: Path) -> None:
    """On the lowest and on the newest versions that ``pyproject.toml`` allows."""
    if importlib.util.find_spec("uv") is None:
        pytest.skip("uv is not installed")
    own = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    own |= {"HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path / "prefect")}
    uv, environment = [sys.executable, "-m", "uv"], tmp_path / "environment"

    def run(*command: str, **more: str) -> str:
        ended = subprocess.run(
            command, cwd=tmp_path, env=own | more, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout

    run(*uv, "venv", "--quiet", "--python", sys.executable, str(environment))
    # The bounds of what stands in the wheel's metadata are direct only if uv reads them in pyproject.toml.
    what = ["--resolution", resolution, "--requirements", str(ROOT / "pyproject.toml")]
    what += ["--extra", extra, f"{wheel}[{extra}]"] if extra else [str(wheel)]
    cache = {"HOME": os.environ["HOME"], **index_of_pip(Path(sys.executable))}
    run(*uv, "pip", "install", "--quiet", "--python", str(python_in(environment)), *what, **cache)
    hpo = str(python_in(environment).with_name("hpo"))
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] in run(hpo, "--version")
    run(hpo, "init", "my-study", "--kind", kind)
    assert "hpo tune" in run(hpo, "validate", "my-study/study.yaml")
    assert "all 3 trials are done (3 complete, 0 failed)" in run(hpo, "tune", "my-study/study.yaml", "--trials", "3")
    assert "mlflow models serve" in run(hpo, "best", "my-study")
    assert "3 trials" in run(hpo, "export", "my-study", "--out", "trials.csv")
    run(hpo, "report", "my-study", "--out", "reports")
    assert list((tmp_path / "reports").glob("*.html"))

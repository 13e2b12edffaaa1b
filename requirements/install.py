"""Makes .venv with the pinned packages: what tuning needs, and with --dev also what tests, linters and documents need.

uv installs them, in about a tenth of pip's time; where uv cannot be had, or fails, pip does. Where there is no NVIDIA
driver, TensorFlow and XGBoost are their builds for processors alone, of the same versions and a third of the size. Only
the standard library is used here, since nothing is installed yet.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent

ROOT = HERE.parent

UV = "uv>=0.9,<1"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dev", action="store_true", help="also what tests, linters and documents need")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="the environment; .venv by default")
    given = parser.parse_args(arguments)
    if sys.version_info < (3, 11):  # noqa: UP036  (it runs under whatever Python the user has)
        parser.exit(1, "Python 3.11 or newer is needed; name it: make PYTHON=python3.12 setup\n")
    if not python_in(given.venv).exists():
        venv.create(given.venv, with_pip=True)
    pins = (HERE / ("dev.txt" if given.dev else "run.txt")).read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pins.txt"
        pins = without_needless(pins)
        file.write_text(pins if has_gpu_build() else without_gpu(pins), encoding="utf-8")
        install(python_in(given.venv), ["--no-deps", "--requirement", str(file)])  # the pins are complete
        install(python_in(given.venv), ["--no-deps", "--editable", str(ROOT)])


def python_in(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def has_gpu_build() -> bool:
    """Whether to install the builds that can use an NVIDIA GPU; elsewhere than on Linux there is only one."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return True
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def without_gpu(pins: str) -> str:
    """The same pins with TensorFlow's and XGBoost's builds for processors alone, and without what the latter needs not.

    >>> without_gpu("keras==3.15.1\\nnvidia-nccl-cu12==2.32.3\\ntensorflow==2.21.0\\ntensorflow-probability==0.25")
    'keras==3.15.1\\ntensorflow-cpu==2.21.0\\ntensorflow-probability==0.25'
    >>> without_gpu("xgboost==3.4.1 ; python_full_version >= '3.12'")
    "xgboost-cpu==3.4.1 ; python_full_version >= '3.12'"
    """
    pins = re.sub(r"^nvidia-nccl-.*\n", "", pins, flags=re.MULTILINE)
    return re.sub(r"^(tensorflow|xgboost)==", r"\1-cpu==", pins, flags=re.MULTILINE)


def without_needless(pins: str) -> str:
    """The same pins without libclang, 64 MB that TensorFlow asks for and only those use who build it.

    >>> without_needless("keras==3.15.1\\nlibclang==18.1.1\\ntensorflow==2.21.0")
    'keras==3.15.1\\ntensorflow==2.21.0'
    """
    return re.sub(r"^libclang==.*\n", "", pins, flags=re.MULTILINE)


def install(python: Path, what: Sequence[str]) -> None:
    """Install with uv, or else with pip, which reports what is wrong if both fail."""
    quiet = ["--quiet", "--disable-pip-version-check"]
    try:
        if subprocess.run([python, "-c", "import uv"], capture_output=True, check=False).returncode:
            subprocess.run([python, "-m", "pip", "install", *quiet, UV], check=True)
        command = [python, "-m", "uv", "pip", "install", "--quiet", "--python", python, *what]
        subprocess.run(command, check=True, env=os.environ | index_of_pip(python))
    except (subprocess.CalledProcessError, OSError) as error:
        print(f"uv cannot install here ({error}); pip does, which takes minutes", file=sys.stderr)
        subprocess.run([python, "-m", "pip", "install", *quiet, *what], check=True)


def index_of_pip(python: Path) -> dict[str, str]:
    """The package index that pip is told to use in its own settings, for uv, which does not read these."""
    if any(name in os.environ for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL")):
        return {}
    for name in ("global.index-url", "install.index-url", ":env:.index-url"):
        command = [python, "-m", "pip", "config", "get", name]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode == 0 and found.stdout.strip():
            return {"UV_DEFAULT_INDEX": found.stdout.strip()}
    return {}


if __name__ == "__main__":
    main()

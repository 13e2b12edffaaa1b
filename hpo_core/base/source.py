"""Who starts a study, and from which code: the tags that ``mlflow.start_run`` gives a run, for MLflow's columns."""

from __future__ import annotations

import functools
import getpass
import os
import subprocess
import sys
from pathlib import Path

GIT_SECONDS = 5.0


def source_tags(objective: str) -> dict[str, str]:
    """The tags of a run's origin.

    Args:
        objective: What is trained, which is the run's source.
    """
    return {"mlflow.source.name": objective, "mlflow.source.type": "LOCAL", "mlflow.user": _user(), **_git()}


@functools.cache
def _user() -> str:
    """The user as MLflow's server knows them, or else of this machine."""
    if name := os.environ.get("MLFLOW_TRACKING_USERNAME"):
        return name
    try:
        return getpass.getuser()
    except (ImportError, OSError, KeyError):  # a container without a name for its user
        return "unknown"


@functools.cache
def _git() -> dict[str, str]:
    """Commit and branch of the code, and whether it has changed since; empty outside of a repository."""
    ask = ["status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        answer = subprocess.run(
            ["git", "-C", str(_folder()), *ask],  # noqa: S607  (the user's git, wherever it is)
            capture_output=True,
            text=True,
            errors="replace",
            timeout=GIT_SECONDS,
            check=True,
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},  # nothing is written, not even its cache
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    lines = answer.stdout.splitlines()
    about = dict(line.removeprefix("# branch.").split(" ", 1) for line in lines if line.startswith("# branch."))
    if about.get("oid", "(initial)") == "(initial)":
        return {}
    tags = {"commit": about["oid"], "dirty": str(any(not line.startswith("#") for line in lines)).lower()}
    if not about.get("head", "(").startswith("("):  # (detached)
        tags["branch"] = about["head"]
    return {f"mlflow.source.git.{name}": value for name, value in tags.items()}


def _folder() -> Path:
    """Where the code is: the folder of the user's script, or else, as for the command ``hpo``, the working folder."""
    main = sys.modules["__main__"]
    script = getattr(main, "__file__", None)
    if script is None or main.__spec__ is not None:  # a notebook; python -m
        return Path.cwd()
    folder = Path(script).absolute().parent
    # Resolved, since an environment may be reached by a link, of which its scripts know nothing.
    inside = any(folder.resolve().is_relative_to(Path(prefix).resolve()) for prefix in {sys.prefix, sys.base_prefix})
    return Path.cwd() if inside else folder

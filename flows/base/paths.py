"""Finds the folder for files on their way to MLflow."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The folder for files on their way to MLflow: ``HPO_HOME``, or ``.hpo`` in the working folder."""
    return Path(os.environ.get("HPO_HOME", ".hpo")).absolute()

"""The strategies whose packages are installed here; the laws of the others are skipped, with a reason, in one place."""

from __future__ import annotations

from hpo_core.base.extras import is_installed
from hpo_core.strategies.make import STRATEGIES

HERE = [name for name, cls in STRATEGIES.items() if not cls.package or is_installed(cls.package)]

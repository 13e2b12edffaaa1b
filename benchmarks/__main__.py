"""The benchmarks of minutes, one after the other: those modules that have a ``main`` without arguments.

``benchmarks/regret.py`` takes hours and what it is told; `make regret` runs it. ``benchmarks/keras_scripts.py`` takes
half an hour, and its exit code says whether all scripts run.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> int:
    modules = [
        path for path in sorted(Path(__file__).parent.glob("[a-z]*.py")) if "\ndef main() -> None:" in path.read_text()
    ]
    failed = []
    for path in modules:
        print(f"\n## {path.stem}\n", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{path.stem}"]).returncode:
            failed.append(path.stem)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())

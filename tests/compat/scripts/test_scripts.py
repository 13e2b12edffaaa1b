"""Scripts in the shape of public ones come to the same kind of end here as with KerasTuner, by a changed import."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.keras_scripts import SCRIPTS, differences, lacking, run, with_import_changed
from tests.conftest import PATIENCE

NAMED = ("hyperband_final_fit", "run_trial_batch_size", "summaries")
"""Run as ``python -m hpo_flows.keras SCRIPT``, too."""


@pytest.mark.slow
@pytest.mark.timeout(3 * PATIENCE + 60)
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_runs_with_its_import_changed(script: str, tmp_path: Path) -> None:
    pytest.importorskip("keras_tuner")
    if package := lacking(script):
        pytest.skip(f"{package} is not installed")
    outcomes = {}
    for way in ("keras_tuner", "import", *(["name"] if script in NAMED else [])):
        (tmp_path / way).mkdir()
        outcomes[way] = run(script, way, tmp_path / way, timeout=PATIENCE)
    theirs = outcomes.pop("keras_tuner")
    assert theirs.code == 0, theirs.last
    assert {way: differences(theirs, ours) for way, ours in outcomes.items()} == {way: [] for way in outcomes}


def test_the_import_is_the_only_difference() -> None:
    for script in SCRIPTS.values():
        before = script.read_text(encoding="utf-8").splitlines()
        after = with_import_changed("\n".join(before)).splitlines()
        changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
        assert changed, script
        assert all(old.startswith(("import keras_tuner", "from keras_tuner")) for old, _ in changed)
        assert all("hpo_flows.keras" in new for _, new in changed)

"""Studies that an earlier version began are read as it read them, and go on.

``data/studies_0.1.0.sql.gz`` is a store that the version of 2026-11-24 wrote, with the folder taken out of it, and
``data/studies_0.1.0.json`` is what that version read of it: a study that came to its end, one with rungs and
promotions, one whose trials all failed, and one whose flow was killed while two trials ran.
"""

from __future__ import annotations

import gzip
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from hpo_core.history.trial import TrialState
from hpo_core.lineage.opening import find_study
from hpo_core.study.file import override_spec, study_from
from hpo_core.tracking.connection import connect
from hpo_flows.api import open_ledger, run
from hpo_flows.objectives.reference import Objective
from hpo_flows.results import StudyResult
from tests.studies import ROOT
from tests.studies import _somewhere_else as _somewhere_else

DATA = Path(__file__).parents[2] / "data"
# What becomes of the two trials that were running: the flow had written the result of the first, but not its status.
ENDED = {3: ("complete", 0.006861754519861261), 4: ("failed", None)}
READ: dict[str, list[dict[str, Any]]] = json.loads((DATA / "studies_0.1.0.json").read_text())


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, _somewhere_else: None) -> None:
    script = gzip.decompress((DATA / "studies_0.1.0.sql.gz").read_bytes()).decode().replace("@FOLDER@", str(tmp_path))
    (tmp_path / "mlflow.db").unlink()  # the empty one of _somewhere_else
    connection = sqlite3.connect(tmp_path / "mlflow.db")
    connection.executescript(script)
    connection.close()


@pytest.mark.parametrize("name", READ)
def test_what_it_wrote_is_read_as_it_read_it(name: str) -> None:
    read = [
        {
            "number": trial.number,
            "config": dict(trial.config),
            "state": trial.state.value,
            "loss": trial.loss,
            "fidelity": trial.fidelity,
            "parent": trial.parent,
            "rungs": {str(steps): loss for steps, loss in trial.rungs.items()},
            "reason": trial.reason,
            "metrics": dict(trial.metrics),
        }
        for trial in find_study(connect(), name).load()
    ]
    assert read == READ[name]


def goes_on(name: str, more: int) -> StudyResult:
    """A study that is resumed for some trials more."""
    spec = override_spec(find_study(connect(), name).spec, [f"stop.trials={len(READ[name]) + more}"])
    return run(open_ledger(spec), Objective(spec.objective, (str(ROOT),)))


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("name", ["plain", "rungs", pytest.param("cut", marks=pytest.mark.slow)])
def test_what_it_began_goes_on(name: str) -> None:
    found = goes_on(name, 2)
    history = found.history
    assert found.spec.repeats is None and all(trial.repeat_of is None for trial in history)
    kept = {trial.number: (trial.state.value, trial.loss) for trial in history}
    for trial in READ[name]:
        expected = ENDED.get(trial["number"]) if trial["state"] == "running" else (trial["state"], trial["loss"])
        assert kept[trial["number"]] == expected
    assert not history.running
    lost = [trial for trial in history.failed if trial.notes.get("lost")]
    assert {str(trial.number) for trial in lost} == {
        str(trial.notes["retry_of"]) for trial in history if "retry_of" in trial.notes
    }
    fresh = [trial for trial in history.complete if trial.number >= len(READ[name])]
    assert len(fresh) == 2 + len(lost)
    assert all(trial.state is not TrialState.RUNNING for trial in history)


def test_repeats_can_be_asked_for_later() -> None:
    """A study of an earlier version has none until its file asks for them, which it is then told."""
    stored = find_study(connect(), "plain").spec
    plain = {key: value for key, value in stored.stored().items() if key != "repeats"}
    told: list[str] = []
    assert open_ledger(study_from(plain), on_message=told.append).spec.repeats is None and told == []
    asked = open_ledger(study_from({**plain, "repeats": {"top": 2}}), on_message=told.append)
    assert asked.spec.repeats is not None and asked.spec.repeats.top == 2
    assert "repeats" in told[0]
    assert open_ledger(study_from(plain)).spec.repeats == asked.spec.repeats

"""The table of a study's trials."""

from __future__ import annotations

import datetime

from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_core.study.file import study_from
from hpo_flows.reports.export import columns, rows

SPEC = study_from(
    {
        "name": "study",
        "objective": "nowhere:train",
        "metric": "score",
        "direction": "maximize",
        "space": {
            "value": {"type": "float", "low": 0, "high": 1},
            "kind": {"type": "choice", "choices": ["a", 'b, "c"\n']},
            "depth": {"type": "int", "low": 1, "high": 9, "when": {"kind": ["a"]}},
        },
        "stop": {"trials": 3},
    }
)


def test_a_row_has_all_of_a_trial_and_no_name_hides_another() -> None:
    complete = Trial(
        0,
        {"value": 0.5, "kind": 'b, "c"\n'},
        TrialState.COMPLETE,
        loss=-0.75,
        metrics={"value": 3.0, "score": 0.75},
        run_id="abc",
        start=1_000,
        end=3_500,
    )
    running = Trial(2, {"value": 0.25, "kind": "a", "depth": 3}, TrialState.RUNNING, start=2_000)
    failed = Trial(1, {"value": 0.1, "kind": "a", "depth": 1}, TrialState.FAILED, reason="it broke", start=2_000)
    table = rows(SPEC, History([running, failed, complete]))
    assert table[0] == {
        "number": 0,
        "state": "complete",
        "value": 0.75,
        "repeat_of": None,
        "mean": 0.75,
        "standard_error": None,
        "trainings": 1,
        "fidelity": None,
        "params.value": 0.5,
        "params.kind": 'b, "c"\n',
        "params.depth": None,
        "metrics.score": 0.75,
        "metrics.value": 3.0,
        "start": datetime.datetime(1970, 1, 1, 0, 0, 1, tzinfo=datetime.UTC),
        "end": datetime.datetime(1970, 1, 1, 0, 0, 3, 500_000, tzinfo=datetime.UTC),
        "seconds": 2.5,
        "reason": "",
        "run_id": "abc",
    }
    assert [list(row) for row in table] == [list(table[0])] * 3
    assert [(row["number"], row["state"], row["value"]) for row in table[1:]] == [
        (1, "failed", None),
        (2, "running", None),
    ]
    assert (table[1]["reason"], table[2]["end"], table[2]["params.depth"]) == ("it broke", None, 3)


def test_what_keeps_the_limits_is_told_by_the_mean_of_its_trainings() -> None:
    spec = study_from(SPEC.model_dump() | {"limits": {"ms": "<= 20"}})
    config = {"value": 0.5, "kind": "a", "depth": 1}

    def trained(number: int, excess: float, **notes: str) -> Trial:
        given = config if notes else config | {"depth": number + 1}
        return Trial(number, given, TrialState.COMPLETE, -0.75, excess={"ms": excess}, notes=notes)

    lucky, again, kept = trained(0, -0.1), trained(2, 0.5, repeat_of="0"), trained(1, -0.2)
    history = History([lucky, kept, again, Trial(3, {**config, "depth": 9}, TrialState.RUNNING)])
    table = rows(spec, history)
    assert [row["feasible"] for row in table] == [False, True, False, None]
    assert list(table[0]) == columns(spec, history)
    assert history.incumbent is not None and history.incumbent.number == 1


def test_a_study_without_trials_has_no_rows() -> None:
    assert rows(SPEC, History()) == []

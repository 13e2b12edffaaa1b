"""What an objective is given, and what may come back from it."""

from __future__ import annotations

import json
import math
import sys
from collections import UserDict
from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest

from hpo_core.selection.milestones import Milestones
from hpo_flows.objectives.context import TrialContext
from hpo_flows.objectives.messages import Artifact, Report, Use
from hpo_flows.objectives.result import as_metrics, as_result, as_step


class Scalar:
    """As a tensor of one element."""

    def __float__(self) -> float:
        return 0.25


class Tensor:
    """As one of TensorFlow's: float() would read the text in it."""

    def __init__(self, element: Any) -> None:
        self._element = element

    def numpy(self) -> Any:
        return self._element

    def __float__(self) -> float:
        return float(self._element)


class Vector:
    """As a tensor of many: what float() raises is up to the library."""

    def __repr__(self) -> str:
        return "Vector(" + "1, " * 1000

    def __float__(self) -> float:
        raise RuntimeError("a tensor with 2 elements cannot be converted")


NUMBERS = [
    (1, 1.0),
    (0.5, 0.5),
    (-0.0, -0.0),
    (True, 1.0),
    (np.float32(0.5), 0.5),
    (np.int64(3), 3.0),
    (np.array(0.5), 0.5),
    (np.array([0.5]), 0.5),
    (np.array([[True]]), 1.0),
    (Decimal("0.5"), 0.5),
    (Fraction(1, 2), 0.5),
    (Scalar(), 0.25),
    (Tensor(np.float32(0.5)), 0.5),
]
TEXTS: list[Any] = ["0.5", "high", "", b"0.5", bytearray(b"1"), np.str_("1"), np.bytes_(b"1"), np.array("1")]
TEXTS += [np.array(["1"]), np.array("1", dtype=object), Tensor(b"0.5")]
NOT_NUMBERS = [None, [0.5], (), 1j, np.complex128(1), object(), np.array([1.0, 2.0]), 10**400, Vector(), *TEXTS]


def name(value: Any) -> str:
    return f"{value!r:.20}"


@pytest.mark.parametrize("look", ["phase", "fold", "split"])
def test_whoever_looks_at_the_phase_is_seen_to(look: str, tmp_path: Path) -> None:
    trial = TrialContext(
        config={}, number=0, seed=0, fidelity=None, scratch=tmp_path, outbox=tmp_path, send=print, phase="test"
    )
    assert trial.use.read == ()
    found = getattr(trial, look)
    assert trial.use.read == (() if look == "split" else ("phase",))
    if look == "split":
        assert [len(rows) for rows in found(10)] == [8, 2]
    assert trial.use.read == ("phase",)


@pytest.mark.parametrize(("value", "number"), NUMBERS, ids=name)
def test_metrics_become_floats(value: Any, number: float) -> None:
    metrics = as_metrics({"m": value})
    assert metrics == {"m": number}
    assert type(metrics["m"]) is float


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_metrics_need_not_be_finite(value: float) -> None:
    assert repr(as_metrics({"m": value})) == repr({"m": value})


@pytest.mark.parametrize("value", [*NOT_NUMBERS, {"a": 1}], ids=name)
def test_metrics_that_are_no_numbers_are_named(value: Any) -> None:
    with pytest.raises(ValueError, match=r"the metric 'm' has the value .* not a number") as caught:
        as_metrics({"ok": 1, "m": value})
    assert len(str(caught.value)) < 200


def test_what_is_masked_is_no_number() -> None:
    masked = np.ma.masked_all(1)
    assert repr(as_metrics({"m": np.ma.masked, "n": masked})) == "{'m': nan, 'n': nan}"
    assert as_metrics({"m": np.ma.array([0.5], mask=[False])}) == {"m": 0.5}


@pytest.mark.parametrize("value", [0.5, None, [0.5]])
def test_metrics_are_given_by_name(value: Any) -> None:
    with pytest.raises(ValueError, match="which is not a dict; give them by name"):
        as_metrics(value)


@pytest.mark.parametrize("key", [1, None, ("a", "b")], ids=repr)
def test_metric_names_are_strings(key: Any) -> None:
    with pytest.raises(ValueError, match="is not a string"):
        as_metrics({key: 1.0})


@pytest.mark.parametrize(("value", "number"), NUMBERS, ids=name)
def test_a_number_is_the_metric_of_the_study(value: Any, number: float) -> None:
    assert as_result(value, ["loss"]) == {"loss": number}


@pytest.mark.parametrize(
    ("value", "metrics"),
    [
        ({"loss": 1}, {"loss": 1.0}),
        ({"acc": np.float32(0.5), "loss": 2}, {"acc": 0.5, "loss": 2.0}),
        (UserDict({"loss": 1}), {"loss": 1.0}),
        ({"loss": 1, "other": math.inf}, {"loss": 1.0, "other": math.inf}),
    ],
    ids=repr,
)
def test_a_mapping_holds_the_metric_of_the_study(value: Mapping[str, Any], metrics: dict[str, float]) -> None:
    assert as_result(value, ["loss"]) == metrics


@pytest.mark.parametrize(
    ("value", "message"),
    [
        *((value, "the objective returned .*; return the loss as a number") for value in NOT_NUMBERS),
        (math.nan, "the objective returned loss = nan"),
        (math.inf, "the objective returned loss = inf"),
        ({"loss": -math.inf}, "the objective returned loss = -inf"),
        ({"acc": 1, "auc": 2}, r"returned no 'loss' but \['acc', 'auc'\]; return it, or correct metric:"),
        ({}, r"returned no 'loss' but \[\]"),
        ({"loss": None}, "the metric 'loss' has the value None"),
        ({"loss": 1, 2: 3}, "2 is not a string"),
    ],
    ids=name,
)
def test_other_results_are_refused(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        as_result(value, ["loss"])
    assert len(str(caught.value)) < 200


@pytest.fixture
def sent() -> list[Any]:
    return []


@pytest.fixture
def trial(tmp_path: Path, sent: list[Any]) -> TrialContext:
    return TrialContext(
        config={"x": 1}, number=3, seed=5, fidelity=None, scratch=tmp_path, outbox=tmp_path / "out", send=sent.append
    )


def test_a_context_says_what_it_is(trial: TrialContext) -> None:
    assert repr(trial) == "TrialContext(number=3, config={'x': 1}, seed=5)"
    assert (trial.config, trial.number, trial.seed, trial.fidelity) == ({"x": 1}, 3, 5, None)


def test_reports_are_sent_as_plain_numbers(trial: TrialContext, sent: list[Any]) -> None:
    trial.report(np.int64(2), {"loss": np.float32(0.5), "acc": 1})  # type: ignore[arg-type]
    assert sent == [Report(2, {"loss": 0.5, "acc": 1.0})]
    assert {type(value) for value in [sent[0].step, *sent[0].metrics.values()]} == {int, float}


def test_a_report_of_no_number_is_refused_in_the_objective(trial: TrialContext, sent: list[Any]) -> None:
    with pytest.raises(ValueError, match="the metric 'loss'"):
        trial.report(1, {"loss": "low"})  # type: ignore[dict-item]
    assert sent == []


@pytest.mark.parametrize("value", ["0.5", ["0.5", "1"], np.array([b"1"])], ids=name)
def test_a_hypergradient_of_text_is_refused(trial: TrialContext, sent: list[Any], value: Any) -> None:
    with pytest.raises(ValueError, match="l2"):
        trial.report_hypergradient({"l2": value})
    assert sent == []


def test_artifacts_are_copied_at_once(trial: TrialContext, sent: list[Any], tmp_path: Path) -> None:
    file, folder = tmp_path / "a.txt", tmp_path / "plots"
    file.write_text("one")
    folder.mkdir()
    (folder / "p.txt").write_text("plot")
    trial.log_artifact(file)
    file.write_text("two")
    trial.log_artifact(str(file), "deep/er")
    trial.log_artifact(folder)
    file.unlink()
    assert [(type(message), message.folder) for message in sent] == [
        (Artifact, ""),
        (Artifact, "deep/er"),
        (Artifact, ""),
    ]
    paths = [Path(message.path) for message in sent]
    assert [path.name for path in paths] == ["a.txt", "a.txt", "plots"]
    assert [path.read_text() for path in (paths[0], paths[1], paths[2] / "p.txt")] == ["one", "two", "plot"]


@pytest.mark.parametrize("folder", ["..", "a/../../b", "/etc"])
def test_artifacts_stay_with_the_run(trial: TrialContext, sent: list[Any], tmp_path: Path, folder: str) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one")
    with pytest.raises(ValueError, match="leads out of the run's artifacts"):
        trial.log_artifact(file, folder)
    assert sent == []


@pytest.mark.parametrize(("given", "kept"), [("plots/", "plots"), ("./deep//er/", "deep/er"), ("./", ""), ("", "")])
def test_a_folder_of_artifacts_may_be_written_in_any_way(
    trial: TrialContext, sent: list[Any], tmp_path: Path, given: str, kept: str
) -> None:
    (tmp_path / "a.txt").write_text("one")
    trial.log_artifact(tmp_path / "a.txt", given)
    assert [message.folder for message in sent] == [kept]  # MLflow would refuse it as given


def test_an_artifact_that_is_not_there(trial: TrialContext, sent: list[Any], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        trial.log_artifact(tmp_path / "none")
    assert sent == []


def test_texts_tables_and_figures_are_files_that_are_uploaded_once(trial: TrialContext, sent: list[Any]) -> None:
    """As MLflow writes them, however often they are logged."""
    import matplotlib.figure
    import pandas
    import plotly.graph_objects as go

    for text in ("one", "two"):
        trial.log_text(text, "deep/er/a.txt")
    trial.log_dict({"a": [1, 2.5], "b": np.float64(1)}, "a.json")
    trial.log_dict({"a": [1, 2]}, "a.yaml")
    trial.log_table({"x": [1, 2], "y": ["a", "b"]}, "t.json")
    trial.log_table({"x": 3, "y": "c"}, "t.json")
    trial.log_table(pandas.DataFrame({"x": [4], "y": ["d"]}), "t.json")
    trial.log_figure(matplotlib.figure.Figure(), "a.png")
    trial.log_figure(go.Figure(), "a.html")
    found = {str(PurePosixPath(each.folder, Path(each.path).name)): each for each in sent}
    assert list(found) == ["deep/er/a.txt", "a.json", "a.yaml", "t.json", "a.png", "a.html"] and len(sent) == 6
    text = {name: Path(each.path).read_bytes() for name, each in found.items()}
    assert text["deep/er/a.txt"] == b"two" and json.loads(text["a.json"]) == {"a": [1, 2.5], "b": 1.0}
    assert text["a.yaml"].split() == [b"a:", b"-", b"1", b"-", b"2"]
    assert json.loads(text["t.json"]) == {"columns": ["x", "y"], "data": [[1, "a"], [2, "b"], [3, "c"], [4, "d"]]}
    assert text["a.png"].startswith(b"\x89PNG") and b"<html>" in text["a.html"]
    assert [each.kind for each in sent if each.kind] == ["table"]


@pytest.mark.parametrize("name", ["..", "../a.txt", "/etc/a.txt", "", "a/", "."])
def test_what_is_written_stays_with_the_run(trial: TrialContext, sent: list[Any], name: str) -> None:
    with pytest.raises(ValueError, match=r"leads out of|names no file"):
        trial.log_text("text", name)
    assert sent == []


def test_what_is_no_table_or_figure_is_named(trial: TrialContext, sent: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"'t.csv' ends with neither .json nor .parquet"):
        trial.log_table({"x": [1]}, "t.csv")
    with pytest.raises(TypeError, match="'int' is a figure of neither"):
        trial.log_figure(3, "a.png")
    assert sent == []


def context(tmp_path: Path, **given: Any) -> TrialContext:
    facts: dict[str, Any] = {"fidelity": None, "send": lambda message: None} | given
    return TrialContext(config={}, number=0, seed=0, scratch=tmp_path, outbox=tmp_path / "out", **facts)


def test_what_an_objective_reads_is_recorded(tmp_path: Path) -> None:
    trial = context(tmp_path, fidelity=9.0, resume_from=tmp_path)
    assert trial.use == Use()
    assert trial.fidelity == 9.0
    assert trial.use.read == ("fidelity",)
    assert trial.resume_from == tmp_path
    trial.scratch_instead("it has other\n layers")
    assert trial.use == Use(("fidelity", "resume_from"), "it has other layers")


def test_a_checkpoint_is_a_folder_that_is_there(tmp_path: Path) -> None:
    trial = context(tmp_path)
    assert not (tmp_path / "out").exists(), "an objective that leaves none costs nothing"
    (trial.checkpoint / "weights").write_text("w")
    assert trial.checkpoint.is_dir() and trial.resume_from is None


def asked(tmp_path: Path, steps: Any, answers: list[bool], **milestones: Any) -> tuple[list[Any], list[bool]]:
    sent: list[Any] = []
    trial = context(tmp_path, send=sent.append, milestones=Milestones(**milestones), answer=lambda: answers.pop(0))
    going = [trial.report(step, {"loss": 1.0}) for step in steps]
    return [(each.step, each.milestone) for each in sent if each.milestone is not None], going


def test_a_report_asks_at_milestones_alone(tmp_path: Path) -> None:
    assert asked(tmp_path, range(10), [True] * 3) == ([(0, 1), (2, 3), (8, 9)], [True] * 10)
    assert asked(tmp_path, range(9), [True] * 2, start=3, every=4)[0] == [(2, 3), (6, 7)]


def test_a_milestone_that_steps_jump_over_is_judged_once(tmp_path: Path) -> None:
    assert asked(tmp_path, [0, 4, 4, 9, 14], [True] * 3)[0] == [(0, 1), (4, 3), (9, 9)]


def test_a_trial_that_goes_on_does_not_ask_again_what_its_parent_did(tmp_path: Path) -> None:
    assert asked(tmp_path, range(3, 10), [True])[0] == [(8, 9)]


def test_once_told_to_stop_a_trial_is_told_so_for_good(tmp_path: Path) -> None:
    assert asked(tmp_path, range(5), [True, False]) == ([(0, 1), (2, 3)], [True, True, False, False, False])


def test_it_is_judged_once_the_studys_metric_of_a_step_is_there(tmp_path: Path) -> None:
    """Whatever else is reported of that step, and in however many calls."""
    sent: list[Any] = []
    trial = context(tmp_path, send=sent.append, milestones=Milestones(), answer=lambda: False, metric="loss")
    going = [trial.report(0, {name: 1.0}) for name in ("accuracy", "loss", "time")]
    assert going == [True, False, False] and [each.milestone for each in sent] == [None, 1, None]


class Named(StrEnum):
    LOSS = "loss"


def test_metrics_are_plain_data_and_finite_as_mlflow_keeps_it() -> None:
    found = as_result({Named.LOSS: np.float32(0.5), "big": np.float64(sys.float_info.max)}, ["loss"])
    assert found == {"loss": 0.5, "big": sys.float_info.max}
    assert [type(name) for name in found] == [str, str]
    for value in (math.inf, -math.inf, math.nan, sys.float_info.max, -sys.float_info.max):
        with pytest.raises(ValueError, match="the objective returned loss = "):
            as_result(value, ["loss"])
    assert as_result(1e308, ["loss"]) == {"loss": 1e308}


@pytest.mark.parametrize("step", [1.5, math.nan, math.inf, "one", None, 10**20, -(10**20), np.array([1, 2])])
def test_a_step_that_mlflow_cannot_hold_is_an_error(step: Any) -> None:
    with pytest.raises(ValueError, match="is not a whole number that MLflow can hold"):
        as_step(step)


@pytest.mark.parametrize("step", [3, 3.0, np.int64(3), np.uint8(3), np.array(3)])
def test_a_step_is_a_plain_integer(step: Any) -> None:
    assert as_step(step) == 3 and type(as_step(step)) is int

"""Ask and tell over a real MLflow: one loop, several threads and processes, trials that fail, end early or are lost."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpo_core.base.errors import InputError, StudyConflict, StudyFailed, TrackingError
from hpo_core.history.history import History
from hpo_core.history.trial import Proposal, Trial, TrialState
from hpo_core.ledger import ownership, reader
from hpo_core.ledger.backoff import Backoff
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.study_run import STOP_HOLDS_MS, STOPPED, end_of, why_ended
from hpo_core.ledger.tags import Tag
from hpo_core.lineage.opening import find_study
from hpo_core.space.search_space import SearchSpace
from hpo_core.tracking.connection import connect
from hpo_core.tracking.mlflow_store import MlflowStore
from hpo_flows import AskedStudy, Boolean, Choice, Float, load_study, open_study
from hpo_flows.api import asked, asking, outside
from hpo_flows.loop import search
from hpo_flows.reports.html.publish import SWITCH
from hpo_flows.trials import recorder
from tests.conftest import wait_until
from tests.studies import ROOT, called, make_spec, start, tune, wait_for_complete, write_study
from tests.studies import _somewhere_else as _somewhere_else

KEYS: dict[str, Any] = {"name": "study", "space": {"x": Float(low=0, high=1)}, "metric": "loss", "trials": 4}

WORKER = """
import sys
from hpo_flows import open_study

with open_study(sys.argv[1]) as study:
    while not study.over:
        trial = study.ask(wait=1)
        if trial is not None:
            with trial:
                trial.tell(trial.config["x"] ** 2)
assert "prefect" not in sys.modules
"""


def ask_all(study: AskedStudy) -> None:
    while (trial := study.ask()) is not None:
        trial.tell((float(trial.config["x"]) - 0.3) ** 2)  # type: ignore[arg-type]


def test_a_loop_of_ones_own() -> None:
    study = open_study(**KEYS, repeats="off")
    assert study.best is None and not study.over
    ask_all(study)
    assert study.over and study.reason == "all 4 trials are done"
    result = study.result()
    assert [trial.state for trial in result.history] == [TrialState.COMPLETE] * 4
    assert study.best == result.best and result.best is not None
    runs = connect().search([result.experiment_id], {Tag.ROLE: "trial"})
    assert [float(run.params["x"]) for run in runs] == [trial.config["x"] for trial in result.history]
    assert connect().get(result.run_id).status == "FINISHED"
    again = open_study("study")
    assert again.ask() is None and again.over
    more = open_study(**KEYS | {"trials": "+2"})
    ask_all(more)
    assert len(more.result().history) == 6


class Counted(Backoff):
    """Counts how often somebody waits because a claim was lost."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = 0

    def seconds(self) -> float:
        seconds = super().seconds()
        self.waits += seconds > 0
        return seconds


@pytest.mark.parametrize("by", ["asking", "a flow"])
def test_who_loses_a_claim_waits_before_the_next_attempt(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    study = open_study(**KEYS, repeats="off")
    other, backoff, reserve = open_study("study"), Counted(), Ledger.reserve
    monkeypatch.setattr(reader, "Backoff", lambda: backoff)

    def slowly(ledger: Ledger, proposal: Proposal, history: History) -> Trial | None:
        """Reserve a trial once another flow has reserved the first two."""
        monkeypatch.setattr(Ledger, "reserve", reserve)
        for _ in range(2):
            lent = other.ask()
            assert lent is not None
            lent.tell(1.0)
        return ledger.reserve(proposal, history)

    monkeypatch.setattr(Ledger, "reserve", slowly)
    if by == "asking":
        ask_all(open_study("study"))
    else:
        tune(study.spec.model_copy(update={"objective": "tests.objectives:slow"}))
    assert backoff.waits == 1
    assert len(study.result().history.complete) == 4


def test_what_was_proposed_is_what_a_flow_would_have_got() -> None:
    study = open_study(**KEYS, seed=3, repeats="off")
    ask_all(study)
    spec = make_spec(stop={"trials": 4}, seed=3, repeats="off")
    history = study.result().history
    for number in range(4):
        explained = study.result().explain(number)
        assert explained.seen is not None and explained.same
        assert spec.propose(explained.seen, 1)[0].config == history.trials[number].config


@pytest.mark.parametrize("how", ["spec", "dict", "path", "str"])
def test_a_study_is_given_in_any_form(how: str, tmp_path: Path) -> None:
    spec = make_spec()
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude_none=True)))
    given: Any = {"spec": spec, "dict": spec.model_dump(exclude_none=True), "path": path, "str": str(path)}[how]
    trial = open_study(given).ask()
    assert trial is not None and set(trial.config) == {"x"}
    trial.tell(0.5)


def test_whoever_asks_does_not_take_the_objective_away() -> None:
    open_study(make_spec(stop={"trials": 4}))
    open_study(**KEYS)
    assert find_study(connect(), "study").spec.objective == "tests.objectives:quick"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"retries": 2}, r"retries: hpo tune does this with an objective, and the study has none; remove it"),
        ({"final": {"top": 2}}, r"final: .*remove it, or add objective"),
        ({"space": {}}, "space: "),
        ({"study": "study"}, "space: it is given beside a whole study"),
        (
            {"space": [Float(low=0, high=1)]},
            r"space: \[.*\] is not a mapping of names to parameters; give \{name: ",
        ),
        (
            {"space": SearchSpace({"x": Float(low=0, high=1)})},
            "space: a SearchSpace is not a mapping .*; give its",
        ),
        ({"stop": 3}, r"stop: 3 is not a mapping of keys to values; write \{'trials': 3\}"),
        ({"trials": 3, "stop": {"trials": 5}}, "trials: 3 is given beside stop.trials, 5; give one of them"),
    ],
)
def test_bad_input_is_told(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        open_study(**KEYS | change)


def test_what_is_told_wrongly_to_a_study_is_told() -> None:
    study: Any = open_study(**KEYS)
    for call, says in (
        (lambda: study.enqueue(3), "CONFIG: 3 is not a mapping of parameters to values; give {name: value}"),
        (lambda: study.enqueue({"x": 3}), "CONFIG: {'x': 3}: 'x': 3 is not a number from 0.0 to 1.0; correct it"),
        (lambda: study.enqueue({}), "CONFIG: {}: 'x' is missing; give a value for each, since there is no best trial"),
        (lambda: study.set(), "KEY=VALUE: no setting is given; name one, such as parallel=4"),
        (lambda: study.set({"parallel": 4}), "KEY=VALUE: {'parallel': 4} is not text; write it as 'parallel=4'"),
        (lambda: load_study(3), "name: 3 is not text; give the name of a study"),  # type: ignore[arg-type]
        (lambda: load_study("study", 3), "tracking_uri: 3 is not text; write it as"),  # type: ignore[arg-type]
        (lambda: open_study(**KEYS | {"space": {"x": Float}}), "space.x.type: <class "),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert str(caught.value).startswith(says)
    assert not study.ledger.study.instructions.queue


def test_trials_that_fail(caplog: pytest.LogCaptureFixture) -> None:
    study = open_study(**KEYS, repeats="off", stop={"same_error": False})
    with pytest.raises(ZeroDivisionError), study.ask():  # type: ignore[union-attr]
        _ = 1 / 0
    with study.ask():  # type: ignore[union-attr]
        pass
    third = study.ask()
    assert third is not None
    study.tell(third, error="the robot fell over")
    study.tell(study.ask(), float("nan"))  # type: ignore[arg-type]
    history = study.result().history
    assert [trial.reason for trial in history.failed] == [
        "ZeroDivisionError: division by zero",
        asked.UNTOLD,
        "the robot fell over",
        "the result is loss = nan",
    ]
    assert asked.UNTOLD in caplog.text
    assert b"ZeroDivisionError" in (connect().download(history.trials[0].run_id, "failure.txt") or b"")


def test_failing_alike_ends_the_study() -> None:
    study = open_study(**KEYS)
    for _ in range(3):
        study.tell(study.ask(), error="no such device")  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(StudyFailed, match="no such device"):
            study.ask()
    assert study.over and "all failed with the same error" in study.reason
    assert connect().get(study.result().run_id).status == "FAILED"
    assert open_study("study").ask() is not None  # who opens it anew has corrected something


def test_what_cannot_be_told_leaves_the_trial_as_it_is() -> None:
    study = open_study(**KEYS)
    trial = study.ask()
    assert trial is not None
    for wrong, says in [
        ("0.5", "the result is '0.5'; tell the loss as a number"),
        ({"los": 1.0}, "the result has no 'loss' but"),
        (None, "neither a result nor an error"),
    ]:
        with pytest.raises(InputError, match=says):
            study.tell(trial, wrong)
    for error in (5, b"no memory", ValueError):
        with pytest.raises(InputError, match=r"trial 0: the error .* is neither an exception nor a text; give one of"):
            study.tell(trial, error=error)  # type: ignore[arg-type]
    for wait in ("a minute", -1, float("nan")):
        with pytest.raises(InputError, match=r"wait: .* is not a number of seconds; give 0 or more, or None"):
            study.ask(wait=wait)  # type: ignore[arg-type]
    for other in (None, "0", {}):
        with pytest.raises(InputError, match=r"trial: .* is not a trial that this process asked for"):
            study.tell(other, 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"the metrics are 0.5, which is not a dict; give them by name"):
        trial.report(0, 0.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="7 is not a trial that this process asked for; out are"):
        study.tell(7, 1.0)
    study.tell(0, {"loss": 0.5, "size": 3})
    with pytest.raises(InputError, match="it was told before"):
        trial.tell(0.4)
    (told,) = study.result().history.complete
    assert (told.loss, told.metrics["size"]) == (0.5, 3.0)


def test_early_stopping() -> None:
    rule = {"rule": "median", "first": 1, "trials": 1, "every": 1}
    study = open_study(**KEYS, repeats="off", early_stop=rule)
    went_on: list[int] = []
    while (trial := study.ask()) is not None:
        step = 0
        while trial.report(step, {"loss": float(trial.number)}) and step < 5:
            step += 1
        went_on.append(step)
        trial.tell(float(trial.number))
    assert went_on[0] == 5 and max(went_on[1:]) < 5
    assert "stopped by median" in study.result().history.trials[3].reason


def test_hyperband_waits_for_what_is_out_and_goes_on_from_checkpoints() -> None:
    study = open_study(
        **KEYS | {"trials": 40},
        strategy="hyperband",
        fidelity={"name": "epochs", "min": 1, "max": 9, "eta": 3},
    )
    resumed = 0
    while (trial := study.ask()) is not None:
        with trial:
            if trial.resume_from is not None:
                resumed += 1
                assert (trial.resume_from / "weights").read_text() == str(trial.config["x"])
            (trial.checkpoint / "weights").write_text(str(trial.config["x"]))
            trial.tell(float(trial.config["x"]) / float(trial.fidelity or 1))  # type: ignore[arg-type]
    history = study.result().history
    promoted = [trial for trial in history if trial.parent is not None]
    assert promoted and resumed == len(promoted)
    assert all(str(trial.notes["continued"]).startswith("yes") for trial in promoted)


def test_nothing_to_be_had_for_now_is_not_the_end() -> None:
    study = open_study(**KEYS | {"space": {"x": {"type": "choice", "choices": [1]}}}, repeats="off")
    trial = study.ask()
    assert trial is not None and study.ask() is None and not study.over
    trial.tell(1.0)
    assert study.ask() is None and study.over and "nothing more to propose" in study.reason


def test_the_report_says_that_the_strategy_was_at_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    space = {"x": {"type": "choice", "choices": [1]}}
    study = open_study(**KEYS | {"space": space}, repeats="off", strategy="grid")
    ask_all(study)
    why = "It ended: the strategy has nothing more to propose"
    assert why in study.result().report(tmp_path / "first").read_text()
    stored = connect().download(study.result().run_id, "report.html")
    assert stored is not None and why in stored.decode()
    wider = {"x": {"type": "choice", "choices": [1, 2]}}
    more = open_study(**KEYS | {"space": wider}, repeats="off", strategy="grid", change_space=True)
    trial = more.ask()
    assert trial is not None and why not in more.result().report(tmp_path / "second").read_text()
    trial.tell(1.0)
    assert why not in more.result().report(tmp_path / "third").read_text()


def test_failing_alike_ends_a_study_of_single_commands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each `hpo ask` is a process of its own, which knows of no earlier failure but from MLflow."""
    open_study(**KEYS | {"trials": 20})
    for count in (3, 6):  # after the refusal somebody has corrected what was wrong, as they think
        for number in range(count - 3, count):
            assert json.loads(hpo("ask study", capsys, monkeypatch)[1])["number"] == number
            assert hpo(f"tell study {number} --error device-{number}-is-gone", capsys, monkeypatch)[0] == 0
        code, out, said = hpo("ask study", capsys, monkeypatch)
        assert (code, out) == (1, "") and "the first 3 trials all failed with the same error" in said
        run = find_study(connect(), "study").study_run
        assert run.status == "FAILED" and run.tags[Tag.ENDED].startswith(f"{count}: the first 3 trials all failed")
    assert json.loads(hpo("ask study", capsys, monkeypatch)[1])["number"] == 6
    assert hpo("tell study 6 0.5", capsys, monkeypatch)[0] == 0
    for number in range(7, 11):
        assert json.loads(hpo("ask study", capsys, monkeypatch)[1])["number"] == number
        assert hpo(f"tell study {number} --error gone", capsys, monkeypatch)[0] == 0


def ending(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> tuple[str, str]:
    """The status of the study's run, and why it ended: as its run, its report and `hpo status` say alike."""
    ledger = find_study(connect(), "study")
    _, why = end_of(ledger.study_run)
    assert hpo(f"report study --out {folder}", capsys, monkeypatch)[0] == 0
    line = hpo("status study", capsys, monkeypatch)[1]
    said = json.loads(hpo("status study --json", capsys, monkeypatch)[1])["ended"]
    shown = why if why_ended(ledger.study_run, ledger.load()) else ""
    assert (said or "", line.partition("  |  ended: ")[2].strip()) == (shown, shown)
    assert (f"It ended: {why}." in html.unescape((folder / "report.html").read_text())) == bool(shown)
    return ledger.study_run.status, shown


def test_hpo_stop_ends_a_study_once_no_trial_of_it_is_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(asking, "HEAR_SECONDS", 0.0)
    study = open_study(**KEYS, repeats="off")
    first, second = study.ask(), study.ask()
    assert first is not None and second is not None
    assert hpo("stop study", capsys, monkeypatch)[0] == 0
    first.tell(1.0)
    assert study.ask() is None and study.over and study.reason == STOPPED
    assert ending(capsys, monkeypatch, tmp_path) == ("RUNNING", "")
    wait_until(lambda: study.ledger.study.stop_requested)
    second.tell(2.0)  # and never asks again
    assert ending(capsys, monkeypatch, tmp_path) == ("FINISHED", STOPPED)
    more = open_study("study")
    third = more.ask()
    assert third is not None and ending(capsys, monkeypatch, tmp_path) == ("RUNNING", "")
    third.tell(3.0)
    assert ending(capsys, monkeypatch, tmp_path) == ("RUNNING", "")
    assert hpo("stop study", capsys, monkeypatch)[0] == 0  # none is out
    assert ending(capsys, monkeypatch, tmp_path) == ("FINISHED", STOPPED)


def test_hpo_stop_ends_the_loops_that_ask_by_single_commands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def ask() -> Any:
        return json.loads(hpo("ask study", capsys, monkeypatch)[1])

    open_study(**KEYS, repeats="off")
    assert (ask()["number"], ask()["number"]) == (0, 1)
    assert hpo("stop study", capsys, monkeypatch)[0] == 0
    over = {"number": None, "over": True, "reason": STOPPED}
    assert hpo("tell study 0 0.5", capsys, monkeypatch)[0] == 0
    assert ask() == over and ending(capsys, monkeypatch, tmp_path) == ("RUNNING", "")
    assert hpo("tell study 1 --error broken", capsys, monkeypatch)[0] == 0
    assert ending(capsys, monkeypatch, tmp_path) == ("FINISHED", STOPPED)
    assert ask() == over, "the other loop"
    now = ownership.now_ms()
    monkeypatch.setattr(asking, "now_ms", lambda: now + STOP_HOLDS_MS)
    assert ask()["number"] == 2, "somebody goes on"
    assert ending(capsys, monkeypatch, tmp_path) == ("RUNNING", "")


STRATEGY = """
from hpo_core import Proposal

class Own:
    def propose(self, space, history, n, *, seed):
        return [Proposal({"x": X})]
"""


def test_an_asked_study_whose_strategy_is_wrong_is_failed_and_goes_on_once_it_is_corrected(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))

    def opened(x: str) -> AskedStudy:
        (tmp_path / f"own_asked_{x[0]}.py").write_text(STRATEGY.replace("X", x))
        return open_study(**KEYS, repeats="off", strategy={"name": f"own_asked_{x[0]}:Own"})

    study = opened("7.0")
    with pytest.raises(InputError, match=r"7\.0"):
        study.ask()
    assert study.over and "7.0" in study.reason
    assert ending(capsys, monkeypatch, tmp_path) == ("FAILED", study.reason)
    corrected = opened("0.5")
    trial = corrected.ask()
    assert trial is not None and trial.config == {"x": 0.5} and not corrected.over
    assert ending(capsys, monkeypatch, tmp_path) == ("RUNNING", "")
    trial.tell(1.0)


def test_minutes_count_from_the_first_trial_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each `hpo ask` is a process of its own, so minutes of the process would never be over."""
    open_study(**KEYS | {"stop": {"minutes": 30}, "trials": None}, repeats="off")
    assert outside.ask_for(open_study("study"), 3600)["number"] == 0
    now = ownership.now_ms()
    monkeypatch.setattr(search, "now_ms", lambda: now + 29 * 60_000)
    assert outside.ask_for(open_study("study"), 3600)["number"] == 1
    monkeypatch.setattr(search, "now_ms", lambda: now + 31 * 60_000)
    told = outside.ask_for(open_study("study"), 3600)
    assert (told["number"], told["over"], told["reason"]) == (None, True, "30 minutes are over")
    open_study("study").set("stop.minutes=60")
    assert outside.ask_for(open_study("study"), 3600)["number"] == 2
    assert open_study("study").ask(wait=0) is not None  # whoever stays counts from their own first trial


def test_who_asks_goes_on_in_another_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "HEAR_SECONDS", 0.0)
    study, other = open_study(**KEYS | {"trials": 9}, repeats="off"), open_study("study")
    study.tell(study.ask(), 1.0)  # type: ignore[arg-type]
    out = study.ask()
    assert out is not None
    with pytest.raises(StudyConflict, match="change_space=True"):
        open_study(**KEYS | {"trials": 9, "space": {"x": Float(low=2, high=3)}})
    open_study(**KEYS | {"trials": 9, "space": {"x": Float(low=2, high=3)}}, change_space=True)
    trial = other.ask()
    assert trial is not None and 2 <= trial.config["x"] <= 3  # type: ignore[operator]
    study.tell(out, 2.0)
    trial.tell(3.0)
    assert study.best is not None and study.best.number == 2
    assert [each.number for each in study.result().history.outside] == [0, 1]
    wider = {"x": Float(low=2, high=3), "y": Float(low=0, high=1, default=0.5)}
    open_study(**KEYS | {"trials": 9, "space": wider}, change_space=True)
    assert study.ask() is None and study.over and "new: y" in study.reason
    assert study.result().history.trials[0].config["y"] == 0.5


@pytest.mark.parametrize(("who", "end"), [("the asker", {"error": "cut short"}), ("another", {"result": 0.5})])
def test_what_people_say_reaches_whoever_asks(
    who: str, end: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What the asker says itself counts at once, and what others say as soon as it is heard."""
    study = open_study(**KEYS, repeats="off")
    speaker = study
    if who == "another":
        monkeypatch.setattr(asking, "HEAR_SECONDS", 0.0)
        speaker = open_study("study")
    assert speaker.enqueue({"x": 0.125}) == {"x": 0.125}
    with pytest.raises(InputError, match="it is enqueued already"):
        speaker.enqueue({"x": 0.125})
    trial = study.ask()
    assert trial is not None and trial.config == {"x": 0.125}
    with pytest.raises(InputError, match="trial 0 has this configuration"):
        speaker.enqueue({"x": 0.125})
    speaker.stop(0, "too slow")
    if who == "another":
        wait_until(lambda: trial.stopped)
    assert trial.stopped and not trial.report(0, {"loss": 1.0})
    trial.tell(**end)
    assert study.result().history.trials[0].reason == "stopped by hpo stop --trial 0: too slow"
    speaker.pause()
    assert study.ask(wait=0) is None and not study.over
    speaker.resume()
    speaker.set("trials=2")
    study.tell(study.ask(), 1.0)  # type: ignore[arg-type]
    assert study.ask() is None and study.reason == "all 2 trials are done"
    assert "study: hpo set stop.trials=2" in caplog.text
    assert study.result().explain(0).same
    with pytest.raises(InputError, match="'seed=3': this cannot change while the study runs"):
        speaker.set("seed=3")
    for change in ("trials", "parallel", "seed"):
        with pytest.raises(InputError, match=f"'{change}' is not key=value"):
            speaker.set(change)


def test_what_is_enqueued_takes_over_of_the_best_trial_what_is_active_beside_it() -> None:
    space = {
        "model": Choice(choices=["tree", "linear"]),
        "bag": Boolean(when={"model": ["tree"]}),
        "share": Float(low=0, high=1, when={"bag": [True]}),
        "x": Float(low=0, high=1),
    }
    best = {"model": "tree", "bag": True, "share": 0.5, "x": 0.25}
    study = open_study(**KEYS | {"space": space}, first=[best], repeats="off")
    study.tell(study.ask(), 1.0)  # type: ignore[arg-type]
    assert study.enqueue({"model": "linear"}) == {
        "model": "linear",
        "x": 0.25,
    }  # nor share, below bag
    assert study.enqueue({"bag": False}) == {"model": "tree", "bag": False, "x": 0.25}
    assert study.enqueue({"share": 0.75}) == best | {"share": 0.75}


HPO_WORDS = {
    "ask study --for 3x": "--for: '3x' is not a duration",
    "tell study 0": "neither a result nor --error is given",
    "tell study 0 0.5 --error x": "both a result and --error are given",
    "tell study 0 good": "'good' is neither a number nor a JSON object",
    "tell study 0 true": "'true' is neither a number nor a JSON object",
    'tell study 0 {"loss":1,"loss":2}': "'loss' is given twice; keep one",
    "tell study 9 0.5": "the study has no trial 9",
    "tell study 0 0.5 --id other": "'other' is not the id of trial 0",
    "tell study 1 0.5": "trial 1 was not asked for by hpo ask",
    "enqueue study {x: 2}": "'x': ",
    "enqueue study {y: 2}": "'y' is not a parameter",
    "enqueue study {x: 0.1, x: 0.2}": "the key 'x' is given twice",
    "enqueue study 3": "'3' has no values by parameter",
    "set study stop.trials=null": "no stop rule is left",
    "set study parallel": "'parallel' is not key=value",
    "set study parallel=0": "parallel: ",
    "set study trials=3 stop.trials=4": "KEY=VALUE: 'stop.trials' is given twice; keep one",
    "stop study --trial 9": "the study has no trial 9",
    "stop study --reason slow": "--reason: ",
    "resume study": "'study' is not paused; if no flow runs, hpo ask study goes on with it",
    "ask nothing": "no study named 'nothing'",
    "ask study --change-space": "'study' is a name, and only a file can have another space; give a study file",
}


def hpo(line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str, str]:
    words = line.split(" ", 2)
    return called(words if words[0] == "enqueue" else line.split(), monkeypatch, capsys)


@pytest.mark.slow
def test_bad_input_on_the_command_line_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_study(**KEYS)
    assert hpo("ask study", capsys, monkeypatch)[0] == 0
    assert study.ask() is not None
    for line, words in HPO_WORDS.items():
        code, out, err = hpo(line, capsys, monkeypatch)
        assert (code, out) == (2, "") and words in err and err.startswith("error: "), (line, err)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("told", "says"),
    [
        ("-0.5", "loss -0.5"),
        ("-1e-3", "loss -0.001"),
        ("nan", "failed: the result is loss = nan"),
        ("-inf", "failed: the result is loss = -inf"),
        ("--error -5", "failed: -5"),
    ],
)
def test_any_number_may_be_told_and_told_again(
    told: str, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    open_study(**KEYS)
    id = json.loads(hpo("ask study", capsys, monkeypatch)[1])["id"]
    for line in (f"tell study 0 {told}", f"tell study 0 {told} --id {id}"):
        assert hpo(line, capsys, monkeypatch)[:2] == (0, f"trial 0: {says}\n"), line
    assert hpo("tell study 0 -0.25", capsys, monkeypatch)[0] == 2
    find_study(connect(), "study").study.instruct("pause")
    waits = {"number": None, "over": False, "reason": "paused: hpo resume goes on"}
    assert json.loads(hpo("ask study", capsys, monkeypatch)[1]) == waits


def test_all_name_the_trial_that_prefer_picks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a front, the compromise is another point than what the study prefers."""
    space = {"x": Float(low=0, high=1), "y": Float(low=0, high=1)}
    goal = {"metrics": {"error": "minimize", "ms": "minimize"}, "prefer": "ms <= 9"}
    study = open_study(name="study", space=space, trials=9, strategy="random", **goal)
    for error, ms in ((0.9, 1.0), (0.4, 4.0), (0.3, 8.9), (0.0, 10.0)):
        trial = study.ask()
        assert trial is not None
        trial.tell({"error": error, "ms": ms})
    assert study.best is not None and study.best.number == 2
    said = [json.loads(hpo(line, capsys, monkeypatch)[1]) for line in ("list --json", "status --json study")]
    shown = json.loads(hpo("best --json study", capsys, monkeypatch)[1])["trial"]
    assert [said[0]["studies"][0]["best_trial"], said[1]["best_trial"], shown] == [2, 2, 2]
    assert study.enqueue({"x": 0.125}) == {"x": 0.125, "y": study.best.config["y"]}


@pytest.mark.parametrize("told", [8, 10])
def test_the_total_that_is_to_let_a_trial_start_does_so(
    told: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a study whose last trials confirm, one more than have started need not be enough."""
    study = open_study(**KEYS | {"trials": 10}, repeats={"share": 0.4, "top": 2})
    for number in range(told):
        trial = study.ask()
        assert trial is not None
        trial.tell(trial.config["x"] + number / 100)
    _, out, _ = hpo("enqueue study {x: 0.125}", capsys, monkeypatch)
    total = re.search(r"hpo set study (trials=\d+) lets one more start", out)
    assert total is not None, out
    assert "but" not in hpo(f"set study {total[1]}", capsys, monkeypatch)[1]
    begun = open_study("study").ask()
    assert begun is not None and begun.config == {"x": 0.125}


@pytest.mark.slow
def test_what_has_no_effect_yet_says_what_it_waits_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_study(**KEYS | {"trials": 2}, repeats="off")
    ask_all(study)
    code, out, _ = hpo("enqueue study {x: 0.125}", capsys, monkeypatch)
    tried = "study: {x: 0.125} is tried next; but all 2 trials are done: hpo set study trials=3 lets one more start"
    assert code == 0 and out.startswith(tried)
    assert "  |  1 enqueued" in hpo("status study", capsys, monkeypatch)[1]
    assert json.loads(hpo("status study --json", capsys, monkeypatch)[1])["enqueued"] == 1
    out = hpo("set study trials=3", capsys, monkeypatch)[1]
    assert "but" not in out and out.endswith("if no flow does, hpo ask study\n")  # it has no objective
    study.pause()
    assert "it is paused: hpo resume study" in hpo("set study trials=4", capsys, monkeypatch)[1]
    study.resume()
    trial = study.ask()
    assert trial is not None and trial.config == {"x": 0.125}
    assert "enqueued" not in hpo("status study", capsys, monkeypatch)[1]


@pytest.mark.slow
def test_a_preview_of_another_space_says_what_keeps_the_study_from_going_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_all(open_study(**KEYS, repeats="off"))
    space = {"x": {"type": "float", "low": 0, "high": 2}}
    keys = {"name": "study", "space": space, "direction": "minimize", "stop": {"trials": 4}}
    differs = 'metric: "loss" -> "accuracy"'
    for metric, code, says in (("loss", 0, "space.x.high: 1.0 -> 2.0"), ("accuracy", 2, differs)):
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(keys | {"metric": metric}))
        found = hpo("validate study.yaml --change-space", capsys, monkeypatch)
        assert found[0] == code and says in found[1] + found[2], found


def test_ask_and_tell_from_the_command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_study(**KEYS | {"trials": 6}, repeats="off")

    def say(line: str) -> str:
        code, out, err = hpo(line, capsys, monkeypatch)
        assert code == 0, err
        return out

    def ask(*arguments: str) -> dict[str, Any]:
        return json.loads(say(" ".join(("ask study", *arguments))))  # type: ignore[no-any-return]

    asked_first = ask("--for 2h")
    ours = study.ask()
    assert ours is not None and asked_first["number"] == 0 and ours.number == 1
    lease = int(connect().get(asked_first["id"]).tags[Tag.LEASE])
    assert lease > ownership.now_ms() + 5_400_000
    assert say("tell study 0 0.5") == "trial 0: loss 0.5\n" == say("tell study 0 0.5")  # said again, it is the same
    assert hpo("tell study 0 0.6", capsys, monkeypatch)[2] == (
        "error: TRIAL: trial 0 has ended: loss 0.5; tell each trial once\n"
    )
    ours.tell(0.75)
    assert ask()["number"] == 2 and ask()["number"] == 3 and ask("--for 0.001s")["number"] == 4
    assert say('tell study 2 {"loss":0.25,"size":3}') == "trial 2: loss 0.25\n"
    assert say("tell study 3 --error broken") == "trial 3: failed: broken\n"
    assert ask()["number"] == 5  # the one whose time is over, again
    assert say("tell study 4 0.125").startswith("trial 4: loss")  # late, and still a result
    say("stop study --trial 5")
    last = ask()
    history = study.result().history
    assert {trial.number: trial.loss for trial in history.complete} == {0: 0.5, 1: 0.75, 2: 0.25, 4: 0.125}
    assert history.trials[5].reason == "stopped by hpo stop --trial 5"
    assert last["number"] is None or last["over"] is False


@pytest.mark.slow
def test_leases_are_renewed_while_a_trial_is_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "RENEW_SECONDS", 0.0)
    monkeypatch.setattr(recorder, "FIRST_WRITE_SECONDS", 0.0)
    study = open_study(**KEYS)
    trial = study.ask()
    assert trial is not None
    run = study.result().history.running[0].run_id
    first = int(connect().get(run).tags[Tag.LEASE])
    wait_until(lambda: int(connect().get(run).tags[Tag.LEASE]) > first)
    trial.report(0, {"loss": 2.0})
    trial.tell(1.0)
    wait_until(lambda: study._renewer is None)


def test_interrupted_and_lost_trials_are_taken_up_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt), open_study(**KEYS, repeats="off") as study, study.ask():  # type: ignore[union-attr]
        raise KeyboardInterrupt
    script = "import os; from hpo_flows import open_study; open_study('study').ask(); os._exit(9)"
    subprocess.run([sys.executable, "-c", script], env=environment_without_prefect(), check=False)
    ask_all(study := open_study("study"))
    history = study.result().history
    assert [trial.notes.get("lost") for trial in history.failed] == ["interrupted", "died"]
    assert len(history.complete) == 4
    assert len({trial.config["x"] for trial in history}) == 4


def environment_without_prefect() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def test_a_result_waits_on_disk_while_mlflow_is_away() -> None:
    study = open_study(**KEYS)
    trial = study.ask()
    assert trial is not None

    def away(*arguments: Any) -> None:
        raise TrackingError("MLflow does not respond")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MlflowStore, "log", away)
        with pytest.raises(TrackingError):
            trial.tell(0.25)
    assert trial.told
    assert study.ask() is not None
    assert [each.loss for each in study.result().history.complete] == [0.25]


@pytest.mark.parametrize("kind", ["threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_many_askers_on_one_study(kind: str, tmp_path: Path) -> None:
    """Nothing double, nothing lost."""
    study = open_study(**KEYS | {"trials": 24}, repeats="off")
    if kind == "threads":
        threads = [threading.Thread(target=ask_all_in_turn, args=[study]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    else:
        script = tmp_path / "worker.py"
        script.write_text(WORKER)
        command = [sys.executable, str(script), "study"]
        workers = [subprocess.Popen(command, env=environment_without_prefect()) for _ in range(3)]
        assert [worker.wait() for worker in workers] == [0, 0, 0]
    check_nothing_double(24)


def ask_all_in_turn(study: AskedStudy) -> None:
    while not study.over:
        if (trial := study.ask(wait=1)) is not None:
            trial.tell(0.5 + float(trial.config["x"]))  # type: ignore[arg-type]


def check_nothing_double(count: int) -> None:
    history = find_study(connect(), "study").load()
    assert [trial.number for trial in history] == list(range(count))
    assert all(trial.state is TrialState.COMPLETE for trial in history)
    assert len(history.identities) == count
    assert len({trial.run_id for trial in history}) == count


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_flow_and_an_asker_share_a_study(tmp_path: Path) -> None:
    path = write_study(tmp_path, "slow", stop={"trials": 11})  # too few to make repeats
    flow = start(path)
    wait_for_complete(1)
    ask_all(open_study("study"))
    out, _ = flow.communicate()
    assert flow.returncode == 0, out
    check_nothing_double(11)
    owners = {trial.owner for trial in find_study(connect(), "study").load()}
    assert owners == {str(ownership.Owner.of_this_process())} | {owner for owner in owners if f"/{flow.pid}/" in owner}
    assert len(owners) == 2

"""What a terminal, a notebook and a pipe show of a study while it runs."""

from __future__ import annotations

import io
import logging
import re
import sys
import threading
import types
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_core.selection.evaluation import Evaluation, Fold, Training
from hpo_flows.api import open_ledger, run
from hpo_flows.base.board import Board, Running
from hpo_flows.base.progress import Progress
from hpo_flows.base.waiting import waiting_for
from hpo_flows.objectives.reference import Objective
from hpo_flows.reports.live import LiveProgress
from hpo_flows.reports.news import News, trial_line
from hpo_flows.reports.terminal import trials_table
from hpo_flows.reports.text import seconds_left, status_line
from hpo_flows.workers.output import log as output
from tests.studies import ROOT, gated, let_pass, make_spec
from tests.studies import _somewhere_else as _somewhere_else

NOW = 1_700_000_000_000


def ended(number: int, loss: float | None, **config: Any) -> Trial:
    state = TrialState.FAILED if loss is None else TrialState.COMPLETE
    times = {"start": NOW + 1000 * number, "end": NOW + 1000 * number + 2500}
    return Trial(number, {"x": 0.5} | config, state, loss, reason="" if loss is not None else "no value", **times)


def running(number: int) -> Trial:
    return Trial(number, {"x": 0.25}, TrialState.RUNNING, start=NOW)


def spec_of(*names: str, trials: int = 20) -> Any:
    space = {name: {"type": "float", "low": 0, "high": 1} for name in ("x", *names)}
    return make_spec(space=space, stop={"trials": trials})


def shown(progress: Progress, *more: Progress, width: int = 80, spec: Any = None) -> str:
    """The last state of the live view, as plain text."""
    live = LiveProgress(spec or spec_of(), Console(file=io.StringIO(), force_terminal=True, width=width, height=30))
    for each in (progress, *more):
        live(each)
    screen = Console(file=io.StringIO(), width=width)
    screen.print(live._view(width, 30))
    return str(screen.file.getvalue())  # type: ignore[attr-defined]


# -- words ----------------------------------------------------------------------------------------------------------


def test_a_status_counts_ended_trials_and_tells_no_time_that_is_not_known() -> None:
    six = [ended(number, 0.5) for number in range(6)]
    line = status_line(spec_of(), History([*six, running(6)]), 0.0)
    assert line.startswith("6 of 20 trials done  |  1 running  |  best loss 0.5 (trial 0)  |  about ")
    assert "left" not in status_line(spec_of(trials=6), History(six), 0.0)
    assert "left" not in status_line(spec_of(), History([running(0)]), 0.0)
    assert seconds_left(spec_of(), History(six), 0.0) is None  # nobody works on it


def test_a_finished_study_says_that_its_trials_are_done() -> None:
    six = [ended(number, 0.5) for number in range(6)]
    assert spec_of(trials=6).stop_reason(History(six), 0.0) == "all 6 trials are done"
    started = History([*six[:5], running(5)])
    assert spec_of(trials=6).stop_reason(started, 0.0) == "all 6 trials are started"


def test_the_final_choice_is_told_once_the_last_trial_has_ended() -> None:
    space = {"x": {"type": "float", "low": 0, "high": 1}}
    spec = make_spec(space=space, stop={"trials": 3}, final={"top": 2, "folds": 2})
    out = io.StringIO()
    with LiveProgress(spec, Console(file=out, width=80)) as live:
        for last in (running(2), ended(2, 0.1, x=0.25)):
            history = History([ended(0, 0.5, x=0.1), ended(1, 0.3), last])
            choice = spec.final.selection().choice(history, [], spec.search_space)
            live(Progress(history, 1.0, choice))
    lines = out.getvalue().splitlines()
    (told,) = (i for i, line in enumerate(lines) if "final choice: 0 of 4 folds are done" in line)
    (end,) = (i for i, line in enumerate(lines) if "trial 2" in line)
    assert end < told


def test_news_come_in_the_order_of_their_ends_and_mark_what_was_best_then() -> None:
    news = News()
    assert news.look(History([ended(0, 0.5)])) == []  # told by the run before
    late, early = ended(1, 0.3), ended(2, 0.4)
    late = Trial(1, late.config, late.state, 0.3, start=NOW, end=NOW + 9000)
    found = news.look(History([ended(0, 0.5), late, early, ended(3, None)]))
    assert [each.trial.number for each in found] == [2, 3, 1]
    assert [each.is_best for each in found] == [True, False, True]
    assert [each.before.number for each in found if each.before is not None] == [0, 2, 2]
    assert news.look(History([ended(0, 0.5), late, early, ended(3, None)])) == [] and news.count == 3


def test_a_long_configuration_is_told_by_what_differs_from_the_best() -> None:
    spec = spec_of("momentum", "weight_decay")
    news = News()
    news.look(History([]))
    first = ended(0, 0.5, momentum=0.25, weight_decay=0.125)
    second = ended(1, 0.75, momentum=0.25, weight_decay=0.5)
    one, two = news.look(History([first, second]))
    assert trial_line(spec, one).endswith("loss 0.5 in 2.5 s  * best  (x=0.5, momentum=0.25, weight_decay=0.125)")
    assert trial_line(spec, two).endswith("(x=0.5, momentum=0.25, weight_decay=0.5)")
    assert trial_line(spec, two, 60).endswith("(as 0, but weight_decay=0.5)")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_table_fits_its_screen(width: int) -> None:
    names = [f"a_long_parameter_{i}" for i in range(9)]
    spec = spec_of(*names)
    trials = [ended(n, 0.5, **dict.fromkeys(names, 0.25)) for n in range(3)]
    trials[0] = ended(0, 0.25, **dict.fromkeys(names, 0.25) | {names[8]: 0.75})
    screen = io.StringIO()
    Console(file=screen, width=width).print(trials_table(spec, trials, "Best", width))
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= width and "…" not in screen.getvalue()
    assert names[8] in lines[2], "the one in which they differ comes first"
    assert "more parameters in MLflow" in lines[-1]


# -- what runs now --------------------------------------------------------------------------------------------------


def test_the_board_knows_the_last_report_of_each_training() -> None:
    board = Board()
    trial = Trial(3, {"x": 0.5}, TrialState.RUNNING, run_id="a")
    fold = Training(trial, Evaluation(3, Fold(0, 5), None, 0, TrialState.RUNNING, run_id="b"))
    with board.showing(Training(trial)), board.showing(fold):
        threads = [threading.Thread(target=board.note, args=("a", step, {"loss": 0.5})) for step in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        board.note("gone", 0, {})
        by_kind = {each.kind: each for each in board.shown()}
        assert by_kind.keys() == {"", "fold 1 of 5"}
        assert (by_kind[""].steps, by_kind[""].metrics) == (4, {"loss": 0.5})
        assert by_kind["fold 1 of 5"].steps is None
        board.begin(Training(trial))  # another attempt
        assert {each.kind: each.steps for each in board.shown()}[""] is None
    assert board.shown() == ()


@pytest.mark.usefixtures("prefect_server")
def test_a_running_study_shows_steps_and_metrics(tmp_path: Path) -> None:
    spec = make_spec("reporting", space=gated(tmp_path, 0), stop={"trials": 1}, parallel=1)
    seen: list[Progress] = []

    def observe(progress: Progress) -> None:
        seen.append(progress)
        if any(each.steps == 2 for each in progress.running):
            let_pass(tmp_path)

    run(open_ledger(spec), Objective(spec.objective, (str(ROOT),)), observe)
    reported = next(each for progress in seen for each in progress.running if each.steps == 2)
    assert (reported.number, reported.kind, reported.metrics) == (0, "", {"loss": 8.0})
    assert seen[-1].running == ()


def test_the_live_view_fits_its_screen() -> None:
    history = History([ended(0, 0.5), ended(1, None), running(2), running(3)])
    board = [Running(2, NOW / 1000, "", 7, {"loss": 0.375})]
    view = shown(Progress(History([]), 0.0), Progress(history, 5.0, None, board))
    assert "study: 2 of 20 trials done  |  2 running  |  1 failed" in view
    assert "best loss 0.5 (trial 0)  * new" in view and "x=0.5" in view
    assert re.search(r"trial 2 +step 7 +loss 0.375 +\d+ h", view)
    assert re.search(r"trial 3 +\d+ h", view), "of another machine's, the time alone"
    assert "trials per minute" in view and max(map(len, view.splitlines())) <= 80


def test_more_trials_than_lines_are_counted() -> None:
    history = History([running(number) for number in range(64)])
    view = shown(Progress(history, 5.0, None, [Running(number, NOW / 1000) for number in range(64)]))
    assert len(view.splitlines()) <= 30 and re.search(r"and \d+ more", view)


def test_a_fidelity_tells_how_far_a_trial_is() -> None:
    spec = make_spec(fidelity={"name": "epochs", "min": 1, "max": 9})
    trial = Trial(0, {"x": 0.5}, TrialState.RUNNING, fidelity=9.0, start=NOW)
    view = shown(Progress(History([trial]), 5.0, None, [Running(0, NOW / 1000, "", 3, {"loss": 1.0})]), spec=spec)
    assert "epochs 3 of 9" in view


def test_what_is_waited_for_is_said_from_the_first_moment() -> None:
    screen = io.StringIO()
    with LiveProgress(console=Console(file=screen)) as live:
        live.say("reading study.yaml ...")
        assert "reading study.yaml ..." in screen.getvalue()
        waiting_for("importing the objective")
        live.begin(spec_of())
        live(Progress(History([ended(0, 0.5)]), 0.0))
    waiting_for("nothing")
    _, second, third = screen.getvalue().splitlines()
    assert second.endswith("  importing the objective ...")
    assert "study goes on: 1 of 20 trials done" in third


def test_two_studies_in_two_threads_have_their_own_lines() -> None:
    """Both listen to the same logs."""
    screens = {"first": io.StringIO(), "second": io.StringIO()}
    both_shown, first_over = threading.Barrier(2), threading.Event()

    def study(name: str) -> None:
        with LiveProgress(make_spec(name=name), Console(file=screens[name], width=200), verbose=name == "first"):
            both_shown.wait()
            waiting_for(f"{name} opens")
            logging.getLogger("hpo.somewhere").warning("%s warns", name)
            echo = partial(copy_context().run, output.info, "trial 0 | %s", f"{name} prints")
            reader = threading.Thread(target=echo)  # without a context of its own, as the threads of workers
            reader.start()
            reader.join()
            both_shown.wait()
            if name == "second":
                first_over.wait()
                waiting_for("second goes on")
                output.info("trial 0 | %s", "nobody asked for this")
        if name == "first":
            first_over.set()

    threads = [threading.Thread(target=study, args=[name]) for name in screens]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = {
        name: [line.split("  ")[-1] for line in screen.getvalue().splitlines()] for name, screen in screens.items()
    }
    assert lines == {
        "first": ["first: starting ...", "first opens ...", "warning: first warns", "trial 0 | first prints"],
        "second": ["second: starting ...", "second opens ...", "warning: second warns", "second goes on ..."],
    }


# -- pipes and notebooks --------------------------------------------------------------------------------------------


def two_ended(observe: Callable[[Progress], None]) -> None:
    observe(Progress(History([running(0)]), 0.0))
    observe(Progress(History([ended(0, 0.5), running(1)]), 1.0))
    observe(Progress(History([ended(0, 0.5), ended(1, None)]), 2.0))


def test_a_pipe_gets_one_line_a_trial() -> None:
    screen = io.StringIO()
    with LiveProgress(spec_of(), Console(file=screen)) as observe:
        two_ended(observe)
    assert "\x1b" not in screen.getvalue()
    _, *lines = screen.getvalue().splitlines()
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    assert [re.sub(stamp, "TIME", line) for line in lines] == [
        "TIME  trial  0  loss 0.5 in 2.5 s  * best  (x=0.5)",
        "TIME  trial  1  failed: no value  (x=0.5)",
    ]


class Display:
    """``IPython.display``: outputs, and how often each was updated."""

    def __init__(self) -> None:
        self.outputs: list[list[dict[str, str]]] = []

    def display(self, bundle: dict[str, str], *, raw: bool, display_id: bool) -> Any:
        assert raw and display_id
        self.outputs.append([bundle])
        return types.SimpleNamespace(update=lambda newer, raw: self.outputs[-1].append(newer))


def test_a_notebook_gets_one_output_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = Display()
    module = types.ModuleType("IPython.display")
    module.display = notebook.display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    with LiveProgress(spec_of(), Console(force_jupyter=True)) as observe:
        two_ended(observe)
        observe.tell("<b>bold</b>", "yellow")
    assert len(notebook.outputs) == 1 and len(notebook.outputs[0]) > 3
    last = notebook.outputs[0][-1]
    assert "trial  0  loss 0.5" in last["text/plain"] and "2 of 20 trials done" in last["text/plain"]
    assert "&lt;b&gt;bold" in last["text/html"] and "<b>bold" not in last["text/html"]
    assert "\x1b" not in last["text/plain"] + last["text/html"]


def test_a_notebook_keeps_the_last_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = Display()
    module = types.ModuleType("IPython.display")
    module.display = notebook.display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    with LiveProgress(spec_of(trials=200), Console(force_jupyter=True)) as observe:
        observe(Progress(History([]), 0.0))
        observe(Progress(History([ended(number, 0.5) for number in range(100)]), 0.0))
    text = notebook.outputs[0][-1]["text/plain"]
    assert "... 85 earlier lines" in text and "trial  99" in text and "trial  84" not in text

"""What people see of a study while it runs."""

from __future__ import annotations

import io
import json
import logging

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_core.selection.final_choice import Choice, Standing
from hpo_core.study.spec import StudySpec
from hpo_flows.base.progress import Progress
from hpo_flows.reports.description import study_description
from hpo_flows.reports.ending import Places
from hpo_flows.reports.live import LiveProgress
from hpo_flows.reports.terminal import choice_table, print_summary, trials_table
from tests.hpo_core.study.test_study import spec as make_spec


@pytest.mark.parametrize("terminal", [False, True])
def test_warnings_are_seen_while_a_study_runs_and_only_then(terminal: bool) -> None:
    screen = io.StringIO()
    log = logging.getLogger("hpo.somewhere")
    with LiveProgress(make_spec(), Console(file=screen, force_terminal=terminal, width=40)):
        log.warning("%d results had waited on disk, and this line is longer than the screen is wide", 2)
        log.info("nobody asked for this")
    log.warning("too late")
    shown = screen.getvalue()
    assert "warning: 2 results had waited on disk, and this line is longer than the screen is wide" in shown
    assert "nobody asked" not in shown and "too late" not in shown


HOSTILE = ["[relu, tanh]", "[/data/a]", "[bold]x[/bold]", "[/]", "[link=http://x]y", ":bug:", "\\[a]", "a[b]c"]
texts = st.text(st.sampled_from(list("[]/:=\\#@ab_*")), min_size=1, max_size=12)


def study_of(text: str) -> tuple[StudySpec, History, Choice]:
    """A study in which everything that is its user's to write holds a text."""
    spec = make_spec(
        space={"kind": {"type": "choice", "choices": [text, "other"]}, "x a": {"type": "boolean"}},
        fidelity={"name": text, "min": 1, "max": 9},
    )
    config = {"kind": text, "x a": True}
    best = Trial(0, config, TrialState.COMPLETE, 0.5, fidelity=9, start=1, end=2, metrics={spec.metric: 0.5})
    failed = Trial(1, config | {"kind": "other"}, TrialState.FAILED, reason=text, start=1, end=2)
    return spec, History([best, failed]), Choice([Standing(best, {}, 2, reason=text)])


def screen_with(*shown: RenderableType) -> str:
    screen = io.StringIO()
    Console(file=screen, width=300).print(*shown)
    return screen.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_user_wrote_is_shown_as_it_is_while_a_study_runs_and_at_its_end(text: str, terminal: bool) -> None:
    spec, history, choice = study_of(text)
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=terminal, width=300, color_system=None)
    with LiveProgress(spec, console) as observe:
        observe(Progress(History([]), 0.0))
        observe(Progress(history, 1.0, choice))
        logging.getLogger("hpo").warning("%s is odd", text)
    print_summary(spec, history, f"because of {text}", Places("ui", "report"), console, choice)
    lines = screen.getvalue()
    for line in (f"(kind={text}, x a=True)", f"failed: {text}", f"{text} is odd", f"because of {text}"):
        assert line in lines
    assert f"kind: {json.dumps(text)}" in lines  # as YAML


@given(texts.filter(lambda text: text.strip() == text))
@example("[/data/a]")
@example("[relu, tanh]")
@settings(max_examples=50)
def test_no_text_of_a_users_is_read_as_markup_in_a_table(text: str) -> None:
    spec, history, choice = study_of(text)
    table = screen_with(trials_table(spec, history.complete, f"Title {text}"))
    title, heading, _, row = (table.splitlines()[i] for i in (0, 2, 3, 4))
    assert f"Title {text}" in title and text in heading and text in row
    assert text in screen_with(choice_table(spec, choice))


def test_markdown_shows_what_a_user_wrote() -> None:
    spec, history, choice = study_of("[a|b](http://x) *c* <script>")
    description = study_description(spec, history, choice)
    assert r"| kind | \[a\|b\](http://x) \*c\* &lt;script&gt; |" in description
    assert "<script>" not in description

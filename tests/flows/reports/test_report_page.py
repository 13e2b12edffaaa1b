"""The report's page in a real browser: what its own script does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from hpo_flows.reports.html.curves import Curves
from hpo_flows.reports.html.publish import write_report
from tests.browser import browsing, needs_chromium
from tests.conftest import PATIENCE
from tests.flows.reports import test_front as front
from tests.flows.reports.test_study_report import SERVER, drawn_history, spec_of
from tests.flows.reports.test_study_report import written as written

pytestmark = [pytest.mark.slow, needs_chromium]

DRAWN_ALL = "document.querySelectorAll('.plot[data-drawn]').length === document.querySelectorAll('.plot').length"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 800, 390])
def test_the_report_opens_in_a_browser_without_a_network(scheme: str, width: int, written: Path) -> None:
    wrong: list[str] = []
    viewport = {"width": width, "height": 800}
    with browsing(viewport=viewport, color_scheme=scheme, offline=True) as page:
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else wrong.append(r.url))
        page.goto((written / "report.html").as_uri())
        page.wait_for_function(DRAWN_ALL, timeout=1000 * PATIENCE)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("#history .scatterlayer .point").count() > 20
        assert page.evaluate("window.broken") is None
        assert "<b>adam</b>" in page.locator("#parallel").text_content(), "its ticks are plain text"
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert wrong == []
    assert (sum(json.loads(back.replace("rgb(", "[").replace(")", "]"))) > 380) == (scheme == "light")


def test_the_table_sorts_and_filters_and_opens_trials(tmp_path: Path) -> None:
    history = drawn_history(spec_of(), 1_000)
    report = write_report(spec_of(), history, tmp_path, SERVER)
    with browsing(viewport={"width": 1440, "height": 900}, offline=True) as page:
        page.set_default_timeout(1000 * PATIENCE)
        page.goto(report.as_uri())
        page.wait_for_function(DRAWN_ALL)

        def column(i: int) -> list[str]:
            found: list[str] = page.locator(f"#table tbody td:nth-child({i})").all_inner_texts()
            return found

        values = [float(text) for text in column(3)]
        assert len(values) == 25 and values == sorted(values, reverse=True)
        page.locator("#table th button").first.click()
        page.locator("#after").click()
        assert column(1) == [str(number) for number in range(25, 50)]
        page.locator("#words").fill("rate>0.05 kind=$sgd$")
        wanted = [t for t in history if t.config["rate"] > 0.05 and t.config["kind"] == "$sgd$"]  # type: ignore[operator]
        assert f"of {len(wanted)} (of 1000 trials)" in page.locator("#count").inner_text()
        page.locator("#words").fill("")
        page.locator("#kind").select_option("failed")
        assert f"of {len(history.failed)} " in page.locator("#count").inner_text()
        page.locator("#table tbody tr").first.click()
        dialog = page.locator("dialog")
        assert "Trial 5" in dialog.inner_text() and "</script><script>window.broken" in dialog.inner_text()
        assert dialog.locator("a").get_attribute("href").endswith("/runs/r5?workflowType=machine_learning")


def test_a_front_is_chosen_in_the_table_and_its_points_link_to_their_runs(tmp_path: Path) -> None:
    spec = front.spec_of(front.THREE)
    report = write_report(spec, front.history_of(spec), tmp_path, SERVER)
    with browsing(viewport={"width": 1440, "height": 900}, offline=True) as page:
        page.set_default_timeout(1000 * PATIENCE)
        page.goto(report.as_uri())
        page.wait_for_function(DRAWN_ALL)
        page.locator("#kind").select_option("front")
        assert page.locator("#table tbody td:first-child").all_inner_texts() == [str(n) for n in front.FRONT]
        assert page.locator("#table tbody tr.best").count() == len(front.FRONT)
        page.locator("#table tbody tr").nth(1).click()
        dialog = page.locator("dialog")
        assert all(text in dialog.inner_text() for text in ("Trial 0", "val_accuracy", "0.9", "latency_ms", "40"))
        assert dialog.locator("a").get_attribute("href").endswith("/runs/r0?workflowType=machine_learning")


def test_what_is_chosen_in_the_parallel_coordinates_is_in_the_table(written: Path) -> None:
    with browsing(viewport={"width": 1440, "height": 900}, offline=True) as page:
        page.set_default_timeout(1000 * PATIENCE)
        page.goto((written / "report.html").as_uri())
        page.wait_for_function(DRAWN_ALL)
        page.locator("#parallel").scroll_into_view_if_needed()
        axis = page.locator("#parallel .grip").first.bounding_box()
        across = axis["x"] + axis["width"] / 2
        page.mouse.move(across, axis["y"] + 30)
        page.wait_for_timeout(300)
        page.mouse.down()
        page.mouse.move(across, axis["y"] + 150, steps=10)
        page.wait_for_timeout(300)
        page.mouse.up()
        page.locator("#chosen").wait_for()
        chosen = int(page.locator("#chosen").inner_text().split()[0])
        assert 0 < chosen < 40
        assert f"of {chosen} (of 40 trials)" in page.locator("#count").inner_text()
        page.locator("#chosen").click()
        assert "of 40 trials" in page.locator("#count").inner_text()


def test_the_curves_of_picked_trials_stand_out(tmp_path: Path) -> None:
    history = drawn_history(spec_of())
    curves = Curves("accuracy", {t.number: [(step, -t.number / (step + 1)) for step in range(9)] for t in history})
    report = write_report(spec_of(), history, tmp_path, SERVER, curves)
    with browsing(viewport={"width": 1440, "height": 900}, offline=True) as page:
        page.set_default_timeout(1000 * PATIENCE)
        page.goto(report.as_uri())
        page.wait_for_function(DRAWN_ALL)

        def lines() -> list[str]:
            found: list[str] = page.evaluate("document.getElementById('rungs').data.map(trace => trace.name)")
            return found

        assert len(lines()) == 6 and lines()[0] == "others"
        picked = [page.locator("#table .pick").nth(i).get_attribute("data-pick") for i in (3, 7)]
        for number in picked:
            page.locator(f"#table .pick[data-pick='{number}']").click()
        page.wait_for_function("document.getElementById('rungs').data.length === 4")
        assert lines()[2:] == [f"trial {number}" for number in picked]
        assert not page.locator("dialog").is_visible()
        for number in picked:
            page.locator(f"#picks button[data-pick='{number}']").click()
        page.wait_for_function("document.getElementById('rungs').data.length === 6")


def test_the_best_configuration_can_be_copied(written: Path) -> None:
    with browsing(viewport={"width": 800, "height": 900}, permissions=["clipboard-read", "clipboard-write"]) as page:
        page.goto((written / "report.html").as_uri())
        page.get_by_role("button", name="Copy YAML").click()
        page.get_by_role("button", name="copied").wait_for()
        copied = page.evaluate("navigator.clipboard.readText()")
    best = drawn_history(spec_of()).incumbent
    assert best is not None
    assert YAML(typ="safe").load(copied) == dict(best.config)

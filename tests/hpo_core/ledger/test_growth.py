"""What a long study costs: nothing grows faster than the number of its trials.

Counted are calls of Python functions, which depend on nothing but the code.
"""

from __future__ import annotations

import cProfile
import hashlib
import json
import pstats
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.population import NAMES, finish, reserve, ten_floats
from hpo_core.base.seeding import trial_rng
from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_core.ledger import known_runs, reader
from hpo_core.ledger.known_runs import KnownRuns
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.snapshot import EARLIER_FORMAT, GZIP, Snapshot, unpack
from hpo_core.ledger.store import Metric, Run
from hpo_core.ledger.tags import SCHEMA, Tag, fold
from hpo_core.lineage.opening import find_study, open_study
from hpo_core.space.configuration import config_to_json
from hpo_core.strategies.common import density_ratio
from hpo_core.study.file import study_from
from hpo_core.study.spec import StudySpec
from hpo_flows.reports import export
from hpo_flows.reports.html import publish
from hpo_flows.reports.html.figures import past, past_of, progress
from hpo_flows.reports.html.findings import time_spent
from tests.memory_store import MemoryStore

SMALL, LARGE = 100, 400

MOST = 1.1 * LARGE / SMALL
"""How many times as many calls the larger study may cost."""


def calls(of: Callable[[], Any]) -> int:
    profile = cProfile.Profile()
    profile.runcall(of)
    return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]


def long_study(trials: int) -> Ledger:
    """A study of so many finished trials, as a new process finds it."""
    store = MemoryStore()
    first = open_study(store, ten_floats("long"))
    finish(first, reserve(first, first.load()))
    run = store.runs[first.history().trials[0].run_id]
    for number in range(1, trials):
        config = dict(zip(NAMES, trial_rng(0, number).random(len(NAMES)).tolist(), strict=True))
        told = {"schema": SCHEMA, "seed": 0, "history": f"{number:016x}", "config": config_to_json(config)}
        copied = replace(
            run,
            id=f"long{number}",
            start=run.start + 1_000 * number,
            end=run.start + 1_000 * number + 900,
            tags={**run.tags, Tag.NUMBER: str(number), Tag.OWNER: f"flow {number}", **fold(told)},
        )
        store.runs[copied.id] = copied
        store.runs[first.claims_run].params[f"trial.{number}"] = copied.id  # type: ignore[index]
    return find_study(store, "long")


@pytest.fixture(scope="module")
def studies() -> tuple[Ledger, Ledger]:
    return long_study(SMALL), long_study(LARGE)


def growth(of: Callable[[Ledger], Any], studies: tuple[Ledger, Ledger]) -> float:
    small, large = (calls(lambda ledger=ledger: of(ledger)) for ledger in studies)  # type: ignore[misc]
    return large / small


def owners(ledger: Ledger) -> None:
    time_spent(past_of(ledger.spec, ledger.history()))


def table(ledger: Ledger) -> None:
    """All trials lie outside a space that was changed since."""
    history = History(replace(trial, outside={"x0": "too large"}) for trial in ledger.history())
    export.rows(ledger.spec, history)


def fresh(ledger: Ledger) -> Ledger:
    return find_study(ledger.store, "long")


@pytest.mark.parametrize("of", [lambda ledger: fresh(ledger).load(), owners, table], ids=["load", "owners", "table"])
def test_nothing_grows_faster_than_the_number_of_trials(
    of: Callable[[Ledger], Any], studies: tuple[Ledger, Ledger]
) -> None:
    for ledger in studies:
        ledger.load()
    assert growth(of, studies) < MOST


def test_a_snapshot_is_read_in_proportion(studies: tuple[Ledger, Ledger]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "SNAPSHOT_FROM", 1)
        for ledger in studies:
            ledger.load()
            assert ledger.save_snapshot()
    assert growth(lambda ledger: fresh(ledger)._read_snapshot(), studies) < MOST


def test_deleting_many_runs_looks_at_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [Run(f"r{i}", "1", "", "FINISHED", i, tags={"hpo.role": "trial", "hpo.number": str(i)}) for i in range(300)]
    known, asked = KnownRuns(runs), []
    number_of = known_runs.number_of
    monkeypatch.setattr(known_runs, "number_of", lambda run: (asked.append(run.id), number_of(run))[1])
    for run in reversed(runs[100:]):
        known.drop(run.id)
    assert known.highest == 99
    assert len(asked) <= 300


def test_few_trials_stand_for_many_in_the_densities_of_tpe(
    monkeypatch: pytest.MonkeyPatch, studies: tuple[Ledger, Ledger]
) -> None:
    seen: list[int] = []
    density = density_ratio.Parzen.log_density
    monkeypatch.setattr(density_ratio, "MOST", 60)
    monkeypatch.setattr(
        density_ratio.Parzen, "log_density", lambda self, X: (seen.append(len(self.X)), density(self, X))[1]
    )
    for ledger in studies:
        spec = study_from(ledger.spec.model_dump() | {"strategy": "tpe", "repeats": "off"})
        assert spec.propose(ledger.load(), 1)
        assert sum(seen[-2:]) <= 60 + 2 * 25
    assert max(seen) >= 40, "as many as are allowed"


def test_the_best_are_among_the_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(density_ratio, "MOST", 20)
    losses = [float(i * 7919 % 1000) for i in range(200)]
    trials = [Trial(i, {"x": loss}, TrialState.COMPLETE, loss) for i, loss in enumerate(losses)]
    kept, others = density_ratio._selection(trials, trials[:50], 10)
    assert sorted(losses)[:10] == sorted(trial.loss for trial in kept)[:10]  # type: ignore[type-var]
    assert [t.number for t in kept] == sorted(t.number for t in kept) and len(kept) + len(others) <= 31
    several = [replace(trial, losses=(trial.loss, 1000 - trial.loss)) for trial in trials[:10]]  # type: ignore[operator]
    worse = [replace(t, losses=(t.loss + 1000, 3000.0)) for t in trials[10:]]  # type: ignore[operator]
    kept, _ = density_ratio._selection([*several, *worse], [], 10)
    assert {t.number for t in several} <= {t.number for t in kept}


def test_a_long_curve_keeps_its_turns_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [Metric("best_so_far", float(i // 300), i, i) for i in range(1_000)]
    assert publish._without_most(points) == points
    monkeypatch.setattr(publish, "MOST_POINTS", 50)
    steps = [point.step for point in publish._without_most(points)]
    assert {0, 299, 300, 599, 600, 899, 900, 999} <= set(steps)
    assert len(steps) <= 50 + 8


def report_of(spec: StudySpec, history: History) -> dict[str, Any]:
    from hpo_flows.reports.html.page import report_page

    page = report_page(past_of(spec, history), None, "today")
    data = page.partition('id="data">')[2].partition("</script>")[0]
    return {"text": page, **json.loads(data)}


@pytest.mark.slow
def test_the_report_of_a_long_study_has_the_best_the_last_and_every_new_best(
    monkeypatch: pytest.MonkeyPatch, studies: tuple[Ledger, Ledger]
) -> None:
    for module in (past, progress):
        monkeypatch.setattr(module, "MOST_TRIALS", 90)
    monkeypatch.setattr(past, "BEST_DRAWN", 20)
    monkeypatch.setattr(past, "LAST_DRAWN", 10)
    spec, history = studies[1].spec, studies[1].load()
    falling = [replace(trial, loss=abs(50.5 - trial.number % 100) + 1e-3 * trial.number) for trial in history]
    history = History(falling, history.next_number)
    found = report_of(spec, history)
    numbers = {trial["n"] for trial in found["trials"]}
    assert 60 <= len(numbers) <= 90 and found["total"] == LARGE
    ranked = sorted(history.complete, key=lambda trial: trial.loss or 0.0)
    assert numbers >= {trial.number for trial in ranked[:20]} | set(range(390, 400)) | set(range(51))
    assert f"{len(numbers)} of the 400 trials" in found["text"] and "hpo export" in found["text"]
    (steps,) = [plot for plot in found["plots"] if plot["name"] == "history"]
    (line,) = [trace for trace in steps["data"] if trace["name"] == "best so far"]
    assert set(line["x"]) == numbers and line["y"][-1] == min(t.loss for t in history.complete if t.loss is not None)
    for plot in found["plots"]:
        for trace in plot["data"]:
            assert set(trace.get("customdata", ())) <= {*numbers, None}, plot["name"]
            assert all(len(trace[key]) <= 90 for key in ("x", "y") if key in trace), plot["name"]
    assert past_of(spec, History(list(history)[:80])).all_drawn


def test_snapshots_of_earlier_versions_are_read() -> None:
    run = Run("r1", "1", "a-0000", "FINISHED", 1, 2, {"x": "0.5"}, {"loss": 0.1}, {"hpo.number": "0"})
    row = [run.id, run.experiment, run.name, run.status, run.start, run.end, run.params, run.metrics, run.tags]
    body = json.dumps([[row], ["r2"]]).encode()
    header = {"format": EARLIER_FORMAT, "study": "s", "sha256": hashlib.sha256(body).hexdigest()}
    packer = zlib.compressobj(6, wbits=GZIP)
    packed = packer.compress(json.dumps(header).encode() + b"\n" + body) + packer.flush()
    assert unpack(packed) == Snapshot("s", [run], ["r2"])

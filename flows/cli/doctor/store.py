"""Checks the tracking store for ``hpo doctor``: whether it responds, can be written, takes files, and its clock."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path

from hpo_core.ledger.ownership import now_ms
from hpo_core.ledger.store import FINISHED, Metric, Run, Store
from hpo_core.ledger.tags import CLAIMS, Tag, split_tag
from hpo_core.space.configuration import config_to_json
from hpo_core.study.spec import StudySpec
from hpo_core.tracking.credentials import redact
from hpo_flows.cli.doctor.findings import PATIENCE_SECONDS, STORE, Finding, Level, guarded
from hpo_flows.cli.doctor.machine import longest_config
from hpo_flows.reports.text import one_line

MAX_SKEW_SECONDS = 5.0


# -- the store --------------------------------------------------------------------------------------------------


def reachable(store: Callable[[], Store], opened: list[Store]) -> Iterator[Finding]:
    """Check that the tracking store responds; if so, append it to ``opened``."""

    started = time.monotonic()
    opened.append(store())
    seconds = time.monotonic() - started
    yield Finding("tracking store", Level.OK, f"{redact(opened[0].uri)} responds (opened in {seconds:.1f} s)")


def scratch(store: Store, spec: StudySpec | None) -> Iterator[Finding]:
    """Check that a trial can be written: write one to a scratch run, and delete that again.

    Args:
        store: The tracking store.
        spec: The study, if one was given. The scratch run is created in its experiment, which may have its own artifact
            store, and gets its metric and its longest values.
    """
    experiment = None if spec is None else store.experiment(spec.experiment, create=False)
    experiment = experiment or store.experiment(CLAIMS, create=True, unlisted=True)
    assert experiment is not None
    run = store.create_run(experiment, "hpo doctor", {Tag.ROLE: "scratch"})
    try:
        yield from guarded("tracking store", writable(store, run, spec), STORE)
        yield from artifacts(store, run)
    finally:
        store.set_status(run.id, FINISHED)
        store.delete_run(run.id)


def writable(store: Store, run: Run, spec: StudySpec | None) -> Iterator[Finding]:
    """Check that the tracking store takes metrics, params and tags, those of the study's trials if there is one."""
    metrics = ["loss"] if spec is None else [each.metric for each in spec.objectives]
    params = {} if spec is None else longest_config(spec.search_space)
    tags = split_tag(Tag.CONFIG, config_to_json(params))
    store.log(run.id, [Metric(metric, 0.0, now_ms()) for metric in metrics], params, tags)
    # MLflow truncates values that are too long instead of refusing them; the limit depends on the server.
    kept = store.get(run.id)
    given = {**params, **tags}
    if cut := [name for name, text in {**kept.params, **kept.tags}.items() if given.get(name, text) != text]:
        yield Finding(
            "tracking store",
            Level.PROBLEM,
            f"it cuts the longest values of {', '.join(cut)}",
            "give them short names that the objective looks up, or update the server",
        )
        return
    whose = "" if spec is None else f", such as trials of {spec.name!r}"
    yield Finding("tracking store", Level.OK, f"runs can be written and deleted{whose}")


def artifacts(store: Store, run: Run) -> Iterator[Finding]:
    """Check that the artifact store takes a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "doctor.txt"
        path.write_text("written by hpo doctor\n", encoding="utf-8")
        try:
            store.upload(run.id, path, "")
        except Exception as error:  # each artifact store raises its own kinds
            yield Finding(
                "artifact store",
                Level.PROBLEM,
                one_line(f"it refuses a file: {type(error).__name__}: {error}"),
                "make its folder or bucket writable; it belongs to the experiment, and is listed in MLflow's UI there",
            )
        else:
            yield Finding("artifact store", Level.OK, "files can be written")


def clock(uri: str) -> Iterator[Finding]:
    """Compare the tracking server's clock with this machine's, since leases are compared across machines."""
    if not uri.startswith("http"):
        yield Finding("clock", Level.OK, "not applicable: a database has no clock of its own")
        return
    import requests

    before = time.time()
    try:
        answer = requests.head(uri, timeout=PATIENCE_SECONDS)
    except requests.RequestException as error:  # its text may contain the whole address, with a password
        yield Finding("clock", Level.WARNING, f"the server does not tell the time ({type(error).__name__})")
        return
    local, stamp = (before + time.time()) / 2, answer.headers.get("Date", "")
    try:
        skew = parsedate_to_datetime(stamp).timestamp() + 0.5 - local  # the header has whole seconds
    except ValueError:
        yield Finding("clock", Level.WARNING, "the server does not tell the time")
        return
    if abs(skew) > MAX_SKEW_SECONDS:
        yield Finding(
            "clock",
            Level.WARNING,
            f"the server's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's",
            "let both follow a time server (NTP); leases of trials are compared across machines",
        )
    else:
        yield Finding("clock", Level.OK, f"within {MAX_SKEW_SECONDS:g} s of the server's")

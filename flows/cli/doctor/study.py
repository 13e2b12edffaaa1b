"""Checks a stored study for ``hpo doctor``: its runs, its flows, dead trials, and results that wait on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hpo_core.base.errors import StudyUnknown
from hpo_core.ledger.evaluations import FoldLedger, evaluation_name
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.spool import Spool
from hpo_core.ledger.store import FAILED, FINISHED, RUNNING, Run, Store
from hpo_core.ledger.tags import CLAIMS, SCHEMA, Tag
from hpo_core.lineage.opening import find_study
from hpo_core.lineage.series import find_current
from hpo_core.study.spec import StudySpec
from hpo_flows.cli.doctor.findings import Finding, Level
from hpo_flows.reports.text import one_line, skipped_line

# -- the study --------------------------------------------------------------------------------------------------


def stored(store: Store, name: str, spec: StudySpec | None, found: list[Ledger]) -> Iterator[Finding]:
    """Check whether the study is stored; if so, append it to ``found``."""
    try:
        found.append(find_study(store, name) if spec is None else find_current(store, spec))
    except StudyUnknown:
        if spec is None:
            raise
        yield Finding("study", Level.OK, f"{name!r} is not started yet")
    else:
        run = found[0].study_run
        yield Finding("study", Level.OK, f"{found[0].spec.name!r} is run {run.id} in experiment {run.experiment}")


def schema(ledger: Ledger) -> Iterator[Finding]:
    """Check that this release can read what the release that started the study wrote."""
    written = ledger.study_run.tags.get(Tag.SCHEMA)
    if written == SCHEMA:
        yield Finding("schema", Level.OK, f"version {SCHEMA}")
    else:
        yield Finding(
            "schema",
            Level.PROBLEM,
            one_line(f"the study was written by schema {written!r}, and this release reads {SCHEMA!r}"),
            "go on with the release that began it, or begin a study of another name",
        )


def claims(ledger: Ledger) -> Iterator[Finding]:
    """Check that the run that hands out trial numbers exists."""
    experiment = ledger.store.experiment(CLAIMS, create=False)
    tags = {Tag.ROLE: "claims", Tag.STUDY: ledger.spec.name}
    active = [] if experiment is None else ledger.store.search([experiment], tags)
    if any(run.id == ledger.claims_run for run in active):
        yield Finding("claims", Level.OK, f"run {ledger.claims_run} is active")
    else:
        yield Finding(
            "claims",
            Level.PROBLEM,
            one_line(f"run {ledger.claims_run}, which hands out trial numbers, is deleted or missing"),
            one_line(f"restore it: mlflow runs restore --run-id {ledger.claims_run}"),
        )


def trials(ledger: Ledger, *, repair: bool) -> Iterator[Finding]:
    """Check the study's child runs: active flows, trials whose flow is dead, and runs that are not trials."""
    history = ledger.load()
    yield from parallel_flows(ledger)
    yield from stale(ledger, repair=repair)
    yield from stale_folds(ledger, repair=repair)
    if ledger.skipped:
        yield Finding(
            "other runs",
            Level.WARNING,
            skipped_line(ledger.skipped),
            "delete those that should not be there, or leave them: they are passed over",
        )
    else:
        yield Finding("other runs", Level.OK, f"none beside the {len(history)} trials")


def parallel_flows(ledger: Ledger) -> Iterator[Finding]:
    """Count the flows that work on the study now, and check that its store is suited to that number."""
    count = len(ledger.owners())
    flows = f"{count} {'flow works' if count == 1 else 'flows work'} on the study"
    if count > 1 and ledger.store.uri.startswith("sqlite"):
        yield Finding(
            "flows",
            Level.WARNING,
            f"{flows} over one sqlite file, where they wait for each other",
            "start a server (mlflow server --backend-store-uri DATABASE) and set MLFLOW_TRACKING_URI to it",
        )
    else:
        yield Finding("flows", Level.OK, flows)


def stale(ledger: Ledger, *, repair: bool) -> Iterator[Finding]:
    """Find trials that MLflow shows as running although their flow is dead; ``repair`` ends them as failed."""
    dead = [(run, f"trial {number}", why) for run, number, why in ledger.stale()]
    return _dead(ledger, "stale trials", dead, ledger.reap if repair else None)


def stale_folds(ledger: Ledger, *, repair: bool) -> Iterator[Finding]:
    """Like :func:`stale`, for the final choice: folds, and the winner's test."""
    folds = FoldLedger(ledger)
    dead = [(run, f"{evaluation_name(each)} of trial {each.number}", why) for run, each, why in folds.stale()]
    return _dead(ledger, "stale folds", dead, folds.load if repair else None)


def _dead(
    ledger: Ledger, check: str, dead: Sequence[tuple[Run, str, str]], end: Callable[[], object] | None
) -> Iterator[Finding]:
    """One finding per dead run, with its name and the evidence; with ``repair``, how ending it went."""
    if not dead:
        yield Finding(check, Level.OK, "none")
    elif end is None:
        for _, name, why in dead:
            yield Finding(check, Level.PROBLEM, f"{name} does not run: {why}", "hpo doctor --repair")
    else:
        end()
        for run, name, why in dead:
            became = {
                FAILED: f"is ended as failed: {why}",
                FINISHED: "had ended in this very moment; its result stands",
                RUNNING: f"had a second run, {run.id}, which is deleted: {why}",
            }[ledger.store.get(run.id).status]
            yield Finding(check, Level.OK, f"{name} {became}")


def waiting(ledger: Ledger, home: Path) -> Iterator[Finding]:
    """Find results that an outage or a crash left on this disk, and those that MLflow refused."""
    spool = Spool(home / "spool" / ledger.study_run.id)
    count, refused = sum(1 for _ in spool.waiting()), spool.refused()
    if refused:
        yield Finding(
            "spool",
            Level.WARNING,
            f"MLflow refused {len(refused)} results that had waited on disk; they are in {spool.folder}",
            "read them there, and delete them; their runs may have been deleted",
        )
    if count:
        yield Finding(
            "spool", Level.WARNING, f"{count} results wait on disk for MLflow", "run hpo tune: it delivers them"
        )
    elif not refused:
        yield Finding("spool", Level.OK, "no result waits on disk")

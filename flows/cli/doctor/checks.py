"""Runs the checks of ``hpo doctor``: what is wrong with an installation, a store or a study, and how to fix it.

A check is a function that yields findings. No check raises: an error also becomes a finding, so that one broken part
does not hide the others' findings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.store import Store
from hpo_core.study.spec import StudySpec
from hpo_flows.cli.doctor.findings import STORE, Finding, guarded
from hpo_flows.cli.doctor.machine import gpus, limits, objective, packages, prefect
from hpo_flows.cli.doctor.store import clock, reachable, scratch
from hpo_flows.cli.doctor.study import claims, schema, stored, trials, waiting
from hpo_flows.objectives.reference import Objective


def examine(
    store: Callable[[], Store],
    spec: StudySpec | None = None,
    name: str | None = None,
    path: Sequence[str] = (),
    home: Path = Path(".hpo"),
    *,
    repair: bool = False,
) -> Iterator[Finding]:
    """Run every applicable check and yield its findings at once.

    Args:
        store: Opens the tracking store.
        spec: The study from its file, if there is a file.
        name: The study's name, if one was given.
        path: Folders searched for the objective.
        home: The folder where results wait for MLflow.
        repair: End the trials and folds whose flow is dead.

    Raises:
        StudyUnknown: Only a name was given, and the study does not exist.
    """
    yield from packages()
    yield from guarded("GPUs", gpus())
    yield from guarded("prefect", prefect())
    if spec is not None:
        yield from _study_checks(spec, path)
    opened: list[Store] = []
    yield from guarded("tracking store", reachable(store, opened), STORE)
    if not opened:
        return
    (found,) = opened
    yield from guarded("clock", clock(found.uri))
    studies: list[Ledger] = []
    if name is not None:
        yield from guarded("study", stored(found, name, spec, studies))
    ledger = studies[0] if studies else None
    shown = spec or (ledger.spec if ledger is not None else None)
    yield from guarded("tracking store", scratch(found, shown), STORE)
    if ledger is None:
        return
    if spec is None:
        yield from _study_checks(ledger.spec, path)
    yield from guarded("schema", schema(ledger))
    yield from guarded("claims", claims(ledger))
    yield from guarded("trials", trials(ledger, repair=repair))
    yield from guarded("spool", waiting(ledger, home))


def _study_checks(spec: StudySpec, path: Sequence[str]) -> Iterator[Finding]:
    yield from guarded("limits", limits(spec.search_space))
    yield from guarded(
        "objective", objective(Objective(spec.objective, path, needs_hypergradient=spec.needs_hypergradient))
    )

"""``hpo doctor``: what is wrong with an installation, a store or a study, and what to do about it.

A check is a function that yields findings. None of them raises: whatever a store answers is a finding, too, so that one
broken part does not hide what the others have to say.
"""

from __future__ import annotations

import platform
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from flows.objective import Objective
from flows.report import one_line, skipped_line
from hpo_core.configuration import Scalar, config_to_json
from hpo_core.errors import InputError, StudyUnknown
from hpo_core.folds import FoldLedger, part_name
from hpo_core.ledger import CLAIMS, SCHEMA, Ledger, find_study, now_ms, split_tag
from hpo_core.series import find_current
from hpo_core.space import SearchSpace
from hpo_core.spool import Spool
from hpo_core.store import FAILED, FINISHED, RUNNING, Metric, Run, Store
from hpo_core.study import StudySpec

MAX_SKEW_SECONDS = 5.0
MANY_PARAMS = 1_000

IMPORT_SECONDS = 120.0
PATIENCE_SECONDS = 5.0

PACKAGES = ("mlflow", "prefect", "fastapi", "sqlalchemy", "numpy", "scipy", "scikit-learn")
OPTIONAL = ("tensorflow", "keras", "psycopg2-binary")


@dataclass(frozen=True)
class Clash:
    """Versions that are known not to work.

    Args:
        package: A package, broken from ``first`` on.
        first: The first version that does not work.
        beside: The package that it does not work with, broken in the release ``release``.
        release: A release of ``beside``; empty for all.
        why: What happens.
    """

    package: str
    first: str
    beside: str
    release: str
    why: str


CLASHES = (
    Clash("fastapi", "0.155", "prefect", "3.8", "Prefect's server does not start, the temporary one included"),
    Clash(
        "sqlalchemy", "2.1", "prefect", "3.8", "Prefect's scheduler starts no runs, and only its server's log shows it"
    ),
)


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Args:
        check: What was looked at.
        level: How bad it is.
        found: What was seen, in one line.
        remedy: What to do about it, as an imperative clause; empty where there is nothing to do.
    """

    check: str
    level: Level
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.level:<8} {self.check:<15} {self.found}" + (f"; {self.remedy}" if self.remedy else "")


def examine(
    store: Callable[[], Store],
    spec: StudySpec | None = None,
    name: str | None = None,
    path: Sequence[str] = (),
    home: Path = Path(".hpo"),
    *,
    repair: bool = False,
) -> Iterator[Finding]:
    """Every check that can be made, as soon as its finding is known.

    Args:
        store: Opens the tracking store.
        spec: The study as its file has it, if there is a file.
        name: The study's name, if one was given.
        path: Folders in which the objective is looked for.
        home: Where results wait for MLflow.
        repair: End the trials and folds whose flow is dead.

    Raises:
        StudyUnknown: Only a name was given, and no such study is stored.
    """
    yield from packages()
    if spec is not None:
        yield from _study_checks(spec, path)
    opened: list[Store] = []
    yield from _guarded("tracking store", reachable(store, opened), _STORE)
    if not opened:
        return
    (found,) = opened
    yield from _guarded("clock", clock(found.uri))
    studies: list[Ledger] = []
    if name is not None:
        yield from _guarded("study", stored(found, name, spec, studies))
    ledger = studies[0] if studies else None
    shown = spec or (ledger.spec if ledger is not None else None)
    yield from _guarded("tracking store", scratch(found, shown), _STORE)
    if ledger is None:
        return
    if spec is None:
        yield from _study_checks(ledger.spec, path)
    yield from _guarded("schema", schema(ledger))
    yield from _guarded("claims", claims(ledger))
    yield from _guarded("trials", trials(ledger, repair=repair))
    yield from _guarded("spool", waiting(ledger, home))


def _study_checks(spec: StudySpec, path: Sequence[str]) -> Iterator[Finding]:
    yield from _guarded("limits", limits(spec.search_space))
    yield from _guarded(
        "objective", objective(Objective(spec.objective, path, needs_hypergradient=spec.needs_hypergradient))
    )


_STORE = "make it reachable and writable, or correct MLFLOW_TRACKING_URI"


def _guarded(check: str, findings: Iterator[Finding], remedy: str = "") -> Iterator[Finding]:
    """The findings of a check; what it raises is the last of them."""
    try:
        yield from findings
    except StudyUnknown:
        raise
    except InputError as error:
        yield Finding(check, Level.PROBLEM, one_line(f"{error.field}: {error.problem}"), one_line(error.remedy))
    except Exception as error:  # a store, a driver or a file system may raise what it likes
        known = type(error).__module__.startswith("hpo_core.")
        yield Finding(check, Level.PROBLEM, one_line(error if known else f"{type(error).__name__}: {error}"), remedy)


# -- this machine -----------------------------------------------------------------------------------------------


def installed(package: str) -> str | None:
    """The version of a package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def packages(version_of: Callable[[str], str | None] = installed) -> Iterator[Finding]:
    """The versions of what this package stands on, and combinations of them that are known to be broken."""
    versions = {name: found for name in (*PACKAGES, *OPTIONAL) if (found := version_of(name)) is not None}
    clashes = [clash for clash in CLASHES if _clashes(clash, versions)]
    for clash in clashes:
        yield Finding(
            "packages",
            Level.PROBLEM,
            f"{clash.package} {versions[clash.package]} beside {clash.beside} {versions[clash.beside]}: {clash.why}",
            f"pip install '{clash.package}<{clash.first}'",
        )
    if missing := [name for name in PACKAGES if name not in versions]:
        yield Finding(
            "packages", Level.PROBLEM, f"not installed: {', '.join(missing)}", f"pip install {' '.join(missing)}"
        )
    if not clashes and not missing:
        listed = ", ".join(f"{name} {found}" for name, found in versions.items())
        yield Finding("packages", Level.OK, f"python {platform.python_version()}, {listed}")


def _clashes(clash: Clash, versions: Mapping[str, str]) -> bool:
    if clash.package not in versions or clash.beside not in versions:
        return False
    release = _release(clash.release)
    return (
        _release(versions[clash.package]) >= _release(clash.first)
        and _release(versions[clash.beside])[: len(release)] == release
    )


def _release(text: str) -> tuple[int, ...]:
    """
    >>> _release("2.1.0b1"), _release("0.155")
    ((2, 1, 0), (0, 155))
    """
    digits = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in digits[0].split(".")) if digits else ()


def objective(reference: Objective) -> Iterator[Finding]:
    """Whether a worker process can import the objective; here, nothing of it is loaded, and a crash does no harm."""
    name = reference.reference
    if name.startswith("__main__:") or ".locals." in name:
        yield Finding("objective", Level.OK, f"{name} is a function of a script, which hands it over when it runs")
        return
    from flows.worker import WorkerPool

    try:
        with WorkerPool(1, reference) as pool:
            pool.check(IMPORT_SECONDS)
    except InputError as error:
        # The end of a traceback says most.
        problem = one_line(error.problem, 10_000)
        shown = problem if len(problem) <= 400 else f"{problem[:100]} ... {problem[-300:]}"
        yield Finding("objective", Level.PROBLEM, shown, one_line(error.remedy))
    else:
        yield Finding("objective", Level.OK, f"{name} can be imported")


def limits(space: SearchSpace) -> Iterator[Finding]:
    """What MLflow would take only slowly; what it would refuse, :func:`writable` finds out."""
    count, longest = len(space.parameters), max(len(text) for text in _longest(space).values())
    if count > MANY_PARAMS:
        yield Finding(
            "limits",
            Level.WARNING,
            f"{count} params a trial: MLflow takes a request for every hundred, and its tables show few",
            f"tune at most {MANY_PARAMS} parameters, and log the others as one artifact",
        )
    else:
        yield Finding("limits", Level.OK, f"{count} params a trial, of at most {longest} characters")


def _longest(space: SearchSpace) -> dict[str, str]:
    """The longest value of every parameter, as the param that MLflow would get."""
    longest: dict[str, str] = {}
    for name, parameter in space.parameters.items():
        values: Iterable[Scalar] = getattr(parameter, "options", None) or parameter.values(2)
        longest[name] = max((parameter.to_string(value) for value in values), key=len)
    return longest


# -- the store --------------------------------------------------------------------------------------------------


def reachable(store: Callable[[], Store], opened: list[Store]) -> Iterator[Finding]:
    """Whether the tracking store answers; if so, it is appended to ``opened``."""
    from hpo_core.tracking import redact

    started = time.monotonic()
    opened.append(store())
    seconds = time.monotonic() - started
    yield Finding("tracking store", Level.OK, f"{redact(opened[0].uri)} answers (opened in {seconds:.1f} s)")


def scratch(store: Store, spec: StudySpec | None) -> Iterator[Finding]:
    """Whether a trial can be written: a scratch run gets what one would, and is deleted again.

    Args:
        store: The tracking store.
        spec: The study, if one was given. The run stands in its experiment, whose artifacts may have a place of their
            own; its metric and its longest values are tried.
    """
    experiment = None if spec is None else store.experiment(spec.experiment, create=False)
    experiment = experiment or store.experiment(CLAIMS, create=True)
    assert experiment is not None
    run = store.create_run(experiment, "hpo doctor", {"hpo.role": "scratch"})
    try:
        yield from _guarded("tracking store", writable(store, run, spec), _STORE)
        yield from artifacts(store, run)
    finally:
        store.set_status(run.id, FINISHED)
        store.delete_run(run.id)


def writable(store: Store, run: Run, spec: StudySpec | None) -> Iterator[Finding]:
    """Whether the tracking store takes metrics, params and tags, those of a study's trials if there is one."""
    metric, params = ("loss", {}) if spec is None else (spec.metric, _longest(spec.search_space))
    tags = split_tag("hpo.config", config_to_json(params))
    store.log(run.id, [Metric(metric, 0.0, now_ms())], params, tags)
    # MLflow cuts a value that is too long rather than refuse it, and how long that is depends on the server.
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
    """Whether the artifact store takes a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "doctor.txt"
        path.write_text("written by hpo doctor\n", encoding="utf-8")
        try:
            store.upload(run.id, path, "")
        except Exception as error:  # each artifact store has exceptions of its own
            yield Finding(
                "artifact store",
                Level.PROBLEM,
                one_line(f"it refuses a file: {type(error).__name__}: {error}"),
                "make its folder or bucket writable; it belongs to the experiment, and is listed in MLflow's UI there",
            )
        else:
            yield Finding("artifact store", Level.OK, "files can be written")


def clock(uri: str) -> Iterator[Finding]:
    """How far the clock of the tracking server is from this machine's: leases are compared across machines."""
    if not uri.startswith("http"):
        yield Finding("clock", Level.OK, "not applicable: a database has no clock of its own")
        return
    import requests

    before = time.time()
    try:
        answer = requests.head(uri, timeout=PATIENCE_SECONDS)
    except requests.RequestException as error:  # its text may hold the whole address, and so a password
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


# -- the study --------------------------------------------------------------------------------------------------


def stored(store: Store, name: str, spec: StudySpec | None, found: list[Ledger]) -> Iterator[Finding]:
    """Whether the study is stored; if so, it is appended to ``found``."""
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
    """Whether this release reads what the one that began the study wrote."""
    written = ledger.study_run.tags.get("hpo.schema")
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
    """Whether the run that hands out trial numbers is there."""
    experiment = ledger.store.experiment(CLAIMS, create=False)
    tags = {"hpo.role": "claims", "hpo.study": ledger.spec.name}
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
    """What stands below the study: flows at work, trials whose flow is dead, and runs that are no trials."""
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
    """How many flows work on the study now, and whether its store is made for that."""
    count = len(ledger.owners())
    flows = f"{count} {'flow works' if count == 1 else 'flows work'} on the study"
    if count > 1 and ledger.store.uri.startswith("sqlite:"):
        yield Finding(
            "flows",
            Level.WARNING,
            f"{flows} over one sqlite file, where they wait for each other",
            "start a server (mlflow server --backend-store-uri DATABASE) and set MLFLOW_TRACKING_URI to it",
        )
    else:
        yield Finding("flows", Level.OK, flows)


def stale(ledger: Ledger, *, repair: bool) -> Iterator[Finding]:
    """Trials that run for MLflow only; ``repair`` ends them as failed."""
    dead = [(run, f"trial {number}", why) for run, number, why in ledger.stale()]
    return _dead(ledger, "stale trials", dead, ledger.reap if repair else None)


def stale_folds(ledger: Ledger, *, repair: bool) -> Iterator[Finding]:
    """The same of the final choice: folds, and the winner's test."""
    folds = FoldLedger(ledger)
    dead = [(run, f"{part_name(part)} of trial {part.number}", why) for run, part, why in folds.stale()]
    return _dead(ledger, "stale folds", dead, folds.load if repair else None)


def _dead(
    ledger: Ledger, check: str, dead: Sequence[tuple[Run, str, str]], end: Callable[[], object] | None
) -> Iterator[Finding]:
    """What runs for MLflow only, each with its name and why it is thought dead, and what ``end`` made of it."""
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
    """Results that an outage or a crash left on this disk."""
    count = sum(1 for _ in Spool(home / "spool" / ledger.study_run.id).waiting())
    if count:
        yield Finding(
            "spool", Level.WARNING, f"{count} results wait on disk for MLflow", "run hpo tune: it delivers them"
        )
    else:
        yield Finding("spool", Level.OK, "no result waits on disk")

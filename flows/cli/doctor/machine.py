"""Checks this machine for ``hpo doctor``: package versions, Prefect's server, the objective and MLflow's limits.

Prefect and the worker pool are imported only by the checks that need them.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from hpo_core.base.errors import InputError
from hpo_core.space.configuration import Scalar
from hpo_core.space.search_space import SearchSpace
from hpo_flows.cli.doctor.findings import Finding, Level
from hpo_flows.objectives.reference import Objective
from hpo_flows.reports.text import one_line

MANY_PARAMS = 1_000

IMPORT_SECONDS = 120.0

PACKAGES = ("mlflow", "prefect", "fastapi", "sqlalchemy", "numpy", "scipy", "scikit-learn")

OPTIONAL = ("tensorflow", "keras", "psycopg2-binary")


@dataclass(frozen=True)
class Clash:
    """A combination of versions that is known not to work.

    Args:
        package: A package, broken from ``first`` on.
        first: The first version that does not work.
        beside: The package that it does not work with, in release ``release``.
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


# -- this machine -----------------------------------------------------------------------------------------------


def installed(package: str) -> str | None:
    """The version of a package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def packages(version_of: Callable[[str], str | None] = installed) -> Iterator[Finding]:
    """Check the versions of the required packages, and warn of combinations known to be broken."""
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


def prefect() -> Iterator[Finding]:
    """Check that Prefect's server answers, if one is named."""
    from hpo_flows.loop.prefect_link import named_server, silence

    if (url := named_server()) is None:
        yield Finding("prefect", Level.OK, "no server is named (PREFECT_API_URL): each run starts a temporary one")
    elif (why := silence()) is None:
        yield Finding("prefect", Level.OK, f"the server at {url} answers")
    else:
        yield Finding(
            "prefect",
            Level.PROBLEM,
            one_line(f"the server at {url} does not answer ({why})"),
            "start it, correct PREFECT_API_URL, or unset that for a temporary server",
        )


def objective(reference: Objective) -> Iterator[Finding]:
    """Check that a worker process can import the objective. This process does not load it, so a crash does no harm."""
    name = reference.reference
    if name.startswith("__main__:") or ".locals." in name:
        yield Finding("objective", Level.OK, f"{name} is a function of a script, which hands it over when it runs")
        return
    from hpo_flows.workers.pool import WorkerPool

    try:
        with WorkerPool(1, reference) as pool:
            pool.check(IMPORT_SECONDS)
    except InputError as error:
        # The end of a traceback is the most informative part.
        problem = one_line(error.problem, 10_000)
        shown = problem if len(problem) <= 400 else f"{problem[:100]} ... {problem[-300:]}"
        yield Finding("objective", Level.PROBLEM, shown, one_line(error.remedy))
    else:
        yield Finding("objective", Level.OK, f"{name} can be imported")


def limits(space: SearchSpace) -> Iterator[Finding]:
    """Warn of a space that makes MLflow slow. What MLflow would refuse is found by :func:`writable`."""
    count, longest = len(space.parameters), max(len(text) for text in longest_config(space).values())
    if count > MANY_PARAMS:
        yield Finding(
            "limits",
            Level.WARNING,
            f"{count} params a trial: MLflow takes a request for every hundred, and its tables show few",
            f"tune at most {MANY_PARAMS} parameters, and log the others as one artifact",
        )
    else:
        yield Finding("limits", Level.OK, f"{count} params a trial, of at most {longest} characters")


def longest_config(space: SearchSpace) -> dict[str, str]:
    """The longest value of every parameter, as a param for MLflow."""
    longest: dict[str, str] = {}
    for name, parameter in space.parameters.items():
        values: Iterable[Scalar] = getattr(parameter, "options", None) or parameter.values(2)
        longest[name] = max((parameter.to_string(value) for value in values), key=len)
    return longest

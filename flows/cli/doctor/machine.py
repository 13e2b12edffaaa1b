"""Checks this machine for ``hpo doctor``: package versions, Prefect's server, the objective and MLflow's limits.

Prefect and the worker pool are imported only by the checks that need them.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec

from packaging.requirements import Requirement

from hpo_core.base.errors import InputError
from hpo_core.space.configuration import Scalar
from hpo_core.space.search_space import SearchSpace
from hpo_flows.cli.doctor.findings import Finding, Level
from hpo_flows.objectives.reference import Objective
from hpo_flows.reports.text import one_line
from hpo_flows.workers.gpu import described
from hpo_flows.workers.pool import WorkerPool

MANY_PARAMS = 1_000

IMPORT_SECONDS = 120.0

OPTIONAL = ("tensorflow", "keras", "psycopg")


# -- this machine -----------------------------------------------------------------------------------------------


def installed(package: str) -> str | None:
    """The version of a package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def packages(
    version_of: Callable[[str], str | None] = installed, required: Sequence[str] | None = None
) -> Iterator[Finding]:
    """Check that the required packages are installed, in versions that this one works with.

    Args:
        version_of: The installed version of a package; None if it is not installed.
        required: Requirements as pip writes them; those of this package by default.
    """
    versions: dict[str, str] = {}
    wrong: list[str] = []
    for each in map(Requirement, requires("hpo-flows") or [] if required is None else required):
        if each.marker is not None and not each.marker.evaluate({"extra": ""}):
            continue
        found = version_of(each.name)
        if found is None:
            wrong.append(str(each))
            yield Finding("packages", Level.PROBLEM, f"{each.name} is not installed", f"pip install '{each}'")
        elif not each.specifier.contains(found, prereleases=True):
            wrong.append(str(each))
            why = f"{each.name} {found} is installed, and {each.specifier} is needed"
            yield Finding("packages", Level.PROBLEM, why, f"pip install '{each}'")
        else:
            versions[each.name] = found
    if not wrong:
        versions |= {name: found for name in OPTIONAL if (found := version_of(name)) is not None}
        listed = ", ".join(f"{name} {found}" for name, found in versions.items())
        yield Finding("packages", Level.OK, f"python {platform.python_version()}, {listed}")


FRAMEWORKS = {
    "tensorflow": "import tensorflow as tf; print(len(tf.config.list_physical_devices('GPU')))",
    "torch": "import torch; print(torch.cuda.device_count())",
    "jax": "import jax; print(sum(each.platform != 'cpu' for each in jax.devices()))",
}
"""Programs that print how many GPUs a framework sees. Each runs by itself, since a framework takes a GPU's memory."""


def gpus() -> Iterator[Finding]:
    """Show the GPUs and the driver, and check that the frameworks that are installed see as many."""
    found = described()
    if not found:
        yield Finding("GPUs", Level.OK, "no NVIDIA GPU is seen; trials train on the processor")
        return
    yield Finding("GPUs", Level.OK, "; ".join(found))
    for name, program in FRAMEWORKS.items():
        if find_spec(name) is None:
            continue
        try:
            answer = subprocess.run(
                [sys.executable, "-c", program], capture_output=True, text=True, timeout=IMPORT_SECONDS
            )
        except subprocess.TimeoutExpired:
            yield Finding("GPUs", Level.WARNING, f"{name} did not say within {IMPORT_SECONDS:g} s what it sees")
            continue
        lines = answer.stdout.split()
        if lines and lines[-1].isdigit() and int(lines[-1]) >= len(found):
            yield Finding("GPUs", Level.OK, f"{name} sees {lines[-1]}")
        else:
            why = lines[-1] if lines else one_line(answer.stderr.strip()[-200:] or "nothing")
            remedy = f"install the build of {name} for the driver's CUDA version"
            yield Finding("GPUs", Level.WARNING, f"{name} sees {why} of {len(found)}", remedy)


def prefect() -> Iterator[Finding]:
    """Check that Prefect's server responds, if one is named."""
    from hpo_flows.loop.prefect_link import named_server, silence

    if (url := named_server()) is None:
        yield Finding("prefect", Level.OK, "no server is named (PREFECT_API_URL): each run starts a temporary one")
    elif (why := silence()) is None:
        yield Finding("prefect", Level.OK, f"the server at {url} responds")
    else:
        yield Finding(
            "prefect",
            Level.PROBLEM,
            one_line(f"the server at {url} does not respond ({why})"),
            "start it, correct PREFECT_API_URL, or unset that for a temporary server",
        )


def objective(reference: Objective) -> Iterator[Finding]:
    """Check that a worker process can import the objective. This process does not load it, so a crash does no harm."""
    name = reference.reference
    if not name:
        yield Finding("objective", Level.OK, "none; who asks for the study's trials trains them")
        return
    if name.startswith("__main__:") or ".locals." in name:
        yield Finding("objective", Level.OK, f"{name} is a function of a script, which hands it over when it runs")
        return
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

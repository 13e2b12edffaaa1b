"""Decides what a study may ask for if its trials train in its own process (``isolation: none``)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from hpo_core.study.sections import Resources, RunnerSpec, Section

S = TypeVar("S", bound=Section)
"""A :class:`hpo_core.study.spec.StudySpec`, which this module cannot import, since it is checked here."""

INSTEAD = "or set isolation: process"


def needing_processes(spec: Any) -> Iterator[tuple[str, str, str]]:
    """The keys of a study that need a process for each trial, each with the problem and the remedy."""
    alone = "with isolation: none a trial trains in the study's own process"
    if spec.parallel > 1:
        yield "parallel", f"{spec.parallel} trials at a time, and {alone}", "set parallel: 1"
    for key, value in (("trial_timeout", spec.trial_timeout), ("memory_limit", spec.memory_limit)):
        if value is not None:
            yield key, f"{value} cannot be enforced, since {alone}", "remove it"
    if spec.runner.elsewhere:
        yield "runner.type", f"{spec.runner.type!r} trains on other machines, and {alone}", "remove the runner"
    for key in (name for name in Resources.model_fields if name != "log"):  # what is used can be measured here, too
        if (value := getattr(spec.resources, key)) is not None:
            yield f"resources.{key}", f"{value} cannot be assigned, since {alone}", "remove it"


def check_isolation(spec: Any) -> None:
    """Check that a study asks for nothing that its isolation cannot give.

    Raises:
        ValueError: It does; the message begins with the key.
    """
    if spec.isolation == "none":
        for key, problem, remedy in needing_processes(spec):
            raise ValueError(f"{key}: {problem}; {remedy}, {INSTEAD}")


def for_debugging(spec: S) -> tuple[S, list[str]]:
    """The study with its trials in this process, and the keys that do not apply there."""
    left_out = [key for key, _, _ in needing_processes(spec)]
    alone = {"parallel": 1, "trial_timeout": None, "memory_limit": None}
    asked: Any = spec  # a study's; the type is below this module
    there = {"runner": RunnerSpec(), "resources": Resources(log=asked.resources.log)}
    return spec.model_copy(update={"isolation": "none"} | alone | there), left_out

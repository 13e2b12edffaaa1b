"""Lets a study go on when its space has grown.

A study keeps the earlier *editions* of its space, each with the number of the first trial that is not of it. A trial is
read in today's space: parameters that came after it have the value that was agreed on for earlier trials, usually
their default. What it was proposed from is read in the space of its own edition, so proposals can be replayed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hpo_core.space.configuration import Scalar
from hpo_core.study.sections import Edition
from hpo_core.study.spec import StudySpec


def has_grown(stored: StudySpec, given: StudySpec) -> bool:
    """Whether the given space is another one, but has all parameters of the stored one, unchanged."""
    old, new = stored.stored()["space"], given.stored()["space"]
    kept = all(name in new and json.dumps(new[name]) == json.dumps(each) for name, each in old.items())
    return kept and list(old) != list(new)


def next_edition(stored: StudySpec, given: StudySpec, defaults: Mapping[str, Scalar], number: int) -> StudySpec:
    """The given specification, with the stored space as an edition that has ended.

    Args:
        stored: The specification so far.
        given: One whose space :func:`has_grown`.
        defaults: The values of the new parameters in earlier trials; of others, those are ignored.
        number: The number of the next trial.
    """
    if number == 0:  # no trial is of the old space
        return given
    added = {name: defaults[name] for name in given.space if name not in stored.space and name in defaults}
    return in_space(given, given.space, [*stored.editions, Edition(until=number, space=stored.space, added=added)])


def in_space(spec: StudySpec, space: Mapping[str, Any], editions: Sequence[Edition]) -> StudySpec:
    """The specification with another space and its earlier editions; of what is said of parameters, what lies in it."""
    prior = {name: belief for name, belief in spec.prior.items() if name in space}
    changed = spec.model_copy(update={"space": dict(space), "editions": list(editions), "prior": prior})
    changed.__dict__.pop("search_space", None)  # what was computed from the other space
    first = [{name: value for name, value in config.items() if name in space} for config in spec.first]
    return changed.model_copy(update={"first": [config for config in first if _lies_in(changed, config)]})


def _lies_in(spec: StudySpec, config: Mapping[str, Any]) -> bool:
    try:
        spec.search_space.validated(config)
    except ValueError:
        return False
    return True


def in_force(spec: StudySpec, number: int) -> StudySpec:
    """The specification with the space that was in force when a trial was proposed."""
    for i, edition in enumerate(spec.editions):
        if number < edition.until:
            return in_space(spec, edition.space, spec.editions[:i])
    return spec


def completed(spec: StudySpec, config: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
    """The configuration of a trial of any edition in today's space."""
    values = {name: value for edition in spec.editions for name, value in edition.added.items()}
    if values.keys() <= config.keys():
        return config
    full = dict(config)
    for name in spec.space:
        if name not in full and name in values and spec.search_space.active(name, full):
            full[name] = values[name]
    return full

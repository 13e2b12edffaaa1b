"""Lets a study go on in another space.

A study keeps the earlier *editions* of its space, and each trial says in which it was proposed. A trial is read in
today's space: parameters that came after it have the value that was agreed on for earlier trials, parameters that are
gone are left out, and a trial that then lies outside is shown to no strategy. What it was proposed from is read in the
space of its own edition, so proposals can be replayed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hpo_core.history.prior import Source
from hpo_core.selection.evaluation import Training
from hpo_core.space.configuration import Scalar
from hpo_core.study.sections import Edition
from hpo_core.study.spec import StudySpec

KEPT = ("space", "constraints", "prior", "first")
"""What an edition keeps of its study: all that proposals depend on and that is said of single parameters."""


def has_grown(stored: StudySpec, given: StudySpec) -> bool:
    """Whether the given space is another one, but has all parameters of the stored one, unchanged."""
    old, new = _plain_space(stored), _plain_space(given)
    kept = all(name in new and json.dumps(new[name]) == json.dumps(each) for name, each in old.items())
    return kept and list(old) != list(new)


def has_changed(stored: StudySpec, given: StudySpec) -> bool:
    """Whether space or constraints differ, or the values that earlier trials count as having had."""
    same = json.dumps(_plain_space(stored)) == json.dumps(_plain_space(given))
    agreed = stored.agreed
    defaults = defaults_of(given)
    differ = any(agreed[name] != defaults[name] for name in agreed.keys() & defaults.keys())
    return not same or stored.constraints != given.constraints or differ


def _plain_space(spec: StudySpec) -> dict[str, Any]:
    """The space as plain data, without what is said of earlier trials."""
    space = spec.model_dump(mode="json", include={"space"})["space"]
    return {name: {k: v for k, v in parameter.items() if k != "default"} for name, parameter in space.items()}


def defaults_of(spec: StudySpec) -> dict[str, Scalar]:
    """The values that trials without a parameter count as having had, as the space says itself."""
    return {name: parameter.default for name, parameter in spec.space.items() if parameter.has_default}


def next_edition(stored: StudySpec, given: StudySpec, id: str, added: Mapping[str, Scalar]) -> StudySpec:
    """The given specification as the edition that follows the stored one.

    Args:
        stored: The specification so far.
        given: The one that is to follow.
        id: The new edition's.
        added: The values that earlier trials count as having had.
    """
    kept = {key: getattr(stored, key) for key in KEPT}
    last = Edition(id=stored.edition, added=dict(added), **kept)
    return given.model_copy(update={"edition": id, "editions": [*stored.editions, last]})


def in_edition_of(spec: StudySpec, stored: StudySpec | None) -> StudySpec:
    """A specification as one of the stored one's current edition, which no study file knows; None for a new study."""
    edition, earlier = ("", []) if stored is None else (stored.edition, stored.editions)
    return spec.model_copy(update={"edition": edition, "editions": earlier})


def in_force(spec: StudySpec, id: str, number: int) -> StudySpec:
    """The specification with the space that was in force when a trial was proposed.

    Args:
        spec: The study.
        id: The edition that the trial bears; empty if it bears none.
        number: The trial's number, by which earlier versions knew its edition.
    """
    for i, edition in enumerate(spec.editions):
        if id == edition.id and (edition.until is None or number < edition.until):
            return _as_it_was(spec, edition, spec.editions[:i])
    return spec


def is_of_today(spec: StudySpec, id: str, number: int) -> bool:
    """Whether a trial was proposed in today's edition; arguments as for :func:`in_force`."""
    return id == spec.edition and not any(each.id == id and number < (each.until or 0) for each in spec.editions)


def _as_it_was(spec: StudySpec, edition: Edition, earlier: Sequence[Edition]) -> StudySpec:
    update: dict[str, Any] = {"space": edition.space, "edition": edition.id, "editions": list(earlier)}
    for key in ("constraints", "prior", "first"):
        if (kept := getattr(edition, key)) is not None:
            update[key] = kept
    update.setdefault("prior", {name: belief for name, belief in spec.prior.items() if name in edition.space})
    changed = spec.model_copy(update=update)
    changed.__dict__.pop("search_space", None)  # what was computed from the other space
    first = [{name: value for name, value in config.items() if name in edition.space} for config in changed.first]
    return changed.model_copy(update={"first": [config for config in first if _lies_in(changed, config)]})


def _lies_in(spec: StudySpec, config: Mapping[str, Any]) -> bool:
    try:
        spec.search_space.validated(config)
    except ValueError:
        return False
    return True


def prior_in_space(spec: StudySpec, sources: Sequence[Source]) -> tuple[Source, ...]:
    """Past runs, imported into any edition, as far as they lie in today's space."""
    if not spec.editions:
        return tuple(sources)
    found = []
    for source in sources:
        placed = [(spec.placed(each.config), each) for each in source.observations]
        inside = tuple(replace(each, config=config) for (config, outside), each in placed if not outside)
        if inside:
            found.append(replace(source, observations=inside))
    return tuple(found)


def params_of(spec: StudySpec, training: Training) -> dict[str, str]:
    """The MLflow params of a training: a trial's are written as its own edition writes them."""
    if training.evaluation is not None:
        return spec.search_space.to_params(training.config)
    space = in_force(spec, training.trial.edition, training.number).search_space
    return space.to_params({name: value for name, value in training.config.items() if name in space.parameters})

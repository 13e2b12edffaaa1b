"""Chooses the configurations that a study with a warm start tries first, from its past observations.

Each source gets its own Gaussian process, fitted to its aligned losses; ``m_s(x)`` is its posterior mean. The first
suggestion is the past configuration with the lowest ``sum_s m_s(x)``: all sources together expect most of it. Then come
the best configurations of each source in turn. With several objectives, a source has a process for each, all of which
are summed up, and its best configurations are the least crowded of its front: the first suggestion is a compromise, the
next are the ends. The past proposes only the first trials, because that measured best
(``docs/decisions/0006-warm-start.md``); Feurer et al. (2015, doi:10.1609/aaai.v29i1.9354) start Bayesian optimization
in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, zip_longest
from typing import Any

import numpy as np

from hpo_core.base.arrays import Array
from hpo_core.history.prior import Source
from hpo_core.history.trial import Proposal
from hpo_core.numerics.gaussian_process import GaussianProcess, fit
from hpo_core.space.configuration import Config, identity
from hpo_core.space.cube import Cube
from hpo_core.space.search_space import SearchSpace

SUGGESTED = 3
"""How many of a study's first trials its past suggests; after that the study searches on its own."""

MOST = 200
"""The maximum number of observations modelled per source: half of them the best, half spread over the rest."""

CONSENSUS = "all sources"
"""The note ``warm_start`` of the first suggestion when there are several sources."""


def suggested(space: SearchSpace, sources: Sequence[Source]) -> list[Proposal]:
    """Up to :data:`SUGGESTED` different proposals, in the order to try them.

    Each has the note ``warm_start``, which names the source. With a single source, the first is the configuration
    that its process predicts to be best. That need not be the one with the lowest loss, which may have been luck.
    """
    every = ((source, [_model_of(space, source.by(i)) for i in range(source.objectives)]) for source in sources)
    models = [(source, [model for model in found if model is not None]) for source, found in every if all(found)]
    if not models:
        return []
    tried = [(source.name, config) for source, (model, *_) in models for config in model.configs]
    X = np.vstack([model.X for _, (model, *_) in models])
    first = int(np.argmin(sum(model.mean(space, X) for _, found in models for model in found)))
    in_turn = zip_longest(*([(source.name, c) for c in _best(space, source)] for source, _ in models))
    name = CONSENSUS if len(models) > 1 else tried[first][0]
    ranked = [(name, tried[first][1]), *(best for row in in_turn for best in row if best is not None)]
    found: dict[str, Proposal] = {}
    for name, config in ranked:
        if space.feasible(config):
            found.setdefault(identity(config), Proposal(config, notes={"warm_start": name}))
    return list(found.values())[:SUGGESTED]


def _best(space: SearchSpace, source: Source) -> list[Config]:
    """The best configurations of a source that lie in the space."""
    cube, finished = Cube(space), (each.config for each in source.observations if each.loss is not None)
    return list(islice((config for config in finished if cube.encode([config])[1][0]), SUGGESTED))


@dataclass(frozen=True)
class _Model:
    """The surrogate of one source, with its configurations, best first, and their rows ``X``, shape ``(n, d)``."""

    configs: tuple[Config, ...]
    X: Array
    process: GaussianProcess

    def mean(self, space: SearchSpace, X: Array) -> Array:
        """The aligned loss that the source predicts at the rows, shape ``(len(X),)``."""
        return self.process.predict(Cube(space).features(X)[0])[0]


class _Unseen:
    """Arguments that a cached function receives but that are not part of its cache key: all instances are equal."""

    def __init__(self, space: SearchSpace, source: Source) -> None:
        self.space, self.source = space, source

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Unseen)

    def __hash__(self) -> int:
        return 0


def _model_of(space: SearchSpace, source: Source) -> _Model | None:
    return _fitted(source.fingerprint, space.to_json(), _Unseen(space, source))


@lru_cache(maxsize=64)
def _fitted(fingerprint: int, space: str, given: _Unseen) -> _Model | None:
    """The surrogate of a source; None if fewer than two usable observations finished.

    A source never changes, so its process is fitted once instead of for every proposal.
    """
    cube, source = Cube(given.space), given.source
    configs = [observation.config for observation in source.observations]
    X, valid = cube.encode(configs)
    usable = np.flatnonzero(valid)
    if np.isfinite(source.losses[usable]).sum() < 2:
        return None
    some = usable[_even(len(usable), MOST)]
    F, owner = cube.features(X[some])
    z = source.aligned[some]
    hyperparameters = fit(F, owner, z, active=float((~np.isnan(X[some])).sum(axis=1).mean()))
    finished = some[np.isfinite(source.losses[some])]
    return _Model(
        tuple(configs[i] for i in finished), X[finished], GaussianProcess.condition(F, owner, z, hyperparameters)
    )


def _even(count: int, most: int) -> Any:
    """Positions in a list sorted by loss: the first ``most / 2``, and as many spread evenly over the rest."""
    if count <= most:
        return np.arange(count)
    half = most // 2
    return np.concatenate([np.arange(half), np.linspace(half, count - 1, most - half).round().astype(int)])

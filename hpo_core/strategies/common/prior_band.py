"""PriorBand: chooses what enters the lowest rungs of Hyperband if the user has beliefs about good values.

Mallik et al. (2023), arXiv:2306.12370. Each configuration is drawn from one of three distributions over the unit cube:
the uniform one, the user's belief, or one around the best trial so far. The uniform one has a share that no evidence
takes away, so a wrong belief hides nothing; what is left of the belief's share goes to the best trial's surroundings
where good trials are found there rather than where the user believed.
"""

from __future__ import annotations

from collections.abc import Container, Iterator

import numpy as np

from hpo_core.base.arrays import Array
from hpo_core.base.seeding import trial_rng
from hpo_core.history.fidelity import Fidelity
from hpo_core.history.history import History, encoded
from hpo_core.history.trial import Proposal, Trial
from hpo_core.space.belief import Belief, BeliefDensity
from hpo_core.space.search_space import SearchSpace
from hpo_core.strategies.common.brackets import best_first
from hpo_core.strategies.common.sampling import first_new

PERTURBED = 0.5
"""The probability that a parameter of the best trial is drawn anew, around its value; the others stay as they are."""

UNIFORM, BELIEF, BEST = "drawn from anywhere", "drawn from your belief", "drawn around the best trial"
"""Why a proposal is what it is, for its notes."""


def propose(space: SearchSpace, history: History, fidelity: Fidelity, level: int, *, seed: int) -> list[Proposal]:
    """A new configuration for a rung; none once the space is exhausted.

    Args:
        space: A space with beliefs.
        history: All trials so far.
        fidelity: The study's fidelity.
        level: The index of the rung's level among the fidelity's levels.
        seed: The study's seed.
    """
    number = history.next_number
    best = _best(history, fidelity)
    rng = trial_rng(seed, number, stream=8)
    source = str(rng.choice([UNIFORM, BELIEF, BEST], p=shares(space, fidelity.eta, level, best)))

    def points() -> Iterator[Array]:
        yield space.belief.centre
        while True:
            point = rng.random((1, space.dimensions))
            if source == BELIEF:
                point = space.belief.warped(point)
            elif source == BEST:
                kept = space.encode(best[0].config)[None]
                anew = np.isnan(kept) | (rng.random(kept.shape) < PERTURBED)
                point = np.where(anew, _around(space, best[0], space.free).warped(point), kept)
            yield point[0]

    config = first_new(space, points(), history.identities, trial_rng(seed, number, stream=2))
    if config is None:
        return []
    return [Proposal(config, notes={"why": BELIEF if config == space.decode(space.belief.centre) else source})]


def shares(space: SearchSpace, eta: float, level: int, best: list[Trial]) -> tuple[float, float, float]:
    """The probabilities of the uniform distribution, the belief, and the surroundings of the best trial.

    The belief and the best trial share ``eta ** level / (1 + eta ** level)`` (sec. 4.2.1 of Mallik et al.): what is
    trained for long is worth a look at the belief. They divide it by how likely each makes the best trials of the
    highest rung that has enough, the best one counting most (sec. 4.2.2). Only the parameters that the user believes
    something of are compared: the others would always speak for the best trial.

    Args:
        space: A space with beliefs.
        eta: The fidelity's.
        level: The index of the rung's level.
        best: The best trials, best first.

    >>> from hpo_core.space.parameters import Float
    >>> space = SearchSpace({"x": Float(low=0, high=1)}, beliefs={"x": Belief(0.2, "high")})
    >>> shares(space, 3.0, 1, [])
    (0.25, 0.75, 0.0)
    """
    uniform = 1 / (1 + eta**level)
    if not best:
        return uniform, 1 - uniform, 0.0
    near = _around(space, best[0], space.beliefs)
    rows = encoded(space, best)
    weights = np.arange(len(best), 0, -1)
    likely = [float(weights @ np.exp(density.log_density(rows))) for density in (space.belief, near)]
    share = (1 - uniform) * likely[0] / sum(likely)
    return uniform, share, 1 - uniform - share


def _around(space: SearchSpace, trial: Trial, names: Container[str]) -> BeliefDensity:
    """The density around a trial's values of some parameters, as if a user believed in these with medium confidence."""
    beliefs = {name: Belief(value, "medium") for name, value in trial.config.items() if name in names}
    return BeliefDensity({name: space.parameters[name] for name in space.free}, beliefs)


def _best(history: History, fidelity: Fidelity) -> list[Trial]:
    """The best ``1 / eta`` of the highest level where ``eta`` trials and more are complete, best first."""
    levels: list[list[Trial]] = [[] for _ in fidelity.levels]
    for trial in history:
        if (level := fidelity.level_of(trial.requested_fidelity)) is not None:
            levels[level].append(trial)
    for trials in reversed(levels):
        ended = best_first(trials)
        if len(ended) >= fidelity.eta:
            return ended[: max(1, int(len(ended) / fidelity.eta))]
    return []

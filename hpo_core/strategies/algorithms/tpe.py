"""Proposes by the tree-structured Parzen estimator: what resembles the good trials and not the others."""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from hpo_core.base.seeding import trial_rng
from hpo_core.base.settings import STRICT
from hpo_core.history.history import History
from hpo_core.history.trial import Proposal
from hpo_core.space.cube import Cube
from hpo_core.space.search_space import SearchSpace
from hpo_core.strategies.base import Strategy
from hpo_core.strategies.common.density_ratio import DensityRatio
from hpo_core.strategies.common.sampling import fill_ranked
from hpo_core.strategies.common.transfer import suggested


@dataclass(frozen=True, config=STRICT)
class Tpe(DensityRatio, Strategy):
    """Proposes the candidate with the highest ratio of two densities: that of the best trials over that of the rest.

    Bergstra et al. (2011), "Algorithms for hyper-parameter optimization", section 4, over the joint space as in
    Falkner et al. (2018), arXiv:1807.01774.

    Args:
        start: The number of scrambled Sobol points that come first.
        gamma: The share of trials that counts as good.
        most: The maximum number of trials that count as good.
        candidates: How many draws from the density of the good trials are compared.
        narrowest: The least bandwidth, as a share of a parameter's range.
        spread: With ``n`` trials, a categorical kernel gives options other than its own the probability
            ``spread / (n + 1)``.
        old: The weight of the oldest trial that is not good; it rises to 1 for the last 25. Early trials lie far from
            where the search is now.

    With several objectives, the good trials are those of the first fronts, and of the front that they divide those that
    dominate most volume together; each weighs as much as the volume that it dominates alone (MOTPE; Ozaki et al. 2022,
    doi:10.1613/jair.1.13188).

    In a study with limits, each has two densities as well, of the trials that keep it and of the others, and the
    product of all relative ratios is maximised (c-TPE; Watanabe and Hutter 2023, arXiv:2211.14411). As long as fewer
    than the share ``gamma`` keep a limit, those that come closest count with them.

    Failed trials count among the rest. So do running ones (a constant liar), unless their configuration already has a
    result. With several fidelities, the highest one with at least ``start`` trials is modelled, as in Falkner et al.;
    trials stopped early at another fidelity count among the rest. Trials whose configuration does not belong to the
    space are ignored. Past observations on the study's own scale count like its trials; the others are good or not
    within their source, and their weight fades.
    """

    name: ClassVar[str] = "tpe"
    uses_prior: ClassVar[bool] = True

    def propose(self, space: SearchSpace, history: History, n: int, *, seed: int) -> list[Proposal]:
        cube = Cube(space)
        return fill_ranked(
            space,
            history,
            n,
            seed=seed,
            start=self.start,
            model=lambda seen, number: self.ranked(cube, seen, trial_rng(seed, number, stream=3)),
            first=suggested(space, history.prior),
        )

"""What a strategy is."""

from __future__ import annotations

from typing import ClassVar, Protocol, runtime_checkable

from hpo_core.history import History
from hpo_core.space import SearchSpace
from hpo_core.trial import Proposal


class Strategy(Protocol):
    """Settings in a frozen dataclass, and one pure function of the past.

    ``propose`` reads no clock, file or global random generator and keeps nothing between calls: what it answers is a
    function of its arguments. It may therefore be asked anew after any crash, by any process. One that learns from
    ``history.prior`` says so by the class attribute ``uses_prior = True``; see :func:`uses_prior`.
    """

    name: ClassVar[str]

    def propose(self, space: SearchSpace, history: History, n: int, *, seed: int) -> list[Proposal]:
        """Up to ``n`` proposals for the trials ``history.next_number, ...``.

        Asking for two is the same as asking for one, marking it as running, and asking again, unless a strategy
        says otherwise. An empty list while trials run means *wait*; while none runs, *done*.

        Args:
            space: The search space.
            history: All trials so far; running ones are pending.
            n: How many slots are free, >= 1.
            seed: The study's seed; randomness comes from :func:`hpo_core.seeding.trial_rng`.
        """
        ...


def uses_prior(strategy: Strategy) -> bool:
    """Whether a strategy learns from what a study knew before its first trial."""
    sampler = getattr(strategy, "sampler", None)
    return any(getattr(each, "uses_prior", False) for each in (strategy, sampler))


@runtime_checkable
class Promoting(Protocol):
    """A strategy that has trials go on from others: at a higher fidelity, or a step further down a slope."""

    def promotable(self, history: History) -> frozenset[int]:
        """The numbers of the trials that others may yet go on from: what they left must be kept till then.

        A trial that is promoted, to a fidelity, is so once, and may be named even after that.
        """
        ...


def check_whole(strategy: object, **least: int) -> None:
    """Check settings that are whole numbers.

    Args:
        strategy: The strategy that has them.
        **least: The lowest value that each may have, by name.

    Raises:
        ValueError: One is no whole number, or is lower.
    """
    for field, bound in least.items():
        value = getattr(strategy, field)
        if isinstance(value, bool) or not isinstance(value, int) or value < bound:
            raise ValueError(f"{field}: {value!r} is not a whole number from {bound}")

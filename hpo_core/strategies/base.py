"""Defines the interface of a strategy, and checks that several strategies share."""

from __future__ import annotations

from typing import ClassVar, Protocol, runtime_checkable

from hpo_core.history.history import History
from hpo_core.history.trial import Proposal
from hpo_core.space.search_space import SearchSpace


class Strategy(Protocol):
    """A frozen dataclass of settings, with one pure function of the past.

    ``propose`` reads no clock, file or global random generator and keeps no state between calls: its result depends
    only on its arguments. Any process may therefore call it again after a crash. A strategy that learns from
    ``history.prior`` declares the class attribute ``uses_prior = True``; see :func:`uses_prior`.
    """

    name: ClassVar[str]

    def propose(self, space: SearchSpace, history: History, n: int, *, seed: int) -> list[Proposal]:
        """Up to ``n`` proposals for the trials ``history.next_number, ...``.

        Asking for two proposals is the same as asking for one, marking it as running, and asking again, unless a
        strategy documents otherwise. An empty list means *wait* while trials run, and *done* when none runs.

        Args:
            space: The search space.
            history: All trials so far; running ones count as pending.
            n: The number of free slots, >= 1.
            seed: The study's seed; all randomness comes from :func:`hpo_core.base.seeding.trial_rng`.
        """
        ...


def uses_prior(strategy: Strategy) -> bool:
    """Whether a strategy, or its sampler, learns from what the study knew before its first trial."""
    sampler = getattr(strategy, "sampler", None)
    return any(getattr(each, "uses_prior", False) for each in (strategy, sampler))


@runtime_checkable
class Promoting(Protocol):
    """A strategy whose trials continue earlier ones: at a higher fidelity, or one gradient step further."""

    def promotable(self, history: History) -> frozenset[int]:
        """The numbers of the trials that later ones may still continue; their checkpoints must be kept.

        A trial is promoted to a fidelity only once, but may still be listed after that.
        """
        ...


def check_whole(strategy: object, **least: int) -> None:
    """Check that settings are whole numbers and not too low.

    Args:
        strategy: The strategy with the settings.
        **least: The lowest valid value of each setting, by name.

    Raises:
        ValueError: A setting is not a whole number, or is too low.
    """
    for field, bound in least.items():
        value = getattr(strategy, field)
        if isinstance(value, bool) or not isinstance(value, int) or value < bound:
            raise ValueError(f"{field}: {value!r} is not a whole number of at least {bound}")

"""Defines the interface of a strategy, and what a strategy says of itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

from hpo_core.base.errors import InputError
from hpo_core.history.history import History
from hpo_core.history.trial import Proposal
from hpo_core.space.search_space import SearchSpace


class Strategy(ABC):
    """A strict frozen dataclass of settings (:mod:`hpo_core.base.settings`), with one pure function of the past.

    ``propose`` reads no clock, file or global random generator and keeps no state between calls: its result depends
    only on its arguments. Any process may therefore call it again after a crash.
    """

    name: ClassVar[str]

    uses_prior: ClassVar[bool] = False
    """Whether it learns from ``history.prior``, what was known before the first trial."""

    uses_budget: ClassVar[bool] = False
    """Whether it has a setting ``budget``, which is the study's number of trials unless the user gives another."""

    chooses_fidelity: ClassVar[bool] = False
    """Whether it chooses the fidelity of its proposals; it then has a field ``fidelity`` with the study's."""

    promotes: ClassVar[bool] = False
    """Whether its trials continue earlier ones; see :meth:`promotable`."""

    reconfigures: ClassVar[bool] = False
    """Whether a trial that continues an earlier one may have another configuration. What such a chain comes to is no
    single configuration, so none is trained again by itself."""

    package: ClassVar[str] = ""
    """The optional package that it needs, by its import name."""

    needs_hypergradient: ClassVar[bool] = False
    """Whether it makes no progress unless trials log hypergradients."""

    nested: ClassVar[Mapping[str, str | None]] = {}
    """The settings that are strategies themselves, each with the name of its default; None for no strategy."""

    @abstractmethod
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

    def check(self, space: SearchSpace) -> None:  # noqa: B027  (most strategies can search any space)
        """Refuse a space that it cannot search.

        Raises:
            ValueError: It cannot; the message begins with the setting to change.
        """

    def check_several(self) -> None:  # noqa: B027  (most strategies can)
        """Refuse several objectives if it cannot search for the best in all, by ``Trial.losses``.

        Raises:
            ValueError: It cannot, with its settings; the message begins with the setting to change.
        """

    def promotable(self, history: History) -> frozenset[int]:
        """The numbers of the trials that later ones may still continue; their checkpoints must be kept.

        By default all complete ones, if it continues trials at all. A trial is promoted to a fidelity only once, but
        may still be listed after that.
        """
        return frozenset(trial.number for trial in history.complete) if self.promotes else frozenset()

    @property
    def entry(self) -> float | None:
        """The fidelity at which configurations begin; None for that of a full training."""
        return None

    def check_limits(self) -> None:  # noqa: B027  (most strategies can)
        """Refuse limits on results if it learns from results, but not from limits.

        Raises:
            ValueError: It does, with its settings; the message begins with the setting to change.
        """

    def learns_from_prior(self) -> bool:
        """Whether it, or the strategy that it samples with, learns from what was known before the first trial."""
        return self.uses_prior


@contextmanager
def of_setting(name: str) -> Iterator[None]:
    """Have what a strategy refuses that is a setting of another one begin with that setting.

    >>> with of_setting("sampler"):
    ...     raise ValueError("steps: too many; give fewer")
    Traceback (most recent call last):
    ValueError: sampler.steps: too many; give fewer
    """
    try:
        yield
    except InputError:  # it names the key of the study file
        raise
    except ValueError as error:
        raise ValueError(f"{name}.{error}") from None

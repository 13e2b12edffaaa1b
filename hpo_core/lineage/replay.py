"""Explains why a trial has its configuration: rebuilds the history its proposal saw and replays the proposal.

A trial bears the digest of the history that it was proposed from, not the history itself. That is rebuilt: it holds
all trials of lower numbers, and of these the ones that had ended were those that ended first. So the trials are taken
for ended in the order of their ends, one after another, until the digest is met. It has 64 bits, so what meets it is
the history. Clocks of several machines may disagree about the order of a few ends; near the trial's start single ones
are therefore swapped. Where nothing meets the digest, something has changed since, and the answer says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np

from hpo_core.base import cards
from hpo_core.base.errors import InputError
from hpo_core.history.history import History
from hpo_core.history.prior import Source
from hpo_core.history.trial import Proposal, Trial, TrialState
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.store import Run
from hpo_core.ledger.tags import NO_TOTAL, Tag, parse_count, unfold
from hpo_core.lineage.warm_start import recall
from hpo_core.space.configuration import Config, Scalar, displayed, scalar_key
from hpo_core.space.cube import Cube
from hpo_core.space.search_space import SearchSpace
from hpo_core.study.editions import in_force, prior_in_space
from hpo_core.study.instructions import ENQUEUED
from hpo_core.study.sections import StrategySpec
from hpo_core.study.spec import StudySpec

NEAREST = 3

UNSURE = 4
"""How many ends to either side of the trial's start may be out of order."""

_MASK = 2**64 - 1


@dataclass(frozen=True)
class Neighbour:
    """An earlier trial beside the one that is explained.

    Args:
        trial: The earlier trial.
        distance: Euclidean, over coordinates of the unit cube.
        changes: What differs, by name: its value and the explained trial's; None where inactive.
    """

    trial: Trial
    distance: float
    changes: Mapping[str, tuple[Scalar, Scalar]]


@dataclass(frozen=True)
class Explanation:
    """Why a trial has its configuration.

    Args:
        trial: The trial.
        digest: Of the history that its proposal saw, as its run says.
        seen: That history; None if it cannot be rebuilt from what MLflow has now.
        missing: Numbers below the trial's that no run bears any more.
        replayed: What the strategy proposes from ``seen``; None if it cannot be asked or has nothing to propose.
        same: Whether that is the trial's configuration; None if it could not be asked.
        caveats: What keeps the replay from being exact.
        incumbent: The best trial that the proposal knew of.
        nearest: The nearest complete trials that it knew of.
        edition, editions: In which edition of the space it was proposed, from 1, and how many there are.
        outside: Why it lies outside the space as that is now, by parameter or constraint; empty if it lies inside.
    """

    trial: Trial
    digest: str
    seen: History | None
    missing: tuple[int, ...] = ()
    replayed: Proposal | None = None
    same: bool | None = None
    caveats: tuple[str, ...] = ()
    incumbent: Neighbour | None = None
    nearest: tuple[Neighbour, ...] = field(default=())
    edition: int = 1
    editions: int = 1
    outside: Mapping[str, str] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        """The strategy that picked the configuration, and why."""
        return self.trial.origin

    @property
    def space(self) -> str:
        """The edition that the proposal saw, and whether the trial is in today's; empty if there is but one."""
        if self.editions == 1:
            return ""
        why = "; ".join(f"{name}: {problem}" for name, problem in self.outside.items())
        lies = (
            f"the trial lies outside today's ({why}) and no longer counts" if why else "the trial lies inside today's"
        )
        return f"edition {self.edition} of {self.editions}; " + ("today's" if self.edition == self.editions else lies)

    @property
    def verdict(self) -> str:
        """Whether the history and the proposal could be reproduced."""
        if self.seen is None:
            gone = f"; the runs of trials {list(self.missing)} are gone" if self.missing else ""
            return f"not possible: the trials in MLflow do not give the history {self.digest} any more{gone}"
        if self.same:
            return "the same configuration, from the same history"
        return "another configuration, from the same history"

    def _repr_html_(self) -> str:
        """A card for notebooks."""
        trial, near = self.trial, [] if self.incumbent is None else [("incumbent then", self.incumbent)]
        near += [("near", neighbour) for neighbour in self.nearest]
        rows = [
            (what, each.trial.number, each.trial.loss, each.distance, _changed(each.changes)) for what, each in near
        ]
        outcome = f"{trial.state.value}{f': {trial.reason}' if trial.reason else ''}"
        facts = {"outcome": outcome, "loss (minimised)": trial.loss, "proposed by": self.origin, "replay": self.verdict}
        facts |= {"space": self.space} if self.space else {}
        facts |= {f"note {i}": caveat for i, caveat in enumerate(self.caveats, 1)}
        return cards.card(
            f"Trial {trial.number}",
            cards.facts(facts),
            cards.facts(trial.config),
            cards.table(["", "trial", "loss", "distance", "what differs"], rows) if rows else "",
        )


def _changed(changes: Mapping[str, tuple[Scalar, Scalar]]) -> str:
    each = (f"{name} {displayed(old)} -> {displayed(new)}" for name, (old, new) in changes.items())
    return ", ".join(each) or "nothing"


def explain(ledger: Ledger, number: int) -> Explanation:
    """Why a trial of a study has its configuration.

    Raises:
        InputError: The trial does not exist.
    """
    now = ledger.spec
    history, trial = _trial_of(ledger, number)
    outside = trial.outside
    if (spec := in_force(now, trial.edition, number)) is not now:
        ledger = Ledger(ledger.store, spec, ledger.study_run)  # reads the trials of that time as they were then
        history, trial = _trial_of(ledger, number)
    run = ledger.store.get(trial.run_id)
    imported = recall(ledger)
    run = replace(run, tags=unfold(run.tags))
    digest = run.tags.get(Tag.HISTORY, "")
    earlier = [other for other in history if other.number < number]
    seen = rebuild(earlier, trial, digest, [prior_in_space(ledger.spec, imported.sources) if imported else (), ()])
    known = seen if seen is not None else _by_time(earlier, trial)
    found = Explanation(
        trial,
        digest,
        seen,
        missing=tuple(sorted(set(range(number)) - {other.number for other in earlier})),
        incumbent=None if known.incumbent is None else _beside(ledger.spec.search_space, [known.incumbent], trial)[0],
        nearest=tuple(_beside(ledger.spec.search_space, known.merged.complete, trial)[:NEAREST]),
        edition=len(spec.editions) + 1,
        editions=len(now.editions) + 1,
        outside=outside,
    )
    return found if seen is None else _replayed(found, seen, ledger.spec, run, ledger.study.instructions.queue)


def _trial_of(ledger: Ledger, number: int) -> tuple[History, Trial]:
    """The history of a study, and its trial of a number.

    Raises:
        InputError: There is none.
    """
    history = ledger.load()
    for trial in history.every:
        if trial.number == number:
            return history, trial
    raise InputError("TRIAL", f"{ledger.spec.name!r} has no trial {number}", "see hpo status for how many it has")


def rebuild(
    earlier: Sequence[Trial], trial: Trial, digest: str, priors: Sequence[tuple[Source, ...]]
) -> History | None:
    """The history of a digest, from the trials as they are now.

    Args:
        earlier: The trials of lower numbers.
        trial: The trial that was proposed from it.
        digest: The digest.
        priors: What may have been imported at the time.

    Returns:
        The history, or None if these trials cannot give it.
    """
    ended = sorted((t for t in earlier if t.end is not None), key=lambda t: (t.end, t.number))
    pending = [_pending(t) for t in ended]
    steps = [(t.fingerprint - p.fingerprint) & _MASK for t, p in zip(ended, pending, strict=True)]
    rest = [t for t in earlier if t.end is None]
    start = trial.number + sum(p.fingerprint for p in (*pending, *rest))
    for prior in priors:
        wanted = _as_number(digest) - start - sum(source.fingerprint for source in prior)
        for done in _orders(steps, sum(t.end is not None and t.end <= trial.start for t in ended), wanted & _MASK):
            trials = [t if i in done else p for i, (t, p) in enumerate(zip(ended, pending, strict=True))]
            return History((*trials, *rest), trial.number, prior)
    return None


def _as_number(digest: str) -> int:
    try:
        return int(digest, 16)
    except ValueError:
        return -1


def _orders(steps: Sequence[int], likely: int, wanted: int) -> Iterator[set[int]]:
    """Sets of positions whose steps add up to what is wanted: the first ones up to some position, or nearly those."""
    total, sums = 0, [0]
    for step in steps:
        total = (total + step) & _MASK
        sums.append(total)
    yield from (set(range(count)) for count in range(len(sums)) if sums[count] == wanted)
    low, high = max(likely - UNSURE, 0), min(likely + UNSURE, len(steps))
    for choice in product((False, True), repeat=high - low):
        extra = [low + i for i, chosen in enumerate(choice) if chosen]
        if (sums[low] + sum(steps[i] for i in extra)) & _MASK == wanted:
            yield {*range(low), *extra}


def _pending(trial: Trial) -> Trial:
    return replace(
        trial,
        state=TrialState.RUNNING,
        loss=None,
        losses=(),
        excess={},
        cost=None,
        fidelity=trial.requested_fidelity,
        stopped_early=False,
        folds=(),
    )


def _by_time(earlier: Sequence[Trial], trial: Trial) -> History:
    """What the proposal will have seen, by the clock."""
    return History(
        [t if t.end is not None and t.end <= trial.start else _pending(t) for t in earlier], next_number=trial.number
    )


def _replayed(found: Explanation, seen: History, spec: StudySpec, run: Run, queue: Mapping[str, Config]) -> Explanation:
    """The explanation with what the strategy proposes from the history, asked again.

    What was enqueued does not influence any other proposal, so only the trial's own entry of the queue is given.
    """
    trial, caveats = found.trial, []
    name = str(trial.notes.get("strategy", spec.strategy.name))
    changes: dict[str, Any] = {}
    if name not in (spec.strategy.name, "first", ENQUEUED, "retry", "repeat"):
        caveats.append(f"the study's strategy is now {spec.strategy.name!r}: {name!r} is asked with its own defaults")
        changes["strategy"] = StrategySpec(name=name)
    if (total := run.tags.get(Tag.TOTAL, "")) and total != str(spec.stop.trials or NO_TOTAL):
        changes["stop"] = spec.stop.model_copy(update={"trials": parse_count(total, 9), "more": False})
    elif (budget := trial.notes.get("budget")) is not None and str(budget) != str(spec.stop.trials):
        strategy = changes.get("strategy", spec.strategy)
        changes["strategy"] = strategy.model_copy(update={"budget": int(str(budget))})
    seed = run.tags.get(Tag.SEED, "")
    if seed.isascii() and seed.isdigit() and int(seed) != spec.seed:
        caveats.append(f"the study's seed is now {spec.seed}: {seed} is taken, the trial's own")
        changes["seed"] = int(seed)
    try:
        asked = spec.model_copy(update=changes)
        queue = {id: config for id, config in queue.items() if id == trial.notes.get(ENQUEUED)}
        confirms = trial.confirms and name == "repeat"  # a lost one is run again as any trial is
        proposals = _confirmations(asked, seen, trial) if confirms else asked.propose(seen, 1, queue)
    except ValueError as error:
        return replace(found, caveats=(*caveats, f"the strategy cannot be asked: {error}"))
    replayed = proposals[0] if proposals else None
    same = replayed is not None and (replayed.identity, replayed.parent) == (trial.identity, trial.parent)
    if not same:
        caveats.append("settings of the study (strategy, first, rerun_lost) or the software are others now than then")
    return replace(found, replayed=replayed, same=same, caveats=tuple(caveats))


def _confirmations(spec: StudySpec, seen: History, trial: Trial) -> list[Proposal]:
    """What would be trained to confirm; whether the strategy was at its end then is not known, so either may be it."""
    found = [each for exhausted in (False, True) if (each := spec.confirm(seen, exhausted)) is not None]
    return [each for each in found if each.identity == trial.identity] or found


def _beside(space: SearchSpace, others: Sequence[Trial], trial: Trial) -> list[Neighbour]:
    """Earlier trials beside a trial, the nearest first."""
    cube = Cube(space)
    X, valid = cube.encode([trial.config, *(other.config for other in others)])
    F, _ = cube.features(X)
    distances = np.sqrt(((F - F[0]) ** 2).sum(axis=1))
    found = [
        Neighbour(other, round(float(distance), 6), differences(other.config, trial.config))
        for other, distance, usable in zip(others, distances[1:], valid[1:], strict=True)
        if usable or len(others) == 1
    ]
    return sorted(found, key=lambda neighbour: (neighbour.distance, neighbour.trial.number))


def differences(old: Config, new: Config) -> dict[str, tuple[Scalar, Scalar]]:
    """The parameters in which two configurations differ, with both values; None where one does not use it.

    >>> differences({"a": 1, "b": 2}, {"a": 1.0, "b": 3, "c": "x"})
    {'b': (2, 3), 'c': (None, 'x')}
    """
    return {
        name: (old.get(name), new.get(name))
        for name in dict.fromkeys((*old, *new))
        if (name in old) != (name in new) or scalar_key(old.get(name)) != scalar_key(new.get(name))
    }

"""Finds and replaces trials among many that are in order of number."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence

from hpo_core.history.trial import Trial


def number_of(trial: Trial) -> int:
    """The sort key."""
    return trial.number


def place_of(number: int, trials: Sequence[Trial]) -> int | None:
    """The position of the trial of this number; None if there is none."""
    place = bisect_left(trials, number, key=number_of)
    return place if place < len(trials) and trials[place].number == number else None


def updated(trials: tuple[Trial, ...], gone: Collection[int], new: Iterable[Trial]) -> tuple[Trial, ...]:
    """The trials without those of some numbers, and with new ones. It copies as little as it can: they may be many."""
    added, left = sorted(new, key=number_of), any(place_of(number, trials) is not None for number in gone)
    if not left and (not added or not trials or added[0].number > trials[-1].number):
        return (*trials, *added) if added else trials
    found = list(trials)
    for number in gone:
        if (place := place_of(number, found)) is not None:
            del found[place]
    for trial in added:
        found.insert(bisect_left(found, trial.number, key=number_of), trial)
    return tuple(found)

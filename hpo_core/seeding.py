"""Randomness as a function of the study's seed and a trial's number, and of nothing else.

A generator that lives on an object starts over when the object is rebuilt, which is how samplers come to repeat
their first proposals after a resume. Here each trial owns a stream: whoever proposes trial 17 of the study with
seed 3, in whatever process and after however many restarts, draws the same numbers.
"""

from __future__ import annotations

import numpy as np


def trial_rng(seed: int, number: int, stream: int = 0) -> np.random.Generator:
    """The random generator that belongs to one trial.

    Args:
        seed: The study's seed, >= 0.
        number: The trial's number, >= 0.
        stream: Tells apart independent uses within one trial.

    >>> int(trial_rng(0, 17).integers(1000)) == int(trial_rng(0, 17).integers(1000))
    True
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number, stream)))


def fold_seed(seed: int, number: int, index: int) -> int:
    """The seed of a trial's configuration on one fold of the final choice; index -1 for its test, ``[0, 2**31)``."""
    return int(trial_rng(seed, number, stream=3 + index).integers(2**31))


def repeat_seed(seed: int, number: int, index: int) -> int:
    """The seed of one re-training of a winner, ``[0, 2**31)``; beyond the streams of 100 folds.

    >>> len({repeat_seed(0, 17, i) for i in range(5)} | {fold_seed(0, 17, i) for i in range(-1, 100)})
    106
    """
    return int(trial_rng(seed, number, stream=200 + index).integers(2**31))


def trial_seed(seed: int, number: int) -> int:
    """The seed that a trial's objective is given, in ``[0, 2**31)`` (what Keras and scikit-learn accept)."""
    return int(trial_rng(seed, number, stream=1).integers(2**31))

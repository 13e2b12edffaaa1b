"""Derives all randomness from the study's seed and a trial's number, and from nothing else.

A generator kept on an object starts over when the object is rebuilt, so a sampler would repeat its first proposals
after a resume. Here each trial has its own stream: trial 17 of the study with seed 3 draws the same numbers in every
process and after any number of restarts.
"""

from __future__ import annotations

import numpy as np


def trial_rng(seed: int, number: int, stream: int = 0) -> np.random.Generator:
    """The random generator of one trial.

    Args:
        seed: The study's seed, >= 0.
        number: The trial's number, >= 0.
        stream: Separates independent uses within one trial.

    >>> int(trial_rng(0, 17).integers(1000)) == int(trial_rng(0, 17).integers(1000))
    True
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number, stream)))


def fold_seed(seed: int, number: int, index: int) -> int:
    """The seed of a trial's configuration on one fold of the final choice, in ``[0, 2**31)``; index -1 is its test."""
    return int(trial_rng(seed, number, stream=3 + index).integers(2**31))


def repeat_seed(seed: int, number: int, index: int) -> int:
    """The seed of one re-training of a winner, in ``[0, 2**31)``; its streams lie beyond those of 100 folds.

    >>> len({repeat_seed(0, 17, i) for i in range(5)} | {fold_seed(0, 17, i) for i in range(-1, 100)})
    106
    """
    return int(trial_rng(seed, number, stream=200 + index).integers(2**31))


def trial_seed(seed: int, number: int) -> int:
    """The seed passed to a trial's objective, in ``[0, 2**31)`` (the range Keras and scikit-learn accept)."""
    return int(trial_rng(seed, number, stream=1).integers(2**31))

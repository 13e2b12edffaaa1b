"""Randomness is a function of seed, number and stream."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hpo_core
from hpo_core.base.seeding import trial_rng, trial_seed


def test_streams_are_what_they_have_always_been() -> None:
    # A change here changes every proposal of every stored study.
    assert trial_rng(0, 17).random(2).tolist() == [0.14613455379703533, 0.21289050755831274]
    assert [trial_seed(3, number) for number in range(3)] == [1479624614, 1692537782, 984439650]


def test_streams_differ_by_seed_number_and_use() -> None:
    draws = {trial_rng(seed, number, use).random() for seed in range(10) for number in range(10) for use in range(3)}
    assert len(draws) == 300


def test_a_seed_suits_keras_and_scikit_learn() -> None:
    seeds = [trial_seed(seed, number) for seed in (0, 1, 2**32 - 1) for number in range(100)]
    assert all(type(seed) is int and 0 <= seed < 2**31 for seed in seeds)
    assert len(set(seeds)) == len(seeds)


def test_a_stream_is_uniform() -> None:
    firsts = np.array([trial_rng(0, number).random() for number in range(2000)])
    assert np.histogram(firsts, 10, (0, 1))[0] == pytest.approx(200, abs=70)


def test_another_process_draws_the_same() -> None:
    code = "from hpo_core.base.seeding import trial_rng, trial_seed; print(trial_rng(5, 6).random(), trial_seed(5, 6))"
    child = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(hpo_core.__file__).parents[1], capture_output=True, text=True, check=True
    )
    assert child.stdout.split() == [str(trial_rng(5, 6).random()), str(trial_seed(5, 6))]

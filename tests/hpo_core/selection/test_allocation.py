"""Which of some noisy configurations is trained again."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hpo_core.selection.allocation import allocate, expected

SAMPLES = st.lists(st.tuples(st.floats(-1e300, 1e300), st.integers(1, 9)), min_size=1, max_size=12)
DEVIATIONS = st.one_of(st.just(math.nan), st.just(0.0), st.floats(1e-12, 1e300))


@given(SAMPLES, DEVIATIONS)
def test_any_means_give_a_position_and_finite_expectations(samples: list[tuple[float, int]], deviation: float) -> None:
    means, counts = zip(*samples, strict=True)
    assert 0 <= allocate(means, counts, deviation) < len(means)
    assert np.isfinite(expected(means, counts, deviation)[0]).all()


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=8), st.floats(0.1, 2.0))
def test_scale_and_origin_do_not_matter(means: list[float], deviation: float) -> None:
    means = [round(m, 3) for m in means]
    counts = [1 + i % 3 for i in range(len(means))]
    mean, _ = expected(means, counts, deviation)
    shifted, _ = expected([8.0 * m + 64.0 for m in means], counts, 8.0 * deviation)
    assert np.allclose(8.0 * mean + 64.0, shifted)


def test_a_single_configuration_and_ties_go_to_the_earliest() -> None:
    assert allocate([1.0], [3], 0.1) == 0
    assert allocate([1.0, 1.0, 1.0], [1, 1, 1], 0.1) == 0


def test_more_is_found_than_by_repeating_all_or_none() -> None:
    rng = np.random.default_rng(0)
    lost = {"all": 0.0, "none": 0.0, "allocate": 0.0}
    for _ in range(60):
        true = 0.3 * rng.standard_normal(20)
        losses = [[float(t + 0.4 * rng.standard_normal())] for t in true]
        twice = [[*seen, float(t + 0.4 * rng.standard_normal())] for seen, t in zip(losses, true, strict=True)]
        lost["none"] += true[np.argmin(losses)]
        lost["all"] += true[np.argmin([np.mean(seen) for seen in twice])]
        for _ in range(20):
            i = allocate([float(np.mean(seen)) for seen in losses], [len(seen) for seen in losses], 0.4)
            losses[i].append(float(true[i] + 0.4 * rng.standard_normal()))
        means, _ = expected([float(np.mean(seen)) for seen in losses], [len(seen) for seen in losses], 0.4)
        lost["allocate"] += true[np.argmin(means)]
    assert lost["allocate"] < lost["all"] < lost["none"]

"""How long a flow waits after a lost claim."""

from __future__ import annotations

from hpo_core.ledger.backoff import FIRST_SECONDS, MOST_SECONDS, Backoff


def waits(lost: int, draws: int = 200) -> list[float]:
    backoff = Backoff()
    for _ in range(lost):
        backoff.lost()
    return [backoff.seconds() for _ in range(draws)]


def test_the_range_of_the_waits_doubles_with_every_loss_up_to_a_limit() -> None:
    assert set(waits(0)) == {0.0}
    for lost in range(1, 20):
        longest = min(FIRST_SECONDS * 2 ** (lost - 1), MOST_SECONDS)
        drawn = waits(lost)
        assert all(0 <= seconds <= longest for seconds in drawn)
        assert max(drawn) > 0.8 * longest and min(drawn) < 0.2 * longest
    assert max(waits(5_000)) <= MOST_SECONDS


def test_after_a_claim_that_was_won_nobody_waits() -> None:
    backoff = Backoff()
    backoff.lost()
    backoff.lost()
    backoff.won()
    assert backoff.seconds() == 0
    backoff.lost()
    assert backoff.seconds() <= FIRST_SECONDS


def test_flows_that_start_together_do_not_wait_alike() -> None:
    assert len({tuple(waits(3, draws=5)) for _ in range(8)}) == 8

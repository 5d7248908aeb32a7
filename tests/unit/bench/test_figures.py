"""Percentiles and ratios of the benchmark."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.macro.figures import Latency, median, paired_ratio, percentile, spread


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.5, 50), (0.95, 95), (0.99, 99), (0.991, 100), (0.999, 100), (1.0, 100), (0.001, 1)],
)
def test_percentile_is_the_nearest_rank(share: float, expected: int) -> None:
    assert percentile(range(1, 101), share) == expected


def test_percentile_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01])
def test_percentile_refuses_shares_outside_its_range(share: float) -> None:
    with pytest.raises(ValueError, match="not within"):
        percentile([1.0], share)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.001, 1.0))
def test_at_least_the_share_of_values_is_not_above_the_percentile(values: list[float], share: float) -> None:
    found = percentile(sorted(values), share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) * (1 - 1e-9)


def test_median_of_odd_and_even_counts() -> None:
    assert median([9.0, 1.0, 2.0]) == 2.0
    assert median([4.0, 1.0, 2.0, 9.0]) == 3.0


def test_spread_is_half_the_range_as_a_share_of_the_median() -> None:
    assert spread([90.0, 100.0, 110.0]) == pytest.approx(0.1)
    assert spread([5.0]) == 0.0
    assert spread([0.0, 0.0]) == 0.0


def test_ratio_pairs_the_rounds() -> None:
    # Both slow down in round 1: each pair says 0.5, where the ratio of the medians would say something else.
    assert paired_ratio({0: 50.0, 1: 5.0, 2: 45.0}, {0: 100.0, 1: 10.0, 2: 90.0}) == 0.5


def test_ratio_uses_only_rounds_that_both_finished() -> None:
    assert paired_ratio({0: 10.0, 1: 30.0}, {1: 10.0, 2: 1.0}) == 3.0
    assert paired_ratio({0: 10.0}, {1: 10.0}) is None


def test_latency_of_nothing_is_none() -> None:
    assert Latency.of([]) is None
    assert Latency.of(range(1000, 0, -1)) == Latency(1000, 500, 950, 990, 999)

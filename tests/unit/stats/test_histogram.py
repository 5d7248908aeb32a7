"""Buckets and percentiles."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgdoorman.stats.histogram import SIZE, Histogram, add_up, bucket_of, lower_bound, percentile

LONGEST = lower_bound(SIZE) - 1


def test_the_buckets_cover_everything_without_gaps() -> None:
    for bucket in range(SIZE):
        assert lower_bound(bucket) < lower_bound(bucket + 1)
        assert bucket_of(lower_bound(bucket)) == bucket
        assert bucket_of(lower_bound(bucket + 1) - 1) == bucket
    assert LONGEST > 30 * 86400 * 1_000_000 // 2, "more than two weeks"


@given(st.integers(0, LONGEST))
def test_a_duration_lies_within_its_bucket(microseconds: int) -> None:
    bucket = bucket_of(microseconds)
    assert lower_bound(bucket) <= microseconds < lower_bound(bucket + 1)


@pytest.mark.parametrize("microseconds", [-1, -(10**9)])
def test_a_clock_that_went_back(microseconds: int) -> None:
    assert bucket_of(microseconds) == 0


@pytest.mark.parametrize("microseconds", [LONGEST + 1, 10**30])
def test_what_is_too_long_is_counted_all_the_same(microseconds: int) -> None:
    assert bucket_of(microseconds) == SIZE - 1


def test_counting() -> None:
    histogram = Histogram()
    for seconds in (0.0, 0.0000014, 0.001, 0.001, 5.0):
        histogram.add(seconds)
    counts = histogram.copy()
    assert sum(counts) == 5
    assert counts[bucket_of(1000)] == 2
    assert counts[0] == 1
    assert counts[1] == 1
    histogram.add(1.0)
    assert sum(counts) == 5, "a copy"


def test_adding_up() -> None:
    one, other = Histogram(), Histogram()
    one.add(0.001)
    other.add(0.001)
    other.add(1.0)
    both = add_up([one.counts, other.counts])
    assert both[bucket_of(1000)] == 2
    assert both[bucket_of(1_000_000)] == 1
    assert sum(both) == 3
    assert add_up([]) == [0] * SIZE


def test_nothing_counted() -> None:
    assert percentile([0] * SIZE, 0.5) == 0.0


@given(st.lists(st.integers(100, 10**9), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_percentiles_are_off_by_an_eighth_at_most(durations: list[int], share: float) -> None:
    histogram = Histogram()
    for microseconds in durations:
        histogram.counts[bucket_of(microseconds)] += 1
    found = percentile(histogram.counts, share) * 1_000_000
    ordered = sorted(durations)
    # The smallest duration that at least this share does not exceed.
    exact = next(value for place, value in enumerate(ordered, 1) if place >= share * len(ordered))
    assert abs(found - exact) <= exact / 8 + 1


def test_percentiles_rise() -> None:
    histogram = Histogram()
    for milliseconds in range(1, 1001):
        histogram.add(milliseconds / 1000)
    shares = [percentile(histogram.counts, share / 100) for share in range(1, 101)]
    assert shares == sorted(shares)
    assert statistics.median(shares) == pytest.approx(0.5, rel=0.13)
    assert percentile(histogram.counts, 0.0) == pytest.approx(0.001, rel=0.13)

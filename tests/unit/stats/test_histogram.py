"""Buckets and percentiles."""

import statistics
from threading import Barrier, Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgdoorman.stats.histogram import SIZE, Durations, add_up, bucket_of, lower_bound, percentile

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


def _counts(*seconds: float) -> list[int]:
    durations = Durations()
    for one in seconds:
        durations.add(one)
    return durations.read()[2]


def test_counting() -> None:
    durations = Durations()
    for seconds in (0.0, 0.0000014, 0.001, 0.001, 5.0):
        durations.add(seconds)
    assert durations.unfolded == 5
    number, whole, counts = durations.read()
    assert durations.unfolded == 0
    assert number == sum(counts) == 5
    assert whole == pytest.approx(5.0020014)
    assert counts[bucket_of(1000)] == 2
    assert counts[0] == 1
    assert counts[1] == 1
    durations.add(1.0)
    assert durations.read()[0] == 6
    assert sum(counts) == 5, "a copy"


@given(st.lists(st.integers(0, 2 * LONGEST), max_size=300))
def test_many_at_once_lie_where_each_alone_would(microseconds: list[int]) -> None:
    expected = [0] * SIZE
    for one in microseconds:
        expected[bucket_of(one)] += 1
    # In the middle of a microsecond: at its edge a product of floats may fall to either side.
    assert _counts(*((one + 0.5) / 1_000_000 for one in microseconds)) == expected


def test_a_clock_that_went_back_among_others() -> None:
    assert _counts(-3.0, 0.0, 0.001)[0] == 2


def test_nothing_is_lost_while_it_is_read() -> None:
    durations = Durations()
    barrier = Barrier(3)
    rounds = 20_000

    def add() -> None:
        barrier.wait(10.0)
        for _ in range(rounds):
            durations.add(0.001)

    def fold() -> None:
        barrier.wait(10.0)
        while writer.is_alive():
            durations.fold()

    writer, reader = Thread(target=add), Thread(target=fold)
    writer.start()
    reader.start()
    barrier.wait(10.0)
    seen = 0
    while writer.is_alive():
        number, whole, counts = durations.read()
        assert number >= seen
        assert number == sum(counts)
        assert whole == pytest.approx(number * 0.001)
        seen = number
    writer.join(10.0)
    reader.join(10.0)
    assert durations.read()[0] == rounds


def test_adding_up() -> None:
    both = add_up([_counts(0.001), _counts(0.001, 1.0)])
    assert both[bucket_of(1000)] == 2
    assert both[bucket_of(1_000_000)] == 1
    assert sum(both) == 3
    assert add_up([]) == [0] * SIZE


def test_nothing_counted() -> None:
    assert percentile([0] * SIZE, 0.5) == 0.0


@given(st.lists(st.integers(100, 10**9), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_percentiles_are_off_by_an_eighth_at_most(durations: list[int], share: float) -> None:
    counts = [0] * SIZE
    for microseconds in durations:
        counts[bucket_of(microseconds)] += 1
    found = percentile(counts, share) * 1_000_000
    ordered = sorted(durations)
    # The smallest duration that at least this share does not exceed.
    exact = next(value for place, value in enumerate(ordered, 1) if place >= share * len(ordered))
    assert abs(found - exact) <= exact / 8 + 1


def test_percentiles_rise() -> None:
    counts = _counts(*(milliseconds / 1000 for milliseconds in range(1, 1001)))
    shares = [percentile(counts, share / 100) for share in range(1, 101)]
    assert shares == sorted(shares)
    assert statistics.median(shares) == pytest.approx(0.5, rel=0.13)
    assert percentile(counts, 0.0) == pytest.approx(0.001, rel=0.13)

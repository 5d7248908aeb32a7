"""Durations in buckets that are fine enough for percentiles and cheap enough for every query."""

from collections.abc import Iterable, Sequence

from pgdoorman.constants import bind_constants

STEPS = 4  # buckets per power of two: a percentile is off by 12 % at most
SIZE = 40 * STEPS


class Histogram:
    """Counts of durations. One writer; readers copy."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts = [0] * SIZE

    def add(self, seconds: float) -> None:
        """Count one duration, in seconds; it is kept in whole microseconds."""
        self.counts[bucket_of(int(seconds * 1_000_000))] += 1

    def copy(self) -> list[int]:
        """The counts now."""
        return list(self.counts)


def bucket_of(microseconds: int) -> int:
    """The bucket that counts this duration."""
    if microseconds < STEPS:
        return microseconds if microseconds > 0 else 0
    bits = microseconds.bit_length()
    index = (bits - 2) * STEPS + ((microseconds >> (bits - 3)) & 3)
    return index if index < SIZE else SIZE - 1


def lower_bound(bucket: int) -> int:
    """The smallest duration of a bucket, in microseconds."""
    if bucket < STEPS:
        return bucket
    bits = bucket // STEPS + 2
    return (1 << (bits - 1)) + ((bucket % STEPS) << (bits - 3))


def add_up(parts: Iterable[Sequence[int]]) -> list[int]:
    """The sum of several histograms' counts."""
    sums = [0] * SIZE
    for counts in parts:
        for index, count in enumerate(counts):
            if count:
                sums[index] += count
    return sums


def percentile(counts: Sequence[int], share: float) -> float:
    """The duration in seconds below which `share` (0..1) of what was counted lies; 0.0 if nothing was."""
    whole = sum(counts)
    if not whole:
        return 0.0
    wanted = share * whole
    seen = 0
    for bucket, count in enumerate(counts):
        seen += count
        if count and seen >= wanted:
            return (lower_bound(bucket) + lower_bound(bucket + 1)) / 2_000_000
    return lower_bound(SIZE) / 1_000_000


bind_constants(__name__)

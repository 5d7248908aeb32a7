"""Durations in buckets that are fine enough for percentiles and cheap enough for every query."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from threading import Lock

from pgdoorman.constants import bind_constants

STEPS = 4  # buckets per power of two: a percentile is off by 12 % at most
SIZE = 40 * STEPS


class Durations:
    """How long things took: their number, their sum in seconds, and counts by bucket. One thread adds, any may read.

    What is added is kept as it is and put into its bucket later, many at once: finding the bucket costs a microsecond for
    one and a tenth of that for each of a thousand, since sorting them is the interpreter's work. Who adds much has to see
    to `fold` from time to time, best on the thread that adds: the interpreter frees an object most cheaply where it was made.
    """

    __slots__ = ("_counts", "_fresh", "_lock", "_number", "_sum", "add")

    def __init__(self) -> None:
        self._lock = Lock()
        self._fresh: list[float] = []
        self._number = 0
        self._sum = 0.0
        self._counts = [0] * SIZE
        self.add: Callable[[float], None] = self._fresh.append
        """Count one duration, in seconds. From one thread only."""

    @property
    def unfolded(self) -> int:
        """How many wait to be put into their bucket."""
        return len(self._fresh)

    def fold(self) -> None:
        """Put what was added into its bucket. From any thread."""
        with self._lock:
            number = len(self._fresh)
            if not number:
                return
            # More may be added meanwhile, behind these.
            durations = sorted(self._fresh[:number])
            del self._fresh[:number]
            self._number += number
            self._sum += sum(durations)
            _distribute(durations, self._counts)

    def read(self) -> tuple[int, float, list[int]]:
        """The number, the sum in seconds, and the counts by bucket, at one moment."""
        self.fold()
        with self._lock:
            return self._number, self._sum, list(self._counts)


def _distribute(durations: Sequence[float], counts: list[int]) -> None:
    """Count sorted durations, in seconds, by bucket."""
    done = 0
    last = bucket_of(int(durations[-1] * 1_000_000))
    for bucket in range(bucket_of(int(durations[0] * 1_000_000)), last):
        end = bisect_left(durations, _BOUNDS[bucket + 1], done)
        counts[bucket] += end - done
        done = end
    counts[last] += len(durations) - done


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


_BOUNDS = [lower_bound(bucket) / 1_000_000 for bucket in range(SIZE + 1)]  # seconds


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

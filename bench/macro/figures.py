"""Percentiles, medians and ratios. Pure; no rounding here, that is the report's business."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Self


def percentile(ordered: Sequence[float], share: float) -> float:
    """Nearest-rank percentile of values that are sorted already.

    `share` is 0 < share <= 1 (0.99 for p99). The result is always a value that was observed: interpolating between
    the last few values of a long tail invents latencies that nobody had. Raises ValueError if there are no values.
    """
    if not ordered:
        raise ValueError("no values")
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share {share} is not within 0..1")
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


def median(values: Iterable[float]) -> float:
    """The middle value, the mean of the two middle ones for an even count. Raises ValueError if there are none."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def spread(values: Iterable[float]) -> float:
    """Half the range as a share of the median: 0.03 means plus or minus 3 %. 0 for a single value or a zero median."""
    ordered = sorted(values)
    centre = median(ordered)
    return (ordered[-1] - ordered[0]) / 2 / centre if centre else 0.0


def paired_ratio(mine: Mapping[int, float], theirs: Mapping[int, float]) -> float | None:
    """The median of mine/theirs over the rounds that both finished, None if there is no such round.

    Rounds are paired because a machine that slows down slows both runs of a round; the ratio of two medians would
    keep that disturbance.
    """
    ratios = [mine[number] / theirs[number] for number in mine if theirs.get(number)]
    return median(ratios) if ratios else None


@dataclass(frozen=True, slots=True)
class Latency:
    """Latencies of one set of transactions in milliseconds."""

    count: int
    p50: float
    p95: float
    p99: float
    p999: float

    @classmethod
    def of(cls, milliseconds: Iterable[float]) -> Self | None:
        """None when there is nothing to summarise."""
        ordered = sorted(milliseconds)
        if not ordered:
            return None
        return cls(
            len(ordered),
            percentile(ordered, 0.50),
            percentile(ordered, 0.95),
            percentile(ordered, 0.99),
            percentile(ordered, 0.999),
        )

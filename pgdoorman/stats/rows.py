"""The frozen values in which numbers travel: what was counted, and how long things took.

`Traffic` is what one pool (or one worker's share of it) has counted since it was opened. It can be added over pools and
subtracted over time, so an average is always computed last, from a difference: averages themselves cannot be added.
"""

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Counts since the owner was opened. Bytes are those of whole messages, times are microseconds."""

    assignments: int = 0
    """How often a backend was given to a client."""
    transactions: int = 0
    queries: int = 0
    bytes_received: int = 0
    """From clients, forwarded to backends."""
    bytes_sent: int = 0
    """From backends, forwarded to clients."""
    transaction_time: int = 0
    """Sum over transactions, from the first message to the ReadyForQuery that ended each."""
    query_time: int = 0
    wait_time: int = 0
    """Sum of the time that clients stood in the pool's queue."""
    errors: int = 0
    """ErrorResponse messages that clients of the pool were sent, whoever made them."""
    client_parses: int = 0
    """Parse messages that clients sent."""
    server_parses: int = 0
    """Parse messages that were sent on to a backend."""
    binds: int = 0
    logins: int = 0
    """Clients that were authenticated."""

    def __add__(self, other: Self) -> Self:
        return self._with(other, operator.add)

    def __sub__(self, other: Self) -> Self:
        return self._with(other, operator.sub)

    def _with(self, other: Self, combine: Callable[[int, int], int]) -> Self:
        return type(self)(**{name: combine(getattr(self, name), getattr(other, name)) for name in TRAFFIC_FIELDS})


TRAFFIC_FIELDS = tuple(field.name for field in fields(Traffic))


def total(rows: Iterable[Traffic]) -> Traffic:
    """The sum of all rows; nothing counted if there are none."""
    return sum(rows, start=Traffic())


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """Durations in microseconds below which 50, 90, 95 and 99 of 100 samples of the last period lie; 0 without samples."""

    p50: int = 0
    p90: int = 0
    p95: int = 0
    p99: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficReport:
    """What one pool has counted, and how much of it in the last whole period (15 s unless set otherwise)."""

    total: Traffic = Traffic()
    recent: Traffic = Traffic()
    """Counted during the last `recent_seconds`."""
    recent_seconds: float = 0.0
    """Length of the last period; 0 before the first one has ended, and then every average is 0."""
    queries: Percentiles = Percentiles()
    transactions: Percentiles = Percentiles()
    waits: Percentiles = Percentiles()

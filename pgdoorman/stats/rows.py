"""The frozen values in which numbers travel: what was counted, and how long things took.

`Traffic` is what one pool (or one worker's share of it) has counted since it was opened. It can be added over pools and
subtracted over time, so an average is always computed last, from a difference: averages themselves cannot be added.
"""

import operator
from collections.abc import Callable, Iterable, Sequence
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


# By which SQLSTATEs errors are told apart: the connection, resources, the operator's doing, a failed block, a statement
# that does not exist.
ERROR_KINDS = ("08", "53", "57", "25P02", "26000", "other")
_CLASSES = {kind.encode(): place for place, kind in enumerate(ERROR_KINDS) if len(kind) == 2}
_STATES = {kind.encode(): place for place, kind in enumerate(ERROR_KINDS) if len(kind) == 5 and kind != "other"}


def error_kind(sqlstate: bytes) -> int:
    """The place in ERROR_KINDS of a SQLSTATE."""
    return _STATES.get(sqlstate, _CLASSES.get(sqlstate[:2], len(ERROR_KINDS) - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """Microseconds within which 50, 90, 95 and 99 of 100 samples of the last period stayed; 0 without samples."""

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
    errors: Sequence[int] = (0,) * len(ERROR_KINDS)
    """`total.errors` by ERROR_KINDS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Averages:
    """The last period in numbers that can be read: counts and bytes per second, times in microseconds per event."""

    assignments: float = 0.0
    transactions: float = 0.0
    queries: float = 0.0
    bytes_received: float = 0.0
    bytes_sent: float = 0.0
    errors: float = 0.0
    client_parses: float = 0.0
    server_parses: float = 0.0
    binds: float = 0.0
    logins: float = 0.0
    transaction_time: float = 0.0
    """Per transaction."""
    query_time: float = 0.0
    """Per query."""
    wait_time: float = 0.0
    """Per assignment, those that did not wait included."""


_PER_SECOND = (
    "assignments",
    "transactions",
    "queries",
    "bytes_received",
    "bytes_sent",
    "errors",
    "client_parses",
    "server_parses",
    "binds",
    "logins",
)


def averages(reports: Iterable[TrafficReport]) -> Averages:
    """Averages over one or several pools. Rates add up, even of pools that are younger than the period; a mean time is
    that of all events together and not the mean of the pools' means."""
    measured = [report for report in reports if report.recent_seconds > 0]
    rates = {
        name: sum(getattr(report.recent, name) / report.recent_seconds for report in measured) for name in _PER_SECOND
    }
    recent = total(report.recent for report in measured)
    return Averages(
        **rates,
        transaction_time=recent.transaction_time / max(1, recent.transactions),
        query_time=recent.query_time / max(1, recent.queries),
        wait_time=recent.wait_time / max(1, recent.assignments),
    )

"""Counters with one writer each: a (worker, pool) pair counts alone, readers add up.

Plain integers and floats on a slotted object that only its worker's thread writes: no lock and no shared cache line on
the hot path. A reader may see one query counted and its bytes not yet; it never sees a torn number.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pgdoorman.stats.histogram import SIZE, Histogram, add_up, percentile
from pgdoorman.stats.rows import ERROR_KINDS, Percentiles, Traffic, TrafficReport, error_kind

NO_ERRORS = (0,) * len(ERROR_KINDS)


class TrafficCounters:
    """What one worker did for one pool. Times are seconds, volumes bytes."""

    __slots__ = (
        "assignments",
        "binds",
        "client_parses",
        "errors",
        "errors_by_kind",
        "logins",
        "queries",
        "query_time",
        "query_times",
        "received",
        "sent",
        "server_parses",
        "single_time",
        "single_times",
        "singles",
        "transaction_time",
        "transaction_times",
        "transactions",
        "wait_time",
        "wait_times",
    )

    def __init__(self) -> None:
        # Transactions of one query, the most frequent kind: one count stands for a transaction, a query and an
        # assignment, one duration for both. The other fields hold what is not counted here.
        self.singles = 0
        self.single_time = 0.0
        self.single_times = Histogram()
        self.assignments = 0
        self.transactions = 0
        self.queries = 0
        self.received = 0
        self.sent = 0
        self.transaction_time = 0.0
        self.query_time = 0.0
        self.wait_time = 0.0
        self.client_parses = 0
        self.server_parses = 0
        self.binds = 0
        self.logins = 0
        self.errors = 0
        self.errors_by_kind = [0] * len(ERROR_KINDS)
        self.query_times = Histogram()
        self.transaction_times = Histogram()
        self.wait_times = Histogram()

    def count_error(self, message: bytes) -> None:
        """A client is sent this ErrorResponse (protocol, 55.8)."""
        # Each field is a letter and a text that ends with a zero, so a zero and a C are nothing but the code; of the
        # length in front of the fields only the last byte may be that zero.
        at = 6 if message[5:6] == b"C" else message.find(b"\0C", 4) + 2
        self.errors += 1
        self.errors_by_kind[error_kind(message[at : at + 5])] += 1


def total(counters: Iterable[TrafficCounters]) -> Traffic:
    """Add up the counters of all workers."""
    parts = list(counters)

    def added(name: str, factor: int = 1) -> int:
        return int(sum(getattr(part, name) for part in parts) * factor)

    return Traffic(
        assignments=added("assignments") + added("singles"),
        transactions=added("transactions") + added("singles"),
        queries=added("queries") + added("singles"),
        bytes_received=added("received"),
        bytes_sent=added("sent"),
        transaction_time=added("transaction_time", 1_000_000) + added("single_time", 1_000_000),
        query_time=added("query_time", 1_000_000) + added("single_time", 1_000_000),
        wait_time=added("wait_time", 1_000_000),
        errors=added("errors"),
        client_parses=added("client_parses"),
        server_parses=added("server_parses"),
        binds=added("binds"),
        logins=added("logins"),
    )


@dataclass(slots=True)
class Period:
    """The numbers of one pool at the end of the last period, and what that period brought. Written by the janitor."""

    ended_at: float
    total: Traffic = field(default_factory=Traffic)
    recent: Traffic = field(default_factory=Traffic)
    seconds: float = 0.0
    percentiles: tuple[Percentiles, Percentiles, Percentiles] = (Percentiles(), Percentiles(), Percentiles())
    counts: tuple[Sequence[int], Sequence[int], Sequence[int]] = ((0,) * SIZE, (0,) * SIZE, (0,) * SIZE)

    def close(self, counters: Sequence[TrafficCounters], now: float) -> None:
        """End the period at `now` (monotonic seconds)."""
        whole = total(counters)
        self.recent = whole - self.total
        self.seconds = now - self.ended_at
        self.total = whole
        self.ended_at = now
        counts = (
            add_up(times.copy() for part in counters for times in (part.query_times, part.single_times)),
            add_up(times.copy() for part in counters for times in (part.transaction_times, part.single_times)),
            add_up(part.wait_times.copy() for part in counters),
        )
        queries, transactions, waits = (
            _percentiles([new - old for new, old in zip(after, before, strict=True)])
            for after, before in zip(counts, self.counts, strict=True)
        )
        self.percentiles = (queries, transactions, waits)
        self.counts = counts

    def report(self, counters: Sequence[TrafficCounters]) -> TrafficReport:
        """The numbers up to now, and those of the last whole period."""
        queries, transactions, waits = self.percentiles
        return TrafficReport(
            total=total(counters),
            recent=self.recent,
            recent_seconds=self.seconds,
            queries=queries,
            transactions=transactions,
            waits=waits,
            errors=tuple(map(sum, zip(*(part.errors_by_kind for part in counters), strict=True))) or NO_ERRORS,
        )


def _percentiles(counts: Sequence[int]) -> Percentiles:
    p50, p90, p95, p99 = (int(percentile(counts, share) * 1_000_000) for share in (0.5, 0.9, 0.95, 0.99))
    return Percentiles(p50=p50, p90=p90, p95=p95, p99=p99)

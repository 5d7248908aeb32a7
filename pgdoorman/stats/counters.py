"""Counters with one writer each: a (worker, pool) pair counts alone, readers add up.

Plain integers on a slotted object that only its worker's thread writes: no lock and no shared cache line on
the hot path. A reader may see one query counted and its bytes not yet; it never sees a torn number.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pgdoorman.stats.histogram import SIZE, Durations, add_up, percentile
from pgdoorman.stats.rows import ERROR_KINDS, Percentiles, Traffic, TrafficReport, error_kind

NO_ERRORS = (0,) * len(ERROR_KINDS)


class TrafficCounters:
    """What one worker did for one pool. Times are seconds, volumes bytes."""

    __slots__ = (
        "binds",
        "client_parses",
        "errors",
        "errors_by_kind",
        "logins",
        "queries",
        "query_times",
        "received",
        "sent",
        "server_parses",
        "single_times",
        "transaction_times",
        "wait_times",
    )

    def __init__(self) -> None:
        # Transactions of one query, the most frequent kind: one duration stands for a transaction and its query. The other
        # fields hold what is not counted here. (A duration of `query_times` may be that of several queries, pipelined.)
        self.single_times = Durations()
        self.query_times = Durations()
        self.transaction_times = Durations()
        self.wait_times = Durations()
        self.queries = 0
        self.received = 0
        self.sent = 0
        self.client_parses = 0
        self.server_parses = 0
        self.binds = 0
        self.logins = 0
        self.errors = 0
        self.errors_by_kind = [0] * len(ERROR_KINDS)

    @property
    def unfolded(self) -> int:
        """How many durations wait to be put into their buckets."""
        return self.single_times.unfolded + self.query_times.unfolded + self.wait_times.unfolded

    def fold(self) -> None:
        """Put the durations into their buckets."""
        for durations in (self.single_times, self.query_times, self.transaction_times, self.wait_times):
            durations.fold()

    def count_error(self, message: bytes) -> None:
        """A client is sent this ErrorResponse (protocol, 55.8)."""
        # Each field is a letter and a text that ends with a zero, so a zero and a C are nothing but the code; of the
        # length in front of the fields only the last byte may be that zero.
        at = 6 if message[5:6] == b"C" else message.find(b"\0C", 4) + 2
        self.errors += 1
        self.errors_by_kind[error_kind(message[at : at + 5])] += 1


@dataclass(frozen=True, slots=True)
class Sums:
    """What all workers did for one pool, at one moment: the numbers, and the counts of durations by bucket."""

    traffic: Traffic
    query_times: list[int]
    transaction_times: list[int]
    wait_times: list[int]


def add_up_counters(counters: Iterable[TrafficCounters]) -> Sums:
    """Add up the counters of all workers."""
    parts = list(counters)

    def added(name: str) -> int:
        return sum(getattr(part, name) for part in parts)

    def durations(name: str) -> tuple[int, float, list[int]]:
        read = [getattr(part, name).read() for part in parts]
        return sum(one[0] for one in read), sum(one[1] for one in read), add_up(one[2] for one in read)

    # Each is read once: a count that is used twice must be the same in both places.
    singles, single_time, single_counts = durations("single_times")
    _, query_time, query_counts = durations("query_times")
    transactions, transaction_time, transaction_counts = durations("transaction_times")
    _, wait_time, wait_counts = durations("wait_times")
    traffic = Traffic(
        assignments=transactions + singles,
        transactions=transactions + singles,
        queries=added("queries") + singles,
        bytes_received=added("received"),
        bytes_sent=added("sent"),
        transaction_time=int(transaction_time * 1_000_000) + int(single_time * 1_000_000),
        query_time=int(query_time * 1_000_000) + int(single_time * 1_000_000),
        wait_time=int(wait_time * 1_000_000),
        errors=added("errors"),
        client_parses=added("client_parses"),
        server_parses=added("server_parses"),
        binds=added("binds"),
        logins=added("logins"),
    )
    return Sums(
        traffic, add_up((query_counts, single_counts)), add_up((transaction_counts, single_counts)), wait_counts
    )


def total(counters: Iterable[TrafficCounters]) -> Traffic:
    """The numbers of all workers together."""
    return add_up_counters(counters).traffic


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
        sums = add_up_counters(counters)
        self.recent = sums.traffic - self.total
        self.seconds = now - self.ended_at
        self.total = sums.traffic
        self.ended_at = now
        counts = (sums.query_times, sums.transaction_times, sums.wait_times)
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

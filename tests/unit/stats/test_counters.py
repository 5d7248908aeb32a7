"""Counters with one writer each, added up by readers."""

from threading import Barrier, Thread

from pgdoorman.stats.counters import Period, TrafficCounters, total
from pgdoorman.stats.rows import Percentiles, Traffic


def counted() -> TrafficCounters:
    counters = TrafficCounters()
    counters.assignments = 1
    counters.transactions = 2
    counters.queries = 3
    counters.received = 4
    counters.sent = 5
    counters.transaction_time = 0.5
    counters.query_time = 0.25
    counters.wait_time = 0.125
    counters.client_parses = 6
    counters.server_parses = 7
    counters.binds = 8
    counters.logins = 9
    counters.errors = 10
    return counters


EXPECTED = Traffic(
    assignments=1,
    transactions=2,
    queries=3,
    bytes_received=4,
    bytes_sent=5,
    transaction_time=500_000,
    query_time=250_000,
    wait_time=125_000,
    client_parses=6,
    server_parses=7,
    binds=8,
    logins=9,
    errors=10,
)


def test_every_counter_has_its_column() -> None:
    assert total([counted()]) == EXPECTED
    assert total([counted(), counted()]) == EXPECTED + EXPECTED
    assert total([]) == Traffic()


def test_a_transaction_of_one_query_counts_as_all_three() -> None:
    counters = counted()
    counters.singles = 100
    counters.single_time = 1.5
    grown = total([counters]) - EXPECTED
    assert grown == Traffic(
        assignments=100, transactions=100, queries=100, transaction_time=1_500_000, query_time=1_500_000
    )


def test_small_times_of_many_workers_are_not_rounded_away() -> None:
    parts = [TrafficCounters() for _ in range(10)]
    for part in parts:
        part.query_time = 0.000_000_5
    assert total(parts).query_time == 5


def test_a_period_has_what_was_counted_in_it() -> None:
    counters = counted()
    period = Period(100.0)
    assert period.report([counters]).recent_seconds == 0.0
    period.close([counters], 115.0)
    assert period.recent == EXPECTED
    assert period.seconds == 15.0
    counters.queries += 40
    counters.singles += 2
    counters.query_times.add(0.001)
    counters.single_times.add(1.0)
    report = period.report([counters])
    assert report.recent == EXPECTED, "of the last whole period"
    assert report.total.queries == 45
    period.close([counters], 130.0)
    report = period.report([counters])
    assert report.recent == Traffic(queries=42, assignments=2, transactions=2)
    assert 900 <= report.queries.p50 <= 1100
    assert 900_000 <= report.queries.p99 <= 1_100_000
    assert 900_000 <= report.transactions.p50 <= 1_100_000
    assert report.waits == Percentiles()
    period.close([counters], 145.0)
    assert period.report([counters]).queries == Percentiles(), "nothing in this one"


def test_sums_never_go_backwards_while_they_are_counted() -> None:
    parts = [TrafficCounters() for _ in range(4)]
    barrier = Barrier(5)
    rounds = 3000

    def count(mine: TrafficCounters) -> None:
        barrier.wait(10.0)
        for _ in range(rounds):
            mine.queries += 1
            mine.query_time += 0.001
            mine.query_times.add(0.001)

    threads = [Thread(target=count, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    barrier.wait(10.0)
    period = Period(0.0)
    seen = 0
    while any(thread.is_alive() for thread in threads):
        period.close(parts, 1.0)
        assert period.recent.queries >= 0
        assert period.recent.query_time >= 0
        seen += period.recent.queries
    for thread in threads:
        thread.join(10.0)
    period.close(parts, 2.0)
    assert seen + period.recent.queries == 4 * rounds
    assert sum(period.counts[0]) == 4 * rounds

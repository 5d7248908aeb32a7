"""Counters with one writer each, added up by readers."""

from threading import Barrier, Thread

from pgdoorman.protocol.results import error_response
from pgdoorman.stats.counters import Period, TrafficCounters, total
from pgdoorman.stats.rows import ERROR_KINDS, Percentiles, Traffic


def counted() -> TrafficCounters:
    counters = TrafficCounters()
    for seconds in (0.25, 0.25):
        counters.transaction_times.add(seconds)
    counters.queries = 3
    counters.received = 4
    counters.sent = 5
    counters.query_times.add(0.25)
    counters.wait_times.add(0.125)
    counters.client_parses = 6
    counters.server_parses = 7
    counters.binds = 8
    counters.logins = 9
    counters.errors = 10
    return counters


EXPECTED = Traffic(
    assignments=2,
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
    for _ in range(100):
        counters.single_times.add(0.015625)
    grown = total([counters]) - EXPECTED
    assert grown == Traffic(
        assignments=100, transactions=100, queries=100, transaction_time=1_562_500, query_time=1_562_500
    )


def test_small_times_of_many_workers_are_not_rounded_away() -> None:
    parts = [TrafficCounters() for _ in range(10)]
    for part in parts:
        part.query_times.add(0.000_000_5)
    assert total(parts).query_time == 5


def test_a_period_has_what_was_counted_in_it() -> None:
    counters = counted()
    period = Period(100.0)
    assert period.report([counters]).recent_seconds == 0.0
    period.close([counters], 115.0)
    assert period.recent == EXPECTED
    assert period.seconds == 15.0
    counters.queries += 40
    for _ in range(40):
        counters.query_times.add(0.001)
    counters.single_times.add(1.0)
    counters.single_times.add(1.0)
    report = period.report([counters])
    assert report.recent == EXPECTED, "of the last whole period"
    assert report.total.queries == 45
    period.close([counters], 130.0)
    report = period.report([counters])
    assert report.recent == Traffic(
        queries=42, assignments=2, transactions=2, transaction_time=2_000_000, query_time=2_040_000
    )
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


def test_errors_are_told_apart_by_sqlstate() -> None:
    one, other = TrafficCounters(), TrafficCounters()
    for sqlstate in ("08006", "53300", "57P01", "57014", "25P02", "26000", "25P01", "42601", "XX000"):
        one.count_error(error_response("no", sqlstate=sqlstate, severity="FATAL"))
    other.count_error(error_response("no", sqlstate="57P03", severity="FATAL"))
    errors = Period(0.0).report([one, other]).errors
    assert dict(zip(ERROR_KINDS, errors, strict=True)) == {
        "08": 1, "53": 1, "57": 3, "25P02": 1, "26000": 1, "other": 3,
    }  # fmt: skip
    assert total([one, other]).errors == sum(errors) == 10
    assert sum(Period(0.0).report([]).errors) == 0


def test_the_code_is_found_whatever_stands_around_it() -> None:
    """Among the lengths are those of which the last byte is a C, and those of which it is a zero."""
    layouts = (b"SERROR\0C53300\0M%s\0\0", b"C53300\0SERROR\0M%s\0\0", b"M%s\0SERROR\0C53300\0\0")
    for length in range(32, 1100):
        text = (b"C57014 C" * length)[: length - 4 - len(b"SERROR\0C53300\0M\0\0")]
        for layout in layouts:
            body = layout % text
            counters = TrafficCounters()
            counters.count_error(b"E" + (len(body) + 4).to_bytes(4) + body)
            assert counters.errors_by_kind == [0, 1, 0, 0, 0, 0], (length, layout)


def test_an_error_without_a_code_counts_too() -> None:
    counters = TrafficCounters()
    for body in (b"", b"\0", b"SERROR\0\0", b"C", b"SERROR\0C"):
        counters.count_error(b"E" + (len(body) + 4).to_bytes(4) + body)
    assert counters.errors_by_kind == [0, 0, 0, 0, 0, 5]

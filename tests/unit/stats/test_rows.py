"""Traffic adds over pools and subtracts over time; averages come last."""

from dataclasses import fields

from hypothesis import given
from hypothesis import strategies as st

from pgdoorman.stats.rows import Averages, Traffic, TrafficReport, averages, total

TRAFFICS = st.builds(Traffic, **{field.name: st.integers(0, 2**40) for field in fields(Traffic)})


@given(TRAFFICS, TRAFFICS)
def test_what_was_added_can_be_taken_away(one: Traffic, other: Traffic) -> None:
    assert one + other - other == one
    assert total([one, other]) == one + other == other + one


def test_the_sum_of_nothing() -> None:
    assert total([]) == Traffic()
    assert averages([]) == Averages()
    assert averages([TrafficReport(recent=Traffic(queries=9))]) == Averages()  # the first period has not ended


def test_rates_add_up_and_means_are_weighted() -> None:
    busy = TrafficReport(recent=Traffic(queries=100, query_time=1000, bytes_sent=50), recent_seconds=10.0)
    quiet = TrafficReport(recent=Traffic(queries=1, query_time=1010), recent_seconds=10.0)
    found = averages([busy, quiet])
    assert found.queries == 10.1
    assert found.bytes_sent == 5.0
    assert found.query_time == 2010 / 101
    assert found.transaction_time == 0.0

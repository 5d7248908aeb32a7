"""The series: names as in the reference, numbers as in the rows, nothing that is a secret."""

from collections.abc import Mapping

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pgdoorman.control import AuthQueryRow, LatencyRow, PoolCoordinatorRow, PoolRow
from pgdoorman.stats.histogram import Durations
from pgdoorman.stats.rows import Traffic, TrafficReport
from pgdoorman.web.prometheus import BOUNDS, HouseCollector
from tests.support.control import SECRETS, House

Series = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def _text(house: House) -> str:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(HouseCollector(house))
    return generate_latest(registry).decode()


def _series(house: House) -> Series:
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(_text(house)):
        for sample in family.samples:
            key = (sample.name.removeprefix("pg_doorman_"), frozenset(sample.labels.items()))
            assert key not in found, f"{key} twice"
            found[key] = sample.value
    return found


def _value(series: Series, name: str, **labels: str) -> float:
    return series[name, frozenset(labels.items())]


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("connections_total", {"type": "total"}, 10),
        ("connections_total", {"type": "tls"}, 4),
        ("connections_total", {"type": "plain"}, 3),
        ("connections_total", {"type": "cancel"}, 2),
        ("log_level", {"level": "info"}, 1),
        ("shutdown_in_progress", {}, 0),
        ("users_configured", {"user": "app", "database": "", "pool_mode": "session"}, 1),
        ("pools_clients", {"status": "idle", "user": "app", "database": "shop"}, 3),
        ("pools_clients", {"status": "active", "user": "app", "database": "shop"}, 2),
        ("pools_clients", {"status": "waiting", "user": "app", "database": "shop"}, 0),
        ("pools_servers", {"status": "active", "user": "app", "database": "shop"}, 2),
        ("pools_servers", {"status": "idle", "user": "app", "database": "shop"}, 5),
        ("pool_size", {"user": "app", "database": "bank"}, 20),
        ("pools_oldest_active_age_ms", {"user": "app", "database": "shop"}, 500),
        ("pools_maxwait_microseconds", {"user": "app", "database": "shop"}, 1_250_000),
        ("pools_paused", {"user": "app", "database": "shop"}, 0),
        ("pools_queries_total", {"user": "app", "database": "shop"}, 200),
        ("pools_transactions_total", {"user": "app", "database": "shop"}, 100),
        ("pools_errors_total", {"user": "app", "database": "shop", "sqlstate": "57"}, 3),
        ("pools_errors_total", {"user": "app", "database": "shop", "sqlstate": "other"}, 5),
        ("pools_logins_total", {"user": "app", "database": "shop"}, 12),
        ("pools_bytes_total", {"direction": "received", "user": "app", "database": "shop"}, 3000),
        ("pools_bytes_total", {"direction": "sent", "user": "app", "database": "shop"}, 4000),
        ("pools_queries_total_time", {"user": "app", "database": "shop"}, 6),
        ("pools_transactions_total_time", {"user": "app", "database": "shop"}, 5),
        ("pools_avg_wait_time", {"user": "app", "database": "shop"}, 0.01),
        ("pools_queries_percentile", {"percentile": "99", "user": "app", "database": "shop"}, 0.004),
        ("pools_transactions_percentile", {"percentile": "50", "user": "app", "database": "shop"}, 0.005),
        ("pool_scaling", {"type": "inflight_creates", "user": "app", "database": "shop"}, 0),
        ("pool_scaling_total", {"type": "creates_started", "user": "app", "database": "shop"}, 4),
        ("pool_coordinator", {"type": "connections", "database": "shop"}, 20),
        ("pool_coordinator", {"type": "max_connections", "database": "shop"}, 50),
        ("auth_query_cache_total", {"type": "hits", "database": "shop"}, 5),
    ],
)
def test_series(name: str, labels: dict[str, str], value: float) -> None:
    assert _value(_series(House()), name, **labels) == pytest.approx(value)


def test_what_a_house_does_not_have_has_no_series() -> None:
    house = House()
    house.rows["pool_coordinators"] = list[PoolCoordinatorRow]()
    house.rows["auth_queries"] = list[AuthQueryRow]()
    assert not [name for name, _ in _series(house) if name.startswith(("pool_coordinator", "auth_query"))]


def test_no_secret_is_shown() -> None:
    text = _text(House())
    assert not [secret for secret in SECRETS if secret in text]


def test_names_with_quotes_and_line_ends() -> None:
    house = House()
    house.rows["pools"] = [PoolRow(database='a"b\\c\nd', user="ü", pool_size=3)]
    assert _value(_series(house), "pool_size", user="ü", database='a"b\\c\nd') == 3


def _histogram(*seconds: float) -> list[int]:
    durations = Durations()
    for one in seconds:
        durations.add(one)
    return durations.read()[2]


def test_histograms() -> None:
    house = House()
    house.rows["latencies"] = [
        LatencyRow(
            database="shop",
            user="app",
            queries=_histogram(0.000_063, 0.000_064, 0.002, 70.0),
            query_time=70_002_127,
            transactions=_histogram(),
            waits=_histogram(0.0, 1.0),
            wait_time=1_000_000,
        )
    ]
    series = _series(house)

    def below(name: str, bound: str) -> float:
        return _value(series, f"pools_{name}_duration_seconds_bucket", le=bound, user="app", database="shop")

    assert [
        below("query", bound) for bound in ("0.000064", "0.000256", "0.001024", "0.004096", "67.108864", "+Inf")
    ] == [
        1,
        2,
        2,
        3,
        3,
        4,
    ]
    assert _value(series, "pools_query_duration_seconds_count", user="app", database="shop") == 4
    assert _value(series, "pools_query_duration_seconds_sum", user="app", database="shop") == pytest.approx(70.002127)
    assert below("transaction", "+Inf") == 0
    assert below("wait", "0.000064") == 1
    assert _value(series, "pools_wait_duration_seconds_sum", user="app", database="shop") == 1


def test_bounds_are_edges_of_what_is_counted() -> None:
    for bound in BOUNDS:
        just_below = _histogram((bound - 1) / 1_000_000)
        house = House()
        house.rows["latencies"] = [LatencyRow(database="d", user="u", queries=just_below)]
        series = _series(house)
        found = {
            float(dict(labels)["le"]): value
            for (name, labels), value in series.items()
            if name == "pools_query_duration_seconds_bucket"
        }
        assert found[bound / 1_000_000] == 1
        assert all(value == 0 for limit, value in found.items() if limit < bound / 1_000_000)


def test_a_pool_that_was_removed_and_came_back() -> None:
    """The old one still has backends in use: connections add up, counts are the new one's."""
    house = House()
    house.rows["pools"] = [
        PoolRow(database="d", user="u", pool_size=5, backends_active=1, clients_active=1),
        PoolRow(
            database="d",
            user="u",
            pool_size=9,
            backends_active=2,
            clients_active=2,
            traffic=TrafficReport(total=Traffic(queries=7)),
        ),
    ]
    house.rows["latencies"] = [LatencyRow(database="d", user="u"), LatencyRow(database="d", user="u", query_time=5)]
    series = _series(house)
    assert _value(series, "pools_servers", status="active", user="u", database="d") == 3
    assert _value(series, "pools_clients", status="active", user="u", database="d") == 3
    assert _value(series, "pool_size", user="u", database="d") == 5
    assert _value(series, "pools_queries_total", user="u", database="d") == 0

"""The house's numbers as Prometheus series, under PgDoorman's names.

Pulled at each scrape from frozen rows; nothing is kept here and nothing is counted twice. The labels `user` and
`database` name a pool.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from pgdoorman.control import FallbackRow, LatencyRow, Overview, PoolRow
from pgdoorman.stats.histogram import SIZE, bucket_of
from pgdoorman.stats.rows import ERROR_KINDS

PREFIX = "pg_doorman_"
POOL = ("user", "database")

# Upper bounds of the histograms' buckets in microseconds: edges of the buckets in which durations are counted, so that
# no count has to be guessed. 64 us to 67 s.
BOUNDS = tuple(4**power for power in range(3, 14))

NONE = (0,) * SIZE

# Where each bound ends in a row of counts.
_EDGES = tuple(bucket_of(bound) for bound in BOUNDS)


class HouseCollector(Collector):
    """Reads one house at every scrape."""

    def __init__(self, house: Overview) -> None:
        self._house = house

    def collect(self) -> Iterator[Metric]:
        """Every series."""
        house = self._house
        yield from self._of_the_house()
        yield from _of_pools(list(house.pools()))
        yield from _latencies(_one_each(house.latencies()))
        yield from self._of_growth()
        yield from self._of_look_ups()

    def _of_the_house(self) -> Iterator[Metric]:
        house = self._house
        identity, state, counts = house.identity(), house.state(), house.connections()
        yield _gauge("build_info", "The program's version.", ("version",), [((identity.version,), 1)])
        yield _gauge("log_level", "The levels of the log.", ("level",), [((house.log_level(),), 1)])
        memory = sum(row.total for row in house.memory() if row.name == "process")
        yield _gauge("total_memory", "Resident memory in bytes.", (), [((), memory)])
        draining = int(state.draining or state.upgrading)
        yield _gauge("shutdown_in_progress", "1 while new clients are refused.", (), [((), draining)])
        kinds = (("plain", counts.plain), ("tls", counts.tls), ("cancel", counts.cancel), ("total", counts.total))
        yield _counter(
            "connections",
            "Connections accepted, by what they wanted.",
            ("type",),
            [((kind,), count) for kind, count in kinds],
        )
        users = [((user.name, user.database, user.pool_mode or ""), 1) for user in house.users()]
        yield _gauge("users_configured", "One for each user of a pool.", (*POOL, "pool_mode"), users)

    def _of_growth(self) -> Iterator[Metric]:
        scaling = list(self._house.pool_scaling())
        yield _gauge(
            "pool_scaling",
            "Backends being opened.",
            ("type", *POOL),
            [(("inflight_creates", row.user, row.database), row.openings) for row in scaling],
        )
        yield _counter(
            "pool_scaling",
            "Openings of backends that were begun.",
            ("type", *POOL),
            [(("creates_started", row.user, row.database), row.opened) for row in scaling],
        )
        shared = list(self._house.pool_coordinators())
        if not shared:
            return
        yield _gauge(
            "pool_coordinator",
            "How the users of a database share its max_db_connections.",
            ("type", "database"),
            [
                ((kind, row.database), number)
                for row in shared
                for kind, number in (
                    ("connections", row.current),
                    ("reserve_in_use", row.reserve_used),
                    ("max_connections", row.max_connections),
                    ("reserve_pool_size", row.reserve_size),
                )
            ],
        )
        yield _counter(
            "pool_coordinator",
            "What it took: backends closed for another user, uses of the reserve, refusals.",
            ("type", "database"),
            [
                ((kind, row.database), number)
                for row in shared
                for kind, number in (
                    ("evictions", row.evictions),
                    ("reserve_acquisitions", row.reserve_acquisitions),
                    ("exhaustions", row.exhaustions),
                )
            ],
        )

    def _of_look_ups(self) -> Iterator[Metric]:
        rows = list(self._house.auth_queries())
        if not rows:
            return
        entries = [(("entries", row.database), row.cache_entries) for row in rows]
        yield _gauge("auth_query_cache", "Users that auth_query remembers.", ("type", "database"), entries)
        pools = [(("current", row.database), row.pools_current) for row in rows]
        yield _gauge("auth_query_dynamic_pools", "Pools of such users.", ("type", "database"), pools)
        for name, meaning, label, parts in (
            (
                "auth_query_cache",
                "Look-ups by how they ended.",
                "type",
                (
                    ("hits", "cache_hits"),
                    ("misses", "cache_misses"),
                    ("refetches", "cache_refetches"),
                    ("rate_limited", "cache_rate_limited"),
                ),
            ),
            ("auth_query_auth", "Log-ins.", "result", (("success", "successes"), ("failure", "failures"))),
            ("auth_query_executor", "Queries.", "type", (("queries", "queries"), ("errors", "query_errors"))),
            (
                "auth_query_dynamic_pools",
                "Pools that came and went.",
                "type",
                (("created", "pools_created"), ("destroyed", "pools_destroyed")),
            ),
        ):
            samples = [((kind, row.database), getattr(row, field)) for row in rows for kind, field in parts]
            yield _counter(name, meaning, (label, "database"), samples)


def _one_each[Row: (PoolRow, LatencyRow)](rows: Iterable[Row]) -> list[Row]:
    """The first row of each pool. A pool that was removed and is back may still have its predecessor, which has
    backends in use, behind it; a series can have one value only, and sums of the two would fall when the old one goes."""
    kept: dict[tuple[str, str], Row] = {}
    for row in rows:
        kept.setdefault((row.user, row.database), row)
    return list(kept.values())


type Sample = tuple[tuple[str, ...], float]


def _gauge(name: str, meaning: str, labels: Sequence[str], samples: Iterable[Sample]) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, meaning, labels=labels)
    for values, number in samples:
        family.add_metric(values, number)
    return family


def _counter(name: str, meaning: str, labels: Sequence[str], samples: Iterable[Sample]) -> Metric:
    family = CounterMetricFamily(PREFIX + name, meaning, labels=labels)
    for values, number in samples:
        family.add_metric(values, number)
    return family


def _of_pools(rows: Sequence[PoolRow]) -> Iterator[Metric]:
    yield _by_status(rows, "pools_clients", "Clients by what they do.", _CLIENTS)
    yield _by_status(rows, "pools_servers", "Connections to PostgreSQL by what they do.", _BACKENDS)
    pools = _one_each(rows)
    yield from _of_fallbacks(pools)
    for name, meaning, read in _GAUGES:
        yield _gauge(name, meaning, POOL, [((row.user, row.database), read(row)) for row in pools])
    for name, meaning, read in _COUNTERS:
        yield _counter(name, meaning, POOL, [((row.user, row.database), read(row)) for row in pools])
    both: tuple[tuple[str, Read], ...] = (
        ("received", lambda row: row.traffic.total.bytes_received),
        ("sent", lambda row: row.traffic.total.bytes_sent),
    )
    yield _counter(
        "pools_bytes",
        "Bytes of clients' messages and of the answers to them.",
        ("direction", *POOL),
        [((word, row.user, row.database), read(row)) for row in pools for word, read in both],
    )
    yield _counter(
        "pools_errors",
        "Error messages that clients were sent, by SQLSTATE or its class.",
        ("sqlstate", *POOL),
        [
            ((kind, row.user, row.database), number)
            for row in pools
            for kind, number in zip(ERROR_KINDS, row.traffic.errors, strict=True)
        ],
    )
    for name, meaning, which in (
        ("pools_queries_percentile", "Duration of queries in the last period, in ms.", "queries"),
        ("pools_transactions_percentile", "Duration of transactions in the last period, in ms.", "transactions"),
    ):
        samples = [
            ((share, row.user, row.database), getattr(getattr(row.traffic, which), f"p{share}") / 1000)
            for row in pools
            for share in ("50", "90", "95", "99")
        ]
        yield _gauge(name, meaning, ("percentile", *POOL), samples)


type Read = Callable[[PoolRow], float]

_CLIENTS: tuple[tuple[str, Read], ...] = (
    ("idle", lambda row: row.clients_idle),
    ("active", lambda row: row.clients_active),
    ("waiting", lambda row: row.clients_waiting),
)
_BACKENDS: tuple[tuple[str, Read], ...] = (
    ("active", lambda row: row.backends_active),
    ("idle", lambda row: row.backends_idle + row.backends_used),
    ("tested", lambda row: row.backends_tested + row.backends_cancelled),
    ("login", lambda row: row.backends_login),
)
_GAUGES: tuple[tuple[str, str, Read], ...] = (
    ("pool_size", "The most backends that the pool may have.", lambda row: row.pool_size),
    ("pools_paused", "1 while the pool is paused.", lambda row: int(row.paused)),
    (
        "pools_oldest_active_age_ms",
        "How long the longest lease has lasted, in ms.",
        lambda row: round(row.oldest_checkout * 1000),
    ),
    (
        "pools_maxwait_microseconds",
        "How long the oldest waiting client has been waiting.",
        lambda row: round(row.max_wait * 1_000_000),
    ),
    (
        "pools_queries_total_time",
        "Sum of the durations of queries, in ms.",
        lambda row: row.traffic.total.query_time / 1000,
    ),
    (
        "pools_transactions_total_time",
        "Sum of the durations of transactions, in ms.",
        lambda row: row.traffic.total.transaction_time / 1000,
    ),
    (
        "pools_avg_wait_time",
        "Mean wait for a backend in the last period, in ms.",
        lambda row: row.traffic.recent.wait_time / max(1, row.traffic.recent.assignments) / 1000,
    ),
)
_COUNTERS: tuple[tuple[str, str, Read], ...] = (
    ("pools_queries", "Queries.", lambda row: row.traffic.total.queries),
    ("pools_transactions", "Transactions.", lambda row: row.traffic.total.transactions),
    ("pools_logins", "Clients that have logged in.", lambda row: row.traffic.total.logins),
)


def _of_fallbacks(pools: Sequence[PoolRow]) -> Iterator[Metric]:
    """By database, over its users; only of pools that have somewhere to look for another host."""
    rows = [(row.database, row.fallback) for row in pools if row.fallback is not None]
    if not rows:
        return
    active = {(name,): 0 for name, _ in rows} | {(name,): 1 for name, row in rows if row.host}
    yield _gauge("fallback_active", "1 while another host serves.", ("pool",), active.items())
    hosts = {(name, row.host, str(row.port)): 1 for name, row in rows if row.host}
    yield _gauge("fallback_host", "The host that serves instead.", ("pool", "host", "port"), hosts.items())
    for series, meaning, read in _OF_FALLBACKS:
        counts: Counter[tuple[str, ...]] = Counter()
        for name, row in rows:
            counts[name,] += read(row)
        yield _counter(series, meaning, ("pool",), counts.items())
    failures: Counter[tuple[str, ...]] = Counter()
    for name, row in rows:
        for reason, count in row.failures.items():
            failures[name, reason] += count
    yield _counter(
        "fallback_candidate_failures", "Candidates that were tried in vain.", ("pool", "reason"), failures.items()
    )


_OF_FALLBACKS: tuple[tuple[str, str, Callable[[FallbackRow], int]], ...] = (
    ("patroni_api_requests", "How often the members of the cluster were asked for.", lambda row: row.api_requests),
    ("patroni_api_errors", "How often no API told them.", lambda row: row.api_errors),
    ("fallback_connections", "Connections opened at another host.", lambda row: row.connections),
    ("fallback_cache_hits", "Those of them at the host that was found before.", lambda row: row.cache_hits),
)


def _by_status(rows: Sequence[PoolRow], name: str, meaning: str, words: Sequence[tuple[str, Read]]) -> Metric:
    found: Counter[tuple[str, ...]] = Counter()
    for row in rows:
        for word, read in words:
            found[word, row.user, row.database] += int(read(row))
    return _gauge(name, meaning, ("status", *POOL), found.items())


def _latencies(rows: Sequence[LatencyRow]) -> Iterator[Metric]:
    for name, meaning, counts_of, sum_of in (
        ("pools_query_duration_seconds", "Duration of queries.", "queries", "query_time"),
        ("pools_transaction_duration_seconds", "Duration of transactions.", "transactions", "transaction_time"),
        (
            "pools_wait_duration_seconds",
            "How long clients waited that had to wait for a backend.",
            "waits",
            "wait_time",
        ),
    ):
        family = HistogramMetricFamily(PREFIX + name, meaning, labels=POOL)
        for row in rows:
            buckets = _buckets(getattr(row, counts_of))
            family.add_metric((row.user, row.database), buckets, getattr(row, sum_of) / 1_000_000)
        yield family


def _buckets(counts: Sequence[int]) -> list[tuple[str, float]]:
    below = [0, *accumulate(counts or NONE)]
    return [
        *(
            (f"{bound / 1_000_000:.6f}".rstrip("0"), float(below[edge]))
            for bound, edge in zip(BOUNDS, _EDGES, strict=True)
        ),
        ("+Inf", float(below[-1])),
    ]

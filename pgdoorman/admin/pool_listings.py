"""Pools and what they have counted: the rows behind SHOW POOLS, STATS and their relatives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pgdoorman.admin.listing import Field, Pair, Table, by_name, int4, microseconds, numeric, text, whole
from pgdoorman.admin.plans import Asker
from pgdoorman.control import PoolCoordinatorRow, PoolMemoryRow, PoolRow, PoolScalingRow
from pgdoorman.protocol.results import Value
from pgdoorman.stats.rows import Averages, Traffic, TrafficReport, averages, total

# --- pools ----------------------------------------------------------------------------------------------------------


def pools_in_order(asker: Asker) -> list[PoolRow]:
    """All pools, by database and user."""
    return sorted(asker.overview.pools(), key=by_name)


POOLS_PGDOORMAN: Final = Table[PoolRow](
    pools_in_order,
    (
        text("database", lambda pool: pool.database),
        text("user", lambda pool: pool.user),
        text("pool_mode", lambda pool: pool.pool_mode),
        numeric("cl_idle", lambda pool: pool.clients_idle),
        numeric("cl_active", lambda pool: pool.clients_active),
        numeric("cl_waiting", lambda pool: pool.clients_waiting),
        numeric("cl_cancel_req", lambda pool: pool.cancels_active + pool.cancels_waiting),
        numeric("sv_active", lambda pool: pool.backends_active),
        numeric("sv_idle", lambda pool: pool.backends_idle),
        numeric("sv_used", lambda pool: pool.backends_used + pool.backends_tested + pool.backends_cancelled),
        numeric("sv_login", lambda pool: pool.backends_login),
        numeric("pool_size", lambda pool: pool.pool_size),
        numeric("maxwait", lambda pool: int(pool.max_wait)),
        numeric("maxwait_us", lambda pool: microseconds(pool.max_wait) % 1_000_000),
        numeric("avg_xact_time", lambda pool: whole(averages([pool.traffic]).transaction_time)),
        text("paused", lambda pool: int(pool.paused)),
        text("fallback_active", lambda pool: int(pool.fallback_active)),
        numeric("oldest_active_age_ms", lambda pool: int(pool.oldest_checkout * 1000)),
    ),
)

POOLS_PGBOUNCER: Final = Table[PoolRow](
    pools_in_order,
    (
        text("database", lambda pool: pool.database),
        text("user", lambda pool: pool.user),
        # PgBouncer has no word for a client that is in no transaction: it counts as active.
        int4("cl_active", lambda pool: pool.clients_active + pool.clients_idle),
        int4("cl_waiting", lambda pool: pool.clients_waiting),
        int4("cl_active_cancel_req", lambda pool: pool.cancels_active),
        int4("cl_waiting_cancel_req", lambda pool: pool.cancels_waiting),
        int4("sv_active", lambda pool: pool.backends_active),
        int4("sv_active_cancel", lambda pool: pool.backends_cancelling),
        int4("sv_being_canceled", lambda pool: pool.backends_cancelled),
        int4("sv_idle", lambda pool: pool.backends_idle),
        int4("sv_used", lambda pool: pool.backends_used),
        int4("sv_tested", lambda pool: pool.backends_tested),
        int4("sv_login", lambda pool: pool.backends_login),
        int4("maxwait", lambda pool: int(pool.max_wait)),
        int4("maxwait_us", lambda pool: microseconds(pool.max_wait) % 1_000_000),
        text("pool_mode", lambda pool: pool.pool_mode),
        text("load_balance_hosts", lambda pool: pool.load_balance_hosts),
    ),
)

POOLS_EXTENDED: Final = Table[PoolRow](
    pools_in_order,
    (
        text("database", lambda pool: pool.database),
        text("user", lambda pool: pool.user),
        numeric("cl_active", lambda pool: pool.clients_active),
        numeric("cl_waiting", lambda pool: pool.clients_waiting),
        numeric("sv_active", lambda pool: pool.backends_active),
        numeric("sv_idle", lambda pool: pool.backends_idle),
        numeric("sv_used", lambda pool: pool.backends_used + pool.backends_tested + pool.backends_cancelled),
        numeric("sv_login", lambda pool: pool.backends_login),
        numeric("pool_size", lambda pool: pool.pool_size),
        numeric("maxwait", lambda pool: round(pool.max_wait, 6)),
        numeric("maxwait_us", lambda pool: microseconds(pool.max_wait) % 1_000_000),
        text("pool_mode", lambda pool: pool.pool_mode),
        numeric("bytes_recieved", lambda pool: pool.traffic.total.bytes_received),  # sic: tools ask for this spelling
        numeric("bytes_sent", lambda pool: pool.traffic.total.bytes_sent),
        numeric("query_0.99", lambda pool: pool.traffic.queries.p99),
        numeric("transaction_0.99", lambda pool: pool.traffic.transactions.p99),
        numeric("query_0.95", lambda pool: pool.traffic.queries.p95),
        numeric("transaction_0.95", lambda pool: pool.traffic.transactions.p95),
        numeric("query_0.5", lambda pool: pool.traffic.queries.p50),
        numeric("transaction_0.5", lambda pool: pool.traffic.transactions.p50),
    ),
)

POOLS_MEMORY: Final = Table[PoolMemoryRow](
    lambda asker: sorted(asker.overview.pool_memory(), key=by_name),
    (
        text("database", lambda pool: pool.database),
        text("user", lambda pool: pool.user),
        numeric("pool_prepared_count", lambda pool: pool.pool_statements),
        numeric("pool_prepared_bytes", lambda pool: pool.pool_bytes),
        numeric("client_prepared_count", lambda pool: pool.client_statements),
        numeric("client_prepared_bytes", lambda pool: pool.client_bytes),
        numeric("client_named_count", lambda pool: pool.client_named),
        numeric("client_anonymous_count", lambda pool: pool.client_anonymous),
        numeric("client_anonymous_evictions_alive", lambda pool: pool.client_evictions),
        numeric("async_clients", lambda pool: pool.async_clients),
    ),
)

POOL_SCALING: Final = Table[PoolScalingRow](
    lambda asker: sorted(asker.overview.pool_scaling(), key=by_name),
    (
        text("user", lambda pool: pool.user),
        text("database", lambda pool: pool.database),
        numeric("inflight", lambda pool: pool.openings),
        numeric("creates", lambda pool: pool.opened),
        numeric("gate_waits", lambda pool: pool.gate_waits),
        numeric("gate_budget_ex", lambda pool: pool.gate_budget_exhausted),
        numeric("antic_notify", lambda pool: pool.anticipation_granted),
        numeric("antic_timeout", lambda pool: pool.anticipation_timeouts),
        numeric("create_fallback", lambda pool: pool.fallbacks),
        numeric("replenish_def", lambda pool: pool.replenish_deferred),
    ),
)

POOL_COORDINATOR: Final = Table[PoolCoordinatorRow](
    lambda asker: sorted(asker.overview.pool_coordinators(), key=lambda row: row.database),
    (
        text("database", lambda row: row.database),
        numeric("max_db_conn", lambda row: row.max_connections),
        numeric("current", lambda row: row.current),
        numeric("reserve_size", lambda row: row.reserve_size),
        numeric("reserve_used", lambda row: row.reserve_used),
        numeric("evictions", lambda row: row.evictions),
        numeric("reserve_acq", lambda row: row.reserve_acquisitions),
        numeric("exhaustions", lambda row: row.exhaustions),
    ),
)

# --- statistics -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Statistics:
    """The numbers of one pool or of one database."""

    database: str
    user: str
    total: Traffic
    average: Averages


def _statistics(database: str, user: str, reports: Sequence[TrafficReport]) -> _Statistics:
    return _Statistics(database, user, total(report.total for report in reports), averages(reports))


def _pool_statistics(asker: Asker) -> list[_Statistics]:
    return [_statistics(pool.database, pool.user, [pool.traffic]) for pool in pools_in_order(asker)]


def _database_statistics(asker: Asker) -> list[_Statistics]:
    reports: dict[str, list[TrafficReport]] = {}
    for pool in pools_in_order(asker):
        reports.setdefault(pool.database, []).append(pool.traffic)
    return [_statistics(database, "", traffic) for database, traffic in reports.items()]


STATS_PGDOORMAN: Final = Table[_Statistics](
    _pool_statistics,
    (
        text("database", lambda row: row.database),
        text("user", lambda row: row.user),
        numeric("total_xact_count", lambda row: row.total.transactions),
        numeric("total_query_count", lambda row: row.total.queries),
        numeric("total_received", lambda row: row.total.bytes_received),
        numeric("total_sent", lambda row: row.total.bytes_sent),
        numeric("total_xact_time", lambda row: row.total.transaction_time),
        numeric("total_query_time", lambda row: row.total.query_time),
        numeric("total_wait_time", lambda row: row.total.wait_time),
        numeric("total_errors", lambda row: row.total.errors),
        numeric("avg_xact_count", lambda row: whole(row.average.transactions)),
        numeric("avg_query_count", lambda row: whole(row.average.queries)),
        numeric("avg_recv", lambda row: whole(row.average.bytes_received)),
        numeric("avg_sent", lambda row: whole(row.average.bytes_sent)),
        numeric("avg_errors", lambda row: whole(row.average.errors)),
        numeric("avg_xact_time", lambda row: whole(row.average.transaction_time)),
        numeric("avg_query_time", lambda row: whole(row.average.query_time)),
        numeric("avg_wait_time", lambda row: whole(row.average.wait_time)),
    ),
)


def _totals(*names: str) -> tuple[Field[_Statistics], ...]:
    """The twelve totals under the names that this listing gives them."""
    getters: tuple[Callable[[_Statistics], Value], ...] = (
        lambda row: row.total.assignments,
        lambda row: row.total.transactions,
        lambda row: row.total.queries,
        lambda row: row.total.bytes_received,
        lambda row: row.total.bytes_sent,
        lambda row: row.total.transaction_time,
        lambda row: row.total.query_time,
        lambda row: row.total.wait_time,
        lambda row: row.total.client_parses,
        lambda row: row.total.server_parses,
        lambda row: row.total.binds,
        lambda row: row.total.logins,
    )
    return tuple(numeric(name, get) for name, get in zip(names, getters, strict=True))


def _averages(*names: str) -> tuple[Field[_Statistics], ...]:
    getters: tuple[Callable[[_Statistics], Value], ...] = (
        lambda row: whole(row.average.assignments),
        lambda row: whole(row.average.transactions),
        lambda row: whole(row.average.queries),
        lambda row: whole(row.average.bytes_received),
        lambda row: whole(row.average.bytes_sent),
        lambda row: whole(row.average.transaction_time),
        lambda row: whole(row.average.query_time),
        lambda row: whole(row.average.wait_time),
        lambda row: whole(row.average.client_parses),
        lambda row: whole(row.average.server_parses),
        lambda row: whole(row.average.binds),
        lambda row: whole(row.average.logins),
    )
    return tuple(numeric(name, get) for name, get in zip(names, getters, strict=True))


_DATABASE: Final[Field[_Statistics]] = text("database", lambda row: row.database)

STATS_PGBOUNCER: Final = Table[_Statistics](
    _database_statistics,
    (
        _DATABASE,
        *_totals(
            "total_server_assignment_count",
            "total_xact_count",
            "total_query_count",
            "total_received",
            "total_sent",
            "total_xact_time",
            "total_query_time",
            "total_wait_time",
            "total_client_parse_count",
            "total_server_parse_count",
            "total_bind_count",
            "total_client_login_count",
        ),
        *_averages(
            "avg_server_assignment_count",
            "avg_xact_count",
            "avg_query_count",
            "avg_recv",
            "avg_sent",
            "avg_xact_time",
            "avg_query_time",
            "avg_wait_time",
            "avg_client_parse_count",
            "avg_server_parse_count",
            "avg_bind_count",
            "avg_client_login_count",
        ),
    ),
)

_SHARED_NAMES: Final = (
    "server_assignment_count",
    "xact_count",
    "query_count",
    "bytes_received",
    "bytes_sent",
    "xact_time",
    "query_time",
    "wait_time",
)

STATS_TOTALS: Final = Table[_Statistics](
    _database_statistics,
    (
        _DATABASE,
        *_totals(*_SHARED_NAMES, "client_parse_count", "server_parse_count", "bind_count", "client_login_count"),
    ),
)

STATS_AVERAGES: Final = Table[_Statistics](
    _database_statistics,
    (
        _DATABASE,
        *_averages(
            *_SHARED_NAMES,
            "avg_client_parse_count",
            "avg_server_parse_count",
            "avg_bind_count",
            "avg_client_login_count",
        ),
    ),
)

_TOTALS_NAMES: Final = (
    "server_assignment_count",
    "xact_count",
    "query_count",
    "client_bytes",
    "server_bytes",
    "xact_time",
    "query_time",
    "wait_time",
    "ps_client_parse_count",
    "ps_server_parse_count",
    "ps_bind_count",
    "client_login_count",
)


def _sum_of_all(asker: Asker) -> list[Pair]:
    row = _statistics("", "", [pool.traffic for pool in asker.overview.pools()])
    sums = _totals(*(f"total_{name}" for name in _TOTALS_NAMES))
    means = _averages(*(f"avg_{name}" for name in _TOTALS_NAMES))
    return [Pair(field.column.name, field.get(row)) for field in (*sums, *means)]


TOTALS: Final = Table[Pair](
    _sum_of_all, (text("name", lambda pair: pair.name), numeric("value", lambda pair: pair.value))
)

"""Databases, users, settings and everything else that is there once: the rows behind the remaining SHOW commands."""

import time
from collections.abc import Sequence
from typing import Final

from pgdoorman.admin.flavour import PGBOUNCER_VERSION, Flavour
from pgdoorman.admin.listing import Field, Pair, Table, by_name, int4, int8, local_time, numeric, text, yes
from pgdoorman.admin.masking import MASK, masked_text, masked_value
from pgdoorman.admin.plans import Asker
from pgdoorman.admin.pool_listings import pools_in_order
from pgdoorman.control import (
    AuthQueryRow,
    ConfigRow,
    DatabaseRow,
    DnsHostRow,
    DnsZoneRow,
    InternedQueryRow,
    InternerRow,
    MemoryRow,
    PoolRow,
    PreparedRow,
    StartupParameterRow,
    UserRow,
)
from pgdoorman.protocol.results import INT4, TEXT, Column

# --- databases, users, lists ----------------------------------------------------------------------------------------

DATABASES_PGDOORMAN: Final = Table[PoolRow](
    pools_in_order,
    (
        text("name", lambda pool: pool.database),
        text("host", lambda pool: pool.host),
        text("port", lambda pool: pool.port),
        text("database", lambda pool: pool.server_database or pool.database),
        text("force_user", lambda pool: pool.user),
        int4("pool_size", lambda pool: pool.pool_size),
        int4("min_pool_size", lambda pool: pool.min_pool_size),
        int4("reserve_pool", lambda pool: pool.reserve_pool_size),
        text("pool_mode", lambda pool: pool.pool_mode),
        int4("max_connections", lambda pool: pool.pool_size),
        int4("current_connections", lambda pool: pool.backends),
    ),
)

DATABASES_PGBOUNCER: Final = Table[DatabaseRow](
    lambda asker: sorted(asker.overview.databases(), key=lambda database: database.name),
    (
        text("name", lambda database: database.name),
        text("host", lambda database: database.host),
        int4("port", lambda database: database.port),
        text("database", lambda database: database.database or database.name),
        text("force_user", lambda database: database.force_user),
        int4("pool_size", lambda database: database.pool_size),
        int4("min_pool_size", lambda database: database.min_pool_size),
        int4("reserve_pool_size", lambda database: database.reserve_pool_size),
        int4("server_lifetime", lambda database: int(database.server_lifetime)),
        text("pool_mode", lambda database: database.pool_mode),
        text("load_balance_hosts", lambda database: database.load_balance_hosts),
        int4("max_connections", lambda database: database.max_connections),
        int4("current_connections", lambda database: database.current_connections),
        int4("max_client_connections", lambda database: database.max_client_connections),
        int4("current_client_connections", lambda database: database.current_client_connections),
        int4("paused", lambda database: int(database.paused)),
        int4("disabled", lambda database: int(database.disabled)),
    ),
)


def _users(asker: Asker) -> list[UserRow]:
    return sorted(asker.overview.users(), key=lambda user: (user.name, user.database))


USERS_PGDOORMAN: Final = Table[UserRow](
    _users, (text("name", lambda user: user.name), text("pool_mode", lambda user: user.pool_mode))
)

USERS_PGBOUNCER: Final = Table[UserRow](
    _users,
    (
        text("name", lambda user: user.name),
        text("pool_size", lambda user: user.pool_size),
        text("reserve_pool_size", lambda user: user.reserve_pool_size),
        text("pool_mode", lambda user: user.pool_mode),
        int4("max_user_connections", lambda user: user.max_connections),
        int4("current_connections", lambda user: user.current_connections),
        int4("max_user_client_connections", lambda user: user.max_client_connections),
        int4("current_client_connections", lambda user: user.current_client_connections),
    ),
)

_LIST_NAMES: Final = (
    "databases",
    "users",
    "peers",
    "pools",
    "peer_pools",
    "free_clients",
    "used_clients",
    "login_clients",
    "free_servers",
    "used_servers",
    "dns_names",
    "dns_zones",
    "dns_queries",
    "dns_pending",
)


def _lists(names: Sequence[str]) -> Table[Pair]:
    def fetch(asker: Asker) -> list[Pair]:
        counts = asker.overview.lists()
        return [Pair(name, getattr(counts, name)) for name in names]

    return Table(fetch, (text("list", lambda pair: pair.name), int4("items", lambda pair: pair.value)))


LISTS_PGBOUNCER: Final = _lists(_LIST_NAMES)
LISTS_PGDOORMAN: Final = _lists([name for name in _LIST_NAMES if "peer" not in name])

# --- settings, state, memory ----------------------------------------------------------------------------------------


def _settings(asker: Asker) -> list[ConfigRow]:
    return sorted(asker.overview.config_rows(), key=lambda setting: setting.key)


def _setting_value(setting: ConfigRow) -> str | None:
    return MASK if setting.secret and setting.value else masked_value(setting.key, setting.value)


def _setting_default(setting: ConfigRow) -> str | None:
    return MASK if setting.secret and setting.default else masked_value(setting.key, setting.default)


CONFIG_PGDOORMAN: Final = Table[ConfigRow](
    _settings,
    (
        text("key", lambda setting: setting.key),
        text("value", _setting_value),
        text("default", lambda setting: "-" if setting.default is None else _setting_default(setting)),
        text("changeable", lambda setting: yes(setting.changeable)),
    ),
)

CONFIG_PGBOUNCER: Final = Table[ConfigRow](
    _settings,
    (
        text("key", lambda setting: setting.key),
        text("value", _setting_value),
        text("default", _setting_default),
        text("changeable", lambda setting: yes(setting.changeable)),
    ),
)


def _state(asker: Asker) -> list[Pair]:
    state = asker.overview.state()
    pairs = [Pair("active", state.active), Pair("paused", state.paused), Pair("suspended", False)]
    if asker.flavour is Flavour.PGDOORMAN:
        pairs += [Pair("draining", state.draining), Pair("upgrading", state.upgrading)]
    return pairs


STATE: Final = Table[Pair](
    _state, (text("key", lambda pair: pair.name), text("value", lambda pair: yes(bool(pair.value))))
)

MEMORY: Final = Table[MemoryRow](
    lambda asker: asker.overview.memory(),
    (
        text("name", lambda item: item.name),
        int4("size", lambda item: item.size),
        int4("used", lambda item: item.used),
        int4("free", lambda item: item.free),
        int4("memtotal", lambda item: item.total),
    ),
)


def _status(asker: Asker) -> list[Pair]:
    identity, state, lists = asker.overview.identity(), asker.overview.state(), asker.overview.lists()
    doing = "draining" if state.draining else "upgrading" if state.upgrading else "paused" if state.paused else "active"
    return [
        Pair("state", doing),
        Pair("version", identity.version),
        Pair("process_id", identity.process_id),
        Pair("config_file", identity.config_file),
        Pair("started_at", local_time(identity.started_at)),
        Pair("uptime", max(0, int(time.time() - identity.started_at))),
        Pair("listening", ", ".join(identity.listening)),
        Pair("python", identity.interpreter),
        Pair("gil", "on" if identity.gil_enabled else "off"),
        Pair("workers", identity.workers),
        Pair("databases", lists.databases),
        Pair("pools", lists.pools),
        Pair("clients", lists.free_clients + lists.used_clients),
        Pair("clients_busy", lists.used_clients),
        Pair("clients_in_login", lists.login_clients),
        Pair("servers", lists.free_servers + lists.used_servers),
        Pair("servers_busy", lists.used_servers),
    ]


STATUS: Final = Table[Pair](_status, (text("key", lambda pair: pair.name), text("value", lambda pair: str(pair.value))))


def _version(asker: Asker) -> list[str]:
    version = asker.overview.identity().version
    if asker.flavour is Flavour.PGBOUNCER:
        # Tools read the first three numbers behind the name and choose columns by them; what it really is stands
        # behind that.
        return [f"PgBouncer {PGBOUNCER_VERSION} (pgdoorman {version})"]
    return [f"PgDoorman {version}"]


VERSION: Final = Table[str](_version, (text("version", str),))
LOG_LEVEL: Final = Table[str](lambda asker: [asker.overview.log_level()], (text("log_level", str),))

# --- prepared statements --------------------------------------------------------------------------------------------


def _prepared(asker: Asker) -> list[tuple[PreparedRow, str]]:
    # The text of a query is data of whoever wrote it: only admins see it.
    rows = sorted(asker.overview.prepared_statements(), key=lambda row: (*by_name(row), row.name))
    return [(row, masked_text(row.query) if asker.admin else MASK) for row in rows]


PREPARED_STATEMENTS: Final = Table[tuple[PreparedRow, str]](
    _prepared,
    (
        text("pool", lambda pair: f"{pair[0].user}@{pair[0].database}"),
        numeric("hash", lambda pair: pair[0].hash),
        text("name", lambda pair: pair[0].name),
        text("query", lambda pair: pair[1]),
        numeric("count_used", lambda pair: pair[0].uses),
        text("kind", lambda pair: pair[0].kind),
    ),
)

INTERNER: Final = Table[InternerRow](
    lambda asker: asker.overview.interner(),
    (
        text("kind", lambda row: row.kind),
        numeric("entries", lambda row: row.entries),
        numeric("bytes", lambda row: row.bytes),
    ),
)

_PREVIEW: Final = 120  # characters of a query, as in PgDoorman


def interned(count: int) -> Table[InternedQueryRow]:
    """The largest texts, so many of them."""
    return Table[InternedQueryRow](
        lambda asker: sorted(asker.overview.interned_queries(count), key=lambda row: -row.bytes)[:count],
        (
            text("hash", lambda row: f"{row.hash:x}"),
            text("kind", lambda row: row.kind),
            numeric("bytes", lambda row: row.bytes),
            numeric("idle_ms", lambda row: -1 if row.idle is None else int(row.idle * 1000)),
            text("query", lambda row: masked_text(row.query)[:_PREVIEW]),
        ),
    )


# --- names and secrets of others ------------------------------------------------------------------------------------

DNS_HOSTS: Final = Table[DnsHostRow](
    lambda asker: sorted(asker.overview.dns_hosts(), key=lambda host: host.name),
    (
        text("hostname", lambda host: host.name),
        int8("ttl", lambda host: max(0, int(host.ttl))),
        text("addrs", lambda host: ",".join(host.addresses)),
    ),
)

DNS_ZONES: Final = Table[DnsZoneRow](
    lambda asker: sorted(asker.overview.dns_zones(), key=lambda zone: zone.name),
    (
        text("zonename", lambda zone: zone.name),
        int8("serial", lambda zone: zone.serial),
        int4("count", lambda zone: zone.hosts),
    ),
)

AUTH_QUERY: Final = Table[AuthQueryRow](
    lambda asker: sorted(asker.overview.auth_queries(), key=lambda row: row.database),
    (
        text("database", lambda row: row.database),
        numeric("cache_entries", lambda row: row.cache_entries),
        numeric("cache_hits", lambda row: row.cache_hits),
        numeric("cache_misses", lambda row: row.cache_misses),
        numeric("cache_refetches", lambda row: row.cache_refetches),
        numeric("cache_rate_limited", lambda row: row.cache_rate_limited),
        numeric("auth_success", lambda row: row.successes),
        numeric("auth_failure", lambda row: row.failures),
        numeric("executor_queries", lambda row: row.queries),
        numeric("executor_errors", lambda row: row.query_errors),
        numeric("dynamic_pools_current", lambda row: row.pools_current),
        numeric("dynamic_pools_created", lambda row: row.pools_created),
        numeric("dynamic_pools_destroyed", lambda row: row.pools_destroyed),
    ),
)

STARTUP_PARAMETERS: Final = Table[StartupParameterRow](
    lambda asker: sorted(asker.overview.startup_parameters(), key=lambda row: (*by_name(row), row.parameter)),
    (
        text("user", lambda row: row.user),
        text("database", lambda row: row.database),
        text("parameter", lambda row: row.parameter),
        text("value", lambda row: masked_value(row.parameter, row.value)),
        text("source", lambda row: row.source),
        text("state", lambda row: row.state),
    ),
)


def _nothing(_asker: Asker) -> list[Pair]:
    return []


# There are no peers: all workers live in one process. Tools that ask for them find an empty list.
PEERS: Final = Table[Pair](
    _nothing,
    tuple(
        Field(Column(name, type_oid), lambda pair: pair.value)
        for name, type_oid in (("peer_id", INT4), ("host", TEXT), ("port", INT4), ("pool_size", INT4))
    ),
)
PEER_POOLS: Final = Table[Pair](
    _nothing,
    tuple(
        int4(name, lambda pair: pair.value)
        for name in ("peer_id", "cl_active_cancel_req", "cl_waiting_cancel_req", "sv_active_cancel", "sv_login")
    ),
)

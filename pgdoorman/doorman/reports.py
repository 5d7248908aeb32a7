"""The rows that operators see, read off the living objects. Every number is read without a lock that work would wait
for; a row may be a moment old."""

from collections.abc import Sequence
from dataclasses import replace
from time import monotonic

from pgdoorman.backend.connection import Backend
from pgdoorman.client.holds import GONE, WAITING
from pgdoorman.client.passage import Passage
from pgdoorman.client.session import Session
from pgdoorman.config.settings import UserPoolSettings
from pgdoorman.control import (
    AuthQueryRow,
    BackendRow,
    ClientRow,
    DatabaseRow,
    FallbackRow,
    LatencyRow,
    PoolCoordinatorRow,
    PoolMemoryRow,
    PoolRow,
    PreparedRow,
    UserRow,
)
from pgdoorman.doorman.console_session import ConsoleSession
from pgdoorman.pool.auth_query import AuthQuery
from pgdoorman.pool.fallback import Fallback
from pgdoorman.pool.ledger import EXAMINED, LEASED
from pgdoorman.pool.pool import Pool
from pgdoorman.pool.quota import Quota
from pgdoorman.pool.switchboard import Switchboard
from pgdoorman.protocol import codes
from pgdoorman.stats.counters import add_up_counters
from pgdoorman.transport.peer import local_end


def state_of(session: Session) -> str:
    """A client's state, in the operators' words."""
    if session.held & WAITING:
        return "waiting"
    return "active" if session.backend is not None else "idle"


def unread_bytes(session: Session) -> int:
    """What a client has sent and nobody has dealt with yet."""
    gathered = session.gathered
    return len(session.input) + (len(gathered) if gathered is not None else 0)


def pool_row(pool: Pool, sessions: Sequence[Session]) -> PoolRow:
    """One row of SHOW POOLS. `sessions` are the pool's clients."""
    statistics = pool.statistics()
    states = [state_of(session) for session in sessions]
    now = monotonic()
    leases = [backend.leased_at for session in sessions if (backend := session.backend) is not None]
    settings = pool.settings
    return PoolRow(
        database=pool.database,
        user=pool.user,
        pool_mode=settings.pool_mode.value,
        host=settings.server_host,
        port=settings.server_port,
        server_database=settings.server_database,
        pool_size=settings.pool_size,
        min_pool_size=settings.min_pool_size,
        reserve_pool_size=settings.reserve_pool_size,
        clients_idle=states.count("idle"),
        clients_active=states.count("active"),
        clients_waiting=states.count("waiting"),
        backends_active=statistics.leased,
        backends_idle=statistics.idle,
        backends_tested=statistics.examined,
        backends_login=statistics.opening,
        max_wait=statistics.oldest_wait,
        oldest_checkout=now - min(leases) if leases else 0.0,
        paused=statistics.paused,
        fallback_active=pool.fallback is not None and pool.fallback.host is not None,
        fallback=fallback_row(pool.fallback),
        epoch=pool.ledger.epoch,
        traffic=pool.traffic(),
    )


def fallback_row(fallback: Fallback | None) -> FallbackRow | None:
    """What Patroni has done for a pool."""
    if fallback is None:
        return None
    address = fallback.host
    return FallbackRow(
        host=address.host if address is not None else "",
        port=address.port if address is not None else 0,
        api_requests=fallback.api_requests,
        api_errors=fallback.api_errors,
        connections=fallback.connections,
        cache_hits=fallback.cache_hits,
        failures=dict(fallback.failures),
    )


def latency_row(pool: Pool) -> LatencyRow:
    """How long things took in a pool."""
    sums = add_up_counters(pool.counters)
    return LatencyRow(
        database=pool.database,
        user=pool.user,
        queries=sums.query_times,
        query_time=sums.traffic.query_time,
        transactions=sums.transaction_times,
        transaction_time=sums.traffic.transaction_time,
        waits=sums.wait_times,
        wait_time=sums.traffic.wait_time,
    )


def client_row(session: Session, clock: float) -> ClientRow:
    """One row of SHOW CLIENTS. `clock` turns monotonic time into Unix time."""
    now = monotonic()
    backend = session.backend
    busy = session.query_began if backend is not None else 0.0  # between leases it may be what it was
    waiting = bool(session.held & WAITING)
    began = session.waiting_since if waiting else busy
    local_address, local_port = local_end(session.sock)
    return ClientRow(
        id=session.id,
        database=session.pool.database,
        user=session.pool.user,
        application_name=session.told.by_name.get("application_name", session.application_name),
        state=state_of(session),
        activity="write" if session.out else "idle" if not began else "read",
        pinned=", ".join(sorted(session.pins)),
        address=session.address.address,
        port=session.address.port,
        local_address=local_address,
        local_port=local_port,
        tls=session.tls,
        process_id=session.address.process_id,
        backend_id=backend.id if backend is not None else None,
        connected_at=session.connected_at + clock,
        age=now - session.connected_at,
        requested_at=began + clock if began else None,
        request_age=now - began if began else 0.0,
        transactions=session.transactions + session.singles,
        queries=session.queries + session.singles,
        errors=session.errors,
        prepared_statements=len(session.names) if session.names is not None else 0,
        unread_bytes=unread_bytes(session),
        unsent_bytes=len(session.out),
    )


def passage_row(passage: Passage, clock: float) -> ClientRow:
    """The row of a replication client."""
    backend = passage.backend
    local_address, local_port = local_end(passage.sock)
    return ClientRow(
        id=passage.id,
        database=passage.pool.database,
        user=passage.pool.user,
        application_name=passage.arrived.message.last("application_name"),
        state="login" if backend is None else "active",
        address=passage.address.address,
        port=passage.address.port,
        local_address=local_address,
        local_port=local_port,
        tls=passage.arrived.tls,
        replication=passage.kind.name.lower(),
        process_id=passage.address.process_id,
        backend_id=backend.id if backend is not None else None,
        connected_at=passage.connected_at + clock,
        age=monotonic() - passage.connected_at,
        unsent_bytes=len(passage.out),
    )


def console_row(console: ConsoleSession, clock: float) -> ClientRow:
    """The row of a console client."""
    local_address, local_port = local_end(console.sock)
    return ClientRow(
        id=console.id,
        database=console.database,
        user=console.user,
        application_name=console.application_name,
        state="active",
        address=console.address.address,
        port=console.address.port,
        local_address=local_address,
        local_port=local_port,
        tls=console.tls,
        process_id=console.address.process_id,
        connected_at=console.connected_at + clock,
        age=monotonic() - console.connected_at,
        queries=console.queries,
    )


def backend_row(backend: Backend, pool: Pool, clock: float) -> BackendRow:
    """One row of SHOW SERVERS."""
    now = monotonic()
    holder = backend.holder
    served = isinstance(holder, Passage) or (isinstance(holder, Session) and not holder.held & GONE)
    client_id: int | None = getattr(holder, "id", None) if served else None
    leased = backend.place == LEASED
    state = "active" if leased else "idle"
    if backend.place == EXAMINED:
        state = "being_canceled" if backend.cancels_under_way else "tested"
    replication = "none"
    if isinstance(holder, Passage):
        state, replication = "active", holder.kind.name.lower()
    elif isinstance(holder, Switchboard):
        state = "listening"
    local_address, local_port = local_end(backend.sock)
    return BackendRow(
        id=backend.id,
        database=pool.database,
        user=backend.role,
        application_name=backend.reported.by_name.get("application_name", ""),
        state=state,
        activity="read" if backend.exchange.entries else "idle",
        address=backend.address.host,
        port=backend.address.port,
        local_address=local_address,
        local_port=local_port,
        tls=backend.tls,
        process_id=backend.process_id,
        replication=replication,
        client_id=client_id,
        connected_at=backend.opened_at + clock,
        age=now - backend.opened_at,
        requested_at=backend.leased_at + clock if backend.leased_at else None,
        active_age=now - backend.leased_at if leased else 0.0,
        close_needed=backend.close_wanted or backend.epoch != pool.ledger.epoch or now > backend.expires_at,
        transactions=backend.transactions + backend.singles,
        queries=backend.queries + backend.singles,
        errors=backend.errors,
        bytes_sent=backend.bytes_out,
        bytes_received=backend.bytes_in,
        prepared_hits=backend.names.hits,
        prepared_misses=backend.names.misses,
        prepared_statements=len(backend.names),
        unread_bytes=len(backend.tail),
        unsent_bytes=len(backend.out),
    )


def memory_row(pool: Pool, sessions: Sequence[Session]) -> PoolMemoryRow:
    """What a pool and its clients remember of statements."""
    shared = pool.book.statements()
    named = [
        statement
        for session in sessions
        if session.names is not None
        for statement in list(session.names.names.values())
    ]
    return PoolMemoryRow(
        database=pool.database,
        user=pool.user,
        pool_statements=len(shared),
        pool_bytes=sum(len(statement.tail) for statement in shared),
        client_statements=len(named),
        client_bytes=sum(len(statement.tail) for statement in named),
        client_named=sum(
            1 for session in sessions if session.names is not None for name in list(session.names.names) if name
        ),
        client_anonymous=sum(1 for session in sessions if session.names is not None and b"" in session.names.names),
    )


def prepared_rows(pool: Pool) -> list[PreparedRow]:
    """The shared statements of a pool."""
    return [
        PreparedRow(
            database=pool.database,
            user=pool.user,
            hash=hash(statement.tail) & 0x7FFFFFFFFFFFFFFF,
            name=statement.name.decode(),
            query=statement.text.decode("utf-8", "replace"),
            uses=statement.uses,
        )
        for statement in pool.book.statements()
    ]


def database_row(pools: Sequence[Pool]) -> DatabaseRow:
    """One row of SHOW DATABASES, from the pools of one database (at least one)."""
    settings = pools[0].settings
    statistics = [pool.statistics() for pool in pools]
    paused, disabled = any(one.paused for one in statistics), any(pool.disabled for pool in pools)
    return replace(
        awaited_database_row(settings, paused, disabled),
        force_user=settings.server_username if settings.server_username != settings.username else None,
        pool_size=sum(pool.settings.pool_size for pool in pools),
        min_pool_size=sum(pool.settings.min_pool_size for pool in pools),
        current_connections=sum(one.total for one in statistics),
        current_client_connections=sum(pool.clients for pool in pools),
    )


def awaited_database_row(settings: UserPoolSettings, paused: bool, disabled: bool) -> DatabaseRow:
    """The row of a database whose users are looked up, and where none has come yet. `settings` are what one would have."""
    return DatabaseRow(
        name=settings.pool,
        host=settings.server_host,
        port=settings.server_port,
        database=settings.server_database,
        reserve_pool_size=settings.reserve_pool_size,
        server_lifetime=settings.server_lifetime,
        pool_mode=settings.pool_mode.value,
        max_connections=settings.max_db_connections,
        max_client_connections=settings.max_db_client_connections,
        paused=paused,
        disabled=disabled,
    )


def user_row(pool: Pool) -> UserRow:
    """One row of SHOW USERS."""
    return UserRow(
        name=pool.user,
        database=pool.database,
        pool_size=pool.settings.pool_size,
        pool_mode=pool.settings.pool_mode.value,
        current_connections=pool.statistics().total,
        max_client_connections=pool.settings.max_user_client_connections,
        current_client_connections=pool.clients,
    )


def auth_query_row(query: AuthQuery, pools: int) -> AuthQueryRow:
    """One row of SHOW AUTH_QUERY. `pools` is how many its users have now."""
    counters = query.counters
    return AuthQueryRow(
        database=query.database,
        cache_entries=query.entries,
        cache_hits=counters.hits,
        cache_misses=counters.misses,
        cache_refetches=counters.refetches,
        cache_rate_limited=counters.rate_limited,
        successes=counters.successes,
        failures=counters.failures,
        queries=counters.queries,
        query_errors=counters.errors,
        pools_current=pools,
        pools_created=counters.pools_created,
        pools_destroyed=counters.pools_destroyed,
    )


def coordinator_row(quota: Quota) -> PoolCoordinatorRow:
    """One row of SHOW POOL_COORDINATOR."""
    statistics = quota.statistics()
    return PoolCoordinatorRow(
        database=quota.database,
        max_connections=quota.terms.maximum,
        current=statistics.taken,
        reserve_size=quota.terms.reserve,
        reserve_used=statistics.reserve_taken,
        evictions=statistics.evictions,
        reserve_acquisitions=statistics.reserve_acquisitions,
        exhaustions=statistics.exhaustions,
    )


def is_busy(backend: Backend) -> bool:
    """Whether a client holds it in a transaction or with something unanswered."""
    return backend.place == LEASED and (backend.status != codes.IDLE or bool(backend.exchange.entries))

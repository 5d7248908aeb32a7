"""What an operator may ask of the house: the `Control` that console, web pages and command line see."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING

from pgdoorman.admin.flavour import is_console
from pgdoorman.client.passage import Passage
from pgdoorman.client.session import Session
from pgdoorman.control import (
    AlreadyPaused,
    AuthQueryRow,
    BackendRow,
    ClientRow,
    Completion,
    ConfigRow,
    ConnectionCounts,
    ConsoleDatabase,
    DatabaseRow,
    DnsHostRow,
    DnsZoneRow,
    HouseState,
    Identity,
    InternedQueryRow,
    InternerRow,
    LatencyRow,
    ListCounts,
    MemoryRow,
    NoSuchClient,
    NoSuchDatabase,
    NotPaused,
    NotSupported,
    PoolCoordinatorRow,
    PoolMemoryRow,
    PoolRow,
    PoolScalingRow,
    PreparedRow,
    Refused,
    ReloadOutcome,
    SettingRefused,
    ShutdownMode,
    StartupParameterRow,
    UserRow,
)
from pgdoorman.doorman import reports
from pgdoorman.doorman.pauses import Pauses
from pgdoorman.errors import ConfigError, HandoverError, PgDoormanError, ShuttingDown
from pgdoorman.pool.pool import Pool
from pgdoorman.runtime.memory import resident_bytes
from pgdoorman.transport.socket_states import count_sockets

if TYPE_CHECKING:
    from pgdoorman.doorman.house import Doorman

log = logging.getLogger(__name__)

FORCED = ShuttingDown("admin forced disconnect")
REMOVED = ShuttingDown("database removed")


class Operator:
    """Answers for one house. Called by any thread; nothing here blocks."""

    def __init__(self, house: "Doorman") -> None:
        self._house = house
        self._pauses = Pauses()
        self._disabled: set[str] = set()
        self._waits_lock = Lock()
        self._waits: list[tuple[Sequence[Pool | _Obsolete], Completion[None]]] = []

    # Looking.

    def identity(self) -> Identity:
        return self._house.identity

    def state(self) -> HouseState:
        return HouseState(
            paused=self._pauses.everything, draining=self._house.draining, upgrading=self._house.upgrading
        )

    def _sessions_by_pool(self) -> dict[Pool, list[Session]]:
        found: dict[Pool, list[Session]] = {}
        for session in list(self._house.desk.sessions.values()):
            found.setdefault(session.pool, []).append(session)
        return found

    def pools(self) -> Sequence[PoolRow]:
        sessions = self._sessions_by_pool()
        pools = [*self._house.registry.all(), *self._house.registry.leaving()]
        return [reports.pool_row(pool, sessions.get(pool, [])) for pool in pools]

    def latencies(self) -> Sequence[LatencyRow]:
        return [reports.latency_row(pool) for pool in [*self._house.registry.all(), *self._house.registry.leaving()]]

    def pool_memory(self) -> Sequence[PoolMemoryRow]:
        sessions = self._sessions_by_pool()
        return [reports.memory_row(pool, sessions.get(pool, [])) for pool in self._house.registry.all()]

    def clients(self) -> Sequence[ClientRow]:
        clock = self._house.clock
        rows = [reports.client_row(session, clock) for session in list(self._house.desk.sessions.values())]
        rows += [reports.passage_row(passage, clock) for passage in list(self._house.desk.passages.values())]
        return rows + [reports.console_row(console, clock) for console in list(self._house.desk.consoles.values())]

    def backends(self) -> Sequence[BackendRow]:
        clock = self._house.clock
        pools = [*self._house.registry.all(), *self._house.registry.leaving()]
        rows = [reports.backend_row(backend, pool, clock) for pool in pools for backend in pool.ledger.members()]
        rows += [reports.backend_row(backend, pool, clock) for pool in pools for backend in pool.switchboard.backends]
        passages = list(self._house.desk.passages.values())
        return rows + [
            reports.backend_row(passage.backend, passage.pool, clock)
            for passage in passages
            if passage.backend is not None
        ]

    def databases(self) -> Sequence[DatabaseRow]:
        registry, lookups = self._house.registry, self._house.lookups
        rows = []
        for name in registry.databases:
            pools, query = registry.of_database(name), lookups.of(name)
            if pools:
                rows.append(reports.database_row(pools))
            elif query is not None:
                row = reports.awaited_database_row(
                    query.pool_of_nobody, self._pauses.holds(name), name in self._disabled
                )
                rows.append(row)
        return rows

    def users(self) -> Sequence[UserRow]:
        return [reports.user_row(pool) for pool in self._house.registry.all()]

    def lists(self) -> ListCounts:
        house = self._house
        states = Counter(reports.state_of(session) for session in list(house.desk.sessions.values()))
        pools = house.registry.all()
        statistics = [pool.statistics() for pool in pools]
        idle = sum(one.idle for one in statistics)
        return ListCounts(
            databases=len(house.registry.databases),
            users=len({pool.user for pool in pools}),
            pools=len(pools),
            free_clients=states["idle"],
            used_clients=states["active"] + states["waiting"],
            login_clients=len(house.desk.logging_in),
            free_servers=idle,
            used_servers=sum(one.total for one in statistics) - idle,
        )

    def config_rows(self) -> Sequence[ConfigRow]:
        return self._house.config_rows()

    def connections(self) -> ConnectionCounts:
        counts = self._house.desk.connections
        return ConnectionCounts(
            total=counts["total"], tls=counts["tls"], plain=counts["plain"], cancel=counts["cancel"]
        )

    def memory(self) -> Sequence[MemoryRow]:
        sessions = list(self._house.desk.sessions.values())
        held = sum(reports.unread_bytes(session) + len(session.out) for session in sessions)
        budget = self._house.budget
        return [
            MemoryRow(name="process", used=1, total=resident_bytes()),
            MemoryRow(name="client_buffers", used=len(sessions), total=held),
            MemoryRow(name="large_messages", used=1 if budget.used else 0, total=budget.used),
        ]

    def socket_counts(self) -> Mapping[str, int]:
        try:
            return count_sockets()
        except OSError as error:
            raise NotSupported(f"the system does not tell of sockets: {error.strerror}") from error

    def prepared_statements(self) -> Sequence[PreparedRow]:
        return [row for pool in self._house.registry.all() for row in reports.prepared_rows(pool)]

    def interner(self) -> Sequence[InternerRow]:
        statements = [statement for pool in self._house.registry.all() for statement in pool.book.statements()]
        return [InternerRow(kind="named", entries=len(statements), bytes=sum(len(one.tail) for one in statements))]

    def interned_queries(self, count: int) -> Sequence[InternedQueryRow]:
        statements = [statement for pool in self._house.registry.all() for statement in pool.book.statements()]
        statements.sort(key=lambda statement: -len(statement.tail))
        return [
            InternedQueryRow(
                hash=hash(one.tail) & 0x7FFFFFFFFFFFFFFF,
                kind="named",
                bytes=len(one.tail),
                query=one.text.decode("utf-8", "replace"),
            )
            for one in statements[:count]
        ]

    def dns_hosts(self) -> Sequence[DnsHostRow]:
        return []

    def dns_zones(self) -> Sequence[DnsZoneRow]:
        return []

    def auth_queries(self) -> Sequence[AuthQueryRow]:
        found = Counter(pool.database for pool in self._house.registry.all() if pool.found is not None)
        return [reports.auth_query_row(query, found[query.database]) for query in self._house.lookups.all()]

    def pool_scaling(self) -> Sequence[PoolScalingRow]:
        return [
            PoolScalingRow(
                database=pool.database, user=pool.user, openings=pool.statistics().opening, opened=pool.openings
            )
            for pool in self._house.registry.all()
        ]

    def pool_coordinators(self) -> Sequence[PoolCoordinatorRow]:
        return [reports.coordinator_row(quota) for quota in self._house.registry.quotas()]

    def startup_parameters(self) -> Sequence[StartupParameterRow]:
        return [
            StartupParameterRow(
                database=pool.database,
                user=pool.user,
                parameter=name,
                value=value,
                source="auth_query" if pool.found is not None and name in dict(pool.found.parameters) else "pool",
            )
            for pool in self._house.registry.all()
            for name, value in pool.startup_parameters
        ]

    def log_level(self) -> str:
        return self._house.log_level

    # Acting.

    def _pools_of(self, database: str | None) -> list[Pool]:
        if database is not None:
            if is_console(database):
                raise ConsoleDatabase(f"cannot do that to the admin database: {database}")
            if not self._house.registry.has_database(database):
                raise NoSuchDatabase(f'No pool for database "{database}"')
        return self._house.registry.of_database(database)

    def pause(self, database: str | None) -> Completion[None]:
        self._pools_of(database)  # is there such a database?
        if not self._pauses.begin(database):
            raise AlreadyPaused("already suspended/paused")
        log.info("PAUSE of %s", database or "all databases")
        pools = self._pools_of(database)
        for pool in pools:
            pool.pause()
        return self._when_quiet(pools)

    def resume(self, database: str | None) -> None:
        self._pools_of(database)
        if self._house.desk.closed:
            raise Refused("pooler is shutting down")
        if not self._pauses.end(database):
            what = f"database {database} is not paused" if database else "pooler is not paused/suspended"
            raise NotPaused(what)
        log.info("RESUME of %s", database or "all databases")
        pools = self._pools_of(database)
        for pool in pools:
            pool.resume()
        with self._waits_lock:
            waits = list(self._waits)
        for waiting, completion in waits:
            if any(pool in pools for pool in waiting):
                completion.fail(NotPaused("resumed before everything was paused"))

    def reconnect(self, database: str | None) -> None:
        for pool in self._pools_of(database):
            pool.reconnect()
        for query in self._house.lookups.all():
            if database in (None, query.database):
                query.reconnect()
        log.info("RECONNECT of %s", database or "all databases")

    def when_closed(self, database: str | None) -> Completion[None]:
        return self._when_quiet([_Obsolete(pool) for pool in self._pools_of(database)])

    def kill(self, database: str | None) -> None:
        self._pools_of(database)
        if self._pauses.everything if database is None else self._pauses.holds(database):
            raise AlreadyPaused("already suspended/paused")
        self._pauses.begin_each(self._house.registry.databases if database is None else [database])
        pools = self._pools_of(database)
        for pool in pools:
            pool.pause()
            pool.run(pool.ledger.refuse_all(REMOVED), None)
        for session in list(self._house.desk.sessions.values()):
            if session.pool in pools:
                session.worker.post(partial(session.expel, REMOVED))
        for passage in list(self._house.desk.passages.values()):
            if passage.pool in pools:
                passage.worker.post(partial(passage.expel, REMOVED))
        for pool in pools:
            pool.reconnect()
        log.info("KILL of %s", database or "all databases")

    def kill_client(self, client_id: int) -> None:
        desk = self._house.desk
        session: Session | Passage | None = desk.sessions.get(client_id) or desk.passages.get(client_id)
        if session is None:
            raise NoSuchClient("client not found")
        session.worker.post(partial(session.expel, FORCED))

    def disable(self, database: str) -> None:
        self._pools_of(database)
        self._disabled.add(database)
        for pool in self._pools_of(database):
            pool.disabled = True

    def enable(self, database: str) -> None:
        self._pools_of(database)
        self._disabled.discard(database)
        for pool in self._pools_of(database):
            pool.disabled = False

    def prepare(self, pool: Pool) -> None:
        """What was asked of a database holds for a pool of it that is made later."""
        if self._pauses.holds(pool.database):
            pool.pause()
        pool.disabled = pool.database in self._disabled

    def reload(self) -> Completion[ReloadOutcome]:
        completion: Completion[ReloadOutcome] = Completion()

        def work() -> None:
            try:
                completion.finish(self._house.reload())
            except PgDoormanError as error:
                completion.fail(error)
            finally:
                # No news if it has ended. An accident must not leave the asker without an answer.
                completion.fail(Refused("the reload failed in the middle; the log says how"))

        if not self._house.reloader.submit(work):
            completion.fail(Refused("pooler is shutting down"))
        return completion

    def shutdown(self, mode: ShutdownMode) -> None:
        log.info("SHUTDOWN (%s)", mode.value)
        self._house.shut_down(mode)

    def upgrade(self) -> Completion[None]:
        completion: Completion[None] = Completion()

        def work() -> None:
            try:
                self._house.upgrade(lambda: completion.finish(None))
            except HandoverError as error:
                completion.fail(Refused(error.message, detail=error.detail))

        if not self._house.patient_helpers.submit(work):
            completion.fail(Refused("pooler is shutting down"))
        return completion

    def set_setting(self, key: str, value: str) -> None:
        self._change_setting(key, value)

    def reset_setting(self, key: str) -> None:
        self._change_setting(key, None)

    def _change_setting(self, key: str, value: str | None) -> None:
        try:
            self._house.change_setting(key, value)
        except ConfigError as error:
            raise SettingRefused(str(error)) from error

    def set_log_level(self, filter_text: str) -> None:
        try:
            self._house.set_log_level(filter_text)
        except ConfigError as error:
            raise SettingRefused(str(error)) from error

    def reset_interner(self) -> None:
        for pool in self._house.registry.all():
            pool.book.renew()

    def _when_quiet(self, pools: Sequence["Pool | _Obsolete"]) -> Completion[None]:
        completion: Completion[None] = Completion()
        with self._waits_lock:
            self._waits.append((pools, completion))
        self.check()
        return completion

    # The janitor's part.

    def check(self) -> None:
        """See whether what somebody waits for has happened."""
        if not self._waits:
            return
        with self._waits_lock:
            waits = list(self._waits)
        for pools, completion in waits:
            if not completion.done and all(_is_quiet(pool) for pool in pools):
                completion.finish(None)
        with self._waits_lock:
            self._waits = [wait for wait in self._waits if not wait[1].done]


class _Obsolete:
    """A pool seen by WAIT_CLOSE: quiet when no backend of an earlier epoch is left."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool


def _is_quiet(pool: "Pool | _Obsolete") -> bool:
    if isinstance(pool, _Obsolete):
        epoch = pool.pool.ledger.epoch
        now = monotonic()
        return not any(one.epoch != epoch or now > one.expires_at for one in pool.pool.ledger.members())
    statistics = pool.statistics()
    return statistics.leased == 0 and statistics.examined == 0

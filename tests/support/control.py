"""A `Control` that lives in memory: rows that a test sets, and a pause that behaves like one.

    house = House(databases=["shop"])
    house.rows["clients"] = [ClientRow(id=1)]
    house.calls                      -> what was asked for, in order, without the looking

It has everything in it that must never be seen: `SECRETS` stand where the real house has them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

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
    PoolCoordinatorRow,
    PoolMemoryRow,
    PoolRow,
    PoolScalingRow,
    PreparedRow,
    ReloadOutcome,
    SettingRefused,
    ShutdownMode,
    StartupParameterRow,
    UserRow,
)
from pgdoorman.stats.rows import Percentiles, Traffic, TrafficReport

SECRETS = ("hunter2", "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy", "md5" + "0123456789abcdef" * 2)

TRAFFIC = TrafficReport(
    total=Traffic(
        assignments=7, transactions=100, queries=200, bytes_received=3000, bytes_sent=4000, transaction_time=5000,
        query_time=6000, wait_time=700, errors=8, client_parses=9, server_parses=10, binds=11, logins=12,
    ),
    recent=Traffic(
        assignments=30, transactions=45, queries=90, bytes_received=1500, bytes_sent=3000, transaction_time=4500,
        query_time=1800, wait_time=300, errors=15, client_parses=60, server_parses=75, binds=105, logins=120,
    ),
    recent_seconds=15.0,
    queries=Percentiles(p50=1, p90=2, p95=3, p99=4),
    transactions=Percentiles(p50=5, p90=6, p95=7, p99=8),
    errors=(0, 0, 3, 0, 0, 5),
)  # fmt: skip


class House:
    """An in-memory `Control`. `rows` holds what the looking methods return, by their names."""

    def __init__(self, databases: Sequence[str] = ("shop", "bank")) -> None:
        self.databases_known = list(databases)
        self.calls: list[tuple[Any, ...]] = []
        self.paused: set[str] = set()
        self.held: set[str] = set()  # databases of which a backend is held, so that PAUSE has to wait
        self.pauses: dict[str | None, Completion[None]] = {}
        self.closings: list[Completion[None]] = []
        self.reloads: list[Completion[ReloadOutcome]] = []
        self.upgrades: list[Completion[None]] = []
        self.settings = {"server_lifetime": "3600", "admin_password": SECRETS[0]}
        self.level = "info"
        self.rows: dict[str, Sequence[Any]] = {
            "pools": [
                PoolRow(database=name, user="app", host="db.internal", port=5432, pool_size=20, clients_active=2,
                        clients_idle=3, backends_active=2, backends_idle=4, backends_used=1, max_wait=1.25,
                        oldest_checkout=0.5, traffic=TRAFFIC)
                for name in self.databases_known
            ],
            "latencies": [],
            "clients": [
                ClientRow(id=12, database="shop", user="app", application_name="psql", state="active", activity="read",
                          address="10.0.0.1", port=4711, tls="TLSv1.3/TLS_AES_256_GCM_SHA384", backend_id=13,
                          connected_at=1_700_000_000.0, requested_at=1_700_000_005.0, age=65.4, request_age=2.5,
                          transactions=3, queries=4, errors=1, prepared_statements=2, pinned="temporary table"),
                ClientRow(id=3, state="login", address="unix"),
            ],
            "backends": [
                BackendRow(id=13, database="shop", user="app", state="active", address="10.0.0.2", port=5432,
                           process_id=4242, client_id=12, close_needed=True, transactions=5, prepared_hits=6),
                BackendRow(id=14, database="shop", user="app", state="login"),
                BackendRow(id=15, database="shop", user="app", state="used"),
            ],
            "databases": [
                DatabaseRow(name=name, host="db.internal", database=f"{name}_prod", pool_size=20,
                            server_lifetime=3600.0)
                for name in self.databases_known
            ],
            "users": [UserRow(name="app", pool_size=20, pool_mode="session"), UserRow(name="zoe")],
            "pool_memory": [PoolMemoryRow(database="shop", user="app", pool_statements=5)],
            "memory": [MemoryRow(name="buffers", size=8192, used=3, free=1, total=32768)],
            "prepared_statements": [
                PreparedRow(database="shop", user="app", hash=2**64 - 1, name="DOORMAN_1", uses=3,
                            query=f"alter role app password '{SECRETS[0]}'"),
            ],
            "interner": [InternerRow(kind="named", entries=1, bytes=100)],
            "interned_queries": [
                InternedQueryRow(hash=255, kind="named", bytes=10, query=f"alter user x PASSWORD E'{SECRETS[0]}'"),
                InternedQueryRow(hash=256, kind="anonymous", bytes=20, query="select 1", idle=1.5),
            ],
            "dns_hosts": [DnsHostRow(name="db.internal", ttl=14.7, addresses=("10.0.0.2:5432", "[::1]:5432"))],
            "dns_zones": [DnsZoneRow(name="internal", serial=2**32, hosts=3)],
            "auth_queries": [AuthQueryRow(database="shop", cache_hits=5)],
            "pool_scaling": [PoolScalingRow(database="shop", user="app", opened=4)],
            "pool_coordinators": [PoolCoordinatorRow(database="shop", max_connections=50, current=20)],
            "startup_parameters": [
                StartupParameterRow(database="shop", user="app", parameter="search_path", value="app", source="pool"),
                StartupParameterRow(database="shop", user="app", parameter="my.secret", value=SECRETS[0],
                                    source="pool"),
            ],
        }  # fmt: skip

    # --- Overview ---

    def identity(self) -> Identity:
        return Identity(version="9.8.7", interpreter="3.13.5t", process_id=77, workers=4)

    def state(self) -> HouseState:
        return HouseState(paused=bool(self.databases_known) and self.paused >= set(self.databases_known))

    def pools(self) -> Sequence[PoolRow]:
        return self.rows["pools"]

    def latencies(self) -> Sequence[LatencyRow]:
        return self.rows["latencies"]

    def pool_memory(self) -> Sequence[PoolMemoryRow]:
        return self.rows["pool_memory"]

    def clients(self) -> Sequence[ClientRow]:
        return self.rows["clients"]

    def backends(self) -> Sequence[BackendRow]:
        return self.rows["backends"]

    def databases(self) -> Sequence[DatabaseRow]:
        return self.rows["databases"]

    def users(self) -> Sequence[UserRow]:
        return self.rows["users"]

    def lists(self) -> ListCounts:
        return ListCounts(databases=len(self.databases_known), users=2, pools=2, used_clients=1, login_clients=1)

    def config_rows(self) -> Sequence[ConfigRow]:
        return [
            *(ConfigRow(key=key, value=value, default="") for key, value in self.settings.items()),
            ConfigRow(key="server_dsn", value=f"host=x password={SECRETS[0]}", default=None, changeable=False),
            ConfigRow(key="verifier", value=SECRETS[1], default=SECRETS[2], secret=True),
            ConfigRow(key="hint", value=f"postgres://app:{SECRETS[0]}@db/shop and {SECRETS[2]}"),
            ConfigRow(key="unset", value=None),
        ]

    def connections(self) -> ConnectionCounts:
        return ConnectionCounts(total=10, tls=4, plain=3, cancel=2)

    def memory(self) -> Sequence[MemoryRow]:
        return self.rows["memory"]

    def socket_counts(self) -> Mapping[str, int]:
        return {"tcp_established": 5, "unix_connected": 2}

    def prepared_statements(self) -> Sequence[PreparedRow]:
        return self.rows["prepared_statements"]

    def interner(self) -> Sequence[InternerRow]:
        return self.rows["interner"]

    def interned_queries(self, count: int) -> Sequence[InternedQueryRow]:
        return self.rows["interned_queries"][:count]

    def dns_hosts(self) -> Sequence[DnsHostRow]:
        return self.rows["dns_hosts"]

    def dns_zones(self) -> Sequence[DnsZoneRow]:
        return self.rows["dns_zones"]

    def auth_queries(self) -> Sequence[AuthQueryRow]:
        return self.rows["auth_queries"]

    def pool_scaling(self) -> Sequence[PoolScalingRow]:
        return self.rows["pool_scaling"]

    def pool_coordinators(self) -> Sequence[PoolCoordinatorRow]:
        return self.rows["pool_coordinators"]

    def startup_parameters(self) -> Sequence[StartupParameterRow]:
        return self.rows["startup_parameters"]

    def log_level(self) -> str:
        return self.level

    # --- Control ---

    def pause(self, database: str | None) -> Completion[None]:
        names = self._called("pause", database)
        if self.paused >= names:
            raise AlreadyPaused("already paused")
        self.paused |= names
        if not self.held & names:
            return Completion.finished(None)
        return self.pauses.setdefault(database, Completion())

    def resume(self, database: str | None) -> None:
        names = self._called("resume", database)
        if not self.paused & names:
            raise NotPaused("not paused")
        self.paused -= names
        waiting = self.pauses.pop(database, None)
        if waiting is not None:
            waiting.fail(NotPaused("resumed before it was over"))

    def reconnect(self, database: str | None) -> None:
        self._called("reconnect", database)

    def when_closed(self, database: str | None) -> Completion[None]:
        self._called("when_closed", database)
        if not self.held:
            return Completion.finished(None)
        self.closings.append(Completion())
        return self.closings[-1]

    def kill(self, database: str | None) -> None:
        names = self._called("kill", database)
        if self.paused >= names:
            raise AlreadyPaused("already paused")
        self.paused |= names

    def kill_client(self, client_id: int) -> None:
        self.calls.append(("kill_client", client_id))
        if client_id not in {client.id for client in self.clients()}:
            raise NoSuchClient(f"no client {client_id}")

    def disable(self, database: str) -> None:
        self._called("disable", database)

    def enable(self, database: str) -> None:
        self._called("enable", database)

    def reload(self) -> Completion[ReloadOutcome]:
        self.calls.append(("reload",))
        self.reloads.append(Completion())
        return self.reloads[-1]

    def shutdown(self, mode: ShutdownMode) -> None:
        self.calls.append(("shutdown", mode))

    def upgrade(self) -> Completion[None]:
        self.calls.append(("upgrade",))
        self.upgrades.append(Completion())
        return self.upgrades[-1]

    def set_setting(self, key: str, value: str) -> None:
        self.calls.append(("set_setting", key, value))
        if key not in self.settings:
            raise SettingRefused(f"there is no setting {key!r}")
        self.settings[key] = value

    def reset_setting(self, key: str) -> None:
        self.calls.append(("reset_setting", key))
        if key not in self.settings:
            raise SettingRefused(f"there is no setting {key!r}")

    def set_log_level(self, filter_text: str) -> None:
        self.calls.append(("set_log_level", filter_text))
        if filter_text == "garbage":
            raise SettingRefused("no such level: garbage")
        self.level = "info" if filter_text == "default" else filter_text

    def reset_interner(self) -> None:
        self.calls.append(("reset_interner",))

    def _called(self, what: str, database: str | None) -> set[str]:
        self.calls.append((what, database))
        if database in ("pgdoorman", "pgbouncer"):
            raise ConsoleDatabase(f"{database} is the console")
        if database is not None and database not in self.databases_known:
            raise NoSuchDatabase(f"no database {database}")
        return set(self.databases_known) if database is None else {database}

"""Control: what an operator may ask of the house, and the frozen rows in which it answers.

The console, the web pages and the command line see nothing of the house but this. `Overview` only looks; `Control`
also acts. A stats user is handed an `Overview`, so that no mistake in a table of commands can give it more.

Units, unless a row says otherwise: durations are seconds (float), sizes and traffic are bytes, points in time are Unix
time (float), taken as a monotonic reading plus an offset fixed at start-up so that they never flicker.

Every method may be called by any thread and none blocks: what takes time returns a `Completion`. A snapshot may be a
moment old and two snapshots need not agree; counts within one row do.
"""

import enum
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from pgdoorman.errors import PgDoormanError
from pgdoorman.stats.rows import TrafficReport

# --- waiting ----------------------------------------------------------------------------------------------------------


class Completion[T]:
    """The future end of something that was asked for: it ends once, with a result or an error, in any thread.

    Not `concurrent.futures.Future`: there a late result after a cancellation is an error of the one who brings it,
    here it is simply too late (`finish` answers False), which is the normal end of the race between PAUSE and Ctrl-C.
    """

    __slots__ = ("_callbacks", "_ended", "_error", "_result")

    def __init__(self) -> None:
        self._ended = threading.Condition()
        self._callbacks: list[Callable[[Completion[T]], object]] | None = []  # None once it has ended
        self._result: T | None = None
        self._error: BaseException | None = None

    @classmethod
    def finished(cls, result: T) -> "Completion[T]":
        """One that has already ended well."""
        completion = cls()
        completion.finish(result)
        return completion

    @classmethod
    def failed(cls, error: BaseException) -> "Completion[T]":
        """One that has already ended with an error."""
        completion = cls()
        completion.fail(error)
        return completion

    @property
    def done(self) -> bool:
        """True once it has ended, in whatever way."""
        return self._callbacks is None

    def finish(self, result: T) -> bool:
        """End it with a result. False if it had ended before: then this changes nothing."""
        return self._end(result, None)

    def fail(self, error: BaseException) -> bool:
        """End it with an error that `result` will raise. False if it had ended before."""
        return self._end(None, error)

    def cancel(self) -> bool:
        """The one who asked waits no longer. What was begun goes on; only its end will be told to nobody."""
        return self._end(None, Cancelled("canceling statement due to user request"))

    def add_done_callback(self, callback: "Callable[[Completion[T]], object]") -> None:
        """Call `callback(self)` at the end, in the thread that ends it; at once, in this thread, if it has ended.

        A callback must neither block nor raise: it posts something to an inbox.
        """
        with self._ended:
            if self._callbacks is not None:
                self._callbacks.append(callback)
                return
        callback(self)

    def result(self) -> T:
        """The result. Raises the error it ended with, or `RuntimeError` if it has not ended."""
        if not self.done:
            raise RuntimeError("not ended yet")
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # only a None that was put there can be None

    def wait_result(self, timeout: float | None = None) -> T:
        """Block until the end (for helper threads and tests, never in a worker) and give `result`.

        Raises `TimeoutError` after `timeout` seconds.
        """
        with self._ended:
            if not self._ended.wait_for(lambda: self._callbacks is None, timeout):
                raise TimeoutError
        return self.result()

    def _end(self, result: T | None, error: BaseException | None) -> bool:
        with self._ended:
            callbacks = self._callbacks
            if callbacks is None:
                return False
            self._result, self._error = result, error
            self._callbacks = None
            self._ended.notify_all()
        for callback in callbacks:  # outside the lock: a callback may look at this object
            callback(self)
        return True


# --- refusals ---------------------------------------------------------------------------------------------------------


class Refused(PgDoormanError):
    """The house will not do what was asked, in the state that it is in. The session of the asker goes on."""

    sqlstate: ClassVar[str] = "55000"
    severity: ClassVar[str] = "ERROR"


class AlreadyPaused(Refused):
    """PAUSE or KILL of what is paused."""


class NotPaused(Refused):
    """RESUME of what is not paused."""


class NoSuchDatabase(Refused):
    """A command named a database that has no pool and no entry."""

    sqlstate = "3D000"


class ConsoleDatabase(Refused):
    """A command named the console's own database."""

    sqlstate = "42809"


class NoSuchClient(Refused):
    """No client has this id, or it is gone."""

    sqlstate = "42704"


class SettingRefused(Refused):
    """SET of an unknown key, of one that needs a restart, or of a value that is not allowed."""

    sqlstate = "22023"


class NotSupported(Refused):
    """This house, or this machine, has no such thing."""

    sqlstate = "0A000"


class Cancelled(Refused):
    """A cancel request ended the wait."""

    sqlstate = "57014"


# --- the house --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which program this is. It does not change while the process lives."""

    version: str
    interpreter: str = ""
    """As in `3.13.5t`."""
    gil_enabled: bool = False
    process_id: int = 0
    listen_port: int = 6432
    started_at: float = 0.0
    workers: int = 0
    config_file: str = ""
    listening: tuple[str, ...] = ()
    """The doors, as the log names them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HouseState:
    """What the house as a whole is doing."""

    paused: bool = False
    """Every database is paused by PAUSE without a name."""
    draining: bool = False
    """A graceful stop is under way."""
    upgrading: bool = False
    """Sockets are being handed to a new process."""

    @property
    def active(self) -> bool:
        """Neither paused nor on the way out."""
        return not (self.paused or self.draining)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionCounts:
    """Connections accepted since start. What is neither tls, plain nor cancel failed before it got that far."""

    total: int = 0
    tls: int = 0
    plain: int = 0
    cancel: int = 0

    @property
    def errors(self) -> int:
        """Connections that ended before they said what they wanted."""
        return max(0, self.total - self.tls - self.plain - self.cancel)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListCounts:
    """Lengths of the house's lists (SHOW LISTS)."""

    databases: int = 0
    users: int = 0
    peers: int = 0
    pools: int = 0
    peer_pools: int = 0
    free_clients: int = 0
    """Logged-in clients that hold no backend and wait for none."""
    used_clients: int = 0
    """Clients that hold a backend or wait for one."""
    login_clients: int = 0
    free_servers: int = 0
    used_servers: int = 0
    dns_names: int = 0
    dns_zones: int = 0
    dns_queries: int = 0
    dns_pending: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackRow:
    """Where a pool's backends are while its own host is down, and what the search for such a place took."""

    host: str = ""
    """Empty while backends are opened at the pool's own host."""
    port: int = 0
    api_requests: int = 0
    api_errors: int = 0
    connections: int = 0
    cache_hits: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    """Candidates that were tried in vain, by reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRow:
    """One pool: the backends for one (database, role), and the clients that use them.

    Every client of the pool is in exactly one of the cl_ counts and every backend in exactly one of the sv_ counts.
    """

    database: str
    user: str
    pool_mode: str = "transaction"
    host: str = ""
    """As configured: a name, an address, a socket directory or a comma list."""
    port: int = 0
    server_database: str = ""
    """The database's name at the server."""
    load_balance_hosts: str | None = None
    pool_size: int = 0
    min_pool_size: int = 0
    reserve_pool_size: int = 0
    clients_idle: int = 0
    clients_active: int = 0
    clients_waiting: int = 0
    cancels_active: int = 0
    """Cancel requests being delivered."""
    cancels_waiting: int = 0
    backends_active: int = 0
    """Held by a client, also while that is idle in a transaction."""
    backends_idle: int = 0
    backends_used: int = 0
    """Idle for so long that the next checkout looks whether they still live."""
    backends_tested: int = 0
    """Being reset or looked at."""
    backends_login: int = 0
    backends_cancelling: int = 0
    """Connections that carry a cancel request."""
    backends_cancelled: int = 0
    """Idle, but held back until the cancel requests on their way to them have arrived."""
    max_wait: float = 0.0
    """How long the oldest waiter has been waiting."""
    oldest_checkout: float = 0.0
    """How long the longest lease has lasted."""
    paused: bool = False
    fallback_active: bool = False
    """Served by another host than the configured one (Patroni)."""
    fallback: FallbackRow | None = None
    """None if there is no other host to look for."""
    epoch: int = 0
    """How often RECONNECT was asked for."""
    traffic: TrafficReport = field(default_factory=TrafficReport)

    @property
    def backends(self) -> int:
        """All connections to PostgreSQL that can serve or will be able to."""
        return (
            self.backends_active
            + self.backends_idle
            + self.backends_used
            + self.backends_tested
            + self.backends_login
            + self.backends_cancelled
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRow:
    """How long things took in one pool since it exists: counts by bucket of `stats.histogram`, and sums in
    microseconds."""

    database: str
    user: str
    queries: Sequence[int] = ()
    query_time: int = 0
    transactions: Sequence[int] = ()
    transaction_time: int = 0
    waits: Sequence[int] = ()
    """Of those clients that had to wait."""
    wait_time: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolMemoryRow:
    """What one pool remembers of prepared statements."""

    database: str
    user: str
    pool_statements: int = 0
    pool_bytes: int = 0
    client_statements: int = 0
    client_bytes: int = 0
    client_named: int = 0
    client_anonymous: int = 0
    client_evictions: int = 0
    """Anonymous statements that the living clients' caches have dropped."""
    async_clients: int = 0
    """Clients that have used Flush."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientRow:
    """One connected client, console sessions among them."""

    id: int
    """The number in BackendKeyData; unique while the process lives."""
    database: str = ""
    """Empty before the StartupMessage."""
    user: str = ""
    application_name: str = ""
    state: str = "idle"
    """`active` (holds a backend), `idle`, `waiting`, `login`, `active_cancel_req`, `waiting_cancel_req`."""
    activity: str = "idle"
    """What the session is doing on its socket: `idle`, `read`, `write`."""
    pinned: str = ""
    """Why the client keeps its backend between transactions; empty if it does not."""
    address: str = ""
    """IP address as text, `unix` for a unix socket."""
    port: int = 0
    local_address: str = ""
    local_port: int = 0
    tls: str = ""
    """Protocol and cipher, as in `TLSv1.3/TLS_AES_256_GCM_SHA384`; empty without TLS."""
    replication: str = "none"
    """`none`, `logical`, `physical`."""
    process_id: int = 0
    """Of the program at the other end of a unix socket, else 0."""
    backend_id: int | None = None
    """`BackendRow.id` of the backend that it holds."""
    connected_at: float = 0.0
    age: float = 0.0
    requested_at: float | None = None
    """When the query that is being served, or was served last, came in."""
    request_age: float = 0.0
    """How long that query has been running or waiting; 0 when idle."""
    transactions: int = 0
    queries: int = 0
    errors: int = 0
    prepared_statements: int = 0
    unread_bytes: int = 0
    """Received and not yet dealt with."""
    unsent_bytes: int = 0
    """To be sent when the peer takes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendRow:
    """One connection to PostgreSQL."""

    id: int
    """Unique while the process lives; counted together with the clients' ids."""
    database: str
    user: str
    """The role it is logged in as."""
    application_name: str = ""
    state: str = "idle"
    """`active`, `idle`, `used`, `tested`, `login`, `active_cancel`, `being_canceled`; `listening`: it hears the notifications
    of all clients, and is not one of the pool's."""
    activity: str = "idle"
    """`idle`, `read`, `write`."""
    address: str = ""
    port: int = 0
    local_address: str = ""
    local_port: int = 0
    tls: str = ""
    replication: str = "none"
    process_id: int = 0
    """Of the server process, from BackendKeyData."""
    client_id: int | None = None
    connected_at: float = 0.0
    age: float = 0.0
    requested_at: float | None = None
    request_age: float = 0.0
    active_age: float = 0.0
    """How long the present lease has lasted; 0 when idle."""
    close_needed: bool = False
    """To be closed at checkin: RECONNECT, a changed setting, its age."""
    transactions: int = 0
    queries: int = 0
    errors: int = 0
    bytes_sent: int = 0
    """To the server."""
    bytes_received: int = 0
    """From the server."""
    prepared_hits: int = 0
    prepared_misses: int = 0
    prepared_statements: int = 0
    """How many the connection knows at present."""
    unread_bytes: int = 0
    unsent_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseRow:
    """One database as clients name it. A limit of 0 means none."""

    name: str
    host: str | None = None
    port: int = 5432
    database: str = ""
    """Its name at the server."""
    force_user: str | None = None
    """The role that every client of it becomes, if one is set."""
    pool_size: int = 0
    min_pool_size: int = 0
    reserve_pool_size: int = 0
    server_lifetime: float = 0.0
    pool_mode: str | None = None
    """None if it is the general one."""
    load_balance_hosts: str | None = None
    max_connections: int = 0
    current_connections: int = 0
    max_client_connections: int = 0
    current_client_connections: int = 0
    paused: bool = False
    disabled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class UserRow:
    """One user that is configured, or has logged in by way of auth_query. A limit of 0 means none."""

    name: str
    database: str = ""
    """The pool it belongs to, where users are configured per database."""
    pool_size: int | None = None
    reserve_pool_size: int | None = None
    pool_mode: str | None = None
    max_connections: int = 0
    current_connections: int = 0
    max_client_connections: int = 0
    current_client_connections: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigRow:
    """One setting. `secret` rows carry no value at all: the house never hands one out."""

    key: str
    value: str | None
    default: str | None = None
    changeable: bool = True
    """True if a reload or SET is enough, False if it takes a restart."""
    secret: bool = False
    doc: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRow:
    """One thing that memory is used for, in bytes."""

    name: str
    size: int = 0
    """Of one item; 0 where items differ."""
    used: int = 0
    """Items in use."""
    free: int = 0
    """Items kept for reuse."""
    total: int = 0
    """Bytes of all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRow:
    """One statement in a pool's shared cache."""

    database: str
    user: str
    hash: int
    name: str
    query: str
    uses: int = 0
    kind: str = "named"
    """`named`, `anonymous`, `mixed`: how clients prepare it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InternerRow:
    """One of the two halves of the shared query texts."""

    kind: str
    entries: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class InternedQueryRow:
    """One shared query text."""

    hash: int
    kind: str
    bytes: int
    query: str
    idle: float | None = None
    """Seconds since it was last used; None for one that is referenced by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsHostRow:
    """One resolved host name."""

    name: str
    ttl: float = 0.0
    addresses: tuple[str, ...] = ()
    """`address:port`, brackets around IPv6."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsZoneRow:
    """One watched zone."""

    name: str
    serial: int = 0
    hosts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthQueryRow:
    """How looking up secrets goes, for one database."""

    database: str
    cache_entries: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    cache_refetches: int = 0
    cache_rate_limited: int = 0
    successes: int = 0
    failures: int = 0
    queries: int = 0
    query_errors: int = 0
    pools_current: int = 0
    pools_created: int = 0
    pools_destroyed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolScalingRow:
    """How one pool grows."""

    database: str
    user: str
    openings: int = 0
    """Under way."""
    opened: int = 0
    """Begun since the pool exists."""
    gate_waits: int = 0
    gate_budget_exhausted: int = 0
    anticipation_granted: int = 0
    anticipation_timeouts: int = 0
    fallbacks: int = 0
    replenish_deferred: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolCoordinatorRow:
    """How the users of one database share its max_db_connections."""

    database: str
    max_connections: int = 0
    current: int = 0
    reserve_size: int = 0
    reserve_used: int = 0
    evictions: int = 0
    reserve_acquisitions: int = 0
    exhaustions: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StartupParameterRow:
    """One parameter that the operator sends in every StartupMessage of a pool."""

    database: str
    user: str
    parameter: str
    value: str
    source: str
    """`general`, `pool`, `auth_query`."""
    state: str = "applied"
    """`applied`, `dropped_due_to_budget`, `stale`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadOutcome:
    """What a reload did. It only exists if the new file was good: a bad one is a `ConfigError` and changes nothing."""

    changed: tuple[str, ...] = ()
    """Keys or pools that are different now."""
    restart_needed: tuple[str, ...] = ()
    """Keys that differ in the file and go on with their old value until a restart."""
    warnings: tuple[str, ...] = ()


class ShutdownMode(enum.Enum):
    """How the house goes down."""

    AT_ONCE = "at once"
    """Sockets are closed."""
    GRACEFUL = "graceful"
    """New work is refused, transactions finish, for shutdown_timeout at most."""
    WAIT_FOR_SERVERS = "wait for servers"
    """PAUSE, transactions finish, then the end; no time limit."""
    WAIT_FOR_CLIENTS = "wait for clients"
    """Nobody new comes in; the end is when the last client has left."""


class Overview(Protocol):
    """What may be looked at. Rows come in no particular order."""

    def identity(self) -> Identity: ...
    def state(self) -> HouseState: ...
    def pools(self) -> Sequence[PoolRow]: ...
    def latencies(self) -> Sequence[LatencyRow]: ...
    def pool_memory(self) -> Sequence[PoolMemoryRow]: ...
    def clients(self) -> Sequence[ClientRow]: ...
    def backends(self) -> Sequence[BackendRow]: ...
    def databases(self) -> Sequence[DatabaseRow]: ...
    def users(self) -> Sequence[UserRow]: ...
    def lists(self) -> ListCounts: ...
    def config_rows(self) -> Sequence[ConfigRow]: ...
    def connections(self) -> ConnectionCounts: ...
    def memory(self) -> Sequence[MemoryRow]: ...

    def socket_counts(self) -> Mapping[str, int]:
        """How many sockets of this process are in which state: `tcp_` and `tcp6_` with the kernel's state names
        (`tcp_established` ... `tcp_bound_inactive`), `unix_free`, `unix_unconnected`, `unix_connecting`,
        `unix_connected`, `unix_disconnecting`, `unix_dgram`, `unix_seq_packet`, `unknown`; what is left out is 0.

        Raises `NotSupported` where the system does not tell. Reads /proc: may take tens of milliseconds.
        """

    def prepared_statements(self) -> Sequence[PreparedRow]: ...
    def interner(self) -> Sequence[InternerRow]: ...

    def interned_queries(self, count: int) -> Sequence[InternedQueryRow]:
        """The `count` largest texts."""

    def dns_hosts(self) -> Sequence[DnsHostRow]: ...
    def dns_zones(self) -> Sequence[DnsZoneRow]: ...
    def auth_queries(self) -> Sequence[AuthQueryRow]: ...
    def pool_scaling(self) -> Sequence[PoolScalingRow]: ...
    def pool_coordinators(self) -> Sequence[PoolCoordinatorRow]: ...
    def startup_parameters(self) -> Sequence[StartupParameterRow]: ...

    def log_level(self) -> str:
        """The filter in force, as `set_log_level` takes it."""


class Control(Overview, Protocol):
    """What may be asked for. `database` None means all of them.

    Where a database is named, all raise `NoSuchDatabase`, and `ConsoleDatabase` for the console's own.
    """

    def pause(self, database: str | None) -> Completion[None]:
        """No backend is given out any more; ends when none is held. The pause is in force when this returns.

        Raises `AlreadyPaused`; what is paused stays so. A RESUME before the end fails the completion with `NotPaused`.
        """

    def resume(self, database: str | None) -> None:
        """End a pause; waiters are served at once. Without a name also what PAUSE or KILL of one database did.

        Raises `NotPaused`, and `Refused` while the house goes down.
        """

    def reconnect(self, database: str | None) -> None:
        """Every backend that exists now is closed as soon as nobody holds it."""

    def when_closed(self, database: str | None) -> Completion[None]:
        """Ends when no backend is left that is to be closed."""

    def kill(self, database: str | None) -> None:
        """Pause it, tell its clients FATAL, close them and their backends. Raises `AlreadyPaused`."""

    def kill_client(self, client_id: int) -> None:
        """Tell one client FATAL and close it, and its backend if that is busy. Raises `NoSuchClient`."""

    def disable(self, database: str) -> None:
        """New logins are refused; who is in stays in. Idempotent."""

    def enable(self, database: str) -> None:
        """Undo `disable`. Idempotent."""

    def reload(self) -> Completion[ReloadOutcome]:
        """Read the settings again and apply what changed. Ends with `ConfigError` if they are bad: nothing changed."""

    def shutdown(self, mode: ShutdownMode) -> None:
        """Begin to go down. Asking again for something faster is allowed; for something slower changes nothing."""

    def upgrade(self) -> Completion[None]:
        """Start a new process and hand the sockets over; ends when the new one has said that it is ready."""

    def set_setting(self, key: str, value: str) -> None:
        """Change one setting until the next reload. Raises `SettingRefused`."""

    def reset_setting(self, key: str) -> None:
        """Go back to what the file says. Raises `SettingRefused`."""

    def set_log_level(self, filter_text: str) -> None:
        """`info`, or `info,pool=debug`, or `default`. Raises `SettingRefused`."""

    def reset_interner(self) -> None:
        """Forget the shared query texts that nobody refers to."""

"""Clients, backends and sockets: the rows behind SHOW CLIENTS, SERVERS, SOCKETS and CONNECTIONS."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pgdoorman.admin.listing import Field, Table, int4, local_time, microseconds, numeric, text
from pgdoorman.admin.plans import Asker
from pgdoorman.control import BackendRow, ClientRow, ConnectionCounts
from pgdoorman.protocol.results import NUMERIC, Column, Value
from pgdoorman.transport.socket_states import COUNTS

# --- connections ----------------------------------------------------------------------------------------------------


def _clients(asker: Asker) -> list[ClientRow]:
    return sorted(asker.overview.clients(), key=lambda client: client.id)


def _backends(asker: Asker) -> list[BackendRow]:
    return sorted(asker.overview.backends(), key=lambda backend: backend.id)


CLIENTS_PGDOORMAN: Final = Table[ClientRow](
    _clients,
    (
        text("client_id", lambda client: f"#c{client.id}"),
        text("database", lambda client: client.database),
        text("user", lambda client: client.user),
        text("application_name", lambda client: client.application_name),
        text("addr", lambda client: client.address),
        text("tls", lambda client: str(bool(client.tls)).lower()),
        text("state", lambda client: client.state),
        text("wait", lambda client: client.activity),
        numeric("transaction_count", lambda client: client.transactions),
        numeric("query_count", lambda client: client.queries),
        numeric("error_count", lambda client: client.errors),
        numeric("age_seconds", lambda client: int(client.age)),
        text("pinned", lambda client: client.pinned),
    ),
)

SERVERS_PGDOORMAN: Final = Table[BackendRow](
    _backends,
    (
        text("server_id", lambda backend: f"0x{backend.id:08X}"),
        text("server_process_id", lambda backend: backend.process_id),
        text("database_name", lambda backend: backend.database),
        text("user", lambda backend: backend.user),
        text("application_name", lambda backend: backend.application_name),
        text("tls", lambda backend: str(bool(backend.tls)).lower()),
        text("state", lambda backend: "idle" if backend.state == "used" else backend.state),
        text("wait", lambda backend: backend.activity),
        numeric("transaction_count", lambda backend: backend.transactions),
        numeric("query_count", lambda backend: backend.queries),
        numeric("bytes_sent", lambda backend: backend.bytes_sent),
        numeric("bytes_received", lambda backend: backend.bytes_received),
        numeric("age_seconds", lambda backend: int(backend.age)),
        numeric("prepare_cache_hit", lambda backend: backend.prepared_hits),
        numeric("prepare_cache_miss", lambda backend: backend.prepared_misses),
        numeric("prepare_cache_size", lambda backend: backend.prepared_statements),
    ),
)


@dataclass(frozen=True, slots=True)
class _Socket:
    """A client or a backend as PgBouncer lists both."""

    kind: str
    row: ClientRow | BackendRow
    state: str
    link: int | None
    close_needed: bool = False


_SOCKET_FIELDS: Final[tuple[Field[_Socket], ...]] = (
    text("type", lambda socket: socket.kind),
    text("user", lambda socket: socket.row.user or "(nouser)"),
    text("database", lambda socket: socket.row.database or "(nodb)"),
    text("replication", lambda socket: socket.row.replication),
    text("state", lambda socket: socket.state),
    text("addr", lambda socket: socket.row.address),
    int4("port", lambda socket: socket.row.port),
    text("local_addr", lambda socket: socket.row.local_address),
    int4("local_port", lambda socket: socket.row.local_port),
    text("connect_time", lambda socket: local_time(socket.row.connected_at)),
    text("request_time", lambda socket: local_time(socket.row.requested_at or socket.row.connected_at)),
    int4("wait", lambda socket: int(socket.row.request_age)),
    int4("wait_us", lambda socket: microseconds(socket.row.request_age) % 1_000_000),
    int4("close_needed", lambda socket: int(socket.close_needed)),
    text("ptr", lambda socket: f"{socket.row.id:#x}"),
    text("link", lambda socket: "" if socket.link is None else f"{socket.link:#x}"),
    int4("remote_pid", lambda socket: socket.row.process_id),
    text("tls", lambda socket: socket.row.tls),
    text("application_name", lambda socket: socket.row.application_name),
    int4("prepared_statements", lambda socket: socket.row.prepared_statements),
    int4("id", lambda socket: socket.row.id),
)

# What stands in a buffer: received and not dealt with, or waiting to be sent. A position inside the buffer, as
# PgBouncer has it, means nothing here and is 0.
_BUFFER_FIELDS: Final[tuple[Field[_Socket], ...]] = (
    int4("recv_pos", lambda _socket: 0),
    int4("pkt_pos", lambda _socket: 0),
    int4("pkt_remain", lambda _socket: 0),
    int4("send_pos", lambda _socket: 0),
    int4("send_remain", lambda socket: socket.row.unsent_bytes),
    int4("pkt_avail", lambda socket: socket.row.unread_bytes),
    int4("send_avail", lambda socket: socket.row.unsent_bytes),
)


def _client_sockets(asker: Asker) -> list[_Socket]:
    # PgBouncer lists a client only once it has logged in.
    return [
        _Socket("C", client, client.state, client.backend_id) for client in _clients(asker) if client.state != "login"
    ]


def _backend_sockets(asker: Asker) -> list[_Socket]:
    return [
        _Socket(
            "S", backend, "new" if backend.state == "login" else backend.state, backend.client_id, backend.close_needed
        )
        for backend in _backends(asker)
    ]


_SOCKET_STATES: Final = {"idle": "cl_active", "active": "cl_active", "waiting": "cl_waiting", "login": "cl_login"}


def _all_sockets(asker: Asker) -> list[_Socket]:
    clients = [
        _Socket("C", client, _SOCKET_STATES[client.state], client.backend_id)
        for client in _clients(asker)
        if client.state in _SOCKET_STATES
    ]
    backends = [
        _Socket("S", backend, f"sv_{backend.state}", backend.client_id, backend.close_needed)
        for backend in _backends(asker)
        if backend.state in ("active", "idle", "used", "tested", "login")
    ]
    return clients + backends


def _busy_sockets(asker: Asker) -> list[_Socket]:
    return [socket for socket in _all_sockets(asker) if socket.row.unread_bytes or socket.row.unsent_bytes]


CLIENTS_PGBOUNCER: Final = Table(_client_sockets, _SOCKET_FIELDS)
SERVERS_PGBOUNCER: Final = Table(_backend_sockets, _SOCKET_FIELDS)
SOCKETS_PGBOUNCER: Final = Table(_all_sockets, _SOCKET_FIELDS + _BUFFER_FIELDS)
ACTIVE_SOCKETS: Final = Table(_busy_sockets, _SOCKET_FIELDS + _BUFFER_FIELDS)


@dataclass(frozen=True, slots=True)
class _SocketCounts:
    """One row: how many sockets are in which state."""

    @property
    def columns(self) -> Sequence[Column]:
        return [Column(name, NUMERIC) for name in COUNTS]

    def rows(self, asker: Asker) -> Sequence[Sequence[Value]]:
        counts = asker.overview.socket_counts()
        return [[counts.get(name, 0) for name in COUNTS]]


SOCKETS_PGDOORMAN: Final = _SocketCounts()

CONNECTIONS: Final = Table[ConnectionCounts](
    lambda asker: [asker.overview.connections()],
    (
        numeric("total", lambda counts: counts.total),
        numeric("errors", lambda counts: counts.errors),
        numeric("tls", lambda counts: counts.tls),
        numeric("plain", lambda counts: counts.plain),
        numeric("cancel", lambda counts: counts.cancel),
    ),
)

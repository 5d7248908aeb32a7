"""A backend: one connection to a PostgreSQL server process, and what is known of it.

It belongs to one thread at a time. While idle it is watched by its home worker's poller; whoever leases it becomes its
`holder` and is called for its events. It moves between workers only through the pool's ledger.
"""

from collections.abc import Callable
from itertools import count
from time import monotonic
from typing import Any, Final, Protocol

from pgdoorman.backend.settings import DEFAULTS, Reported, SessionSettings
from pgdoorman.constants import bind_constants
from pgdoorman.prepared.backend_names import BackendNames
from pgdoorman.protocol import codes
from pgdoorman.protocol.exchange import Exchange
from pgdoorman.runtime.poller import READ, WRITE
from pgdoorman.runtime.worker import Worker
from pgdoorman.transport.connect import Address
from pgdoorman.transport.sockets import DONT_WAIT, close_quietly, send_kept

UNKNOWN: Final = object()

_TERMINATE = b"X\0\0\0\4"


class Holder(Protocol):
    """Who has a backend: a client's session, an inquiry of ours, the care after a lost client."""

    def on_backend_readable(self, backend: "Backend") -> None:
        """The backend has something to say, and that is all."""

    def on_backend_event(self, backend: "Backend", events: int) -> None:
        """The backend's socket is ready for something else, or has hung up."""

    def on_backend_crash(self, backend: "Backend", error: Exception) -> None:
        """Handling an event of the backend failed unexpectedly."""

    def on_notification(self, backend: "Backend", message: bytes) -> None:
        """A NotificationResponse came while somebody else was listening on the holder's behalf."""


class Stream(Protocol):
    """A socket or something that speaks like one (TLS)."""

    def recv(self, size: int, flags: int = 0, /) -> bytes: ...
    def send(self, data: bytes, flags: int = 0, /) -> int: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...


class Backend:
    """One connection to PostgreSQL.

    `tail` holds received bytes of a message that is not yet whole, `need` how many bytes of a large message are still to
    come and to be passed on unseen, `out` what the server has not taken yet.
    """

    __slots__ = (
        "address",
        "attention",
        "bytes_in",
        "bytes_out",
        "cancel_secret",
        "cancels_under_way",
        "close_wanted",
        "connector",
        "entries",
        "epoch",
        "errors",
        "exchange",
        "expires_at",
        "fd",
        "holder",
        "home",
        "id",
        "idle_since",
        "leased_at",
        "loaded",
        "names",
        "need",
        "on_close",
        "on_idle_event",
        "opened_at",
        "out",
        "place",
        "pool",
        "process_id",
        "queries",
        "recv",
        "reported",
        "role",
        "said_fatal",
        "send",
        "sequences_of",
        "settings",
        "singles",
        "sock",
        "status",
        "tail",
        "tls",
        "transactions",
        "unnamed",
        "worker",
    )

    def __init__(
        self,
        sock: Any,
        address: Address,
        *,
        role: str,
        process_id: int,
        cancel_secret: bytes,
        reported: Reported,
        number: int,
        tls: str = "",
        connector: Any = None,
    ) -> None:
        self.sock = sock
        self.fd: int = sock.fileno()
        # Bound methods kept on the object: one attribute load less per system call.
        self.recv: Callable[[int, int], bytes] = sock.recv
        self.send: Callable[[Any, int], int] = sock.send
        self.address = address
        self.role = role
        self.process_id = process_id
        self.cancel_secret = cancel_secret
        self.reported = reported
        self.id = number
        self.tls = tls
        self.connector = connector  # how its TLS was asked for: a cancel request goes the same way
        self.worker: Worker | None = None
        self.holder: Holder | None = None
        self.on_idle_event: Callable[[Backend, Worker], None] | None = None
        self.on_close: Callable[[], None] | None = None  # told once, by whichever thread closes it
        self.pool: Any = None
        self.exchange = Exchange()
        self.entries = self.exchange.entries  # the same, one attribute load nearer
        self.status = codes.IDLE
        self.settings: SessionSettings = DEFAULTS
        self.names = BackendNames()
        self.tail = b""
        self.need = 0
        self.out = bytearray()
        # The ledger's fields.
        self.place = 0
        self.attention = False  # something has to be done before the next client is served
        self.home = 0
        self.epoch = 0
        self.idle_since = 0.0
        self.expires_at = float("inf")
        # Numbers.
        self.opened_at = monotonic()
        self.leased_at = 0.0
        self.singles = 0  # transactions of one query; the others are counted apart
        self.transactions = 0
        self.queries = 0
        self.errors = 0
        self.bytes_in = 0
        self.bytes_out = 0
        # Cancel requests that are being delivered to it: until they have arrived it is nobody else's.
        self.cancels_under_way = 0
        self.close_wanted = False
        self.loaded: set[str] = set()  # by clients, as LOAD statements: nothing unloads a library
        self.said_fatal = False  # the server has announced that it will close the connection
        self.sequences_of = 0  # the lease whose sequence values (currval, lastval) it may remember
        # What is in the server's own unnamed slot: None is nothing, UNKNOWN could be anything.
        self.unnamed: object = None

    def __repr__(self) -> str:
        return f"<Backend {self.id} pid {self.process_id} at {self.address}>"

    # Where it is watched.

    def move_to(self, worker: Worker) -> None:
        """Be watched by `worker`. The caller owns the backend (the ledger says so) and runs on that worker's thread.

        An event that the old worker has collected but not yet handled will find that it is neither holder's nor idle
        there, and leave it alone.
        """
        present = self.worker
        if present is worker:
            return
        if present is not None:
            present.poller.unwatch(self.fd)
        self.worker = worker
        worker.poller.watch(self.fd, self.on_event)

    def on_event(self, worker: Worker, events: int) -> None:
        """The poller's handler."""
        holder = self.holder
        if holder is not None and self.worker is worker:
            if events == READ:
                holder.on_backend_readable(self)
            else:
                holder.on_backend_event(self, events)
            return
        on_idle_event = self.on_idle_event  # once: the janitor may close the backend, and forget it, meanwhile
        if on_idle_event is not None:
            on_idle_event(self, worker)

    def on_crash(self, error: Exception) -> None:
        """The worker's guard: something went wrong in a handler of this backend."""
        holder = self.holder
        if holder is not None:
            holder.on_backend_crash(self, error)

    # Speaking.

    def push(self, data: bytes | bytearray | memoryview) -> None:
        """Send, or keep what the server does not take now. A connection that is lost shows when it is read: the server
        may have said why."""
        self.bytes_out += len(data)
        out = self.out
        if out:
            out += data
            return
        try:
            sent = self.send(data, DONT_WAIT)
        except BlockingIOError:
            sent = 0
        except OSError:
            return
        if sent < len(data):
            out += memoryview(data)[sent:]
            if self.worker is not None:
                self.worker.poller.change(self.fd, READ | WRITE)

    def flush(self) -> bool:
        """Send more of what was kept. True when nothing is left."""
        if not send_kept(self.send, self.out):
            return False
        # A bytearray that once held megabytes keeps them: a new one does not.
        self.out = bytearray()
        if self.worker is not None:
            self.worker.poller.change(self.fd, READ)
        return True

    def close(self, *, polite: bool = True) -> None:
        """End the connection. From the owner's thread; the ledger has forgotten it."""
        if self.sock is None:
            return
        if self.worker is not None:
            self.worker.poller.unwatch(self.fd)
        if polite and not self.out:
            try:
                self.send(_TERMINATE, DONT_WAIT)
            except OSError:
                pass
        close_quietly(self.sock)
        self.sock = None
        self.holder = None
        self.on_idle_event = None
        self.exchange.clear()
        on_close, self.on_close = self.on_close, None
        if on_close is not None:
            on_close()

    @property
    def is_open(self) -> bool:
        return self.sock is not None

    @property
    def is_clean(self) -> bool:
        """Whether it may be given back: nothing asked, nothing half sent or received, no transaction."""
        return (
            not self.exchange.entries
            and not self.exchange.skipping
            and self.status == codes.IDLE
            and not self.tail
            and not self.need
            and not self.out
        )


_numbers = count(1)


def next_number() -> int:
    """The next id of a client or backend; unique while the process lives."""
    return next(_numbers)


bind_constants(__name__)

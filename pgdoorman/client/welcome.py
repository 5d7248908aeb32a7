"""From a proved identity to a session: on its serving worker.

A client is told what its backend reports (ParameterStatus), exactly. Usually that is known from earlier backends and
logins, and the greeting goes out at once. Otherwise, at a pool's first contact or for settings that no backend has taken
yet, a backend is borrowed: the client's settings are tried on it, and what the server says about them is the client's
answer, be it a refusal.
"""

from collections.abc import Callable
from functools import lru_cache
from time import monotonic
from typing import Any

from pgdoorman.backend.connection import Backend, next_number
from pgdoorman.backend.inquiry import Inquiry, Rows
from pgdoorman.backend.settings import DEFAULTS, NOT_CARRIED, Reported, SessionSettings, move_sql, settings_of
from pgdoorman.client.closing import error_message
from pgdoorman.client.lingering import close_gently
from pgdoorman.client.login import Arrived
from pgdoorman.client.services import Services
from pgdoorman.client.session import Session
from pgdoorman.config.settings import PoolMode
from pgdoorman.errors import BackendUnavailable, PgDoormanError
from pgdoorman.pool.pool import Pool
from pgdoorman.protocol import authentication as wire
from pgdoorman.protocol import codes
from pgdoorman.protocol.results import backend_key_data, parameter_status, ready_for_query
from pgdoorman.protocol.startup import StartupMessage
from pgdoorman.runtime.poller import NOTHING, READ
from pgdoorman.runtime.worker import Worker
from pgdoorman.transport.sockets import DONT_WAIT, close_quietly

_OK = wire.ok()
_READY = ready_for_query()

# Parameters that a client may send but that are not its own to choose here.
# Not settings; and those that nothing can reset: a backend that had one would be refused by every other client.
_NEVER = frozenset({"is_superuser", "server_version", "server_encoding", "integer_datetimes"}) | NOT_CARRIED


class Welcome:
    """One client on its way into a pool; also a waiter of that pool."""

    __slots__ = (
        "_arrived",
        "_backend",
        "_over",
        "_pool",
        "_services",
        "_session",
        "_settled",
        "_told",
        "_wanted",
        "_watched",
        "in_line",
        "waiting_since",
        "worker",
        "worker_index",
    )

    def __init__(
        self, arrived: Arrived, pool: Pool, services: Services, worker: Worker, settled: Callable[[Any], Any]
    ) -> None:
        self._arrived = arrived
        self._pool = pool
        self._services = services
        self._settled = settled  # told once: with the session, or None if there will be none
        self._backend: Backend | None = None
        self._wanted = _settings_of(arrived, pool)
        self._told: Reported | None = None
        self._session: Session | None = None
        self._over = False
        self._watched = False
        self.worker = worker
        self.worker_index = worker.index
        self.waiting_since = 0.0
        self.in_line = False

    def __repr__(self) -> str:
        return f"<Welcome of {self._arrived.peer} to {self._pool!r}>"

    def begin(self) -> None:
        """On the serving worker's thread."""
        pool = self._pool
        pool.learn(self._arrived.identity)
        told = self._told = pool.told_for(self._wanted)
        if told is not None and not (self._keeps and pool.ledger.has_room()):
            self._greet(told)
            return
        # Not read meanwhile (there is nothing to say yet), but a client that hangs up is noticed.
        self.worker.watch(self._arrived.sock.fileno(), self._on_event, NOTHING)
        self._watched = True
        backend, errands = pool.ledger.checkout(self, self.worker_index, monotonic())
        if backend is not None:
            self.granted(backend)
        elif errands is not None:
            pool.run(errands, self.worker)

    def _on_event(self, worker: Worker, events: int) -> None:
        self._close()

    def on_crash(self, error: Exception) -> None:
        """The worker's guard. A session that was counted and listed already ends like any other."""
        if self._session is not None:
            self._session.on_crash(error)
        self._close()

    def move_to(self, worker: Worker) -> bool:
        """A welcome is rare: it stays where it is."""
        return False

    def granted(self, backend: Backend) -> None:
        """A backend to learn from."""
        if backend.worker is not self.worker:
            backend.move_to(self.worker)
        if self._over:
            self._pool.checkin(backend, self.worker)
            return
        backend.holder = self
        self._backend = backend
        wanted = self._wanted
        if backend.settings is wanted and not (self._keeps and backend.attention):
            self._learnt(backend, [], None)
            return
        timeout = max(5.0, self._pool.settings.connect_timeout)
        Inquiry(backend, move_sql(backend.settings, wanted) or ";", timeout, self._learnt)

    def refused(self, reason: PgDoormanError) -> None:
        """There is no backend: the client is told why, or goes without one until its first query."""
        if self._over:
            return
        if self._told is not None:
            self._greet(self._told)
        else:
            self._refuse(reason)

    def on_backend_readable(self, backend: Backend) -> None:
        """The same, when there is only something to read."""
        self.on_backend_event(backend, READ)

    def on_backend_event(self, backend: Backend, events: int) -> None:
        """Holding one without a question under way happens only between two calls: nothing is expected."""

    def on_notification(self, backend: Backend, message: bytes) -> None:
        """Nobody listens yet."""

    def on_backend_crash(self, backend: Backend, error: Exception) -> None:
        self._learnt(backend, [], BackendUnavailable("internal error"))

    def _learnt(self, backend: Backend, rows: Rows, error: PgDoormanError | None) -> None:
        pool = self._pool
        self._backend = None
        backend.holder = None
        if isinstance(error, BackendUnavailable):
            pool.discard(backend, self.worker)
            self.refused(error)
            return
        if error is not None:
            if backend.settings.by_name.keys() - self._wanted.by_name.keys():
                pool.discard(backend, self.worker)  # if it cannot be rid of them, the next client must not meet it
            else:
                pool.checkin(backend, self.worker)
            self._refuse(error)
            return
        backend.settings = self._wanted
        if self._wanted is not DEFAULTS:
            pool.prove(self._wanted, backend.reported)
        if self._keeps and not self._over:
            self._greet(backend.reported, backend)
            return
        reported = backend.reported
        pool.checkin(backend, self.worker)
        if not self._over:
            self._greet(reported)

    @property
    def _keeps(self) -> bool:
        """Whether a client of this pool keeps its backend until it leaves: then it has it from now on, and is told its
        process id."""
        return self._pool.settings.pool_mode is PoolMode.SESSION

    def _greet(self, told: Reported, backend: Backend | None = None) -> None:
        arrived = self._arrived
        self._over = True
        if self._watched:
            self.worker.unwatch(arrived.sock.fileno())
        pool = self._pool
        settings = pool.settings
        session = Session(
            next_number(),
            arrived.sock,
            arrived.peer,
            pool,
            self._services,
            told=told,
            settings=self._wanted,
            version=arrived.version,
            application_name=arrived.message.last("application_name"),
            tls=arrived.tls,
        )
        # Before anybody can find it: a reload, the janitor or the console may want something of it from then on.
        session.worker = self.worker
        length = 4 if arrived.version < codes.PROTOCOL_3_2 else 32
        key = self._services.cancel_keys.issue(session, length, 0 if backend is None else backend.process_id)
        session.cancel_key = key
        parts = [_OK, told.messages]
        if pool.settings.pooler_parameters:
            parts += [parameter_status(name, value) for name, value in pool.pooler_parameters().items()]
        parts += [backend_key_data(key.process_id, key.secret), _READY]
        pool.counters[self.worker_index].logins += 1
        self._settled(session)
        self._session = session
        session.begin_serving(self.worker, b"".join(parts), arrived.rest, backend)
        if pool.removed or pool.settings is not settings:
            # A reload came in between, and may have asked everybody to follow while this one was not yet among them.
            self.worker.post(session.follow)
        self._session = None

    def _refuse(self, reason: PgDoormanError) -> None:
        try:
            self._arrived.sock.send(error_message(reason, "FATAL"), DONT_WAIT)
        except OSError:
            pass
        self._close(gently=True)

    def _close(self, *, gently: bool = False) -> None:
        if self._over:
            return
        self._over = True
        self._pool.ledger.abandon(self)
        self.worker.unwatch(self._arrived.sock.fileno())
        if gently:
            close_gently(self._arrived.sock, self.worker)
        else:
            close_quietly(self._arrived.sock)
        self._settled(None)


def _settings_of(arrived: Arrived, pool: Pool) -> SessionSettings:
    """What the client's start-up packet sets, less what the operator has set for the whole pool."""
    settings = pool.settings
    return _carried(arrived.message, settings.startup_parameters) if settings.sync_server_parameters else DEFAULTS


@lru_cache(maxsize=128)  # as for the packets themselves
def _carried(message: StartupMessage, managed_by_pool: tuple[tuple[str, str], ...]) -> SessionSettings:
    managed = {name.lower() for name, _ in managed_by_pool} - {"application_name"}
    own = {
        name: value
        for name, value in message.settings().items()
        if name.lower() not in managed and name.lower() not in _NEVER and not name.startswith("_pq_.")
    }
    return settings_of(own)

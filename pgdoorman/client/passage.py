"""A replication client and the walsender that it has for itself.

A connection with `replication` in its start-up packet speaks to another kind of server process, which nobody else could
take over from it. So it gets a connection of its own, opened for it and closed with it, outside the pool; and since
nothing of it ever has to be shared, nothing of it is understood either: bytes pass both ways as they come.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Any, Final

from pgdoorman.backend.connection import Backend, next_number
from pgdoorman.backend.startup import wait_opened
from pgdoorman.client.cancel_keys import CancelKey
from pgdoorman.client.cancelling import deliver
from pgdoorman.client.closing import error_message
from pgdoorman.client.login import Arrived
from pgdoorman.client.services import Services
from pgdoorman.config.settings import UserPoolSettings
from pgdoorman.errors import BackendUnavailable, PgDoormanError, ShuttingDown
from pgdoorman.pool.pool import Pool
from pgdoorman.protocol import authentication as wire
from pgdoorman.protocol import codes
from pgdoorman.protocol.results import backend_key_data, parameter_status, ready_for_query
from pgdoorman.protocol.startup import Replication
from pgdoorman.runtime.poller import NOTHING, READ, WRITE
from pgdoorman.runtime.worker import Worker
from pgdoorman.transport.sockets import DONT_WAIT, close_quietly

READ_SIZE: Final = 65536

# Of the start-up packet: what is ours to say to the server.
_OURS: Final = frozenset({"user", "database"})


class Passage:
    """One replication client, on its worker's thread."""

    def __init__(
        self, arrived: Arrived, pool: Pool, services: Services, worker: Worker, ended: Callable[["Passage"], Any]
    ) -> None:
        self.id = next_number()
        self.arrived = arrived
        self.sock = arrived.sock
        self.fd: int = arrived.sock.fileno()
        self.address = arrived.peer
        self.pool = pool
        self.worker = worker
        self.backend: Backend | None = None
        self.kind: Replication = arrived.message.replication
        self.connected_at = monotonic()
        self.out = bytearray()  # for the client, which has not taken it yet
        self.cancel_key: CancelKey | None = None
        self._services = services
        self._ended = ended
        self._over = False
        self._last = False  # the server has closed: what is in `out` is all

    def __repr__(self) -> str:
        return f"<Passage #c{self.id} {self.pool.user}@{self.pool.database} {self.address}>"

    # Opening.

    def begin(self) -> None:
        """On the worker's thread."""
        self.pool.learn(self.arrived.identity)
        self.worker.watch(self.fd, self.on_event, NOTHING)
        if not self._services.helpers.submit(self._wait_open):
            self.expel(ShuttingDown("pooler is shut down now"))

    def _wait_open(self) -> None:
        """On a helper's thread."""
        backend: Backend | None = None
        reason: PgDoormanError = BackendUnavailable("could not open a connection to the server")
        try:
            plan = self.pool.opening_plan()
            own = {name: value for name, value in self.arrived.message.parameters if _is_for_server(name)}
            backend = wait_opened(replace(plan, parameters=list({**dict(plan.parameters), **own}.items())))
        except PgDoormanError as error:
            reason = error
        finally:
            if not self.worker.post(partial(self._opened, backend, reason)) and backend is not None:
                backend.close()

    def _opened(self, backend: Backend | None, reason: PgDoormanError) -> None:
        if backend is None:
            self.expel(reason)
            return
        if self._over:
            backend.close()
            return
        backend.pool = self.pool
        backend.holder = self
        self.backend = backend
        backend.move_to(self.worker)
        backend.leased_at = monotonic()
        key = self.cancel_key = self._services.cancel_keys.issue(
            self, 4 if self.arrived.version < codes.PROTOCOL_3_2 else 32, backend.process_id
        )
        parts = [wire.ok()]
        parts += [parameter_status(name, value) for name, value in backend.reported.by_name.items()]
        parts += [backend_key_data(key.process_id, key.secret), ready_for_query()]
        self._tell(b"".join(parts))
        if self.arrived.rest:
            backend.push(self.arrived.rest)
        self._watch()

    # Passing.

    def on_event(self, worker: Worker, events: int) -> None:
        """The poller's handler for the client's socket."""
        backend = self.backend
        if backend is None:
            self._close()  # it hung up while its connection was being opened
            return
        if events & WRITE and self.out:
            self._flush()
        if not events & READ:
            if events & ~WRITE:
                self._close()
            return
        try:
            data = self.sock.recv(READ_SIZE, DONT_WAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close()
            return
        backend.push(data)
        if backend.out:
            self._watch()

    def on_backend_readable(self, backend: Backend) -> None:
        self.on_backend_event(backend, READ)

    def on_backend_event(self, backend: Backend, events: int) -> None:
        if events & WRITE and backend.out and backend.flush():
            self._watch()
        if not events & ~WRITE or self.out:
            return
        try:
            data = backend.recv(READ_SIZE, DONT_WAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        backend.bytes_in += len(data)
        if data:
            self._tell(data)
        elif self.out:
            self._last = True
        else:
            self._close()

    def on_backend_crash(self, backend: Backend, error: Exception) -> None:
        self._close()

    def on_crash(self, error: Exception) -> None:
        """The worker's guard."""
        self._close()

    def on_notification(self, backend: Backend, message: bytes) -> None:
        """Never called: nobody else speaks with this backend."""

    def _tell(self, data: bytes) -> None:
        if self.out:
            self.out += data
            return
        try:
            sent = self.sock.send(data, DONT_WAIT)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # the next read says the same
        if sent != len(data):
            self.out += memoryview(data)[sent:]
            self._watch()

    def _flush(self) -> None:
        try:
            del self.out[: self.sock.send(self.out, DONT_WAIT)]
        except BlockingIOError:
            return
        except OSError:
            self.out.clear()
        if not self.out:
            self.out = bytearray()
            if self._last:
                self._close()
            else:
                self._watch()

    def _watch(self) -> None:
        """Whoever is slow stops the other."""
        backend = self.backend
        if backend is None or self._over:
            return
        poller = self.worker.poller
        poller.change(self.fd, (NOTHING if backend.out else READ) | (WRITE if self.out else NOTHING))
        poller.change(backend.fd, (NOTHING if self.out else READ) | (WRITE if backend.out else NOTHING))

    # What others ask.

    def cancel(self, done: Callable[[], Any]) -> None:
        """A cancel request with our key."""
        backend = self.backend
        if backend is None or not self._services.helpers.submit(partial(_deliver, backend, self.pool.settings, done)):
            done()

    def follow(self) -> None:
        """The settings have changed: without its pool it has to go."""
        if self._services.pool_of(self.pool.database, self.pool.user) is not self.pool:
            self.expel(ShuttingDown("database removed"))

    def expel(self, reason: PgDoormanError) -> None:
        """Send the client away. (A replication stream has no end that could be waited for.)"""
        if self._over:
            return
        if not self.out:
            # Between two messages, most likely; a walreceiver tries again whatever it hears.
            self._tell(error_message(reason, "FATAL"))
        self._close()

    def _close(self) -> None:
        if self._over:
            return
        self._over = True
        self.worker.unwatch(self.fd)
        backend = self.backend
        if backend is not None:
            backend.close(polite=False)  # what was sent may end in the middle of a message
        close_quietly(self.sock)
        if self.cancel_key is not None:
            self._services.cancel_keys.withdraw(self.cancel_key)
        self._ended(self)


def _is_for_server(name: str) -> bool:
    return name not in _OURS and not name.startswith("_pq_.")


def _deliver(backend: Backend, settings: UserPoolSettings, done: Callable[[], Any]) -> None:
    """On a helper's thread."""
    try:
        deliver(backend, settings)
    finally:
        done()

"""A client of the console: the socket around `admin.console.Console`. Lives on a login worker, so that it answers also
while every serving worker is busy."""

from collections.abc import Callable
from time import monotonic
from typing import Any

from pgdoorman.admin.console import MESSAGE_LIMIT, Console, ConsoleReply
from pgdoorman.client.cancel_keys import CancelKey
from pgdoorman.client.closing import error_message
from pgdoorman.control import Completion
from pgdoorman.errors import PgDoormanError, ProtocolViolation
from pgdoorman.protocol.framing import FrameReader
from pgdoorman.runtime.poller import NOTHING, READ, WRITE
from pgdoorman.runtime.worker import Worker
from pgdoorman.transport.peer import Peer
from pgdoorman.transport.sockets import DONT_WAIT, close_quietly


class ConsoleSession:
    """One console client, on its worker's thread."""

    def __init__(
        self,
        number: int,
        sock: Any,
        peer: Peer,
        console: Console,
        *,
        user: str,
        database: str,
        application_name: str,
        ended: Callable[["ConsoleSession"], Any],
    ) -> None:
        self.id = number
        self.sock = sock
        self.fd: int = sock.fileno()
        self.address = peer
        self.user = user
        self.database = database
        self.application_name = application_name
        self.tls: str = getattr(sock, "description", "")  # of a TLS socket: version and cipher
        self.connected_at = monotonic()
        self.queries = 0
        self.cancel_key: CancelKey | None = None
        self._console = console
        self._ended = ended
        self._reader = FrameReader(MESSAGE_LIMIT)
        self._out = bytearray()
        self._pending = False
        self._closing = False
        self._over = False
        self.worker: Worker = None  # type: ignore[assignment]  # set by `begin`

    def __repr__(self) -> str:
        return f"<ConsoleSession #c{self.id} {self.user}>"

    def begin(self, worker: Worker, greeting: bytes, rest: bytes) -> None:
        """Greet and listen; on the worker's thread."""
        self.worker = worker
        worker.watch(self.fd, self.on_event)
        self._send(greeting)
        if rest:
            self._reader.feed(rest)
            self._answer()

    def on_event(self, worker: Worker, events: int) -> None:
        """The poller's handler."""
        if events & WRITE:
            self._send(b"")
        if not events & ~WRITE:
            return
        try:
            data = self.sock.recv(16384, DONT_WAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._reader.feed(data)
        self._answer()

    def on_crash(self, error: Exception) -> None:
        """The worker's guard."""
        self.close()

    def cancel(self, done: Callable[[], Any]) -> None:
        """A cancel request with this session's key."""
        self._console.cancel()
        done()

    def dismiss(self, reason: PgDoormanError) -> None:
        """The house goes down."""
        self._send(error_message(reason, "FATAL"))
        self.close()

    def _answer(self) -> None:
        while not self._pending and not self._over and not self._closing:
            try:
                found = self._reader.next()
            except ProtocolViolation as violation:
                self._send(error_message(violation, "FATAL"))
                self.close()
                return
            if found is None:
                return
            self.queries += 1
            self._apply(self._console.receive(*found))

    def _apply(self, reply: ConsoleReply) -> None:
        if reply.data:
            self._send(reply.data)
        if reply.close:
            self._closing = True
            if not self._out:
                self.close()
        elif reply.pending is not None:
            self._pending = True
            self._watch()
            reply.pending.add_done_callback(self._on_done)

    def _on_done(self, completion: Completion[Any]) -> None:
        self.worker.post(self._settle)

    def _settle(self) -> None:
        if self._over:
            return
        self._pending = False
        self._watch()
        self._apply(self._console.settle())
        self._answer()

    def _send(self, data: bytes) -> None:
        out = self._out
        out += data
        while out:
            try:
                sent = self.sock.send(out, DONT_WAIT)
            except BlockingIOError:
                self._watch()
                return
            except OSError:
                self.close()
                return
            del out[:sent]
        if not self._over:
            self._watch()
            if self._closing:
                self.close()

    def _watch(self) -> None:
        if not self._over:
            events = (READ if not self._pending else NOTHING) | (WRITE if self._out else NOTHING)
            self.worker.poller.change(self.fd, events)

    def close(self) -> None:
        """End the session."""
        if self._over:
            return
        self._over = True
        self.worker.unwatch(self.fd)
        close_quietly(self.sock)
        self._console.close()
        self._ended(self)

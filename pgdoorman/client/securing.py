"""A TLS handshake with a client that has not logged in, driven by the poller of its login worker.

It is the dearest thing that somebody who has proved nothing can ask of us (a signature: 0.1 ms with an elliptic curve, 1 ms
with RSA), so it happens on login workers only, and at a rate that the owner may limit.
"""

import socket
from collections.abc import Callable
from typing import Any

from pgdoorman.errors import PgDoormanError
from pgdoorman.runtime.poller import HANG_UP, NOTHING, READ
from pgdoorman.runtime.timers import Timer
from pgdoorman.runtime.worker import Worker
from pgdoorman.transport.tls_accept import ClientHandshake, TlsDoor
from pgdoorman.transport.tls_socket import TlsFailed


class Securing:
    """One handshake. Its owner passes the poller's events on (`go_on`), closes the socket, and minds the time."""

    def __init__(
        self,
        sock: socket.socket,
        door: TlsDoor,
        worker: Worker,
        *,
        direct: bool,
        done: Callable[[ClientHandshake], Any],
        failed: Callable[[PgDoormanError], Any],
    ) -> None:
        self.sock = door.begin(sock)
        self._fd = sock.fileno()
        self._door = door
        self._worker = worker
        self._direct = direct
        self._done = done
        self._failed = failed
        self._watched = READ
        self._timer: Timer | None = None

    def begin(self, delay: float) -> None:
        """Begin in `delay` seconds; what the client says meanwhile waits in the kernel."""
        if delay:
            self._watch(NOTHING)
            self._timer = self._worker.after(delay, self._begin_late)
        elif self._direct:
            self.go_on()
        # Else the client has only just been told to begin.

    def _begin_late(self) -> None:
        self._timer = None
        self._watch(READ)
        self.go_on()

    def stop(self) -> None:
        """The owner gives up: nothing is reported any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def go_on(self, events: int = READ) -> None:
        """The socket is ready."""
        if self._timer is not None:
            # Its turn has not come, and nothing but a hang-up is reported meanwhile (again and again); or an event that
            # was collected before it had to wait.
            if events & HANG_UP:
                self.stop()
                self._failed(TlsFailed("the client hung up before its TLS handshake"))
            return
        try:
            wanted = self.sock.advance_handshake()
            if wanted:
                self._watch(wanted)
                return
            handshake = self._door.complete(self.sock, direct=self._direct)
        except PgDoormanError as error:
            self._failed(error)
            return
        self._watch(READ)
        self._done(handshake)

    def _watch(self, events: int) -> None:
        if events != self._watched:
            self._watched = events
            self._worker.poller.change(self._fd, events)

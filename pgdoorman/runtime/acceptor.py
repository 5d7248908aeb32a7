"""The thread that accepts connections and hands the sockets on."""

import errno
import logging
import select
import socket
from collections.abc import Callable, Sequence
from threading import Thread
from time import sleep
from typing import Any

log = logging.getLogger(__name__)

# Out of descriptors or memory: the listener stays readable, so without a pause the loop would spin.
EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
PAUSE_WHEN_EXHAUSTED = 0.1

# The listener was closed or shut down under us: it will never accept again and would be reported for ever.
DEFUNCT = {errno.EBADF, errno.EINVAL, errno.ENOTSOCK}


class Acceptor(Thread):
    """Accepts on every listener and passes (socket, peer address, listener) on; the sockets are blocking ones (Linux: whatever
    the listener is). It never ends over one bad accept."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        take: Callable[[socket.socket, Any, socket.socket], Any],
    ) -> None:
        super().__init__(name="acceptor", daemon=True)
        self._listeners = {listener.fileno(): listener for listener in listeners}
        self._take = take
        self._poll = select.poll()
        self._running = True
        self._wake_read, self._wake_write = socket.socketpair()
        self.exhausted = 0  # accepts that failed for want of descriptors or memory
        self._kinds = {
            fd: (int(listener.family), int(listener.type), listener.proto) for fd, listener in self._listeners.items()
        }
        for fd, listener in self._listeners.items():
            listener.setblocking(False)
            self._poll.register(fd, select.POLLIN)
        self._poll.register(self._wake_read.fileno(), select.POLLIN)

    def stop(self) -> None:
        """Stop accepting; the listeners stay open and belong to the caller again."""
        self._running = False
        try:
            self._wake_write.send(b"x")
        except OSError:
            pass
        if self.is_alive():
            self.join(5.0)
        self._wake_read.close()
        self._wake_write.close()

    def run(self) -> None:
        while self._running:
            for fd, _ in self._poll.poll():
                listener = self._listeners.get(fd)
                if listener is not None and self._running:
                    self._accept(fd, listener)

    def _accept(self, fd: int, listener: socket.socket) -> None:
        kind = self._kinds[fd]
        # Several per wake-up: a storm of connections is taken in batches, the kernel's queue stays short.
        for _ in range(64):
            try:
                # `accept` itself spends as much again on making enum members of what the kernel says.
                accepted_fd, address = listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001
                accepted = socket.socket(*kind, fileno=accepted_fd)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self.exhausted += 1
                    if self.exhausted == 1 or self.exhausted % 100 == 0:
                        log.warning("cannot accept a connection: %s (%d times)", error.strerror, self.exhausted)
                    sleep(PAUSE_WHEN_EXHAUSTED)
                    return
                if error.errno in DEFUNCT:
                    log.error("a listener is gone: %s", error.strerror)
                    self._poll.unregister(fd)
                    return
                continue  # the peer left before it was accepted: nobody to talk to
            try:
                self._take(accepted, address, listener)
            except Exception:  # whatever happens to one connection, the next is accepted
                log.exception("could not take a connection from %s", address)
                accepted.close()

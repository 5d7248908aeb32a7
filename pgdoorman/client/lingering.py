"""The end of a connection that was refused: what we said last has to arrive.

A socket that is closed while something unread is in it, or to which something comes afterwards, answers with a reset, and the
other side's kernel then drops what it had not yet been asked for: the error, or the TLS alert, that says why. A client of
TLS 1.3 has its start-up message under way when its certificate is refused, and one that pipelines more than that. So we say
that nothing more will come (which the client sees as the end) and drop what it still sends, until it closes as well.
"""

import socket
from threading import Lock
from typing import Any, Final

from pgdoorman.runtime.timers import Timer
from pgdoorman.runtime.worker import Worker
from pgdoorman.transport.sockets import DONT_WAIT, close_quietly

PATIENCE: Final = 1.0
"""Seconds that are given to a client which does not close."""

MOST_BYTES: Final = 1 << 20
"""What is dropped of one client before it is closed all the same."""

MOST_AT_ONCE: Final = 500
"""Beyond that they are closed at once: whoever is refused must not use up our descriptors."""

_lock = Lock()
_present = [0]


def close_gently(sock: Any, worker: Worker) -> None:
    """Close a socket, plain or with TLS, that nobody watches any more, once the client has had the chance to read what it was
    told. On the worker's thread, which is not held up; for the caller it is as if it were closed."""
    with _lock:
        has_room = _present[0] < MOST_AT_ONCE
        _present[0] += has_room
    if not has_room:
        close_quietly(sock)
    elif isinstance(sock, socket.socket):
        _Lingering(sock, worker).begin()
    else:
        # What comes is not decrypted any more, and OpenSSL's 50 kB go now. (Its class is not loaded in a house without TLS.)
        _Lingering(sock.part(), worker).begin()


class _Lingering:
    """One socket that drops what comes."""

    __slots__ = ("_fd", "_is_over", "_left", "_sock", "_timer", "_worker")

    def __init__(self, sock: socket.socket, worker: Worker) -> None:
        self._sock = sock
        self._fd: int = sock.fileno()
        self._worker = worker
        self._left = MOST_BYTES
        self._timer: Timer | None = None
        self._is_over = False

    def begin(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
            self._worker.watch(self._fd, self._on_event)
        except (OSError, ValueError):  # it is lost, or the worker has ended
            self._close()
            return
        self._timer = self._worker.after(PATIENCE, self._close)

    def on_crash(self, error: Exception) -> None:
        """The worker's guard."""
        self._close()

    def _on_event(self, worker: Worker, events: int) -> None:
        try:
            count = len(self._sock.recv(65536, DONT_WAIT))
        except BlockingIOError:
            return
        except OSError:
            count = 0
        self._left -= count
        if not count or self._left < 0:
            self._close()

    def _close(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
        self._worker.unwatch(self._fd)
        close_quietly(self._sock)
        with _lock:
            _present[0] -= 1

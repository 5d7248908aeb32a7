"""The HTTP server: a few threads that accept, read one request, answer it and close.

The kernel's backlog is the queue. A connection has a deadline for all that it does, so that askers who are slow on
purpose can hold up others for a few seconds only. Written on sockets and not on `http.server`, whose threads are
without bound and whose time limits start anew with each byte.
"""

import logging
import os
import select
import socket
from collections.abc import Callable, Sequence
from http import HTTPStatus
from threading import Thread
from time import monotonic

from pgdoorman.web.messages import (
    END_OF_HEAD,
    LONGEST_HEAD,
    BadRequest,
    Request,
    Response,
    parse_request,
    render,
    text,
)

log = logging.getLogger(__name__)

THREADS = 4
PATIENCE = 5.0  # seconds for one connection, from accept to close
_LEFT_OVER = 65536  # bytes of a request's body that are read away so that the answer arrives before the reset


class WebServer:
    """Serves on listening sockets that it is given and closes at the end; `answer` is called on its threads, several at
    a time."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        answer: Callable[[Request], Response],
        *,
        patience: float = PATIENCE,
        threads: int = THREADS,
    ) -> None:
        self._listeners = {listener.fileno(): listener for listener in listeners}
        self._answer = answer
        self._patience = patience
        self._awake, self._alarm = os.pipe()
        self._stopping = False
        self._threads = [Thread(target=self._run, name=f"web-{index}", daemon=True) for index in range(threads)]

    def start(self) -> None:
        """Begin to answer."""
        for listener in self._listeners.values():
            listener.setblocking(False)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Answer nobody any more, close the sockets. Answers under way get `patience` to end. Once only."""
        self._stopping = True
        os.close(self._alarm)  # makes the other end readable for all threads and for good
        for thread in self._threads:
            if thread.is_alive():
                thread.join(self._patience)
        for listener in self._listeners.values():
            listener.close()
        os.close(self._awake)

    def _run(self) -> None:
        poller = select.poll()
        poller.register(self._awake, select.POLLIN | select.POLLHUP)
        for number in self._listeners:
            poller.register(number, select.POLLIN)
        while not self._stopping:
            for number, _ in poller.poll():
                if number in self._listeners and not self._stopping:
                    self._accept(self._listeners[number])

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return  # another thread was faster
        except OSError as error:
            # No descriptor left, most likely: not to be tried again at once, for it stays readable.
            log.warning("cannot accept an HTTP connection: %s", error)
            select.select([], [], [], 0.1)
            return
        with connection:
            try:
                self._converse(connection)
            except OSError:
                pass  # gone, or slower than it may be
            except Exception:  # an accident with one request must not end the thread
                log.exception("an HTTP request failed")

    def _converse(self, connection: socket.socket) -> None:
        deadline = monotonic() + self._patience
        request: Request | None = None
        try:
            request = parse_request(_read_head(connection, deadline))
            response = self._answer(request)
        except BadRequest as bad:
            response = text(bad.status, bad.status.phrase)
        except TimeoutError:
            response = text(HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.REQUEST_TIMEOUT.phrase)
            deadline = monotonic() + 0.5
        connection.settimeout(max(0.01, deadline - monotonic()))
        connection.sendall(render(response, request))
        connection.shutdown(socket.SHUT_WR)
        _read_away(connection, min(deadline, monotonic() + 1.0))


def _read_head(connection: socket.socket, deadline: float) -> bytes:
    """Up to and with the empty line. Raises BadRequest, TimeoutError, OSError."""
    data = b""
    while END_OF_HEAD not in data:
        if len(data) > LONGEST_HEAD:
            raise BadRequest(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        left = deadline - monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        more = connection.recv(8192)
        if not more:
            raise ConnectionAbortedError
        data += more
    return data[: data.index(END_OF_HEAD) + len(END_OF_HEAD)]


def _read_away(connection: socket.socket, deadline: float) -> None:
    """Until the asker closes: what is unread when we close would make the kernel throw our answer away."""
    left = _LEFT_OVER
    while left > 0 and (seconds := deadline - monotonic()) > 0:
        connection.settimeout(seconds)
        data = connection.recv(8192)
        if not data:
            return
        left -= len(data)

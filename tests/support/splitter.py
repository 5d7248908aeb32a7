"""A TCP proxy that cuts the stream into small pieces, both ways.

A reader that takes what one `recv` returns for whole messages works on a quiet loopback and breaks on a real network;
this proxy makes the real network. Pieces have `sizes` bytes, chosen at random from a seed, and each is its own segment
(TCP_NODELAY, and a pause now and then so that the kernel does not glue them together).
"""

import contextlib
import random
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self


class Splitter:
    """Listens on `port` and passes everything on to (host, to_port). Pieces larger than `whole_above` bytes in one read
    are passed on whole behind their first few cuts, so that large rows do not take minutes."""

    host = "127.0.0.1"

    def __init__(
        self, to_host: str, to_port: int, *, sizes: Sequence[int] = (1,), seed: int = 1, whole_above: int = 20_000
    ) -> None:
        self._target = (to_host, to_port)
        self._sizes = tuple(sizes)
        self._seed = seed
        self._whole_above = whole_above
        self._listener = socket.create_server((self.host, 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._closing = False
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cuts every connection and ends every thread."""
        with self._lock:
            self._closing = True
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        self._listener.close()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        number = self._seed
        while not self._closing:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            number += 1
            self._start(self._serve, near, number)

    def _serve(self, near: socket.socket, number: int) -> None:
        with near:
            try:
                far = socket.create_connection(self._target, timeout=10)
            except OSError:
                return
            with far:
                for sock in (near, far):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    if self._closing:
                        return
                    self._open |= {near, far}
                try:
                    self._pass_on(near, far, random.Random(number))
                finally:
                    with self._lock:
                        self._open -= {near, far}

    def _pass_on(self, near: socket.socket, far: socket.socket, chance: random.Random) -> None:
        """Until both sides have said all they had to say; a half-close is passed on as one."""
        other = {near: far, far: near}
        speaking = {near, far}
        while speaking:
            ready, _, _ = select.select(list(speaking), [], [])
            for sock in ready:
                try:
                    data = sock.recv(65536)
                except OSError:
                    return  # a reset on one side is one on both
                try:
                    if data:
                        self._send(other[sock], data, chance)
                        continue
                    other[sock].shutdown(socket.SHUT_WR)
                except OSError:
                    pass  # the other does not listen any more; its last words may still be on their way
                speaking.discard(sock)

    def _send(self, sock: socket.socket, data: bytes, chance: random.Random) -> None:
        sock.settimeout(20)
        at = 0
        limit = 200 if len(data) > self._whole_above else len(data)
        while at < limit:
            size = chance.choice(self._sizes)
            sock.sendall(data[at : at + size])
            at += size
            if chance.random() < 0.02:
                time.sleep(0.0003)
        if at < len(data):
            sock.sendall(data[at:])

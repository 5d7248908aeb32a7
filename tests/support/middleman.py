"""Somebody between a client and a server, with TLS of his own on both sides: what channel binding is there to notice.

Also one who only writes down what connections begin with.
"""

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.wire import ssl_request


class Middleman:
    """Listens, and passes everything on to `target`. With a certificate he speaks TLS with whoever comes, and with the
    target. Nothing is passed on in pieces of more than `piece` bytes. `beginnings` has the first eight bytes of each
    connection."""

    host = "127.0.0.1"

    def __init__(
        self, target: tuple[str, int], certificate: tuple[Path, Path] | None = None, piece: int = 65536
    ) -> None:
        self._target = target
        self._piece = piece
        self._context: ssl.SSLContext | None = None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(*certificate)
        self.beginnings: list[bytes] = []
        self._listener = socket.create_server((self.host, 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10.0)
        for sock in self._open:
            sock.close()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._open.append(sock)
                self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            other = socket.create_connection(self._target, timeout=10.0)
            self._open.append(other)
            self.beginnings.append(sock.recv(8, socket.MSG_PEEK | socket.MSG_WAITALL))
            if self._context is not None:
                sock, other = self._with_tls(sock, other, self._context)
            _pass_on(sock, other, self._piece)
            for side in (sock, other):
                side.shutdown(socket.SHUT_RDWR)

    def _with_tls(
        self, sock: socket.socket, other: socket.socket, context: ssl.SSLContext
    ) -> tuple[socket.socket, socket.socket]:
        assert sock.recv(8, socket.MSG_WAITALL) == ssl_request().data
        sock.sendall(b"S")
        towards = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        towards.check_hostname = False
        towards.verify_mode = ssl.CERT_NONE
        other.sendall(ssl_request().data)
        assert other.recv(1) == b"S"
        pair = context.wrap_socket(sock, server_side=True), towards.wrap_socket(other)
        self._open.extend(pair)
        return pair


def _pass_on(one: socket.socket, other: socket.socket, piece: int) -> None:
    for side in (one, other):
        side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while True:
        ready = {sock for sock in (one, other) if isinstance(sock, ssl.SSLSocket) and sock.pending()}
        for sock in ready or select.select([one, other], [], [])[0]:
            data = sock.recv(65536)
            if not data:
                return
            for position in range(0, len(data), piece):
                (other if sock is one else one).sendall(data[position : position + piece])

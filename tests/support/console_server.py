"""The console behind a real socket, for programs that only know how to connect: a thread for each, everybody trusted.

with ConsoleServer(House()) as server:
    psycopg.connect(host="127.0.0.1", port=server.port, dbname="pgdoorman", user="operator")
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

from pgdoorman.admin.console import Console, ConsoleReply
from pgdoorman.admin.flavour import Flavour
from tests.support import wire
from tests.support.control import House

SECRET = b"\1\2\3\4"


class ConsoleServer:
    """Listens on a free port of 127.0.0.1; `admin` says whether everybody is an admin."""

    def __init__(self, house: House, *, admin: bool = True) -> None:
        self._house = house
        self._admin = admin
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._consoles: dict[int, Console] = {}
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(30)
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(30)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _address = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection, len(self._connections)))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, process_id: int) -> None:
        with connection, connection.makefile("rb") as stream, contextlib.suppress(OSError, struct.error):
            parameters = self._start(connection, stream.read)
            if parameters is None:
                return
            console = Console(
                self._house, flavour=Flavour(parameters["database"]), user=parameters["user"], admin=self._admin,
                process_id=process_id,
            )  # fmt: skip
            self._consoles[process_id] = console
            connection.sendall(wire.frame("R", b"\0\0\0\0") + console.greeting(SECRET, parameters))
            while True:
                (kind, length) = struct.unpack("!BI", stream.read(5))
                if self._answer(connection, console, console.receive(kind, stream.read(length - 4))):
                    return

    def _start(self, connection: socket.socket, read: Callable[[int], bytes]) -> dict[str, str] | None:
        while True:
            length, code = struct.unpack("!II", read(8))
            body = read(length - 8)
            if code == wire.CANCEL_REQUEST:
                self._consoles[int.from_bytes(body[:4])].cancel()
                return None
            if code in (wire.SSL_REQUEST, wire.GSSENC_REQUEST):
                connection.sendall(b"N")
                continue
            words = [word.decode() for word in body.split(b"\0")]
            return dict(zip(words[::2], words[1::2], strict=False))

    def _answer(self, connection: socket.socket, console: Console, reply: ConsoleReply) -> bool:
        while True:
            connection.sendall(reply.data)
            if reply.close or reply.pending is None:
                return reply.close
            done = threading.Event()
            reply.pending.add_done_callback(partial(_ended, done))
            done.wait(60)
            reply = console.settle()


def _ended(done: threading.Event, _completion: object) -> None:
    done.set()

"""A server that misbehaves as told.

    def script(peer: Peer) -> None:
        peer.greet()                              # reads the StartupMessage, logs in by trust, says ReadyForQuery
        while peer.receive().kind == "Q":
            peer.send(answer("1"), b"more")       # bytes after ReadyForQuery

    with FakeServer(script) as server: ...        # server.host, server.port

The script runs once per connection, in a thread of its own; when it returns, the connection is closed. What it raises
(other than the peer going away) is kept in `errors`, and leaving the `with` block raises it.
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from tests.support.wire import CANCEL_REQUEST, GSSENC_REQUEST, SSL_REQUEST, frame

PARAMETERS: Final = {
    "application_name": "",
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "default_transaction_read_only": "off",
    "in_hot_standby": "off",
    "integer_datetimes": "on",
    "IntervalStyle": "postgres",
    "is_superuser": "off",
    "search_path": '"$user", public',
    "server_encoding": "UTF8",
    "server_version": "17.0",
    "session_authorization": "alice",
    "standard_conforming_strings": "on",
    "TimeZone": "UTC",
}


def authentication(code: int, data: bytes = b"") -> bytes:
    return frame("R", struct.pack("!I", code) + data)


def parameter_status(name: str, value: str) -> bytes:
    return frame("S", f"{name}\0{value}\0".encode())


def backend_key(process_id: int = 4711, secret: bytes = b"\1\2\3\4") -> bytes:
    return frame("K", struct.pack("!I", process_id) + secret)


def ready(status: str = "I") -> bytes:
    return frame("Z", status.encode())


def complete(tag: str = "SELECT 1") -> bytes:
    return frame("C", tag.encode() + b"\0")


def row_description(*names: str) -> bytes:
    columns = b"".join(name.encode() + b"\0" + struct.pack("!IHIhih", 0, 0, 25, -1, -1, 0) for name in names)
    return frame("T", struct.pack("!H", len(names)) + columns)


def data_row(*values: str | None) -> bytes:
    body = struct.pack("!H", len(values))
    for value in values:
        encoded = b"" if value is None else value.encode()
        body += struct.pack("!i", -1 if value is None else len(encoded)) + encoded
    return frame("D", body)


def error(sqlstate: str = "XX000", text: str = "fake", severity: str = "ERROR", **fields: str) -> bytes:
    every = {"S": severity, "V": severity, "C": sqlstate, "M": text, **fields}
    return error_fields(every)


def error_fields(fields: Mapping[str, str], kind: str = "E") -> bytes:
    return frame(kind, b"".join(f"{letter}{value}\0".encode() for letter, value in fields.items()) + b"\0")


def answer(value: str, status: str = "I") -> bytes:
    """A whole answer to a simple query: one row of one column."""
    return row_description("value") + data_row(value) + complete() + ready(status)


def greeting(parameters: Mapping[str, str] = PARAMETERS, status: str = "I") -> bytes:
    """Everything from AuthenticationOk to the first ReadyForQuery."""
    reports = b"".join(parameter_status(name, value) for name, value in parameters.items())
    return authentication(0) + reports + backend_key() + ready(status)


@dataclass(frozen=True, slots=True)
class Received:
    """What a client of the fake server sent; `kind` is empty for the first message of a connection."""

    kind: str
    body: bytes

    @property
    def sql(self) -> str:
        """The text of a Query."""
        return self.body.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


class Gone(Exception):
    """The peer closed the connection, or the test is over."""


class Peer:
    """One connection, from the server's side."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.number = number
        self.startup: dict[str, str] = {}
        self._buffer = b""

    def send(self, *parts: bytes) -> None:
        try:
            self.sock.sendall(b"".join(parts))
        except OSError as error:
            raise Gone(str(error)) from None

    def receive(self) -> Received:
        """The next typed message. Raises Gone."""
        head = self._take(5)
        size = struct.unpack("!I", head[1:])[0]
        return Received(head[:1].decode("latin-1"), self._take(size - 4))

    def receive_startup(self) -> dict[str, str]:
        """Reads up to the StartupMessage; SSLRequest and GSSENCRequest are answered N. A CancelRequest raises Gone. What
        was read before is returned again."""
        while not self.startup:
            size, code = struct.unpack("!II", self._take(8))
            body = self._take(size - 8)
            if code in (SSL_REQUEST, GSSENC_REQUEST):
                self.send(b"N")
            elif code == CANCEL_REQUEST:
                raise Gone("a CancelRequest")
            else:
                parts = body.split(b"\0")
                self.startup = {
                    key.decode(): value.decode() for key, value in zip(parts[::2], parts[1::2], strict=False) if key
                }
        return self.startup

    def greet(self, parameters: Mapping[str, str] = PARAMETERS) -> None:
        """A log-in without a password."""
        name = self.receive_startup().get("application_name", "")
        self.send(greeting({**parameters, "application_name": name}))

    def serve(self) -> None:
        """Behaves well, for queries that a pooler may send of its own accord, until the peer goes. Every simple query
        returns its own text as one row."""
        while True:
            message = self.receive()
            if message.kind == "X":
                return
            self.send(*self.good_answer(message))

    def good_answer(self, message: Received) -> Sequence[bytes]:
        match message.kind:
            case "Q":
                return (well_meant(message.sql),)
            case "P":
                return (frame("1", b""),)
            case "B":
                return (frame("2", b""),)
            case "C":
                return (frame("3", b""),)
            case "D":
                return (row_description("value"),)
            case "E":
                return (data_row("extended"), complete())
            case "S":
                return (ready(),)
            case _:
                return ()

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            try:
                data = self.sock.recv(65536)
            except OSError as error:
                raise Gone(str(error)) from None
            if not data:
                raise Gone("closed")
            self._buffer += data
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken


def well_meant(sql: str) -> bytes:
    """What PostgreSQL would answer, as far as a fake can tell: settings are taken and none is different, everything else is
    a row with the query's own text, and an empty query is empty."""
    first = sql.strip().split(" ")[0].rstrip(";").upper()
    if not sql.strip(" ;"):
        return frame("I", b"") + ready()
    if first in ("SET", "RESET", "DISCARD", "DEALLOCATE", "ROLLBACK", "CLOSE", "UNLISTEN", "BEGIN", "COMMIT", "LISTEN"):
        return complete(first) + ready()
    if "pg_settings" in sql:
        return complete("SELECT 0") + ready()  # a pooler's look at its session: nothing is different there
    return answer(sql)


Script = Callable[[Peer], None]


class FakeServer:
    """Listens until the `with` block is left. The first connections run `scripts` in order, later ones the last."""

    host = "127.0.0.1"

    def __init__(self, *scripts: Script) -> None:
        self._scripts = scripts
        self._listener = socket.create_server((self.host, 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self.errors: list[Exception] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._closing = False

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if self.errors and error is None:
            raise self.errors[0]

    def close(self) -> None:
        with self._lock:
            self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(5)

    def cut(self) -> None:
        """Cuts every open connection."""
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    @property
    def open_connections(self) -> int:
        with self._lock:
            return len(self._open)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            script = self._scripts[min(self.connections, len(self._scripts) - 1)]
            self.connections += 1
            with self._lock:
                self._open.add(sock)
            self._start(self._run, sock, script, self.connections)

    def _run(self, sock: socket.socket, script: Script, number: int) -> None:
        with sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                script(Peer(sock, number))
            except Gone:
                pass
            except Exception as problem:  # noqa: BLE001 - it is raised again where the test can see it
                self.errors.append(problem)
            finally:
                with self._lock:
                    self._open.discard(sock)

"""A bare PostgreSQL client: logs in by trust, and moves large results without looking at them.

It exists because libpq and psql look at every row, which on two cores makes the client the bottleneck of what is to
be measured. It does nothing that these measurements do not need.
"""

import socket
import ssl
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.macro.options import Address

READY = b"Z\0\0\0\5I"
TIMEOUT_SECONDS = 30.0
_SSL_REQUEST = struct.pack("!II", 8, 80877103)


class WireError(Exception):
    """The other side refused, broke off, or said what cannot be."""


def offers_tls(address: Address) -> bool:
    """Whether an SSLRequest is answered with S."""
    with socket.create_connection((address.host, address.port), TIMEOUT_SECONDS) as sock:
        sock.sendall(_SSL_REQUEST)
        return sock.recv(1) == b"S"


def error_text(body: bytes) -> str:
    """The severity, SQLSTATE and message of an ErrorResponse body."""
    fields = {field[:1]: field[1:] for field in body.split(b"\0") if field}
    return b" ".join(fields.get(key, b"") for key in (b"S", b"C", b"M")).decode(errors="replace")


def copy_data(row: bytes, count: int) -> bytes:
    """`count` CopyData messages of one text row each."""
    return (b"d" + struct.pack("!I", len(row) + 4) + row) * count


class Connection:
    """One logged-in connection, blocking, with a timeout of half a minute for every wait."""

    def __init__(self, address: Address, *, tls: bool = False) -> None:
        plain = socket.create_connection((address.host, address.port), TIMEOUT_SECONDS)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket: socket.socket = plain
        try:
            if tls:
                self._socket = self._with_tls(plain)
            self._log_in()
        except BaseException:
            self._socket.close()
            raise

    def _with_tls(self, plain: socket.socket) -> ssl.SSLSocket:
        plain.sendall(_SSL_REQUEST)
        if plain.recv(1) != b"S":
            raise WireError("no TLS here")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context.wrap_socket(plain)

    def _log_in(self) -> None:
        parameters = b"user\0postgres\0database\0postgres\0application_name\0bench\0\0"
        self._socket.sendall(struct.pack("!II", len(parameters) + 8, 196608) + parameters)
        self._messages()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Say goodbye if that is still possible, and close."""
        with suppress(OSError):
            self._socket.sendall(b"X\0\0\0\4")
        self._socket.close()

    def _exactly(self, count: int) -> bytes:
        parts: list[bytes] = []
        while count:
            part = self._socket.recv(count)
            if not part:
                raise WireError("the connection was closed")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _message(self) -> tuple[bytes, bytes]:
        head = self._exactly(5)
        return head[:1], self._exactly(int.from_bytes(head[1:]) - 4)

    def _messages(self) -> list[tuple[bytes, bytes]]:
        """Everything up to ReadyForQuery. Raises WireError for an ErrorResponse or a request for a password."""
        found: list[tuple[bytes, bytes]] = []
        while True:
            kind, body = self._message()
            if kind == b"Z":
                return found
            if kind == b"E":
                raise WireError(error_text(body))
            if kind == b"R" and body != b"\0\0\0\0":
                raise WireError("trust authentication is needed")
            found.append((kind, body))

    def _ask(self, sql: str) -> None:
        query = sql.encode() + b"\0"
        self._socket.sendall(b"Q" + struct.pack("!I", len(query) + 4) + query)

    def run(self, sql: str) -> None:
        """Run a statement whose result does not matter."""
        self._ask(sql)
        self._messages()

    def value(self, sql: str) -> str:
        """The first column of the first row, as text."""
        self._ask(sql)
        for kind, body in self._messages():
            if kind == b"D":
                length = int.from_bytes(body[2:6])
                return body[6 : 6 + length].decode()
        raise WireError("no row")

    def drain(self, sql: str, buffer: bytearray) -> int:
        """Run a statement with a large result and count the bytes of the answer.

        The result's own data must not contain the bytes of a ReadyForQuery message: only the end of what has arrived
        is compared with one.
        """
        self._ask(sql)
        receive = self._socket.recv_into
        total = 0
        tail = b""
        while tail != READY:
            count = receive(buffer)
            if not count:
                raise WireError("the connection was closed")
            if not total and buffer[0] == 0x45:
                raise WireError(error_text(bytes(buffer[5:count])))
            total += count
            tail = bytes(buffer[count - 6 : count]) if count >= 6 else (tail + buffer[:count])[-6:]
        return total

    def copy_in(self, sql: str, block: bytes, count: int) -> int:
        """Send `count` blocks of CopyData messages; returns the bytes sent. Raises WireError if the server refuses."""
        self._ask(sql)
        kind, body = self._message()
        if kind != b"G":
            raise WireError(error_text(body) if kind == b"E" else f"unexpected {kind!r}")
        for _ in range(count):
            self._socket.sendall(block)
        self._socket.sendall(b"c\0\0\0\4")
        self._messages()
        return len(block) * count


def wait_until_answers(
    address: Address, alive: Callable[[], bool], log: Path | None = None, seconds: float = TIMEOUT_SECONDS
) -> None:
    """Return once a query is answered at the address.

    Raises RuntimeError, with the end of the log, if the process dies or `seconds` pass.
    """
    deadline = time.monotonic() + seconds
    reason = "it did not answer in time"
    while time.monotonic() < deadline:
        if not alive():
            reason = "it ended"
            break
        try:
            with Connection(address) as connection:
                connection.value("select 1")
                return
        except (OSError, WireError) as error:
            reason = str(error)
        time.sleep(0.05)
    said = log.read_text(errors="replace")[-2000:] if log and log.exists() else ""
    raise RuntimeError(f"no answer at {address.host}:{address.port}: {reason}\n{said}")

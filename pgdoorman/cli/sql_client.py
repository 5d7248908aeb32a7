"""A small blocking client for simple queries: to the console of a running pgdoorman, and to PostgreSQL for `generate`."""

import socket
import struct
from dataclasses import dataclass
from typing import Any, Self

from pgdoorman.auth.backend_login import BackendCredentials
from pgdoorman.backend.inquiry import read_row
from pgdoorman.backend.startup import OpeningPlan, wait_opened
from pgdoorman.config.settings import ServerTlsMode, ServerTlsSettings, TlsFiles
from pgdoorman.errors import BackendRefused, BackendUnavailable
from pgdoorman.prepared.rewrite import query_message
from pgdoorman.protocol import codes
from pgdoorman.protocol.framing import FrameReader
from pgdoorman.protocol.results import INT4, INT8, NUMERIC
from pgdoorman.protocol.startup import parse_error_fields
from pgdoorman.transport.connect import Address
from pgdoorman.transport.listen import operators_path
from pgdoorman.transport.sockets import close_quietly
from pgdoorman.transport.tls_connect import Connectors

type Row = dict[str, str | None]


@dataclass(frozen=True, slots=True)
class Notice:
    """What a server said beside its answer."""

    severity: str
    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What one query brought. `columns` is empty where there were no rows to come; `numeric` says of each column whether
    it holds numbers."""

    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: list[tuple[str | None, ...]]
    notices: list[Notice]

    def table(self) -> list[Row]:
        """The rows by the names of their columns."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


class SqlClient:
    """One connection. Raises BackendUnavailable when it is lost or an answer takes longer than `patience` seconds."""

    def __init__(self, sock: Any, patience: float) -> None:
        self._sock = sock
        self._reader = FrameReader()
        self._sock.settimeout(patience)

    @classmethod
    def log_in(
        cls,
        address: Address,
        user: str,
        password: str | None,
        database: str,
        patience: float = 10.0,
        tls: ServerTlsMode = ServerTlsMode.PREFER,
    ) -> Self:
        """Connect and log in within `patience` seconds; a later answer may take as long again.

        Raises BackendUnavailable, BackendRefused (the server's own refusal), CredentialsMissing and ProtocolViolation.
        """
        secret = password.encode() if password is not None else None
        plan = OpeningPlan(
            address,
            database,
            BackendCredentials(user, password=secret),
            (("application_name", "pgdoorman"),),
            patience,
            tls=Connectors().find(ServerTlsSettings(tls, TlsFiles())),
        )
        return cls(wait_opened(plan).sock, patience)

    @classmethod
    def at_operators_door(cls, process_id: int, patience: float = 10.0) -> Self:
        """The console of a process of this machine that runs as us, or of any if we are root.

        Raises BackendUnavailable if it has no such door, or if it is another process that listens there; BackendRefused if
        it does not let us in.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.settimeout(patience)
            sock.connect(operators_path(process_id))
            # Anybody can listen at an abstract address: only the kernel knows who does.
            owner = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))[
                0
            ]
        except OSError as error:
            close_quietly(sock)
            raise BackendUnavailable(f"process {process_id} has no local console: {error.strerror}") from error
        if owner != process_id:
            close_quietly(sock)
            raise BackendUnavailable(f"process {owner} listens in the place of process {process_id}")
        client = cls(sock, patience)
        client._read_answer()
        return client

    def ask(self, sql: str) -> Answer:
        """Send one simple query and read its whole answer. Raises BackendRefused if the server refuses; the connection can
        be used again then, unless the refusal was fatal."""
        try:
            self._sock.sendall(query_message(sql.encode()))
        except OSError as error:
            raise BackendUnavailable(f"the connection was lost: {error.strerror or error}") from error
        return self._read_answer()

    def wait_end(self, patience: float | None) -> bool:
        """Block until the other side has closed; False if that takes longer than `patience` seconds."""
        self._sock.settimeout(patience)
        try:
            while self._sock.recv(65536):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    def close(self) -> None:
        """Leave without a word. Idempotent."""
        close_quietly(self._sock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def _read_answer(self) -> Answer:
        columns: tuple[str, ...] = ()
        numeric: tuple[bool, ...] = ()
        rows: list[tuple[str | None, ...]] = []
        notices: list[Notice] = []
        error: dict[str, str] | None = None
        while True:
            kind, body = self._next(error)
            if kind == codes.ROW_DESCRIPTION:
                columns, numeric = _columns(body)
            elif kind == codes.DATA_ROW:
                rows.append(read_row(body))
            elif kind == codes.NOTICE_RESPONSE:
                fields = parse_error_fields(body)
                notices.append(Notice(fields.get("V", fields.get("S", "NOTICE")), fields.get("M", "")))
            elif kind == codes.ERROR_RESPONSE:
                error = parse_error_fields(body)
            elif kind == codes.READY_FOR_QUERY:
                if error is not None:
                    raise BackendRefused(error)
                return Answer(columns, numeric, rows, notices)

    def _next(self, error: dict[str, str] | None) -> tuple[int, bytes]:
        while (found := self._reader.next()) is None:
            try:
                data = self._sock.recv(65536)
            except TimeoutError:
                raise BackendUnavailable("no answer in time") from None
            except OSError as problem:
                raise BackendUnavailable(f"the connection was lost: {problem.strerror or problem}") from problem
            if not data:
                if error is not None:
                    raise BackendRefused(error)
                raise BackendUnavailable("the connection was closed")
            self._reader.feed(data)
        return found


_NUMBERS = frozenset({INT4, INT8, NUMERIC, 21, 26})  # and int2, oid


def _columns(body: bytes) -> tuple[tuple[str, ...], tuple[bool, ...]]:
    names, numeric = [], []
    position = 2
    for _ in range(int.from_bytes(body[:2])):
        end = body.index(b"\0", position)
        names.append(body[position:end].decode("utf-8", "replace"))
        numeric.append(int.from_bytes(body[end + 7 : end + 11]) in _NUMBERS)
        position = end + 19  # table, column, type, size, modifier, format
    return tuple(names), tuple(numeric)


def quoted(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def quoted_name(text: str) -> str:
    """A name as an SQL identifier."""
    return '"' + text.replace('"', '""') + '"'

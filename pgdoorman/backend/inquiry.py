"""A query of our own on a backend that we hold: an audit, a reset, a liveness probe.

Not for the hot path, and not for results of clients. Runs on the backend's worker; `done` is called once, on that
thread.
"""

import codecs
from collections.abc import Callable, Sequence
from typing import Any, Final

from pgdoorman.backend.connection import Backend
from pgdoorman.backend.settings import MOST_REPORTED, Reported, reported_of, sql_bytes
from pgdoorman.errors import BackendRefused, BackendUnavailable, PgDoormanError, ProtocolViolation
from pgdoorman.prepared.rewrite import apart_messages, query_message
from pgdoorman.prepared.statement import new_name
from pgdoorman.protocol import codes
from pgdoorman.protocol.codes import SYNC_MESSAGE
from pgdoorman.protocol.framing import FrameReader, message
from pgdoorman.protocol.startup import parse_error_fields
from pgdoorman.runtime.poller import READ, WRITE
from pgdoorman.runtime.timers import Timer
from pgdoorman.transport.sockets import DONT_WAIT

type Rows = list[tuple[str | None, ...]]
type Done = Callable[[Backend, Rows, PgDoormanError | None], Any]

LARGEST_ANSWER = 16 << 20


class Inquiry:
    """Sends one simple Query and collects its rows. It becomes the backend's holder until it is done. `sql` may be a list of
    single statements instead: those go by the extended protocol, and leave the server's unnamed statement alone.

    `done(backend, rows, error)`: `error` is BackendRefused if the server refused, BackendUnavailable if the connection
    was lost or time ran out (then the backend must be discarded), None if all went well. The holder is given back as it
    was.
    """

    __slots__ = ("_backend", "_codec", "_done", "_error", "_holder", "_reader", "_ready", "_rows", "_timer")

    def __init__(self, backend: Backend, sql: str | Sequence[str], timeout: float, done: Done) -> None:
        assert backend.worker is not None
        self._backend = backend
        self._holder = backend.holder
        self._done: Done | None = done
        self._reader = FrameReader(LARGEST_ANSWER)
        self._rows: Rows = []
        self._error: PgDoormanError | None = None
        self._ready = False
        backend.holder = self
        self._timer: Timer = backend.worker.after(timeout, self._out_of_time)
        self._codec = codec_of(backend)
        if isinstance(sql, str):
            backend.unnamed = None
            backend.push(query_message(sql_bytes(sql, self._codec)))
        else:
            statements = (apart_messages(sql_bytes(one, self._codec), new_name()) for one in sql)
            backend.push(b"".join(part for statement in statements for part in statement) + SYNC_MESSAGE)

    def on_backend_readable(self, backend: Backend) -> None:
        """The same, when there is only something to read."""
        self.on_backend_event(backend, READ)

    def on_backend_event(self, backend: Backend, events: int) -> None:
        if events & WRITE and backend.out:
            backend.flush()
        try:
            data = backend.recv(65536, DONT_WAIT)
        except BlockingIOError:
            return
        except OSError as error:
            self._finish(BackendUnavailable(f"the connection to the server was lost: {error.strerror}"))
            return
        if not data:
            self._finish(self._error or BackendUnavailable("the server closed the connection unexpectedly"))
            return
        backend.bytes_in += len(data)
        self._reader.feed(data)
        try:
            self._read(backend)
        except ProtocolViolation as violation:
            self._finish(BackendUnavailable(f"the server broke the protocol: {violation}"))

    def on_notification(self, backend: Backend, message: bytes) -> None:
        """Inquiries do not listen for each other."""

    def on_backend_crash(self, backend: Backend, error: Exception) -> None:
        self._finish(BackendUnavailable(f"internal error: {error}"))

    def _read(self, backend: Backend) -> None:
        while (found := self._reader.next()) is not None:
            kind, body = found
            if kind == codes.READY_FOR_QUERY:
                if self._ready:
                    raise ProtocolViolation("ReadyForQuery twice")
                backend.status = body[0] if body else 0
                self._ready = True
            elif self._ready and kind == codes.ERROR_RESPONSE:
                # Not an answer: a backend that is told to end says so between two queries.
                self._finish(
                    BackendUnavailable(f"the server ended the connection: {BackendRefused(parse_error_fields(body))}")
                )
                return
            elif self._ready and kind not in b"NSA":
                raise ProtocolViolation("an answer behind ReadyForQuery")
            if kind == codes.DATA_ROW:
                self._rows.append(read_row(body, self._codec))
            elif kind == codes.ERROR_RESPONSE:
                self._error = self._error or BackendRefused(parse_error_fields(body))
            elif kind == codes.PARAMETER_STATUS:
                note_parameter(backend, body)
            elif kind == codes.NOTIFICATION_RESPONSE and self._holder is not None:
                self._holder.on_notification(backend, message(kind, body))
        # What may come at any time may come right behind the answer, in part even: all of it has to be here.
        if self._ready and not len(self._reader):
            self._finish(self._error, alive=True)

    def _out_of_time(self) -> None:
        self._finish(BackendUnavailable("the server did not answer in time"))

    def _finish(self, error: PgDoormanError | None, *, alive: bool = False) -> None:
        done, self._done = self._done, None
        if done is None:
            return
        self._timer.cancel()
        self._backend.holder = self._holder
        if not alive and not isinstance(error, BackendUnavailable):
            error = BackendUnavailable(str(error))
        done(self._backend, self._rows, error)


# PostgreSQL's names of encodings that Python knows by another.
_CODECS: Final = {
    "SQL_ASCII": "latin-1",
    "WIN": "cp1251",
    "ALT": "cp866",
    "KOI8": "koi8-r",
    "KOI8R": "koi8-r",
    "KOI8U": "koi8-u",
    "MULE_INTERNAL": "latin-1",
    "UHC": "cp949",
    "EUC_TW": "big5",
} | {
    f"LATIN{number}": f"iso8859-{part}"
    for number, part in zip(range(1, 11), (1, 2, 3, 4, 9, 10, 13, 14, 15, 16), strict=True)
}


def codec_of(backend: Backend) -> str:
    """The Python codec for what is said on this connection. Where Python has none, bytes pass as they are."""
    return codec_for(backend.reported)


def codec_for(reported: Reported) -> str:
    """The same, from what is reported on it."""
    name = reported.by_name.get("client_encoding", "UTF8")
    name = _CODECS.get(name, name.replace("WIN", "cp") if name.startswith(("WIN1", "WIN8")) else name)
    try:
        return codecs.lookup(name).name
    except LookupError:
        return "latin-1"


def read_row(body: bytes, codec: str = "utf-8") -> tuple[str | None, ...]:
    """The values of a DataRow in text format. Raises ProtocolViolation."""
    values: list[str | None] = []
    position = 2
    for _ in range(int.from_bytes(body[:2])):
        size = int.from_bytes(body[position : position + 4], signed=True)
        position += 4
        if size < 0:
            values.append(None)
            continue
        if position + size > len(body):
            raise ProtocolViolation("a DataRow ends inside a value")
        values.append(body[position : position + size].decode(codec, "replace"))
        position += size
    return tuple(values)


def note_parameter(backend: Backend, body: bytes) -> tuple[str, str]:
    """A ParameterStatus of a backend: remember it, unless it is one of too many. Returns name and value."""
    name, _, rest = body.partition(b"\0")
    key = name.decode("utf-8", "replace")
    value = rest.partition(b"\0")[0].decode("utf-8", "replace")
    present = backend.reported.by_name
    if present.get(key) != value and (key in present or len(present) < MOST_REPORTED):
        backend.reported = reported_of({**present, key: value})
    return key, value

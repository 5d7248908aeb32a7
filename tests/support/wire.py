"""A raw client of the PostgreSQL protocol, version 3, on plain blocking sockets.

It trusts nobody: any message can be built (wrong ones too), any bytes can be sent, and every read has a deadline, so
that a peer that stays silent ends in `Silence` (which tells what had come until then) and never in a test that hangs.

    wire = Wire.connect("127.0.0.1", 6432, user="alice", database="shop")
    wire.ask(parse("s", "select $1::int"), bind("", "s", ["7"]), execute(), sync())   -> list[Reply]
    wire.value("select 1")                                                            -> "1"
    wire.terminate() | wire.hang_up() | wire.reset()                                  three ways to leave

`Outstanding` is a small model of what a server still owes; it knows nothing of pgdoorman, so that it can judge it.
"""

import base64
import contextlib
import hashlib
import hmac
import os
import re
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

PROTOCOL_3_0: Final = 196608
PROTOCOL_3_2: Final = 196610
CANCEL_REQUEST: Final = 80877102
SSL_REQUEST: Final = 80877103
GSSENC_REQUEST: Final = 80877104

Parameter = str | bytes | None


# --- What a client says ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """One frontend message: its type letter ("" for the untyped first ones), its bytes, and how a report writes it."""

    kind: str
    data: bytes
    label: str

    def __repr__(self) -> str:
        return self.label


def _cstring(text: str | bytes) -> bytes:
    return (text.encode() if isinstance(text, str) else text) + b"\0"


def frame(kind: str | bytes, body: bytes, length: int | None = None) -> bytes:
    """A typed message; `length` overrides the length field (it counts itself, so 4 is an empty body)."""
    letter = kind.encode("latin-1") if isinstance(kind, str) else kind
    return letter + struct.pack("!I", (len(body) + 4 if length is None else length) & 0xFFFFFFFF) + body


def _short(text: str | bytes, limit: int = 200) -> str:
    shown = repr(text)
    return shown if len(shown) <= limit else f"{shown[:limit]}... ({len(text)} long)"


def raw(data: bytes, kind: str = "?") -> Request:
    """Bytes as they are."""
    return Request(kind, data, f"raw({_short(data)})")


def query(sql: str | bytes) -> Request:
    return Request("Q", frame("Q", _cstring(sql)), f"query({_short(sql)})")


def parse(name: str | bytes, sql: str | bytes, types: Sequence[int] = ()) -> Request:
    body = _cstring(name) + _cstring(sql) + struct.pack(f"!H{len(types)}I", len(types), *types)
    extra = f", {list(types)}" if types else ""
    return Request("P", frame("P", body), f"parse({name!r}, {_short(sql)}{extra})")


def bind(
    portal: str = "",
    statement: str = "",
    parameters: Sequence[Parameter] = (),
    *,
    parameter_formats: Sequence[int] = (),
    result_formats: Sequence[int] = (),
) -> Request:
    body = _cstring(portal) + _cstring(statement)
    body += struct.pack(f"!H{len(parameter_formats)}H", len(parameter_formats), *parameter_formats)
    body += struct.pack("!H", len(parameters)) + b"".join(map(_counted, parameters))
    body += struct.pack(f"!H{len(result_formats)}H", len(result_formats), *result_formats)
    extra = f", {_values(parameters)}" if parameters else ""
    extra += f", parameter_formats={list(parameter_formats)}" if parameter_formats else ""
    extra += f", result_formats={list(result_formats)}" if result_formats else ""
    return Request("B", frame("B", body), f"bind({portal!r}, {statement!r}{extra})")


def _values(values: Sequence[Parameter]) -> str:
    return f"[{', '.join('None' if value is None else _short(value) for value in values)}]"


def _counted(value: Parameter) -> bytes:
    if value is None:
        return struct.pack("!i", -1)
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("!i", len(data)) + data


def describe_statement(name: str = "") -> Request:
    return Request("D", frame("D", b"S" + _cstring(name)), f"describe_statement({name!r})")


def describe_portal(name: str = "") -> Request:
    return Request("D", frame("D", b"P" + _cstring(name)), f"describe_portal({name!r})")


def execute(portal: str = "", limit: int = 0) -> Request:
    label = f"execute({portal!r}, {limit})" if limit else f"execute({portal!r})"
    return Request("E", frame("E", _cstring(portal) + struct.pack("!i", limit)), label)


def close_statement(name: str = "") -> Request:
    return Request("C", frame("C", b"S" + _cstring(name)), f"close_statement({name!r})")


def close_portal(name: str = "") -> Request:
    return Request("C", frame("C", b"P" + _cstring(name)), f"close_portal({name!r})")


def flush() -> Request:
    return Request("H", frame("H", b""), "flush()")


def sync() -> Request:
    return Request("S", frame("S", b""), "sync()")


def terminate() -> Request:
    return Request("X", frame("X", b""), "terminate()")


def function_call(oid: int, arguments: Sequence[Parameter] = (), *, binary: bool = True) -> Request:
    code = 1 if binary else 0
    body = (
        struct.pack("!IHHH", oid, 1, code, len(arguments))
        + b"".join(map(_counted, arguments))
        + struct.pack("!H", code)
    )
    return Request("F", frame("F", body), f"function_call({oid}, {_values(arguments)}, binary={binary})")


def copy_data(data: str | bytes) -> Request:
    payload = data.encode() if isinstance(data, str) else data
    return Request("d", frame("d", payload), f"copy_data({_short(data)})")


def copy_done() -> Request:
    return Request("c", frame("c", b""), "copy_done()")


def copy_fail(reason: str = "given up") -> Request:
    return Request("f", frame("f", _cstring(reason)), f"copy_fail({reason!r})")


def password_message(data: str | bytes) -> Request:
    """PasswordMessage with its terminator (cleartext or md5)."""
    return Request("p", frame("p", _cstring(data)), "password_message(...)")


def sasl_initial(mechanism: str, data: bytes) -> Request:
    body = _cstring(mechanism) + struct.pack("!i", len(data)) + data
    return Request("p", frame("p", body), f"sasl_initial({mechanism!r}, {_short(data)})")


def sasl_response(data: bytes) -> Request:
    return Request("p", frame("p", data), f"sasl_response({_short(data)})")


def first_message(body: bytes, length: int | None = None) -> bytes:
    """An untyped message, as a connection starts with; `length` overrides the length field (it counts itself)."""
    return struct.pack("!I", (len(body) + 4 if length is None else length) & 0xFFFFFFFF) + body


def startup(parameters: Mapping[str, str], version: int = PROTOCOL_3_0) -> Request:
    pairs = b"".join(_cstring(key) + _cstring(value) for key, value in parameters.items())
    data = first_message(struct.pack("!I", version) + pairs + b"\0")
    return Request("", data, f"startup({dict(parameters)!r}, version={version})")


def ssl_request() -> Request:
    return Request("", first_message(struct.pack("!I", SSL_REQUEST)), "ssl_request()")


def gssenc_request() -> Request:
    return Request("", first_message(struct.pack("!I", GSSENC_REQUEST)), "gssenc_request()")


def cancel_request(process_id: int, secret: bytes) -> Request:
    data = first_message(struct.pack("!II", CANCEL_REQUEST, process_id & 0xFFFFFFFF) + secret)
    return Request("", data, f"cancel_request({process_id}, {secret!r})")


# --- What a server says ---------------------------------------------------------------------------------------------

_NAMES: Final = {
    "R": "Authentication", "K": "BackendKeyData", "2": "BindComplete", "3": "CloseComplete", "C": "CommandComplete",
    "W": "CopyBothResponse", "G": "CopyInResponse", "H": "CopyOutResponse", "D": "DataRow", "I": "EmptyQueryResponse",
    "E": "ErrorResponse", "V": "FunctionCallResponse", "v": "NegotiateProtocolVersion", "n": "NoData",
    "N": "NoticeResponse", "A": "NotificationResponse", "t": "ParameterDescription", "S": "ParameterStatus",
    "1": "ParseComplete", "s": "PortalSuspended", "Z": "ReadyForQuery", "T": "RowDescription", "d": "CopyData",
    "c": "CopyDone",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reply:
    """One backend message: its type letter and its body."""

    kind: str
    body: bytes

    def fields(self) -> dict[str, str]:
        """The fields of an ErrorResponse or NoticeResponse, by letter."""
        parts = self.body.split(b"\0")
        return {chr(part[0]): part[1:].decode("utf-8", "backslashreplace") for part in parts if part}

    def columns(self) -> list[bytes | None]:
        """The values of a DataRow."""
        (count,) = struct.unpack_from("!H", self.body)
        values: list[bytes | None] = []
        at = 2
        for _ in range(count):
            (size,) = struct.unpack_from("!i", self.body, at)
            at += 4
            values.append(None if size < 0 else self.body[at : at + size])
            at += max(size, 0)
        return values

    def column_names(self) -> list[str]:
        """The names in a RowDescription."""
        (count,) = struct.unpack_from("!H", self.body)
        names = []
        at = 2
        for _ in range(count):
            end = self.body.index(b"\0", at)
            names.append(self.body[at:end].decode())
            at = end + 19
        return names

    def text(self) -> str:
        """The body up to its first NUL: a command tag, for example."""
        return self.body.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")

    def parameter(self) -> tuple[str, str]:
        """Name and value of a ParameterStatus."""
        name, value = self.body.split(b"\0")[:2]
        return name.decode(), value.decode("utf-8", "backslashreplace")

    def __repr__(self) -> str:
        return describe(self)


def describe(reply: Reply) -> str:
    """One line that a person can read, with everything in it that PostgreSQL said."""
    name = _NAMES.get(reply.kind, f"unknown {reply.kind!r}")
    try:
        details = _details(reply)
    except (struct.error, ValueError, IndexError):
        details = f"MALFORMED {reply.body[:200]!r}"
    return f"{name} {details}".rstrip()


def _details(reply: Reply) -> str:
    body = reply.body
    match reply.kind:
        case "E" | "N":
            return " ".join(f"{letter}={value!r}" for letter, value in reply.fields().items())
        case "D":
            return ", ".join("NULL" if value is None else _short(value, 120)[1:] for value in reply.columns())
        case "C":
            return repr(reply.text())
        case "Z":
            return body.decode("latin-1")
        case "S":
            name, value = reply.parameter()
            return f"{name}={value!r}"
        case "T":
            return ", ".join(_row_description(body))
        case "t":
            return str(list(struct.unpack(f"!{(len(body) - 2) // 4}I", body[2:])))
        case "A":
            channel, payload = body[4:].split(b"\0")[:2]
            return f"from {struct.unpack('!I', body[:4])[0]} {channel.decode()!r} {payload.decode()!r}"
        case "R":
            return f"{struct.unpack('!I', body[:4])[0]} {_short(body[4:])[1:]}"
        case _:
            return _short(body)[1:] if body else ""


def _row_description(body: bytes) -> Iterable[str]:
    (count,) = struct.unpack_from("!H", body)
    at = 2
    for _ in range(count):
        end = body.index(b"\0", at)
        table, column, oid, size, modifier, form = struct.unpack_from("!IHIhih", body, end + 1)
        yield f"{body[at:end].decode()!r}(table {table}.{column} type {oid} size {size}/{modifier} format {form})"
        at = end + 19


# --- What is still owed ---------------------------------------------------------------------------------------------


class Outstanding:
    """What a server has been asked and has not yet answered, after PostgreSQL's own rules.

    Feed it with `sent` and `received`; `settled` says whether anything is still to come that is sure to come: answers
    of the extended protocol are owed only up to the last Flush, Sync, Query or FunctionCall, since the server may keep
    the others in its buffer. A Sync or Flush between CopyData messages is outside of its knowledge (which of them the
    server swallows depends on the data); right behind the Execute or behind CopyDone they are within.
    """

    _ONE_ANSWER: Final = "PBDEC"
    _ANSWERED_BY: Final = {"P": "1", "B": "2", "C": "3", "D": "Tn", "E": "CIs"}
    _PUSHES: Final = "QFSH"

    def __init__(self) -> None:
        self._queue: deque[str] = deque()  # what is not answered yet, with the Flushes and the ends of COPY in between
        self._skipping = False  # an error came and its Sync is not sent yet
        self._open = False  # a batch was begun and its Sync is not answered yet
        self.copying = False  # the server waits for our CopyData
        self.status = "I"
        self.closed = False

    def __repr__(self) -> str:
        state = "".join(self._queue) or "nothing"
        return f"outstanding: {state}{', copying' * self.copying}{', skipping' * self._skipping}, status {self.status}"

    @property
    def settled(self) -> bool:
        return self.closed or self.copying or not any(kind in self._PUSHES for kind in self._queue)

    @property
    def is_empty(self) -> bool:
        """Nothing at all is under way: no answer is to come and no Sync is missing."""
        return not self._queue and not self._open and not self.copying

    def sent(self, kind: str) -> None:
        if self.copying and kind in "dHScf":
            self._sent_in_copy(kind)
        elif kind == "S" or (kind in "PBDECQFHcf" and not self._skipping):
            self._skipping = False
            self._open = self._open or kind in self._ONE_ANSWER
            self._queue.append(kind)
            self._drop_answerless()

    def _sent_in_copy(self, kind: str) -> None:
        if kind in "cf":
            self.copying = False
        if kind == "f" and self._queue and self._queue[0] == "E":
            self._queue.insert(1, "H")  # the error that it causes is sent at once

    def received(self, reply: Reply) -> None:
        kind = reply.kind
        if kind == "Z":
            self.status = reply.body.decode("latin-1")
            while self._queue and self._queue.popleft() not in "QFS":
                pass
            self._open = any(left in self._ONE_ANSWER for left in self._queue)
        elif kind == "E":
            self._failed(reply)
        elif kind == "G":
            self._copy_in()
        elif self._queue and kind in self._ANSWERED_BY.get(self._queue[0], ""):
            self._queue.popleft()
        self._drop_answerless()

    def _failed(self, reply: Reply) -> None:
        self.copying = False
        fatal = reply.fields().get("S") in ("FATAL", "PANIC")  # then the end of the connection follows
        if not fatal and self._queue and self._queue[0] in self._ONE_ANSWER:
            while self._queue and self._queue[0] != "S":
                self._queue.popleft()
            self._skipping = not self._queue

    def _copy_in(self) -> None:
        """In copy mode the server ignores Sync and Flush; what was already sent behind may hold the whole COPY."""
        head = self._queue.popleft() if self._queue else "Q"
        self.copying = True
        while self.copying and self._queue and self._queue[0] in "SHcf":
            self._sent_in_copy(self._queue.popleft())
        self._queue.appendleft(head)

    def _drop_answerless(self) -> None:
        """A Flush with nothing in front of it is done; an end of COPY at the head is one that the server ignores."""
        while self._queue and self._queue[0] in "Hcf":
            self._queue.popleft()


# --- The connection -------------------------------------------------------------------------------------------------


class WireError(Exception):
    """The conversation did not go on as it should. `replies` is what had come in this read until then."""

    def __init__(self, message: str, replies: Sequence[Reply] = ()) -> None:
        self.replies = list(replies)
        came = "".join(f"\n    < {reply}" for reply in self.replies[-40:]) or " nothing"
        super().__init__(f"{message}; until then came:{came}")


class Silence(WireError):
    """The deadline passed before the answer came."""


class HungUp(WireError):
    """The peer closed the connection."""


class ServerError(Exception):
    """An ErrorResponse where none was wanted. `fields` are its fields by letter."""

    def __init__(self, reply: Reply) -> None:
        self.fields = reply.fields()
        super().__init__(describe(reply))

    @property
    def sqlstate(self) -> str:
        return self.fields.get("C", "")


class Wire:
    """One connection. Every wait is bounded by `patience` seconds unless the call says otherwise."""

    def __init__(self, sock: socket.socket, patience: float = 10.0) -> None:
        self.sock = sock
        self.patience = patience
        self.outstanding = Outstanding()
        self.parameters: dict[str, str] = {}
        self.process_id = 0
        self.secret = b""
        self.closed = False
        self._buffer = bytearray()

    # -- opening --

    @classmethod
    def dial(cls, host: str, port: int, patience: float = 10.0) -> Self:
        """Connects (`host` may be a unix-socket directory) and says nothing."""
        if host.startswith("/"):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(patience)
            sock.connect(f"{host}/.s.PGSQL.{port}")
        else:
            sock = socket.create_connection((host, port), timeout=patience)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(sock, patience)

    @classmethod
    def connect(
        cls,
        host: str,
        port: int,
        *,
        user: str,
        database: str,
        password: str = "",
        parameters: Mapping[str, str] | None = None,
        version: int = PROTOCOL_3_0,
        patience: float = 10.0,
        tls: ssl.SSLContext | None = None,
    ) -> Self:
        """Logs in. Raises ServerError if refused, WireError if the peer hangs up or stays silent."""
        wire = cls.dial(host, port, patience)
        try:
            if tls is not None:
                wire.start_tls(tls, host)
            wire.log_in({"user": user, "database": database, **(parameters or {})}, password, version)
        except BaseException:
            wire.hang_up()
            raise
        return wire

    def start_tls(self, context: ssl.SSLContext, server_name: str = "localhost") -> None:
        self.send(ssl_request())
        answer = self.receive_bytes(1)
        if answer != b"S":
            raise WireError(f"SSLRequest was answered {answer!r}")
        self.sock = context.wrap_socket(self.sock, server_hostname=server_name)

    def log_in(self, parameters: Mapping[str, str], password: str = "", version: int = PROTOCOL_3_0) -> list[Reply]:
        """StartupMessage, whatever authentication the server asks for, and everything up to the first ReadyForQuery."""
        self.send(startup(parameters, version))
        replies: list[Reply] = []
        scram: ScramClient | None = None
        while True:
            reply = self.receive()
            replies.append(reply)
            match reply.kind:
                case "E":
                    raise ServerError(reply)
                case "R":
                    scram = self._authenticate(reply, parameters["user"], password, scram)
                case "K":
                    self.process_id = struct.unpack("!I", reply.body[:4])[0]
                    self.secret = reply.body[4:]
                case "Z":
                    return replies

    def _authenticate(
        self, reply: Reply, user: str, password: str, scram: "ScramClient | None"
    ) -> "ScramClient | None":
        (code,) = struct.unpack("!I", reply.body[:4])
        match code:
            case 0:
                pass
            case 3:
                self.send(password_message(password))
            case 5:
                self.send(password_message(md5_answer(user, password, reply.body[4:8])))
            case 10:
                scram = ScramClient(password)
                self.send(sasl_initial("SCRAM-SHA-256", scram.first()))
            case 11 if scram is not None:
                self.send(sasl_response(scram.final(reply.body[4:])))
            case 12 if scram is not None:
                scram.verify(reply.body[4:])
            case _:
                raise WireError(f"authentication request {code} out of place")
        return scram

    # -- talking --

    def send(self, *what: Request | bytes) -> None:
        """Sends all in one go (blocking, at most `patience` seconds). Raises HungUp if the peer has gone."""
        for one in what:
            if isinstance(one, Request) and one.kind:
                self.outstanding.sent(one.kind)
        self.send_bytes(b"".join(one.data if isinstance(one, Request) else one for one in what))

    def send_bytes(self, data: bytes) -> None:
        """Sends without noting that anything is expected."""
        try:
            self.sock.settimeout(self.patience)
            self.sock.sendall(data)
        except TimeoutError:
            raise Silence(f"the peer did not take {len(data)} bytes in {self.patience} s") from None
        except OSError as error:
            raise HungUp(f"sending failed: {error}") from None

    def receive(self, patience: float | None = None) -> Reply:
        """The next message. Raises Silence or HungUp."""
        return self._receive(time.monotonic() + (self.patience if patience is None else patience))

    def _receive(self, deadline: float) -> Reply:
        while (reply := self._take()) is None:
            self._fill(deadline)
        return reply

    def _take(self) -> Reply | None:
        buffer = self._buffer
        if len(buffer) < 5:
            return None
        size = int.from_bytes(buffer[1:5])
        if len(buffer) <= size:
            return None
        if size < 4:
            raise WireError(f"a message with length {size} came: {bytes(buffer[:60])!r}")
        reply = Reply(chr(buffer[0]), bytes(buffer[5 : size + 1]))
        del buffer[: size + 1]
        self.outstanding.received(reply)
        if reply.kind == "S" and reply.body.count(b"\0") == 2:
            name, value = reply.parameter()
            self.parameters[name] = value
        return reply

    def _fill(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise Silence(f"no answer in time ({self.outstanding}, {len(self._buffer)} bytes of a message are here)")
        self.sock.settimeout(left)
        try:
            data = self.sock.recv(262144)
        except TimeoutError:
            return
        except OSError as error:
            self.closed = self.outstanding.closed = True
            raise HungUp(f"the connection broke: {error}") from None
        if not data:
            self.closed = self.outstanding.closed = True
            raise HungUp(f"the peer closed the connection ({len(self._buffer)} bytes of a message were here)")
        self._buffer += data

    def receive_bytes(self, count: int, patience: float | None = None) -> bytes:
        """Exactly `count` untyped bytes."""
        deadline = time.monotonic() + (self.patience if patience is None else patience)
        while len(self._buffer) < count:
            self._fill(deadline)
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def receive_until(self, kinds: str, patience: float | None = None) -> list[Reply]:
        """Messages up to and with the first of the given types."""
        return self._collect(lambda replies: bool(replies) and replies[-1].kind in kinds, patience)

    def settle(self, patience: float | None = None) -> list[Reply]:
        """Everything that the server owes for what was sent (see Outstanding)."""
        return self._collect(lambda _: self.outstanding.settled, patience)

    def receive_count(self, count: int, patience: float | None = None) -> list[Reply]:
        return self._collect(lambda replies: len(replies) >= count, patience)

    def _collect(self, done: Callable[[list[Reply]], bool], patience: float | None) -> list[Reply]:
        deadline = time.monotonic() + (self.patience if patience is None else patience)
        replies: list[Reply] = []
        while not done(replies):
            try:
                replies.append(self._receive(deadline))
            except WireError as error:
                raise type(error)(str(error).split("; until then came:")[0], replies) from None
        return replies

    def poll(self, wait: float = 0.0) -> list[Reply]:
        """What comes within `wait` seconds, perhaps nothing; the end of the connection is not an error here."""
        deadline = time.monotonic() + wait
        replies: list[Reply] = []
        with contextlib.suppress(Silence, HungUp):
            while True:
                while (reply := self._take()) is not None:
                    replies.append(reply)
                late = time.monotonic() > deadline
                self._fill(max(deadline, time.monotonic() + 0.0005))
                if late:
                    break
        while (reply := self._take()) is not None:
            replies.append(reply)
        return replies

    def wait_closed(self, patience: float | None = None) -> list[Reply]:
        """Everything until the peer closes. Raises Silence if it does not."""
        deadline = time.monotonic() + (self.patience if patience is None else patience)
        replies: list[Reply] = []
        while True:
            try:
                replies.append(self._receive(deadline))
            except HungUp:
                return replies
            except Silence as error:
                raise Silence(f"the peer did not close: {error.args[0]}".split("; until")[0], replies) from None

    # -- asking --

    def ask(self, *requests: Request | bytes, patience: float | None = None) -> list[Reply]:
        self.send(*requests)
        return self.settle(patience)

    def rows(self, sql: str, patience: float | None = None) -> list[tuple[str | None, ...]]:
        """The rows of a simple query (all of them, of all its statements). Raises ServerError at the first error."""
        replies = self.ask(query(sql), patience=patience)
        for reply in replies:
            if reply.kind == "E":
                raise ServerError(reply)
        return [
            tuple(None if value is None else value.decode("utf-8", "backslashreplace") for value in reply.columns())
            for reply in replies
            if reply.kind == "D"
        ]

    def value(self, sql: str, patience: float | None = None) -> str | None:
        """The first column of the first row."""
        rows = self.rows(sql, patience)
        if not rows:
            raise AssertionError(f"no row came for {sql!r}")
        return rows[0][0]

    def run(self, sql: str, patience: float | None = None) -> str:
        """Runs a simple query for its effect; the last command tag. Raises ServerError."""
        replies = self.ask(query(sql), patience=patience)
        for reply in replies:
            if reply.kind == "E":
                raise ServerError(reply)
        tags = [reply.text() for reply in replies if reply.kind == "C"]
        return tags[-1] if tags else ""

    # -- leaving --

    def terminate(self) -> None:
        """Politely: Terminate, then close."""
        with contextlib.suppress(WireError):
            self.send(terminate())
        self.hang_up()

    def hang_up(self) -> None:
        """Closes the socket without a word."""
        self.closed = True
        self.sock.close()

    def reset(self) -> None:
        """Closes with a TCP reset."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.hang_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.closed:
            self.sock.close()
        elif kind is None:
            self.terminate()
        else:
            self.hang_up()


# --- Authentication, the client's half ------------------------------------------------------------------------------


def md5_answer(user: str, password: str, salt: bytes) -> str:
    inner = hashlib.md5(password.encode() + user.encode(), usedforsecurity=False).hexdigest()
    return "md5" + hashlib.md5(inner.encode() + salt, usedforsecurity=False).hexdigest()


def md5_secret(user: str, password: str) -> str:
    """The stored form, as in pg_authid."""
    return "md5" + hashlib.md5(password.encode() + user.encode(), usedforsecurity=False).hexdigest()


def scram_secret(password: str, *, salt: bytes = b"sixteen  bytes!!", iterations: int = 4096) -> str:
    """The stored form, as in pg_authid (RFC 5803 in PostgreSQL's spelling)."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    encode = base64.b64encode
    return f"SCRAM-SHA-256${iterations}:{encode(salt).decode()}${encode(stored).decode()}:{encode(server).decode()}"


class ScramClient:
    """SCRAM-SHA-256 without channel binding (RFC 5802, RFC 7677)."""

    def __init__(self, password: str, nonce: str | None = None) -> None:
        self._password = password.encode()
        self._nonce = nonce or base64.b64encode(os.urandom(18)).decode()
        self._bare = f"n=,r={self._nonce}"
        self._server_signature = b""

    def first(self) -> bytes:
        return b"n,," + self._bare.encode()

    def final(self, server_first: bytes) -> bytes:
        found = re.fullmatch(rb"r=([^,]+),s=([^,]+),i=(\d+).*", server_first)
        if found is None or not found[1].startswith(self._nonce.encode()):
            raise WireError(f"the server's first SCRAM message is wrong: {server_first!r}")
        salted = hashlib.pbkdf2_hmac("sha256", self._password, base64.b64decode(found[2]), int(found[3]))
        key = hmac.digest(salted, b"Client Key", "sha256")
        without_proof = b"c=biws,r=" + found[1]
        message = self._bare.encode() + b"," + server_first + b"," + without_proof
        signature = hmac.digest(hashlib.sha256(key).digest(), message, "sha256")
        self._server_signature = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), message, "sha256")
        proof = bytes(a ^ b for a, b in zip(key, signature, strict=True))
        return without_proof + b",p=" + base64.b64encode(proof)

    def verify(self, server_final: bytes) -> None:
        if server_final != b"v=" + base64.b64encode(self._server_signature):
            raise WireError(f"the server's signature is wrong: {server_final!r}")


# --- Making answers comparable --------------------------------------------------------------------------------------


class Normaliser:
    """Takes out of replies only what must differ between two servers that behave alike: the process id of a
    notification, and object ids made by users (16384 and up), which become #1, #2, ... as they are first seen."""

    _FIRST_USER_OID: Final = 16384

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}

    def line(self, reply: Reply) -> str:
        text = describe(reply)
        if reply.kind == "E" and reply.fields().get("C") == "25P02":
            # A statement that must be prepared anew first is refused by another of the server's functions.
            return re.sub(r" L='\d+' R='\w+'", "", text)
        if reply.kind == "E" and reply.fields().get("M", "").startswith("invalid frontend message type"):
            return re.sub(
                r" F='[\w.]+' L='\d+' R='\w+'", "", text
            )  # said by the pooler, not by a line of the server's source
        if reply.kind == "A":
            return re.sub(r"from \d+", "from *", text)
        if reply.kind in "Tt":
            return re.sub(r"(?<=[ \[])\d{5,10}(?=[.,\] ])", self._alias, text)
        return text

    def _alias(self, found: re.Match[str]) -> str:
        oid = int(found[0])
        if oid < self._FIRST_USER_OID:
            return found[0]
        return f"#{self._numbers.setdefault(oid, len(self._numbers) + 1)}"

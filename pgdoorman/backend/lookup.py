"""Questions with one parameter, asked on a backend that serves nobody else. Blocking, with a deadline; for helper threads.

All questions go out at once, each with its own Sync, and behind them DISCARD ALL: a question may call functions that
change the session, and the next one is to find it as new.
"""

import select
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from pgdoorman.backend.connection import Backend
from pgdoorman.backend.inquiry import read_row
from pgdoorman.errors import BackendRefused, BackendUnavailable, ProtocolViolation
from pgdoorman.protocol import codes
from pgdoorman.protocol.framing import FrameReader, message
from pgdoorman.protocol.startup import parse_error_fields
from pgdoorman.transport.sockets import DONT_WAIT

LARGEST_ANSWER: Final = 1 << 20
"""Bytes that all answers together may have."""


@dataclass(slots=True)
class LookupAnswer:
    """What came for one question: rows in text format, or the server's refusal."""

    columns: list[str] = field(default_factory=list)
    rows: list[tuple[str | None, ...]] = field(default_factory=list)
    error: BackendRefused | None = None


def wait_answers(backend: Backend, questions: Sequence[str], argument: str, deadline: float) -> list[LookupAnswer]:
    """Ask each question with `argument` as $1 (a text). `deadline` is monotonic seconds.

    Raises BackendUnavailable (lost, too slow, no PostgreSQL) and BackendRefused (the session cannot be made clean);
    then the backend must be closed."""
    request = b"".join(_question(sql, argument) for sql in questions) + message(codes.QUERY, b"DISCARD ALL\0")
    _send(backend, request, deadline)
    answers = [LookupAnswer() for _ in range(len(questions) + 1)]
    reader = FrameReader(LARGEST_ANSWER)
    received = done = 0
    while done < len(answers):
        data = _receive(backend, deadline)
        received += len(data)
        if received > LARGEST_ANSWER:
            raise BackendUnavailable("the server answers a look-up at too great a length")
        reader.feed(data)
        try:
            while done < len(answers) and (found := reader.next()) is not None:
                done += _read(answers[done], *found)
        except (ProtocolViolation, IndexError, UnicodeDecodeError) as error:
            raise BackendUnavailable(f"the server broke the protocol: {error}") from None
    if len(reader):
        raise BackendUnavailable("the server has more to say than it was asked")
    cleaned = answers.pop()
    if cleaned.error is not None:
        raise cleaned.error
    return answers


def wait_raw_answer(backend: Backend, sql: bytes, deadline: float) -> bytes | None:
    """What the server says to a simple query, as it came, up to its ReadyForQuery; None if that is an error, leaves a
    transaction open, or is more than `LARGEST_ANSWER`. Notices and changed parameters are left out.

    Raises BackendUnavailable (lost, too slow, no PostgreSQL); then the backend must be closed."""
    _send(backend, message(codes.QUERY, sql + b"\0"), deadline)
    reader = FrameReader(LARGEST_ANSWER)
    answer: list[bytes] = []
    good, size = True, 0
    while True:
        try:
            found = reader.next()
        except ProtocolViolation as error:
            raise BackendUnavailable(f"the server broke the protocol: {error}") from None
        if found is None:
            reader.feed(_receive(backend, deadline))
            continue
        kind, body = found
        size += len(body)
        good = good and kind != codes.ERROR_RESPONSE and size <= LARGEST_ANSWER
        if good and kind not in (codes.NOTICE_RESPONSE, codes.PARAMETER_STATUS, codes.NOTIFICATION_RESPONSE):
            answer.append(message(kind, body))
        if kind == codes.READY_FOR_QUERY:
            if body != b"I":
                raise BackendUnavailable("pooler_check_query leaves a transaction open")
            return b"".join(answer) if good else None


def _question(sql: str, argument: str) -> bytes:
    value = argument.encode()
    return b"".join(
        (
            message(codes.PARSE, b"\0" + sql.encode() + b"\0\0\0"),
            message(codes.BIND, b"\0\0\0\0\0\1" + len(value).to_bytes(4) + value + b"\0\0"),
            message(codes.DESCRIBE, b"P\0"),
            message(codes.EXECUTE, b"\0\0\0\0\0"),
            message(codes.SYNC),
        )
    )


def _read(answer: LookupAnswer, kind: int, body: bytes) -> bool:
    """Take one message; True if it ends the answer."""
    if kind == codes.READY_FOR_QUERY:
        if body != b"I":
            raise ProtocolViolation("a transaction is open behind a look-up")
        return True
    if kind == codes.ROW_DESCRIPTION:
        answer.columns = _column_names(body)
    elif kind == codes.DATA_ROW:
        answer.rows.append(read_row(body))
    elif kind == codes.ERROR_RESPONSE:
        answer.error = answer.error or BackendRefused(parse_error_fields(body))
    return False


def _column_names(body: bytes) -> list[str]:
    names: list[str] = []
    position = 2
    for _ in range(int.from_bytes(body[:2])):
        end = body.index(b"\0", position) if b"\0" in body[position:] else len(body)
        names.append(body[position:end].decode())
        position = end + 19
    if position != len(body):
        raise ProtocolViolation("a malformed RowDescription")
    return names


def _send(backend: Backend, data: bytes, deadline: float) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[backend.send(rest, DONT_WAIT) :]
        except BlockingIOError:
            _wait(backend, select.POLLIN | select.POLLOUT, deadline)
        except OSError as error:
            raise BackendUnavailable(f"the connection to the server was lost: {error.strerror}") from error


def _receive(backend: Backend, deadline: float) -> bytes:
    while True:
        try:
            data = backend.recv(65536, DONT_WAIT)
        except BlockingIOError:
            _wait(backend, select.POLLIN, deadline)
            continue
        except OSError as error:
            raise BackendUnavailable(f"the connection to the server was lost: {error.strerror}") from error
        if not data:
            raise BackendUnavailable("the server closed the connection unexpectedly")
        return data


def _wait(backend: Backend, events: int, deadline: float) -> None:
    remaining = deadline - monotonic()
    if remaining <= 0:
        raise BackendUnavailable("the server did not answer in time")
    poll = select.poll()
    poll.register(backend.fd, events)
    poll.poll(remaining * 1000)

"""Message boundaries: what a relay does to every buffer, and the forms for everyone who is not hot."""

from collections.abc import Iterator

from bench.micro.timing import Operation, calling
from pgdoorman.protocol.framing import HEADER, FrameReader, length_at, message, messages_in

REPLY = (
    message(ord("T"), bytes(24))  # one column
    + message(ord("D"), bytes(11))
    + message(ord("C"), b"SELECT 1\0")
    + message(ord("Z"), b"I")
)
ROWS = message(ord("D"), bytes(100)) * 500
REPLY_MESSAGES = 4
ROWS_MESSAGES = 500


def walk(data: bytes) -> int:
    """The walk of a relay, in its leanest form: this is the floor against which the relay itself is to be judged."""
    read_length = length_at
    position = 0
    total = len(data)
    while position + HEADER <= total:
        position += 1 + read_length(data, position + 1)[0]
    return position


def _read_all() -> None:
    reader = FrameReader()
    reader.feed(REPLY)
    while reader.next() is not None:
        pass


def operations() -> Iterator[Operation]:
    """Per message, except where the name says otherwise."""
    body = bytes(11)
    yield calling("walk the reply to select 1, per message", lambda: walk(REPLY), REPLY_MESSAGES)
    yield calling("walk 500 rows, per message", lambda: walk(ROWS), ROWS_MESSAGES)
    yield calling("messages_in, reply to select 1, per message", lambda: list(messages_in(REPLY)), REPLY_MESSAGES)
    yield calling("FrameReader, reply to select 1, per message", _read_all, REPLY_MESSAGES)
    yield calling("message(), 11 bytes", lambda: message(68, body))

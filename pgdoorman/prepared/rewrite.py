"""The bytes of rewritten messages, and the client's own names in error texts."""

import re
from collections.abc import Callable

from pgdoorman.constants import bind_constants
from pgdoorman.prepared.statement import PREFIX, Statement
from pgdoorman.protocol import codes
from pgdoorman.protocol.framing import UINT32, message

_pack = UINT32.pack

# A Close of a statement that never exists: the server answers CloseComplete in place, and skips it after an error as it
# would skip the Parse whose place it takes. Costs the server 1 to 3 us, a real Parse 25.
STAND_IN_NAME = PREFIX + b"none"
STAND_IN = b"C" + _pack(6 + len(STAND_IN_NAME)) + b"S" + STAND_IN_NAME + b"\0"

_OUR_NAMES = re.compile(re.escape(PREFIX) + rb"[0-9a-z]+")


def parse_message(name: bytes, tail: bytes) -> bytes:
    """A Parse under a name of ours; `tail` as in `Statement`."""
    return b"P" + _pack(5 + len(name) + len(tail)) + name + b"\0" + tail


def prepare_message(statement: Statement) -> bytes:
    """The Parse that prepares a statement."""
    return parse_message(statement.name, statement.tail)


def prepare_again_message(statement: Statement) -> bytes:
    """The Parse that prepares a statement which the client has parsed before. Its parameters have the types that they were
    found to have then, if that is known: as PostgreSQL has it where it analyses a text anew."""
    if statement.parameters is None:
        return prepare_message(statement)
    return parse_message(statement.name, statement.text + b"\0" + statement.parameters)


def describe_message(name: bytes) -> bytes:
    """Describe of a statement."""
    return b"D" + _pack(6 + len(name)) + b"S" + name + b"\0"


def close_message(name: bytes) -> bytes:
    """Close of a statement."""
    return b"C" + _pack(6 + len(name)) + b"S" + name + b"\0"


def close_portal_message(name: bytes) -> bytes:
    """Close of a portal."""
    return b"C" + _pack(6 + len(name)) + b"P" + name + b"\0"


def execute_with(name: bytes, value: bytes) -> bytes:
    """Bind of a statement with one parameter, a text, to the unnamed portal, and Execute."""
    bind = b"\0" + name + b"\0\0\0\0\1" + _pack(len(value)) + value + b"\0\0"
    return b"B" + _pack(4 + len(bind)) + bind + b"E" + _pack(9) + bytes(5)


def query_message(sql: bytes) -> bytes:
    """A simple Query."""
    return b"Q" + _pack(5 + len(sql)) + sql + b"\0"


def apart_messages(sql: bytes, name: bytes) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """Parse, Bind, Execute and two Closes: one statement run under a name that nobody else has, so that the unnamed statement
    and the unnamed portal stay as they are. No Sync."""
    end = name + b"\0"
    return (
        parse_message(name, sql + b"\0\0\0"),
        message(codes.BIND, end + end + b"\0\0" * 3),
        message(codes.EXECUTE, end + b"\0\0\0\0"),
        close_portal_message(name),
        close_message(name),
    )


def guard_name(name: bytes) -> bytes:
    """A client's own name as it may go to a server: one that looks like ours gets a tail that no name of ours has."""
    return name + b"x" if name.startswith(PREFIX) else name


def restore_names(message: bytes, name_of: Callable[[bytes], bytes | None]) -> bytes:
    """An ErrorResponse or NoticeResponse with our statement names replaced by the client's own."""
    if PREFIX not in message:
        return message

    def own(match: re.Match[bytes]) -> bytes:
        name = match.group()
        if name.endswith(b"x"):
            return name[:-1]
        found = name_of(name)
        return b"" if found is None else found

    body = _OUR_NAMES.sub(own, message[5:])
    return message[:1] + _pack(len(body) + 4) + body


bind_constants(__name__)

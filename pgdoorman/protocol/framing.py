"""Message boundaries in a buffer (protocol, "Message Flow": a type byte, then an int32 length that counts itself).

Hot loops walk buffers with `length_at` bound to a local name instead of calling anything here: finding a boundary that
way costs about 170 ns, an object per message about 690 ns. This module holds what those loops share and the forms for
everyone who is not hot.
"""

import struct
from collections.abc import Buffer, Callable, Iterator

from pgdoorman.errors import ProtocolViolation

INT32 = struct.Struct("!i")
UINT32 = struct.Struct("!I")

# The unsigned length at an offset: a length of 2**31 and more must compare as too long, not as negative.
length_at: Callable[[Buffer, int], tuple[int]] = UINT32.unpack_from


def table_of(kinds: bytes) -> bytes:
    """For each byte whether it is one of `kinds`, as 0 or 1: `table[kind]` asks."""
    return bytes(int(kind in kinds) for kind in range(256))


# The type and the length at an offset: cheaper than to look for each alone.
header_at: Callable[[Buffer, int], tuple[int, int]] = struct.Struct("!BI").unpack_from


def end_of_run(data: Buffer, kind: int, position: int) -> int:
    """Skip messages of type `kind`, beginning at `position`. Returns where the first other one begins, or where a header is
    not whole: behind the end of `data` if its last message is not. It stops at a length that cannot be, too."""
    try:
        while True:
            found, length = header_at(data, position)
            if found != kind or length < 4:
                return position
            position += 1 + length
    except struct.error:  # asking first whether five bytes are left would cost every message 20 ns
        return position


HEADER = 5  # a type byte and a length
LARGEST_MESSAGE = 0x3FFFFFFF  # PostgreSQL's limit for large messages (PQ_LARGE_MESSAGE_LIMIT)
LARGEST_SMALL_MESSAGE = 10_000  # and for those that cannot be large (PQ_SMALL_MESSAGE_LIMIT)


def message(kind: int, body: bytes = b"") -> bytes:
    """One message of type `kind`."""
    return b"%c%b%b" % (kind, UINT32.pack(len(body) + 4), body)


def messages_in(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The whole messages in `data` as (type, body). Raises ProtocolViolation at a broken length or an incomplete end."""
    position = 0
    total = len(data)
    while position < total:
        if total - position < HEADER:
            raise ProtocolViolation("a message ends inside its header")
        length = length_at(data, position + 1)[0]
        end = position + 1 + length
        if length < 4 or end > total:
            raise ProtocolViolation(f"invalid message length {length}")
        yield data[position], data[position + HEADER : end]
        position = end


class FrameReader:
    """Collects bytes and yields whole messages: for logins and other conversations that are not hot.

    Raises ProtocolViolation for a length below 4 or a message longer than `limit` bytes.
    """

    def __init__(self, limit: int = LARGEST_MESSAGE) -> None:
        self._buffer = bytearray()
        self.limit = limit

    def feed(self, data: bytes) -> None:
        """Add what was received."""
        self._buffer += data

    def next(self) -> tuple[int, bytes] | None:
        """The next whole message as (type, body), or None if more bytes are needed."""
        buffer = self._buffer
        if len(buffer) < HEADER:
            return None
        length = length_at(buffer, 1)[0]
        if length < 4 or length - 4 > self.limit:
            raise ProtocolViolation("invalid message length")
        if len(buffer) < 1 + length:
            return None
        body = bytes(buffer[HEADER : 1 + length])
        kind = buffer[0]
        del buffer[: 1 + length]
        return kind, body

    def rest(self) -> bytes:
        """What was fed and not yet consumed; the reader is empty afterwards."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def __len__(self) -> int:
        return len(self._buffer)

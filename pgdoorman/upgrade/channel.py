"""The way by which clients go from one process to the next: a pair of unix sockets that only the two have.

    u32 length | payload        with each, at most one descriptor (SCM_RIGHTS, unix(7))

The first payload comes from the successor and says which format of records it reads; without it nobody is sent. All others
go the other way, one client each. A method that blocks begins with `wait_`.
"""

import array
import errno
import json
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from pgdoorman import __version__
from pgdoorman.client.records import FORMAT
from pgdoorman.errors import HandoverError

_LENGTH: Final = struct.Struct("!I")
_ROOM: Final = socket.CMSG_SPACE(array.array("i").itemsize)
_BREATH: Final = (
    0.01  # seconds until the other side has taken some descriptors off the way, when the kernel allows no more
)


class Channel:
    """One end. One thread may send and one may receive; `close` may be called by any, and ends their waits."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def wait_send(self, payload: bytes, attached: Any = None) -> None:
        """Send this, and with it a socket, which stays open here too. Raises OSError if the other side is gone."""
        rest = memoryview(_LENGTH.pack(len(payload)) + payload)
        if attached is not None:
            rest = rest[self._wait_send_first(rest, attached.fileno()) :]
        self._sock.sendall(rest)

    def _wait_send_first(self, data: memoryview, descriptor: int) -> int:
        rights: Sequence[tuple[int, int, Any]] = [
            (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))
        ]
        while True:
            try:
                return self._sock.sendmsg([data], rights)
            except OSError as error:
                if error.errno != errno.ETOOMANYREFS:
                    raise
                time.sleep(_BREATH)

    def wait_receive(self) -> tuple[bytes, socket.socket | None] | None:
        """The next payload with what came along; None at the end. Raises OSError, and HandoverError for what is no payload."""
        head, attached = self._wait_receive_head()
        if not head:
            return None
        try:
            length = _LENGTH.unpack(head + self._wait_receive_whole(_LENGTH.size - len(head)))[0]
            return self._wait_receive_whole(length), attached
        except BaseException:
            if attached is not None:
                attached.close()
            raise

    def _wait_receive_head(self) -> tuple[bytes, socket.socket | None]:
        # (Whoever we start must not inherit what we are given.)
        head, ancillary, _, _ = self._sock.recvmsg(_LENGTH.size, _ROOM, socket.MSG_CMSG_CLOEXEC)
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                return head, socket.socket(fileno=array.array("i", data)[0])
        return head, None

    def _wait_receive_whole(self, size: int) -> bytes:
        parts = []
        while size:
            part = self._sock.recv(min(size, 1 << 20))
            if not part:
                raise HandoverError("the other process ended in the middle of a word")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    # The first word.

    def wait_say_hello(self) -> None:
        """The successor's: clients may be sent. Raises OSError."""
        self.wait_send(json.dumps({"format": FORMAT, "version": __version__}).encode())

    def wait_hello(self, patience: float) -> None:
        """The predecessor's: wait for that word for up to `patience` seconds. Raises HandoverError if it does not come or says
        that the other cannot read what we write."""
        self._sock.settimeout(patience)
        try:
            heard = self.wait_receive()
            told = json.loads(heard[0]) if heard is not None else {}
            formats = told.get("format")
        except (OSError, ValueError, AttributeError) as error:
            raise HandoverError("the new process takes no clients over") from error
        finally:
            self._sock.settimeout(None)
        if formats != FORMAT:
            raise HandoverError(f"the new process reads format {formats} of clients' records, this one writes {FORMAT}")

    def close(self) -> None:
        """The end, also of waits of other threads. Idempotent."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

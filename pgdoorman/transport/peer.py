"""Who is at the other end of a socket, and where ours is."""

import socket
import struct
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Peer:
    """The address of a client. `address` is an IP address as text, or `unix`; the credentials are those of a unix
    socket's peer (SO_PEERCRED), -1 otherwise."""

    address: str
    port: int
    is_unix: bool = False
    process_id: int = 0
    user_id: int = -1

    def __str__(self) -> str:
        if self.is_unix:
            return f"unix({self.process_id})" if self.process_id else "unix"
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


def peer_of(sock: socket.socket, address: Any) -> Peer:
    """The peer of an accepted socket, by the address that `accept` gave. Never raises: a client may be gone before it is
    looked at."""
    if not isinstance(address, tuple):  # a unix socket's: a path or nothing (asking the socket makes an enum's member)
        try:
            data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            process_id, user_id, _ = struct.unpack("3i", data)
        except OSError:
            process_id, user_id = 0, -1
        return Peer("unix", 0, True, process_id, user_id)
    return Peer(*_address(address))


def local_end(sock: socket.socket | None) -> tuple[str, int]:
    """Address and port of our end of a socket: an IP address, or `unix` and 0. ("", 0) for one that is closed.

    May be asked by a thread that does not own the socket: it is one look that changes nothing.
    """
    try:
        if sock is None:
            return "", 0
        return ("unix", 0) if sock.family == socket.AF_UNIX else _address(sock.getsockname())
    except OSError:
        return "", 0


def _address(address: Any) -> tuple[str, int]:
    host, port = str(address[0]), int(address[1])
    if host.startswith("::ffff:") and "." in host:
        host = host[7:]  # an IPv4 client on an IPv6 listener is an IPv4 client
    return host.partition("%")[0], port

"""Reaching PostgreSQL: blocking connects with a deadline, for helper threads."""

import socket
from dataclasses import dataclass
from time import monotonic
from typing import Any

from pgdoorman.errors import BackendUnavailable
from pgdoorman.transport.sockets import SocketOptions, apply_options, close_quietly


@dataclass(frozen=True, slots=True)
class Address:
    """Where a PostgreSQL listens: a host name or address, or the directory of its unix socket (a leading / or @)."""

    host: str
    port: int

    @property
    def is_unix(self) -> bool:
        return self.host.startswith(("/", "@"))

    @property
    def path(self) -> str:
        """The socket's path, abstract ones with a leading NUL as the kernel wants them."""
        path = f"{self.host}/.s.PGSQL.{self.port}"
        return "\0" + path[1:] if path.startswith("@") else path

    def __str__(self) -> str:
        if self.is_unix:
            return f"unix:{self.host}/.s.PGSQL.{self.port}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def wait_connected(address: Address, timeout: float, options: SocketOptions) -> socket.socket:
    """A connected blocking socket. Each address of a name is tried in turn within one budget of `timeout` seconds.

    Raises BackendUnavailable, with the last reason in its text.
    """
    deadline = monotonic() + timeout
    last: Exception | None = None
    try:
        candidates = _candidates(address)
    except (OSError, UnicodeError) as error:  # the latter for names that are none, like a..b
        raise BackendUnavailable(f"could not translate host name {address.host!r} to an address: {error}") from error
    for family, target in candidates:
        remaining = deadline - monotonic()
        if remaining <= 0:
            last = last or TimeoutError("timed out")
            break
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        except OSError as error:  # a kernel without IPv6 is asked for it all the same: the next address may do
            last = error
            continue
        try:
            sock.settimeout(remaining)
            sock.connect(target)
            sock.settimeout(None)
            apply_options(sock, options)
            return sock
        except OSError as error:
            last = error
            close_quietly(sock)
    reason = "timed out" if isinstance(last, TimeoutError) else str(getattr(last, "strerror", None) or last)
    raise BackendUnavailable(f"could not connect to server at {address}: {reason}")


def _candidates(address: Address) -> list[tuple[int, Any]]:
    """Family and address of each; those of IPv6 with their scope, without which a link-local one is of no use."""
    if address.is_unix:
        return [(socket.AF_UNIX, address.path)]
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    return [(family, target) for family, _, _, _, target in found]

"""What the system knows about names and about this machine's own addresses.

The latter come from getifaddrs(3), which Python does not offer; only `samehost` and `samenet` lines need it.
"""

import ctypes
import ctypes.util
import socket
from collections.abc import Iterator, Sequence

from pgdoorman.auth.addresses import Network


class _SocketAddress(ctypes.Structure):
    _fields_ = (("family", ctypes.c_uint16), ("data", ctypes.c_uint8 * 26))


class _Interface(ctypes.Structure):
    pass


_Interface._fields_ = (
    ("next", ctypes.POINTER(_Interface)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.POINTER(_SocketAddress)),
    ("netmask", ctypes.POINTER(_SocketAddress)),
)

# Where the address stands in sockaddr_in and sockaddr_in6, behind the family: after the port, and for IPv6 after the
# flow label too.
_PLACES = {socket.AF_INET: (4, slice(2, 6)), socket.AF_INET6: (6, slice(6, 22))}


class SystemNeighbourhood:
    """The system's resolver and interfaces, as `addresses.Neighbourhood`."""

    def host_name(self, address: str) -> str | None:
        """The name that the reverse lookup of an address gives."""
        try:
            return socket.getnameinfo((address, 0), socket.NI_NAMEREQD)[0]
        except (OSError, UnicodeError):
            return None

    def addresses(self, host_name: str) -> Sequence[str]:
        """The addresses of a name."""
        try:
            found = socket.getaddrinfo(host_name, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return ()
        return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))

    def interfaces(self) -> Sequence[Network]:
        """Our own addresses, each with the mask of its network."""
        return local_networks()


def local_networks() -> Sequence[Network]:
    """Every address of every interface with its mask; () where the system does not tell."""
    library = ctypes.CDLL(None, use_errno=True)
    first = ctypes.POINTER(_Interface)()
    if library.getifaddrs(ctypes.byref(first)) != 0:
        return ()
    try:
        return tuple(_networks(first))
    finally:
        library.freeifaddrs(first)


def _networks(entry: "ctypes._Pointer[_Interface]") -> Iterator[Network]:
    while bool(entry):
        interface = entry.contents
        if interface.address and interface.netmask:
            family = interface.address.contents.family
            if family in _PLACES:
                version, place = _PLACES[family]
                yield Network(
                    version,
                    int.from_bytes(bytes(interface.address.contents.data[place])),
                    int.from_bytes(bytes(interface.netmask.contents.data[place])),
                )
        entry = interface.next

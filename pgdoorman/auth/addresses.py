"""Addresses in rules: networks, and what rules may ask about names and about our own interfaces."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol


@dataclass(frozen=True, slots=True)
class IpAddress:
    """An address as a number. An IPv4 address that came in IPv6's clothes (::ffff:a.b.c.d) is an IPv4 address."""

    version: int
    number: int


@dataclass(frozen=True, slots=True)
class Network:
    """Addresses that agree with `number` wherever `mask` has a one. The mask need not be contiguous and `number` may
    have bits outside it, as in PostgreSQL."""

    version: int
    number: int
    mask: int

    def contains(self, address: IpAddress) -> bool:
        """Whether the address is in this network; never true across IP versions."""
        return address.version == self.version and (address.number ^ self.number) & self.mask == 0


@lru_cache(maxsize=4096)  # clients come again and again from the same ones
def parse_address(text: str) -> IpAddress | None:
    """An IP address, None for anything else. A zone ("%eth0") is not looked at."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return IpAddress(address.version, int(address))


def address_bits(version: int) -> int:
    """32 or 128."""
    return 32 if version == 4 else 128


def cidr_mask(version: int, prefix: int) -> int:
    """The mask with `prefix` leading ones."""
    bits = address_bits(version)
    return ((1 << prefix) - 1) << (bits - prefix)


class Neighbourhood(Protocol):
    """What rules may ask of the system. Methods may block (DNS) and are called from an `Offload` only. They answer with
    nothing where they know nothing, and never raise."""

    def host_name(self, address: str) -> str | None:
        """The name that the reverse lookup of an address gives."""

    def addresses(self, host_name: str) -> Sequence[str]:
        """The addresses of a name."""

    def interfaces(self) -> Sequence[Network]:
        """Our own addresses, each with the mask of its network."""

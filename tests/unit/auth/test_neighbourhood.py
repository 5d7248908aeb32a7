"""What the system tells about itself. Only facts that hold on any machine."""

import socket

from pgdoorman.auth.addresses import IpAddress, Network
from pgdoorman.auth.neighbourhood import SystemNeighbourhood, local_networks

LOOPBACK = IpAddress(4, 0x7F000001)


def test_the_loopback_interface_is_among_ours() -> None:
    networks = local_networks()
    assert Network(4, 0x7F000001, 0xFF000000) in networks
    assert any(network.contains(LOOPBACK) for network in SystemNeighbourhood().interfaces())


def test_addresses_are_as_the_system_has_them() -> None:
    if socket.has_ipv6 and any(network.version == 6 for network in local_networks()):
        assert any(network.version == 6 and network.number == 1 for network in local_networks())


def test_an_address_resolves_to_itself_without_dns() -> None:
    assert SystemNeighbourhood().addresses("127.0.0.1") == ("127.0.0.1",)


def test_what_is_not_known_is_nothing_and_no_error() -> None:
    neighbourhood = SystemNeighbourhood()
    assert neighbourhood.host_name("not an address") is None
    assert neighbourhood.addresses("a" * 70 + ".invalid") == ()
    assert neighbourhood.addresses("\udc80.invalid") == ()

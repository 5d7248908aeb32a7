"""Addresses and networks as numbers."""

import pytest

from pgdoorman.auth.addresses import IpAddress, Network, cidr_mask, parse_address


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("127.0.0.1", IpAddress(4, 0x7F000001)),
        ("::1", IpAddress(6, 1)),
        ("::ffff:127.0.0.1", IpAddress(4, 0x7F000001)),
        ("fe80::1%eth0", IpAddress(6, (0xFE80 << 112) + 1)),
        ("", None),
        ("127.1", None),
        ("127.0.0.01", None),
        ("localhost", None),
        ("1.2.3.4.5", None),
        ("0x7f000001", None),
    ],
)
def test_parse_address(text: str, wanted: IpAddress | None) -> None:
    assert parse_address(text) == wanted


@pytest.mark.parametrize(
    ("version", "prefix", "mask"), [(4, 0, 0), (4, 8, 0xFF000000), (4, 32, 0xFFFFFFFF), (6, 1, 1 << 127), (6, 0, 0)]
)
def test_cidr_mask(version: int, prefix: int, mask: int) -> None:
    assert cidr_mask(version, prefix) == mask


def test_a_network_need_not_begin_at_its_number_nor_be_contiguous() -> None:
    network = Network(4, 0x0A000005, 0xFF0000FF)  # 10.x.y.5
    assert network.contains(IpAddress(4, 0x0A010205))
    assert not network.contains(IpAddress(4, 0x0A010206))
    assert not network.contains(IpAddress(6, 0x0A010205))

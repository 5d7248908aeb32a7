"""Who is at the other end."""

import os
import socket

import pytest

from pgdoorman.transport.peer import Peer, peer_of


@pytest.mark.parametrize(
    ("family", "address", "peer", "text"),
    [
        (socket.AF_INET, ("127.0.0.1", 5), Peer("127.0.0.1", 5), "127.0.0.1:5"),
        (socket.AF_INET6, ("::1", 5, 0, 0), Peer("::1", 5), "[::1]:5"),
        (socket.AF_INET6, ("::ffff:10.1.2.3", 5, 0, 0), Peer("10.1.2.3", 5), "10.1.2.3:5"),
        (socket.AF_INET6, ("fe80::1%eth0", 5, 0, 2), Peer("fe80::1", 5), "[fe80::1]:5"),
        (socket.AF_INET6, ("::ffff:0:1", 5, 0, 0), Peer("::ffff:0:1", 5), "[::ffff:0:1]:5"),
    ],
)
def test_tcp(family: socket.AddressFamily, address: object, peer: Peer, text: str) -> None:
    with socket.socket(family) as sock:
        found = peer_of(sock, address)
    assert found == peer
    assert str(found) == text
    assert found.user_id == -1


def test_unix() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = peer_of(ours, "")
    assert peer == Peer("unix", 0, is_unix=True, process_id=os.getpid(), user_id=os.getuid())
    assert str(peer) == f"unix({os.getpid()})"


def test_one_that_is_gone() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    ours.close()
    peer = peer_of(ours, "")
    assert (peer.is_unix, peer.process_id, peer.user_id) == (True, 0, -1)
    assert str(peer) == "unix"

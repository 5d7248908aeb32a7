"""Reaching a server within a time limit."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgdoorman.errors import BackendUnavailable
from pgdoorman.transport import connect
from pgdoorman.transport.connect import Address, wait_connected
from pgdoorman.transport.sockets import SocketOptions, apply_inherited, apply_options, close_quietly
from tests.support.pace import Stopwatch

OPTIONS = SocketOptions()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def test_what_addresses_look_like() -> None:
    assert str(Address("db.example.com", 5432)) == "db.example.com:5432"
    assert str(Address("::1", 5432)) == "[::1]:5432"
    assert str(Address("/run/postgresql", 5432)) == "unix:/run/postgresql/.s.PGSQL.5432"
    assert Address("/run/postgresql", 5432).path == "/run/postgresql/.s.PGSQL.5432"
    assert Address("@abstract", 1).path == "\0abstract/.s.PGSQL.1"
    assert [Address(host, 1).is_unix for host in ("/tmp", "@x", "localhost", "127.0.0.1")] == [True, True, False, False]


def test_tcp(listener: socket.socket) -> None:
    sock = wait_connected(Address(*listener.getsockname()), 5.0, OPTIONS)
    assert sock.gettimeout() is None
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert not sock.get_inheritable()
    sock.close()


@pytest.mark.parametrize("directory", ["{tmp}", "@pgdoorman-tests-{tmp}"])
def test_unix(tmp_path: Path, directory: str) -> None:
    address = Address(directory.format(tmp=tmp_path), 5432)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address.path)
        listener.listen()
        sock = wait_connected(address, 5.0, OPTIONS)
        assert sock.family == socket.AF_UNIX
        sock.close()


def test_nobody_listens(listener: socket.socket, tmp_path: Path) -> None:
    port = listener.getsockname()[1]
    listener.close()
    with pytest.raises(
        BackendUnavailable, match=f"could not connect to server at 127.0.0.1:{port}: Connection refused"
    ):
        wait_connected(Address("127.0.0.1", port), 5.0, OPTIONS)
    with pytest.raises(BackendUnavailable, match="No such file"):
        wait_connected(Address(str(tmp_path), 5432), 5.0, OPTIONS)
    with pytest.raises(BackendUnavailable, match="too long"):
        wait_connected(Address(str(tmp_path / ("x" * 200)), 5432), 5.0, OPTIONS)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a..b", "x" * 300])
def test_names_that_cannot_be_found(host: str) -> None:
    with pytest.raises(BackendUnavailable, match="could not translate host name"):
        wait_connected(Address(host, 5432), 5.0, OPTIONS)


def answers(*found: tuple[int, Any]) -> Any:
    """A resolver that names these; what it names is real."""
    return lambda *_, **__: [(family, socket.SOCK_STREAM, 0, "", address) for family, address in found]


def test_each_address_is_tried_in_turn(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = closed.getsockname()
    there = (socket.AF_INET, listener.getsockname())
    monkeypatch.setattr(socket, "getaddrinfo", answers((socket.AF_INET, nobody), there))
    sock = wait_connected(Address("two.addresses", 1), 5.0, OPTIONS)
    assert sock.getpeername() == listener.getsockname()
    sock.close()


def test_a_family_that_the_kernel_lacks_is_passed_over(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = (socket.AF_BLUETOOTH if hasattr(socket, "AF_BLUETOOTH") else 31, ("::1", 1, 0, 0))
    there = (socket.AF_INET, listener.getsockname())
    monkeypatch.setattr(socket, "getaddrinfo", answers(lacking, there))
    sock = wait_connected(Address("strange.family", 1), 5.0, OPTIONS)
    sock.close()
    monkeypatch.setattr(socket, "getaddrinfo", answers(lacking))
    with pytest.raises(BackendUnavailable):
        wait_connected(Address("strange.family", 1), 5.0, OPTIONS)


def test_the_scope_of_an_address_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", answers((socket.AF_INET6, ("fe80::1", 5432, 0, 7))))
    assert connect._candidates(Address("fe80::1%eth7", 5432)) == [(socket.AF_INET6, ("fe80::1", 5432, 0, 7))]


def test_one_time_limit_for_all_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener whose queue is full does not answer: that is what an unreachable host looks like from here."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        clients = [socket.socket() for _ in range(4)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        silent = (socket.AF_INET, full.getsockname())
        monkeypatch.setattr(socket, "getaddrinfo", answers(silent, silent, silent))
        watched = Stopwatch()
        with pytest.raises(BackendUnavailable, match="timed out"):
            wait_connected(Address("three.silent.ones", 1), 0.5, OPTIONS)
        assert watched.seconds > 0.45
        watched.must_be_below(0.95, "three addresses, one time limit of 0.5 s")
        for client in clients:
            client.close()


# Options.


def test_every_option_is_set(listener: socket.socket) -> None:
    options = SocketOptions(
        keepalive_idle=7, keepalive_interval=3, keepalive_count=4, no_delay=False, user_timeout=11, buffer_size=65536
    )
    with socket.create_connection(listener.getsockname()) as sock:
        apply_options(sock, options)
        tcp = {
            socket.TCP_NODELAY: 0,
            socket.TCP_KEEPIDLE: 7,
            socket.TCP_KEEPINTVL: 3,
            socket.TCP_KEEPCNT: 4,
            socket.TCP_USER_TIMEOUT: 11_000,
        }
        assert {name: sock.getsockopt(socket.IPPROTO_TCP, name) for name in tcp} == tcp
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            assert sock.getsockopt(socket.SOL_SOCKET, buffer) == 2 * 65536  # the kernel doubles it


def test_connections_inherit_from_their_listener(listener: socket.socket) -> None:
    listener.settimeout(10)
    for options in (
        SocketOptions(keepalive_idle=7, keepalive_interval=3, keepalive_count=4, no_delay=True, user_timeout=11),
        SocketOptions(keepalive_idle=8, keepalive_interval=2, keepalive_count=5, no_delay=False, user_timeout=0),
    ):
        apply_inherited(listener, options)
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as sock:
            tcp = {
                socket.TCP_NODELAY: int(options.no_delay),
                socket.TCP_KEEPIDLE: options.keepalive_idle,
                socket.TCP_KEEPINTVL: options.keepalive_interval,
                socket.TCP_KEEPCNT: options.keepalive_count,
                socket.TCP_USER_TIMEOUT: options.user_timeout * 1000,
            }
            assert {name: sock.getsockopt(socket.IPPROTO_TCP, name) for name in tcp} == tcp
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


def test_zero_leaves_the_kernels_own(listener: socket.socket) -> None:
    names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
    with socket.create_connection(listener.getsockname()) as sock:
        before = [sock.getsockopt(socket.IPPROTO_TCP, name) for name in names]
        buffers = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        apply_options(
            sock,
            SocketOptions(keepalive_idle=0, keepalive_interval=0, keepalive_count=0, user_timeout=0, buffer_size=0),
        )
        assert [sock.getsockopt(socket.IPPROTO_TCP, name) for name in names] == before
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == buffers


def test_a_unix_socket_has_no_tcp_options() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        apply_options(ours, SocketOptions(unix_buffer_size=32768))
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 65536


def test_impossible_values_and_closed_sockets_are_no_error(listener: socket.socket) -> None:
    sock = socket.create_connection(listener.getsockname())
    apply_options(sock, SocketOptions(keepalive_idle=10**6, keepalive_count=10**4))
    close_quietly(sock)
    close_quietly(sock)
    apply_options(sock, OPTIONS)

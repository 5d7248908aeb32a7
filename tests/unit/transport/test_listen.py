"""Doors: TCP on every address, and the unix socket with whatever lies in its place."""

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from pgdoorman.transport.listen import CannotListen, Door, open_tcp, open_unix


def has_ipv6() -> bool:
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


def close(doors: list[Door]) -> None:
    for door in doors:
        door.close()


def speaks(address: tuple[object, ...], family: socket.AddressFamily, door: Door) -> bool:
    with socket.socket(family) as client:
        client.settimeout(5.0)
        client.connect(address)
        accepted, _ = door.listener.accept()
        accepted.close()
    return True


def test_one_address() -> None:
    doors = open_tcp("127.0.0.1", 0, 10)
    (door,) = doors
    host, port = door.listener.getsockname()
    assert door.name == f"127.0.0.1:{port}"
    assert host == "127.0.0.1"
    assert speaks((host, port), socket.AF_INET, door)
    close(doors)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((host, port), timeout=1.0)


@needs_ipv6
@pytest.mark.parametrize("host", ["*", ""])
def test_all_addresses_at_one_port(host: str) -> None:
    doors = open_tcp(host, 0, 10)
    by_family = {door.listener.family: door for door in doors}
    assert set(by_family) == {socket.AF_INET, socket.AF_INET6}
    ports = {door.listener.getsockname()[1] for door in doors}
    assert len(ports) == 1
    (port,) = ports
    assert speaks(("127.0.0.1", port), socket.AF_INET, by_family[socket.AF_INET])
    assert speaks(("::1", port), socket.AF_INET6, by_family[socket.AF_INET6])
    assert {door.name for door in doors} == {f"0.0.0.0:{port}", f"[::]:{port}"}
    close(doors)


@needs_ipv6
def test_an_address_of_ipv6() -> None:
    doors = open_tcp("::1", 0, 10)
    (door,) = doors
    assert door.name.startswith("[::1]:")
    close(doors)


def test_a_kernel_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver names addresses of IPv6 all the same. (That kernel is the one thing that is not real here.)"""
    real = socket.socket

    def without(family: int, kind: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, kind)

    monkeypatch.setattr(socket, "socket", without)
    doors = open_tcp("*", 0, 10)
    assert [door.listener.family for door in doors] == [socket.AF_INET]
    close(doors)


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotListen, match=f"127.0.0.1:{port}: Address already in use"):
            open_tcp("127.0.0.1", port, 10)


def test_a_port_that_a_predecessor_shares() -> None:
    """So that a successor can open before the old one closes."""
    first = open_tcp("127.0.0.1", 0, 10)
    port = first[0].listener.getsockname()[1]
    second = open_tcp("127.0.0.1", port, 10)
    close(first)
    assert speaks(("127.0.0.1", port), socket.AF_INET, second[0])
    with pytest.raises(CannotListen):
        open_tcp("127.0.0.1", port, 10, reuse_port=False)
    close(second)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.7"])
def test_an_address_that_is_not_ours(host: str) -> None:
    with pytest.raises(CannotListen):
        open_tcp(host, 0, 10)


# The unix socket.


def test_permissions_and_the_end(tmp_path: Path) -> None:
    before = os.umask(0o022)
    os.umask(before)
    door = open_unix(str(tmp_path), 6432, 10, 0o770)
    path = tmp_path / ".s.PGSQL.6432"
    assert door.name == f"unix:{path}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o770
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    door.close()
    assert not path.exists()
    door.close()
    after = os.umask(before)
    assert after == before, "the umask is the process's"


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / ".s.PGSQL.1"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.exists()
    door = open_unix(str(tmp_path), 1, 10, 0o777)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    door.close()


def test_a_live_socket_is_left_alone(tmp_path: Path) -> None:
    door = open_unix(str(tmp_path), 1, 10, 0o777)
    with pytest.raises(CannotListen, match="in use"):
        open_unix(str(tmp_path), 1, 10, 0o777)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / ".s.PGSQL.1"))
    door.close()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / ".s.PGSQL.1"
    path.write_text("precious")
    with pytest.raises(CannotListen):
        open_unix(str(tmp_path), 1, 10, 0o777)
    assert path.read_text() == "precious"


def test_a_successors_socket_is_not_removed(tmp_path: Path) -> None:
    door = open_unix(str(tmp_path), 1, 10, 0o777)
    path = tmp_path / ".s.PGSQL.1"
    path.rename(tmp_path / "kept")  # so that the next one gets another inode
    successor = open_unix(str(tmp_path), 1, 10, 0o777)
    door.close()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    successor.close()
    assert not path.exists()


@pytest.mark.parametrize("directory", ["missing", "a" * 200])
def test_directories_that_cannot_be_used(tmp_path: Path, directory: str) -> None:
    with pytest.raises(CannotListen) as refused:
        open_unix(str(tmp_path / directory), 1, 10, 0o777)
    assert "None" not in str(refused.value), "the reason is told"


def test_a_busy_socket_counts_as_in_use(tmp_path: Path) -> None:
    """Its queue is full: connecting would wait."""
    path = str(tmp_path / ".s.PGSQL.1")
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(path)
        busy.listen(0)
        clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for client in clients:
            client.setblocking(False)
            with suppress(BlockingIOError):
                client.connect(path)
        with pytest.raises(CannotListen, match=r"temporarily unavailable|timed out"):
            open_unix(str(tmp_path), 1, 10, 0o777)
        for client in clients:
            client.close()
    assert os.path.exists(path)

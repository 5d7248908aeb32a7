"""Counting the process's own sockets by state."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pgdoorman.transport.peer import local_end
from pgdoorman.transport.socket_states import COUNTS, count_sockets

HOLDS = """
import socket, sys
def tcp(family, host):
    listener = socket.create_server((host, 0), family=family)
    client = socket.create_connection(listener.getsockname()[:2])
    server, _ = listener.accept()
    return listener, client, server
kept = [tcp(socket.AF_INET, "127.0.0.1"), socket.socketpair(), socket.socket(socket.AF_INET, socket.SOCK_STREAM)]
kept.append(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
kept.append(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
listener, client, server = tcp(socket.AF_INET, "127.0.0.1")
server.close()  # its other end has not closed yet
try:
    kept.append(tcp(socket.AF_INET6, "::1"))
    has6 = 1
except OSError:
    has6 = 0
print(has6, flush=True)
sys.stdin.readline()
"""


def test_states_of_a_process_whose_sockets_are_known() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        has6 = int(process.stdout.readline())
        counts = {name: number for name, number in count_sockets(Path(f"/proc/{process.pid}")).items() if number}
        process.communicate("\n", timeout=30)
    expected = {
        "tcp_listen": 2,
        "tcp_established": 2,
        "tcp_close_wait": 1,
        "unix_connected": 2,
        "unix_dgram": 1,
        "unix_seq_packet": 1,
        "unknown": 1,  # the one that was never connected
        "tcp6_listen": has6,
        "tcp6_established": 2 * has6,
    }
    assert counts == {name: number for name, number in expected.items() if number}


def test_own_sockets_are_counted() -> None:
    before = count_sockets()
    with socket.create_server(("127.0.0.1", 0)):
        after = count_sockets()
    assert after["tcp_listen"] == before["tcp_listen"] + 1
    assert set(after) <= set(COUNTS)


def test_an_odd_table_is_no_accident(tmp_path: Path) -> None:
    """States that a later kernel may have, a table that is missing, a descriptor that is gone."""
    (tmp_path / "fd").mkdir()
    for number, inode in enumerate(("11", "12", "13")):
        os.symlink(f"socket:[{inode}]", tmp_path / "fd" / str(number))
    os.symlink("/dev/null", tmp_path / "fd" / "9")
    (tmp_path / "net").mkdir()
    line = "0: 0100007F:1538 00000000:0000 7F 00000000:00000000 00:00000000 00000000 0 0 11 1 0000000000000000\n"
    (tmp_path / "net" / "tcp").write_text("  sl  local_address\n" + line)
    unix = "0000000000000000: 00000002 00000000 00010000 0001 09 12 /run/x\n"
    (tmp_path / "net" / "unix").write_text("Num RefCount\n" + unix)
    assert dict(count_sockets(tmp_path)) == {"unknown": 3}


def test_a_system_that_does_not_tell(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        count_sockets(tmp_path)


def test_our_end_of_a_socket() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert local_end(listener) == ("127.0.0.1", listener.getsockname()[1])
    assert local_end(listener) == ("", 0), "it is closed"
    assert local_end(None) == ("", 0)
    one, other = socket.socketpair()
    with one, other:
        assert local_end(one) == ("unix", 0)

"""What a service manager hears and hands over, with real sockets."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import CLOCK_MONOTONIC, clock_gettime_ns

import pytest

from pgdoorman.runtime.systemd import ServiceManager, adopt_listeners, take_listeners


@pytest.fixture
def manager_socket(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(10)
        yield sock


def _told(sock: socket.socket) -> dict[str, str]:
    return dict(line.split("=", 1) for line in sock.recv(4096).decode().split("\n"))


def test_every_word_arrives(manager_socket: socket.socket) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": manager_socket.getsockname()})
    assert manager.is_there

    manager.ready("two\nlines")
    assert _told(manager_socket) == {"READY": "1", "STATUS": "two lines", "MAINPID": str(os.getpid())}

    before = clock_gettime_ns(CLOCK_MONOTONIC) // 1000
    manager.reloading()
    told = _told(manager_socket)
    assert told["RELOADING"] == "1"
    assert before <= int(told["MONOTONIC_USEC"]) <= clock_gettime_ns(CLOCK_MONOTONIC) // 1000

    manager.stopping("bye")
    assert _told(manager_socket) == {"STOPPING": "1", "STATUS": "bye"}
    manager.alive()
    assert _told(manager_socket) == {"WATCHDOG": "1"}
    manager.extend(1.5)
    assert _told(manager_socket) == {"EXTEND_TIMEOUT_USEC": "1500000"}
    manager.main_process(7)
    assert _told(manager_socket) == {"MAINPID": "7"}
    manager.status("busy")
    assert _told(manager_socket) == {"STATUS": "busy"}


def test_an_abstract_address() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        name = f"pgdoorman-test-{os.getpid()}"
        sock.bind(f"\0{name}")
        sock.settimeout(10)
        ServiceManager({"NOTIFY_SOCKET": f"@{name}"}).alive()
        assert _told(sock) == {"WATCHDOG": "1"}


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative"])
def test_nobody_to_tell(address: str) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": address} if address else {})
    assert not manager.is_there
    manager.ready("to nobody")


def test_a_manager_that_is_gone(tmp_path: Path) -> None:
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "nothing here")}).ready("to nobody")


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_the_watchdog_is_ours_or_not(environment: dict[str, str], seconds: float) -> None:
    assert ServiceManager(environment).watchdog == seconds


def test_only_listening_stream_sockets_are_adopted() -> None:
    with socket.socket() as listening, socket.socket() as idle, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        datagrams.bind(("127.0.0.1", 0))
        copies = [os.dup(sock.fileno()) for sock in (idle, listening, datagrams)]
        reader, writer = os.pipe()
        os.close(writer)

        (adopted,) = adopt_listeners([*copies, reader, 9999])
        with adopted:
            assert adopted.getsockname() == listening.getsockname()
            assert not adopted.get_inheritable()
        for descriptor in (copies[0], copies[2]):
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(descriptor)
        os.close(reader)


def test_listeners_of_another_process_are_not_taken() -> None:
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x"}
    assert take_listeners(environment) == []
    assert environment == {}, "nor does a child of ours take them for its own"
    assert take_listeners({"LISTEN_FDS": "1"}) == []


def test_listeners_are_taken_from_the_third_descriptor_on() -> None:
    program = (
        "import os; from pgdoorman.runtime.systemd import take_listeners\n"
        "os.environ['LISTEN_PID'] = str(os.getpid())\n"
        "found = take_listeners()\n"
        "print([sock.getsockname()[1] for sock in found], 'LISTEN_FDS' in os.environ, take_listeners())"
    )
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        shell = f'exec 3<&{listening.fileno()}; exec "$0" -c "$1"'
        done = subprocess.run(
            ["bash", "-c", shell, sys.executable, program],
            env={**os.environ, "LISTEN_FDS": "1", "PYTHON_GIL": "0"},
            pass_fds=[listening.fileno()],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stdout.split("\n")[0] == f"[{listening.getsockname()[1]}] False []"

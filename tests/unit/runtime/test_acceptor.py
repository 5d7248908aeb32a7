"""The acceptor on real listeners."""

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic, process_time, sleep
from typing import Any

import pytest

from pgdoorman.runtime.acceptor import Acceptor

PATIENCE = 5.0
type Taken = SimpleQueue[tuple[socket.socket, Any, socket.socket]]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        yield listener


def dial(listener: socket.socket) -> socket.socket:
    sock = socket.socket(listener.family)
    sock.settimeout(PATIENCE)
    sock.connect(listener.getsockname())
    return sock


def test_connections_are_passed_on_in_blocking_mode(listener: socket.socket, tmp_path: Path) -> None:
    taken: Taken = SimpleQueue()
    local = socket.socket(socket.AF_UNIX)
    local.bind(str(tmp_path / "s"))
    local.listen()
    acceptor = Acceptor([listener, local], lambda *accepted: taken.put(accepted))
    acceptor.start()
    with local:
        for where in (listener, local, listener):
            with dial(where) as client:
                accepted, address, by = taken.get(timeout=PATIENCE)
                assert by is where
                assert accepted.getblocking()
                assert address == (client.getsockname() if where is listener else "")
                client.sendall(b"hello")
                assert accepted.recv(5) == b"hello"
                accepted.close()
        acceptor.stop()
        assert not acceptor.is_alive()
        assert listener.fileno() >= 0, "the listeners are the caller's"


def test_a_storm(listener: socket.socket) -> None:
    taken: Taken = SimpleQueue()
    acceptor = Acceptor([listener], lambda *accepted: taken.put(accepted))
    acceptor.start()
    with ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(dial(listener))
        for _ in range(200):
            stack.enter_context(taken.get(timeout=PATIENCE)[0])
    acceptor.stop()


def test_an_accident_closes_that_connection_alone(listener: socket.socket, caplog: pytest.LogCaptureFixture) -> None:
    taken: Taken = SimpleQueue()
    calls: list[int] = []

    def take(*accepted: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError
        taken.put(accepted)

    acceptor = Acceptor([listener], take)
    acceptor.start()
    with dial(listener) as unlucky, dial(listener):
        assert unlucky.recv(1) == b""
        taken.get(timeout=PATIENCE)[0].close()
    acceptor.stop()
    assert "ZeroDivisionError" in caplog.text


def test_out_of_descriptors(listener: socket.socket, caplog: pytest.LogCaptureFixture) -> None:
    """It waits and goes on when there are some again; meanwhile it does not spin."""
    taken: Taken = SimpleQueue()
    acceptor = Acceptor([listener], lambda *accepted: taken.put(accepted))
    acceptor.start()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as client, ExitStack() as stack:
        client.settimeout(PATIENCE)
        try:
            probe = stack.enter_context(socket.socket())
            resource.setrlimit(resource.RLIMIT_NOFILE, (probe.fileno() + 1, hard))
            client.connect(listener.getsockname())  # no descriptor is below the limit now
            deadline = monotonic() + PATIENCE
            while not acceptor.exhausted and monotonic() < deadline:
                sleep(0.01)
            assert acceptor.exhausted
            assert acceptor.exhausted < 20
            with pytest.raises(Empty):
                taken.get_nowait()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        taken.get(timeout=PATIENCE)[0].close()
    acceptor.stop()
    assert "cannot accept a connection" in caplog.text


@pytest.mark.parametrize("how", ["close", "shutdown"])
def test_a_listener_that_is_gone_does_not_make_it_spin(how: str, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone, socket.create_server(("127.0.0.1", 0)) as listener:
        taken: Taken = SimpleQueue()
        acceptor = Acceptor([gone, listener], lambda *accepted: taken.put(accepted))
        acceptor.start()
        if how == "close":
            gone.close()
        else:
            gone.shutdown(socket.SHUT_RDWR)
        with dial(listener):  # wakes it from its poll if it is in it
            taken.get(timeout=PATIENCE)[0].close()
        before = process_time()
        sleep(0.3)
        spent = process_time() - before
        acceptor.stop()
    assert spent < 0.15, f"{spent:.2f} s of processor time in 0.3 s"
    assert "a listener is gone" in caplog.text


def test_stopping_twice_and_before_the_start(listener: socket.socket) -> None:
    acceptor = Acceptor([listener], lambda *_: None)
    acceptor.stop()
    acceptor.stop()
    acceptor = Acceptor([listener], lambda *_: None)
    acceptor.start()
    acceptor.stop()
    acceptor.stop()
    assert not acceptor.is_alive()

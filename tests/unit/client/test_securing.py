"""Handshakes of clients on a worker: done, failed, and waiting for their turn."""

import socket
import threading
from pathlib import Path
from queue import SimpleQueue
from time import monotonic

import pytest

from pgdoorman.client.securing import Securing
from pgdoorman.config.settings import ClientTlsSettings, TlsFiles, TlsMode
from pgdoorman.errors import PgDoormanError
from pgdoorman.runtime.worker import Worker
from pgdoorman.transport.certificates import read_material
from pgdoorman.transport.tls import TlsContext
from pgdoorman.transport.tls_accept import ClientHandshake, TlsDoor, open_tls_door
from pgdoorman.transport.tls_socket import TlsFailed, TlsSocket
from tests.support.certificates import Authority

PATIENCE = 10.0

type Outcome = ClientHandshake | PgDoormanError


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> TlsDoor:
    certificate, key = Authority().issue().write(tmp_path_factory.mktemp("papers"), "server")
    files = TlsFiles(certificate=Path(certificate), private_key=key)
    door = open_tls_door(ClientTlsSettings(TlsMode.ALLOW, files))
    assert door is not None
    return door


class Guest:
    """A client's socket, and what became of its handshake."""

    def __init__(self, worker: Worker, door: TlsDoor, delay: float = 0.0, *, direct: bool = False) -> None:
        ours, self.sock = socket.socketpair()
        self.outcomes: SimpleQueue[Outcome] = SimpleQueue()
        self.events = 0
        self.securing = Securing(
            ours, door, worker, direct=direct, done=self.outcomes.put, failed=self._failed
        )  # fmt: skip
        self._worker = worker
        worker.post(lambda: self._begin(ours.fileno(), delay))

    def _begin(self, fd: int, delay: float) -> None:
        self._worker.watch(fd, self._on_event)
        self.securing.begin(delay)

    def _on_event(self, worker: Worker, events: int) -> None:
        self.events += 1
        self.securing.go_on(events)

    def _failed(self, error: PgDoormanError) -> None:
        self._worker.unwatch(self.securing.sock.fileno())
        self.outcomes.put(error)

    def shake(self) -> TlsSocket:
        sock = TlsContext(read_material(TlsFiles()), server=False, verify=False).wrap(self.sock)
        sock.wait_handshake(monotonic() + PATIENCE)
        return sock

    def close(self) -> None:
        left = threading.Event()

        def leave() -> None:
            self._worker.unwatch(self.securing.sock.fileno())
            left.set()

        self._worker.post(leave)
        left.wait(PATIENCE)
        self.securing.sock.close()
        self.sock.close()


def test_at_once(worker: Worker, door: TlsDoor) -> None:
    guest = Guest(worker, door, direct=True)
    guest.shake()
    outcome = guest.outcomes.get(timeout=PATIENCE)
    assert isinstance(outcome, ClientHandshake)
    assert outcome.description.startswith("TLSv1.3")
    guest.close()


def test_in_its_turn(worker: Worker, door: TlsDoor) -> None:
    """What the client says meanwhile waits, and keeps nobody busy."""
    began = monotonic()
    guest = Guest(worker, door, 0.3)
    guest.shake()
    assert isinstance(guest.outcomes.get(timeout=PATIENCE), ClientHandshake)
    assert monotonic() - began >= 0.3
    assert guest.events < 10
    guest.close()


def test_gone_before_its_turn(worker: Worker, door: TlsDoor) -> None:
    guest = Guest(worker, door, 60.0)
    guest.sock.close()
    outcome = guest.outcomes.get(timeout=PATIENCE)
    assert isinstance(outcome, TlsFailed)
    assert "hung up before" in outcome.message
    assert guest.events < 3
    guest.close()


def test_no_handshake(worker: Worker, door: TlsDoor) -> None:
    guest = Guest(worker, door)
    guest.sock.send(b"hello, is there somebody?")
    assert isinstance(guest.outcomes.get(timeout=PATIENCE), TlsFailed)
    guest.close()


def test_given_up(worker: Worker, door: TlsDoor) -> None:
    """Whoever gives up before the turn has come hears nothing any more."""
    guest = Guest(worker, door, 0.1)
    given_up = threading.Event()

    def give_up() -> None:
        guest.securing.stop()
        given_up.set()

    worker.post(give_up)
    assert given_up.wait(PATIENCE)
    guest.close()
    assert guest.outcomes.empty()

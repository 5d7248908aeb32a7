"""A backend's socket: what it takes, what is kept, where it is watched."""

import socket
from collections.abc import Iterator
from queue import SimpleQueue

import pytest

from pgdoorman.backend.connection import Backend, next_number
from pgdoorman.backend.settings import reported_of
from pgdoorman.protocol import codes
from pgdoorman.protocol.exchange import QUERY, Expected
from pgdoorman.runtime.poller import READ, WRITE
from pgdoorman.runtime.worker import Worker
from pgdoorman.transport.connect import Address
from tests.unit.backend.hands import PATIENCE, on


@pytest.fixture
def pair() -> Iterator[tuple[Backend, socket.socket]]:
    """A backend, and the server's end of it, with small buffers between."""
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sock.settimeout(PATIENCE)
    ours.settimeout(None)
    backend = Backend(
        ours,
        Address("/tmp", 1),
        role="x",
        process_id=1,
        cancel_secret=b"",
        reported=reported_of({}),
        number=next_number(),
    )
    yield backend, theirs
    backend.close()
    theirs.close()


class Holder:
    def __init__(self) -> None:
        self.heard: SimpleQueue[tuple[str, int]] = SimpleQueue()

    def on_backend_readable(self, backend: Backend) -> None:
        backend.recv(65536, socket.MSG_DONTWAIT)
        self.heard.put(("readable", READ))

    def on_backend_event(self, backend: Backend, events: int) -> None:
        if events & WRITE:
            backend.flush()
        self.heard.put(("event", events))

    def on_backend_crash(self, backend: Backend, error: Exception) -> None:
        self.heard.put((type(error).__name__, 0))

    def on_notification(self, backend: Backend, message: bytes) -> None:
        """None comes here."""


def received(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = sock.recv(65536)
        assert more
        data += more
    return data


def test_what_is_not_taken_is_kept_and_sent_in_order(pair: tuple[Backend, socket.socket], worker: Worker) -> None:
    backend, theirs = pair
    on(worker, lambda: backend.move_to(worker))
    holder = Holder()
    backend.holder = holder
    chunks = [bytes([number]) * 3000 for number in range(100)]

    def push_all() -> None:
        for chunk in chunks:
            backend.push(chunk)

    on(worker, push_all)
    assert backend.out
    assert not backend.is_clean
    assert received(theirs, 300_000) == b"".join(chunks)
    on(worker, lambda: None)
    assert not backend.out
    assert backend.is_clean
    assert backend.bytes_out == 300_000
    # Nothing is left to write: WRITE must not be watched any more, or the worker would spin.
    while not holder.heard.empty():
        holder.heard.get()
    theirs.send(b"x")
    assert holder.heard.get(timeout=PATIENCE) == ("readable", READ)
    assert holder.heard.empty()


def test_pushing_to_a_lost_connection_is_quiet(pair: tuple[Backend, socket.socket]) -> None:
    backend, theirs = pair
    theirs.close()
    backend.push(b"one")
    backend.push(b"two")
    assert not backend.out
    assert backend.flush()


def test_moving_between_workers(pair: tuple[Backend, socket.socket], worker: Worker) -> None:
    backend, theirs = pair
    other = Worker("other", 1)
    other.start()
    idle: SimpleQueue[Worker] = SimpleQueue()

    def on_idle_event(of: Backend, by: Worker) -> None:
        of.recv(10, socket.MSG_DONTWAIT)
        idle.put(by)

    backend.on_idle_event = on_idle_event
    for present in (worker, other, other, worker):
        on(present, lambda present=present: backend.move_to(present))  # type: ignore[misc]
        assert backend.worker is present
        theirs.send(b"x")
        assert idle.get(timeout=PATIENCE) is present
    assert idle.empty()
    assert backend.fd not in other.poller.handlers
    other.stop()
    other.join(PATIENCE)


def test_an_event_of_a_worker_that_it_has_left(pair: tuple[Backend, socket.socket], worker: Worker) -> None:
    """It was collected before the backend moved; the new owner's holder must not hear of it on the old thread."""
    backend, _ = pair
    on(worker, lambda: backend.move_to(worker))
    holder = Holder()
    backend.holder = holder
    asked: list[Worker] = []
    backend.on_idle_event = lambda _, by: asked.append(by)
    stranger = Worker("stranger", 2)
    backend.on_event(stranger, READ)
    assert holder.heard.empty()
    assert asked == [stranger]
    stranger.poller.close()


def test_closing(pair: tuple[Backend, socket.socket], worker: Worker) -> None:
    backend, theirs = pair
    on(worker, lambda: backend.move_to(worker))
    fd = backend.fd
    skipped: list[str] = []

    class Effect:
        def happened(self) -> None: ...
        def failed(self) -> None: ...
        def skipped(self) -> None:
            skipped.append("skipped")

    backend.exchange.ask_query(Expected(QUERY, effect=Effect()))
    on(worker, backend.close)
    assert received(theirs, 5) == b"X\0\0\0\4"
    assert theirs.recv(1) == b""
    assert not backend.is_open
    assert backend.holder is None
    assert backend.on_idle_event is None
    assert skipped == ["skipped"]
    assert fd not in worker.poller.handlers
    on(worker, backend.close)
    assert skipped == ["skipped"]
    backend.on_event(worker, READ)


def test_an_impolite_end_says_nothing(pair: tuple[Backend, socket.socket]) -> None:
    backend, theirs = pair
    backend.close(polite=False)
    assert theirs.recv(10) == b""


def test_half_a_message_is_not_followed_by_a_farewell(pair: tuple[Backend, socket.socket]) -> None:
    backend, theirs = pair
    backend.push(b"d" * 100_000)
    assert backend.out
    backend.close()
    data = b""
    while more := theirs.recv(65536):
        data += more
    assert set(data) == {ord("d")}


def test_when_it_may_be_given_back(pair: tuple[Backend, socket.socket]) -> None:
    backend, _ = pair
    assert backend.is_clean
    for name, dirty, clean in (
        ("status", codes.IN_TRANSACTION, codes.IDLE),
        ("status", codes.FAILED, codes.IDLE),
        ("tail", b"x", b""),
        ("need", 1, 0),
    ):
        setattr(backend, name, dirty)
        assert not backend.is_clean, name
        setattr(backend, name, clean)
    backend.exchange.ask_query()
    assert not backend.is_clean
    backend.exchange.ready()
    assert backend.is_clean


def test_a_crash_is_told_to_the_holder(pair: tuple[Backend, socket.socket]) -> None:
    backend, _ = pair
    backend.on_crash(ValueError("nobody is there"))
    holder = Holder()
    backend.holder = holder
    backend.on_crash(ValueError("on purpose"))
    assert holder.heard.get_nowait() == ("ValueError", 0)

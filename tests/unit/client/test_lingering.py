"""The end of refused connections: what was said last arrives, and nobody is held up by who does not close."""

import socket
import threading
from collections.abc import Iterator
from time import monotonic

import pytest

from pgdoorman.client import lingering
from pgdoorman.client.lingering import MOST_BYTES, PATIENCE, close_gently
from pgdoorman.runtime.worker import Worker

LONG = 10.0
LAST_WORDS = b"that is why"


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname(), LONG)
        ours, _ = listener.accept()
    yield ours, theirs
    ours.close()
    theirs.close()


def refuse(worker: Worker, ours: socket.socket) -> None:
    def on_worker() -> None:
        ours.send(LAST_WORDS)
        close_gently(ours, worker)

    worker.post(on_worker)


def wait_closed(ours: socket.socket) -> None:
    deadline = monotonic() + LONG
    while ours.fileno() >= 0:
        assert monotonic() < deadline, "it is never closed"
        threading.Event().wait(0.01)
    assert lingering._present == [0]


def read_all(sock: socket.socket) -> bytes:
    pieces = []
    while piece := sock.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def test_last_words_arrive_although_more_was_said(worker: Worker, ends: tuple[socket.socket, socket.socket]) -> None:
    """Unread before, and sent after: either would be answered by a reset that takes the words with it."""
    ours, theirs = ends
    theirs.sendall(bytes(5000))
    refuse(worker, ours)
    assert theirs.recv(1, socket.MSG_PEEK)
    theirs.sendall(bytes(5000))
    assert read_all(theirs) == LAST_WORDS
    assert ours.fileno() >= 0, "it is not closed before the other side is"
    theirs.close()
    wait_closed(ours)


def test_who_does_not_close_costs_a_second(worker: Worker, ends: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = ends
    begun = monotonic()
    refuse(worker, ours)
    wait_closed(ours)
    assert monotonic() - begun >= PATIENCE


def test_the_worker_goes_on_meanwhile(
    worker: Worker, ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lingering, "PATIENCE", 60.0)
    ours, theirs = ends
    refuse(worker, ours)
    done = threading.Event()
    worker.post(done.set)
    assert done.wait(LONG)
    assert ours.fileno() >= 0
    theirs.close()
    wait_closed(ours)


def test_who_goes_on_sending_is_cut_off(
    worker: Worker, ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lingering, "PATIENCE", 60.0)
    ours, theirs = ends
    refuse(worker, ours)
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        theirs.sendall(bytes(100 * MOST_BYTES))
    wait_closed(ours)


def test_there_are_never_too_many(
    worker: Worker, ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lingering, "MOST_AT_ONCE", 0)
    monkeypatch.setattr(lingering, "PATIENCE", 60.0)
    ours, theirs = ends
    refuse(worker, ours)
    wait_closed(ours)
    assert read_all(theirs) == LAST_WORDS

"""The poller on real descriptors."""

import os
import socket
from collections.abc import Iterator

import pytest

from pgdoorman.runtime.poller import EVENTS_PER_WAIT, HANG_UP, NOTHING, READ, WRITE, Poller


@pytest.fixture
def poller() -> Iterator[Poller]:
    poller = Poller()
    yield poller
    poller.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def handler(_worker: object, _events: int) -> None:
    """Never called here: the worker calls."""


def test_the_library_is_patched_for_the_time_of_its_import_only() -> None:
    import collections  # noqa: PLC0415

    assert not hasattr(collections, "Mapping")


def test_readiness(poller: Poller, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    fd = ours.fileno()
    poller.watch(fd, handler)
    assert poller.handlers[fd] is handler
    assert poller.wait(0) == []
    theirs.send(b"x")
    assert poller.wait(1) == [(fd, READ)]
    poller.change(fd, READ | WRITE)
    assert poller.wait(1) == [(fd, READ | WRITE)]
    poller.change(fd, NOTHING)
    assert poller.wait(0) == []
    theirs.close()
    ((found, events),) = poller.wait(1)
    assert found == fd
    assert events & HANG_UP, "hang-ups are reported even so"
    poller.unwatch(fd)
    assert poller.wait(0) == []
    assert fd not in poller.handlers


def test_unwatching_what_is_not_watched_is_quiet(poller: Poller) -> None:
    read_end, write_end = os.pipe()
    poller.unwatch(read_end)
    os.close(write_end)
    os.close(read_end)
    poller.unwatch(read_end)
    poller.unwatch(-1)


def test_a_refused_descriptor_leaves_nothing_behind(poller: Poller) -> None:
    read_end, write_end = os.pipe()
    os.close(write_end)
    os.close(read_end)
    with pytest.raises(OSError, match="Bad file descriptor"):
        poller.watch(read_end, handler)
    assert poller.handlers == {}


def test_many_at_once(poller: Poller) -> None:
    pairs = [socket.socketpair() for _ in range(EVENTS_PER_WAIT + 10)]
    for ours, theirs in pairs:
        poller.watch(ours.fileno(), handler)
        theirs.send(b"x")
    assert len(poller.wait(1)) == EVENTS_PER_WAIT
    for ours, theirs in pairs:
        poller.unwatch(ours.fileno())
        ours.close()
        theirs.close()

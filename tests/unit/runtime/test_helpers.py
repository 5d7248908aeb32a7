"""Helpers: blocking jobs on a bounded set of threads."""

import os
from collections.abc import Iterator
from queue import SimpleQueue
from threading import Barrier, Event, Lock, Thread, current_thread, get_native_id
from time import monotonic

import pytest

from pgdoorman.runtime.helpers import Helpers

PATIENCE = 5.0


@pytest.fixture
def helpers() -> Iterator[Helpers]:
    helpers = Helpers(3, "test-helper")
    yield helpers
    helpers.close(PATIENCE)


def test_as_many_at_once_as_there_may_be(helpers: Helpers) -> None:
    together = Barrier(4)
    for _ in range(3):
        assert helpers.submit(lambda: together.wait(PATIENCE))
    together.wait(PATIENCE)


def test_no_more_than_the_limit_and_nobody_is_forgotten(helpers: Helpers) -> None:
    gate = Event()
    names: set[str] = set()
    lock = Lock()
    finished = Event()
    left = [50]

    def job() -> None:
        gate.wait(PATIENCE)
        with lock:
            names.add(current_thread().name)
            left[0] -= 1
            if not left[0]:
                finished.set()

    for _ in range(50):
        helpers.submit(job)
    assert helpers.waiting >= 47
    gate.set()
    assert finished.wait(PATIENCE)
    assert names <= {"test-helper-0", "test-helper-1", "test-helper-2"}
    assert helpers.waiting == 0


def test_threads_start_when_they_are_needed() -> None:
    helpers = Helpers(8, "lazy-helper")
    for _ in range(20):
        done = Event()
        helpers.submit(done.set)
        assert done.wait(PATIENCE)
        # The thread that did it may not be back for the next one yet: then a second one starts, but no more.
    assert 1 <= len(helpers._threads) <= 3
    helpers.close(PATIENCE)


def test_an_accident_costs_nobody_else_anything(helpers: Helpers, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    for _ in range(10):
        helpers.submit(fail)
    done = Event()
    helpers.submit(done.set)
    assert done.wait(PATIENCE)
    assert "ZeroDivisionError" in caplog.text


def test_closing_drops_what_was_not_begun() -> None:
    helpers = Helpers(1)
    begun = Event()
    gate = Event()
    ran: list[str] = []

    def first() -> None:
        begun.set()
        gate.wait(PATIENCE)
        ran.append("first")

    helpers.submit(first)
    assert begun.wait(PATIENCE)
    helpers.submit(lambda: ran.append("second"))
    before = monotonic()
    helpers.close()
    assert monotonic() - before < PATIENCE / 2, "it does not wait unless told to"
    assert not helpers.submit(lambda: ran.append("third"))
    gate.set()
    helpers.close(PATIENCE)
    assert ran == ["first"]
    assert all(not thread.is_alive() for thread in helpers._threads)


def test_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one thing that is not real here: a system that is out of threads."""

    def refuse(_: Thread) -> None:
        raise RuntimeError("can't start new thread")

    helpers = Helpers(2)
    ran: list[int] = []
    with monkeypatch.context() as patched:
        patched.setattr(Thread, "start", refuse)
        assert not helpers.submit(lambda: ran.append(1))
        assert helpers.waiting == 0
    done = Event()
    assert helpers.submit(done.set)
    assert done.wait(PATIENCE)
    gate = Event()
    helpers.submit(lambda: gate.wait(PATIENCE))
    with monkeypatch.context() as patched:
        patched.setattr(Thread, "start", refuse)
        late = Event()
        assert helpers.submit(late.set), "one thread is there, and will come to it"
    gate.set()
    assert late.wait(PATIENCE)
    assert ran == []
    helpers.close(PATIENCE)


def test_helpers_that_stand_back() -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, get_native_id())

    own = priority()
    seen: SimpleQueue[int] = SimpleQueue()
    for nice in (0, 3):
        helpers = Helpers(1, nice=nice)
        helpers.submit(lambda: seen.put(priority()))
        assert seen.get(timeout=10) == min(19, own + nice)
        helpers.close(5.0)
    assert priority() == own, "only the helper's own thread stands back"

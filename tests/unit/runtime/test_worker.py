"""One event loop: what is called, in which order, and what survives an accident."""

import socket
from collections.abc import Callable, Iterator
from functools import partial
from threading import Event, current_thread

import pytest

from pgdoorman.runtime.poller import READ
from pgdoorman.runtime.worker import Worker

PATIENCE = 5.0


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker("worker", 3)
    worker.start()
    yield worker
    worker.stop()
    worker.join(PATIENCE)
    assert not worker.is_alive()


def done_on(worker: Worker, call: Callable[[], object]) -> None:
    """Has the worker make a call, and waits until it has."""
    done = Event()

    def make() -> None:
        try:
            call()
        finally:
            done.set()

    assert worker.post(make)
    assert done.wait(PATIENCE)


class Owner:
    """Something with a handler, as sessions and backends are."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.errors: list[Exception] = []
        self.told = Event()

    def on_crash(self, error: Exception) -> None:
        self.errors.append(error)
        self.told.set()

    def fail(self, *_: object) -> None:
        raise ZeroDivisionError("on purpose")


def test_posts_run_on_its_thread_in_order(worker: Worker) -> None:
    seen: list[tuple[int, bool]] = []
    assert not worker.is_current
    for number in range(10):
        worker.post(lambda number=number: seen.append((number, current_thread() is worker and worker.is_current)))  # type: ignore[misc]
    done_on(worker, lambda: None)
    assert seen == [(number, True) for number in range(10)]


def test_a_post_from_its_own_thread_comes_later(worker: Worker) -> None:
    seen: list[str] = []
    finished = Event()

    def second() -> None:
        seen.append("second")
        finished.set()

    def first() -> None:
        worker.post(second)
        seen.append("first")

    worker.post(first)
    assert finished.wait(PATIENCE)
    assert seen == ["first", "second"]


def test_a_handler_is_called_with_its_events(worker: Worker) -> None:
    ours, theirs = socket.socketpair()
    heard: list[tuple[object, int, bytes]] = []
    came = Event()

    def handler(by: Worker, events: int) -> None:
        heard.append((by, events, ours.recv(10)))
        came.set()

    with ours, theirs:
        done_on(worker, lambda: worker.watch(ours.fileno(), handler))
        theirs.send(b"hello")
        assert came.wait(PATIENCE)
        done_on(worker, lambda: worker.unwatch(ours.fileno()))
        theirs.send(b"unheard")
        done_on(worker, lambda: None)
    assert heard == [(worker, READ, b"hello")]


def test_timers_ring_on_its_thread(worker: Worker) -> None:
    rung = Event()
    seen: list[bool] = []

    def ring() -> None:
        seen.append(worker.is_current)
        rung.set()

    worker.post(lambda: worker.after(0.01, ring))
    assert rung.wait(PATIENCE)
    assert seen == [True]


def test_a_cancelled_timer_does_not_ring(worker: Worker) -> None:
    seen: list[str] = []
    finished = Event()

    def begin() -> None:
        timer = worker.after(0.02, lambda: seen.append("cancelled"))
        worker.after(0.01, timer.cancel)
        worker.after(0.03, finished.set)

    worker.post(begin)
    assert finished.wait(PATIENCE)
    assert seen == []


@pytest.mark.parametrize("how", ["post", "partial", "timer", "event"])
def test_an_accident_is_its_owners_alone(worker: Worker, how: str, caplog: pytest.LogCaptureFixture) -> None:
    owner = Owner()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        match how:
            case "post":
                worker.post(owner.fail)
            case "partial":
                worker.post(partial(owner.fail, 1, 2))
            case "timer":
                worker.post(lambda: worker.after(0.0, owner.fail))
            case _:
                done_on(worker, lambda: worker.watch(ours.fileno(), owner.fail))
                theirs.send(b"x")
        assert owner.told.wait(PATIENCE)
        done_on(worker, lambda: worker.unwatch(ours.fileno()))
    assert isinstance(owner.errors[0], ZeroDivisionError)
    assert worker.crashes >= 1
    assert "ZeroDivisionError" in caplog.text


def test_an_owner_that_fails_again_is_not_asked_twice(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    class Hopeless(Owner):
        def on_crash(self, error: Exception) -> None:
            super().on_crash(error)
            raise error

    owner = Hopeless()
    worker.post(owner.fail)
    done_on(worker, lambda: None)
    assert len(owner.errors) == 1
    assert "could not close" in caplog.text


def test_an_accident_without_an_owner_is_logged(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    worker.post(fail)
    done_on(worker, lambda: None)
    assert worker.crashes == 1
    assert "ZeroDivisionError" in caplog.text


def test_what_was_posted_before_the_end_is_done_and_nothing_after() -> None:
    worker = Worker("worker", 0)
    seen: list[str] = []
    worker.post(lambda: seen.append("before the start"))
    worker.stop()
    worker.post(lambda: seen.append("behind stop"))
    worker.start()
    worker.join(PATIENCE)
    assert not worker.is_alive()
    assert seen == ["before the start", "behind stop"]
    assert not worker.post(lambda: seen.append("too late"))
    assert len(seen) == 2

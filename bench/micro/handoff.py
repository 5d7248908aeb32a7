"""A call from one worker to another: inbox, eventfd, and the waking up of a thread."""

import time
from collections.abc import Iterator
from threading import Event

from bench.micro.timing import Operation
from pgdoorman.runtime.inbox import Inbox
from pgdoorman.runtime.worker import Worker

BURST = 16


def _nothing() -> None:
    pass


def post_and_take(count: int) -> float:
    """One call through an inbox on one thread: a lock, an eventfd write, an eventfd read, a lock."""
    inbox = Inbox()
    turns = range(count)
    began = time.perf_counter()
    for _ in turns:
        inbox.post(_nothing)
        inbox.take()
    elapsed = time.perf_counter() - began
    inbox.close()
    return elapsed


def burst(count: int) -> float:
    """Sixteen calls that are taken together share one announcement."""
    inbox = Inbox()
    turns = range(count)
    began = time.perf_counter()
    for _ in turns:
        for _ in range(BURST):
            inbox.post(_nothing)
        inbox.take()
    elapsed = time.perf_counter() - began
    inbox.close()
    return elapsed


def there_and_back(count: int) -> float:
    """A call is passed between two idle workers `count` times, so each turn wakes a sleeping thread."""
    left, right = Worker("left", 0), Worker("right", 1)
    done = Event()
    remaining = count

    def pass_on() -> None:
        nonlocal remaining
        if not remaining:
            done.set()
            return
        remaining -= 1
        (right if remaining & 1 else left).post(pass_on)

    for worker in (left, right):
        worker.start()
    began = time.perf_counter()
    left.post(pass_on)
    done.wait()
    elapsed = time.perf_counter() - began
    for worker in (left, right):
        worker.stop()
        worker.join()
    return elapsed


def operations() -> Iterator[Operation]:
    """Per call that is handed over."""
    yield Operation("post + take, one thread", post_and_take)
    yield Operation("post + take, 16 at once", burst, BURST)
    yield Operation("worker to sleeping worker", there_and_back)

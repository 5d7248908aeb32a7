"""The pool's ledger: what a transaction pays for its backend."""

import time
from collections.abc import Iterator
from threading import Barrier, Thread

from bench.micro.timing import Operation
from pgdoorman.pool.ledger import NEW, Ledger

BACKENDS = 40
FOR_EVER = float("inf")


class Backend:
    """As much of a backend as the ledger needs."""

    __slots__ = ("attention", "epoch", "expires_at", "home", "idle_since", "place")

    def __init__(self) -> None:
        self.place = NEW
        self.home = 0
        self.epoch = 0
        self.idle_since = 0.0
        self.expires_at = FOR_EVER
        self.attention = False


class Client:
    """As much of a waiting client as the ledger needs."""

    __slots__ = ("in_line", "waiting_since", "worker_index")

    def __init__(self, worker_index: int) -> None:
        self.waiting_since = 0.0
        self.in_line = False
        self.worker_index = worker_index


def _filled(backends: int, workers: int) -> Ledger[Backend, Client]:
    """A ledger whose backends are idle, evenly at all workers. Each is opened for a client that gives up at once."""
    ledger: Ledger[Backend, Client] = Ledger(backends, workers, parallel_openings=backends)
    for _ in range(backends):
        ledger.checkout(Client(0), 0, 0.0)
    for waiter in ledger.refuse_all(None).refusals:
        ledger.abandon(waiter[0])
    for number in range(backends):
        ledger.opened(Backend(), number % workers, 0.0)
    return ledger


def _at_home(ledger: Ledger[Backend, Client], client: Client, worker: int, count: int) -> float:
    checkout = ledger.checkout
    checkin = ledger.checkin
    turns = range(count)
    began = time.perf_counter()
    for _ in turns:
        entry, _errands = checkout(client, worker, 1.0)
        assert entry is not None
        checkin(entry, worker, 1.0)
    return time.perf_counter() - began


def checkout_at_home(count: int) -> float:
    """Checkout and checkin by the home worker, nobody else at the lock."""
    return _at_home(_filled(BACKENDS, 2), Client(0), 0, count)


def checkout_moves_home(count: int) -> float:
    """One backend, two workers in turn: every checkout finds it at the other one."""
    ledger = _filled(1, 2)
    clients = (Client(0), Client(1))
    turns = range(count)
    began = time.perf_counter()
    for turn in turns:
        worker = turn & 1
        entry, _errands = ledger.checkout(clients[worker], worker, 1.0)
        assert entry is not None
        ledger.checkin(entry, worker, 1.0)
    return time.perf_counter() - began


def checkin_grants(count: int) -> float:
    """The pool is exhausted: each checkin hands its backend to the oldest of 100 waiters, and a new one queues up."""
    ledger = _filled(1, 1)
    entry, _errands = ledger.checkout(Client(0), 0, 0.0)
    assert entry is not None
    waiting = [Client(0) for _ in range(100)]
    for client in waiting:
        ledger.checkout(client, 0, 1.0)
    turns = range(count)
    began = time.perf_counter()
    for _ in turns:
        errands = ledger.checkin(entry, 0, 1.0)
        assert errands is not None
        client, entry = errands.grants[0]
        ledger.checkout(client, 0, 1.0)
    return time.perf_counter() - began


def two_threads(count: int) -> float:
    """Two workers at one ledger, each with backends of its own; the mean time of a turn as each of them sees it."""
    ledger = _filled(BACKENDS, 2)
    barrier = Barrier(2)
    elapsed = [0.0, 0.0]

    def work(worker: int) -> None:
        client = Client(worker)
        barrier.wait()
        elapsed[worker] = _at_home(ledger, client, worker, count)

    threads = [Thread(target=work, args=(worker,)) for worker in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(elapsed) / 2


def operations() -> Iterator[Operation]:
    """Per checkout and checkin together."""
    yield Operation("checkout at home + checkin", checkout_at_home)
    yield Operation("checkout from another worker + checkin", checkout_moves_home)
    yield Operation("checkin that grants + queueing up", checkin_grants)
    yield Operation("checkout at home + checkin, 2 threads", two_threads)

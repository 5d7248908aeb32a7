"""The ledger among real threads: each is a worker whose clients check out, wait, give up and check in."""

import random
from collections import deque
from threading import Barrier, Condition, Event, Lock, Thread
from time import monotonic, sleep
from typing import Final

import pytest

from pgdoorman.pool.errands import Errands
from pgdoorman.pool.ledger import GONE, NEW, Ledger
from pgdoorman.pool.waiting_line import BLUR

PATIENCE: Final = 20.0
FOR_EVER: Final = float("inf")


class Entry:
    """A backend that notices when two have it at a time."""

    def __init__(self, epoch: int) -> None:
        self.place = NEW
        self.home = 0
        self.epoch = epoch
        self.idle_since = 0.0
        self.attention = False
        self.expires_at = FOR_EVER
        self._in_hand = Lock()

    def grasp(self) -> None:
        assert self._in_hand.acquire(blocking=False), "in two hands"
        assert self.place != GONE

    def let_go(self) -> None:
        self._in_hand.release()


class Client:
    """Waits for what another thread decides."""

    def __init__(self, worker_index: int) -> None:
        self.waiting_since = 0.0
        self.in_line = False
        self.worker_index = worker_index
        self.entry: Entry | None = None
        self.refused = False
        self.answered = Event()


class Hall:
    """A ledger, and the hands that do what it wants: grants at once, openings on threads of their own."""

    def __init__(self, limit: int, workers: int, seed: int) -> None:
        self.ledger: Ledger[Entry, Client] = Ledger(limit, workers, minimum=1, parallel_openings=3, retry_delay=0.001)
        self.limit = limit
        self.workers = workers
        self.seed = seed
        self.closed: list[Entry] = []
        self._wanted: deque[int] = deque()
        self._changed = Condition()
        self._over = False
        self._openers = [Thread(target=self._open, args=(number,), daemon=True) for number in range(2)]
        self.errors: list[BaseException] = []
        for opener in self._openers:
            opener.start()

    def run(self, errands: Errands[Entry, Client] | None) -> None:
        if errands is None:
            return
        for client, entry in errands.grants:
            entry.grasp()
            client.entry = entry
            client.answered.set()
        for client, _ in errands.refusals:
            client.refused = True
            client.answered.set()
        self.closed += errands.closings
        if errands.openings:
            with self._changed:
                self._wanted += [self.ledger.epoch] * errands.openings
                self._changed.notify_all()

    def _open(self, number: int) -> None:
        draw = random.Random(self.seed * 31 + number)
        while True:
            with self._changed:
                while not self._wanted:
                    if self._over:
                        return
                    self._changed.wait(0.05)
                epoch = self._wanted.popleft()
            if draw.random() < 0.1:
                self.run(self.ledger.opening_failed("no", monotonic(), final=False))
            else:
                self.run(self.ledger.opened(Entry(epoch), draw.randrange(self.workers), monotonic()))

    def end(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()
        for opener in self._openers:
            opener.join(PATIENCE)


def work(hall: Hall, worker: int, rounds: int) -> None:
    """One worker's clients, one after the other."""
    draw = random.Random(hall.seed * 1000 + worker)
    ledger = hall.ledger
    for _ in range(rounds):
        entry = ledger.take(worker)
        if entry is None:
            client = Client(worker)
            entry, errands = ledger.checkout(client, worker, monotonic())
            if entry is not None:
                entry.grasp()
            hall.run(errands)
            if entry is None:
                if draw.random() < 0.05 and ledger.abandon(client):
                    assert not client.answered.is_set()
                    continue
                assert client.answered.wait(PATIENCE), f"seed {hall.seed}: {ledger.statistics(monotonic())}"
                if client.refused:
                    continue
                entry = client.entry
                assert entry is not None
        else:
            entry.grasp()
        if draw.random() < 0.1:
            sleep(draw.random() / 5000)
        entry.let_go()
        chance = draw.random()
        if chance < 0.05:
            hall.run(ledger.discard(entry, monotonic()))
        elif chance < 0.1:
            ledger.hold(entry)
            hall.run(ledger.release(entry, worker, monotonic()))
        else:
            hall.run(ledger.checkin(entry, worker, monotonic()))


def disturb(hall: Hall, until: Event) -> None:
    """The janitor and the operator."""
    draw = random.Random(hall.seed)
    ledger = hall.ledger
    while not until.wait(draw.random() / 500):
        now = monotonic()
        match draw.randrange(8):
            case 0:
                ledger.pause()
                sleep(0.0005)
                hall.run(ledger.resume(monotonic()))
            case 1:
                hall.run(ledger.reconnect(now))
            case 2:
                hall.run(ledger.resize(draw.randint(1, hall.limit), 1, now))
            case 3:
                hall.closed += ledger.take_idle(now, 0.001, 2)
            case 4:
                hall.run(ledger.expire_waiters(now, 0.05, "too long"))
            case 5:
                for entry in ledger.members():
                    worker = draw.randrange(hall.workers)
                    if ledger.examine(entry, worker):
                        entry.grasp()
                        entry.let_go()
                        hall.run(ledger.release(entry, worker, now))
            case _:
                hall.run(ledger.tick(now))
        found = ledger.statistics(monotonic())
        assert min(found.idle, found.leased, found.examined, found.opening, found.waiting) >= 0
        assert found.total <= hall.limit


@pytest.mark.timeout(300)  # eight threads at a time get little of a busy machine
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("limit", "workers", "rounds"), [(3, 8, 400), (8, 8, 1000), (1, 6, 300)])
def test_nobody_is_forgotten_and_nothing_is_in_two_hands(limit: int, workers: int, rounds: int, seed: int) -> None:
    hall = Hall(limit, workers, seed)
    barrier = Barrier(workers + 1)
    over = Event()

    def run(worker: int) -> None:
        barrier.wait(PATIENCE)
        try:
            work(hall, worker, rounds)
        except BaseException as error:  # noqa: BLE001 - shown below
            hall.errors.append(error)

    def janitor() -> None:
        barrier.wait(PATIENCE)
        try:
            disturb(hall, over)
        except BaseException as error:  # noqa: BLE001 - shown below
            hall.errors.append(error)

    threads = [Thread(target=run, args=(worker,), daemon=True) for worker in range(workers)]
    keeper = Thread(target=janitor, daemon=True)
    for thread in (*threads, keeper):
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    stuck = [thread for thread in threads if thread.is_alive()]
    over.set()
    keeper.join(PATIENCE)
    hall.end()
    assert not hall.errors, f"seed {seed}: {hall.errors[0]!r}"
    assert not stuck, f"seed {seed}: {hall.ledger.statistics(monotonic())}"
    found = hall.ledger.statistics(monotonic())
    assert (found.leased, found.examined, found.waiting, found.opening) == (0, 0, 0, 0), f"seed {seed}"
    assert found.idle <= hall.limit
    assert len(set(hall.closed)) == len(hall.closed), "closed twice"
    assert all(entry.place == GONE for entry in hall.closed)
    hall.run(hall.ledger.close("over"))
    assert hall.ledger.is_empty


@pytest.mark.parametrize("seed", [1, 2])
def test_in_order_of_arrival(seed: int) -> None:
    """One backend, always freed by the same worker. Each worker's clients are served in the order in which they came, and
    nobody is served while another waits who came more than a blur earlier."""
    ledger: Ledger[Entry, Client] = Ledger(1, 6)
    entry = Entry(0)
    first = Client(0)
    ledger.checkout(first, 0, 0.0)
    assert ledger.opened(entry, 0, 0.0).grants
    came: list[list[Client]] = [[] for _ in range(6)]
    served: list[Client] = []
    gone: set[Client] = set()  # or never stood in the line
    handed: deque[Entry] = deque()
    barrier = Barrier(7)

    def arrive(worker: int) -> None:
        draw = random.Random(seed * 10 + worker)
        barrier.wait(PATIENCE)
        for _ in range(200):
            client = Client(worker)
            came[worker].append(client)
            got, _ = ledger.checkout(client, worker, monotonic())
            if got is not None:  # everyone had left the line meanwhile
                gone.add(client)
                handed.append(got)
            elif draw.random() < 0.2 and ledger.abandon(client):
                gone.add(client)
            sleep(draw.random() / 5000)

    def serve() -> None:
        barrier.wait(PATIENCE)
        deadline = monotonic() + PATIENCE
        while any(thread.is_alive() for thread in threads) or ledger.statistics(1.0).waiting:
            assert monotonic() < deadline
            if not ledger.statistics(1.0).waiting:
                continue
            before = [client for line in came for client in line[-50:] if client.in_line]
            errands = ledger.checkin(entry, 0, 1.0)
            if errands is None:
                while ledger.take(0) is None and not handed:
                    assert monotonic() < deadline
                handed.clear()
                continue
            chosen = errands.grants[0][0]
            served.append(chosen)
            for other in before:
                assert not other.in_line or chosen.waiting_since <= other.waiting_since + BLUR, f"seed {seed}"

    threads = [Thread(target=arrive, args=(worker,), daemon=True) for worker in range(6)]
    for thread in threads:
        thread.start()
    serve()
    for thread in threads:
        thread.join(PATIENCE)
    for worker, line in enumerate(came):
        stayed = [client for client in line if client not in gone]
        assert [client for client in served if client.worker_index == worker] == stayed, f"seed {seed}"

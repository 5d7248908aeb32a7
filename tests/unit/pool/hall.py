"""A pool in front of a real server, and clients that wait for its backends."""

from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import monotonic, sleep
from typing import Any, Self

from pgdoorman.backend.connection import Backend
from pgdoorman.config.load import load_text
from pgdoorman.config.settings import UserPoolSettings
from pgdoorman.errors import PgDoormanError
from pgdoorman.pool.ledger import LedgerStatistics
from pgdoorman.pool.pool import Pool, Surroundings
from pgdoorman.runtime.helpers import Helpers
from pgdoorman.runtime.worker import Worker
from tests.support import doorman
from tests.support.postgres import Postgres
from tests.unit.backend.hands import on

PATIENCE = 5.0


def settings_for(
    server: Postgres | tuple[str, int], name: str = "alice", password: str = "", **user: Any
) -> UserPoolSettings:
    """Keys of a user entry; those of the pool behind `pool_`."""
    pool_keys = {key.removeprefix("pool__"): user.pop(key) for key in list(user) if key.startswith("pool__")}
    entry = doorman.user(name, password, **user)
    general = {"host": "127.0.0.1", "port": 1, "admin_username": "admin", "admin_password": "admin"}
    text = doorman.toml({"general": general, "pools": {"app": doorman.pool(server, entry, **pool_keys)}})
    return load_text(text).effective_pools()["app", name]


class Waiter:
    """A client that waits. It stays at its worker."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.worker_index = worker.index
        self.waiting_since = 0.0
        self.in_line = False
        self.answers: SimpleQueue[Backend | PgDoormanError] = SimpleQueue()
        self.on_its_thread: list[bool] = []

    def move_to(self, worker: Worker) -> bool:
        return False

    def granted(self, backend: Backend) -> None:
        self.on_its_thread.append(self.worker.is_current)
        backend.move_to(self.worker)
        self.answers.put(backend)

    def refused(self, reason: PgDoormanError) -> None:
        self.on_its_thread.append(self.worker.is_current)
        self.answers.put(reason)

    def backend(self) -> Backend:
        answer = self.answers.get(timeout=PATIENCE)
        assert isinstance(answer, Backend), repr(answer)
        return answer

    def refusal(self) -> PgDoormanError:
        answer = self.answers.get(timeout=PATIENCE)
        assert isinstance(answer, PgDoormanError)
        return answer

    @property
    def is_waiting(self) -> bool:
        with suppress(Empty):
            self.answers.put(self.answers.get_nowait())
            return False
        return True


class Hall:
    """Workers, helpers and one pool. Leaving it ends them, and nothing may have crashed."""

    def __init__(self, settings: UserPoolSettings, workers: int = 2) -> None:
        self.workers = [Worker(f"worker {index}", index) for index in range(workers)]
        self.helpers = Helpers(4)
        self.pool = Pool(settings, Surroundings(self.workers, self.helpers))
        self.leases: list[Backend] = []

    def __enter__(self) -> Self:
        for worker in self.workers:
            worker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.close()
        self.helpers.close(PATIENCE)
        for worker in self.workers:
            self.on(worker, lambda: None)
        for backend in self.leases:
            backend.close()
        for worker in self.workers:
            worker.stop()
            worker.join(PATIENCE)
        assert [worker.crashes for worker in self.workers] == [0] * len(self.workers)

    def on[T](self, worker: Worker, call: Callable[[], T]) -> T:
        """Makes a call on a worker's thread and waits for what it returns."""
        return on(worker, call)

    def ask(self, index: int = 0) -> Waiter:
        """A client at this worker asks for a backend."""
        worker = self.workers[index]
        waiter = Waiter(worker)

        def check_out() -> None:
            backend, errands = self.pool.ledger.checkout(waiter, index, monotonic())
            if backend is not None:
                waiter.granted(backend)
            elif errands is not None:
                self.pool.run(errands, worker)

        self.on(worker, check_out)
        return waiter

    def lease(self, index: int = 0) -> Backend:
        """The same, and it gets one."""
        backend = self.ask(index).backend()
        self.leases.append(backend)
        return backend

    def give_back(self, backend: Backend) -> None:
        worker = backend.worker
        assert worker is not None
        self.leases.remove(backend)
        self.on(worker, lambda: self.pool.checkin(backend, worker))

    def discard(self, backend: Backend) -> None:
        worker = backend.worker
        assert worker is not None
        self.leases.remove(backend)
        self.on(worker, lambda: self.pool.discard(backend, worker))

    @property
    def counts(self) -> LedgerStatistics:
        return self.pool.statistics()

    def wait_for(self, condition: Callable[[LedgerStatistics], bool]) -> None:
        """Until the pool's numbers are so. Raises AssertionError, with the numbers."""
        deadline = monotonic() + PATIENCE
        while not condition(self.counts):
            assert monotonic() < deadline, self.counts
            sleep(0.005)

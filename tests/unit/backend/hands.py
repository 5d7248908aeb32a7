"""What the tests of this room do with real backends."""

from collections.abc import Callable
from queue import SimpleQueue
from threading import Event
from typing import Any

from pgdoorman.auth.backend_login import BackendCredentials
from pgdoorman.backend.connection import Backend
from pgdoorman.backend.inquiry import Inquiry, Rows
from pgdoorman.backend.startup import OpeningPlan, wait_opened
from pgdoorman.errors import PgDoormanError
from pgdoorman.runtime.worker import Worker
from pgdoorman.transport.connect import Address
from tests.support.postgres import Postgres

PATIENCE = 5.0


def plan_for(postgres: Postgres, user: str = "alice", password: str = "", **changes: Any) -> OpeningPlan:
    credentials = BackendCredentials(user, password=password.encode() or None)
    settings: dict[str, Any] = {"database": "app", "credentials": credentials, **changes}
    return OpeningPlan(Address(postgres.host, postgres.port), **settings)


def opened(postgres: Postgres, worker: Worker, **changes: Any) -> Backend:
    """A backend at home at `worker`."""
    backend = wait_opened(plan_for(postgres, **changes))
    on(worker, lambda: backend.move_to(worker))
    return backend


def on[T](worker: Worker, call: Callable[[], T]) -> T:
    """Makes a call on the worker's thread and waits for what it returns. Raises what it raises."""
    results: list[T] = []
    errors: list[BaseException] = []
    done = Event()

    def make() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)
        finally:
            done.set()

    assert worker.post(make)
    assert done.wait(PATIENCE), "the worker does not come to it"
    if errors:
        raise errors[0]
    return results[0]


def ask(backend: Backend, sql: str, timeout: float = PATIENCE) -> tuple[Rows, PgDoormanError | None]:
    """One inquiry, and what came of it."""
    worker = backend.worker
    assert worker is not None
    answers: SimpleQueue[tuple[Rows, PgDoormanError | None]] = SimpleQueue()
    on(worker, lambda: Inquiry(backend, sql, timeout, lambda _, rows, error: answers.put((rows, error))))
    return answers.get(timeout=PATIENCE)

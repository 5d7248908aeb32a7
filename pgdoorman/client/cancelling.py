"""Cancel requests on their way to a server: who may be hit by them, and what waits for them.

A request is delivered by a helper (`deliver`), which takes a round trip or more. Until then the backend is not given to
another client: `Backend.cancels_under_way` counts the requests, whoever cares for the backend waits until there are none.
"""

from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any

from pgdoorman.backend.cancel import CancelAdrift, wait_cancelled
from pgdoorman.backend.connection import Backend
from pgdoorman.config.settings import UserPoolSettings
from pgdoorman.errors import PgDoormanError
from pgdoorman.pool.pool import socket_options
from pgdoorman.runtime.helpers import Helpers
from pgdoorman.runtime.worker import Worker


class Cancelled(PgDoormanError):
    """A cancel request ended the wait for a backend."""

    sqlstate = "57014"
    severity = "ERROR"


def is_overdue(asked: float, settings: UserPoolSettings) -> bool:
    """Whether a cancel request of that moment (monotonic seconds) has waited so long that nobody can want it any more."""
    return bool(settings.cancel_wait_timeout) and monotonic() - asked > settings.cancel_wait_timeout


def submit(
    backend: Backend,
    worker: Worker,
    helpers: Helpers,
    settings: UserPoolSettings,
    *,
    asked: float,
    done: Callable[[], Any] | None = None,
) -> bool:
    """Have the query of a backend of this worker cancelled, and then `done` called, on any thread. False, and `done` is
    not called, if no helper can be had."""
    backend.cancels_under_way += 1
    if helpers.submit(partial(_deliver_for_worker, backend, worker, settings, asked, done)):
        return True
    backend.cancels_under_way -= 1
    return False


def deliver(backend: Backend, settings: UserPoolSettings) -> bool:
    """Deliver a cancel request; on a helper's thread. False if it may still arrive, nobody knows when."""
    try:
        wait_cancelled(
            backend.address,
            backend.process_id,
            backend.cancel_secret,
            settings.connect_timeout,
            socket_options(settings.tcp),
            backend.connector,
        )
    except CancelAdrift:
        return False
    except PgDoormanError:
        pass  # a server that cannot be reached has its own way of ending queries
    return True


def _deliver_for_worker(
    backend: Backend, worker: Worker, settings: UserPoolSettings, asked: float, done: Callable[[], Any] | None
) -> None:
    settled = True
    try:
        if not is_overdue(asked, settings):  # the helpers may have been busy for too long
            settled = deliver(backend, settings)
    finally:
        worker.post(partial(_delivered, backend, settled))
        if done is not None:
            done()


def _delivered(backend: Backend, settled: bool) -> None:
    backend.cancels_under_way -= 1
    if not settled:
        backend.close_wanted = True  # the request may still come, and would hit the next client's query
    on_cancel_delivered = getattr(backend.holder, "on_cancel_delivered", None)
    if on_cancel_delivered is not None:
        on_cancel_delivered(backend)

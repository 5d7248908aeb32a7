"""One event loop on one thread."""

import logging
from collections.abc import Callable
from threading import Thread, get_ident
from time import monotonic
from typing import Any

from pgdoorman.runtime.inbox import Inbox
from pgdoorman.runtime.poller import READ, Handler, Poller
from pgdoorman.runtime.timers import Timer, Timers

log = logging.getLogger(__name__)


class Worker(Thread):
    """Waits for readiness and calls handlers; makes the calls that other threads posted; keeps timers.

    Everything that is registered here belongs to this thread. A handler that raises must not take the other
    connections with it: its owner is told by `on_crash(error)` and closes that one connection.
    """

    def __init__(self, name: str, index: int) -> None:
        super().__init__(name=name, daemon=True)
        self.index = index
        self.poller = Poller()
        self.inbox = Inbox()
        self.timers = Timers()
        self.crashes = 0
        self.load = 0  # connections at home here; a guide for balancing, written without a lock
        self._running = True
        self._thread = 0
        self.poller.watch(self.inbox.fd, self._on_inbox)

    # The narrow waist that sessions and backends use.

    def watch(self, fd: int, handler: Handler, events: int = READ) -> None:
        self.poller.watch(fd, handler, events)

    def unwatch(self, fd: int) -> None:
        self.poller.unwatch(fd)

    def post(self, call: Callable[[], Any]) -> bool:
        """Have `call` made on this worker's thread. From any thread. False if the worker has ended."""
        return self.inbox.post(call)

    def after(self, seconds: float, call: Callable[[], Any]) -> Timer:
        """Have `call` made on this thread after `seconds`. From this thread only."""
        return self.timers.after(seconds, call)

    @property
    def is_current(self) -> bool:
        """Whether the caller runs on this worker's thread."""
        return get_ident() == self._thread

    def stop(self) -> None:
        """Leave the loop after the calls posted so far. From any thread."""
        self.post(self._leave)

    def _leave(self) -> None:
        self._running = False

    def run(self) -> None:
        self._thread = get_ident()
        wait = self.poller.wait
        # Not `get`: on a build without the GIL that takes the dictionary's lock if another thread made the key.
        handlers = self.poller.handlers
        next_due = self.timers.next_due
        while self._running:
            due = next_due()
            events = wait(-1.0 if due is None else max(0.0, due - monotonic()))
            for fd, mask in events:
                try:
                    handler = handlers[fd]
                except KeyError:
                    continue
                try:
                    handler(self, mask)
                except Exception as error:  # noqa: BLE001 - one connection's accident must not end the others (see the class)
                    self._crashed(handler, error)
            if due is not None:
                for call in self.timers.take_due(monotonic()):
                    self._make(call)
        self._close()

    def _on_inbox(self, worker: "Worker", events: int) -> None:
        for call in self.inbox.take():
            self._make(call)

    def _make(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - the same guard as in the loop
            self._crashed(call, error)

    def _crashed(self, call: Any, error: Exception) -> None:
        self.crashes += 1
        owner = getattr(call, "__self__", None) or getattr(getattr(call, "func", None), "__self__", None)
        log.error("unexpected %s in %r", type(error).__name__, owner or call, exc_info=error)
        on_crash = getattr(owner, "on_crash", None)
        if on_crash is not None:
            try:
                on_crash(error)
            except Exception:  # closing is best effort here; the descriptor may already be gone
                log.exception("could not close %r after its failure", owner)

    def _close(self) -> None:
        self.poller.unwatch(self.inbox.fd)
        for call in self.inbox.close():
            self._make(call)
        self.poller.close()

"""The janitor: one thread that makes small calls at fixed intervals."""

import logging
from collections.abc import Callable
from threading import Event, Thread
from time import monotonic
from typing import Any

log = logging.getLogger(__name__)


class Periodic(Thread):
    """Makes each of its calls every so many seconds. Calls must be short: they share the thread."""

    def __init__(self, name: str = "janitor") -> None:
        super().__init__(name=name, daemon=True)
        self._duties: list[tuple[float, Callable[[], Any]]] = []
        self._stopped = Event()

    def every(self, seconds: float, call: Callable[[], Any]) -> None:
        """Add a duty. Before `start()` only."""
        self._duties.append((seconds, call))

    def stop(self) -> None:
        """Make no further calls and wait for the one that runs."""
        self._stopped.set()
        if self.is_alive():
            self.join(5.0)

    def run(self) -> None:
        now = monotonic()
        due = [now + seconds for seconds, _ in self._duties]
        while due and not self._stopped.wait(max(0.0, min(due) - monotonic())):
            now = monotonic()
            for index, (seconds, call) in enumerate(self._duties):
                if due[index] > now:
                    continue
                # From now, not from when it was due: a machine that slept must not make up for lost rounds.
                due[index] = now + seconds
                try:
                    call()
                except Exception:  # one duty's failure must not end the others
                    log.exception("a periodic duty failed")

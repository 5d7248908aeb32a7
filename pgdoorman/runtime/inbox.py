"""What other threads have for a worker: calls, posted under a lock and announced by one eventfd write."""

import os
from collections.abc import Callable
from threading import Lock
from typing import Any

type Call = Callable[[], Any]


class Inbox:
    """Calls to be made on the thread that owns this inbox, in the order in which they were posted.

    A list under a lock and an eventfd, not a queue: the owner swaps the whole list out with one lock, and the eventfd
    is written only by the post that finds the list empty, so a burst costs one system call.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._calls: list[Call] = []
        self._closed = False
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def post(self, call: Call) -> bool:
        """Have `call` made by the owner soon. False if the owner is gone: the caller keeps what it wanted to hand over."""
        with self._lock:
            if self._closed:
                return False
            first = not self._calls
            self._calls.append(call)
        if first:
            os.eventfd_write(self.fd, 1)
        return True

    def take(self) -> list[Call]:
        """All calls posted so far; the owner makes them. Clears the announcement first: a post that comes between the
        two finds an empty list and announces itself again."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            pass
        with self._lock:
            calls = self._calls
            self._calls = []
        return calls

    def close(self) -> list[Call]:
        """Refuse further posts and return what was not taken."""
        with self._lock:
            self._closed = True
            calls = self._calls
            self._calls = []
        return calls

    def __del__(self) -> None:
        # Not in `close`: a post that was accepted just before may still be about to write, and the number could be somebody
        # else's descriptor by then. (Writing under the lock would let the thread that is woken run into the lock.)
        os.close(self.fd)

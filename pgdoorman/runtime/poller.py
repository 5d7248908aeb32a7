"""Readiness of file descriptors. The one import of selectors2.

selectors2 2.0.2 looks for `collections.Mapping`, which left the standard library in Python 3.10; this module lends it
the name for the length of that import. Nobody else may know.
"""

import collections
import collections.abc
import select
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

collections.Mapping = collections.abc.Mapping  # type: ignore[attr-defined]
import selectors2  # noqa: E402

del collections.Mapping  # type: ignore[attr-defined]

if TYPE_CHECKING:
    from pgdoorman.runtime.worker import Worker

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
HANG_UP = select.EPOLLHUP | select.EPOLLERR
NOTHING = 0

# A handler gets the worker that runs it and the epoll events. It must survive a spurious call: an event may have been
# collected just before its socket changed owner.
type Handler = Callable[["Worker", int], Any]

EVENTS_PER_WAIT = 256


class Poller(selectors2.EpollSelector):  # type: ignore[misc]
    """An epoll selector that dispatches by handler instead of building a SelectorKey per event.

    The stock `select()` allocates a key and a tuple for every event; handing out epoll's own list and looking handlers
    up by descriptor is worth about 1 us per transaction. `watch` and friends may be called from any thread (epoll and
    single dict operations allow it): a backend that is checked out moves from one worker's poller to another's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.handlers: dict[int, Handler] = {}
        self._poll = self._selector.poll if hasattr(self, "_selector") else self._epoll.poll
        self._control = self._selector if hasattr(self, "_selector") else self._epoll

    def watch(self, fd: int, handler: Handler, events: int = READ) -> None:
        """Start to report `events` of `fd` to `handler`. Raises OSError if the kernel refuses (ENOSPC, EBADF)."""
        self.handlers[fd] = handler
        try:
            self._control.register(fd, events)
        except OSError:
            self.handlers.pop(fd, None)
            raise

    def change(self, fd: int, events: int) -> None:
        """Report other events of a watched descriptor; with `NOTHING` only hang-ups and errors are reported."""
        self._control.modify(fd, events)

    def unwatch(self, fd: int) -> None:
        """Stop reporting. Quiet if the descriptor is not watched or already closed."""
        self.handlers.pop(fd, None)
        try:
            self._control.unregister(fd)
        except (OSError, ValueError):
            pass

    def wait(self, timeout: float) -> list[tuple[int, int]]:
        """Up to `EVENTS_PER_WAIT` (descriptor, events) pairs; `timeout` in seconds, negative waits for ever."""
        return self._poll(timeout, EVENTS_PER_WAIT)  # type: ignore[no-any-return]

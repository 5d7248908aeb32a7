"""Who waits, in order of arrival."""

from collections import deque
from typing import Final, Protocol

from pgdoorman.constants import bind_constants

# Seconds. Arrivals on different threads that lie closer together than this have no order worth defending: a thread may
# read its client's bytes later than they came by as much, a time slice or two. A backend that comes free goes to the first
# of the waiters of the worker that freed it, unless somebody has waited longer than that one by more than this. It saves
# moving a client, or a backend, to another worker's poller.
BLUR: Final = 0.010


class Standing(Protocol):
    """What the line needs of who stands in it. It alone writes the first two."""

    waiting_since: float  # monotonic seconds; the moment of arrival, kept when the wait is over
    in_line: bool
    worker_index: int  # does not change while it waits


class WaitingLine[W: Standing]:
    """One line for each worker; the oldest of all is the oldest of their heads. Not thread-safe: its ledger's lock guards it.

    Who leaves from the middle is looked for (10 ns for each that stands before it), which is rare. A dictionary of places
    made that constant, and cost every wait two look-ups of what no cache holds: 2 us of 50 with 500 clients. (And an
    OrderedDict locks itself against others while the first is taken out, if another thread made the key: 45 us.)
    """

    __slots__ = ("count", "lines")

    def __init__(self, workers: int) -> None:
        self.lines: list[deque[W]] = [deque() for _ in range(workers)]
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def join(self, waiter: W, now: float) -> None:
        """Stand at the end."""
        waiter.waiting_since = now
        waiter.in_line = True
        self.lines[waiter.worker_index].append(waiter)
        self.count += 1

    def leave(self, waiter: W) -> bool:
        """Go away. False if the waiter does not stand here."""
        if not waiter.in_line:
            return False
        waiter.in_line = False
        self.lines[waiter.worker_index].remove(waiter)
        self.count -= 1
        return True

    def next_for(self, worker: int) -> W:
        """Take out whose turn it is if a backend comes free at this worker. Raises IndexError if nobody waits."""
        line = self.lines[worker]
        if line:
            enough = line[0].waiting_since - BLUR
            for other in self.lines:
                if other is not line and other and other[0].waiting_since < enough:
                    line = self._oldest_line()
                    break
        else:
            line = self._oldest_line()
        waiter = line.popleft()
        waiter.in_line = False
        self.count -= 1
        return waiter

    def first(self) -> W:
        """Take out who came first. Raises IndexError if nobody waits."""
        waiter = self._oldest_line().popleft()
        waiter.in_line = False
        self.count -= 1
        return waiter

    def oldest(self) -> float:
        """Since when the first has been waiting (monotonic seconds). Raises IndexError if nobody waits."""
        return self._oldest_line()[0].waiting_since

    def all(self) -> list[W]:
        """Take everyone out, in order."""
        return [self.first() for _ in range(self.count)]

    def _oldest_line(self) -> deque[W]:
        return min((line for line in self.lines if line), key=lambda line: line[0].waiting_since, default=self.lines[0])


bind_constants(__name__)

"""Deadlines of one thread: a heap of (time, call), for what is rare. Nothing on the hot path sets a timer."""

import heapq
from collections.abc import Callable, Iterator
from itertools import count
from time import monotonic
from typing import Any


class Timer:
    """One pending call. `cancel()` is O(1); the heap forgets it when its time comes."""

    __slots__ = ("call", "due")

    def __init__(self, due: float, call: Callable[[], Any]) -> None:
        self.due = due
        self.call: Callable[[], Any] | None = call

    def cancel(self) -> None:
        self.call = None


class Timers:
    """The timers of one worker; touched by its thread only."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = count()

    def after(self, seconds: float, call: Callable[[], Any]) -> Timer:
        """Have `call` made once, `seconds` from now."""
        timer = Timer(monotonic() + seconds, call)
        heapq.heappush(self._heap, (timer.due, next(self._order), timer))
        return timer

    def next_due(self) -> float | None:
        """The time (monotonic) of the earliest live timer."""
        heap = self._heap
        while heap and heap[0][2].call is None:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def take_due(self, now: float) -> Iterator[Callable[[], Any]]:
        """The calls whose time has come, earliest first. To be made one by one as they are handed out: a call may cancel a
        timer that is due as well, and that one must not ring any more."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            timer = heapq.heappop(heap)[2]
            call, timer.call = timer.call, None
            if call is not None:
                yield call

    def __len__(self) -> int:
        return sum(1 for _, _, timer in self._heap if timer.call is not None)

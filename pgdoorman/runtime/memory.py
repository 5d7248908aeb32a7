"""Memory that is free but still ours, on its way back to the system.

The interpreter without the GIL allocates with mimalloc, a heap for each thread. A page that becomes empty may be given back
only when all other threads have moved on, and the thread that owns it looks whether they have when it needs a large piece
the next time. One that waits for its clients needs none: what a storm or a message of 40 MB has left behind would stay for
hours. So threads are asked now and then to need a few large pieces, where far more is resident than once was enough.

(Whole segments go back at once only without arenas: see `cli.gil`.)
"""

import os
from contextlib import suppress
from math import inf
from typing import Final

WORTH_WHILE: Final = 16 << 20  # bytes resident beyond the least that was seen
FIRST_PAUSE: Final = 1.0  # seconds between two tries
LONGEST_PAUSE: Final = 60.0

# A read allocates its whole buffer first: a large piece of which no page is touched, since nothing is read. As many of them
# as it takes until a freed page counts as safe (the interpreter moves its clock at every tenth), and some more.
_PIECE: Final = 1 << 20
_PIECES: Final = 14


def resident_bytes() -> int:
    """The memory of this process that is in RAM, 0 where the system does not tell."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def give_back() -> None:
    """Let go of what the calling thread has freed: a tenth of a millisecond, and what the system takes for it."""
    for _ in range(_PIECES):
        with suppress(OSError):
            os.read(-1, _PIECE)


class MemoryReturn:
    """When threads are asked to give memory back. Tries that change nothing become rare: it is in use then."""

    def __init__(self) -> None:
        self._least: float = inf
        self._before = 0
        self._due = 0.0
        self._pause = FIRST_PAUSE

    def is_worth_while(self, now: float, resident: int) -> bool:
        """Whether to ask now (monotonic seconds), with so many bytes resident."""
        self._least = min(self._least, resident)
        if resident - self._least < WORTH_WHILE:
            self._pause = FIRST_PAUSE
            return False
        grown = resident - self._before >= WORTH_WHILE
        if now < self._due and not grown:
            return False
        if grown or self._before - resident >= WORTH_WHILE // 16:
            self._pause = FIRST_PAUSE
        else:
            self._pause = min(self._pause * 2, LONGEST_PAUSE)
        self._before = resident
        self._due = now + self._pause
        return True

"""What is the same over and over again is not written as often."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Final


@dataclass(frozen=True, slots=True)
class Sampling:
    """How much of the same is too much. At the end of a period one line tells how many more there were."""

    period: float = 10.0
    """Seconds."""
    same_text: int = 5
    """Lines of one place in the code with exactly the same text that are written in one period."""
    same_place: int = 500
    """Warnings and errors of one place in the code, whatever their text. Lines about what is normal (a login) are never
    left out for being many: they are asked for, or switched off."""


USUAL: Final = Sampling()


@dataclass(slots=True)
class Window:
    """One text, or one place, in the present period."""

    began: float
    record: logging.LogRecord
    seen: int = 0
    left_out: int = 0


type _Key = tuple[str, int, str]

_MOST_WINDOWS: Final = 4096  # of different texts; beyond that they are not counted and all written


class Sampler:
    """Decides which lines are left out. Shared by all threads: the lock is held for a look-up in a table."""

    def __init__(self, limits: Sampling, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._lock = Lock()
        self._windows: dict[_Key, Window] = {}
        self.left_out = 0

    def admits(self, record: logging.LogRecord, text: str) -> bool:
        """Whether this line is to be written."""
        now = self._clock()
        with self._lock:
            admitted = self._count_locked((record.pathname, record.lineno, text), record, now, self._limits.same_text)
            if admitted and record.levelno >= logging.WARNING:
                place = (record.pathname, record.lineno, "")
                admitted = self._count_locked(place, record, now, self._limits.same_place)
            self.left_out += not admitted
            return admitted

    def _count_locked(self, key: _Key, record: logging.LogRecord, now: float, limit: int) -> bool:
        window = self._windows.get(key)
        if window is None:
            if len(self._windows) >= _MOST_WINDOWS:
                return True
            window = self._windows[key] = Window(now, record)
        window.seen += 1
        if window.seen > limit:
            window.left_out += 1
            return False
        return True

    def ended(self, *, everything: bool = False) -> list[Window]:
        """The windows whose period is over, and out of which lines were left. The writer asks after every batch, so only
        those that are over are looked at: they stand first."""
        now = self._clock()
        over = []
        with self._lock:
            for key, window in self._windows.items():
                if not everything and now - window.began < self._limits.period:
                    break
                over.append(key)
            windows = [self._windows.pop(key) for key in over]
        return [window for window in windows if window.left_out]

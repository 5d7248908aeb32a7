"""How long something took, less what the machine took away.

A limit on time is about the program, not about what else runs beside it. Linux counts for how long somebody who could run
had to wait for a processor (/proc/pressure/cpu, "some"); where a limit is passed, as much is not held against the program.
On a machine that is quiet that is nothing.
"""

import time
from pathlib import Path

_PRESSURE = Path("/proc/pressure/cpu")
_PRESSURE_PERIOD = 2.1  # seconds after which the kernel has surely brought its count up to date


def crowded_seconds() -> float:
    """For how long, since the start of the machine, somebody has waited for a processor; up to two seconds late. 0 where
    the kernel does not tell."""
    try:
        first = _PRESSURE.read_text().splitlines()[0]
    except (OSError, IndexError):
        return 0.0
    return int(first.rpartition("total=")[2]) / 1e6


class Stopwatch:
    """Runs from the moment it is made."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._crowded = crowded_seconds()

    @property
    def seconds(self) -> float:
        """By the clock."""
        return time.monotonic() - self._began

    def must_be_below(self, limit: float, story: str) -> None:
        """Raises AssertionError if more than `limit` seconds have passed in which the machine had a processor for all."""
        took = self.seconds
        if took < limit:
            return
        time.sleep(_PRESSURE_PERIOD)
        crowded = crowded_seconds() - self._crowded
        assert took - crowded < limit, (
            f"{story}: it took {took:.1f} s ({crowded:.1f} s of them crowded), {limit} s are allowed"
        )

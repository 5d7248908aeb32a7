"""How often logins from one address have failed of late, and who is therefore not let in for a while.

An attempt counts against the address that made it, not against the user: nobody can shut others out by failing under
their names. Bounded in memory, whoever comes from wherever.
"""

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address
from threading import Lock
from time import monotonic
from typing import ClassVar, Final

from pgdoorman.errors import PgDoormanError

MOST_ADDRESSES: Final = 20_000
"""Addresses whose failures are remembered; the one that failed longest ago is forgotten first."""


class TooManyFailures(PgDoormanError):
    """failed_login_limit was reached from this address."""

    sqlstate: ClassVar[str] = "28000"


class FailedLogins:
    """Counts failures by address. `limit` 0 counts nothing; `window` in seconds. Thread-safe."""

    def __init__(self, limit: int = 0, window: float = 60.0, most: int = MOST_ADDRESSES) -> None:
        self.limit = limit
        self.window = window
        self._most = most
        self._lock = Lock()
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()  # how many, and when the first was

    def check(self, address: str, now: float | None = None) -> None:
        """Raises TooManyFailures if nobody is to be let in from this address now."""
        if not self.limit or not self._counts:
            return
        with self._lock:
            count, began = self._counts.get(_neighbours(address), (0, 0.0))
        if count >= self.limit and (monotonic() if now is None else now) < began + self.window:
            raise TooManyFailures("too many failed logins from this address; try again later")

    def note(self, address: str, now: float | None = None) -> None:
        """A login from this address has failed."""
        if not self.limit:
            return
        now = monotonic() if now is None else now
        key = _neighbours(address)
        with self._lock:
            count, began = self._counts.pop(key, (0, now))
            self._counts[key] = (count + 1, began) if now < began + self.window else (1, now)
            while len(self._counts) > self._most:
                self._counts.popitem(last=False)

    def __len__(self) -> int:
        return len(self._counts)


def _neighbours(address: str) -> str:
    """Whom an address stands for: an IPv6 subscriber has a whole /64 to come from."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    return str(int(parsed) >> 64) if isinstance(parsed, IPv6Address) else address

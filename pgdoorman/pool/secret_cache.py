"""What look-ups have found, for a while: users that exist, and names that nobody has. Decisions only, no lock.

The two have their own shelves, so that somebody who tries a million names cannot push out the users that exist.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from pgdoorman.auth.found_user import FoundUser

MOST: Final = 10_000
"""Entries of each shelf; the one that was used longest ago makes room."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """One answer. Times are monotonic seconds."""

    found: FoundUser | None
    fetched_at: float
    expires_at: float


class SecretCache:
    """Answers by name. `ttl` and `failure_ttl` are seconds for users found and not found."""

    def __init__(self, ttl: float, failure_ttl: float, most: int = MOST) -> None:
        self.ttl = ttl
        self.failure_ttl = failure_ttl
        self._most = most
        self._found: OrderedDict[str, Remembered] = OrderedDict()
        self._missing: OrderedDict[str, Remembered] = OrderedDict()

    def __len__(self) -> int:
        return len(self._found) + len(self._missing)

    def get(self, user: str) -> Remembered | None:
        """What was found last, however old."""
        for shelf in (self._found, self._missing):
            known = shelf.get(user)
            if known is not None:
                shelf.move_to_end(user)
                return known
        return None

    def put(self, user: str, found: FoundUser | None, now: float) -> None:
        """Remember an answer; one whose password expires sooner is looked up again then."""
        ttl = self.failure_ttl if found is None else min(self.ttl, found.seconds_valid)
        shelf, other = (self._missing, self._found) if found is None else (self._found, self._missing)
        other.pop(user, None)
        shelf[user] = Remembered(found, now, now + ttl)
        shelf.move_to_end(user)
        while len(shelf) > self._most:
            shelf.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        self._found.clear()
        self._missing.clear()

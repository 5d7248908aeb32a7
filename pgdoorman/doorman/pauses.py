"""What PAUSE and RESUME have said, for pools that are there and for those that come later."""

from collections.abc import Iterable
from threading import Lock


class Pauses:
    """Which databases are paused: those named, and while everything is paused all but those that were resumed since.

    Asked and told by any thread. The pools themselves follow after it has been told: whoever makes a pool meanwhile asks
    here, and whoever paused looks for pools afterwards, so that none is missed.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._everything = False
        self._named: set[str] = set()
        self._excepted: set[str] = set()

    @property
    def everything(self) -> bool:
        """Every database is paused, also those that a reload will bring."""
        with self._lock:
            return self._everything and not self._excepted

    def holds(self, database: str) -> bool:
        """Whether this database is paused."""
        with self._lock:
            return self._holds_locked(database)

    def _holds_locked(self, database: str) -> bool:
        return database in self._named or (self._everything and database not in self._excepted)

    def begin(self, database: str | None) -> bool:
        """Pause one database, or all. False if that was so already."""
        with self._lock:
            if database is None:
                changes = not self._everything or bool(self._excepted)
                self._everything = True
                self._excepted.clear()
                return changes
            changes = not self._holds_locked(database)
            self._named.add(database)
            return changes

    def begin_each(self, databases: Iterable[str]) -> None:
        """Pause several, as if each had been named."""
        with self._lock:
            self._named.update(databases)

    def end(self, database: str | None) -> bool:
        """Resume one database, or all. False if nothing was paused."""
        with self._lock:
            if database is None:
                changes = self._everything or bool(self._named)
                self._everything = False
                self._named.clear()
                self._excepted.clear()
                return changes
            changes = self._holds_locked(database)
            self._named.discard(database)
            if self._everything:
                self._excepted.add(database)
            return changes

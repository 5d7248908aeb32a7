"""The memory that all clients together may use for messages that have to be held whole."""

from threading import Lock

from pgdoorman.errors import OutOfBudget

FREE_OF_CHARGE = 65536  # held messages up to this size are not counted: counting them would cost more than they do


class Budget:
    """A global count of bytes held, at most `limit` (max_memory_usage). Touched for large messages only."""

    def __init__(self, limit: int) -> None:
        self._lock = Lock()
        self.limit = limit
        self._used = 0

    @property
    def used(self) -> int:
        """Bytes held at this moment."""
        return self._used

    def take(self, size: int) -> None:
        """Claim `size` bytes. Raises OutOfBudget."""
        with self._lock:
            if self._used + size > self.limit:
                raise OutOfBudget(
                    "Server is temporarily out of memory. Please try again later or reduce the size of your query.",
                    detail=f"A message of {size} bytes does not fit into max_memory_usage.",
                )
            self._used += size

    def give_back(self, size: int) -> None:
        """Release what was claimed."""
        with self._lock:
            self._used -= size

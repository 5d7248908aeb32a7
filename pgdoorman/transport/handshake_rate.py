"""How many TLS handshakes may begin in a second."""

from threading import Lock
from time import monotonic


class HandshakeRate:
    """How many handshakes may begin in a second; whoever comes too early is told how long to wait. Thread-safe."""

    def __init__(self, per_second: int = 0) -> None:
        self.per_second = per_second
        self._lock = Lock()
        self._next = 0.0

    def delay(self) -> float:
        """Take the next turn, and say in how many seconds it is. 0 for at once."""
        if not self.per_second:
            return 0.0
        now = monotonic()
        with self._lock:
            # A hundredth of a second's worth may come at once: connections arrive in bursts.
            turn = max(self._next, now - 0.01)
            self._next = turn + 1 / self.per_second
        return max(0.0, turn - now)

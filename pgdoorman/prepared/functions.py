"""Which functions a pool's clients may call without changing their session in a way that no text shows."""

from collections.abc import Set as AbstractSet
from time import monotonic

LIFE = 300.0  # seconds that a verdict holds: functions can be replaced without our seeing it
MOST = 20_000


class Functions:
    """Verdicts of audits, by name. Read by every worker, replaced as a whole: nobody needs a lock to look."""

    __slots__ = ("_since", "harmless")

    def __init__(self) -> None:
        self.harmless: frozenset[bytes] = frozenset()
        self._since = monotonic()

    def learn(self, asked: AbstractSet[bytes], harmful: AbstractSet[bytes]) -> None:
        """An audit has looked at the functions of these names."""
        if len(self.harmless) < MOST:
            self.harmless |= asked - harmful

    def forget(self) -> None:
        """Functions may have changed."""
        self.harmless = frozenset()
        self._since = monotonic()

    def age(self, now: float) -> None:
        """Forget what is too old."""
        if now - self._since > LIFE:
            self.forget()

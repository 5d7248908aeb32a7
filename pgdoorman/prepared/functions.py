"""Which functions a pool's clients may call without changing their session in a way that no text shows."""

from collections.abc import Set as AbstractSet
from threading import Lock
from time import monotonic

from pgdoorman.prepared.scan import NEVER_HARMLESS

LIFE = 300.0  # seconds that a verdict holds: functions can be replaced without our seeing it
MOST = 20_000


class Functions:
    """Verdicts of audits, by name. Read by every worker, replaced as a whole: nobody needs a lock to look."""

    __slots__ = (
        "_lock",
        "_since",
        "generation",
        "harmless",
        "hidden_are_judged",
        "reads_are_harmful",
        "sequences_are_read",
        "writes_are_harmless",
    )

    def __init__(self) -> None:
        self._lock = Lock()
        self.harmless: frozenset[bytes] = frozenset()
        self.generation = 0  # counts how often all was forgotten
        self._since = monotonic()
        self.writes_are_harmless = False  # no trigger, rule, default ... changes a session; not before that is known
        self.hidden_are_judged = False
        self.reads_are_harmful = False  # a view, cast, operator or the like changes a session
        self.sequences_are_read = False  # somebody here asks for currval or lastval

    def learn(self, asked: AbstractSet[bytes], harmful: AbstractSet[bytes], generation: int | None = None) -> None:
        """An audit has looked at the functions of these names. `generation` is that of the moment it was asked: what was
        found before something changed is not learned any more (None: whatever happened meanwhile)."""
        with self._lock:
            if generation is not None and generation != self.generation:
                return
            if len(self.harmless) < MOST:
                self.harmless |= asked - harmful - NEVER_HARMLESS

    def learn_of_hidden(self, writes: bool, reads: bool, generation: int) -> None:
        """An audit has looked at the functions that no text calls: whether those are harmful that come with a write, and
        those that come with a read. `generation` as above."""
        with self._lock:
            if generation == self.generation:
                self.writes_are_harmless = not (writes or reads)
                self.reads_are_harmful = reads
                self.hidden_are_judged = True

    def forget(self) -> None:
        """Functions may have changed."""
        with self._lock:
            self.generation += 1
            self.harmless = frozenset()
            self.writes_are_harmless = self.hidden_are_judged = False
            self._since = monotonic()

    def age(self, now: float) -> None:
        """Forget what is too old."""
        if now - self._since > LIFE:
            self.forget()

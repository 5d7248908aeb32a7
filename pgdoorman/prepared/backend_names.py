"""What one backend has prepared, and in which order it was last used."""

from collections import OrderedDict

from pgdoorman.constants import bind_constants
from pgdoorman.prepared.statement import Statement


class MustWait(Exception):
    """What a message means depends on an answer that is still outstanding."""


class MustFlush(MustWait):
    """The same, and what has been sent has to be flushed for the answer to come."""


class BackendNames:
    """The statements that a backend has (or will have, once what was sent is answered). Owned by the backend's owner.

    Trimmed only between leases: a statement that a message under way refers to must not go, and Closes are sent in
    front of a later exchange, where nobody waits for them.
    """

    __slots__ = ("_pending", "hits", "known", "misses")

    def __init__(self) -> None:
        self.known: OrderedDict[Statement, None] = OrderedDict()  # the most recently used last
        self._pending: dict[Statement, int] = {}
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self.known)

    def __contains__(self, statement: Statement) -> bool:
        return statement in self.known

    def has(self, statement: Statement, segment: int = 0) -> bool:
        """Whether a message in this segment may refer to it; a hit makes it the most recently used.

        Raises MustWait if it was sent in an earlier segment that is still unanswered: should that have failed before it,
        the statement was never made.
        """
        if statement in self.known:
            self.known.move_to_end(statement)
            self.hits += 1
            return True
        sent_in = self._pending.get(statement)
        if sent_in is None:
            self.misses += 1
            return False
        if sent_in != segment:
            raise MustWait
        return True

    def lacks(self, statement: Statement, segment: int = 0) -> bool:
        """Whether a message in this segment may only refer to it behind a Parse of ours. Raises MustWait as `has` does."""
        if statement in self.known:
            return False
        sent_in = self._pending.get(statement)
        if sent_in is not None and sent_in != segment:
            raise MustWait
        return sent_in is None

    def sent(self, statement: Statement, segment: int = 0) -> None:
        """A Parse under its name is on the way, in this segment of the client's."""
        self._pending[statement] = segment

    def confirmed(self, statement: Statement) -> None:
        """That Parse succeeded."""
        self._pending.pop(statement, None)
        self.known[statement] = None

    def refused(self, statement: Statement) -> None:
        """That Parse failed or was skipped."""
        self._pending.pop(statement, None)

    def forget(self, statement: Statement) -> None:
        """It was deallocated."""
        self.known.pop(statement, None)

    def forget_named(self, message: bytes) -> None:
        """An error says that statements do not exist which were thought to: somebody has deallocated them."""
        for statement in [one for one in self.known if b'"' + one.name + b'"' in message]:
            del self.known[statement]

    def clear(self) -> None:
        """DEALLOCATE ALL or DISCARD ALL ran."""
        self.known.clear()

    def surplus(self, limit: int) -> list[Statement]:
        """Take out the least recently used ones beyond `limit`; their Closes are to be sent."""
        known = self.known
        taken = []
        while len(known) > limit:
            taken.append(known.popitem(last=False)[0])
        return taken


bind_constants(__name__)

"""What one backend has prepared, and in which order it was last used."""

from collections import OrderedDict, deque
from weakref import ref

from pgdoorman.constants import bind_constants
from pgdoorman.prepared.statement import LARGEST_REMEMBERED, Statement


class MustWait(Exception):
    """What a message means depends on an answer that is still outstanding."""


class MustFlush(MustWait):
    """The same, and what has been sent has to be flushed for the answer to come."""


ALWAYS_WAIT = -1
"""No client's segment."""


class BackendNames:
    """The statements that a backend has (or will have, once what was sent is answered). Owned by the backend's owner.

    Trimmed only between leases: a statement that a message under way refers to must not go, and Closes are sent in
    front of a later exchange, where nobody waits for them.

    Large statements are their client's own. They are not kept alive here, or one client that prepares, closes and comes
    again would fill the memory, ours and the server's: when the client has closed one, or has left, it is closed there too.
    """

    __slots__ = ("_large", "_pending", "_stale", "changed", "hits", "known", "left", "misses")

    def __init__(self) -> None:
        self.known: OrderedDict[Statement, None] = OrderedDict()  # the most recently used last
        self._large: dict[ref[Statement], bytes] = {}
        self._stale: deque[bytes] = deque()  # names of large ones that nobody has any more; filled from any thread
        self._pending: dict[Statement, int] = {}
        # Of no use, but their names are taken until they are closed.
        self.left: set[Statement] = set()
        # Of these it is known, in this lease, that they would have other columns here than their clients know.
        self.changed: set[Statement] = set()
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self.known) + len(self._large)

    def __contains__(self, statement: Statement) -> bool:
        return statement in self.known or (bool(self._large) and ref(statement) in self._large)

    @property
    def has_large(self) -> bool:
        """Whether there are, or were, statements that may have to be closed before the next client is served."""
        return bool(self._large or self._stale)

    def has(self, statement: Statement, segment: int = 0) -> bool:
        """Whether a message in this segment may refer to it; a hit makes it the most recently used.

        Raises MustWait if it was sent in an earlier segment that is still unanswered: should that have failed before it,
        the statement was never made.
        """
        if statement in self.known:
            self.known.move_to_end(statement)
            self.hits += 1
            return True
        if self._large and ref(statement) in self._large:
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
        if len(statement.tail) > LARGEST_REMEMBERED:
            self._large[ref(statement, self._abandoned)] = statement.name
        else:
            self.known[statement] = None

    def _abandoned(self, gone: ref[Statement]) -> None:
        """Nobody refers to a large one any more; on whatever thread."""
        name = self._large.pop(gone, None)
        if name is not None:
            self._stale.append(name)

    def refused(self, statement: Statement) -> None:
        """That Parse failed or was skipped."""
        self._pending.pop(statement, None)

    def leave(self, statement: Statement) -> None:
        """It was made, but is not what it should be."""
        self._pending.pop(statement, None)
        self.forget(statement)
        self.left.add(statement)

    def forget(self, statement: Statement) -> None:
        """It was deallocated."""
        self.known.pop(statement, None)
        if self._large:
            self._large.pop(ref(statement), None)

    def forget_named(self, message: bytes) -> None:
        """An error says that statements do not exist which were thought to: somebody has deallocated them."""
        for statement in [one for one in self.known if b'"' + one.name + b'"' in message]:
            del self.known[statement]
        for large, name in list(self._large.items()):
            if b'"' + name + b'"' in message:
                self._large.pop(large, None)

    def clear(self) -> None:
        """DEALLOCATE ALL or DISCARD ALL ran."""
        self.known.clear()
        self._large.clear()
        self._stale.clear()
        self.left.clear()
        self.changed.clear()

    def surplus(self, limit: int) -> list[bytes]:
        """Take out the least recently used ones beyond `limit`, the large ones that nobody has any more, and what was left: the
        names for which a Close is to be sent."""
        known = self.known
        taken = [statement.name for statement in self.left]
        self.left.clear()
        self.changed.clear()
        while self._stale:
            taken.append(self._stale.popleft())
        while len(known) > limit:
            taken.append(known.popitem(last=False)[0].name)
        return taken


bind_constants(__name__)

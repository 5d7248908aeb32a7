"""What one client calls its statements.

A name becomes true when PostgreSQL has said ParseComplete, and is gone when it has said CloseComplete. What was sent
but not yet answered is pending, and may be counted on only within its own segment (up to the Sync): if the segment fails,
everything behind the failure is skipped, the uses as well as the making. Across a Sync a use has to wait for the answer.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

from pgdoorman.constants import bind_constants
from pgdoorman.prepared.backend_names import BackendNames, MustWait
from pgdoorman.prepared.statement import ABSENT_PREFIX, TAKEN, Statement
from pgdoorman.protocol.exchange import Effect

MOST_RECENT = 32


class Naming:
    """A pending change of one name; an effect of the exchange. `statement` None is a Close. `preparing` is the backend
    that a real Parse of the statement was sent to, if one was."""

    __slots__ = ("name", "names", "preparing", "segment", "statement")

    def __init__(
        self, names: "ClientNames", name: bytes, statement: Statement | None, preparing: BackendNames | None
    ) -> None:
        self.names = names
        self.name = name
        self.statement = statement
        self.preparing = preparing
        self.segment = names.segment
        names.pend(self)

    def happened(self) -> None:
        if self.preparing is not None and self.statement is not None:
            self.preparing.confirmed(self.statement)
        self.names.settle(self, made=True)

    def failed(self) -> None:
        if self.preparing is not None and self.statement is not None:
            self.preparing.refused(self.statement)
        # A Parse of the unnamed statement drops the old one even if it fails.
        self.names.settle(self, made=False, drop=not self.name)

    def skipped(self) -> None:
        if self.preparing is not None and self.statement is not None:
            self.preparing.refused(self.statement)
        self.names.settle(self, made=False)


class Deallocating(Naming):
    """A pending Query or Execute that may be the DEALLOCATE of a name; an effect of the exchange. `ran` is set when its
    command tag has said so. `also` is what else the Query does to names."""

    __slots__ = ("also", "known", "ran", "target")

    def __init__(
        self, names: "ClientNames", name: bytes, target: Statement, known: BackendNames, also: Naming | None = None
    ) -> None:
        self.target = target
        self.known = known
        self.also = also
        self.ran = False
        super().__init__(names, name, None, None)

    def happened(self) -> None:
        if self.ran:
            self.known.forget(self.target)
        self.names.settle(self, made=self.ran)
        if self.also is not None:
            self.also.happened()

    def failed(self) -> None:
        self.names.settle(self, made=False)
        if self.also is not None:
            self.also.failed()

    def skipped(self) -> None:
        self.names.settle(self, made=False)
        if self.also is not None:
            self.also.skipped()


class Clearing:
    """A pending DEALLOCATE ALL or DISCARD ALL; an effect of the exchange. (The names go when its command tag comes.)"""

    __slots__ = ("also", "markers", "names", "tell")

    def __init__(
        self, names: "ClientNames", also: Naming | None = None, tell: Callable[[], object] | None = None
    ) -> None:
        self.names = names
        self.also = also
        self.tell = tell  # called when it has run
        self.markers = [Naming(names, name, None, None) for name in names.all_names() if name]
        names.clearing += 1

    def happened(self) -> None:
        self._settle()
        if self.tell is not None:
            self.tell()
        if self.also is not None:
            self.also.happened()

    def failed(self) -> None:
        self.skipped()

    def skipped(self) -> None:
        self._settle()
        if self.also is not None:
            self.also.skipped()

    def _settle(self) -> None:
        self.names.clearing -= 1
        for marker in self.markers:
            self.names.settle(marker, made=False)


@dataclass(frozen=True, slots=True)
class Doing:
    """What the Execute of a portal does besides: `text` resets what came with the login, `target` is deallocated (a name and
    what it stands for), `clears` says that all statements are."""

    text: bytes = b""
    target: tuple[bytes, Statement] | None = None
    clears: bool = False


class ResettingTexts:
    """In session pooling, where the client's names are the server's: those that stand for a text that resets what came with the
    login. As with the names themselves, what is not yet answered counts until it turns out to be nothing."""

    __slots__ = ("_pending", "_texts")

    def __init__(self) -> None:
        self._texts: dict[bytes, bytes] = {}
        self._pending: dict[bytes, list[Rewording]] = {}

    def __bool__(self) -> bool:
        return bool(self._texts or self._pending)

    def __contains__(self, name: bytes) -> bool:
        """Whether the name stands for such a text, or may."""
        return name in self._texts or name in self._pending

    def find(self, name: bytes, segment: int) -> bytes:
        """The text that the name stands for in this segment; empty if it resets nothing. Raises MustWait if that depends on an
        earlier segment that is still unanswered."""
        pending = self._pending.get(name)
        if pending is None:
            return self._texts.get(name, b"")
        if pending[-1].segment != segment:
            raise MustWait
        return pending[-1].text

    def pend(self, rewording: "Rewording") -> None:
        """Note a change whose answer is outstanding."""
        self._pending.setdefault(rewording.name, []).append(rewording)

    def settle(self, rewording: "Rewording", *, made: bool) -> None:
        """The answer came."""
        name = rewording.name
        pending = self._pending[name]
        pending.remove(rewording)
        if not pending:
            del self._pending[name]
        if not made:
            return
        if rewording.text:
            self._texts[name] = rewording.text
        else:
            self._texts.pop(name, None)


class Rewording:
    """A pending Parse (of a text that resets something, or of another: `text` is empty) or Close; an effect of the exchange."""

    __slots__ = ("name", "segment", "text", "texts")

    def __init__(self, names: "ClientNames", name: bytes, text: bytes) -> None:
        self.texts = texts = names.resetting
        self.segment = names.segment
        self.name = name
        self.text = text
        texts.pend(self)

    def happened(self) -> None:
        self.texts.settle(self, made=True)

    def failed(self) -> None:
        if not self.name:
            self.text = b""  # a Parse of the unnamed statement drops the old one even if it fails
        self.texts.settle(self, made=not self.name)

    def skipped(self) -> None:
        self.texts.settle(self, made=False)


class Taken:
    """A Parse that is to be refused, since its name is live, or a Bind, since the block has failed; an effect of the exchange.
    The refusal speaks of `TAKEN`, or of an absent statement."""

    __slots__ = ("name", "names")

    def __init__(self, names: "ClientNames", name: bytes) -> None:
        self.names = names
        self.name = name

    def happened(self) -> None:
        """It never does."""

    def failed(self) -> None:
        self.names.taken = self.name

    def skipped(self) -> None:
        """Nothing was made."""


class Preparing:
    """A Parse of ours in front of a client's message; an effect of the exchange."""

    __slots__ = ("names", "statement")

    def __init__(self, names: BackendNames, statement: Statement, segment: int) -> None:
        self.names = names
        self.statement = statement
        names.sent(statement, segment)

    def happened(self) -> None:
        self.names.confirmed(self.statement)

    def failed(self) -> None:
        self.names.refused(self.statement)

    def skipped(self) -> None:
        self.names.refused(self.statement)


class ClientNames:
    """The names of one client; b"" is the unnamed statement. At most `most` unnamed statements are kept at hand (0: no
    limit). `segment` counts the Syncs and Queries sent.

    No two of a client's names stand for the same statement: an error text of the server shows the statement's name, which has
    to be turned into the one that the client has used.
    """

    __slots__ = (
        "_former",
        "_most",
        "_named",
        "at_execute",
        "clearing",
        "discarding",
        "held_up",
        "names",
        "pending",
        "recent",
        "recent_generation",
        "renamed",
        "resetting",
        "segment",
        "shown",
        "stood",
        "stood_in",
        "taken",
    )

    def __init__(self, most: int = MOST_RECENT) -> None:
        self._most = most or sys.maxsize
        self.names: dict[bytes, Statement] = {}
        self.pending: dict[bytes, list[Naming]] = {}  # changes whose answers are outstanding
        self._named: dict[Statement, bytes] = {}  # also what is pending; not the unnamed one
        self._former: dict[bytes, bytes] = {}  # names of late, by the server's: an error may still speak of them
        self.at_execute: dict[bytes, Doing] = {}  # by portal
        self.discarding: Effect | None = None  # of the Sync to come: the segment has a DISCARD ALL
        self.held_up = False  # until what came with the login is set again, behind a DISCARD ALL
        self.clearing = 0  # how often all statements of the backend are about to go
        self.resetting = ResettingTexts()
        self.taken = b""  # the name that a Parse was refused for last
        self.segment = 0
        # The segment in which, and what for, the client has been told the parameters of a statement, but not yet its columns.
        self.shown: tuple[int, bytes] | None = None
        # The last segment that began, outside of a block, with a Parse in whose place a stand-in was sent.
        self.stood_in = b""
        self.stood: Statement | None = None  # what it stood in for; not if that was the usual segment, and unnamed
        # DEALLOCATE or EXECUTE, with the statement that it speaks of: the same under the server's name for that.
        self.renamed: dict[tuple[Statement, Statement], Statement] = {}
        # Shared statements that this client parsed lately without a name, by text: the book and its lock are asked once.
        self.recent: dict[bytes, Statement] = {}
        self.recent_generation = -1

    def remember(self, tail: bytes, statement: Statement, generation: int) -> None:
        """Keep a shared statement at hand. What is kept is of one generation and of one set of settings."""
        if generation != self.recent_generation or len(self.recent) >= self._most:
            self.recent.clear()
            self.recent_generation = generation
        self.recent[tail] = statement

    def __len__(self) -> int:
        return len(self.names)

    def is_free(self, statement: Statement, name: bytes) -> bool:
        """Whether the client knows the statement by no other name than this."""
        if self._named.get(statement, name) != name:
            return False
        if not name:
            return True
        pending = self.pending.get(b"", ())
        return self.names.get(b"") is not statement and all(naming.statement is not statement for naming in pending)

    def adopt(self, name: bytes, statement: Statement) -> None:
        """The client has had this name before it came to us."""
        self.names[name] = statement
        if name:
            self._named[statement] = name

    def find(self, name: bytes) -> Statement | None:
        """The statement that the name stands for where the next message stands; None if there is none.

        Raises MustWait if that depends on a segment that is still unanswered.
        """
        pending = self.pending.get(name)
        if pending is None:
            return self.names.get(name)
        last = pending[-1]
        if last.segment != self.segment:
            raise MustWait
        return last.statement

    def all_names(self) -> set[bytes]:
        """Those that are made, and those that may be."""
        return self.names.keys() | self.pending.keys()

    def pend(self, naming: Naming) -> None:
        """Note a change whose answer is outstanding."""
        self.pending.setdefault(naming.name, []).append(naming)
        if naming.name and naming.statement is not None:
            self._named[naming.statement] = naming.name

    def settle(self, naming: Naming, *, made: bool, drop: bool = False) -> None:
        """The answer came."""
        pending = self.pending.get(naming.name)
        if pending is not None and naming in pending:
            pending.remove(naming)
            if not pending:
                del self.pending[naming.name]
        before = self.names.get(naming.name)
        if made and naming.statement is not None:
            self.names[naming.name] = naming.statement
        elif made or drop:
            self.names.pop(naming.name, None)
        now = self.names.get(naming.name)
        for statement in (before, naming.statement):
            if statement is not None and statement is not now and naming.name:
                if not any(later.statement is statement for later in pending or ()):  # it may be made again already
                    self._named.pop(statement, None)
                self._remember_former(statement, naming.name)

    def replace(self, name: bytes, before: Statement, now: Statement) -> None:
        """The name stands for this now, if it still stood for that."""
        if self.names.get(name) is before:
            self.names[name] = now
            if name:
                self._named.pop(before, None)
                self._named[now] = name
                self._remember_former(before, name)

    @property
    def is_settled(self) -> bool:
        """Whether nothing is outstanding."""
        return not self.pending

    def drop_unnamed(self) -> None:
        """A simple Query ran: PostgreSQL drops the unnamed statement then."""
        self.names.pop(b"", None)

    def clear(self) -> None:
        """DEALLOCATE ALL or DISCARD ALL ran, which leave the unnamed statement alone."""
        self._former = {statement.name: name for name, statement in self.names.items()}
        self.names = {name: statement for name, statement in self.names.items() if not name}
        self._named.clear()
        self.renamed.clear()

    def _remember_former(self, statement: Statement, name: bytes) -> None:
        if len(self._former) >= MOST_RECENT:
            self._former.clear()
        self._former[statement.name] = name

    def name_of(self, server_name: bytes) -> bytes | None:
        """The client's own name for a statement, for error texts."""
        if server_name == TAKEN.name or server_name.startswith(ABSENT_PREFIX):
            return self.taken
        for name, statement in self.names.items():
            if statement.name == server_name:
                return name
        for name, pending in self.pending.items():
            if any(naming.statement is not None and naming.statement.name == server_name for naming in pending):
                return name
        for (speaking, _), renamed in self.renamed.items():
            if renamed.name == server_name:
                return self.name_of(speaking.name)
        return self._former.get(server_name)


bind_constants(__name__)

"""What has been asked of a backend and is not yet fully answered.

A queue with one entry for every message that will have an answer (protocol, "Extended Query" and "Pipelining"):

    asked with                      answered by
    Query, FunctionCall             ... ReadyForQuery
    Parse                           ParseComplete
    Bind                            BindComplete
    Describe of a statement         ParameterDescription, then RowDescription or NoData
    Describe of a portal            RowDescription or NoData
    Execute                         ... CommandComplete, EmptyQueryResponse or PortalSuspended
    Close                           CloseComplete
    Sync                            ReadyForQuery
    CopyData, CopyDone, CopyFail    nothing: marks that tell which Syncs a COPY swallowed

An ErrorResponse answers the entry at the head; unless that is a Query or FunctionCall, everything up to the next Sync is
skipped by the server, and so it is here: with its consequences.

While a COPY reads from the client the server ignores Sync: one that was sent behind the Execute and before CopyDone or
CopyFail will never be answered, and the server waits for another. Those directly behind the Execute are taken off the
queue when CopyInResponse comes. One in the middle of the data is ignored too if the COPY was still going on when the
server read it, and answered if the COPY had failed by then; which of the two, nobody can tell before the COPY has
succeeded, the ReadyForQuery has come, or something has been answered that was asked behind it. Until then the exchange is
not settled (`unanswered_syncs`).

Plain traffic needs little of this: a whole pipelined segment (up to its Sync) of which nothing is renamed, dropped or
remembered is one entry, SEGMENT, answered by its ReadyForQuery. `careful` says whether any entry needs more than that.

The class does not know sockets, statements or clients: what becomes true when an answer arrives is an `Effect`.
"""

from collections import deque
from typing import Final, Protocol

from pgdoorman.constants import bind_constants
from pgdoorman.protocol import codes

QUERY: Final = 0
SEGMENT: Final = 1
SYNC: Final = 2
PARSE: Final = 3
BIND: Final = 4
DESCRIBE_STATEMENT: Final = 5
DESCRIBE_PORTAL: Final = 6
EXECUTE: Final = 7
CLOSE: Final = 8
COPY_END: Final = 9  # this and the next have no answer
COPY_DATA: Final = 10

NAMES: Final = (
    "Query", "Segment", "Sync", "Parse", "Bind", "DescribeStatement", "DescribePortal", "Execute", "Close", "CopyEnd",
    "CopyData",
)  # fmt: skip

# Answer types by the kind of entry that they complete: 1 2 3, T n, C I s, Z.
_COMPLETES: Final[tuple[bytes, ...]] = (b"Z", b"Z", b"Z", b"1", b"2", b"Tn", b"Tn", b"CIs", b"3", b"", b"")


_LOST_COUNT: Final = 1 << 30
FLUSHED: Final = 2


class Effect(Protocol):
    """What becomes true when an answer arrives."""

    def happened(self) -> None:
        """The server did it."""

    def failed(self) -> None:
        """The server answered with an error."""

    def skipped(self) -> None:
        """The server skipped it after an earlier error: it is as if it had never been asked."""


class Expected:
    """One expected answer. `hidden`: it is not for the client. `reply`: the type byte that the client is to see instead
    (0: as it comes)."""

    __slots__ = ("effect", "hidden", "kind", "reply")

    def __init__(self, kind: int, *, hidden: bool = False, reply: int = 0, effect: Effect | None = None) -> None:
        self.kind = kind
        self.hidden = hidden
        self.reply = reply
        self.effect = effect

    def __repr__(self) -> str:
        return f"{'hidden ' if self.hidden else ''}{NAMES[self.kind]}"


# Entries without consequences are shared: no allocation for what is merely relayed.
A_QUERY: Final = Expected(QUERY)
A_SEGMENT: Final = Expected(SEGMENT)
# One that begins with a Parse in whose place a Close was sent (by the segment's first bytes: nothing stands before it).
A_STANDING_IN_SEGMENT: Final = Expected(SEGMENT, reply=codes.PARSE_COMPLETE)
A_SYNC: Final = Expected(SYNC)
A_PARSE: Final = Expected(PARSE)
A_BIND: Final = Expected(BIND)
A_DESCRIBE_STATEMENT: Final = Expected(DESCRIBE_STATEMENT)
A_DESCRIBE_PORTAL: Final = Expected(DESCRIBE_PORTAL)
AN_EXECUTE: Final = Expected(EXECUTE)
A_CLOSE: Final = Expected(CLOSE)
A_COPY_END: Final = Expected(COPY_END)
A_COPY_DATA: Final = Expected(COPY_DATA)
A_HIDDEN_CLOSE: Final = Expected(CLOSE, hidden=True)
A_HIDDEN_SYNC: Final = Expected(SYNC, hidden=True)


class Exchange:
    """The expected answers of one backend, in order. Touched by the backend's owner only."""

    __slots__ = ("_others", "begun", "careful", "copying", "entries", "skipping", "unanswered_syncs", "unsynced")

    def __init__(self) -> None:
        self.entries: deque[Expected] = deque()
        self.careful: int = False  # `FLUSHED` as long as nothing was asked behind a Flush
        self.skipping = False  # an error was answered and no Sync asked for since; then `unsynced` is true as well
        self.copying = False  # the server reads COPY data
        self.unsynced = False  # extended-query messages were sent and no Sync behind them that is sure to be answered
        self.unanswered_syncs = 0  # Syncs sent into the data of a COPY: ignored or, if it had failed, answered
        self.begun = False  # the answer to the Query at the head has begun; kept only as long as there are such Syncs
        # How many entries have no ReadyForQuery for the client: all that are there for a reason to be careful. (A client may
        # pipeline ten thousands of messages, and each Parse wants to know `awaits_ready`: no walk through the queue then.)
        self._others = 0

    def __repr__(self) -> str:
        marks = [name for name in ("careful", "skipping", "copying") if getattr(self, name)]
        return f"<Exchange {list(self.entries)!r} {' '.join(marks)}>"

    @property
    def is_empty(self) -> bool:
        """Nothing more will come on our account."""
        return not self.entries

    def clear(self) -> None:
        """Forget everything: the backend is gone."""
        for entry in self.entries:
            if entry.effect is not None:
                entry.effect.skipped()
        self.entries.clear()
        self._others = 0
        self.careful = self.skipping = self.copying = self.unsynced = self.begun = False
        self.unanswered_syncs = 0

    @property
    def is_settled(self) -> bool:
        """Nothing more will come, and the server waits for no Sync."""
        return not self.entries and not self.unsynced and not self.unanswered_syncs

    @property
    def awaits_ready(self) -> bool:
        """A ReadyForQuery for the client is outstanding: whether its transaction has failed meanwhile is not known."""
        return len(self.entries) > self._others

    @property
    def is_flushed(self) -> bool:
        """All that is outstanding will be answered without anything more being sent."""
        return self.careful == FLUSHED or not self.unsynced

    @property
    def reads_copy(self) -> bool:
        """The server reads COPY data, and has not been told their end."""
        return self.copying and not self._copy_end_was_sent

    @property
    def awaits_hidden_query(self) -> bool:
        """A Query that is not the client's own is still to be answered."""
        return any(entry.hidden and entry.kind == QUERY for entry in self.entries)

    # Asking.

    def ask(self, entry: Expected) -> None:
        """Expect one answer, carefully. During skipping only a Sync will be answered."""
        is_sync = entry.kind == SYNC
        if self.skipping:
            if not is_sync:
                self._skip(entry)
                return
            self.skipping = False
        elif is_sync and self.copying and not self._copy_end_was_sent:
            self.unanswered_syncs += 1
            return
        self.unsynced = not is_sync or self.unanswered_syncs > 0
        self.careful = True
        self.entries.append(entry)
        if not is_sync or entry.hidden:
            self._others += 1

    def ask_query(self, entry: Expected = A_QUERY) -> None:
        """Expect the answer of a Query or FunctionCall; the server ignores these too while it skips."""
        if self.skipping:
            self._skip(entry)
            return
        self.unsynced = self.unanswered_syncs > 0  # a Query ends what was begun before it, as a Sync would
        self.entries.append(entry)
        if entry.hidden or entry.effect is not None or self.unsynced:
            self.careful = True
            self._others += entry.hidden

    def mark_flush(self) -> None:
        """Flush was sent: what was asked is answered even without a Sync."""
        if self.entries:
            self.careful = FLUSHED

    def mark_copy_data(self) -> None:
        """CopyData was sent. Of consequence only if CopyInResponse has not come yet."""
        entries = self.entries
        if not self.copying and not self.skipping and entries and entries[-1].kind != COPY_DATA:
            self.careful = True
            entries.append(A_COPY_DATA)
            self._others += 1

    def mark_copy_end(self) -> None:
        """CopyDone or CopyFail was sent: a Sync behind it will be answered again."""
        if self.entries and not self.skipping:
            self.careful = True
            self.entries.append(A_COPY_END)
            self._others += 1

    # Answers.

    def completes(self, kind: int) -> bool:
        """Whether an answer of this type completes the entry at the head."""
        entries = self.entries
        return bool(entries) and kind in _COMPLETES[entries[0].kind]

    def complete(self) -> Expected:
        """The head is answered: take it off and let its effect happen."""
        if self.copying:
            self.copy_ends()
        self.begun = False
        entry = self._take_head()
        if entry.effect is not None:
            entry.effect.happened()
        while self.entries and self.entries[0].kind >= COPY_END:
            self._take_head()
        if not self.entries:
            self.careful = False
        return entry

    def _take_head(self) -> Expected:
        entry = self.entries.popleft()
        if entry.kind > SYNC or entry.hidden:
            self._others -= 1
        return entry

    @property
    def ready_expected(self) -> bool:
        """Whether a ReadyForQuery may come now."""
        entries = self.entries
        return self.unanswered_syncs > 0 or (bool(entries) and entries[0].kind <= SYNC)

    def begin_answer(self) -> None:
        """Something else than ReadyForQuery came for the head: what stood in front of it is answered, or never will be."""
        self.begun = True
        if self.unanswered_syncs and not self.copying:
            self.unanswered_syncs = 0
            self._look_for_sync()

    def ready(self) -> bool:
        """ReadyForQuery came: complete its entry. False if nothing expected it, i.e. the two sides disagree."""
        self.copying = False
        entries = self.entries
        if self.unanswered_syncs and (not entries or (entries[0].kind != SYNC and not self.begun)):
            # No Query is answered with nothing else: this is for a Sync in front of it, which was read after the COPY had
            # failed, and ended the skipping.
            self.unanswered_syncs -= 1
            self.skipping = False
        elif not entries or entries[0].kind > SYNC:
            return False
        else:
            self.complete()
        if not entries:
            self.unsynced = self.unanswered_syncs > 0
        return True

    def error(self) -> Expected | None:
        """ErrorResponse came: it answers the head, and the server skips to the next Sync. Returns the failed entry, None
        if nothing was expected (then it is the server's last word, or an idle complaint)."""
        entries = self.entries
        if self.unanswered_syncs and entries and entries[0].kind < SYNC:
            self.begin_answer()
        self.copying = False
        if not entries:
            return None
        if self.unanswered_syncs:
            self.unsynced = True  # was the COPY over when they came? Not known: nothing is settled
        head = entries[0]
        if head.kind <= SYNC:
            # ReadyForQuery follows: a Query or segment has its own, and a Sync fails when it cannot commit.
            return head
        self._take_head()
        if head.effect is not None:
            head.effect.failed()
        while entries and entries[0].kind != SYNC:
            entry = self._take_head()
            if entry.kind == SEGMENT:
                # Its own Sync ends the skipping: what is left of it is that Sync.
                entries.appendleft(A_SYNC)
                break
            if entry.kind < COPY_END:
                self._skip(entry)
        if not entries:
            self.skipping = self.unsynced = True
        return head

    def show(self, entry: Expected) -> None:
        """An entry that has just failed was hidden, and is for the client all the same. It must be nobody else's."""
        entry.hidden = False
        if self.entries and self.entries[0] is entry:
            self._others -= 1  # its ReadyForQuery is still to come, for the client

    def hide_end(self) -> bool:
        """If nothing more is to come than the ReadyForQuery of one Sync, it is not for the client. False, and nothing was
        done, if not."""
        entries = self.entries
        if (
            len(entries) != 1
            or entries[0].kind not in (SEGMENT, SYNC)
            or entries[0].hidden
            or entries[0].effect is not None
        ):
            return False
        entries[0] = A_HIDDEN_SYNC
        self._others += 1
        self.careful = True
        return True

    def _skip(self, entry: Expected) -> None:
        """The server skips it, or will."""
        if entry.effect is not None:
            entry.effect.skipped()
        if self.unanswered_syncs:
            # Unless one of those ended the skipping: then this is answered all the same, and we have lost count for good.
            self.unanswered_syncs = _LOST_COUNT

    # COPY from the client.

    def copy_in_begins(self) -> None:
        """CopyInResponse came: Syncs sent directly behind the Execute (or Query) are ignored by the server."""
        entries = self.entries
        if not entries:
            return
        self.copying = self.careful = True
        lost = False
        # Behind data the COPY may have failed before the server read the Sync. No client puts one directly behind a Query.
        doubtful = entries[0].kind == QUERY
        if entries[0].kind == SEGMENT:
            # A plain segment ends with Execute and Sync (nobody else makes one): that Sync is lost.
            entries[0] = AN_EXECUTE
            self._others += 1
            lost = True
        while len(entries) > 1 and entries[1].kind in (SYNC, COPY_DATA):
            if entries[1].kind == COPY_DATA:
                doubtful = True
                self._others -= 1
            else:
                lost = True
                self.unanswered_syncs += doubtful
                self._others -= entries[1].hidden
            del entries[1]
        if lost:
            self._look_for_sync()

    def copy_ends(self) -> None:
        """CommandComplete of a COPY came. A Query may contain several, each with a CopyDone of its own."""
        self.copying = False
        if self._copy_end_was_sent:
            del self.entries[1]
            self._others -= 1
        if self.unanswered_syncs:
            self.unanswered_syncs = 0  # ignored, now that is certain
            self._look_for_sync()

    @property
    def _copy_end_was_sent(self) -> bool:
        """Whether the COPY at the head has been told its end by the client."""
        entries = self.entries
        return len(entries) > 1 and entries[1].kind == COPY_END

    def _look_for_sync(self) -> None:
        """Some Sync that had counted turned out not to: does the server wait for one now?"""
        last = next((entry.kind for entry in reversed(self.entries) if entry.kind < COPY_END), SYNC)
        self.unsynced = last > SYNC or self.unanswered_syncs > 0


bind_constants(__name__)

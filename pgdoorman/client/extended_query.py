"""The extended query protocol through a pool: every message goes on, under names that the backend knows.

The rule is to let PostgreSQL speak: no reply is made up that the server can be made to give itself, in its place in the
stream and under its own error rules. (Each statement has a name of ours on the backends; see `prepared`.)

    client sends                     server gets
    Parse, text not known there      Parse under our name
    Parse, text known there          Close of a name that never exists; its CloseComplete becomes ParseComplete
    Parse of a name that is live     Parse under a name of ours that is live: the server refuses, as it should
    Parse, unnamed, text seen once   the same; such texts usually have their values written into them
    Bind, Describe                   our name, behind a Parse of ours if the backend lacks the statement
    Bind, Describe of no such name   the client's own name: the server says 26000
    Close                            the client's own name: CloseComplete comes either way

In a block that has failed, or may have, a known text is parsed under a fresh name: there the Close would succeed where
the Parse has to fail.
"""

import re
from typing import TYPE_CHECKING, Final

from pgdoorman.backend.connection import UNKNOWN, Backend
from pgdoorman.client import defaults, preparing, stickiness
from pgdoorman.config.settings import ReparseLiveName
from pgdoorman.constants import bind_constants
from pgdoorman.prepared.backend_names import MustFlush, MustWait
from pgdoorman.prepared.client_names import (
    MOST_RECENT,
    Clearing,
    ClientNames,
    Deallocating,
    Doing,
    Naming,
    Rewording,
    Taken,
)
from pgdoorman.prepared.rewrite import (
    STAND_IN,
    close_message,
    describe_message,
    guard_name,
    parse_message,
)
from pgdoorman.prepared.scan import LOADS, READS_SEQUENCES, RESETS, SPEAKS_OF_NAMES
from pgdoorman.prepared.statement import ABSENT_PREFIX, EXPLAINING, TAKEN, Statement
from pgdoorman.protocol import codes
from pgdoorman.protocol.codes import SYNC_MESSAGE
from pgdoorman.protocol.exchange import (
    A_BIND,
    A_CLOSE,
    A_DESCRIBE_PORTAL,
    A_DESCRIBE_STATEMENT,
    A_HIDDEN_CLOSE,
    A_HIDDEN_SYNC,
    A_PARSE,
    A_QUERY,
    A_SEGMENT,
    A_STANDING_IN_SEGMENT,
    A_SYNC,
    AN_EXECUTE,
    BIND,
    CLOSE,
    EXECUTE,
    PARSE,
    QUERY,
    SYNC,
    Expected,
)
from pgdoorman.protocol.framing import UINT32, length_at

if TYPE_CHECKING:
    from pgdoorman.client.session import Session

_pack = UINT32.pack

# Of other modules, for what is hot: a module's attribute costs two look-ups each time.
_FAILED: Final = codes.FAILED
_HIDDEN_STATE: Final = stickiness.HIDDEN_STATE

# Entries without consequences, by message type; Describe and Close are told apart by their first byte.
_PLAIN: Final = {codes.PARSE: A_PARSE, codes.BIND: A_BIND, codes.EXECUTE: AN_EXECUTE}


def translate(session: "Session", backend: Backend, data: bytes, position: int, total: int, pieces: list[bytes]) -> int:
    """Pass on the whole message at `position`, or the whole plain segment that begins there. Returns where it ends.

    Raises MustWait if the message depends on an outstanding answer: it was not passed on then. (What asks for that answer
    may be in `pieces`.)
    """
    exchange = backend.exchange
    if not exchange.unsynced and not exchange.careful:
        end = _plain_segment(session, backend, data, position, total, pieces)
        if end:
            return end
    elif session.names is not None and session.names.held_up:
        raise MustWait
    kind = data[position]
    end = position + 1 + length_at(data, position + 1)[0]
    if exchange.copying and kind != codes.SYNC and kind != codes.FLUSH and exchange.reads_copy:
        # The server ends the connection at anything but data, unless the COPY has just failed and it skips this: either way
        # it does not matter what the message means.
        exchange.ask(_untouched(data, position))
        pieces.append(data[position:end])
    elif kind == codes.SYNC:
        exchange.ask(
            A_SYNC if session.names is None or session.names.discarding is None else _discarding(session.names)
        )
        note_sync(session)
        pieces.append(data[position:end])  # as it is: one with a body is an error
    elif kind == codes.FLUSH:
        exchange.mark_flush()
        pieces.append(data[position:end])
    elif not session.remaps and kind == codes.EXECUTE and session.names is not None and session.names.at_execute:
        _execute(session, backend, session.names, data, position, end, pieces)
    elif not session.remaps:
        if session.tracks and kind == codes.PARSE:
            stickiness.note_text(session, backend, stickiness.scan(data[position + 5 : end]), data[position:end])
            stickiness.note_calls(session, data[position + 5 : end])
            stickiness.note_loading(session, data[position + 5 : end])
        if kind == codes.PARSE and defaults.has_login_values(session):
            exchange.ask(_note_resetting(session, data, position, end))
        elif session.names is not None and (session.names.resetting or session.names.at_execute):
            exchange.ask(_watch_resetting(session.names, data, position, end))
        else:
            exchange.ask(_untouched(data, position))
        pieces.append(data[position:end])
    elif exchange.skipping:
        # The server ignores it, and so it has no consequences: no need to know what it means.
        exchange.ask(A_PARSE)
        pieces.append(data[position:end])
    elif kind == codes.PARSE:
        _parse(session, backend, data, position, end, pieces)
    elif kind == codes.BIND:
        _bind(session, backend, data, position, end, pieces)
    elif kind == codes.EXECUTE:
        if session.names is not None and session.names.at_execute:
            _execute(session, backend, session.names, data, position, end, pieces)
        else:
            exchange.ask(AN_EXECUTE)
            pieces.append(data[position:end])
    elif kind == codes.DESCRIBE:
        _describe(session, backend, data, position, end, pieces)
    else:
        _close(session, backend, data, position, end, pieces)
    return end


def _discarding(names: ClientNames) -> Expected:
    """A Sync behind a DISCARD ALL."""
    effect, names.discarding = names.discarding, None
    names.held_up = True
    return Expected(SYNC, effect=effect)


def _note_resetting(session: "Session", data: bytes, position: int, end: int) -> Expected:
    """A Parse that is passed on as it is: does its text reset what came with the login? Returns what is to be expected."""
    name, _, rest = data[position + 5 : end].partition(b"\0")
    text = rest.partition(b"\0")[0]
    resets = defaults.is_worth_a_look(text)
    if resets or (session.names is not None and name in session.names.resetting):
        return Expected(PARSE, effect=Rewording(names_of(session), name, text if resets else b""))
    return A_PARSE


def _watch_resetting(names: ClientNames, data: bytes, position: int, end: int) -> Expected:
    """A message that is passed on as it is may be the Bind of such a text, or the Close of its name. Returns what is to be
    expected."""
    if data[position] == codes.BIND:
        portal, _, rest = data[position + 5 : end].partition(b"\0")
        text = names.resetting.find(rest.partition(b"\0")[0], names.segment)
        if text:
            names.at_execute[portal] = Doing(text, clears=defaults.is_discard_all(text))
        else:
            names.at_execute.pop(portal, None)
    elif data[position] == codes.CLOSE and _names_statement(data, position, end):
        name = data[position + 6 : end - 1]
        if name in names.resetting:
            return Expected(CLOSE, effect=Rewording(names, name, b""))
    return _untouched(data, position)


def note_sync(session: "Session") -> None:
    """A segment ends here: what was tentative in it may no longer be counted on."""
    if session.names is not None:
        session.names.segment += 1


def ask_query(
    session: "Session",
    backend: Backend,
    deallocating: tuple[bytes, Statement] | None = None,
    inserted: "defaults.Inserted | None" = None,
) -> None:
    """A simple Query is sent: it drops the unnamed statement, and ends a segment. It may be DEALLOCATE of a name, or have
    statements of ours put in."""
    names = names_of(session)
    if inserted is not None:
        inserted.also = Naming(names, b"", None, None)
        backend.exchange.ask_query(inserted.entry)
    elif deallocating is ALL:
        backend.exchange.ask_query(Expected(QUERY, effect=Clearing(names, Naming(names, b"", None, None))))
    elif deallocating is not None:
        own, statement = deallocating
        effect = Deallocating(names, own, statement, backend.names, also=Naming(names, b"", None, None))
        backend.exchange.ask_query(Expected(QUERY, effect=effect))
    elif b"" in names.names or not names.is_settled:
        backend.exchange.ask_query(Expected(QUERY, effect=Naming(names, b"", None, None)))
    else:
        backend.exchange.ask_query(A_QUERY)
    names.segment += 1


def prepare_query_behind_discard_all(session: "Session", backend: Backend, names: ClientNames) -> bytes:
    """A simple Query is to end a segment with a DISCARD ALL in it, as a Sync would. Where that has run it is committed, so what
    came with the login is set again before the Query begins something: returns what has to be sent for that.

    Raises MustWait if it is not known yet whether it has.
    """
    exchange = backend.exchange
    if exchange.skipping:
        return b""  # the server ignores the Query: a Sync will end the segment
    if exchange.entries:
        raise MustWait if exchange.is_flushed else MustFlush
    pieces: list[bytes] = []
    defaults.restore_in_segment(session, backend, pieces)
    exchange.ask(A_HIDDEN_SYNC)
    pieces.append(SYNC_MESSAGE)
    names.discarding = None
    return b"".join(pieces)


def ask_discard_all(session: "Session", backend: Backend) -> None:
    """A DISCARD ALL is sent, and behind it the Query that sets again what came with the login."""
    names = session.names
    also = None if names is None else Clearing(names, Naming(names, b"", None, None))
    backend.exchange.ask_query(Expected(QUERY, effect=defaults.Withheld(also)))
    backend.exchange.ask_query(defaults.reveal(session))
    if names is not None:
        names.segment += 1


def names_of(session: "Session") -> ClientNames:
    """The client's names; most clients that speak only the simple protocol never have any."""
    names = session.names
    if names is None:
        most = session.pool.settings.client_anonymous_prepared_cache_size
        names = session.names = ClientNames(most)
    return names


# Plain segments.


def _plain_segment(
    session: "Session", backend: Backend, data: bytes, position: int, total: int, pieces: list[bytes]
) -> int:
    """Pass on a segment that is whole, up to its Sync, and of which nothing needs care: statements that the backend has,
    executed once at the end. Returns its end, 0 if it is not of that kind (nothing was done then).

    Worth its own loop: this is what a driver sends for a prepared statement, and one queue entry does for all of it.
    """
    names = session.names
    known = backend.names
    remaps = session.remaps
    found: list[bytes] = []
    kept = position  # data[kept:...] goes on as it is
    executed = False
    flags = 0
    parsed: Statement | None = None
    first = position
    while total - position >= 5:
        kind = data[position]
        end = position + 1 + length_at(data, position + 1)[0]
        if end > total:
            return 0
        if kind == codes.BIND:
            if executed:
                return 0
            if remaps:
                if names is None or end - position > 1 << 20:
                    return 0
                start = data.find(0, position + 5, end) + 1
                stop = data.find(0, start, end) if start else -1
                if stop < 0:
                    return 0
                if parsed is not None and start == stop:
                    statement: Statement | None = parsed
                else:
                    try:
                        statement = names.find(data[start:stop])
                    except MustWait:
                        return 0
                if statement is None or statement not in known:
                    return 0
                known.has(statement)
                flags |= statement.flags
                if statement.calls:
                    stickiness.note_statement(session, statement)
                name = statement.name
                found.append(data[kept:position])
                found.append(b"B" + _pack(end - position - 1 + len(name) - stop + start))
                found.append(data[position + 5 : start])
                found.append(name)
                kept = stop
            elif names is not None and names.resetting:
                return 0
        elif kind == codes.EXECUTE:
            if executed:
                return 0
            executed = True
        elif kind == codes.SYNC:
            if flags and (
                flags & (SPEAKS_OF_NAMES | RESETS | LOADS)
                or (flags & READS_SEQUENCES and backend.sequences_of != session.lease_token)
            ):
                return 0
            found.append(data[kept:end])
            if parsed is None or names is None:
                # A Sync alone is not a segment: behind an Execute that turns out to be a COPY it must be found again.
                backend.exchange.entries.append(A_SYNC if found[0][:1] == b"S" else A_SEGMENT)
            else:
                # Nothing can fail before it, so it is as good as done: no need to wait for the answer.
                backend.exchange.entries.append(A_STANDING_IN_SEGMENT)
                names.names[b""] = parsed
                names.stood_in = data[first:end]
                session.counters.client_parses += 1
            if flags and session.tracks:
                stickiness.note_text(session, backend, flags, b"")
            if names is not None:
                names.segment += 1
            session.counters.binds += 1
            pieces += found
            return end
        elif kind == codes.DESCRIBE:
            if executed or (remaps and data[position + 5 : position + 6] != b"P"):
                return 0
        elif kind != codes.PARSE:
            return 0
        elif remaps:
            parsed = known_unnamed(session, backend, data, position, end) if position == first else None
            if parsed is None:
                return 0
            flags |= parsed.flags
            found.append(STAND_IN)
            kept = end
        elif session.tracks or (
            defaults.has_login_values(session)
            and (_may_reset(data, position, end) or (names is not None and names.resetting))
        ):
            return 0
        position = end
    return 0


def _may_reset(data: bytes, position: int, end: int) -> bool:
    """Whether a Parse is of a text that begins like one that resets something."""
    start = data.find(0, position + 5, end) + 1
    return data[start : start + 3] in defaults.STARTS


def known_unnamed(session: "Session", backend: Backend, data: bytes, position: int, end: int) -> Statement | None:
    """The statement of an unnamed Parse at the beginning of a segment, if this client has parsed the same text lately and
    the backend has it, in a state in which parsing it again cannot fail. Hot: see `serving.serve_segment`."""
    names = session.names
    if names is None or data[position + 5 : position + 6] != b"\0" or backend.entries or backend.status == _FAILED:
        return None
    # The last three are `planning_is_private`, at half of what a property's call takes.
    if (
        names.recent_generation != session.pool.book.generation
        or session.suspect & _HIDDEN_STATE
        or session.set_tags
        or session.pins
    ):
        return None
    statement = names.recent.get(data[position + 6 : end])
    return statement if statement is not None and statement in backend.names.known else None


# One message at a time.


def _parse(session: "Session", backend: Backend, data: bytes, position: int, end: int, pieces: list[bytes]) -> None:
    exchange = backend.exchange
    stop = data.find(0, position + 5, end)
    name = data[position + 5 : stop]
    tail = data[stop + 1 : end]
    if stop < 0 or 0 not in tail:
        exchange.ask(A_PARSE)  # malformed: the server says so
        pieces.append(data[position:end])
        return
    names = names_of(session)
    names.stood_in, names.stood = b"", None
    counters = session.counters
    counters.client_parses += 1
    if name:
        live = names.find(name)
        if live is not None and session.pool.settings.reparse_live_name is ReparseLiveName.ERROR:
            if names.clearing:
                exchange.ask(A_PARSE)
                pieces.append(parse_message(live.name, tail))
                return
            # The server has to refuse it, for the reason that comes first in its own order. It need not have the live one.
            preparing.ensure(session, backend, names.segment, TAKEN, pieces)
            exchange.ask(Expected(PARSE, effect=Taken(names, name)))
            pieces.append(parse_message(TAKEN.name, tail))
            return
    if not name.isascii():
        # It is not sent, and only the server can tell whether it is text in the client's encoding.
        exchange.ask(A_HIDDEN_CLOSE)
        pieces.append(close_message(ABSENT_PREFIX + name))
    if name and exchange.awaits_ready and _PREPARING.match(session.recent, 5):
        raise MustWait  # what SQL is about to prepare may have this name
    if name and (session.suspect & stickiness.PREPARED or "prepared statement" in session.pins):
        # SQL may have given this name to a statement of its own, on this very backend: let the server compare.
        exchange.ask(Expected(PARSE, hidden=True))
        exchange.ask(Expected(CLOSE, hidden=True))
        pieces.append(parse_message(name, tail) + close_message(name))
    uncertain = backend.status == codes.FAILED or exchange.awaits_ready or names.clearing
    private = session.planning_is_private
    if private or uncertain:
        statement = Statement(tail)
    else:
        book = session.pool.book
        known = names.recent.get(tail) if names.recent_generation == book.generation else None
        if known is not None:
            statement = known
        elif not name and not book.is_familiar(tail):
            _parse_unnamed(session, backend, tail, data, position, end, pieces)
            return
        else:
            generation = book.generation
            statement = book.find(tail, session.wanted.planning)
            if not name and statement.elder is None and names.is_free(statement, name):
                names.remember(statement.tail, statement, generation)  # its own copy of the text: one for all clients
        if name:
            names.recent.pop(tail, None)
        if not names.is_free(statement, name):
            statement = Statement(tail)
    stickiness.note_statement(session, statement)
    if backend.names.has(statement, names.segment):
        names.stood_in, names.stood = preparing.first_segment(backend, data, position), statement
        if names.stood_in and (name or not _is_used_at_once(data, end)):
            # Only now can it be mended if it is out of date.
            exchange.ask(preparing.describing(backend, statement, hidden=True))
            pieces.append(describe_message(statement.name))
        exchange.ask(Expected(CLOSE, reply=codes.PARSE_COMPLETE, effect=Naming(names, name, statement, None)))
        pieces.append(STAND_IN)
        return
    preparing.parse(session, backend, names, name, statement, pieces)
    if name or statement.generation >= 0 or statement.elder is not None or not _is_used_at_once(data, end):
        preparing.check(session, backend, names, name, statement, pieces)


def _is_used_at_once(data: bytes, end: int) -> bool:
    """Whether the message behind a Parse that ends there is a Bind or a Describe. What the client is told of an unnamed
    statement matters only if it is used later, perhaps on another backend."""
    return data[end : end + 1] in (b"B", b"D")


def _parse_unnamed(
    session: "Session", backend: Backend, tail: bytes, data: bytes, position: int, end: int, pieces: list[bytes]
) -> None:
    """A text that was not seen before, unnamed: into the server's own unnamed slot."""
    statement = Statement(tail)
    stickiness.note_statement(session, statement)
    session.counters.server_parses += 1
    backend.exchange.ask(Expected(PARSE, effect=Slotting(names_of(session), statement, backend)))
    pieces.append(data[position:end])
    if not _is_used_at_once(data, end):
        backend.exchange.ask(preparing.describing(backend, statement, hidden=True))
        pieces.append(describe_message(b""))


class Slotting(Naming):
    """A pending Parse into the server's unnamed slot. The backend remembers the statement by its name (the very object),
    and so does not keep the text alive, which may be large, when its client has left."""

    __slots__ = ("backend", "before")

    def __init__(self, names: ClientNames, statement: Statement, backend: Backend) -> None:
        self.backend = backend
        self.before = backend.unnamed
        backend.unnamed = statement.name
        super().__init__(names, b"", statement, None)

    def failed(self) -> None:
        if self._is_in_slot:
            self.backend.unnamed = None
        super().failed()

    def skipped(self) -> None:
        if self._is_in_slot:
            self.backend.unnamed = UNKNOWN
        super().skipped()

    @property
    def _is_in_slot(self) -> bool:
        return self.statement is not None and self.backend.unnamed is self.statement.name


def _bind(session: "Session", backend: Backend, data: bytes, position: int, end: int, pieces: list[bytes]) -> None:
    start = data.find(0, position + 5, end) + 1
    stop = data.find(0, start, end) if start else -1
    if stop < 0:
        backend.exchange.ask(A_BIND)  # malformed: the server says so
        pieces.append(data[position:end])
        return
    own = data[start:stop]
    portal = data[position + 5 : start - 1]
    name = _server_name(session, backend, own, pieces, portal, data, stop, end)
    session.counters.binds += 1
    if name is None:
        backend.exchange.ask(A_BIND)
        pieces.append(data[position:end])
        return
    is_absent = name.startswith(ABSENT_PREFIX)
    backend.exchange.ask(Expected(BIND, effect=Taken(names_of(session), own)) if is_absent else A_BIND)
    pieces.append(b"B" + _pack(end - position - 1 + len(name) - (stop - start)) + data[position + 5 : start] + name)
    pieces.append(data[stop:end])


def stream_bind(session: "Session", backend: Backend, data: bytes, position: int, pieces: list[bytes]) -> bool:
    """Begin a large Bind of which the names are here. False if they are not."""
    exchange = backend.exchange
    if not session.remaps or exchange.skipping:
        exchange.ask(A_BIND)
        pieces.append(data[position:])
        return True
    start = data.find(0, position + 5) + 1
    stop = data.find(0, start) if start else -1
    if stop < 0:
        return False
    name = _server_name(session, backend, data[start:stop], pieces)
    exchange.ask(A_BIND)
    if name is None:
        pieces.append(data[position:])
        return True
    length = length_at(data, position + 1)[0] + len(name) - (stop - start)
    pieces.append(b"B" + _pack(length) + data[position + 5 : start] + name)
    pieces.append(data[stop:])
    return True


def _describe(session: "Session", backend: Backend, data: bytes, position: int, end: int, pieces: list[bytes]) -> None:
    if not _names_statement(data, position, end):
        backend.exchange.ask(_untouched(data, position))
        pieces.append(data[position:end])
        return
    own = data[position + 6 : end - 1]
    described: list[Expected] = []
    name = _server_name(session, backend, own, pieces, described=described)
    statement = names_of(session).find(own)
    if described:
        backend.exchange.ask(described[0])
    elif statement is not None and statement.columns is None:
        backend.exchange.ask(preparing.describing(backend, statement))
    else:
        backend.exchange.ask(A_DESCRIBE_STATEMENT)
    pieces.append(data[position:end] if name is None else b"D" + _pack(6 + len(name)) + b"S" + name + b"\0")


def _close(session: "Session", backend: Backend, data: bytes, position: int, end: int, pieces: list[bytes]) -> None:
    if not _names_statement(data, position, end):
        backend.exchange.ask(A_CLOSE)
        pieces.append(data[position:end])
        return
    name = data[position + 6 : end - 1]
    names = names_of(session)
    names.find(name)  # whether it is gone must be known before the next use: may have to wait
    if name:
        pieces.append(close_message(guard_name(name)))
        backend.exchange.ask(Expected(CLOSE, effect=Naming(names, name, None, None)))
        return
    pieces.append(data[position:end])
    backend.exchange.ask(Expected(CLOSE, effect=EmptySlot(names, backend)))


class EmptySlot(Naming):
    """A pending Close of the unnamed statement."""

    __slots__ = ("backend",)

    def __init__(self, names: ClientNames, backend: Backend) -> None:
        self.backend = backend
        backend.unnamed = UNKNOWN
        super().__init__(names, b"", None, None)

    def happened(self) -> None:
        if self.backend.unnamed is UNKNOWN:
            self.backend.unnamed = None
        super().happened()


def _server_name(
    session: "Session",
    backend: Backend,
    own: bytes,
    pieces: list[bytes],
    portal: bytes | None = None,
    data: bytes = b"",
    stop: int = 0,
    end: int = 0,
    *,
    described: list[Expected] | None = None,
) -> bytes | None:
    """The name to use in place of the client's `own`, with what has to be sent before it; None: as it is. `portal` is what the
    statement is to be bound to, if it is, by a Bind of which `data[stop:end]` stands behind the names; `described`, if it is to
    be described, gets what is to be expected, where that is not the plain answer."""
    names = names_of(session)
    statement = names.find(own)
    if portal is not None and names.at_execute:
        names.at_execute.pop(portal, None)
    if statement is None:
        if not own and backend.unnamed is not None:
            # The slot may hold somebody else's statement: empty it, so that the server says what is true.
            backend.exchange.ask(Expected(CLOSE, hidden=True, effect=EmptiedSlot(backend)))
            pieces.append(close_message(b""))
            return None
        guarded = guard_name(own)
        return None if guarded is own else guarded
    stickiness.note_statement(session, statement)
    if statement.flags:
        if session.tracks:
            stickiness.note_text(session, backend, statement.flags, b"")
        if statement.flags & SPEAKS_OF_NAMES:
            statement = _renamed(session, backend, statement, pieces, portal)
        elif statement.flags & LOADS:
            stickiness.note_loading(session, statement.text)
        elif statement.flags & RESETS and portal is not None:
            clears = defaults.is_discard_all(statement.text)
            if clears or defaults.has_login_values(session):
                names.at_execute[portal] = Doing(text=statement.text, clears=clears)
    if backend.unnamed is statement.name and not own:
        return None
    if names.clearing and (not own or statement in backend.names):
        statement = statement.again()  # it may be gone when this is read
    if described is not None:
        statement = preparing.described_alike(backend, names, statement, own, pieces, described)
    elif portal is None or (backend.names.changed and statement in backend.names.changed):
        pass
    elif backend.names.lacks(statement, names.segment):
        statement = preparing.stand_in(session, backend, names, statement, own, pieces, portal, data[stop:end])
    return preparing.ensure(session, backend, names.segment, statement, pieces).name


class EmptiedSlot:
    """A pending Close of ours of the unnamed statement."""

    __slots__ = ("backend",)

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        backend.unnamed = UNKNOWN

    def happened(self) -> None:
        self.backend.unnamed = None

    def failed(self) -> None:
        """A Close does not fail."""

    def skipped(self) -> None:
        """The slot is as it was: unknown."""


# Statements that SQL names.


_STATEMENT_SQL: Final = re.compile(
    rb"\s*+(?:(deallocate)(?:\s++prepare)?|%b(execute)|(prepare)(?!\s++transaction\b))"
    rb"\s++(\"(?:[^\"]|\"\")++\"|[a-z_\x80-\xff][\w$\x80-\xff]*+)" % EXPLAINING,
    re.IGNORECASE,
)


_PREPARING: Final = re.compile(rb"\s*+prepare\b", re.IGNORECASE)

ALL: Final = (b"", TAKEN)
"""What DEALLOCATE ALL is about."""


def find_name_in_sql(query: bytes, start: int) -> re.Match[bytes] | None:
    """DEALLOCATE, EXECUTE or PREPARE at the beginning of a text, with the name that it speaks of as its fourth group."""
    return _STATEMENT_SQL.match(query, start)


def _named_in_sql(names: ClientNames, found: re.Match[bytes]) -> tuple[bytes, Statement | None]:
    quoted = found.group(4)
    own = quoted[1:-1].replace(b'""', b'"') if quoted.startswith(b'"') else quoted.lower()
    return own, names.find(own)


def _renamed(
    session: "Session", backend: Backend, speaking: Statement, pieces: list[bytes], portal: bytes | None
) -> Statement:
    """A statement that is DEALLOCATE or EXECUTE of another, about to be used: the same with our name for the other, which has
    been prepared. As it is if the client has no such statement. (Which one is meant is decided when it runs: that may be
    another than when it was parsed, it may even be itself.)"""
    names = names_of(session)
    found = find_name_in_sql(speaking.tail, 0)
    if found is None:
        return speaking
    if found.group(4).lower() == b"all":
        if portal is not None:
            names.at_execute[portal] = Doing(clears=True)
        return speaking
    if found.group(3) and session.tracks:
        session.suspect |= stickiness.PREPARED  # what is parsed behind it may have the same name
    own, statement = _named_in_sql(names, found)
    if statement is None:
        return speaking
    target = preparing.ensure(session, backend, names.segment, statement, pieces)
    if found.group(1) and portal is not None:
        names.at_execute[portal] = Doing(target=(own, statement))
    elif statement.flags & RESETS and portal is not None and defaults.has_login_values(session):
        names.at_execute[portal] = Doing(text=statement.text, clears=defaults.is_discard_all(statement.text))
    renamed = names.renamed.get((speaking, target))
    if renamed is None:
        if len(names.renamed) >= MOST_RECENT:
            names.renamed.clear()
        start, stop = found.span(4)
        renamed = Statement(speaking.tail[:start] + b'"' + target.name + b'"' + speaking.tail[stop:])
        names.renamed[speaking, target] = renamed
    return renamed


def rename_in_sql(
    session: "Session", backend: Backend, query: bytes, found: re.Match[bytes]
) -> tuple[bytes, tuple[bytes, Statement] | None]:
    """DEALLOCATE, EXECUTE or PREPARE of a name that the client has at protocol level: use ours instead. The statement is
    prepared in front, within its own Sync, so that the Query's own answer is all that the client sees. The second result is
    what a DEALLOCATE is about."""
    names = names_of(session)
    own, statement = _named_in_sql(names, found)
    if statement is None:
        return query, None
    before = b""
    if not backend.names.has(statement, names.segment) and backend.status != codes.FAILED:
        exchange = backend.exchange
        # It must not overtake what is still to be sent. (Closes of ours have been; without a Sync, so nothing would come of
        # waiting for their answers.) In an open batch it is part of that: if it fails, both are skipped.
        if not exchange.unsynced and any(entry is not A_HIDDEN_CLOSE for entry in exchange.entries):
            raise MustWait
        is_open = exchange.unsynced
        pieces: list[bytes] = []
        backend.names.changed.discard(statement)
        preparing.ensure(session, backend, names.segment, statement, pieces, waits=False)
        if is_open:
            before = b"".join(pieces)
        else:
            exchange.ask(A_HIDDEN_SYNC)
            backend.push(b"".join(pieces) + SYNC_MESSAGE)
    start, stop = found.span(4)
    body = query[5:start] + b'"' + statement.name + b'"' + query[stop:]
    return before + b"Q" + _pack(len(body) + 4) + body, (own, statement) if found.group(1) else None


def _execute(
    session: "Session",
    backend: Backend,
    names: ClientNames,
    data: bytes,
    position: int,
    end: int,
    pieces: list[bytes],
) -> None:
    """An Execute, perhaps of a portal whose statement does something to names or to what came with the login."""
    portal = data[position + 5 : data.find(0, position + 5, end)]
    doing = names.at_execute.get(portal)
    entry = AN_EXECUTE
    if doing is not None and doing.target is not None:
        entry = Expected(EXECUTE, effect=Deallocating(names, *doing.target, backend.names))
    elif doing is not None and doing.clears:
        tell = None
        if doing.text and defaults.has_login_values(session):
            discarding = names.discarding
            if not isinstance(discarding, defaults.Discarding):
                names.discarding = discarding = defaults.Discarding(names)
            tell = discarding.note
        entry = Expected(EXECUTE, effect=Clearing(names, tell=tell))
    backend.exchange.ask(entry)
    pieces.append(data[position:end])
    if doing is not None and doing.text and not doing.clears and defaults.has_login_values(session):
        defaults.restore_behind_execute(session, backend, doing.text, pieces)


def _untouched(data: bytes, position: int) -> Expected:
    kind = data[position]
    if kind == codes.DESCRIBE:
        return A_DESCRIBE_STATEMENT if data[position + 5 : position + 6] == b"S" else A_DESCRIBE_PORTAL
    return A_CLOSE if kind == codes.CLOSE else _PLAIN[kind]


def _names_statement(data: bytes, position: int, end: int) -> bool:
    """Whether a Describe or Close is well formed and means a statement; everything else goes on as it is."""
    return data[position + 5 : position + 6] == b"S" and data.find(0, position + 6, end) == end - 1


bind_constants(__name__)

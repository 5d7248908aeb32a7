"""Statements that a backend lacks: prepared there in front of the client's message, and compared with what the client knows.

A client has been told, or could have been, which columns its statement has. On a backend that has the statement PostgreSQL
itself sees to it that they are still the same. One that lacks it is sent a Parse and a Describe of ours, with a Flush, and
the client's message waits for the answer: it must not run if its rows would be others than the client takes them for. (Not
so if the statement returns no rows.) If they have changed, PostgreSQL is made to say so, in its own words and with all that
follows from it: what is bound is a statement whose own column has just changed.

In a block that has failed nothing can be prepared: there something is bound that is refused as the other would be.
"""

from collections.abc import Hashable
from typing import TYPE_CHECKING, Final

from pgdoorman.backend.connection import Backend
from pgdoorman.backend.inquiry import codec_of
from pgdoorman.client.holds import STALLED
from pgdoorman.constants import bind_constants
from pgdoorman.prepared.backend_names import ALWAYS_WAIT, MustWait
from pgdoorman.prepared.client_names import Naming, Preparing, Taken
from pgdoorman.prepared.description import Checking, Describing, Leaving, Removing, Verifying
from pgdoorman.prepared.rewrite import (
    close_message,
    close_portal_message,
    describe_message,
    execute_with,
    prepare_again_message,
    prepare_message,
)
from pgdoorman.prepared.statement import CHANGING_PATHS, Statement, absent, alike, changing
from pgdoorman.protocol import codes
from pgdoorman.protocol.exchange import (
    A_HIDDEN_CLOSE,
    BIND,
    CLOSE,
    DESCRIBE_STATEMENT,
    EXECUTE,
    PARSE,
    SEGMENT,
    Expected,
)
from pgdoorman.protocol.framing import length_at, message

if TYPE_CHECKING:
    from pgdoorman.client.session import Session
    from pgdoorman.prepared.client_names import ClientNames

_SET_PATH: Final = (
    b"select pg_catalog.set_config('search_path', pg_catalog.concat_ws(', ', $1,"
    b" nullif(pg_catalog.current_setting('search_path'), '')), true)\0\0\1\0\0\0\x19"
)
_A_HIDDEN_BIND: Final = Expected(BIND, hidden=True)
_A_HIDDEN_EXECUTE: Final = Expected(EXECUTE, hidden=True)


def parse(
    session: "Session", backend: Backend, names: "ClientNames", name: bytes, statement: Statement, pieces: list[bytes]
) -> None:
    """Pass on the client's Parse, under our name; the backend lacks the statement."""
    known = backend.names
    exchange = backend.exchange
    _remove(backend, statement, pieces)
    known.sent(statement, names.segment)
    backend.attention = True  # there may be one too many now
    session.counters.server_parses += 1
    exchange.ask(Expected(PARSE, effect=Naming(names, name, statement, known)))
    pieces.append(prepare_message(statement))


def check(
    session: "Session", backend: Backend, names: "ClientNames", name: bytes, statement: Statement, pieces: list[bytes]
) -> None:
    """Learn, behind the client's Parse, what PostgreSQL says of the statement: the same as it has told others?"""
    checking = Checking(statement, codec_of(backend), backend.names, names, name, session.pool.book)
    checking.valid_for = _validity(session)
    backend.exchange.ask(Expected(DESCRIBE_STATEMENT, hidden=True, effect=checking))
    pieces.append(describe_message(statement.name))


def describing(backend: Backend, statement: Statement, *, hidden: bool = False) -> Expected:
    """What to expect of a Describe of a statement of which nothing is known yet."""
    return Expected(DESCRIBE_STATEMENT, hidden=hidden, effect=Describing(statement, codec_of(backend)))


def ensure(
    session: "Session", backend: Backend, segment: int, statement: Statement, pieces: list[bytes], *, waits: bool = True
) -> Statement:
    """Have the backend prepare the statement if it lacks it; `segment` is the client's. Should that fail, its error is the
    answer to the message that needs it. Returns what to name: another that PostgreSQL refuses, if the columns have changed.

    Raises MustWait if that is not known yet, with what asks for it in `pieces`; not so if not `waits`.
    """
    known = backend.names
    if known.changed and statement in known.changed:
        return _refusing(session, backend, statement, pieces)
    if known.has(statement, segment):
        return statement
    exchange = backend.exchange
    backend.attention = True
    session.counters.server_parses += 1
    _remove(backend, statement, pieces)
    pieces.append(prepare_again_message(statement))
    if statement.columns == b"":
        exchange.ask(Expected(PARSE, hidden=True, effect=Preparing(known, statement, segment)))
        return statement
    waits = waits and statement.columns is not None
    verifying = Verifying(statement, codec_of(backend), known, ALWAYS_WAIT if waits else segment)
    verifying.valid_for = _validity(session)
    exchange.ask(Expected(PARSE, hidden=True))
    exchange.ask(Expected(DESCRIBE_STATEMENT, hidden=True, effect=verifying))
    pieces.append(describe_message(statement.name))
    if waits:
        exchange.mark_flush()
        pieces.append(codes.FLUSH_MESSAGE)
        raise MustWait
    return statement


def _remove(backend: Backend, statement: Statement, pieces: list[bytes]) -> None:
    """The name may still be taken by what was made under it, and was not what it should be."""
    if backend.names.left and statement in backend.names.left:
        backend.exchange.ask(Expected(CLOSE, hidden=True, effect=Removing(statement, backend.names)))
        pieces.append(close_message(statement.name))


def _refusing(session: "Session", backend: Backend, statement: Statement, pieces: list[bytes]) -> Statement:
    """Something with the same parameters that PostgreSQL refuses to bind or describe because its columns have changed.

    Nothing is left of the search path that this takes: it is local, and the transaction is about to fail.
    """
    known = backend.names
    known.changed.discard(statement)
    session.pool.book.outdated(statement)
    _remove(backend, statement, pieces)
    set_path = Statement(_SET_PATH)
    refused = changing(statement)
    before, after = CHANGING_PATHS
    _leave(backend, set_path, pieces)
    _set_path(backend, set_path, before, pieces)
    _leave(backend, refused, pieces)
    _set_path(backend, set_path, after, pieces)
    return refused


def _set_path(backend: Backend, set_path: Statement, path: bytes, pieces: list[bytes]) -> None:
    backend.exchange.ask(_A_HIDDEN_BIND)
    backend.exchange.ask(_A_HIDDEN_EXECUTE)
    pieces.append(execute_with(set_path.name, path))


def _leave(backend: Backend, statement: Statement, pieces: list[bytes]) -> None:
    """Parse something that is needed once."""
    backend.attention = True
    backend.exchange.ask(Expected(PARSE, hidden=True, effect=Leaving(statement, backend.names)))
    pieces.append(prepare_message(statement))


# Statements that are out of date on a backend that has them: a table was changed, and not through this pool.


_CHANGED: Final = b"\0RRevalidateCachedQuery\0"  # who says that columns have changed, in whatever language
_NO_PERMISSION: Final = b"\0C42501\0"


def may_be_outdated(error: bytes) -> bool:
    """Whether an ErrorResponse can mean that a text has to be analysed anew: the columns have changed, or what it names is not
    there any more, or of another type (SQLSTATE class 42, without permissions)."""
    return (b"\0C42" in error and _NO_PERMISSION not in error) or _CHANGED in error


def first_segment(backend: Backend, data: bytes, position: int) -> bytes:
    """The whole segment that begins there, if no block is open and nothing but Closes of ours is outstanding."""
    exchange = backend.exchange
    if backend.status != codes.IDLE or exchange.unsynced or any(one is not A_HIDDEN_CLOSE for one in exchange.entries):
        return b""
    total = len(data)
    end = position
    while total - end >= 5:
        kind = data[end]
        end += 1 + length_at(data, end + 1)[0]
        if kind == codes.SYNC:
            return data[position:end]
    return b""


def parse_again(
    session: "Session", backend: Backend, failed: Expected | None, told: bytes | None, error: bytes
) -> bool:
    """PostgreSQL refuses a statement for a reason that may lie in a table that has changed. The client has to hear that if it
    has parsed it before. But if it has parsed it in this very segment, and we have put something in the place of that Parse,
    PostgreSQL would have analysed it anew: then the segment is sent again, with its Parse, if it is the only one under way
    and no block is open.

    `failed` is what was answered so; `told` is what the client is about to hear of it (None if of something else, too).
    Returns whether the error is not for the client; what is told should not be, then.
    """
    names = session.names
    if names is None or (failed is not None and isinstance(failed.effect, Taken)):
        return False
    only_parsed = _only_parsed(failed, told)
    _note_outdated(session, backend, names, failed, only_parsed, error)
    segment = names.stood_in
    if (
        not segment
        or not only_parsed
        or backend.status != codes.IDLE
        or session.gathered is not None
        or session.passing
        or b"\0W" in error  # not this statement, but one within a function that it calls
        or not backend.exchange.hide_end()
    ):
        return False
    names.stood_in = b""
    session.hold(STALLED)
    session.input = segment + session.input
    return True


def _note_outdated(
    session: "Session",
    backend: Backend,
    names: "ClientNames",
    failed: Expected | None,
    only_parsed: bool,
    error: bytes,
) -> None:
    """Whoever parses it from now on gets another. Which one it is that was refused is not always known."""
    book = session.pool.book
    if failed is not None and isinstance(failed.effect, Describing):
        refused = [failed.effect.statement]
    elif only_parsed:
        statement = names.names.get(b"") if failed is not None and failed.kind == SEGMENT else names.stood
        refused = [] if statement is None else [statement]
    elif failed is not None and failed.kind in (BIND, SEGMENT, DESCRIBE_STATEMENT):
        refused = [statement for statement in names.names.values() if statement in backend.names.known]
    else:
        return
    for statement in refused:
        if _CHANGED in error:
            book.outdated(statement)
        elif statement.generation == book.generation and (only_parsed or len(refused) == 1):
            book.drop(statement)
            names.recent.pop(statement.tail, None)


def _only_parsed(failed: Expected | None, told: bytes | None) -> bool:
    """Whether nothing has been answered in the segment but its first Parse, perhaps with a ParameterDescription, and the client
    has not yet been told that."""
    if told is None:
        return False
    if not told:
        return failed is not None and failed.hidden and failed.effect.__class__ is Describing
    if told[:5] != codes.PARSE_COMPLETE_MESSAGE:
        return False
    return len(told) == 5 or (told[5] == codes.PARAMETER_DESCRIPTION and len(told) == 6 + length_at(told, 6)[0])


# What stands in for a statement where that cannot be prepared.


def _may_be_in_block(backend: Backend) -> bool:
    """What is outstanding may begin a block, which may fail."""
    return backend.status != codes.IDLE or backend.exchange.awaits_ready


def _may_be_stale(session: "Session", statement: Statement) -> bool:
    """Whether a text that was good when the client parsed it may have become wrong: under another search_path, or by DDL."""
    return session.planning_is_private or statement.valid_for != _validity(session)


def _validity(session: "Session") -> tuple[int, Hashable]:
    return session.pool.book.generation, session.wanted.planning


def stand_in(
    session: "Session",
    backend: Backend,
    names: "ClientNames",
    statement: Statement,
    own: bytes,
    pieces: list[bytes],
    portal: bytes,
    rest: bytes,
) -> Statement:
    """What to bind for a statement that the backend lacks, called `own` by the client; `rest` is the Bind behind the name.

    Where the block has failed the statement cannot be prepared, nor where its text has become wrong: but before the server
    complains of that, it complains of the wrong number of parameters, of the portal that exists already. So an empty
    statement with as many parameters is bound instead, or where it is not certain that this is the end of it, before.

    Raises MustWait if it is not known whether the block has failed.
    """
    in_block = _may_be_in_block(backend)
    stale = _may_be_stale(session, statement)
    if not (in_block or stale) or (found := absent(statement)) is None:
        return statement
    if in_block and backend.exchange.awaits_ready:
        raise MustWait
    failed = backend.status == codes.FAILED
    if failed and not backend.exchange.unsynced:
        return found
    # What stands before it in its segment may have ended the block.
    if (failed or stale) and statement.parameters is not None:
        found = alike(statement)  # of the same types: values in binary can be read as no others
        _leave(backend, found, pieces)
        backend.exchange.ask(Expected(BIND, hidden=True, effect=Taken(names, own)))
        backend.exchange.ask(Expected(CLOSE, hidden=True))
        body = portal + b"\0" + found.name + rest
        pieces.append(message(codes.BIND, body) + close_portal_message(portal))
    return statement


def described_alike(
    backend: Backend,
    names: "ClientNames",
    statement: Statement,
    own: bytes,
    pieces: list[bytes],
    described: list[Expected],
) -> Statement:
    """What to describe for a statement, called `own` by the client. If the backend lacks it, and it has no rows: an empty one
    with the same parameters has the same description, and can be prepared also where the block has failed, or the text
    cannot be analysed any more. (PostgreSQL looks at neither, if there are no rows to describe.) If it has rows, a wrong text
    is complained of behind the description of the parameters: that of an empty one is shown first.

    What is to be expected is put into `described`, where it is not the plain answer. Raises MustWait if it is not known
    whether the block has failed.
    """
    if statement.parameters is None:
        return statement
    codec = codec_of(backend)
    lacks = backend.names.lacks(statement, names.segment)
    if names.shown == (names.segment, own):
        names.shown = None
        described.append(Expected(DESCRIBE_STATEMENT, hidden=True, effect=Describing(statement, codec, b"Tn")))
        return statement
    if not lacks or statement in backend.names.changed:
        return statement
    empty = alike(statement)
    if not statement.columns:
        return empty
    if backend.exchange.awaits_ready:
        raise MustWait
    if backend.status != codes.FAILED:
        _leave(backend, empty, pieces)
        backend.exchange.ask(Expected(DESCRIBE_STATEMENT, hidden=True, effect=Describing(empty, codec, b"t")))
        pieces.append(describe_message(empty.name))
        names.shown = names.segment, own
    return statement


bind_constants(__name__)

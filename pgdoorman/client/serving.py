"""What a client says: found in the buffer, answered here if it needs no server, passed on otherwise.

The three entries are `serve` (bytes have come), `serve_leased` (the same, with a backend) and `refuse` (there will be no
backend). All take bytes that begin at a message boundary, and keep in `session.input` what they cannot deal with yet.
"""

import re
import struct
from time import monotonic
from typing import TYPE_CHECKING, Final

from pgdoorman.backend.connection import UNKNOWN, Backend
from pgdoorman.client import defaults, extended_query, stickiness
from pgdoorman.client.closing import error_message
from pgdoorman.client.holds import BACKLOGGED, GONE, STALLED
from pgdoorman.constants import bind_constants
from pgdoorman.errors import OutOfBudget, PgDoormanError, ProtocolViolation
from pgdoorman.prepared.backend_names import MustFlush, MustWait
from pgdoorman.prepared.rewrite import STAND_IN
from pgdoorman.prepared.scan import SET_LOCAL, SETS, scan
from pgdoorman.protocol import codes
from pgdoorman.protocol.codes import BIND, PARSE, SYNC_MESSAGE
from pgdoorman.protocol.exchange import A_QUERY, A_SEGMENT, A_STANDING_IN_SEGMENT
from pgdoorman.protocol.framing import LARGEST_MESSAGE, LARGEST_SMALL_MESSAGE, end_of_run, length_at, message, table_of
from pgdoorman.protocol.results import command_complete, ready_for_query
from pgdoorman.transport.sockets import DONT_WAIT

if TYPE_CHECKING:
    from pgdoorman.client.session import Session

OUTPUT_LIMIT: Final = 262144

_CLIENT_TYPES: Final = table_of(b"BCDEFHPQSXcdf")
_SMALL: Final = table_of(b"CDEHSXc")  # messages that PostgreSQL does not read beyond 10,000 bytes
_EXTENDED: Final = table_of(b"BCDEHPS")
_COPY: Final = table_of(b"cdf")
_STREAMED: Final = table_of(b"BFQ")  # may be passed on in parts, as soon as this much is here (a Bind's names):
_ENOUGH: Final = 4096

# The first three bytes of texts that may be answered without a server, in the usual spellings.
LOCAL_STARTS: Final = frozenset(
    spelling
    for word in (b"beg", b"sta", b"com", b"end", b"rol", b"abo")
    for spelling in (word, word.upper(), word.title())
) | {b";\0", b"\0"}

_LOAD_STARTS: Final = frozenset({b"loa", b"LOA", b"Loa"})
_PREPARE_STARTS: Final = frozenset({b"pre", b"PRE", b"Pre"})

_MODE: Final = (
    rb"(?:isolation\s+level\s+(?:serializable|repeatable\s+read|read\s+committed|read\s+uncommitted)"
    rb"|read\s+write|read\s+only|(?:not\s+)?deferrable)"
)
_BEGIN: Final = re.compile(
    rb"(begin(?:\s+(?:work|transaction))?|start\s+transaction)(?:\s+"
    + _MODE
    + rb"(?:\s*,?\s+"
    + _MODE
    + rb")*)?\s*;?\s*\Z",
    re.IGNORECASE,
)
_END: Final = re.compile(rb"(?:(commit|end)|(rollback|abort))(?:\s+(?:work|transaction))?\s*;?\s*\Z", re.IGNORECASE)
_IDLE: Final = ready_for_query(codes.IDLE)
_IN_TRANSACTION: Final = ready_for_query(codes.IN_TRANSACTION)
_FAILED: Final = ready_for_query(codes.FAILED)
_EMPTY: Final = message(codes.EMPTY_QUERY_RESPONSE)
_BEGAN: Final = command_complete("BEGIN") + _IN_TRANSACTION
_STARTED: Final = command_complete("START TRANSACTION") + _IN_TRANSACTION
_COMMITTED: Final = command_complete("COMMIT") + _IDLE
_ROLLED_BACK: Final = command_complete("ROLLBACK") + _IDLE


def serve(session: "Session", data: bytes) -> None:
    """Bytes have come from the client."""
    backend = session.backend
    if backend is not None:
        serve_leased(session, backend, data)
    else:
        _serve_unleased(session, data)


# Without a backend.


def _serve_unleased(session: "Session", data: bytes) -> None:
    """Answer what needs no server; ask for a backend at the first message that does."""
    position = 0
    total = len(data)
    if session.passing:
        position = _drop_passing(session, total)
    while total - position >= 5:
        kind = data[position]
        length = length_at(data, position + 1)[0]
        end = position + 1 + length
        if not _is_valid(session, kind, length):
            _reject(session, kind)
            return
        if (
            end > total
            and not _COPY[kind]
            and not session.skipping
            and not _may_begin(session, kind, end - position, total - position)
        ):
            # Not yet whole: a client that sends slowly must not keep a backend waiting.
            _gather(session, data[position:], end - position)
            return
        if kind == codes.QUERY:
            if session.skipping:
                pass  # ignored up to the Sync, as a server would
            elif end <= total and data[position + 5 : position + 8] in LOCAL_STARTS and not data[end - 1]:
                answer = _answer_locally(session, data[position + 5 : end - 1])
                if answer is None:
                    session.ask_backend(data[position:] if position else data)
                    return
                session.tell(answer)
            elif session.check is not None and (answer := _answer_check(session, data, position, end)) is not None:
                session.tell(answer)
            else:
                session.ask_backend(data[position:] if position else data)
                return
        elif kind == codes.TERMINATE:
            session.lost()
            return
        elif kind == codes.SYNC:
            session.skipping = False
            if length != 4:  # an error, which PostgreSQL words
                session.ask_backend(data[position:] if position else data)
                return
            session.tell(_IDLE if session.begin is None else _FAILED if session.begin == b"" else _IN_TRANSACTION)
        elif _COPY[kind]:
            # What is left of a COPY that failed; a server ignores it too.
            if end > total:
                session.passing = end - total
                return
        elif (kind != codes.FLUSH or length != 4) and not session.skipping:
            session.ask_backend(data[position:] if position else data)
            return
        if end > total:
            session.passing = end - total
            return
        position = end
        if session.dismissed is not None:
            session.input = data[position:]  # if it goes on in another process, this goes with it
            session.dismiss(session.dismissed)
            if session.held & GONE:
                return
            session.input = b""
    session.input = data[position:]


def _may_begin(session: "Session", kind: int, size: int, present: int) -> bool:
    """Whether a message is so large that its beginning goes on before its end has come."""
    return _is_streamed(session, kind, size) and present >= _ENOUGH


def _is_streamed(session: "Session", kind: int, size: int) -> bool:
    return bool(_STREAMED[kind]) and size > session.pool.settings.message_size_to_be_stream


def _gather(session: "Session", data: bytes, size: int) -> None:
    if _is_streamed(session, data[0], size) and len(data) < _ENOUGH:
        session.input = data  # it will not be held whole: only its first bytes have to be here
        return
    try:
        session.gather(data, size)
    except OutOfBudget as error:
        session.expel(error)


def _drop_passing(session: "Session", total: int) -> int:
    """The rest of a message that nobody wants: where the next one begins, at most `total`."""
    position = min(session.passing, total)
    session.passing -= position
    return position


def _answer_check(session: "Session", data: bytes, position: int, end: int) -> bytes | None:
    """The answer to `pooler_check_query`, None if this is another query or a block has begun."""
    if session.check is None or session.begin is not None or end > len(data):
        return None
    answer = session.check.answer_to(data[position + 5 : end - 1])
    if answer is not None and session.names is not None:
        session.names.drop_unnamed()
    return answer


def _answer_locally(session: "Session", text: bytes) -> bytes | None:
    """The answer to a query that takes no server, None if it does. Only spellings that cannot fail are answered."""
    if session.begin is None:
        if not text or text == b";":
            if session.names is not None:
                session.names.drop_unnamed()
            return _EMPTY + _IDLE
        found = _BEGIN.match(text) if len(text) < 200 else None
        if found is None or not session.tracks:
            return None
        session.begin = text
        if session.names is not None:
            session.names.drop_unnamed()
        return _BEGAN if found.group(1)[:1] in b"bB" else _STARTED
    failed = session.begin == b""
    found = _END.match(text) if len(text) < 60 else None
    if found is None:
        if not failed:
            return None
        return error_message(_ABORTED, "ERROR") + _FAILED
    session.begin = None
    return _COMMITTED if found.group(1) and not failed else _ROLLED_BACK


class _Aborted(PgDoormanError):
    sqlstate = "25P02"
    severity = "ERROR"


_ABORTED: Final = _Aborted("current transaction is aborted, commands ignored until end of transaction block")


def refuse(session: "Session", reason: PgDoormanError) -> None:
    """No backend for the request at the head of the input: answer it with the error. A Query is over then; of an extended
    one everything up to the Sync is skipped."""
    message = error_message(reason, "ERROR")
    session.counters.count_error(message)
    session.errors += 1
    session.tell(message)
    data, session.input = session.input, b""
    if session.gathered is not None:
        data = bytes(session.gathered)
        session.stop_gathering()
    if session.begin is not None:
        session.begin = b""  # a block that failed before it began: only its end is accepted now
    kind = data[0] if data else codes.QUERY
    if kind in (codes.QUERY, codes.FUNCTION_CALL):
        session.tell(_FAILED if session.begin is not None else _IDLE)
        end = 1 + length_at(data, 1)[0] if len(data) >= 5 else len(data)
        if end > len(data):
            session.passing = end - len(data)
            data = b""
        else:
            data = data[end:]
    else:
        session.skipping = True
    if session.dismissed is not None:
        session.input = data
        session.dismiss(session.dismissed)
        if session.held & GONE:
            return
        session.input = b""
    if not session.reading:
        session.listen_again()
    if data:
        serve(session, data)


# With a backend.


def serve_leased(session: "Session", backend: Backend, data: bytes) -> None:
    """Pass on what the client says, translated where that is needed.

    The first branch is the hot one: one whole Query and nothing else.
    """
    total = len(data)
    if (
        session.tracks
        and total > 5
        and data[0] == codes.QUERY
        and length_at(data, 1)[0] == total - 1
        and not session.passing
        and session.names is None
        and not backend.exchange.unsynced
    ):
        if not session.query_began:
            session.query_began = monotonic()
        serve_query(session, backend, data, total)
    else:
        _serve_mixed(session, backend, data)


def serve_query(session: "Session", backend: Backend, data: bytes, total: int) -> None:
    """One whole Query, of a client that speaks the simple protocol, on its way. Hot: see `Session.on_event`."""
    low = data.lower()
    # Never `in`: it tries whether the word is a number first, and makes the message of a TypeError that nobody sees (150 ns).
    # (Not from the text's own beginning: that costs as well. A parenthesis alone is 1 of 256 lengths too.)
    if low.find(b"set") >= 0 or low.find(b"(", 5) >= 0 or low.find(b"temp") >= 0 or low.find(b"hold") >= 0:
        try:
            flags = _look_closely(session, backend, data)
        except MustWait:
            session.hold(STALLED)
            session.input = data
            return
        if flags & (SETS | SET_LOCAL) and defaults.has_login_values(session):
            _serve_mixed(session, backend, data)
            return
    session.recent = data
    backend.entries.append(A_QUERY)
    backend.unnamed = None  # a Query drops what is in the server's unnamed slot
    session.counters.received += total
    if not backend.out:
        try:
            sent = backend.send(data, DONT_WAIT)
        except OSError:
            sent = 0  # full, or gone: `push` finds out
        if sent == total:
            backend.bytes_out += total
            return
        data = data[sent:]
    backend.push(data)
    if backend.out:
        _backlog(session, backend)


# What drivers send behind a Bind to the unnamed portal: [Describe of it,] Execute without a limit, Sync.
_EXECUTED: Final = message(codes.EXECUTE, b"\0" + bytes(4)) + SYNC_MESSAGE
_USUAL_ENDS: Final = frozenset({_EXECUTED, message(codes.DESCRIBE, b"P\0") + _EXECUTED})

BEGINS_SEGMENT: Final = table_of(b"BP")


def serve_segment(session: "Session", backend: Backend, data: bytes, total: int) -> None:
    """A segment that begins with Bind or Parse and seems to end with its Sync, of a client that has prepared statements.
    Hot: see `Session.on_event`.

    The usual one, a Bind of a statement that the backend has and its Execute, perhaps behind a Parse of a text that this
    client has parsed lately, is passed on from here, at a third of what `extended_query` takes. Everything else goes there.
    """
    names = session.names
    exchange = backend.exchange
    if names is None or exchange.careful or exchange.unsynced:
        _serve_segment_carefully(session, backend, data)
        return
    position = 0
    parsed = None
    if data[0] == PARSE:
        position = 1 + length_at(data, 1)[0]
        parsed = extended_query.known_unnamed(session, backend, data, 0, position)
        if parsed is None or total < position + 6 or data[position] != BIND:
            _serve_segment_carefully(session, backend, data)
            return
    end = position + 1 + length_at(data, position + 1)[0]
    stop = data.find(0, position + 6, end)
    if data[position + 5] or stop < 0 or data[end:] not in _USUAL_ENDS or names.pending:
        _serve_segment_carefully(session, backend, data)
        return
    statement = names.names.get(data[position + 6 : stop]) if parsed is None or stop > position + 6 else parsed
    known = backend.names
    if statement is None or statement.flags or statement not in known.known or not session.remaps:
        _serve_segment_carefully(session, backend, data)
        return
    known.known.move_to_end(statement)
    known.hits += 1
    if statement.calls:
        stickiness.note_statement(session, statement)
    name = statement.name
    passed_on = _bind_head(BIND, 5 + len(name) + end - stop, 0) + name + data[stop:]
    counters = session.counters
    if parsed is None:
        backend.entries.append(A_SEGMENT)
    else:
        # Nothing can fail before it, so it is as good as done: no need to wait for the answer.
        backend.entries.append(A_STANDING_IN_SEGMENT)
        names.names[b""] = parsed
        names.stood_in = data
        counters.client_parses += 1
        passed_on = STAND_IN + passed_on
    names.segment += 1
    counters.binds += 1
    counters.received += total
    # As in `serve_query`, and spelled out as there: a call is 120 ns.
    if not backend.out:
        size = len(passed_on)
        try:
            sent = backend.send(passed_on, DONT_WAIT)
        except OSError:
            sent = 0
        if sent == size:
            backend.bytes_out += size
            return
        passed_on = passed_on[sent:]
    backend.push(passed_on)
    if backend.out:
        _backlog(session, backend)


_bind_head: Final = struct.Struct("!BIB").pack  # type, length, and the name of the unnamed portal


def _serve_segment_carefully(session: "Session", backend: Backend, data: bytes) -> None:
    session.fast = 0
    _serve_mixed(session, backend, data)
    session.refresh()


def _look_closely(session: "Session", backend: Backend, query: bytes) -> int:
    """A Query with one of the words that `prepared.scan` knows: note what it may do. Returns its flags."""
    flags = scan(query[5:])
    if flags:
        stickiness.note_text(session, backend, flags, query)
    if query.find(b"(") >= 0:
        stickiness.note_calls(session, query)
    return flags


def _serve_mixed(session: "Session", backend: Backend, data: bytes) -> None:
    total = len(data)
    position = 0
    exchange = backend.exchange
    if not session.query_began:
        session.query_began = monotonic()
    pieces: list[bytes] = []
    session.counters.received += total
    if session.passing:
        position = min(session.passing, total)
        session.passing -= position
        if total - position >= 5 and data[position] == codes.COPY_DATA and not session.release_due:
            length = length_at(data, position + 1)[0]
            end = position + 1 + length
            if _is_valid(session, codes.COPY_DATA, length):
                end = _end_of_copy_data(session, data, end)
                if end >= total:
                    # The middle of a COPY: it goes on as it came, without two copies of it.
                    exchange.mark_copy_data()
                    session.passing = end - total
                    _send(session, backend, [data])
                    return
        pieces.append(data[:position])
    while total - position >= 5:
        kind = data[position]
        length = length_at(data, position + 1)[0]
        end = position + 1 + length
        if not _is_valid(session, kind, length):
            # What came before it has to be asked, and answered first.
            _send(session, backend, pieces)
            if _answers_come_first(backend, kind):
                session.input = data[position:]
                session.hold(STALLED)
            else:
                _reject(session, kind)
            return
        if end > total:
            position = _begin_partial(session, backend, data, position, end, pieces)
            break
        try:
            if kind == codes.QUERY:
                pieces.append(_query(session, backend, data[position:end]))
            elif _EXTENDED[kind]:
                end = extended_query.translate(session, backend, data, position, total, pieces)
            elif _COPY[kind]:
                if kind != codes.COPY_DATA:
                    exchange.mark_copy_end()
                    pieces.append(data[position:end])
                else:
                    end = _end_of_copy_data(session, data, end)
                    exchange.mark_copy_data()
                    pieces.append(data[position:end])
                    if end > total:
                        session.passing = end - total
                        end = total
            elif kind == codes.FUNCTION_CALL:
                _begin_call(session, data[position : position + 9])
                exchange.ask_query(A_QUERY)
                extended_query.note_sync(session)
                pieces.append(data[position:end])
            else:  # Terminate
                _send(session, backend, pieces)
                session.lost()
                return
        except MustWait as wait:
            if not exchange.reads_copy:
                if isinstance(wait, MustFlush):
                    exchange.mark_flush()
                    pieces.append(codes.FLUSH_MESSAGE)
                session.hold(STALLED)
                break
            # The server takes nothing but data now: it ends the connection, and what the message means does not matter.
            pieces.append(data[position:end])
        position = end
    if position < total and session.gathered is None:
        session.input = data[position:]
    _send(session, backend, pieces)
    if session.release_due and not session.passing and exchange.is_settled and backend.is_clean:
        session.release_due = False
        session.transaction_over(backend, monotonic())


def _send(session: "Session", backend: Backend, pieces: list[bytes]) -> None:
    if pieces:
        backend.push(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if backend.out:
            _backlog(session, backend)


def _backlog(session: "Session", backend: Backend) -> None:
    if len(backend.out) > OUTPUT_LIMIT:
        session.hold(BACKLOGGED)


def _end_of_copy_data(session: "Session", data: bytes, end: int) -> int:
    """Where the run of CopyData messages ends whose first ends at `end`: they are passed on as one piece, the
    last one as far as it has come. The first one's length has been looked at."""
    last = end_of_run(data, codes.COPY_DATA, end)
    if last - end <= min(LARGEST_MESSAGE, session.pool.settings.max_message_size):
        return last
    start = end
    while end < last:  # the last is large: up to it, so that its length is looked at too
        start, end = end, end + 1 + length_at(data, end + 1)[0]
    return start


def _begin_partial(
    session: "Session", backend: Backend, data: bytes, position: int, end: int, pieces: list[bytes]
) -> int:
    """A message of which only the beginning is here. Bulk goes on as it comes; the rest is collected first.

    Returns how far `data` is dealt with.
    """
    total = len(data)
    kind = data[position]
    size = end - position
    if kind == codes.COPY_DATA:
        backend.exchange.mark_copy_data()
        pieces.append(data[position:])
        session.passing = end - total
        return total
    if _may_begin(session, kind, size, total - position):
        try:
            streamed = _stream(session, backend, data, position, pieces)
        except MustWait:
            session.hold(STALLED)
            session.input = data[position:]
            return position
        if streamed:
            session.passing = end - total
            return total
    _gather(session, data[position:], size)
    return total if session.gathered is not None else position


def _stream(session: "Session", backend: Backend, data: bytes, position: int, pieces: list[bytes]) -> bool:
    """Begin to pass on a large message of which at least 4 kB are here. False if its kind must be whole."""
    kind = data[position]
    if kind == codes.QUERY:
        pieces.append(_query(session, backend, data[position:]))
        return True
    if kind == codes.FUNCTION_CALL:
        _begin_call(session, data[position : position + 9])
        backend.exchange.ask_query(A_QUERY)
        extended_query.note_sync(session)
        pieces.append(data[position:])
        return True
    if kind == codes.BIND:
        return extended_query.stream_bind(session, backend, data, position, pieces)
    return False


def _query(session: "Session", backend: Backend, query: bytes) -> bytes:
    """A simple Query on its way; what it does to names and to the session is noted."""
    exchange = backend.exchange
    names = session.names
    if names is not None and names.held_up:
        raise MustWait
    restoring = b""
    if names is not None and names.discarding is not None:
        restoring = extended_query.prepare_query_behind_discard_all(session, backend, names)
    may_be_skipped = exchange.skipping or exchange.unsynced  # what came before it may fail
    flags = 0
    if query[5:8] in _LOAD_STARTS:
        stickiness.note_loading(session, query)
    if session.tracks:
        flags = _look_closely(session, backend, query)
        session.recent = query
        if query[5:8] in _PREPARE_STARTS:
            session.suspect |= stickiness.PREPARED  # what is parsed behind it may have the same name
    inserted: defaults.Inserted | None = None
    withheld = b""
    if (flags & (SETS | SET_LOCAL) or query[5:40].lstrip()[:3] in defaults.STARTS) and defaults.has_login_values(
        session
    ):
        query, inserted, withheld = _complete(session, backend, query)
    if withheld:
        extended_query.ask_discard_all(session, backend)
        query += withheld
    elif names is None or not session.remaps:
        exchange.ask_query(A_QUERY if inserted is None else inserted.entry)
        if names is not None:
            names.segment += 1
    else:
        deallocating = None
        if (names.names or not names.is_settled) and len(query) < 8192 and length_at(query, 1)[0] == len(query) - 1:
            found = extended_query.find_name_in_sql(query, 5)
            if found is not None and found.group(4).lower() == b"all":
                deallocating = extended_query.ALL
            elif found is not None:
                query, deallocating = extended_query.rename_in_sql(session, backend, query, found)
        extended_query.ask_query(session, backend, deallocating, inserted)
    backend.unnamed = UNKNOWN if may_be_skipped else None
    return restoring + query


def _begin_call(session: "Session", message: bytes) -> None:
    """A FunctionCall, of which the first 9 bytes are here. Raises MustWait if what came with the login is not yet set again
    behind a DISCARD ALL."""
    if session.names is not None and session.names.held_up:
        raise MustWait
    if session.tracks:
        stickiness.note_function_call(session, message)


def _complete(session: "Session", backend: Backend, query: bytes) -> tuple[bytes, defaults.Inserted | None, bytes]:
    """A Query that may reset what came with the login: the Query to send, what was put into it, and what to send behind it."""
    if length_at(query, 1)[0] != len(query) - 1 or not defaults.is_worth_a_look(query[5:]):
        return query, None, b""
    if defaults.is_discard_all(query[5:-1]):
        return query, None, defaults.restoring_query(session, backend)
    completed = defaults.complete_query(session, backend, query)
    return (query, None, b"") if completed is None else (*completed, b"")


def _is_valid(session: "Session", kind: int, length: int) -> bool:
    """Whether a message may begin like this."""
    limit = LARGEST_SMALL_MESSAGE if _SMALL[kind] else min(LARGEST_MESSAGE, session.pool.settings.max_message_size)
    return bool(_CLIENT_TYPES[kind]) and 4 <= length <= limit


def _answers_come_first(backend: Backend, kind: int) -> bool:
    """Whether answers are still to come before a client that broke the protocol with a message of this kind is sent away.
    (The message is looked at again behind each of them.)"""
    exchange = backend.exchange
    if exchange.copying or not exchange.entries:
        return False
    if not _CLIENT_TYPES[kind]:
        if not exchange.is_flushed:
            exchange.mark_flush()
            backend.push(codes.FLUSH_MESSAGE)  # a FATAL takes along what PostgreSQL has not sent yet
        return True
    # A length that cannot be: PostgreSQL closes without a word, and without what no Sync or Flush had made it send.
    return exchange.is_flushed or exchange.awaits_ready


def _reject(session: "Session", kind: int) -> None:
    """A message that may not be: the session is over. PostgreSQL closes without a word at a length that cannot be, and
    says so at a type that it does not know."""
    if _CLIENT_TYPES[kind]:
        session.lost()
    else:
        session.violate(ProtocolViolation(f"invalid frontend message type {kind}"))


bind_constants(__name__)

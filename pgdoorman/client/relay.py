"""What a server says, on its way to the client.

Two loops over the same buffer. The plain one walks message boundaries and passes the bytes on as they came; it looks at
nothing but ReadyForQuery and command tags. As soon as something needs more, the careful one takes over, at that very
message: it matches each answer to what was asked (`protocol.exchange`), leaves out what is not for the client, and puts
the client's own words where ours are.
"""

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Final

from pgdoorman.backend.connection import Backend
from pgdoorman.backend.inquiry import note_parameter
from pgdoorman.client import preparing, stickiness
from pgdoorman.client.defaults import Inserted, Revealed, Withheld, restore_position, set_login_values_again
from pgdoorman.client.holds import CARE, STALLED
from pgdoorman.client.stickiness import (
    NEEDS_A_LOOK,
    NOTABLE,
    TAG_LOAD,
    TAG_REPORTED,
    LostSettings,
    Prelude,
    answers_late,
)
from pgdoorman.config.settings import PoolMode
from pgdoorman.constants import bind_constants
from pgdoorman.errors import BackendRefused, BackendUnavailable, PgDoormanError
from pgdoorman.prepared.description import Describing
from pgdoorman.prepared.rewrite import restore_names
from pgdoorman.prepared.statement import PREFIX
from pgdoorman.protocol import codes
from pgdoorman.protocol.codes import CLOSE_COMPLETE_MESSAGE, PARSE_COMPLETE_MESSAGE
from pgdoorman.protocol.exchange import A_SEGMENT, A_STANDING_IN_SEGMENT
from pgdoorman.protocol.framing import LARGEST_MESSAGE, end_of_run, header_at, length_at, table_of
from pgdoorman.protocol.results import ready_for_query
from pgdoorman.protocol.startup import parse_error_fields
from pgdoorman.transport.sockets import DONT_WAIT

if TYPE_CHECKING:
    from pgdoorman.client.session import Session

READ_SIZE: Final = 32768
LARGE_READ_SIZE: Final = 65536
LARGEST_HELD: Final = 1 << 20  # a message that has to be whole before it is understood; larger ones pass as they come

_STATUSES: Final = b"ITE"
_READY: Final = codes.READY_FOR_QUERY
_IDLE: Final = codes.IDLE
_COMPLETE: Final = codes.COMMAND_COMPLETE
_THE_END: Final = ready_for_query(codes.IDLE)

# Types that the plain loop may pass on unseen.
# (Tables of bytes, not sets: a set that several threads test is locked for each test.)
_UNSEEN_TYPES: Final = b"TtnI123sVcH"
_ROW_TYPES: Final = b"Dd"
_UNSEEN: Final = table_of(_UNSEEN_TYPES)
_ROWS: Final = table_of(_ROW_TYPES)
_PLAIN: Final = table_of(_ROW_TYPES + _UNSEEN_TYPES)
# Types that may be passed on in parts: nothing depends on their contents.
_BULK: Final = table_of(b"DdV")

# All that a server may say behind its log-in, and what of it nobody needs to have asked for.
_SERVER_TYPES: Final = table_of(b"TtnI123sVcHGWCDdZENSA")
_UNASKED: Final = b"NSAE"

# From this many bytes at once on, rows are many, or large: a loop of their own is worth calling (130 ns a row, not 210).
_STREAM: Final = 4096

_OUT_OF_STEP: Final = BackendUnavailable("the server sent an unexpected message; the connection to it was given up")


class _FailedBlock(PgDoormanError):
    sqlstate = "0A000"


_NO_BLOCKS: Final = _FailedBlock("transaction blocks not allowed in statement pooling mode")


def relay(session: "Session", backend: Backend) -> None:
    """The backend of `session` has something to say."""
    position = backend.need
    try:
        data = backend.recv(LARGE_READ_SIZE if position else READ_SIZE, DONT_WAIT)
    except BlockingIOError:
        return
    except OSError:
        data = b""
    if not data:
        _lost(session, backend)
        return
    total = len(data)
    backend.bytes_in += total
    session.counters.sent += total
    entries = backend.entries
    exchange = backend.exchange
    if (
        session.fast
        and data[-6:] == _THE_END
        and len(entries) == 1
        and total < _STREAM
        and not (position or backend.tail or exchange.careful or session.noted)
    ):
        # Hot: the client had asked one thing, and this seems to be the whole answer. With nothing to decide but that, the
        # walk costs half of what the loop below takes.
        if entries[0] is A_STANDING_IN_SEGMENT and data[:5] == CLOSE_COMPLETE_MESSAGE:
            entries[0] = A_SEGMENT
            data = PARSE_COMPLETE_MESSAGE + data[5:]
        last = total - 6
        while position < last:
            kind, length = header_at(data, position)
            if not _PLAIN[kind] and (kind != _COMPLETE or data[position + 5 : position + 8] in NOTABLE):
                break
            position += length + 1
        if position == last and entries[0] is not A_STANDING_IN_SEGMENT:
            entries.clear()
            backend.status = _IDLE
            # Whoever waits for the backend gets it first.
            try:
                over = _plainly_over(session, backend, exchange.unsynced)
            finally:
                session.tell(data)
            if not over:
                _answered(session, backend, 1)
            return
        position = 0
    if backend.tail:
        data = backend.tail + data
        total = len(data)
        backend.tail = b""
    if exchange.careful:
        _relay_carefully(session, backend, data, position, 0)
        return
    if entries and entries[0] is A_STANDING_IN_SEGMENT and not position:
        # Its first answer is that to the Close.
        if data[:5] != CLOSE_COMPLETE_MESSAGE:
            _relay_carefully(session, backend, data, 0, 0)
            return
        entries[0] = A_SEGMENT
        data = PARSE_COMPLETE_MESSAGE + data[5:]
    began = position
    answered = 0
    status = 0
    whole_header = total - 4
    while position < whole_header:
        kind, length = header_at(data, position)
        end = position + length + 1
        if _ROWS[kind]:
            position = end if total < _STREAM else end_of_run(data, kind, end)
            continue
        if end > total:
            if _BULK[kind]:
                position = end
            break
        if _UNSEEN[kind]:
            pass
        elif kind == _COMPLETE:
            tag = data[position + 5 : position + 8]
            if tag in NOTABLE:
                note = NOTABLE[tag]
                session.noted |= note
                if note & NEEDS_A_LOOK and (session.tracks or note == TAG_LOAD):
                    stickiness.note_tag(session, backend, note, data[position + 5 : end - 1])
                    if exchange.careful:
                        _relay_carefully(session, backend, data, end, answered)
                        return
        elif kind == _READY:
            if not entries or length != 5:
                session.backend_failed(backend, _OUT_OF_STEP)
                return
            status = data[position + 5]
            if status != 0x49 and status not in _STATUSES:
                session.backend_failed(backend, _OUT_OF_STEP)
                return
            entries.popleft()
            backend.status = status
            answered += 1
            if entries[0] is A_STANDING_IN_SEGMENT if entries else end < total:
                # Something to translate, or more than was asked for.
                _relay_carefully(session, backend, data, end, answered)
                return
        else:
            _relay_carefully(session, backend, data, position, answered)
            return
        position = end
    if position == total:
        if began:
            backend.need = 0
        if answered and status == _IDLE and answers_late(session):
            _tell_late(session, backend, data, answered)
            return
        session.tell(data)
    elif position > total:
        backend.need = need = position - total
        if need > LARGEST_MESSAGE:
            session.backend_failed(backend, _OUT_OF_STEP)
            return
        session.tell(data)
    else:
        backend.need = 0
        if position:
            session.tell(data[:position])
        backend.tail = data[position:]
        if not _may_begin_so(backend.tail):
            session.backend_failed(backend, _OUT_OF_STEP)
            return
    if answered:
        _answered(session, backend, answered)


def _may_begin_so(tail: bytes) -> bool:
    """Whether this can be the beginning of a message that must be whole. (Its type is looked at here and not at each message: a
    length that cannot be leads to a type that cannot be.)"""
    kind = tail[0]
    if not _SERVER_TYPES[kind]:
        return False
    if len(tail) < 5:
        return True
    length = length_at(tail, 1)[0]
    return 4 <= length <= (5 if kind == _READY else LARGEST_HELD if kind in b"SEAGW" else LARGEST_MESSAGE)


def _tell_late(session: "Session", backend: Backend, data: bytes, answered: int) -> None:
    """See `stickiness.answers_late`: pass on what ends with a ReadyForQuery, but if an audit begins, behind that."""
    session.keep_back(data)
    _answered(session, backend, answered)
    if not session.held & CARE:
        session.tell_kept()


def _plainly_over(session: "Session", backend: Backend, unsynced: bool) -> bool:
    """A query is answered, and nothing about its client is pending (see `Session.fast`) or noted. If it was a transaction of
    its own and has left nothing behind, count it and give the backend back: the short form of `_answered` and what that
    calls, with half as many attribute loads. False, and nothing was done, if not."""
    began = session.query_began
    if (
        unsynced
        or began != session.transaction_began
        or session.suspect
        or session.pins
        or backend.cancels_under_way
        or backend.close_wanted
    ):
        return False
    session.heard_at = now = monotonic()
    session.add_single(now - began)
    session.singles += 1
    backend.singles += 1
    session.backend = None
    backend.holder = None
    waiter, errands = session.swap(backend, session.worker_index, now)
    if waiter is not None:
        worker = session.worker
        if waiter.worker is worker:
            waiter.granted(backend)
        else:
            session.pool.grant(waiter, backend, worker)
    elif errands is not None:
        session.pool.run(errands, session.worker)
    return True


def _answered(session: "Session", backend: Backend, queries: int) -> None:
    """ReadyForQuery came, `queries` times: count; and if nothing is outstanding and no transaction open, that was it."""
    now = monotonic()
    counters = session.counters
    began = session.query_began
    spent = now - began
    exchange = backend.exchange
    session.heard_at = now  # as good as: the client is idle from now on
    ended = backend.status == codes.IDLE and not exchange.entries and not exchange.unsynced
    if ended and queries == 1 and began == session.transaction_began:
        session.add_single(spent)
        session.singles += 1
        backend.singles += 1
    else:
        counters.queries += queries
        session.queries += queries
        backend.queries += queries
        counters.query_times.add(spent)
        if ended:
            counters.transaction_times.add(now - session.transaction_began)
            session.transactions += 1
            backend.transactions += 1
    session.query_began = now if exchange.entries else 0.0
    if ended:
        if not backend.tail and not backend.need:
            session.transaction_over(backend, now)
        elif backend.tail[:1] not in _UNASKED and session.tracks and not session.pins:
            session.lose_backend(backend)  # whatever it is about to say, nobody asked for it
    elif backend.status == codes.IDLE:
        pass
    elif session.pooling is PoolMode.STATEMENT and not exchange.entries:
        session.backend_failed(backend, _NO_BLOCKS)
        return
    if session.held & STALLED:
        session.release_hold(STALLED)


def _relay_carefully(session: "Session", backend: Backend, data: bytes, position: int, answered: int) -> None:
    """The same with every answer matched. `data[:position]` has been walked, or is the rest of a large message."""
    exchange = backend.exchange
    entries = exchange.entries
    total = len(data)
    pieces: list[bytes] = []
    kept = 0  # data[kept:position] is to go on as it is
    ended: PgDoormanError | None = None
    while total - position >= 5:
        kind = data[position]
        length = length_at(data, position + 1)[0]
        end = position + 1 + length
        if length < 4 or length > LARGEST_MESSAGE:
            ended = _OUT_OF_STEP
            break
        head = entries[0] if entries else None
        hidden = head is not None and head.hidden
        if _BULK[kind] and not hidden:
            if head is None or (head.kind != 7 and head.kind > 1):
                ended = _OUT_OF_STEP  # a row that nobody asked for
                break
            if kind == codes.FUNCTION_CALL_RESPONSE and exchange.unanswered_syncs:
                exchange.begin_answer()
            position = end if total < _STREAM else end_of_run(data, kind, end)
            continue
        if end > total:
            break
        passed = not hidden
        replaced = b""
        if kind == _READY:
            if length != 5 or not exchange.ready_expected:
                ended = _OUT_OF_STEP
                break
            if data[position + 5] not in _STATUSES:
                ended = _OUT_OF_STEP
                break
            backend.status = data[position + 5]
            if head is not None and head.effect is not None:
                if isinstance(head.effect, Withheld):
                    passed = not head.effect.holds
                elif isinstance(head.effect, Revealed):
                    passed = True
            try:
                # What a prelude brings to be told goes out before anything that follows it; what something of ours in the
                # middle has changed, where PostgreSQL would have told it.
                if hidden or backend.reported is not session.told:
                    if kept < position:
                        pieces.append(data[kept:position])
                        kept = position
                    if pieces:
                        session.tell(b"".join(pieces))
                        pieces.clear()
                    if passed:
                        session.sync_told(backend)
                exchange.ready()
                if not hidden and not passed and not entries:
                    set_login_values_again(session, backend)
            except LostSettings as lost:
                ended = lost.reason
                break
            if passed:
                answered += 1
        elif kind == codes.ERROR_RESPONSE:
            entry = exchange.error()
            if entry is not None and entry.hidden and isinstance(entry.effect, Inserted):
                exchange.show(entry)  # what came with the login can no longer be set: the client has to know
            passed = entry is None or not entry.hidden or entry.kind > 2
            if b"\0VFATAL\0" in data[position:end] or b"\0VPANIC\0" in data[position:end]:
                backend.said_fatal = True
            if passed and preparing.may_be_outdated(data[position:end]):
                told = b"".join(pieces) + data[kept:position] if not answered else None
                if preparing.parse_again(session, backend, entry, told, data[position:end]):
                    pieces.clear()
                    position = kept = end
                    continue
            if passed:
                session.errors += 1
                backend.errors += 1
                if b"deallocate" in session.recent.lower():
                    session.suspect |= stickiness.LOOK  # in a block of code it takes effect although that fails
                frame = data[position:end]
                session.counters.count_error(frame)
                if PREFIX in frame:
                    if b"\0C26000\0" in frame:
                        backend.names.forget_named(frame)
                    replaced = restore_names(frame, _name_finder(session))
                if entry is not None and isinstance(entry.effect, Inserted):
                    replaced = restore_position(replaced or frame, entry.effect)
            elif entry is not None and isinstance(entry.effect, Prelude):
                entry.effect.refused(BackendRefused(parse_error_fields(data[position + 5 : end])))
        elif kind == codes.PARAMETER_STATUS:
            name, value = note_parameter(backend, data[position + 5 : end])
            if head is not None and isinstance(head.effect, Withheld) and head.effect.holds:
                passed = False
            elif not hidden:
                session.note_told(name, value)
                session.noted |= TAG_REPORTED
        elif kind == codes.NOTICE_RESPONSE:
            if passed and PREFIX in data[position:end]:
                replaced = restore_names(data[position:end], _name_finder(session))
        elif kind == codes.NOTIFICATION_RESPONSE:
            passed = session.wants(data[position:end])
        elif kind == codes.COPY_IN_RESPONSE or kind == codes.COPY_BOTH_RESPONSE:
            exchange.copy_in_begins()
        else:
            if kind == _COMPLETE:
                if exchange.copying:
                    exchange.copy_ends()
                tag = data[position + 5 : position + 8]
                if tag in NOTABLE and passed:
                    note = NOTABLE[tag]
                    session.noted |= note
                    if note & NEEDS_A_LOOK and (session.tracks or note == TAG_LOAD):
                        stickiness.note_tag(session, backend, note, data[position + 5 : end - 1])
                if head is not None and isinstance(head.effect, Inserted):
                    head.effect.completed()
            if head is None or not _ANSWERS[kind]:
                ended = _OUT_OF_STEP
                break
            if exchange.unanswered_syncs and head.kind < 2:
                exchange.begin_answer()
            if head is A_STANDING_IN_SEGMENT and kind == codes.CLOSE_COMPLETE:
                replaced = PARSE_COMPLETE_MESSAGE
                entries[0] = A_SEGMENT
            elif head.kind > 1:
                if head.kind == 5 and isinstance(head.effect, Describing):
                    head.effect.heard(kind, data[position + 5 : end])
                    passed = not hidden or kind in head.effect.shows
                if exchange.completes(kind):
                    exchange.complete()
                    if head.reply:
                        replaced = bytes((head.reply,)) + data[position + 1 : end]
                elif kind not in _PRECEDES.get(head.kind, b""):
                    ended = _OUT_OF_STEP
                    break
        if not passed or replaced:
            if kept < position:
                pieces.append(data[kept:position])
            if replaced:
                pieces.append(replaced)
            kept = end
        position = end
    if position < total and ended is None and not _may_begin_so(data[position:]):
        ended = _OUT_OF_STEP
    if ended is not None:
        if kept < position:
            pieces.append(data[kept:position])
        if pieces:
            session.tell(b"".join(pieces))
        if answered and session.tracks and not session.pins and exchange.is_settled and backend.status == codes.IDLE:
            # The client has its whole answer; what follows it is nobody's, and so is this backend from now on.
            session.lose_backend(backend)
            if session.held & STALLED:
                session.release_hold(STALLED)
            return
        session.backend_failed(backend, ended)
        return
    if position >= total:
        backend.need = position - total
        if backend.need > LARGEST_MESSAGE:
            session.backend_failed(backend, _OUT_OF_STEP)
            return
        if kept < total:
            pieces.append(data[kept:])
    else:
        backend.need = 0
        backend.tail = data[position:]
        if kept < position:
            pieces.append(data[kept:position])
    if answered and pieces and backend.status == _IDLE and answers_late(session):
        _tell_late(session, backend, b"".join(pieces), answered)
        return
    if pieces:
        session.tell(pieces[0] if len(pieces) == 1 else b"".join(pieces))
    if answered:
        _answered(session, backend, answered)
    elif session.held & STALLED:
        session.release_hold(STALLED)


# Everything that can answer a message, and what comes before the completing answer of each kind.
_ANSWERS: Final = table_of(b"TtnI123sVcHCDd")
_PRECEDES: Final = {6: b"", 5: b"t", 7: b"DdcHV"}


def _name_finder(session: "Session") -> Callable[[bytes], bytes | None]:
    names = session.names
    return (lambda name: None) if names is None else names.name_of


def _lost(session: "Session", backend: Backend) -> None:
    """The server closed the connection."""
    if backend.said_fatal:
        session.backend_failed(backend, None)  # it has just told the client why
        return
    session.backend_failed(
        backend,
        BackendUnavailable(
            "server closed the connection unexpectedly",
            detail="This probably means the server terminated abnormally before or while processing the request.",
        ),
    )


bind_constants(__name__)

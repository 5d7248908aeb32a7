"""The care for a backend whose client left, or which may not be given back yet.

    cancel what runs -> let it end -> roll back -> undo what was left -> give it back

Each step has the same limit; a backend that does not come clean in time is closed. While a cancel request for it is on
its way the backend is nobody else's: it would hit the next client's query.
"""

from typing import TYPE_CHECKING, Final

from pgdoorman.backend.connection import Backend
from pgdoorman.backend.inquiry import Inquiry, Rows, note_parameter
from pgdoorman.backend.reset import DISCARD_ALL, FORGETS_STATEMENTS, RETIRES, reseed_sql, undo_sql
from pgdoorman.backend.settings import DEFAULTS
from pgdoorman.client.stickiness import NEEDS_A_LOOK, NOTABLE, TAG_LOAD, TAG_WROTE, Marks
from pgdoorman.errors import PgDoormanError
from pgdoorman.pool.pool import Pool
from pgdoorman.prepared.rewrite import query_message
from pgdoorman.protocol import codes
from pgdoorman.protocol.exchange import A_SYNC, QUERY, Expected
from pgdoorman.protocol.framing import LARGEST_MESSAGE, length_at, message
from pgdoorman.runtime.poller import READ, WRITE
from pgdoorman.runtime.timers import Timer
from pgdoorman.runtime.worker import Worker
from pgdoorman.transport.sockets import DONT_WAIT

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE: Final = 5.0  # seconds for each step
_ROLLBACK: Final = query_message(b"ROLLBACK")
_COPY_FAIL: Final = message(codes.COPY_FAIL, b"the client has left\0")
_NO_MARKS: Final = Marks()


class Farewell:
    """Holds one backend until it is clean, then gives it back to its pool; or discards it."""

    __slots__ = (
        "_backend",
        "_deliver",
        "_marks",
        "_passing",
        "_pool",
        "_reported",
        "_reset_done",
        "_suspect",
        "_timer",
        "_worker",
    )

    def __init__(
        self,
        backend: Backend,
        pool: Pool,
        worker: Worker,
        *,
        passing: bool = False,
        marks: Marks = _NO_MARKS,
        deliver: "Callable[[Backend], object] | None" = None,
    ) -> None:
        self._backend = backend
        self._pool = pool
        self._worker = worker
        self._passing = passing
        self._marks = marks
        self._deliver = deliver
        self._timer: Timer | None = None
        self._reset_done = False
        self._suspect = False  # what it did while nobody listened any more
        self._reported = backend.reported

    def __repr__(self) -> str:
        return f"<Farewell of {self._backend!r}>"

    def begin(self) -> None:
        """Take the backend over from its client; on the backend's worker."""
        backend = self._backend
        backend.holder = self
        if self._pool.functions.sequences_are_read:
            backend.attention = True  # it may have drawn from some
        self._pool.ledger.hold(backend)
        if backend.close_wanted or self._passing or backend.exchange.unanswered_syncs:
            # Half a message was sent: the server waits for the rest of it, and nobody can say what it was.
            self._discard()
            return
        self._worker.poller.change(backend.fd, 1 | (WRITE if backend.out else 0))  # it may have been congested
        if backend.exchange.is_settled and not backend.need and not backend.tail:
            self._settled()
            return
        self._timer = self._worker.after(PATIENCE, self._discard)
        if backend.exchange.copying:
            backend.push(_COPY_FAIL)
            backend.exchange.mark_copy_end()
        if backend.exchange.unsynced:
            self._end_segment(backend)
        if backend.exchange.entries and self._deliver is not None:
            self._deliver(backend)

    def _end_segment(self, backend: Backend) -> None:
        """Undo what the client began and never synced, as a server does whose client leaves; then the Sync, without which
        it would skip or hold what follows. (While it skips it ignores the ROLLBACK, and so does the exchange.)"""
        # A COPY may be about to begin, and would take the ROLLBACK for a broken protocol; outside of one a CopyFail is ignored.
        backend.exchange.mark_copy_end()
        backend.exchange.ask_query(Expected(QUERY, hidden=True))
        backend.exchange.ask(A_SYNC)
        backend.push(_COPY_FAIL + _ROLLBACK + codes.SYNC_MESSAGE)

    # Letting it end.

    def on_backend_readable(self, backend: Backend) -> None:
        """The same, when there is only something to read."""
        self.on_backend_event(backend, READ)

    def on_backend_event(self, backend: Backend, events: int) -> None:
        if events & WRITE and backend.out:
            backend.flush()
        try:
            data = backend.recv(262144, DONT_WAIT)
        except BlockingIOError:
            return
        except OSError:
            self._discard()
            return
        if not data or not self._drain(backend, data):
            self._discard()
            return
        if backend.exchange.is_settled and not backend.tail and not backend.need:
            self._settled()

    def on_notification(self, backend: Backend, message: bytes) -> None:
        """Nobody listens any more."""

    def on_backend_crash(self, backend: Backend, error: Exception) -> None:
        self._discard()

    def _drain(self, backend: Backend, data: bytes) -> bool:
        """Read on without a client. False if the server is out of step."""
        exchange = backend.exchange
        backend.bytes_in += len(data)
        if backend.tail:
            data = backend.tail + data
            backend.tail = b""
        total = len(data)
        position = backend.need
        while total - position >= 5:
            kind = data[position]
            length = length_at(data, position + 1)[0]
            if not 4 <= length <= LARGEST_MESSAGE:
                return False
            end = position + 1 + length
            if kind in b"Dd":
                position = end
                continue
            if end > total:
                break
            if kind == codes.READY_FOR_QUERY:
                backend.status = data[position + 5]
                if not exchange.ready():
                    return False
            elif kind == codes.ERROR_RESPONSE:
                exchange.error()
            elif kind == codes.COPY_IN_RESPONSE:
                exchange.copy_in_begins()
                backend.push(_COPY_FAIL)
                exchange.mark_copy_end()
                if exchange.unsynced:
                    self._end_segment(backend)
            elif kind == codes.PARAMETER_STATUS:
                note_parameter(backend, data[position + 5 : end])
            else:
                if kind == codes.COMMAND_COMPLETE:
                    note = NOTABLE.get(data[position + 5 : position + 8], 0)
                    looks = NEEDS_A_LOOK if self._pool.functions.writes_are_harmless else NEEDS_A_LOOK | TAG_WROTE
                    self._suspect = self._suspect or bool(note & looks)
                    backend.close_wanted = backend.close_wanted or note == TAG_LOAD
                if exchange.completes(kind):
                    exchange.complete()
            position = end
        if position > total:
            backend.need = position - total
        else:
            backend.need = 0
            backend.tail = data[position:]
        return True

    # Coming clean.

    def on_cancel_delivered(self, backend: Backend) -> None:
        """A cancel request that was under way has arrived (or never will)."""
        if backend.is_open and backend.exchange.is_settled and backend.holder is self:
            self._settled()

    def _settled(self) -> None:
        backend = self._backend
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if backend.cancels_under_way:
            self._timer = self._worker.after(PATIENCE, self._discard)
            return
        if backend.close_wanted:
            self._discard()
        elif backend.status != codes.IDLE:
            Inquiry(backend, "ROLLBACK", PATIENCE, self._rolled_back)
        else:
            self._reset()

    def _rolled_back(self, backend: Backend, rows: Rows, error: PgDoormanError | None) -> None:
        if error is not None or backend.status != codes.IDLE:
            self._discard()
        else:
            self._reset()

    def _reset(self) -> None:
        backend = self._backend
        marks = self._marks
        if self._reset_done:
            self._pool.checkin(backend, self._worker)
        elif not marks.pins.isdisjoint(RETIRES):
            self._discard()
        elif marks.suspect or self._suspect or "settings" in marks.pins or backend.reported is not self._reported:
            # Nobody knows what it left: everything goes, and a seed, which stays otherwise. (Not in one Query: DISCARD ALL
            # stands alone.)
            Inquiry(backend, f"RESET ROLE; {reseed_sql()}", PATIENCE, self._role_reset)
        elif sql := undo_sql(marks.pins):
            Inquiry(backend, sql, PATIENCE, self._was_reset)
        else:
            self._pool.checkin(backend, self._worker)

    def _role_reset(self, backend: Backend, rows: Rows, error: PgDoormanError | None) -> None:
        if error is not None:
            self._discard()
        else:
            Inquiry(backend, DISCARD_ALL, PATIENCE, self._discarded_all)

    def _discarded_all(self, backend: Backend, rows: Rows, error: PgDoormanError | None) -> None:
        if error is None:
            backend.names.clear()
            backend.unnamed = None
            backend.settings = DEFAULTS
            backend.sequences_of = 0
        self._was_reset(backend, rows, error)

    def _was_reset(self, backend: Backend, rows: Rows, error: PgDoormanError | None) -> None:
        if error is not None or backend.status != codes.IDLE:
            self._discard()
            return
        if self._marks.pins & FORGETS_STATEMENTS:
            backend.names.clear()
        self._reset_done = True
        self._settled()

    def _discard(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        backend = self._backend
        if backend.is_open:
            backend.holder = None
            self._pool.discard(backend, self._worker)

"""A connected client: its socket, what it holds, and how it comes and goes.

A session belongs to one worker at a time. Its socket and buffers are in `stream`; what it says is heard in `serving`, what
its backend says in `relay`; here are the first look at what comes, the lease, and the end.

                                   granted
        IDLE --- first message ---> (waiting) ---> LEASED --- transaction over ---> IDLE
                                        |             |
                                        refused       the client leaves: `farewell` takes the backend
"""

import errno
import logging
from collections.abc import Callable, Collection, Iterable
from functools import partial
from time import monotonic
from typing import Any, Final

from pgdoorman.backend.connection import Backend
from pgdoorman.backend.settings import DEFAULTS, MOST_REPORTED, Reported, SessionSettings, reported_of
from pgdoorman.client import relay, serving, stickiness
from pgdoorman.client.cancel_keys import CancelKey
from pgdoorman.client.cancelling import Cancelled, is_overdue, submit
from pgdoorman.client.closing import error_message
from pgdoorman.client.detours import FOLLOW, Detour
from pgdoorman.client.farewell import Farewell
from pgdoorman.client.holds import BACKLOGGED, CARE, CONGESTED, GONE, WAITING
from pgdoorman.client.services import Services
from pgdoorman.client.serving import BEGINS_SEGMENT, LOCAL_STARTS, serve_query, serve_segment
from pgdoorman.client.stream import ClientStream
from pgdoorman.config.settings import PoolMode, UserPoolSettings
from pgdoorman.constants import bind_constants
from pgdoorman.errors import BackendUnavailable, PgDoormanError, ProtocolViolation, ShuttingDown
from pgdoorman.pool.pool import Pool
from pgdoorman.prepared.client_names import ClientNames
from pgdoorman.protocol import codes
from pgdoorman.protocol.codes import QUERY, SYNC_MESSAGE
from pgdoorman.protocol.framing import length_at
from pgdoorman.protocol.results import error_response, parameter_status
from pgdoorman.runtime.poller import HANG_UP, NOTHING, READ, WRITE
from pgdoorman.runtime.worker import Worker
from pgdoorman.stats.counters import TrafficCounters
from pgdoorman.transport.peer import Peer
from pgdoorman.transport.sockets import DONT_WAIT, close_quietly

log = logging.getLogger(__name__)

READ_SIZE: Final = 16384
LARGE_READ_SIZE: Final = 65536

# What `Session.fast` says besides 0: the client has no prepared statements, or it may have some.
SIMPLE: Final = 1
EXTENDED: Final = 2


class Session(ClientStream):
    """One client that is logged in, on its worker's thread."""

    __slots__ = (
        "add_single",
        "add_wait",
        "address",
        "ahead",
        "application_name",
        "backend",
        "begin",
        "cancel_key",
        "check",
        "connected_at",
        "connected_time",
        "counters",
        "custom_names",
        "dismissed",
        "errors",
        "heard_at",
        "hearing",
        "id",
        "idle_here",
        "in_line",
        "lease_number",
        "lease_reported",
        "ledger",
        "loading",
        "local_sets",
        "names",
        "noted",
        "pins",
        "pool",
        "pooling",
        "queries",
        "query_began",
        "recent",
        "release_due",
        "remaps",
        "resets_always",
        "set_tags",
        "singles",
        "skipping",
        "stand",
        "startup_settings",
        "suspect",
        "swap",
        "take",
        "tls",
        "told",
        "tracks",
        "transaction_began",
        "transactions",
        "unknown_calls",
        "version",
        "waiting_since",
        "wanted",
        "worker_index",
    )

    def __init__(
        self,
        number: int,
        sock: Any,
        peer: Peer,
        pool: Pool,
        services: Services,
        *,
        told: Reported,
        settings: SessionSettings = DEFAULTS,
        version: int = codes.PROTOCOL_3_0,
        application_name: str = "",
        tls: str = "",
    ) -> None:
        self.id = number
        super().__init__(sock, services)
        self.address = peer
        self.version = version
        self.application_name = application_name
        self.tls = tls
        self.cancel_key: CancelKey | None = None
        self.connected_at = self.heard_at = monotonic()
        self.worker_index = -1
        self.skipping = False
        self.dismissed: PgDoormanError | None = None
        # The lease.
        self.backend: Backend | None = None
        self.begin: bytes | None = None
        self.waiting_since = 0.0
        self.in_line = False
        self.lease_number = 0
        self.query_began = 0.0
        self.transaction_began = 0.0
        # What is this client's own.
        self.names: ClientNames | None = None
        self.wanted = settings
        self.startup_settings = settings
        self.told = told
        self.pins: frozenset[str] = frozenset()
        self.suspect = 0
        self.noted = 0
        self.set_tags = 0
        self.local_sets = 0
        self.custom_names: set[str] = set()
        self.loading: tuple[str, ...] = ()  # libraries that texts on their way may load
        self.ahead: tuple[str, ...] = ()  # statements that each backend has to run first
        self.hearing: Any = None  # of a client that listens; see `listening`
        self.unknown_calls: set[bytes] = set()
        self.recent = b""
        self.lease_reported: Reported | None = None
        self.release_due = False
        # Numbers.
        self.singles = 0  # transactions of one query; the others are counted apart
        self.queries = 0
        self.transactions = 0
        self.errors = 0
        self.join(pool)

    def __repr__(self) -> str:
        return f"<Session #c{self.id} {self.pool.user}@{self.pool.database} {self.address} held={self.held:#x}>"

    def join(self, pool: Pool) -> None:
        """Be served by this pool, under its settings."""
        self.pool = pool
        self.ledger = pool.ledger
        # Bound methods of the pool's, and of this worker's counters: one or two attribute loads less for each query.
        self.take, self.stand, self.swap = pool.take, pool.stand, pool.swap
        # Where a query has to be compared with another text first, the hot branch of `on_event` is not taken: only who
        # has set such a text pays for it.
        self.check = pool.check if pool.check.is_special else None
        self._adopt(pool.settings)
        self.noted = 0
        if self.tracks:
            self.suspect |= stickiness.restlessness(pool.functions)
        if self.worker_index >= 0:
            self._settle_at(self.worker_index)

    def _settle_at(self, index: int) -> None:
        """Be counted where this worker counts for our pool."""
        self.worker_index = index
        self.counters: TrafficCounters = self.pool.counters[index]
        self.add_single = self.counters.single_times.add
        self.add_wait = self.counters.wait_times.add
        self.idle_here = self.ledger.idle_at(index)

    def follow(self) -> None:
        """The settings have changed: from the next checkout on be served by the pool that bears our names now, under its
        settings; without one, leave. A client that is busy notes it (`FOLLOW`) and does so when its transaction is over."""
        if self.held & GONE:
            return
        if self.held & WAITING:
            # It keeps its place in the line. It may be granted a backend, and moved, at any moment: then that transaction's
            # end sees the note, if it was there in time. A pool that was removed refuses its waiters itself.
            self._note_follow()
            if self.held & WAITING:
                return
        if not self.worker.is_current:
            self.worker.post(self.follow)
            return
        pool = self.services.pool_of(self.pool.database, self.pool.user)
        if pool is None:
            self.dismiss(ShuttingDown("database removed"))
        elif self.backend is not None or self.held:
            self._note_follow()
        else:
            if self.dismissed is FOLLOW:
                self.dismissed = None
            self.join(pool)
            self.refresh()

    def _note_follow(self) -> None:
        if self.dismissed is None:
            self.dismissed = FOLLOW
        self.fast = 0

    def _adopt(self, settings: UserPoolSettings) -> None:
        mode = settings.pool_mode
        self.pooling = mode
        transactional = mode is not PoolMode.SESSION
        # Who has statements under names of ours keeps them when the mode changes: the server knows no others.
        self.remaps = (transactional and settings.prepared_statements) or self.names is not None
        self.resets_always = settings.server_reset_always
        self.tracks = transactional and settings.cleanup_server_connections

    @property
    def lease_token(self) -> int:
        """This lease among all of the process."""
        return self.id << 48 | self.lease_number << 32 | (self.singles & 0xFFFFFFFF)

    @property
    def planning_is_private(self) -> bool:
        """Whether a text may mean something else here than to other clients with the same settings."""
        return bool(self.suspect & stickiness.HIDDEN_STATE or self.set_tags or self.pins)

    # Coming.

    def begin_serving(self, worker: Worker, greeting: bytes, rest: bytes = b"", backend: Backend | None = None) -> None:
        """Be at home at `worker`, on whose thread this runs. `rest` is what the client has sent behind its login; `backend`,
        if it is to have one from now on, has its settings and is watched here."""
        self.worker = worker
        self._settle_at(worker.index)
        worker.load += 1
        worker.watch(self.fd, self.on_event)
        if backend is not None:
            backend.holder = self
            backend.attention = False
            backend.leased_at = monotonic()
            self.backend = backend
            self.lease_number += 1
            self.lease_reported = backend.reported
        if greeting:
            self.tell(greeting)
        if rest:
            serving.serve(self, rest)
        self.refresh()

    # Hearing.

    def on_event(self, worker: Worker, events: int) -> None:
        """The poller's handler. The first branch is the hot one: one whole request from a client of which nothing is
        pending, a Query or a segment up to its Sync.

        Attributes are what costs here (some 35 ns each on 3.13t): this branch touches each of them once.
        """
        fast = self.fast
        if fast and events == READ:
            if worker is not self.worker:
                return  # it has moved away, and the event was collected before (a mover sets the worker first)
            try:
                data = self.recv(READ_SIZE, DONT_WAIT)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            total = len(data)
            if total < 6:
                serve_plainly = None
            elif data[0] == QUERY:
                serve_plainly = serve_query if fast == SIMPLE and length_at(data, 1)[0] == total - 1 else None
            else:
                whole = fast == EXTENDED and data[-5:] == SYNC_MESSAGE and BEGINS_SEGMENT[data[0]]
                serve_plainly = serve_segment if whole else None
            if serve_plainly is not None:
                backend = self.backend
                if backend is not None:
                    if not self.query_began:
                        self.query_began = monotonic()
                    serve_plainly(self, backend, data, total)
                    return
                if data[5:8] not in LOCAL_STARTS:
                    backend = self.take(self.worker_index) if self.idle_here else None
                    if backend is None:
                        self.input = data
                        self.held = WAITING
                        self.fast = 0
                        self.waits_plainly = fast
                        if not self.stand(self, monotonic()):
                            self.ask_backend(data)
                        return
                    self.transaction_began = self.query_began = now = backend.leased_at = monotonic()
                    reported = backend.reported
                    if (
                        backend.settings is not self.wanted
                        or reported is not self.told
                        or backend.attention
                        or backend.worker is not worker
                    ):
                        self._lease(backend, now, data)
                        return
                    self.lease_reported = reported
                    backend.holder = self
                    self.backend = backend
                    serve_plainly(self, backend, data, total)
                    return
            self.fast = 0
            if data:
                serving.serve(self, data)
                self.refresh()
            else:
                self.lost()
            return
        self._hear(worker, events)

    def refresh(self) -> None:
        """See whether the hot branch of `on_event` may be taken. Nothing is done for a client that waits, or did and was
        taken along by another worker: it is not ours. (In this order: a mover sets the worker first, then ends the wait.)
        """
        if self.held & WAITING or not self.worker.is_current:
            return
        if not self.tracks or (
            self.held
            or self.input
            or self.gathered is not None
            or self.passing
            or self.skipping
            or self.begin is not None
            or self.ahead
            or self.out
            or self.dismissed is not None
            or self.check is not None
            or self.resets_always
            or self.suspect & stickiness.RESTLESS
        ):
            self.fast = 0
        else:
            self.fast = SIMPLE if self.names is None else EXTENDED

    def _hear(self, worker: Worker, events: int) -> None:
        if self.held & WAITING:
            # While it waits it may be granted a backend, and moved, by another worker at any moment.
            if self.ledger.while_waiting(self, partial(self._hear_waiting, events)):
                self.held &= ~WAITING
                self._end()
            return
        if worker is not self.worker:
            return
        if events & ~READ:
            if events & WRITE and self.out:
                self._flush()
            if not events & READ:
                if events & HANG_UP:
                    self.lost()
                return
        try:
            data = self.recv(READ_SIZE if self.gathered is None and not self.passing else LARGE_READ_SIZE, DONT_WAIT)
        except BlockingIOError:
            return
        except OSError:
            self.lost()
            return
        if not data:
            self.lost()
            return
        if self.held:
            self._keep(data)
            return
        if self.input or self.gathered is not None:
            self._add(data)
        else:
            serving.serve(self, data)
        self.refresh()

    def _add(self, data: bytes) -> None:
        gathered = self.gathered
        if gathered is None:
            data = self.input + data
            self.input = b""
            serving.serve(self, data)
            return
        gathered += data
        if len(gathered) >= self.gather_size:
            whole = bytes(gathered)
            self.stop_gathering()
            del gathered  # not twice in memory while it is dealt with
            serving.serve(self, whole)

    def release_hold(self, reason: int) -> None:
        """Listen again if that was the only reason, beginning with what was kept."""
        if not self.held & reason:
            return
        self.held &= ~reason
        if reason == CARE:
            self.tell_kept()
        if self.held:
            return
        if not self.reading:
            self.listen_again()
        if self.gathered is not None:
            self._add(b"")
        elif self.input:
            data, self.input = self.input, b""
            serving.serve(self, data)
        elif self.dismissed is not None:
            self.dismiss(self.dismissed)
        self.refresh()

    def _on_congestion(self) -> None:
        backend = self.backend
        if backend is not None:
            # Not read until the client has taken what it brought before.
            self.worker.poller.change(backend.fd, WRITE if backend.out else NOTHING)

    def _on_relief(self) -> None:
        backend = self.backend
        if backend is not None and backend.is_open:
            self.worker.poller.change(backend.fd, READ | WRITE if backend.out else READ)
        leaving = self.dismissed
        if leaving is not None and leaving is not FOLLOW and self.backend is None and not self.held & ~CONGESTED:
            self.dismiss(leaving)  # it has taken its last answer
            return
        self.release_hold(CONGESTED)
        self.refresh()

    # The lease.

    def ask_backend(self, data: bytes) -> None:
        """A backend is needed for `data`; deal with it as soon as there is one. The last thing that a caller does: from
        the moment when we stand in the line another worker may grant us one, and take us with it."""
        pool, worker, now = self.pool, self.worker, monotonic()
        self.input = data
        self.held |= WAITING
        self.fast = 0
        backend, errands = self.ledger.checkout(self, self.worker_index, now)
        if backend is not None:
            self.waits_plainly = 0
            self.held &= ~WAITING
            self.input = b""
            self._lease(backend, now, data)
        elif errands is not None:
            pool.run(errands, worker)

    def _hear_waiting(self, events: int) -> bool:
        """Read ahead from a client that waits, and send what it had not taken; under the ledger's lock. True if it has
        hung up."""
        if events & WRITE and self.out:
            self._flush_waiting()
        if not events & ~WRITE:
            return False
        try:
            data = self.recv(READ_SIZE, DONT_WAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True
        if data:
            self._keep(data)
        return not data

    def move_to(self, worker: Worker) -> bool:
        """Have our backend's worker for home: cheaper than waking the other one, and no socket of the backend has to
        move. Unless that would leave the other with nothing to do."""
        present = self.worker
        if worker.load > present.load + (present.load >> 2) + 2:
            return False
        present.poller.unwatch(self.fd)
        present.load -= 1
        worker.load += 1
        self.worker = worker
        self._settle_at(worker.index)
        worker.poller.watch(
            self.fd, self.on_event, (READ if self.reading else NOTHING) | (WRITE if self.out else NOTHING)
        )
        return True

    def _is_elsewhere(self, call: Callable[[], Any]) -> bool:
        """For what others ask of us through an inbox: whether we have moved since. Then it is asked again there. A client
        that waits is made to wait no longer first, since it could be moved at any moment; False if that was so."""
        ours = self.ledger.abandon(self) if self.held & WAITING else self.worker.is_current
        if not ours:
            self.worker.post(call)
        return not ours

    def granted(self, backend: Backend) -> None:
        """The pool has a backend for us, after a wait."""
        fast = self.waits_plainly
        if fast and self.held == WAITING:
            # Hot: one whole request waited, and nothing has happened since.
            self.waits_plainly = 0
            self.held = 0
            data, self.input = self.input, b""
            worker = self.worker
            self.transaction_began = self.query_began = now = backend.leased_at = monotonic()
            self.add_wait(now - self.waiting_since)
            if backend.worker is not worker:
                backend.move_to(worker)
            reported = backend.reported
            if backend.settings is not self.wanted or reported is not self.told or backend.attention or self.dismissed:
                self._lease(backend, now, data)
                self.refresh()
                return
            self.lease_reported = reported
            backend.holder = self
            self.backend = backend
            self.fast = fast
            if fast == SIMPLE:
                serve_query(self, backend, data, len(data))
            else:
                serve_segment(self, backend, data, len(data))
            return
        self.waits_plainly = 0
        if self.held & GONE or not self.held & WAITING:
            # The client left, or was refused, while the grant was on its way. It has to be ours before it can be given
            # back: its home is where its poller is.
            backend.move_to(self.worker)
            self.pool.checkin(backend, self.worker)
            if self.dismissed is not None:
                self.dismiss(self.dismissed)
            return
        now = monotonic()
        self.add_wait(now - self.waiting_since)
        self.held &= ~WAITING
        data, self.input = self.input, b""
        if not self.reading:
            self.listen_again()
        self._lease(backend, now, data)
        self.refresh()

    def refused(self, reason: PgDoormanError) -> None:
        """There is no backend for us: say so, and skip what belongs to the same request, as a server would."""
        self.waits_plainly = 0
        if self.held & GONE or not self.held & WAITING:
            return
        self.held &= ~WAITING
        serving.refuse(self, reason)
        self.refresh()

    def _lease(self, backend: Backend, now: float, data: bytes) -> None:
        if backend.worker is not self.worker:
            backend.move_to(self.worker)
        backend.holder = self
        self.backend = backend
        backend.leased_at = self.transaction_began = self.query_began = now
        self.lease_number += 1
        self.noted = 0
        self.release_due = False
        if (
            backend.settings is not self.wanted
            or backend.reported is not self.told
            or self.begin is not None
            or self.ahead
            or backend.attention
        ):
            stickiness.prepare(self, backend, now, data)
            return
        self.lease_reported = backend.reported
        serving.serve_leased(self, backend, data)

    def serve_leased(self, backend: Backend, data: bytes) -> None:
        """Go on with what the client says, now that its backend is ready for it."""
        if not self.reading:
            self.listen_again()
        serving.serve_leased(self, backend, data)

    def run_ahead(self, backend: Backend) -> None:
        """Have a backend load what this client has loaded."""
        self.load_ahead(backend, self.ahead)

    def load_ahead(self, backend: Backend, loads: Iterable[str]) -> None:
        """Have a backend load what of this it has not. (Each on its own: what cannot be loaded any more is left out.)"""
        for statement in loads:
            if statement not in backend.loaded:
                backend.loaded.add(statement)
                backend.attention = True
                stickiness.ask_hidden(backend, statement)

    def take_up(self, backend: Backend, channels: Collection[str], then: Callable[[], Any]) -> None:
        """This is what the client listens to on its backend: let it hear that without one, if that can be. Then go on."""
        if self.services.listen is None or self.pins != {stickiness.LISTEN_PIN}:
            then()
            return
        self.services.listen(self)
        self.take_up(backend, channels, then)

    def wants(self, notification: bytes) -> bool:
        """Whether a notification on its backend is for the client, and not a leftover of another."""
        return not self.tracks or stickiness.LISTEN_PIN in self.pins or bool(self.suspect & ~stickiness.RESTLESS)

    def refuse(self, reason: PgDoormanError) -> None:
        """Answer the request at the head of the input with an error."""
        serving.refuse(self, reason)

    def transaction_over(self, backend: Backend, now: float) -> None:
        """The last ReadyForQuery said idle and nothing is outstanding: count, look at what must stick, give it back."""
        if self.passing:
            self.release_due = True  # the client is still sending a message that the server no longer wants
            return
        self.transaction_began = now
        if self.pooling is PoolMode.SESSION:
            if self.noted & stickiness.TAG_RESET and self.startup_settings is not DEFAULTS:
                self.noted = 0
                stickiness.restore_defaults(self, backend)
                return
            if self.dismissed is not None:
                self.dismiss(self.dismissed)
            return
        if (self.suspect or self.noted or self.pins) and not stickiness.may_leave(self, backend):
            return
        self.give_back(backend, now)

    def give_back(self, backend: Backend, now: float) -> None:
        """Check a clean backend in."""
        self.backend = None
        backend.holder = None
        if self.out:
            # It was not to be read until the client had taken its data; but it is not this client's any more.
            self.worker.poller.change(backend.fd, READ | WRITE if backend.out else READ)
        if backend.cancels_under_way or backend.close_wanted or self.resets_always:
            marks = stickiness.Marks(suspect=self.resets_always)
            Farewell(backend, self.pool, self.worker, marks=marks).begin()
        else:
            waiter, errands = self.swap(backend, self.worker_index, now)
            if waiter is not None:
                self.pool.grant(waiter, backend, self.worker)
            elif errands is not None:
                self.pool.run(errands, self.worker)
        if self.dismissed is not None:
            self.dismiss(self.dismissed)

    @property
    def said_nothing(self) -> bool:
        """Whether the client has not asked anything since its login."""
        return not (self.queries or self.singles or self.input or self.passing or self.gathered)

    def give_way(self) -> None:
        """Somebody waits for a backend. A client of session pooling that has had one since its login, and has not said
        anything yet, can do without it."""
        backend = self.backend
        if backend is None or self.held or not (self.said_nothing and self.worker.is_current):
            return
        if backend.exchange.is_settled and backend.is_clean and not backend.out:
            self.give_back(backend, monotonic())

    # What the backend does.

    def on_backend_event(self, backend: Backend, events: int) -> None:
        """Our backend's socket is ready."""
        if events & WRITE and backend.out:
            if backend.flush():
                if self.out:
                    self.worker.poller.change(backend.fd, NOTHING)
                self.release_hold(BACKLOGGED)
            if not events & ~WRITE:
                return
        relay.relay(self, backend)

    on_backend_readable = relay.relay

    def on_notification(self, backend: Backend, message: bytes) -> None:
        """Something that the client listens for came while we were talking to its backend."""
        if not self.held & GONE:
            self.tell(message)

    def on_backend_crash(self, backend: Backend, error: Exception) -> None:
        """An accident in handling our backend's answer: neither side can be trusted to be in step."""
        self.backend_failed(backend, BackendUnavailable("internal error; the connection to the server was given up"))

    def backend_failed(self, backend: Backend, error: PgDoormanError | None) -> None:
        """The connection to the server is lost or unusable. The client's transaction went with it, so it is told
        (unless the server's own FATAL has just told it) and closed, as PostgreSQL would have."""
        self.backend = None
        backend.holder = None
        self.pool.discard(backend, self.worker)
        if error is not None and not self.held & GONE:
            self._tell_error(error_message(error, "FATAL"))
        self._end()

    def lose_backend(self, backend: Backend) -> None:
        """Close a backend that cannot be trusted any more, between two transactions: the client need not know."""
        self.query_began = 0.0
        self.backend = None
        backend.holder = None
        self.pool.discard(backend, self.worker)

    def sync_told(self, backend: Backend) -> None:
        """Tell the client of every reported parameter whose value differs from what it was told."""
        told = self.told.by_name
        news = [(name, value) for name, value in backend.reported.by_name.items() if told.get(name) != value]
        self.told = backend.reported
        if news:
            self.tell(b"".join(parameter_status(name, value) for name, value in news))

    def note_told(self, name: str, value: str) -> None:
        """The client has just been told this."""
        told = self.told.by_name
        before = told.get(name)
        if before != value and (before is not None or len(told) < MOST_REPORTED):
            self.told = reported_of({**told, name: value})
            if self.pool.settings.log_client_parameter_status_changes:
                who = f"[{self.pool.user}@{self.pool.database} #c{self.id}]"
                log.info("%s %s: %s -> %s", who, name, before, value)

    # Cancel.

    def cancel(self, done: Callable[[], Any], asked: float = 0.0) -> None:
        """A cancel request with our key, on our worker's thread. `done` is called (on any thread) when it has been dealt
        with; `asked` is when it came (monotonic seconds), 0 for now. It reaches the query that runs now or none."""
        if self._is_elsewhere(partial(self.cancel, done, asked)):
            return
        backend = self.backend
        asked = asked or monotonic()
        if is_overdue(asked, self.pool.settings):
            pass
        elif self.held & WAITING:
            self.held &= ~WAITING
            serving.refuse(self, Cancelled("canceling statement due to user request"))
            self.refresh()
        elif backend is not None and backend.exchange.awaits_hidden_query:
            # What we have put in front (a BEGIN, the client's settings) must not be hit: the query behind it is meant.
            self.worker.after(0.005, partial(self.cancel, done, asked))
            return
        elif (
            backend is not None
            and backend.exchange.entries
            and backend.process_id
            and submit(backend, self.worker, self.services.helpers, self.pool.settings, asked=asked, done=done)
        ):
            return
        done()

    def on_cancel_delivered(self, backend: Backend) -> None:
        """A cancel request for our backend has arrived, or never will."""
        if self.suspect & stickiness.POSTPONED and not backend.cancels_under_way:
            stickiness.audit(self, backend)

    # Going.

    def _tell_error(self, message: bytes) -> None:
        self.counters.count_error(message)
        self.tell(message)

    def lost(self) -> None:
        """The client's connection is gone, or it said goodbye."""
        self._end()

    def violate(self, violation: ProtocolViolation) -> None:
        """The client broke the protocol: tell it and close, as PostgreSQL does."""
        self._tell_error(error_message(violation))
        self._end()

    def dismiss(self, reason: PgDoormanError) -> None:
        """Send the client away: at once if it is between transactions and has taken its last answer, else when that is
        so. A `Detour` does not send it away."""
        if isinstance(reason, Detour):
            reason.take(self)
            return
        if self._is_elsewhere(partial(self.dismiss, reason)) or self.held & GONE:
            return
        self.dismissed = reason
        self.fast = 0
        backend = self.backend
        if self.held & WAITING:
            self.held &= ~WAITING
        elif backend is not None:
            between = backend.is_clean and backend.exchange.is_settled and not self.pins and not self.passing
            if not between and not (self.pins and backend.is_clean):
                return
        elif self.held & CARE:
            return  # asked again when that is over
        elif self.begin is not None:
            return  # a block that has been begun, though no backend knows of it yet
        if self.out and self.backend is None:
            return  # asked again when it has taken that: what is unsent when we close is lost
        self._tell_error(error_message(reason, "FATAL"))
        self._end()

    def detach(self) -> Any:
        """Be over without a word, and leave the connection, which goes on without us, to the caller. Returns the socket."""
        self.held |= GONE
        self.fast = 0
        self.stop_gathering()
        self.worker.load -= 1
        self.worker.unwatch(self.fd)
        # An event that was collected before is not to find anything: what comes now is for somebody else.
        self.recv = self.send = _taken_away
        self.input = b""
        return self.sock

    def dismiss_later(self, reason: PgDoormanError) -> None:
        """Send the client away when its present transaction is over, or its next one if it is in none."""
        if self._is_elsewhere(partial(self.dismiss_later, reason)) or self.held & GONE:
            return
        if self.backend is not None or self.held:
            self.dismiss(reason)
        else:
            self.dismissed = reason
            self.fast = 0

    def expel(self, reason: PgDoormanError) -> None:
        """Close the client now, in a transaction or not."""
        if self._is_elsewhere(partial(self.expel, reason)) or self.held & GONE:
            return
        self.held &= ~WAITING
        self._tell_error(error_message(reason, "FATAL"))
        self._end()

    def on_crash(self, error: Exception) -> None:
        """The worker's guard: handling this client went wrong."""
        if not self.held & GONE:
            self._tell_error(error_response("internal error", sqlstate="XX000", severity="FATAL"))
            self._end()

    def _end(self) -> None:
        if self.held & GONE:
            return
        waiting = self.held & WAITING
        self.held |= GONE
        self.fast = 0
        self.stop_gathering()
        self.worker.load -= 1
        self.worker.unwatch(self.fd)
        if waiting:
            self.ledger.abandon(self)  # if False, `granted` finds us gone and checks the backend in
        if self.backend is not None and not self.held & CARE:
            self.part_from(self.backend)
        # With an inquiry of ours under way the backend is parted from when that has ended.
        if self.out:
            self._last_words()
        close_quietly(self.sock)
        self.input = b""
        self.out = bytearray()
        self.services.session_ended(self)

    def part_from(self, backend: Backend) -> None:
        """The client is gone: have its backend cared for."""
        marks = stickiness.marks_of(self)
        self.backend = None
        if backend.is_open:
            Farewell(
                backend, self.pool, self.worker, passing=bool(self.passing), marks=marks, deliver=self._cancel_rest
            ).begin()

    def care_for(self, backend: Backend, marks: stickiness.Marks) -> None:
        """Give up a backend that has to be cleaned first."""
        Farewell(backend, self.pool, self.worker, marks=marks).begin()

    def _cancel_rest(self, backend: Backend) -> None:
        """Nobody waits for what the backend still does."""
        if backend.process_id:
            submit(backend, self.worker, self.services.helpers, self.pool.settings, asked=monotonic())


def _taken_away(*_: Any) -> Any:
    raise OSError(errno.EBADF, "the connection belongs to another process")


bind_constants(__name__)

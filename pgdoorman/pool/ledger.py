"""Who has which backend of one pool, who waits, and what may be opened. Decisions only.

Every public method takes the lock, makes one small change, and settles: `_settle_locked` is the only place where
waiters meet backends. It returns errands, which the caller runs after the lock is released: grants, closings, openings,
refusals. (In an earlier trial only a checkout could ask for a new backend; a failed opening or a dirty checkin then
starved the waiters. Here every change settles.)

                     checkout / grant
           IDLE  ------------------------>  LEASED
            | ^ <------------------------   |
    examine | | pass       checkin          | discard
            v |                             v
          EXAMINED ------- discard ------> (gone)

A backend is IDLE at the worker that used it last (its home), on that worker's stack: a checkout by the home worker
touches no poller. EXAMINED means that someone other than a client looks at it (a hang-up, a liveness probe, a reset);
it counts against the limit but is granted to nobody.

Strict FIFO: while anyone waits, a backend that comes free goes to the oldest waiter, never to a newcomer; among waiters
of different workers within ten milliseconds (`waiting_line.BLUR`).
"""

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, Protocol

from pgdoorman.constants import bind_constants
from pgdoorman.pool.errands import Errands
from pgdoorman.pool.patient_lock import PatientLock
from pgdoorman.pool.waiting_line import Standing, WaitingLine

NEW: Final = 0
IDLE: Final = 1
LEASED: Final = 2
EXAMINED: Final = 3
GONE: Final = 4


NOTHING: Final = (None, None)

DOOMED: Final = -1  # the epoch of a backend that is to be closed when it comes back


class Entry(Protocol):
    """What the ledger needs of a backend. `place` and `idle_since` are the ledger's own; nobody else writes them."""

    place: int
    home: int  # index of the worker whose poller watches it
    epoch: int  # RECONNECT makes all earlier epochs obsolete
    idle_since: float
    attention: bool  # something has to be done before the next client gets it
    expires_at: float  # end of its lifetime, monotonic seconds


@dataclass(frozen=True, slots=True)
class LedgerStatistics:
    """Counts at one moment; they add up by construction."""

    idle: int
    leased: int
    examined: int
    opening: int
    waiting: int
    oldest_wait: float  # seconds, 0 if nobody waits
    paused: bool

    @property
    def total(self) -> int:
        return self.idle + self.leased + self.examined


class Ledger[E: Entry, W: Standing]:
    """The ledger of one pool. `limit` backends at most, `parallel_openings` being opened at a time; as long as fewer than
    the share `warm` (0..1) of the limit are there, `eager_openings` at a time if that is more. `retry_delay` is seconds
    between openings that fail."""

    def __init__(
        self,
        limit: int,
        workers: int,
        *,
        minimum: int = 0,
        parallel_openings: int = 2,
        eager_openings: int = 0,
        warm: float = 0.0,
        round_robin: bool = False,
        retry_delay: float = 1.0,
    ) -> None:
        self._lock = PatientLock()
        self._attempt = self._lock.attempt
        self._acquire = self._lock.acquire
        self._release = self._lock.release
        self._choosy = round_robin  # or paused: `take` leaves the decision to `checkout`
        self._strict = False  # closed, or more members than the limit: a checkin has to look
        self._limit = limit
        self._minimum = minimum
        self._parallel_openings = parallel_openings
        self._eager_openings = max(eager_openings, parallel_openings)
        self._warm = warm
        self._round_robin = round_robin
        self._retry_delay = retry_delay
        self._idle: list[deque[E]] = [deque() for _ in range(workers)]
        self._examined = 0
        self._members: set[E] = set()
        self._opening = 0
        self._waiters: WaitingLine[W] = WaitingLine(workers)
        self._open_not_before = 0.0
        self._fill_not_before = 0.0  # the same for backends that nobody waits for
        self._permit_not_before = 0.0  # the database's connections are all taken
        self._paused = False
        self._closed = False
        self._closed_for: object = None
        self.epoch = 0

    # What clients do.

    def idle_at(self, worker: int) -> Collection[E]:
        """Those that are idle at a worker: whether there are any may be asked without the lock, for a first guess."""
        return self._idle[worker]

    def take(self, worker: int) -> E | None:
        """The hot half of `checkout`: a backend that is idle at the asking worker, or None, which decides nothing.

        Where one is idle nobody waits, or the settling would have granted it. Spelled out with acquire and release: the
        `with` statement costs as much again.
        """
        if not self._attempt(False):
            self._acquire()
        own = self._idle[worker]
        if own and not self._choosy:
            entry = own.pop()
            entry.place = LEASED
            self._release()
            return entry
        self._release()
        return None

    def checkout(self, waiter: W, worker: int, now: float) -> tuple[E | None, Errands[E, W] | None]:
        """A backend at once, or None and a place at the end of the queue.

        The first result is the leased backend; if it is None the waiter will get a grant or a refusal later. `worker`
        is the index of the asking worker, whose own idle backends are preferred. A closed pool refuses at once.
        """
        if not self._attempt(False):
            self._acquire()
        try:
            if not self._waiters.count and not self._paused and any(self._idle):
                entry = self._take_idle_locked(worker)
                entry.place = LEASED
                return entry, None
            if self._closed:
                return None, Errands(refusals=[(waiter, self._closed_for)])
            self._waiters.join(waiter, now)
            if len(self._members) >= self._limit and not any(self._idle):
                return NOTHING  # full and busy, the usual case of those who wait: nothing to settle
            return None, self._settle_locked(now)
        finally:
            self._release()

    @property
    def someone_waits(self) -> bool:
        """At this moment; asked without the lock."""
        return self._waiters.count > 0

    def has_room(self) -> bool:
        """Whether a checkout would be answered soon: a backend is idle, or one more may be opened, and nobody waits."""
        with self._lock:
            if self._waiters.count or self._paused or self._closed:
                return False
            return any(self._idle) or len(self._members) + self._opening < self._limit

    def stand(self, waiter: W, now: float) -> bool:
        """The hot half of `checkout` for those who wait: stand in the line if that is all there is to do. False, which
        decides nothing, if a backend is idle or may be opened, or the pool is closed."""
        if not self._attempt(False):
            self._acquire()
        if self._closed or len(self._members) < self._limit or any(self._idle):
            self._release()
            return False
        waiters = self._waiters
        waiter.waiting_since = now
        waiter.in_line = True
        waiters.lines[waiter.worker_index].append(waiter)  # `join`, without the call
        waiters.count += 1
        self._release()
        return True

    def abandon(self, waiter: W) -> bool:
        """Give up waiting. False if a grant or refusal is already on its way: the caller must accept it and, if it is a
        grant, check the backend in (it may have been granted a microsecond ago; ignoring it would lose it)."""
        with self._lock:
            return self._waiters.leave(waiter)

    def while_waiting(self, waiter: W, call: Callable[[], bool]) -> bool:
        """Make a short call while the waiter cannot be granted anything; if that says True, the waiter waits no longer,
        and neither grant nor refusal will come: True. False also if it did not wait any more: then it belongs to whoever
        granted it a backend, `call` was not made, and the caller must not touch it."""
        with self._lock:
            if not waiter.in_line or not call():
                return False
            return self._waiters.leave(waiter)

    def checkin(self, entry: E, worker: int, now: float) -> Errands[E, W] | None:
        """Take back a clean backend; its home is `worker` now. None if there is nothing to do."""
        waiter, errands = self.swap(entry, worker, now)
        return errands if waiter is None else Errands(grants=[(waiter, entry)])

    def swap(self, entry: E, worker: int, now: float) -> tuple[W | None, Errands[E, W] | None]:
        """The hot form of `checkin`: where somebody waits, the first result is who gets the backend."""
        if not self._attempt(False):
            self._acquire()
        waiters = self._waiters
        if waiters.count:
            if not (self._strict or self._choosy or entry.epoch != self.epoch):
                # Straight to a waiter: through the idle stack and settling it would cost twice as much. (Where and since
                # when it is idle is of no interest: it is not.)
                waiter = waiters.next_for(worker)
                self._release()
                return waiter, None
        elif not (self._strict or now > entry.expires_at):
            entry.home = worker
            entry.place = IDLE
            entry.idle_since = now
            self._idle[worker].append(entry)
            self._release()
            return NOTHING
        self._release()
        return None, self._checkin_carefully(entry, worker, now)

    def _checkin_carefully(self, entry: E, worker: int, now: float) -> Errands[E, W] | None:
        with self._lock:
            entry.home = worker
            if entry.epoch != self.epoch or self._closed or (now > entry.expires_at and not self._waiters.count):
                return self._remove_locked(entry, now)
            if len(self._members) > self._limit:  # it was lowered
                errands = self._remove_locked(entry, now)
                self._strict = self._closed or len(self._members) > self._limit
                return errands
            if self._waiters.count and not self._paused:
                chosen = self._waiters.next_for(worker)
                entry.idle_since = now
                return Errands(grants=[(chosen, entry)])
            self._strict = self._closed
            entry.place = IDLE
            entry.idle_since = now
            self._idle[worker].append(entry)
            return None

    def discard(self, entry: E, now: float) -> Errands[E, W]:
        """Forget a backend that broke or must not be used again. The caller owns it (leased or examined)."""
        with self._lock:
            if entry.place == GONE:
                return Errands()
            return self._remove_locked(entry, now)

    # What others do with idle backends.

    def examine(self, entry: E, worker: int) -> bool:
        """Claim an idle backend for a look at it. False if it is not idle at `worker` (any more): hands off.

        Called by the home worker when the socket of a backend that nobody leases becomes readable; the event may be
        stale, since another worker may have checked the backend out meanwhile.
        """
        with self._lock:
            if entry.place != IDLE or entry.home != worker:
                return False
            self._idle[worker].remove(entry)
            entry.place = EXAMINED
            self._examined += 1
            return True

    def hold(self, entry: E) -> None:
        """A leased backend is no longer a client's but still busy (a reset, a cancel under way)."""
        with self._lock:
            if entry.place == LEASED:
                entry.place = EXAMINED
                self._examined += 1

    def release(self, entry: E, worker: int, now: float) -> Errands[E, W] | None:
        """An examined backend is fit for use: as `checkin`."""
        with self._lock:
            if entry.place == EXAMINED:
                entry.place = LEASED
                self._examined -= 1
        return self.checkin(entry, worker, now)

    def take_idle(self, now: float, idle_limit: float, at_most: int) -> list[E]:
        """Remove up to `at_most` idle backends, the longest idle of each worker first, that passed their lifetime or have
        been idle for more than `idle_limit` seconds (0 = no such limit) while more than the minimum are there. The caller
        closes them."""
        taken: list[E] = []
        with self._lock:
            for stack in self._idle:
                for entry in list(stack):
                    if len(taken) >= at_most:
                        return taken
                    expired = now > entry.expires_at or entry.epoch != self.epoch
                    spare = len(self._members) > self._minimum
                    if expired or (idle_limit and spare and now - entry.idle_since > idle_limit):
                        stack.remove(entry)
                        self._members.discard(entry)
                        entry.place = GONE
                        taken.append(entry)
        return taken

    # What openers do.

    def opened(self, entry: E, worker: int, now: float) -> Errands[E, W]:
        """A backend is ready for use; it goes to the oldest waiter or becomes idle at `worker`."""
        with self._lock:
            self._opening -= 1
            if self._closed or entry.epoch != self.epoch or len(self._members) >= self._limit:
                # Obsolete, or the limit was lowered meanwhile.
                entry.place = GONE
                errands = self._settle_locked(now) or Errands()
                errands.closings.append(entry)
                return errands
            self._members.add(entry)
            self._open_not_before = self._fill_not_before = 0.0
            entry.home = worker
            entry.place = IDLE
            entry.idle_since = now
            self._idle[worker].append(entry)
            return self._settle_locked(now) or Errands()

    def opening_failed(self, reason: object, now: float, *, final: bool) -> Errands[E, W]:
        """An opening came to nothing. With `final` and no backend left, every waiter is refused with `reason` at once;
        otherwise they keep waiting and another opening is tried after the retry delay."""
        with self._lock:
            self._opening -= 1
            self._open_not_before = self._fill_not_before = now + self._retry_delay
            errands: Errands[E, W] = Errands()
            if final and not self._members:
                errands.refusals = [(waiter, reason) for waiter in self._waiters.all()]
                # Nobody waits: let the next client's request try at once rather than hear of an old failure. What is
                # opened for nobody keeps the delay.
                self._open_not_before = 0.0
            return errands

    def opening_postponed(self, until: float) -> None:
        """An opening was not begun (no permit, no credentials yet); not to be tried before `until`."""
        with self._lock:
            self._opening -= 1
            self._open_not_before = max(self._open_not_before, until)
            self._fill_not_before = max(self._fill_not_before, until)

    def opening_not_permitted(self, until: float) -> None:
        """An opening was not begun, since the pool's users share connections with others. To be tried again at `until`, or
        after `openings_permitted`. Unlike a failure this does not hold up the pool for its retry delay."""
        with self._lock:
            self._opening -= 1
            self._permit_not_before = until

    def openings_permitted(self) -> None:
        """There may be room now."""
        with self._lock:
            self._permit_not_before = 0.0

    # What is given up in favour of another pool.

    def evict(self, keep: int, eligible: Callable[[E], bool]) -> E | None:
        """Remove the longest idle backend for which `eligible` says yes, while more than `keep` are there. The caller
        closes it."""
        with self._lock:
            if len(self._members) <= keep:
                return None
            idle = sorted((entry for stack in self._idle for entry in stack), key=lambda entry: entry.idle_since)
            entry = next(filter(eligible, idle), None)
            if entry is not None:
                self._idle[entry.home].remove(entry)
                self._members.discard(entry)
                entry.place = GONE
            return entry

    def doom(self, keep: int, eligible: Callable[[E], bool]) -> bool:
        """Have one leased backend, for which `eligible` says yes, closed when it comes back, if more than `keep` are there
        and stay. False if there is none."""
        with self._lock:
            if len(self._members) - self._doomed_locked() <= keep:
                return False
            for entry in self._members:
                if entry.place == LEASED and entry.epoch == self.epoch and eligible(entry):
                    entry.epoch = DOOMED
                    entry.expires_at = 0.0  # the one thing that a checkin looks at
                    return True
            return False

    @property
    def doomed(self) -> int:
        """How many were doomed and have not come back."""
        with self._lock:
            return self._doomed_locked()

    def _doomed_locked(self) -> int:
        return sum(entry.epoch == DOOMED for entry in self._members)

    # What the janitor and the operator do.

    def tick(self, now: float) -> Errands[E, W]:
        """Settle, and open up to the minimum; not during a pause, in which the server may be away."""
        with self._lock:
            errands = self._settle_locked(now) or Errands()
            lacking = self._minimum - len(self._members) - self._opening
            held_up = now < self._fill_not_before or now < self._permit_not_before
            if lacking > 0 and not (self._closed or self._paused or held_up):
                room = self._limit - len(self._members) - self._opening
                more = min(lacking, self._parallel_locked() - self._opening, room)
                if more > 0:
                    self._opening += more
                    errands.openings += more
            return errands

    def settle(self, now: float) -> Errands[E, W]:
        """Settle, without opening up to the minimum."""
        with self._lock:
            return self._settle_locked(now) or Errands()

    def expire_waiters(self, now: float, timeout: float, reason: object) -> Errands[E, W]:
        """Refuse those who have waited longer than `timeout` seconds. The queue is in order of arrival, so only its
        head is looked at."""
        errands: Errands[E, W] = Errands()
        with self._lock:
            while self._waiters.count and now - self._waiters.oldest() >= timeout:
                errands.refusals.append((self._waiters.first(), reason))
        return errands

    def mark_stale(self, now: float, idle_for: float) -> None:
        """Have backends that were idle for this many seconds looked at before a client gets one."""
        with self._lock:
            for stack in self._idle:
                for entry in stack:
                    if now - entry.idle_since > idle_for:
                        entry.attention = True

    def refuse_all(self, reason: object) -> Errands[E, W]:
        """Refuse everyone who waits."""
        with self._lock:
            refusals = [(waiter, reason) for waiter in self._waiters.all()]
        return Errands(refusals=refusals)

    def resize(self, limit: int, minimum: int, now: float) -> Errands[E, W]:
        """Change the limits; surplus idle backends are closed, leased ones when they come back."""
        with self._lock:
            self._limit = limit
            self._minimum = minimum
            errands = self._settle_locked(now) or Errands()
            while len(self._members) > limit and any(self._idle):
                # The longest idle one of the worker that has most: what is warm stays.
                entry = max(self._idle, key=len).popleft()
                self._members.discard(entry)
                entry.place = GONE
                errands.closings.append(entry)
            self._strict = self._closed or len(self._members) > limit
            return errands

    def configure(
        self, *, parallel_openings: int, eager_openings: int, warm: float, round_robin: bool, retry_delay: float
    ) -> None:
        """Change everything but the limits; see the class. What is under way is not touched."""
        with self._lock:
            self._parallel_openings = parallel_openings
            self._eager_openings = max(eager_openings, parallel_openings)
            self._warm = warm
            self._round_robin = round_robin
            self._choosy = self._paused or round_robin
            self._retry_delay = retry_delay

    def renew_lifetimes(self, expires_at: Callable[[E], float]) -> None:
        """Have every backend end when `expires_at` says (monotonic seconds), but for those that are obsolete already."""
        with self._lock:
            for entry in self._members:
                if entry.epoch == self.epoch:
                    entry.expires_at = expires_at(entry)

    def pause(self) -> None:
        """Grant nothing until `resume`; leases go on."""
        with self._lock:
            self._paused = self._choosy = True

    def resume(self, now: float) -> Errands[E, W]:
        """Grant again."""
        with self._lock:
            self._paused = False
            self._choosy = self._round_robin
            return self._settle_locked(now) or Errands()

    def reconnect(self, now: float) -> Errands[E, W]:
        """Make every present backend obsolete: idle ones are closed now, leased ones when they come back."""
        with self._lock:
            self.epoch += 1
            errands: Errands[E, W] = Errands(closings=self._drain_idle_locked())
            for entry in self._members:
                entry.expires_at = 0.0  # the one thing that a checkin looks at
            self._merge_locked(errands, now)
            return errands

    def close(self, reason: object) -> Errands[E, W]:
        """End of the pool: refuse the waiters and whoever comes later, close what is idle; leased backends are closed when
        they come back."""
        with self._lock:
            self._closed = self._strict = True
            self._closed_for = reason
            refusals = [(waiter, reason) for waiter in self._waiters.all()]
            return Errands(refusals=refusals, closings=self._drain_idle_locked())

    def statistics(self, now: float) -> LedgerStatistics:
        """Counts at this moment."""
        with self._lock:
            oldest = now - self._waiters.oldest() if self._waiters.count else 0.0
            idle = sum(map(len, self._idle))
            return LedgerStatistics(
                idle=idle,
                leased=len(self._members) - idle - self._examined,
                examined=self._examined,
                opening=self._opening,
                waiting=len(self._waiters),
                oldest_wait=max(0.0, oldest),
                paused=self._paused,
            )

    def members(self) -> list[E]:
        """Every backend of the pool at this moment."""
        with self._lock:
            return list(self._members)

    @property
    def is_empty(self) -> bool:
        """Nothing lives here, waits here or is being opened."""
        with self._lock:
            return not (self._members or self._waiters.count or self._opening)

    # Inside the lock.

    def _take_idle_locked(self, worker: int) -> E:
        own = self._idle[worker]
        if not own:
            # From the worker that has most to spare, its longest idle one: the newest are its warm ones.
            own = max(self._idle, key=len)
            entry = own.popleft()
        elif self._round_robin:
            entry = own.popleft()
        else:
            entry = own.pop()
        return entry

    def _settle_locked(self, now: float) -> Errands[E, W] | None:
        """Where waiters meet backends: grant in order while there is someone and something, then open what is lacking."""
        if not self._waiters.count:
            return None
        errands: Errands[E, W] = Errands()
        if not self._paused:
            while self._waiters.count and any(self._idle):
                waiter = self._waiters.first()
                entry = self._take_idle_locked(waiter.worker_index)
                entry.place = LEASED
                errands.grants.append((waiter, entry))
        held_up = now < self._open_not_before or now < self._permit_not_before
        if self._waiters.count and not (self._closed or self._paused or held_up):
            room = self._limit - len(self._members) - self._opening
            wanted = min(len(self._waiters) - self._opening, room, self._parallel_locked() - self._opening)
            if wanted > 0:
                self._opening += wanted
                errands.openings = wanted
        return errands or None

    def _parallel_locked(self) -> int:
        cold = len(self._members) < self._warm * self._limit
        return self._eager_openings if cold else self._parallel_openings

    def _merge_locked(self, errands: Errands[E, W], now: float) -> None:
        more = self._settle_locked(now)
        if more is not None:
            errands.grants += more.grants
            errands.openings += more.openings

    def _remove_locked(self, entry: E, now: float) -> Errands[E, W]:
        if entry.place == EXAMINED:
            self._examined -= 1
        self._members.discard(entry)
        entry.place = GONE
        errands = self._settle_locked(now) or Errands()
        errands.closings.append(entry)
        return errands

    def _drain_idle_locked(self) -> list[E]:
        drained: list[E] = []
        for stack in self._idle:
            drained += stack
            stack.clear()
        for entry in drained:
            entry.place = GONE
            self._members.discard(entry)
        return drained


bind_constants(__name__)

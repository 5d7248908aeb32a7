"""How the users of one database share its connections: `max_db_connections` and what goes with it.

A pool asks (`admit`) before it opens a backend, and each backend says so when it is closed (`released`): what is counted
are connections, and whoever holds one counts. Nobody asks on the way of a query.

Where all are taken, in this order:

1. who asks waits behind those that have asked before; a pool that has fewer backends than `min_guaranteed_pool_size`
   (it *starves*) goes in front;
2. an idle backend of another user is closed in its favour if that is older than `min_connection_lifetime` and its pool
   has more than it is guaranteed: of the pool with the slowest transactions, then of the one that has most to spare;
3. for one that starves, and finds no idle one, a busy backend is closed when it comes back;
4. whose client has waited for `reserve_pool_timeout` may take one of `reserve_pool_size` more.

Locks: a quota's own is never held while a pool's is taken, nor the other way round.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from threading import Lock
from typing import Protocol

from pgdoorman.config.settings import UserPoolSettings
from pgdoorman.pool.ledger import LedgerStatistics

# Seconds until a pool that was refused asks again by itself: just less than a round of the janitor.
RETRY = 0.045
# Who has not asked for this long does not want any more.
STALE = 1.0


@dataclass(frozen=True, slots=True)
class Terms:
    """What the owner wants for one database. Times are seconds; a maximum of 0 is no limit."""

    maximum: int = 0
    reserve: int = 0
    reserve_timeout: float = 0.0
    min_lifetime: float = 0.0
    guaranteed: int = 0


def terms_of(settings: UserPoolSettings) -> Terms:
    """They stand in every user's settings, and are the same for all of one database."""
    return Terms(
        maximum=settings.max_db_connections,
        reserve=settings.reserve_pool_size,
        reserve_timeout=settings.reserve_pool_timeout,
        min_lifetime=settings.min_connection_lifetime,
        guaranteed=settings.min_guaranteed_pool_size,
    )


class Member(Protocol):
    """A pool, as its quota sees it."""

    @property
    def minimum(self) -> int:
        """Backends that it is to keep."""

    @property
    def slowness(self) -> int:
        """The 95th percentile of its transactions' durations in the last period, microseconds."""

    def statistics(self) -> LedgerStatistics: ...

    def give_up_idle(self, keep: int, *, age: float = 0.0, idle: float = 0.0) -> bool:
        """Close one idle backend that is so old and has been idle for so long (seconds), if more than `keep` are there."""

    def give_up_busy(self, keep: int, *, age: float) -> bool:
        """The same for one that a client holds: it is closed when it comes back."""

    @property
    def giving_up(self) -> int:
        """How many are going to be closed so."""

    def open_again(self) -> None:
        """There may be room now."""


@dataclass(slots=True)
class _Hunger:
    """A pool that was refused."""

    since: float
    asked: float
    starves: bool

    @property
    def rank(self) -> tuple[bool, float]:
        return not self.starves, self.since


@dataclass(frozen=True, slots=True)
class QuotaStatistics:
    """Counts at one moment, and since the quota exists."""

    taken: int
    reserve_taken: int
    evictions: int
    reserve_acquisitions: int
    exhaustions: int


class Quota:
    """The connections of one database. Called by any thread."""

    def __init__(self, database: str, terms: Terms = Terms()) -> None:
        self.database = database
        self.terms = terms
        self._lock = Lock()
        self._members: list[Member] = []
        self._taken = 0
        self._hungry: dict[Member, _Hunger] = {}
        self._evictions = 0
        self._reserve_acquisitions = 0
        self._exhaustions = 0

    def __repr__(self) -> str:
        return f"<Quota of {self.database}: {self._taken} of {self.terms.maximum or 'any number'}>"

    # Who takes part.

    def join(self, member: Member) -> None:
        """From now on it can be asked to give something up."""
        with self._lock:
            self._members.append(member)

    def leave(self, member: Member) -> None:
        """It was removed. Its backends count until they are closed."""
        with self._lock:
            self._members = [other for other in self._members if other is not member]
            self._hungry.pop(member, None)

    @property
    def is_unused(self) -> bool:
        """Nobody takes part and nothing is taken."""
        with self._lock:
            return not self._members and not self._taken

    def apply(self, terms: Terms) -> None:
        """Other terms (reload)."""
        with self._lock:
            changed, self.terms = self.terms != terms, terms
            hungry = list(self._hungry) if changed else []
        for member in hungry:
            member.open_again()

    # Opening and closing.

    def admit(self, member: Member, now: float) -> bool:
        """Whether `member` may open one backend. Then that counts until `released` is called for it."""
        terms = self.terms
        if not terms.maximum:
            with self._lock:
                self._taken += 1
            return True
        present = member.statistics()
        with self._lock:
            starves = present.total < terms.guaranteed
            if self._take_locked(member, starves, terms, now):
                return True
            if not present.waiting:
                return False  # it only wants to fill up: nobody has to give way to that
            hunger = self._hungry.setdefault(member, _Hunger(now, now, starves))
            hunger.asked, hunger.starves = now, starves
            full = self._taken >= terms.maximum
            if full and present.oldest_wait >= terms.reserve_timeout and self._taken < terms.maximum + terms.reserve:
                self._taken += 1
                self._reserve_acquisitions += 1
                del self._hungry[member]
                return True
            others = [other for other in self._members if other is not member]
            starving = sum(one.starves for one in self._hungry.values())
        if not full:
            return False  # there is room, for somebody who has asked before
        if not self._evict(others, terms):
            if starves:
                self._demand(others, terms, starving)
            return False
        with self._lock:
            return self._take_locked(member, starves, terms, now)

    def _take_locked(self, member: Member, starves: bool, terms: Terms, now: float) -> bool:
        for other in [other for other, hunger in self._hungry.items() if now - hunger.asked > STALE]:
            del self._hungry[other]
        own = self._hungry.get(member)
        rank = (not starves, own.since if own is not None else now)
        ahead = sum(other is not member and hunger.rank < rank for other, hunger in self._hungry.items())
        if terms.maximum - self._taken <= ahead:
            return False
        self._taken += 1
        self._hungry.pop(member, None)
        return True

    def _evict(self, others: Iterable[Member], terms: Terms) -> bool:
        for victim in sorted(others, key=_by_slowness(terms)):
            if victim.give_up_idle(_kept(victim, terms), age=terms.min_lifetime):
                with self._lock:
                    self._evictions += 1
                return True
        return False

    def _demand(self, others: list[Member], terms: Terms, starving: int) -> None:
        if sum(victim.giving_up for victim in others) >= starving:
            return  # as many are on their way as are needed
        for victim in sorted(others, key=_by_slowness(terms)):
            if victim.give_up_busy(_kept(victim, terms), age=terms.min_lifetime):
                with self._lock:
                    self._evictions += 1
                return

    def released(self) -> None:
        """A backend that was admitted is closed, or was not opened after all."""
        with self._lock:
            self._taken -= 1
            room = self.terms.maximum - self._taken
            hungry = sorted(self._hungry, key=lambda member: self._hungry[member].rank)[: max(room, 0)]
        for member in hungry:
            member.open_again()

    # Refusals.

    def exhausted(self, member: Member, count: int) -> None:
        """So many of its clients have waited in vain."""
        with self._lock:
            if member in self._hungry:
                self._exhaustions += count

    def is_hungry(self, member: Member) -> bool:
        """Whether it was refused, and not admitted since."""
        return member in self._hungry

    # Care.

    def tick(self, now: float) -> None:
        """The janitor's part: what was taken beyond the maximum is given back when nobody needs it."""
        terms = self.terms
        if not terms.maximum or self._taken <= terms.maximum:
            return
        with self._lock:
            members = list(self._members)
            far_too_many = self._taken > terms.maximum + terms.reserve  # the maximum was lowered
        idle = 0.0 if far_too_many else terms.min_lifetime
        for member in sorted(members, key=_by_slowness(terms)):
            if self._taken <= terms.maximum:
                return
            member.give_up_idle(0 if far_too_many else member.minimum, idle=idle)

    def statistics(self) -> QuotaStatistics:
        """The numbers."""
        with self._lock:
            return QuotaStatistics(
                taken=self._taken,
                reserve_taken=max(0, self._taken - self.terms.maximum) if self.terms.maximum else 0,
                evictions=self._evictions,
                reserve_acquisitions=self._reserve_acquisitions,
                exhaustions=self._exhaustions,
            )


def _kept(victim: Member, terms: Terms) -> int:
    return max(victim.minimum, terms.guaranteed)


def _by_slowness(terms: Terms) -> Callable[[Member], tuple[int, int]]:
    def order(member: Member) -> tuple[int, int]:
        return -member.slowness, _kept(member, terms) - member.statistics().total

    return order

"""The ledger: whatever happens, and in whatever order, nobody is forgotten and no backend is in two hands."""

from typing import Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pgdoorman.pool.errands import Errands
from pgdoorman.pool.ledger import EXAMINED, GONE, IDLE, LEASED, NEW, Ledger
from pgdoorman.pool.waiting_line import BLUR

FOR_EVER: Final = float("inf")
REASON: Final = "reason"


class Entry:
    """As much of a backend as the ledger needs. It compares by identity, as backends do."""

    def __init__(self, epoch: int = 0, expires_at: float = FOR_EVER) -> None:
        self.place = NEW
        self.home = 0
        self.epoch = epoch
        self.idle_since = 0.0
        self.attention = False
        self.expires_at = expires_at

    def __repr__(self) -> str:
        return f"<Entry {id(self) & 0xFFFF:04x} place {self.place} home {self.home} epoch {self.epoch}>"


class Client:
    """As much of a waiting client as the ledger needs."""

    def __init__(self, worker_index: int = 0) -> None:
        self.waiting_since = -1.0
        self.in_line = False
        self.worker_index = worker_index


TheLedger = Ledger[Entry, Client]
TheErrands = Errands[Entry, Client]


def ledger_of(
    limit: int = 2,
    workers: int = 1,
    *,
    minimum: int = 0,
    parallel_openings: int = 10,
    round_robin: bool = False,
    retry_delay: float = 1.0,
) -> TheLedger:
    return Ledger(
        limit,
        workers,
        minimum=minimum,
        parallel_openings=parallel_openings,
        round_robin=round_robin,
        retry_delay=retry_delay,
    )


def waiting(ledger: TheLedger, worker: int = 0, now: float = 0.0) -> tuple[Client, TheErrands]:
    """A client that has to wait."""
    client = Client(worker)
    entry, errands = ledger.checkout(client, worker, now)
    assert entry is None
    return client, errands or Errands()


def filled(ledger: TheLedger, *homes: int, now: float = 0.0) -> list[Entry]:
    """One idle backend at each of these workers, opened for clients that gave up."""
    for client, errands in [waiting(ledger, home, now) for home in homes]:
        assert errands.openings == 1
        assert ledger.abandon(client)
    entries = [Entry(ledger.epoch) for _ in homes]
    for entry, home in zip(entries, homes, strict=True):
        assert not ledger.opened(entry, home, now)
    return entries


def leased(ledger: TheLedger, worker: int = 0, now: float = 0.0) -> Entry:
    """A backend that was idle, now with a client."""
    entry, errands = ledger.checkout(Client(worker), worker, now)
    assert entry is not None
    assert errands is None
    assert entry.place == LEASED
    return entry


# One thing at a time.


def test_the_first_client_has_a_backend_opened() -> None:
    ledger = ledger_of()
    client, errands = waiting(ledger, now=5.0)
    assert (errands.openings, errands.grants, errands.closings, errands.refusals) == (1, [], [], [])
    assert client.waiting_since == 5.0
    entry = Entry()
    errands = ledger.opened(entry, 0, 6.0)
    assert errands.grants == [(client, entry)]
    assert entry.place == LEASED
    assert ledger.statistics(6.0).leased == ledger.statistics(6.0).total == 1


def test_at_home_the_warmest_backend_is_taken() -> None:
    ledger = ledger_of(3)
    entries = filled(ledger, 0, 0, 0)
    assert ledger.take(0) is entries[2]
    assert leased(ledger) is entries[1]
    assert ledger.take(0) is entries[0]
    assert ledger.take(0) is None


def test_round_robin_takes_the_coldest() -> None:
    ledger = ledger_of(2, round_robin=True)
    entries = filled(ledger, 0, 0)
    assert ledger.take(0) is None, "that would be the warmest"
    assert leased(ledger) is entries[0]
    ledger.checkin(entries[0], 0, 1.0)
    assert leased(ledger) is entries[1]


def test_from_another_worker_the_coldest_of_the_richest_is_taken() -> None:
    ledger = ledger_of(4, 3)
    entries = filled(ledger, 1, 2, 2)
    assert ledger.take(0) is None
    assert leased(ledger, 0) is entries[1]
    assert ledger.checkin(entries[1], 0, 1.0) is None
    assert entries[1].home == 0
    assert ledger.take(0) is entries[1], "its home moved"


def test_who_comes_first_is_served_first() -> None:
    ledger = ledger_of(1)
    (entry,) = filled(ledger, 0)
    leased(ledger)
    clients = [waiting(ledger, now=float(number))[0] for number in range(5)]
    assert ledger.abandon(clients[2])
    for client in (clients[0], clients[1], clients[3], clients[4]):
        errands = ledger.checkin(entry, 0, 10.0)
        assert errands is not None
        assert errands.grants == [(client, entry)]
    assert ledger.checkin(entry, 0, 11.0) is None


def test_giving_up_after_the_grant_is_too_late() -> None:
    ledger = ledger_of(1)
    client, _ = waiting(ledger)
    entry = Entry()
    assert ledger.opened(entry, 0, 0.0).grants
    assert not ledger.abandon(client)
    assert not ledger.abandon(Client())
    assert ledger.checkin(entry, 0, 0.0) is None


def test_what_is_said_while_waiting() -> None:
    ledger = ledger_of(1)
    client, _ = waiting(ledger)
    called: list[bool] = []

    def call() -> bool:
        called.append(True)
        return len(called) > 1

    assert not ledger.while_waiting(client, call)
    assert ledger.statistics(0.0).waiting == 1
    assert ledger.while_waiting(client, call), "it hung up"
    assert not ledger.while_waiting(client, call), "it waits no longer"
    assert len(called) == 2
    assert ledger.statistics(0.0).waiting == 0


def test_openings_never_exceed_the_limit_nor_what_may_be_under_way() -> None:
    ledger = ledger_of(3, parallel_openings=2)
    under_way = sum(waiting(ledger)[1].openings for _ in range(10))
    assert under_way == 2
    assert ledger.opened(Entry(), 0, 0.0).openings == 1
    assert ledger.opened(Entry(), 0, 0.0).openings == 0
    assert ledger.opened(Entry(), 0, 0.0).openings == 0
    statistics = ledger.statistics(0.0)
    assert (statistics.leased, statistics.waiting, statistics.opening) == (3, 7, 0)


def test_a_cold_pool_opens_more_at_once() -> None:
    ledger: TheLedger = Ledger(10, 1, parallel_openings=1, eager_openings=3, warm=0.2)
    _, errands = waiting(ledger)
    assert errands.openings == 1
    assert sum(waiting(ledger)[1].openings for _ in range(4)) == 2, "three in all"
    assert ledger.opened(Entry(), 0, 1.0).openings == 1, "still cold: one of ten"
    assert ledger.opened(Entry(), 0, 1.0).openings == 0, "warm: one at a time, and two are under way"
    assert ledger.opened(Entry(), 0, 1.0).openings == 0
    assert ledger.opened(Entry(), 0, 1.0).openings == 1


def test_other_manners_hold_from_now_on() -> None:
    ledger = ledger_of(4, parallel_openings=1, retry_delay=1.0)
    entries = filled(ledger, 0)
    ledger.configure(parallel_openings=2, eager_openings=4, warm=0.0, round_robin=True, retry_delay=9.0)
    assert ledger.take(0) is None, "round robin leaves the choice to checkout"
    assert leased(ledger) is entries[0]
    assert sum(waiting(ledger)[1].openings for _ in range(3)) == 2
    ledger.opening_failed(REASON, 1.0, final=False)
    assert ledger.tick(9.0).openings == 0
    assert ledger.tick(10.1).openings == 1
    ledger.configure(parallel_openings=2, eager_openings=4, warm=0.0, round_robin=False, retry_delay=9.0)
    assert ledger.statistics(0.0).waiting == 3


def test_a_pause_outlives_other_manners() -> None:
    ledger = ledger_of(4)
    filled(ledger, 0)
    ledger.pause()
    ledger.configure(parallel_openings=1, eager_openings=1, warm=0.0, round_robin=False, retry_delay=1.0)
    assert ledger.take(0) is None
    ledger.resume(0.0)
    assert ledger.take(0) is not None


def test_other_lifetimes_spare_what_is_obsolete() -> None:
    ledger = ledger_of(4)
    idle, busy = filled(ledger, 0, 0)
    assert leased(ledger) is busy
    ledger.renew_lifetimes(lambda entry: 5.0)
    assert (idle.expires_at, busy.expires_at) == (5.0, 5.0)
    ledger.reconnect(1.0)
    ledger.renew_lifetimes(lambda entry: FOR_EVER)
    assert busy.expires_at == 0.0


def test_a_broken_backend_makes_room_for_those_who_wait() -> None:
    ledger = ledger_of(1)
    (entry,) = filled(ledger, 0)
    leased(ledger)
    client, errands = waiting(ledger)
    assert not errands
    errands = ledger.discard(entry, 1.0)
    assert errands.openings == 1
    assert errands.closings == [entry]
    assert not ledger.discard(entry, 1.0), "once is enough"
    fresh = Entry()
    assert ledger.opened(fresh, 0, 2.0).grants == [(client, fresh)]


def test_a_failed_opening_is_tried_again_after_a_while() -> None:
    ledger = ledger_of(1, retry_delay=1.0)
    waiting(ledger)
    assert not ledger.opening_failed(REASON, 10.0, final=False)
    assert not ledger.tick(10.9)
    assert not ledger.settle(10.9)
    assert waiting(ledger, now=10.9)[1].openings == 0
    assert ledger.tick(11.0).openings == 1
    assert ledger.statistics(11.0).waiting == 2


def test_a_final_failure_refuses_everyone_at_once() -> None:
    ledger = ledger_of(2, retry_delay=60.0)
    clients = [waiting(ledger)[0] for _ in range(3)]
    assert ledger.opening_failed(REASON, 1.0, final=True).refusals == [(client, REASON) for client in clients]
    assert not ledger.opening_failed(REASON, 1.0, final=True)
    assert waiting(ledger, now=1.1)[1].openings == 1, "the next one is not told an old failure"


def test_a_final_failure_refuses_nobody_while_others_can_be_had() -> None:
    ledger = ledger_of(2)
    (entry,) = filled(ledger, 0)
    leased(ledger)
    client, errands = waiting(ledger)
    assert errands.openings == 1
    assert not ledger.opening_failed(REASON, 1.0, final=True)
    errands_or_none = ledger.checkin(entry, 0, 1.1)
    assert errands_or_none is not None
    assert errands_or_none.grants == [(client, entry)]


def test_an_opening_that_was_not_begun() -> None:
    ledger = ledger_of(1)
    waiting(ledger)
    ledger.opening_postponed(5.0)
    assert ledger.statistics(0.0).opening == 0
    assert not ledger.tick(4.9)
    assert ledger.tick(5.0).openings == 1


def test_the_minimum_is_opened_ahead() -> None:
    ledger = ledger_of(5, minimum=3, parallel_openings=2)
    assert ledger.tick(0.0).openings == 2
    assert not ledger.tick(0.0)
    assert not ledger.opened(Entry(), 0, 0.0)
    assert ledger.tick(0.1).openings == 1
    assert not ledger.settle(0.1)
    ledger.opened(Entry(), 0, 0.1)
    ledger.opened(Entry(), 0, 0.1)
    assert not ledger.tick(0.2)
    assert ledger.statistics(0.2).idle == 3


def test_the_minimum_is_not_tried_faster_than_the_retry_delay() -> None:
    ledger = ledger_of(5, minimum=1, retry_delay=15.0)
    assert ledger.tick(0.0).openings == 1
    ledger.opening_failed(REASON, 0.1, final=True)
    assert not ledger.tick(0.2)
    assert not ledger.tick(15.0)
    assert ledger.tick(15.1).openings == 1


def test_a_pause_opens_nothing() -> None:
    ledger = ledger_of(5, minimum=2)
    ledger.pause()
    assert not ledger.tick(0.0)
    assert not waiting(ledger)[1]
    assert ledger.resume(1.0).openings == 1
    assert ledger.tick(1.0).openings == 1


def test_a_pause_grants_nothing() -> None:
    ledger = ledger_of(2, workers=2)
    idle, other = filled(ledger, 0, 0)
    assert ledger.take(0) is other
    ledger.pause()
    assert ledger.take(0) is None
    first, errands = waiting(ledger)
    second, _ = waiting(ledger, 1)
    assert not errands
    assert ledger.checkin(other, 0, 1.0) is None
    assert ledger.statistics(1.0).idle == 2
    assert ledger.statistics(1.0).paused
    errands = ledger.resume(2.0)
    assert [client for client, _ in errands.grants] == [first, second]
    assert {entry for _, entry in errands.grants} == {idle, other}
    assert not ledger.statistics(2.0).paused


def test_those_who_waited_too_long() -> None:
    ledger = ledger_of(1)
    clients = [waiting(ledger, now=float(number))[0] for number in range(4)]
    assert ledger.abandon(clients[1])
    assert not ledger.expire_waiters(4.9, 5.0, REASON)
    assert ledger.expire_waiters(7.0, 5.0, REASON).refusals == [(clients[0], REASON), (clients[2], REASON)]
    assert ledger.statistics(7.0).oldest_wait == 4.0
    assert ledger.refuse_all(REASON).refusals == [(clients[3], REASON)]
    assert ledger.statistics(7.0).oldest_wait == 0.0


def test_a_look_at_an_idle_backend() -> None:
    ledger = ledger_of(2, 2)
    first, second = filled(ledger, 0, 1)
    assert not ledger.examine(first, 1), "that is not its home"
    assert ledger.examine(first, 0)
    assert not ledger.examine(first, 0)
    assert first.place == EXAMINED
    assert leased(ledger) is second, "what is looked at is given to nobody"
    assert not ledger.examine(second, 1)
    client, errands = waiting(ledger)
    assert errands.openings == 0, "but it counts"
    errands_or_none = ledger.release(first, 0, 1.0)
    assert errands_or_none is not None
    assert errands_or_none.grants == [(client, first)]
    assert first.place == LEASED
    ledger.hold(first)
    ledger.hold(first)
    assert ledger.statistics(1.0).examined == 1
    assert ledger.discard(first, 1.0).closings == [first]
    assert ledger.statistics(1.0).examined == 0


def test_old_and_idle_backends_are_taken_out() -> None:
    ledger = ledger_of(4, minimum=1)
    entries = filled(ledger, 0, 0, 0, 0)
    for age, entry in enumerate(entries):
        entry.idle_since = float(age)
    assert ledger.take_idle(10.0, 20.0, 9) == []
    assert ledger.take_idle(10.0, 0.0, 9) == [], "no limit"
    entries[3].expires_at = 9.0
    assert ledger.take_idle(10.0, 8.5, 9) == [entries[0], entries[1], entries[3]]
    assert ledger.take_idle(100.0, 8.5, 9) == [], "the minimum stays"
    entries[2].expires_at = 99.0
    assert ledger.take_idle(100.0, 8.5, 9) == [entries[2]], "but not for ever"
    assert all(entry.place == GONE for entry in entries)
    assert ledger.is_empty


def test_as_many_as_were_asked_for() -> None:
    ledger = ledger_of(4)
    entries = filled(ledger, 0, 0, 0)
    assert ledger.take_idle(10.0, 1.0, 2) == entries[:2]


def test_a_backend_that_is_too_old_is_not_taken_back() -> None:
    ledger = ledger_of()
    (entry,) = filled(ledger, 0)
    leased(ledger)
    entry.expires_at = 5.0
    errands = ledger.checkin(entry, 0, 5.1)
    assert errands is not None
    assert errands.closings == [entry]


def test_reconnecting_replaces_every_backend() -> None:
    ledger = ledger_of(4, 2)
    idle, busy, examined = filled(ledger, 0, 1, 0)
    assert leased(ledger, 1) is busy
    assert ledger.examine(examined, 0)
    epoch = ledger.epoch
    assert ledger.reconnect(1.0).closings == [idle]
    for entry, give in ((busy, ledger.checkin), (examined, ledger.release)):
        errands = give(entry, 0, 2.0)
        assert errands is not None
        assert errands.closings == [entry]
    # One that was being opened meanwhile is obsolete as well, and is replaced.
    client, errands = waiting(ledger)
    assert errands.openings == 1
    late = Entry(epoch)
    errands = ledger.opened(late, 0, 3.0)
    assert (errands.closings, errands.openings) == ([late], 1)
    fresh = Entry(ledger.epoch)
    assert ledger.opened(fresh, 0, 4.0).grants == [(client, fresh)]


def test_a_smaller_pool() -> None:
    ledger = ledger_of(5)
    entries = filled(ledger, 0, 0, 0, 0)
    busy = [leased(ledger), leased(ledger)]
    errands = ledger.resize(1, 0, 1.0)
    assert errands.closings == entries[:2], "the longest idle ones go first"
    for entry in busy[:1]:
        back = ledger.checkin(entry, 0, 2.0)
        assert back is not None
        assert back.closings == [entry]
    assert ledger.checkin(busy[1], 0, 2.0) is None
    assert ledger.statistics(2.0).total == 1


def test_a_smaller_pool_shrinks_under_load() -> None:
    """There is always somebody waiting, and the surplus must go all the same."""
    ledger = ledger_of(2)
    filled(ledger, 0, 0)
    busy = [leased(ledger), leased(ledger)]
    client, _ = waiting(ledger)
    ledger.resize(1, 0, 1.0)
    errands = ledger.checkin(busy[0], 0, 2.0)
    assert errands is not None
    assert (errands.closings, errands.grants) == ([busy[0]], [])
    errands = ledger.checkin(busy[1], 0, 2.0)
    assert errands is not None
    assert errands.grants == [(client, busy[1])]


def test_a_backend_that_comes_too_late_for_a_smaller_pool() -> None:
    ledger = ledger_of(2)
    waiting(ledger)
    waiting(ledger)
    ledger.resize(1, 0, 1.0)
    assert ledger.opened(Entry(), 0, 2.0).grants
    surplus = Entry()
    assert ledger.opened(surplus, 0, 2.0).closings == [surplus]
    assert surplus.place == GONE


def test_a_larger_pool_serves_those_who_wait() -> None:
    ledger = ledger_of(1)
    filled(ledger, 0)
    leased(ledger)
    waiting(ledger)
    waiting(ledger)
    assert ledger.resize(3, 0, 1.0).openings == 2


def test_a_closed_pool() -> None:
    ledger = ledger_of(3)
    idle, busy = filled(ledger, 0, 0)
    assert leased(ledger) is busy
    leased(ledger)
    client, errands = waiting(ledger)
    assert errands.openings == 1
    ledger.checkin(idle, 0, 0.0)
    second, _ = waiting(ledger)
    errands = ledger.close(REASON)
    assert errands.refusals == [(second, REASON)]
    assert errands.closings == []
    assert not ledger.abandon(client)
    late, answer = ledger.checkout(Client(), 0, 1.0)
    assert late is None
    assert answer is not None
    assert [reason for _, reason in answer.refusals] == [REASON]
    opened = Entry()
    assert ledger.opened(opened, 0, 1.0).closings == [opened]
    for entry in (idle, busy):
        back = ledger.checkin(entry, 0, 1.0)
        assert back is not None
        assert back.closings == [entry]
    assert not ledger.tick(2.0)
    assert ledger.is_empty


def test_who_has_been_idle_for_long_is_looked_at_first() -> None:
    ledger = ledger_of(2)
    cold, warm = filled(ledger, 0, 0)
    cold.idle_since, warm.idle_since = 0.0, 9.0
    ledger.mark_stale(10.0, 5.0)
    assert cold.attention
    assert not warm.attention


# Anything in any order, against a model.


class Machine(RuleBasedStateMachine):
    """Keeps its own books, from nothing but what the ledger says, and compares."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.paused = self.closed = False
        self.idle: list[Entry] = []
        self.leases: list[Entry] = []
        self.examined: list[Entry] = []
        self.line: list[Client] = []
        self.opening: list[int] = []  # the epochs in which they began
        self.ceiling = 0

    @initialize(
        limit=st.integers(1, 4),
        minimum=st.integers(0, 3),
        workers=st.integers(1, 3),
        parallel=st.integers(1, 3),
        round_robin=st.booleans(),
    )
    def begin(self, limit: int, minimum: int, workers: int, parallel: int, round_robin: bool) -> None:
        self.limit = self.ceiling = limit
        self.workers = workers
        self.parallel = parallel
        self.ledger = ledger_of(
            limit, workers, minimum=minimum, parallel_openings=parallel, round_robin=round_robin, retry_delay=1.0
        )

    def _run(self, errands: TheErrands | None, *came_free: Entry) -> None:
        if errands is None:
            return
        for client, entry in errands.grants:
            assert not self.paused
            assert self.line.pop(0) is client, "not the one who came first"
            if entry in self.idle:
                self.idle.remove(entry)
            else:
                assert entry in came_free
            self._lease(entry)
        for client, reason in errands.refusals:
            assert reason is REASON
            self.line.remove(client)
        for entry in errands.closings:
            assert entry.place == GONE
            assert entry not in self.leases
            assert entry not in self.examined
            if entry in self.idle:
                self.idle.remove(entry)
        self.opening += [self.ledger.epoch] * errands.openings
        assert len(self.opening) <= self.parallel

    def _lease(self, entry: Entry) -> None:
        assert entry.place == LEASED
        assert entry not in self.leases, "in two hands"
        assert entry not in self.examined
        assert entry.epoch == self.ledger.epoch
        self.leases.append(entry)

    def _index(self, data: st.DataObject, things: list[Entry]) -> Entry:
        return things.pop(data.draw(st.integers(0, len(things) - 1)))

    def _worker(self, data: st.DataObject) -> int:
        return data.draw(st.integers(0, self.workers - 1))

    @rule(data=st.data(), hot=st.booleans())
    def check_out(self, data: st.DataObject, hot: bool) -> None:
        self.now += 2 * BLUR  # arrivals at different workers that lie closer together have no order
        worker = self._worker(data)
        if hot:
            taken = self.ledger.take(worker)
            if taken is not None:
                assert not self.line, "barged in front"
                assert not self.paused
                self.idle.remove(taken)
                self._lease(taken)
            return
        client = Client(worker)
        could_be_served = bool(self.idle) and not self.line and not self.paused
        entry, errands = self.ledger.checkout(client, worker, self.now)
        assert (entry is not None) == could_be_served
        if entry is not None:
            assert errands is None
            self.idle.remove(entry)
            self._lease(entry)
            return
        self.line.append(client)
        self._run(errands)

    @precondition(lambda self: self.line)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        client = self.line.pop(data.draw(st.integers(0, len(self.line) - 1)))
        assert self.ledger.abandon(client)
        assert not self.ledger.abandon(client)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def check_in(self, data: st.DataObject) -> None:
        self._give_back(self._index(data, self.leases), self._worker(data))

    def _give_back(self, entry: Entry, worker: int, *, examined: bool = False) -> None:
        obsolete = entry.epoch != self.ledger.epoch or self.closed
        give = self.ledger.release if examined else self.ledger.checkin
        errands = give(entry, worker, self.now)
        if entry.place == IDLE:
            assert not obsolete
            assert not self.line or self.paused
            assert entry.home == worker
            self.idle.append(entry)
        elif obsolete:
            assert entry.place == GONE
        self._run(errands, entry)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        entry = self._index(data, self.leases)
        self._run(self.ledger.discard(entry, self.now))
        assert not self.ledger.discard(entry, self.now)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        entry = self._index(data, self.leases)
        self.ledger.hold(entry)
        self.examined.append(entry)

    @rule(data=st.data())
    def hear_from_idle(self, data: st.DataObject) -> None:
        """An event of any backend, at any worker; stale ones too."""
        everyone = self.idle + self.leases + self.examined
        if not everyone:
            return
        entry = data.draw(st.sampled_from(everyone))
        worker = self._worker(data)
        claimed = self.ledger.examine(entry, worker)
        assert claimed == (entry in self.idle and entry.home == worker)
        if claimed:
            self.idle.remove(entry)
            self.examined.append(entry)

    @precondition(lambda self: self.examined)
    @rule(data=st.data(), fit=st.booleans())
    def examined_is_done(self, data: st.DataObject, fit: bool) -> None:
        entry = self._index(data, self.examined)
        if fit:
            self._give_back(entry, self._worker(data), examined=True)
        else:
            self._run(self.ledger.discard(entry, self.now))

    @precondition(lambda self: self.opening)
    @rule(data=st.data(), lifetime=st.sampled_from([0.5, 5.0, FOR_EVER]))
    def opens(self, data: st.DataObject, lifetime: float) -> None:
        entry = Entry(self.opening.pop(0), self.now + lifetime)
        worker = self._worker(data)
        errands = self.ledger.opened(entry, worker, self.now)
        if entry.place == IDLE:
            self.idle.append(entry)
        self._run(errands, entry)

    @precondition(lambda self: self.opening)
    @rule(final=st.booleans())
    def fails_to_open(self, final: bool) -> None:
        self.opening.pop(0)
        there = bool(self.idle or self.leases or self.examined)
        waiting_now = list(self.line)
        errands = self.ledger.opening_failed(REASON, self.now, final=final)
        refused = [client for client, _ in errands.refusals]
        assert refused == (waiting_now if final and not there else [])
        self._run(errands)

    @precondition(lambda self: self.opening)
    @rule()
    def postpones(self) -> None:
        self.opening.pop(0)
        self.ledger.opening_postponed(self.now + 0.5)

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self._run(self.ledger.tick(self.now))

    @rule()
    def settles(self) -> None:
        self._run(self.ledger.settle(self.now))

    @rule(timeout=st.sampled_from([0.5, 2.0, 10.0]))
    def waited_too_long(self, timeout: float) -> None:
        expired = [client for client in self.line if self.now - client.waiting_since >= timeout]
        errands = self.ledger.expire_waiters(self.now, timeout, REASON)
        assert [client for client, _ in errands.refusals] == expired
        self._run(errands)

    @rule(limit=st.sampled_from([0.0, 0.5, 2.0]), at_most=st.integers(1, 3))
    def clears_up(self, limit: float, at_most: int) -> None:
        taken = self.ledger.take_idle(self.now, limit, at_most)
        assert len(taken) <= at_most
        for entry in taken:
            self.idle.remove(entry)
            assert entry.place == GONE
            assert self.now > entry.expires_at or (limit and self.now - entry.idle_since > limit)
        self._run(self.ledger.tick(self.now))

    @rule(limit=st.integers(1, 5), minimum=st.integers(0, 3))
    def resizes(self, limit: int, minimum: int) -> None:
        self.limit = limit
        self._run(self.ledger.resize(limit, minimum, self.now))
        self.ceiling = max(limit, self._total())

    @rule()
    def pauses(self) -> None:
        self.ledger.pause()
        self.paused = True

    @precondition(lambda self: self.paused)
    @rule()
    def resumes(self) -> None:
        self.paused = False
        self._run(self.ledger.resume(self.now))

    @rule()
    def reconnects(self) -> None:
        self._run(self.ledger.reconnect(self.now))
        assert not self.idle

    @rule()
    def refuses_all(self) -> None:
        self._run(self.ledger.refuse_all(REASON))
        assert not self.line

    @precondition(lambda self: not self.closed)
    @rule(certain=st.integers(0, 9))
    def closes(self, certain: int) -> None:
        if certain == 0:
            self.closed = True
            self._run(self.ledger.close(REASON))
            assert not self.line
            assert not self.idle

    def _total(self) -> int:
        return len(self.idle) + len(self.leases) + len(self.examined)

    @invariant()
    def counts_add_up(self) -> None:
        if not hasattr(self, "ledger"):
            return
        found = self.ledger.statistics(self.now)
        assert found.idle == len(self.idle)
        assert found.leased == len(self.leases)
        assert found.examined == len(self.examined)
        assert found.opening == len(self.opening)
        assert found.waiting == len(self.line)
        assert found.total == self._total()
        assert found.paused == self.paused
        assert set(self.ledger.members()) == {*self.idle, *self.leases, *self.examined}
        assert self.ledger.is_empty == (not self._total() and not self.line and not self.opening)
        oldest = self.now - self.line[0].waiting_since if self.line else 0.0
        assert found.oldest_wait == oldest

    @invariant()
    def never_more_than_the_limit(self) -> None:
        """After the limit was lowered, never more than there were then; and it only shrinks."""
        if hasattr(self, "ledger"):
            assert self._total() <= self.ceiling
            self.ceiling = max(self.limit, min(self.ceiling, self._total()))

    @invariant()
    def nobody_waits_in_vain(self) -> None:
        if self.line and not self.paused:
            assert not self.idle
            assert not self.closed
        for entry in self.idle:
            assert entry.place == IDLE
            assert entry.epoch == self.ledger.epoch

    def teardown(self) -> None:
        """When every client does its work and every opening succeeds in the end, everyone is served."""
        if not hasattr(self, "ledger"):
            return
        if self.paused:
            self.resumes()
        for _ in range(200):
            if not self.line:
                break
            self.now += 1.0
            self._run(self.ledger.tick(self.now))
            if self.opening:
                entry = Entry(self.opening.pop(0))
                errands = self.ledger.opened(entry, 0, self.now)
                if entry.place == IDLE:
                    self.idle.append(entry)
                self._run(errands, entry)
            if self.leases:
                self._give_back(self.leases.pop(0), 0)
            if self.examined:
                self._give_back(self.examined.pop(0), 0, examined=True)
        assert not self.line, "somebody starves"


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_errands_are_true_when_there_is_something_to_do(count: int) -> None:
    assert bool(Errands(openings=count)) == bool(count)
    assert bool(Errands(refusals=[(1, "x")] * count)) == bool(count)

"""Sharing a database's connections: who may open one, who has to give one up, and that nothing is lost count of."""

import random
from collections.abc import Callable

import pytest

from pgdoorman.pool.ledger import LedgerStatistics
from pgdoorman.pool.quota import STALE, Quota, Terms


class FakePool:
    """A pool of made-up numbers. What it is asked to give up comes back at once if idle, at `come_back` if busy."""

    def __init__(self, quota: Quota, *, minimum: int = 0, slowness: int = 0) -> None:
        self.quota = quota
        self.minimum = minimum
        self.slowness = slowness
        self.idle: list[float] = []  # ages
        self.busy: list[float] = []
        self.giving_up = 0
        self.waiting = 1
        self.oldest_wait = 0.0
        self.called = 0
        quota.join(self)

    def statistics(self) -> LedgerStatistics:
        return LedgerStatistics(
            idle=len(self.idle), leased=len(self.busy), examined=0, opening=0,
            waiting=self.waiting, oldest_wait=self.oldest_wait, paused=False,
        )  # fmt: skip

    @property
    def total(self) -> int:
        return len(self.idle) + len(self.busy)

    def give_up_idle(self, keep: int, *, age: float = 0.0, idle: float = 0.0) -> bool:
        if self.total <= keep or max(self.idle, default=-1.0) < max(age, idle):
            return False
        self.idle.remove(max(self.idle))
        self.quota.released()
        return True

    def give_up_busy(self, keep: int, *, age: float) -> bool:
        if self.total - self.giving_up <= keep or max(self.busy, default=-1.0) < age:
            return False
        self.giving_up += 1
        return True

    def come_back(self) -> None:
        """One that was demanded is closed."""
        self.giving_up -= 1
        self.busy.pop()
        self.quota.released()

    def open_again(self) -> None:
        self.called += 1

    def ask(self, now: float = 0.0) -> bool:
        if not self.quota.admit(self, now):
            return False
        self.busy.append(1000.0)
        return True

    def rest(self) -> None:
        """Everything that is busy becomes idle."""
        self.idle, self.busy = self.idle + self.busy, []


def quota(maximum: int, **terms: float) -> Quota:
    return Quota("shop", Terms(maximum, **terms))  # type: ignore[arg-type]


def test_without_a_limit_everything_is_counted_and_nothing_refused() -> None:
    shared = quota(0)
    one = FakePool(shared)
    assert all(one.ask() for _ in range(100))
    assert shared.statistics().taken == 100
    shared.apply(Terms(50))
    assert not one.ask(), "a limit that comes later counts what is there"
    assert shared.statistics().reserve_taken == 50


def test_no_more_than_the_maximum() -> None:
    shared = quota(2)
    one, other = FakePool(shared), FakePool(shared)
    assert one.ask()
    assert other.ask()
    assert not one.ask(0.00)
    assert not other.ask(0.01)
    assert shared.statistics().taken == 2
    one.busy.pop()
    shared.released()
    assert one.called == 1, "who was refused is told, the one that asked first"
    assert other.called == 0
    assert not other.ask(0.1), "and has the first claim"
    assert one.ask(0.1)


def test_who_does_not_ask_again_has_no_claim() -> None:
    shared = quota(1)
    one, other = FakePool(shared), FakePool(shared)
    assert one.ask()
    assert not other.ask(0.0)
    one.busy.pop()
    shared.released()
    assert not one.ask(0.5)
    assert one.ask(0.5 + STALE + 0.1), "the other wants no more"


def test_an_idle_backend_of_another_user_gives_way() -> None:
    shared = quota(2, min_lifetime=30.0)
    one, other = FakePool(shared), FakePool(shared)
    assert one.ask()
    assert one.ask()
    one.rest()
    assert other.ask()
    assert (one.total, other.total) == (1, 1)
    assert shared.statistics().taken == 2
    assert shared.statistics().evictions == 1
    one.idle = [29.0]
    assert not other.ask(), "too young"
    assert one.total == 1


def test_busy_ones_do_not() -> None:
    shared = quota(1)
    one, other = FakePool(shared), FakePool(shared)
    assert one.ask()
    assert not other.ask()
    assert one.giving_up == 0


@pytest.mark.parametrize("kept", ["minimum", "guaranteed"])
def test_nor_those_that_a_pool_is_to_keep(kept: str) -> None:
    shared = quota(2, guaranteed=2 if kept == "guaranteed" else 0)
    one, other = FakePool(shared, minimum=2 if kept == "minimum" else 0), FakePool(shared)
    assert one.ask()
    assert one.ask()
    one.rest()
    assert not other.ask()
    assert one.total == 2


def test_the_slowest_gives_first_then_the_one_with_most_to_spare() -> None:
    shared = quota(6)
    slow, rich, poor = FakePool(shared, slowness=5), FakePool(shared), FakePool(shared)
    for pool, count in ((slow, 1), (rich, 3), (poor, 2)):
        assert all(pool.ask() for _ in range(count))
        pool.rest()
    asker = FakePool(shared)
    assert asker.ask()
    assert (slow.total, rich.total, poor.total) == (0, 3, 2)
    assert asker.ask()
    assert (slow.total, rich.total, poor.total) == (0, 2, 2)


def test_filling_up_takes_nothing_from_others() -> None:
    shared = quota(1, reserve=5)
    one, other = FakePool(shared), FakePool(shared)
    assert one.ask()
    one.rest()
    other.waiting, other.oldest_wait = 0, 0.0
    assert not other.ask()
    assert one.total == 1
    one.idle.clear()
    shared.released()
    assert other.called == 0, "and stands in nobody's way"
    assert one.ask()


def test_who_starves_goes_in_front_and_has_a_busy_one_closed() -> None:
    shared = quota(3, guaranteed=1)
    rich, waiting, starving = FakePool(shared), FakePool(shared), FakePool(shared)
    assert rich.ask()
    assert rich.ask()
    assert waiting.ask()
    assert not waiting.ask(1.0)
    assert not starving.ask(2.0)
    assert (rich.giving_up, waiting.giving_up) == (1, 0), "of the one that has more than it is guaranteed"
    assert not starving.ask(2.1)
    assert rich.giving_up == 1, "one is enough for one"
    rich.come_back()
    assert starving.called == 1
    assert not waiting.ask(2.2)
    assert not rich.ask(2.2)
    assert starving.ask(2.2)


def test_the_reserve_is_for_those_who_have_waited() -> None:
    shared = quota(1, reserve=1, reserve_timeout=3.0)
    one, other = FakePool(shared), FakePool(shared)
    assert one.ask()
    other.oldest_wait = 2.9
    assert not other.ask(2.9)
    other.oldest_wait = 3.0
    assert other.ask(3.0)
    assert not other.ask(3.0), "it is used up"
    assert shared.statistics().reserve_taken == 1
    assert shared.statistics().reserve_acquisitions == 1
    one.busy.pop()
    shared.released()
    assert shared.statistics().reserve_taken == 0


def test_what_was_taken_of_the_reserve_is_given_back_when_it_idles() -> None:
    shared = quota(1, reserve=2, min_lifetime=30.0)
    one = FakePool(shared)
    for now in (0.0, 1.0, 2.0):
        assert one.ask(now)
    one.rest()
    one.idle = [29.0, 29.0, 29.0]
    shared.tick(3.0)
    assert one.total == 3
    one.idle = [31.0, 29.0, 31.0]
    shared.tick(4.0)
    assert one.total == 2
    shared.tick(4.1)
    assert one.total == 1
    shared.tick(4.2)
    assert one.total == 1, "no less than the maximum"


def test_a_lower_maximum_closes_what_is_idle_at_once() -> None:
    shared = quota(4, min_lifetime=30.0)
    one, other = FakePool(shared, minimum=2), FakePool(shared)
    assert all(pool.ask() for pool in (one, one, other, other))
    one.rest()
    other.rest()
    one.idle, other.idle = [0.0, 0.0], [0.0, 0.0]
    shared.apply(Terms(1, min_lifetime=30.0))
    for _ in range(5):
        shared.tick(0.0)
    assert shared.statistics().taken == 1


def test_a_higher_maximum_lets_in_who_was_refused() -> None:
    shared = quota(1)
    one, other = FakePool(shared), FakePool(shared)
    assert one.ask()
    assert not other.ask()
    shared.apply(Terms(1))
    assert other.called == 0
    shared.apply(Terms(2))
    assert other.called == 1
    assert other.ask()


def test_who_has_left_is_asked_for_nothing_but_counts() -> None:
    shared = quota(1)
    one, other = FakePool(shared), FakePool(shared)
    assert one.ask()
    one.rest()
    shared.leave(one)
    assert not other.ask()
    assert not shared.is_unused
    shared.leave(other)
    one.idle.clear()
    shared.released()
    assert shared.is_unused


def test_waits_in_vain_are_counted_for_those_whom_the_quota_refused() -> None:
    shared = quota(1)
    one, other = FakePool(shared), FakePool(shared)
    assert one.ask()
    assert not other.ask()
    assert shared.is_hungry(other)
    shared.exhausted(other, 3)
    shared.exhausted(one, 5)
    assert shared.statistics().exhaustions == 3


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_the_count_is_right_and_nobody_is_forgotten(seed: int) -> None:
    chance = random.Random(seed)
    terms = Terms(chance.randint(1, 6), chance.randint(0, 2), chance.choice([0.0, 0.5]), 0.0, chance.randint(0, 1))
    shared = Quota("shop", terms)
    pools = [FakePool(shared, slowness=chance.randint(0, 3)) for _ in range(4)]
    now = 0.0

    def rest(pool: FakePool) -> None:
        while pool.giving_up:
            pool.come_back()
        pool.rest()

    def close(pool: FakePool) -> None:
        if pool.idle:
            pool.idle.pop()
            shared.released()

    moves: list[Callable[[FakePool], object]] = [lambda pool: pool.ask(now), rest, close, lambda pool: shared.tick(now)]
    for _ in range(300):
        now += 0.05
        pool = chance.choice(pools)
        pool.oldest_wait = chance.choice([0.0, 1.0])
        chance.choice(moves)(pool)
        assert shared.statistics().taken == sum(pool.total for pool in pools)
        assert shared.statistics().taken <= terms.maximum + terms.reserve
    if terms.guaranteed:
        return
    for pool in pools:
        now += 10 * STALE
        for other in pools:
            rest(other)
        pool.oldest_wait = 0.0
        assert pool.total or any(pool.ask(now) for _ in range(terms.maximum + terms.reserve))

"""The fallback of one pool: what triggers it, who is tried when, and for how long it lasts. The clock is ours."""

import logging
from itertools import pairwise
from threading import Barrier, Thread
from typing import Any, cast

import pytest

from pgdoorman.auth.backend_login import BackendCredentials
from pgdoorman.backend.connection import Backend
from pgdoorman.backend.patroni import Clusters, ClusterUnknown, Member
from pgdoorman.backend.startup import OpeningPlan
from pgdoorman.config.settings import FallbackSettings
from pgdoorman.errors import AuthenticationFailed, BackendRefused, BackendUnavailable, PgDoormanError
from pgdoorman.pool.fallback import Fallback, is_outage
from pgdoorman.transport.connect import Address
from pgdoorman.transport.tls_connect import TlsRejected

SETTINGS = FallbackSettings(("http://x",), cooldown=30.0, api_timeout=5.0, connect_timeout=5.0, lifetime=30.0)
LOCAL = Address("local", 1)
DOWN = BackendUnavailable("it is down")


class _Backend(Backend):
    """One that has no socket."""

    def __init__(self, host: str) -> None:
        self.address = Address(host, 1)
        self.fd = -1

    def close(self, *, polite: bool = True) -> None:
        pass


class World:
    """Hosts, a cluster and a clock."""

    def __init__(self, *members: tuple[str, str], **down: PgDoormanError) -> None:
        self.members = tuple(Member(host, Address(host, 1), role) for host, role in members)
        self.down: dict[str, PgDoormanError] = {"local": DOWN, **down}
        self.now = 100.0
        self.tried: list[str] = []
        self.asked = 0
        self.patroni_is_down = False
        self.fallback = Fallback("a@b", SETTINGS, cast("Clusters", self), opened=self._open, clock=lambda: self.now)

    def find(self, urls: tuple[str, ...], timeout: float) -> tuple[Member, ...]:
        self.asked += 1
        if self.patroni_is_down:
            raise ClusterUnknown("nobody answers")
        return self.members

    def _open(self, plan: OpeningPlan) -> Backend:
        self.tried.append(plan.address.host)
        if plan.address.host in self.down:
            raise self.down[plan.address.host]
        return _Backend(plan.address.host)

    def open(self) -> str:
        """The host of a new backend."""
        self.tried.clear()
        plan = OpeningPlan(LOCAL, "app", BackendCredentials("alice"))
        return self.fallback.wait_opened(plan, 10.0).address.host


def _refused(sqlstate: str) -> BackendRefused:
    return BackendRefused({"C": sqlstate, "M": "no"})


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (DOWN, True),
        (_refused("57P01"), True),
        (_refused("57P02"), True),
        (_refused("57P03"), True),
        (_refused("28P01"), False),
        (_refused("28000"), False),
        (_refused("3D000"), False),
        (_refused("53300"), False),
        (_refused("57014"), False),
        (TlsRejected("not trusted"), False),
        (AuthenticationFailed("no"), False),
    ],
)
def test_what_triggers(error: PgDoormanError, expected: bool) -> None:
    assert is_outage(error) == expected
    world = World(("other", "replica"), local=error)
    if expected:
        assert world.open() == "other"
    else:
        with pytest.raises(type(error)) as caught:
            world.open()
        assert caught.value is error
        assert world.asked == 0


def test_while_the_local_host_lives_nobody_is_asked() -> None:
    world = World(("other", "replica"))
    world.down.clear()
    assert world.open() == "local"
    assert (world.asked, world.fallback.host, world.fallback.came_back()) == (0, None, False)


@pytest.mark.parametrize(
    ("members", "down", "winner"),
    [
        ([("l", "leader"), ("r", "replica"), ("s", "sync_standby")], (), "s"),
        ([("l", "leader"), ("r", "replica"), ("s", "sync_standby")], ("s",), "r"),
        ([("l", "leader"), ("r", "replica"), ("s", "sync_standby")], ("s", "r"), "l"),
        ([("l", "leader"), ("r", "replica")], (), "r"),
        ([("l", "leader")], (), "l"),
        ([("s", "sync_standby"), ("t", "sync_standby")], ("s",), "t"),
        ([("local", "leader"), ("r", "replica")], (), "r"),
    ],
)
def test_who_wins(members: list[tuple[str, str]], down: tuple[str, ...], winner: str) -> None:
    world = World(*members, **dict.fromkeys(down, DOWN))
    assert world.open() == winner
    assert world.fallback.host == Address(winner, 1)
    assert world.tried.count("local") == 1


def test_the_winner_serves_while_the_cooldown_lasts() -> None:
    world = World(("other", "replica"))
    world.open()
    world.down.pop("local")
    world.now += 29
    assert world.open() == "other"
    assert world.tried == ["other"]
    assert (world.asked, world.fallback.connections, world.fallback.cache_hits) == (1, 2, 1)
    assert not world.fallback.came_back()
    world.now += 2
    assert world.fallback.came_back()
    assert not world.fallback.came_back()
    assert world.open() == "local"
    assert world.fallback.host is None


def test_a_winner_that_fails_is_left_for_another() -> None:
    world = World(("r", "replica"), ("s", "sync_standby"))
    assert world.open() == "s"
    world.down["s"] = _refused("53300")
    assert world.open() == "r"
    assert world.tried == ["s", "r"], "the one that has just failed cools down"


def test_candidates_that_fail_cool_down_for_longer_each_time() -> None:
    world = World(("other", "replica"), other=DOWN)
    tried_at = []
    for _ in range(200):
        with pytest.raises(BackendUnavailable, match="it is down"):
            world.open()
        assert world.tried[0] == "local", "with nobody else there the local host is tried each time"
        if "other" in world.tried:
            tried_at.append(world.now)
        world.now += 1
    assert [later - earlier for earlier, later in pairwise(tried_at)] == [5, 10, 20, 40, 60, 60]


@pytest.mark.parametrize("patroni_is_down", [False, True])
def test_the_true_error_where_nobody_else_will_do(patroni_is_down: bool) -> None:
    world = World(local=_refused("57P03"))
    world.patroni_is_down = patroni_is_down
    with pytest.raises(BackendRefused) as caught:
        world.open()
    assert caught.value.sqlstate_of_server == "57P03"
    assert world.fallback.api_errors == patroni_is_down
    world.down.clear()
    assert world.open() == "local"


def test_openers_that_come_together_look_once() -> None:
    world = World(("other", "replica"))
    start, hosts = Barrier(5), list[str]()

    def run() -> None:
        start.wait(20)
        hosts.append(world.fallback.wait_opened(plan, 20.0).address.host)

    plan = OpeningPlan(LOCAL, "app", BackendCredentials("alice"))
    openers = [Thread(target=run) for _ in range(5)]
    for opener in openers:
        opener.start()
    for opener in openers:
        opener.join(20)
    assert hosts == ["other"] * 5
    assert world.asked == 1


def test_what_the_log_says(caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    world = World(("s", "sync_standby"), ("r", "replica"), s=DOWN)
    world.open()
    assert "wave 1: no winner: 1 unreachable" in caplog.text
    assert "wave 2: winner r (replica) at r:1" in caplog.text
    caplog.clear()
    world = World(("r", "replica"), r=_refused("28P01"))
    with pytest.raises(BackendUnavailable):
        world.open()
    assert "no sync_standby in cluster" in caplog.text
    assert "all fallback candidates rejected: 1 refused" in caplog.text

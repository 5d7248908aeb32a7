"""Pools: what the ledger decides is done, at a real PostgreSQL and at servers that misbehave."""

import socket
from threading import Event
from time import monotonic
from typing import Any

import pytest

from pgdoorman.auth.secrets import PlainSecret, ScramKeys, derive_keys, verifier_of
from pgdoorman.backend.settings import DEFAULTS, settings_of
from pgdoorman.errors import BackendRefused, BackendUnavailable, CheckoutTimeout, ShuttingDown
from pgdoorman.pool.pool import connection_part
from pgdoorman.pool.registry import retire
from pgdoorman.protocol import codes
from tests.support import fake_server as fake
from tests.support.fake_server import FakeServer, Peer
from tests.support.postgres import SECRET, Postgres
from tests.unit.pool.hall import Hall, settings_for


def hall_at(server: Postgres, **settings: Any) -> Hall:
    return Hall(settings_for(server, **settings))


def at(server: FakeServer, **settings: Any) -> Hall:
    return Hall(settings_for((server.host, server.port), **settings))


# Opening.


def test_who_asks_gets_a_backend_on_its_own_thread(postgres: Postgres) -> None:
    with hall_at(postgres) as hall:
        for index in (0, 1):
            waiter = hall.ask(index)
            backend = waiter.backend()
            hall.leases.append(backend)
            assert waiter.on_its_thread == [True]
            assert backend.worker is hall.workers[index]
            assert backend.pool is hall.pool
            assert backend.process_id in postgres.backends("app")
        assert hall.counts.leased == 2
        assert hall.pool.openings == 2


def test_what_was_given_back_is_given_out_again(postgres: Postgres) -> None:
    with hall_at(postgres, pool_size=1) as hall:
        first = hall.lease(0)
        hall.give_back(first)
        assert hall.lease(1) is first
        assert first.worker is hall.workers[1]
        waiter = hall.ask(0)
        assert waiter.is_waiting
        hall.give_back(first)
        assert waiter.backend() is first
        assert waiter.on_its_thread == [True]
        hall.leases.append(first)
        assert hall.counts.total == 1


def test_a_waiter_may_come_along_to_where_its_backend_is(postgres: Postgres) -> None:
    with hall_at(postgres, pool_size=1) as hall:
        backend = hall.lease(0)
        waiter = hall.ask(1)
        moved: list[object] = []

        def move_to(worker: Any) -> bool:
            moved.append(worker)
            waiter.worker = worker
            return True

        waiter.move_to = move_to  # type: ignore[method-assign]
        hall.give_back(backend)
        assert waiter.backend() is backend
        hall.leases.append(backend)
        assert moved == [hall.workers[0]]
        assert backend.worker is hall.workers[0]


@pytest.mark.parametrize(
    ("name", "password"), [("md5_user", SECRET), ("scram_user", SECRET), ("clear_user", SECRET), ("plain", "")]
)
def test_every_kind_of_password(postgres: Postgres, name: str, password: str) -> None:
    with hall_at(postgres, name=name, password=password) as hall:
        assert hall.lease().role == name


def test_another_role_at_the_server(postgres: Postgres) -> None:
    settings = {"server_username": "scram_user", "server_password": SECRET}
    with hall_at(postgres, name="somebody", password="unrelated", **settings) as hall:
        assert hall.lease().role == "scram_user"


def test_the_servers_refusal_reaches_everyone_who_waits(postgres: Postgres, caplog: pytest.LogCaptureFixture) -> None:
    with hall_at(postgres, name="scram_user", password="wrong", pool_size=1) as hall:
        waiters = [hall.ask(0), hall.ask(1)]
        for waiter in waiters:
            reason = waiter.refusal()
            assert isinstance(reason, BackendRefused)
            assert reason.sqlstate_of_server == "28P01"
            assert waiter.on_its_thread == [True]
        assert "password authentication failed" in hall.pool.last_error
        assert hall.counts.waiting == hall.counts.opening == 0
        hall.ask().refusal()
        said = [record for record in caplog.records if "cannot open a connection" in record.getMessage()]
        assert len(said) == 1, "not at every try"


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = taken.getsockname()
    with Hall(settings_for(address)) as hall:
        assert isinstance(hall.ask().refusal(), BackendUnavailable)


def test_while_the_server_starts_up_one_waits() -> None:
    def starting(peer: Peer) -> None:
        peer.receive_startup()
        peer.send(fake.error("57P03", "the database system is starting up", "FATAL"))

    def running(peer: Peer) -> None:
        peer.greet()
        peer.serve()

    with FakeServer(starting, starting, running) as server, at(server, pool__server_login_retry="50ms") as hall:
        waiter = hall.ask()
        began = monotonic()
        while waiter.is_waiting and monotonic() - began < 5:
            hall.pool.tick(monotonic())
            Event().wait(0.01)
        hall.leases.append(waiter.backend())
        assert server.connections == 3
        assert hall.pool.last_error == ""


def test_waiting_too_long(postgres: Postgres) -> None:
    with hall_at(postgres, pool_size=1, query_wait_timeout="100ms") as hall:
        hall.lease()
        waiter = hall.ask(1)
        hall.pool.tick(monotonic())
        assert waiter.is_waiting
        hall.pool.tick(monotonic() + 0.2)
        assert isinstance(waiter.refusal(), CheckoutTimeout)


def test_the_minimum_is_opened_ahead(postgres: Postgres) -> None:
    with hall_at(postgres, pool_size=5, min_pool_size=3) as hall:
        began = monotonic()
        while hall.counts.total < 3 and monotonic() - began < 5:
            hall.pool.tick(monotonic())
            Event().wait(0.01)
        assert hall.counts.idle == 3


def test_no_backend_can_be_opened_before_its_owner_has_logged_in(postgres: Postgres) -> None:
    """Pass-through SCRAM: the verifier alone opens nothing."""
    with postgres.connect() as wire:
        verifier = wire.value("select rolpassword from pg_authid where rolname = 'scram_user'")
    assert verifier is not None
    with hall_at(postgres, name="scram_user", password=verifier, min_pool_size=1) as hall:
        assert not hall.pool.may_open_unasked
        hall.pool.tick(monotonic())
        hall.pool.expire(monotonic())
        assert hall.counts.opening == 0
        assert hall.pool.openings == 0


def test_credentials(postgres: Postgres) -> None:
    with hall_at(postgres, name="clear_user", password=SECRET) as hall:
        assert hall.pool.credentials().password == SECRET.encode()
        assert hall.pool.may_open_unasked
        assert isinstance(hall.pool._secret, PlainSecret)
        assert SECRET not in repr(hall.pool.credentials())


# Idle backends.


def test_an_idle_backend_that_is_ended_is_noticed(postgres: Postgres) -> None:
    with hall_at(postgres) as hall:
        backends = [hall.lease(0), hall.lease(1), hall.lease(1)]
        for backend in backends:
            hall.give_back(backend)
        assert hall.counts.idle == 3
        with postgres.connect() as wire:
            wire.rows(f"select pg_terminate_backend({backends[1].process_id})")
        hall.wait_for(lambda counts: counts.total == 2)
        assert not backends[1].is_open
        assert backends[0].is_open


def misbehaving_when_idle(saying: bytes) -> tuple[FakeServer, Event]:
    now = Event()

    def script(peer: Peer) -> None:
        peer.greet()
        if peer.number == 1:
            now.wait(5.0)
            peer.send(saying)
        peer.serve()

    return FakeServer(script), now


@pytest.mark.parametrize(
    "saying",
    [
        fake.parameter_status("TimeZone", "Mars"),
        fake.error_fields({"S": "NOTICE", "C": "00000", "M": "hello"}, "N"),
        fake.parameter_status("a", "b") * 1000,
    ],
    ids=["parameter", "notice", "many"],
)
def test_what_an_idle_backend_may_say(saying: bytes) -> None:
    server, now = misbehaving_when_idle(saying)
    with server, at(server) as hall:
        backend = hall.lease()
        hall.give_back(backend)
        now.set()
        if b"TimeZone" in saying:
            began = monotonic()
            while backend.reported.by_name["TimeZone"] != "Mars":
                assert monotonic() - began < 5
        Event().wait(0.05)
        hall.wait_for(lambda counts: counts.idle == 1)
        assert backend.is_open
        assert hall.lease() is backend


@pytest.mark.parametrize(
    "saying",
    [
        fake.ready(),
        fake.data_row("1"),
        fake.error("57P01", "terminating", "FATAL"),
        b"S\0\0\0\1",
        b"N\xff\xff\xff\xff",
        b"N",
    ],
    ids=["ready", "row", "error", "length", "endless", "half"],
)
def test_what_an_idle_backend_may_not_say(saying: bytes) -> None:
    """Half a message is no reason for the next client to wait."""
    server, now = misbehaving_when_idle(saying)
    with server, at(server, pool_size=1) as hall:
        backend = hall.lease()
        hall.give_back(backend)
        now.set()
        hall.wait_for(lambda counts: counts.total == 0)
        assert not backend.is_open
        assert hall.lease() is not backend


def test_old_and_idle_backends_are_closed(postgres: Postgres) -> None:
    with hall_at(postgres, idle_timeout="60s", server_lifetime="1h", min_pool_size=1) as hall:
        backends = [hall.lease() for _ in range(3)]
        assert {backend.expires_at for backend in backends} != {float("inf")}
        for backend in backends:
            hall.give_back(backend)
        now = monotonic()
        assert hall.pool.expire(now + 40) == 0
        assert hall.pool.expire(now + 61) == 2
        assert hall.counts.total == 1
        assert hall.pool.expire(now + 3600 * 1.3) == 1
        hall.wait_for(lambda counts: counts.idle == 1)  # the minimum, opened again
        assert sum(backend.is_open for backend in backends) == 0


def test_for_ever_means_for_ever(postgres: Postgres) -> None:
    with hall_at(postgres, idle_timeout="0", server_lifetime="0") as hall:
        backend = hall.lease()
        hall.give_back(backend)
        assert hall.pool.expire(monotonic() + 10**9) == 0
        assert backend.is_open


# The operator.


def test_reconnecting(postgres: Postgres) -> None:
    with hall_at(postgres) as hall:
        idle, busy = hall.lease(), hall.lease()
        hall.give_back(idle)
        hall.pool.reconnect()
        assert not idle.is_open
        assert busy.is_open
        hall.give_back(busy)
        assert not busy.is_open
        assert hall.counts.total == 0
        assert hall.lease() not in (idle, busy)


def test_pause_and_resume(postgres: Postgres) -> None:
    with hall_at(postgres) as hall:
        hall.give_back(hall.lease())
        hall.pool.pause()
        waiters = [hall.ask(0), hall.ask(1)]
        Event().wait(0.05)
        assert all(waiter.is_waiting for waiter in waiters)
        hall.pool.resume()
        hall.leases += [waiter.backend() for waiter in waiters]


def test_the_end_of_a_pool(postgres: Postgres) -> None:
    with hall_at(postgres, pool_size=2) as hall:
        idle, busy = hall.lease(0), hall.lease(1)
        hall.give_back(idle)
        hall.leases.append(hall.lease(0))
        waiter = hall.ask(1)
        hall.pool.close()
        assert isinstance(waiter.refusal(), ShuttingDown)
        assert isinstance(hall.ask().refusal(), ShuttingDown), "and whoever comes later"
        hall.give_back(busy)
        assert not busy.is_open
        assert hall.pool.removed


def test_new_settings_of_the_same_pool(postgres: Postgres) -> None:
    with hall_at(postgres, pool_size=2) as hall:
        first, second = hall.lease(), hall.lease()
        hall.give_back(first)
        hall.pool.apply(settings_for(postgres, pool_size=1))
        assert not first.is_open, "above the new limit"
        hall.give_back(second)
        assert second.is_open, "nothing that it was opened with has changed"
        hall.pool.apply(other_name(postgres))
        assert not second.is_open
        assert hall.lease().reported.by_name["application_name"] == "renamed"


def test_another_lifetime_holds_for_the_backends_that_are_there(postgres: Postgres) -> None:
    with hall_at(postgres, server_lifetime="0") as hall:
        backend = hall.lease()
        assert backend.expires_at == float("inf")
        hall.pool.apply(settings_for(postgres, server_lifetime="10s"))
        assert 8.0 <= backend.expires_at - backend.opened_at <= 12.0
        hall.pool.apply(settings_for(postgres, server_lifetime="0"))
        assert backend.expires_at == float("inf")


def test_another_password_forgets_what_was_derived_from_the_old_one(postgres: Postgres) -> None:
    with hall_at(postgres) as hall:
        hall.pool.learn_keys(ScramKeys(client_key=b"c" * 32, server_key=b"s" * 32, iterations=4096, salt=b"x"))
        hall.pool.apply(settings_for(postgres, pool_size=3))
        assert hall.pool._scram_keys is not None
        hall.pool.apply(settings_for(postgres, password="other"))
        assert hall.pool._scram_keys is None


def test_what_the_process_before_has_learnt_is_taken_if_it_fits() -> None:
    keys = derive_keys(b"right", b"0123456789abcdef", 4096)
    others = derive_keys(b"wrong", b"0123456789abcdef", 4096)
    nowhere = ("127.0.0.1", 1)
    with Hall(settings_for(nowhere, password=verifier_of(keys).text())) as hall:
        hall.pool.learn_again(others, b"wrong")
        assert hall.pool.learnt == (None, None)
        assert not hall.pool.credentials().can_log_in
        hall.pool.learn_again(keys, b"right")
        assert hall.pool.learnt == (keys, b"right")
        hall.pool.learn_again(None, None)
        assert hall.pool.learnt == (keys, b"right")
    with Hall(settings_for(nowhere)) as hall:  # nothing is stored: somebody else has said that they are right
        hall.pool.learn_again(others, b"whatever")
        assert hall.pool.learnt == (others, b"whatever")


def test_a_pool_that_runs_down_keeps_no_backend(postgres: Postgres) -> None:
    with hall_at(postgres, pool_size=3, min_pool_size=2) as hall:
        busy, idle = hall.lease(), hall.lease()
        hall.give_back(idle)
        hall.pool.run_down()
        assert not idle.is_open
        assert busy.is_open
        hall.give_back(busy)
        assert not busy.is_open
        hall.pool.tick(monotonic() + 100.0)
        assert hall.counts.opening == 0
        assert hall.lease().is_open, "whoever is left is still served"


def test_a_round_of_retiring_has_a_limit_over_all_pools(postgres: Postgres) -> None:
    with hall_at(postgres, idle_timeout="1s") as hall, hall_at(postgres, idle_timeout="1s") as other:
        for one in (hall, other):
            for backend in [one.lease() for _ in range(3)]:
                one.give_back(backend)
        pools, later = [hall.pool, other.pool], monotonic() + 60
        assert retire(pools, monotonic(), 4) == 0
        assert retire(pools, later, 4) == 4
        assert hall.counts.total + other.counts.total == 2
        assert retire(pools, later, 0) == 2
        assert retire(pools, later, 0) == 0


def other_name(postgres: Postgres) -> Any:
    return settings_for(postgres, pool_size=1, pool__application_name="renamed")


def test_what_a_backend_is_opened_with(postgres: Postgres) -> None:
    plain = settings_for(postgres)
    assert connection_part(plain) == connection_part(settings_for(postgres, pool_size=3, idle_timeout="1s"))
    assert connection_part(plain) != connection_part(other_name(postgres))


# What clients are told.


def test_what_a_new_client_is_told(postgres: Postgres) -> None:
    with hall_at(postgres) as hall:
        pool = hall.pool
        assert pool.told_for(DEFAULTS) is None, "nobody knows yet"
        backend = hall.lease()
        assert pool.told_for(DEFAULTS) is backend.reported
        named = pool.told_for(settings_of({"application_name": "größe"}))
        assert named is not None
        assert named.by_name["application_name"] == "gr\\xc3\\xb6\\xc3\\x9fe"
        assert named.by_name["TimeZone"] == backend.reported.by_name["TimeZone"]
        german = settings_of({"datestyle": "German, DMY"})
        assert not pool.is_proven(german)
        assert pool.told_for(german) is None
        pool.prove(german, backend.reported)
        assert pool.is_proven(german)
        assert pool.is_proven(german.with_(application_name="x"))
        assert not pool.is_proven(german.with_(role="x"))
        assert pool.is_proven(DEFAULTS)
        pool.reconnect()
        assert not pool.is_proven(german), "another server may think otherwise"
        assert pool.told_for(DEFAULTS) is None


def test_what_was_proven_is_not_kept_for_ever(postgres: Postgres) -> None:
    with hall_at(postgres) as hall:
        reported = hall.lease().reported
        for number in range(1500):
            hall.pool.prove(settings_of({"a.b": str(number)}), reported)
        assert len(hall.pool._proven) == 1000
        assert hall.pool.is_proven(settings_of({"a.b": "1499"}))
        assert not hall.pool.is_proven(settings_of({"a.b": "1"}))


def test_a_new_server_is_spoken_to_in_the_new_protocol() -> None:
    def eighteen(peer: Peer) -> None:
        peer.greet({**fake.PARAMETERS, "server_version": "18.1"})
        peer.serve()

    with FakeServer(eighteen) as server, at(server) as hall:
        assert hall.pool.opening_plan().version == codes.PROTOCOL_3_0
        hall.lease()
        assert hall.pool.opening_plan().version == codes.PROTOCOL_3_2

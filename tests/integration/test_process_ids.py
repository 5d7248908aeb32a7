"""The process id in BackendKeyData: the server's own in session pooling, and what that means for cancel."""

import threading
import time

import pytest

from tests.integration.conftest import StartDoorman
from tests.support.doorman import Doorman, pool, user
from tests.support.postgres import Postgres
from tests.support.wire import Wire, cancel_request, query


@pytest.fixture(scope="module")
def doorman(postgres: Postgres, start_module_doorman: StartDoorman) -> Doorman:
    return start_module_doorman(
        pools={
            "app": pool(postgres, user("alice", pool_size=3), pool_mode="session"),
            "shared": pool(postgres, user("alice", pool_size=1), pool_mode="transaction", server_database="app"),
        },
    )


def own_id(wire: Wire) -> int:
    return int(wire.value("select pg_backend_pid()") or 0)


def cancel(doorman: Doorman, process_id: int, secret: bytes) -> None:
    with doorman.dial() as wire:
        wire.send(cancel_request(process_id, secret))
        wire.wait_closed()


def test_it_is_the_servers_own_in_session_pooling(doorman: Doorman) -> None:
    for parameters in ({}, {}, {"TimeZone": "Asia/Tokyo"}, {"options": "-c work_mem=5MB"}):
        with doorman.connect("app", "alice", parameters=parameters) as wire:
            assert wire.process_id == own_id(wire)
            wire.run("begin")
            assert wire.process_id == own_id(wire)
            wire.run("rollback")
    with doorman.connect("shared", "alice") as wire:
        assert wire.process_id != own_id(wire)


def test_an_exhausted_pool_lets_clients_in_all_the_same(doorman: Doorman) -> None:
    """They are told an id of ours, and get a backend once there is one. Their keys work too."""
    holders = []
    for _ in range(3):
        holders.append(doorman.connect("app", "alice"))
        assert holders[-1].process_id == own_id(holders[-1])
    with doorman.connect("app", "alice") as late:
        late.send(query("select pg_backend_pid()"))
        assert late.poll(0.3) == []
        holders.pop().terminate()
        given = int((late.settle()[1].columns()[0] or b"").decode())
        assert given != late.process_id
        late.send(query("select pg_sleep(30)"))
        time.sleep(0.2)
        cancel(doorman, late.process_id, late.secret)
        assert [reply.fields()["C"] for reply in late.settle() if reply.kind == "E"] == ["57014"]
    for wire in holders:
        wire.terminate()


def test_who_has_not_asked_anything_gives_way(doorman: Doorman) -> None:
    """Clients that only log in do not keep others from their queries, and are served when their own time comes."""
    silent = [doorman.connect("app", "alice", parameters={"application_name": f"silent {n}"}) for n in range(3)]
    with doorman.connect("app", "alice") as late:
        assert own_id(late) in [wire.process_id for wire in silent]
    for number, wire in enumerate(silent):
        assert wire.value("show application_name") == f"silent {number}"
        wire.terminate()


def test_a_cancel_needs_the_secret_as_well(doorman: Doorman) -> None:
    """The id is known to anyone who may look into pg_stat_activity; alone it is worth nothing."""
    with doorman.connect("app", "alice") as victim:
        victim.send(query("select pg_sleep(2), 'slept'"))
        time.sleep(0.2)
        for secret in (b"\0\0\0\0", bytes(byte ^ 1 for byte in victim.secret), victim.secret[::-1]):
            if secret != victim.secret:
                cancel(doorman, victim.process_id, secret)
        assert any(reply.kind == "D" for reply in victim.settle())
        victim.send(query("select pg_sleep(30)"))
        time.sleep(0.2)
        cancel(doorman, victim.process_id, victim.secret)
        assert [reply.fields()["C"] for reply in victim.settle() if reply.kind == "E"] == ["57014"]


def test_a_backend_goes_from_client_to_client(doorman: Doorman) -> None:
    """One id after another has it, each with a secret of its own; an old key hits nobody."""
    with doorman.connect("app", "alice") as first:
        old = (first.process_id, first.secret)
        first.run("set work_mem = '7MB'; create temp table mine ()")
    for _ in range(20):
        with doorman.connect("app", "alice") as second:
            assert second.process_id == own_id(second)
            assert second.value("show work_mem") != "7MB"
            if second.process_id != old[0]:
                continue
            assert second.secret != old[1]
            second.send(query("select pg_sleep(1), 'slept'"))
            time.sleep(0.1)
            cancel(doorman, *old)
            assert any(reply.kind == "D" for reply in second.settle())
            return
    pytest.fail("the first client's backend never came again")


def test_a_backend_that_dies_takes_its_client_along(doorman: Doorman, postgres: Postgres) -> None:
    """Before the client has ever asked it anything."""
    with doorman.connect("app", "alice") as wire:
        postgres.run(f"select pg_terminate_backend({wire.process_id})")
        assert [reply.fields()["C"] for reply in wire.wait_closed()] == ["57P01"]
    with doorman.connect("app", "alice") as wire:
        assert wire.process_id == own_id(wire)


def test_many_at_once(doorman: Doorman) -> None:
    """Thirty come and go over three backends: everyone gets one in the end, and whoever has a true id keeps it."""
    failures: list[str] = []

    def live() -> None:
        with doorman.connect("app", "alice", patience=60) as wire:
            ids = {own_id(wire) for _ in range(3)}
            if len(ids) != 1:
                failures.append(f"{ids}")

    threads = [threading.Thread(target=live) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    doorman.check_alive()
    assert "Traceback" not in doorman.log()

"""`max_db_connections` and what goes with it, in front of a real PostgreSQL.

Counted are the sockets that the process holds: at the server one that was closed lives on for as long as its process
needs to end.
"""

import threading
import time

import pytest

from tests.integration.conftest import StartDoorman
from tests.support.doorman import Doorman, pool, user
from tests.support.postgres import Postgres
from tests.support.process import wait_until
from tests.support.wire import ServerError, query


def _start(start: StartDoorman, postgres: Postgres, *, wait: str = "10s", **terms: object) -> Doorman:
    users = [user(name, pool_size=4, server_username="alice") for name in ("ann", "ben", "cid")]
    return start(
        pools={"app": pool(postgres, *users, min_connection_lifetime=0, **terms)}, general={"query_wait_timeout": wait}
    )


def _row(doorman: Doorman) -> dict[str, int]:
    (row,) = doorman.show("pool_coordinator")
    return {name: int(value or 0) for name, value in row.items() if name != "database"}


def test_users_together_have_no_more_than_the_limit(start_doorman: StartDoorman, postgres: Postgres) -> None:
    doorman = _start(start_doorman, postgres, max_db_connections=3, wait="30s")
    seen: list[int] = []
    trouble: list[str] = []
    stop = threading.Event()

    def work(name: str, number: int) -> None:
        try:
            with doorman.connect("app", name, patience=60) as wire:
                for turn in range(12):
                    tag = f"{name}-{number}-{turn}"
                    assert wire.value(f"select '{tag}' from pg_sleep(0.01)") == tag
        except (ServerError, AssertionError, OSError) as error:
            trouble.append(f"{name}: {error}")

    def count() -> None:
        while not stop.wait(0.02):
            seen.append(doorman.process.connections_to(postgres.port))

    watcher = threading.Thread(target=count)
    workers = [threading.Thread(target=work, args=(name, n)) for name in ("ann", "ben", "cid") for n in range(4)]
    for thread in (watcher, *workers):
        thread.start()
    for thread in workers:
        thread.join(100)
    stop.set()
    watcher.join(20)
    assert not trouble
    assert 0 < max(seen) <= 3
    assert _row(doorman)["current"] <= 3
    assert _row(doorman)["evictions"] > 0


def test_who_gets_none_is_told_why(start_doorman: StartDoorman, postgres: Postgres) -> None:
    doorman = _start(start_doorman, postgres, max_db_connections=1, wait="500ms")
    with doorman.connect("app", "ben") as other, doorman.connect("app", "ann") as holder:
        holder.run("begin")
        holder.value("select 1")
        with pytest.raises(ServerError, match=r"all server connections to database 'app' are in use") as refused:
            other.value("select 1")
        assert "max_db_connections=1" in str(refused.value)
        holder.run("commit")
        assert other.value("select 'then'") == "then"
    assert _row(doorman)["exhaustions"] == 1
    assert _row(doorman)["evictions"] == 2, "the login of ben had left one for ann to take, and ben took it back"


def test_the_reserve(start_doorman: StartDoorman, postgres: Postgres) -> None:
    doorman = _start(
        start_doorman, postgres, max_db_connections=1, reserve_pool_size=1, reserve_pool_timeout="400ms"
    )  # fmt: skip
    with doorman.connect("app", "ann") as holder, doorman.connect("app", "ben") as other:
        holder.run("begin")
        holder.value("select 1")
        began = time.monotonic()
        other.run("begin")
        assert other.value("select 1") == "1"
        assert time.monotonic() - began >= 0.4
        row = _row(doorman)
        assert (row["current"], row["reserve_used"], row["reserve_acq"]) == (2, 1, 1)
        other.run("commit")
        holder.run("commit")
        wait_until(lambda: _row(doorman)["reserve_used"] == 0, 10, "what idles beyond the limit to be closed")


def test_a_guaranteed_share(start_doorman: StartDoorman, postgres: Postgres) -> None:
    """One user keeps every connection busy without end; another one that has none still gets its share."""
    doorman = _start(start_doorman, postgres, max_db_connections=2, min_guaranteed_pool_size=1, wait="30s")
    stop = threading.Event()

    def hog() -> None:
        with doorman.connect("app", "ann", patience=60) as wire:
            while not stop.is_set():
                wire.value("select 1 from pg_sleep(0.01)")

    hogs = [threading.Thread(target=hog) for _ in range(6)]
    for thread in hogs:
        thread.start()
    try:
        wait_until(lambda: _row(doorman)["current"] == 2, 20, "both to be taken")
        with doorman.connect("app", "ben", patience=30) as wire:
            assert wire.value("select 'mine'") == "mine"
    finally:
        stop.set()
        for thread in hogs:
            thread.join(30)


def test_backends_that_die_and_pools_that_go_free_their_places(start_doorman: StartDoorman, postgres: Postgres) -> None:
    doorman = _start(start_doorman, postgres, max_db_connections=2)
    with doorman.connect("app", "ann") as one, doorman.connect("app", "ann") as two:
        for wire in (one, two):
            wire.run("begin")
            wire.value("select 1")
        assert _row(doorman)["current"] == 2
        postgres.run("select pg_terminate_backend(pid) from pg_stat_activity where datname = 'app'")
        wait_until(lambda: _row(doorman)["current"] == 0, 10, "their places to be free")
    with doorman.connect("app", "ben") as client:
        client.send(query("select 1"))
        client.settle()
        doorman.pools["app"]["users"].pop(1)
        doorman.write_config()
        with doorman.admin() as admin:
            admin.run("reload")
        client.wait_closed()
    wait_until(lambda: _row(doorman)["current"] == 0, 10, "the removed pool's places to be free")


def test_a_limit_that_comes_and_goes(start_doorman: StartDoorman, postgres: Postgres) -> None:
    doorman = _start(start_doorman, postgres)
    assert doorman.show("pool_coordinator") == []

    def limit(number: int) -> None:
        doorman.pools["app"]["max_db_connections"] = number
        doorman.write_config()
        with doorman.admin() as admin:
            admin.run("reload")

    clients = [doorman.connect("app", name) for name in ("ann", "ann", "ben", "ben", "cid")]
    for client in clients:
        client.run("begin")
        client.value("select 1")
    limit(2)
    assert _row(doorman)["current"] == 5
    for client in clients:
        client.run("commit")
    wait_until(lambda: _row(doorman)["current"] <= 2, 10, "what is too much to be closed")
    for client in clients:
        assert client.value("select 'served'") == "served"
        client.hang_up()
    limit(0)
    assert doorman.show("pool_coordinator") == []

"""A cancel request reaches the query that it means or none: never a later one, never another client's."""

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.integration.conftest import StartDoorman
from tests.support.doorman import Doorman, pool, user
from tests.support.postgres import Postgres
from tests.support.process import wait_until
from tests.support.splitter import Splitter
from tests.support.wire import Reply, Wire, bind, cancel_request, execute, parse, query, sync

CANCELLED = "57014"
PATIENCE = 30.0


def cancel(doorman: Doorman, wire: Wire) -> None:
    """As libpq does: it has been delivered when the connection is closed."""
    killer = doorman.dial(PATIENCE)
    killer.send_bytes(cancel_request(wire.process_id, wire.secret).data)
    killer.wait_closed(PATIENCE)
    killer.hang_up()


def codes(replies: list[Reply]) -> list[str]:
    return [reply.fields()["C"] for reply in replies if reply.kind == "E"]


def _questions(chance: random.Random, tag: str) -> Iterator[tuple[object, ...]]:
    while True:
        nap = chance.choice(("0", "0.001", "0.003"))
        yield (query(f"select '{tag}' from pg_sleep({nap})"),)
        yield (parse("", f"select '{tag}' from pg_sleep($1)"), bind("", "", [nap]), execute(), sync())
        yield (query("begin"), query(f"select '{tag}' from pg_sleep({nap})"), query("rollback"))
        yield (query(f"set my.own = '{tag}'; select '{tag}' from pg_sleep({nap})"),)


def test_cancels_among_clients_that_share_a_backend(postgres: Postgres, start_doorman: StartDoorman) -> None:
    """Some cancel their own queries, early, late or too late, and nobody else hears of it; nor do they themselves once
    the request has been taken."""
    doorman = start_doorman(
        pools={"app": pool(postgres, user("alice", pool_size=1))}, general={"query_wait_timeout": "25s"}
    )
    failures: list[str] = []
    cancelled = 0
    end = time.monotonic() + 4

    def run(number: int, cancels: bool) -> None:
        nonlocal cancelled
        chance = random.Random(number)
        with doorman.connect("app", "alice", patience=PATIENCE) as wire:
            questions = _questions(chance, f"c{number}")
            while time.monotonic() < end and not failures:
                wire.send(*next(questions))  # type: ignore[arg-type]
                if cancels:
                    time.sleep(chance.random() * 0.004)
                    cancel(doorman, wire)
                found = codes(wire.settle())
                if found and (not cancels or set(found) - {CANCELLED, "25P02"}):
                    failures.append(f"client {number}, which {'cancels' if cancels else 'never cancels'}: {found}")
                if cancels:
                    cancelled += bool(found)
                    if found := codes(wire.ask(query(f"select 'behind c{number}'"))):
                        failures.append(f"client {number}: {found} at the query behind a cancel that had been taken")

    threads = [threading.Thread(target=run, args=(number, number % 2 == 0), daemon=True) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE * 2)
    assert not failures, failures
    assert cancelled > 0, "no cancel came in time: nothing was tried"
    pinned = [row["pinned"] for row in doorman.show("clients") if row["database"] == "app"]
    assert not any(pinned), pinned


class LateCancels(Splitter):
    """Keeps cancel requests back for `delay` seconds, as a server does whose backlog is long."""

    delay = 1.6

    def _pass_on(self, near: socket.socket, far: socket.socket, chance: random.Random) -> None:
        if near.recv(8, socket.MSG_PEEK | socket.MSG_WAITALL)[4:8] == cancel_request(1, b"").data[4:8]:
            time.sleep(self.delay)
        super()._pass_on(near, far, chance)


def test_a_cancel_that_the_server_takes_late(postgres: Postgres, start_doorman: StartDoorman) -> None:
    """It is not known what it will hit: its backend is given to nobody any more."""
    with LateCancels(postgres.host, postgres.port, sizes=(65536,)) as slow:
        doorman = start_doorman(
            pools={"app": pool((slow.host, slow.port), user("alice", pool_size=1))},
            general={"connect_timeout": "700ms"},
        )
        with (
            doorman.connect("app", "alice") as one,
            doorman.connect("app", "alice") as other,
            postgres.connect("app") as watch,
        ):
            one.send(query("select pg_sleep(0.3)"))
            wait_until(lambda: watch.value(_SLEEPING) == "1", 5, "the query runs")
            threading.Thread(target=cancel, args=(doorman, one), daemon=True).start()
            other.send(query("select pg_sleep(2.5), 'mine'"))
            assert codes(one.settle(10)) == []
            assert codes(other.settle(15)) == []


_SLEEPING = "select count(*) from pg_stat_activity where query = 'select pg_sleep(0.3)' and state = 'active'"


@pytest.mark.parametrize("text", ["set work_mem = '3MB'", "select set_config('work_mem', '3MB', false)"])
def test_a_cancel_does_not_hit_the_look_at_the_session(
    postgres: Postgres, start_doorman: StartDoorman, text: str
) -> None:
    """Behind a text that may have changed the session the backend is asked what is different: not that is cancelled."""
    doorman = start_doorman(pools={"app": pool(postgres, user("alice", pool_size=1))})
    _each_delay(doorman, text, lambda wire: wire.value("show work_mem"), "3MB")


def _each_delay(doorman: Doorman, text: str, look: Callable[[Wire], str | None], wanted: str) -> None:
    with doorman.connect("app", "alice") as wire, doorman.connect("app", "alice") as other:
        for number in range(40):
            wire.send(query(text))
            time.sleep(number * 0.0001)
            cancel(doorman, wire)
            hit = codes(wire.settle())
            other.run("select 1")
            assert hit or look(wire) == wanted
            assert [row["pinned"] for row in doorman.show("clients") if row["database"] == "app"] == ["", ""]

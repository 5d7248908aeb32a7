"""Clients that wait for a backend: too long, in vain, or no longer."""

import time
from functools import partial
from typing import Final

import pytest

from tests.integration.conftest import StartDoorman
from tests.integration.watch import Watch
from tests.support.doorman import pool, user
from tests.support.pace import Stopwatch
from tests.support.postgres import Postgres
from tests.support.process import wait_until
from tests.support.wire import (
    HungUp,
    Request,
    ServerError,
    Silence,
    Wire,
    bind,
    describe_portal,
    describe_statement,
    execute,
    flush,
    function_call,
    parse,
    query,
    sync,
)


@pytest.fixture
def watch(postgres: Postgres, start_doorman: StartDoorman) -> Watch:
    """A pool of one whose clients wait for a second at most."""
    pools = {"app": pool(postgres, user("alice", pool_size=1))}
    return Watch(start_doorman(pools=pools, general={"query_wait_timeout": "1s"}))


def _client(watch: Watch, patience: float = 60.0) -> Wire:
    return watch.doorman.connect("app", "alice", parameters={"application_name": "waiting"}, patience=patience)


BATCH: Final = (
    parse("", "select 'late', $1::int"),
    describe_statement(),
    bind("", "", ["1"]),
    describe_portal(),
    execute(),
)

REQUESTS: Final[dict[str, tuple[Request, ...]]] = {
    "a query": (query("select 'late'"),),
    "several queries": (query("select 'late'"), query("select 'later'"), query("select 'latest'")),
    "a batch": (*BATCH, sync()),
    "a batch ended by Flush": (*BATCH, flush()),
    "two batches": (*BATCH, sync(), *BATCH, sync()),
    "a batch and a query": (*BATCH, sync(), query("select 'later'")),
    "begin and a query": (query("begin"), query("select 'late'")),
    "a COPY": (query("copy (select 'late') to stdout"),),
    "a function call": (function_call(177, ["1", "2"], binary=False),),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_waiting_in_vain(watch: Watch, name: str) -> None:
    """The error comes in time; if the client may stay, its next answer is its own and nothing of the late ones."""
    with _client(watch) as holder:
        holder.run("begin; select 'held'")
        waiter = _client(watch)
        watched = Stopwatch()
        waiter.send(*REQUESTS[name])
        try:
            replies = waiter.receive_until("E", patience=30.0)
        except (Silence, HungUp) as problem:
            pytest.fail(f"{name}: no error came when query_wait_timeout was over: {problem}")
        assert watched.seconds > 0.8, f"{name}: the error came after {watched.seconds:.1f} s, query_wait_timeout is 1 s"
        watched.must_be_below(3.0, f"{name}: query_wait_timeout is 1 s")
        assert replies[-1].fields()["C"] in ("57014", "53300"), replies[-1]
        assert not [reply for reply in replies if reply.kind == "D"], replies
        holder.run("rollback")
    _must_be_itself_again(waiter, name)
    watch.after()


def _must_be_itself_again(waiter: Wire, name: str) -> None:
    """Whether it was thrown out, or may ask again and gets the right answer."""
    waiter.poll(0.3)
    try:
        if not waiter.outstanding.is_empty:
            waiter.ask(sync(), patience=30.0)
        waiter.poll(0.2)
        for number in (1, 2, 3):
            if waiter.outstanding.status != "I":
                waiter.run("rollback")
            got = waiter.value(f"select 'tag {number}'")
            assert got == f"tag {number}", f"behind {name} that waited in vain a query got {got!r}"
    except (HungUp, ServerError):
        pass  # being sent away is an answer too
    except Silence as silence:
        pytest.fail(f"behind {name} that waited in vain there was no answer to the next query: {silence}")
    finally:
        waiter.hang_up()


@pytest.mark.parametrize("leave", [Wire.reset, Wire.hang_up], ids=["reset", "hang up"])
def test_waiters_that_have_left_are_not_served(postgres: Postgres, start_doorman: StartDoorman, leave: object) -> None:
    """Fifty slow queries of clients that have gone do not stand in the way of one that is there."""
    assert callable(leave)
    pools = {"app": pool(postgres, user("alice", pool_size=1))}
    watch = Watch(start_doorman(pools=pools, general={"query_wait_timeout": "20s"}))
    with _client(watch) as holder:
        holder.run("begin; select 'held'")
        for _ in range(50):
            wire = _client(watch)
            wire.send(query("select pg_sleep(0.3)"))
            wire.poll(0.005)
            leave(wire)
        with _client(watch) as present:
            present.send(query("select 'present'"))
            time.sleep(0.2)
            watched = Stopwatch()
            holder.run("rollback")
            replies = present.settle(60.0)
            watched.must_be_below(2.0, "it waited behind clients that had gone")
    assert [reply.columns()[0] for reply in replies if reply.kind == "D"] == [b"present"]
    watch.after()


def test_waiting_clients_are_served_in_order(watch: Watch) -> None:
    """First come, first served: nobody barges in front. (The server counts: threads here would have their own order.)"""
    with _client(watch) as holder:
        holder.run("drop sequence if exists turns; create sequence turns")
        holder.run("begin; select 'held'")
        waiters = [_client(watch) for _ in range(8)]
        for number, waiter in enumerate(waiters, 1):
            waiter.send(query("select nextval('turns')"))
            wait_until(partial(_are_in_line, watch, number), 30, f"{number} clients in line")
            time.sleep(0.02)  # among clients of different threads the order is kept to ten milliseconds
        holder.run("rollback")
        turns = [next(reply.columns() for reply in waiter.settle() if reply.kind == "D") for waiter in waiters]
        for waiter in waiters:
            waiter.terminate()
        holder.run("drop sequence turns")
    assert turns == [[b"%d" % number] for number in range(1, 9)]
    watch.after()


def _are_in_line(watch: Watch, number: int) -> bool:
    return sum(int(row["cl_waiting"] or 0) for row in watch.doorman.show("pools")) == number


def test_impatient_clients_cost_no_backends(postgres: Postgres, start_doorman: StartDoorman) -> None:
    """Clients that give up after 50 ms on queries of 200 ms: what they leave running is cancelled, not thrown away with
    its connection, or PostgreSQL would have to start a process for each of them."""
    watch = Watch(start_doorman(pools={"app": pool(postgres, user("alice", pool_size=2))}))
    before = _sessions(postgres)
    for _ in range(40):
        wire = _client(watch)
        wire.send(query("select pg_sleep(0.2)"))
        wire.poll(0.05)
        wire.reset()
    watch.after()
    with postgres.connect() as wire:
        held = "select count(*) from pg_stat_activity where datname = 'app' and state = 'active'"
        wait_until(lambda: wire.value(held) == "0", 5, "nothing runs any more")
    opened = _sessions(postgres) - before
    assert opened < 20, f"{opened} backends were opened for 40 abandoned queries"


def _sessions(server: Postgres) -> int:
    """How many sessions of the database have ever begun; the numbers lag a second behind."""
    time.sleep(1.5)
    with server.connect("app") as wire:
        return int(wire.value("select sessions from pg_stat_database where datname = 'app'") or 0)

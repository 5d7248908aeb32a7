"""What was reported to have gone wrong in other poolers and needs repetition to show: a pool that loses its backends one by
one to COPYs that fail, or to clients killed inside a large row."""

import random
from collections.abc import Callable
from typing import Final

import pytest

from tests.integration.conftest import StartDoorman
from tests.support.doorman import Doorman, pool, user
from tests.support.postgres import Postgres
from tests.support.process import wait_until
from tests.support.wire import Wire, bind, copy_data, copy_done, execute, parse, query, sync

TIMES: Final = 30
COPY: Final = "copy unique_numbers from stdin"
# The first row is there already, and the rest is long enough to be on its way when the server says so.
ROWS: Final = tuple(copy_data(b"1\n" * 20_000) for _ in range(10))


@pytest.fixture(scope="module")
def doorman(postgres: Postgres, start_module_doorman: StartDoorman) -> Doorman:
    postgres.run(
        "drop table if exists unique_numbers",
        "create table unique_numbers (i int primary key)",
        "insert into unique_numbers values (1)",
        database="app",
    )
    return start_module_doorman(pools={"app": pool(postgres, user("alice", pool_size=1), user("bob", pool_size=2))})


def in_turns(wire: Wire) -> None:
    wire.send(query(COPY))
    wire.receive_until("G")
    wire.send(*ROWS, copy_done())
    wire.settle()


def all_at_once(wire: Wire) -> None:
    wire.ask(query(COPY), *ROWS, copy_done())


def in_a_batch(wire: Wire) -> None:
    wire.ask(parse("", COPY), bind(), execute(), *ROWS, copy_done(), sync())


def with_sync_before_the_data(wire: Wire) -> None:
    wire.send(parse("", COPY), bind(), execute(), sync())
    wire.receive_until("G")
    wire.send(*ROWS, copy_done(), sync())
    wire.receive_until("Z")


def and_gone(wire: Wire) -> None:
    wire.send(query(COPY), *ROWS, copy_done())
    wire.terminate()


def reset_in_the_middle(wire: Wire) -> None:
    wire.send(query(COPY), *ROWS)
    wire.reset()


@pytest.mark.parametrize(
    "way", [in_turns, all_at_once, in_a_batch, with_sync_before_the_data, and_gone, reset_in_the_middle]
)
def test_copies_that_fail_cost_no_backend(doorman: Doorman, way: Callable[[Wire], None]) -> None:
    """The pool has one: it must serve the next client each time, and hold nothing in the end."""
    for number in range(TIMES):
        with doorman.connect("app", "alice", patience=30) as wire:
            way(wire)
        with doorman.connect("app", "alice", patience=30) as wire:
            assert wire.value(f"select {number}") == str(number)
    _must_be_idle(doorman, "alice")


@pytest.mark.timeout(120)
def test_clients_killed_inside_a_large_row(doorman: Doorman) -> None:
    """At a random byte of a row of 64 MB: the pool's whole size serves at once, and nothing is counted as active."""
    source = random.Random(12)
    for _ in range(3):
        victims = [doorman.connect("app", "bob", patience=60) for _ in range(2)]
        for wire in victims:
            wire.send(query(f"select repeat('x', {64 << 20})"))
        for wire in victims:
            wire.receive_bytes(source.randrange(8 << 20), patience=60)
            wire.reset()
        others = [doorman.connect("app", "bob", patience=30) for _ in range(2)]
        for wire in others:
            assert wire.ask(query("begin"), query("select 7"), patience=30)[-1].kind == "Z"
        for wire in others:
            wire.terminate()
    _must_be_idle(doorman, "bob")


def _must_be_idle(doorman: Doorman, name: str) -> None:
    def is_idle() -> bool:
        row = next(row for row in doorman.show("pools") if row["user"] == name)
        return row["cl_active"] == row["cl_waiting"] == row["sv_active"] == "0"

    wait_until(is_idle, 15, f"nothing active in the pool of {name}")

"""What no word of a text and no command tag shows of a session: libraries, sequences, triggers, statements taken away."""

import itertools
from collections.abc import Callable
from functools import partial

import pytest

from tests.integration.conftest import StartDoorman
from tests.support.doorman import pool, user
from tests.support.postgres import Postgres
from tests.support.wire import ServerError, Wire, bind, execute, parse, query, sync

Connect = Callable[[], Wire]

PID = "select pg_backend_pid()"


@pytest.fixture(scope="module")
def hall(postgres: Postgres, start_module_doorman: StartDoorman) -> Callable[[], Connect]:
    """Gives out ways to log in, each to a pool of one that nobody has used."""
    postgres.run("drop database if exists hidden with (force)", "create database hidden")
    postgres.run(
        "create sequence s",
        "create table drawing (id serial, t text); create table plain (t text); create table watched (v text)",
        "create function remember() returns trigger language plpgsql as"
        " $$ begin perform set_config('work_mem', new.v, false); return null; end $$",
        "create function note(text) returns text language sql as $$ select set_config('work_mem', $1, false) $$",
        "create function remember_by_another() returns trigger language plpgsql as"
        " $$ begin perform note(new.v); return null; end $$",
        "create function audit() returns trigger language plpgsql as"
        " $$ begin perform set_config('my.actor', new.t, true); execute 'select 1'; return new; end $$",
        "create trigger harmless before insert on plain for each row execute function audit()",
        database="hidden",
    )
    one = pool(postgres, user("alice", pool_size=1), server_database="hidden")
    doorman = start_module_doorman(pools={f"hidden{number}": one for number in range(20)})
    numbers = itertools.count()
    return lambda: partial(doorman.connect, f"hidden{next(numbers)}", "alice")


@pytest.fixture
def connect(hall: Callable[[], Connect]) -> Connect:
    """Logs alice in to a pool of one."""
    return hall()


def run(wire: Wire, text: str, *values: str) -> list[str | None]:
    """One statement by the extended protocol: the first columns of its rows. An error is raised."""
    replies = wire.ask(parse("", text), bind("", "", values), execute(), sync())
    for reply in replies:
        if reply.kind == "E":
            raise ServerError(reply)
    return [(reply.columns()[0] or b"").decode() for reply in replies if reply.kind == "D"]


def sqlstate(wire: Wire, text: str) -> str:
    with pytest.raises(ServerError) as refused:
        wire.run(text)
    return refused.value.sqlstate


LOADS: dict[str, Callable[[Wire], object]] = {
    "alone": lambda wire: wire.run("load 'auto_explain'"),
    "in a batch": lambda wire: run(wire, "LOAD 'auto_explain'"),
    "behind a comment": lambda wire: wire.run("/* first */ Load 'auto_explain'"),
    "in front of others": lambda wire: wire.ask(query("load 'auto_explain'"), query("select 1"), query("select 2")),
    "in a transaction rolled back": lambda wire: (wire.run("begin; load 'auto_explain'"), wire.run("rollback")),
}


@pytest.mark.parametrize("way", LOADS)
def test_a_library_is_there_for_who_has_loaded_it_and_for_nobody_else(connect: Connect, way: str) -> None:
    shown = "show auto_explain.log_analyze"
    with connect() as one, connect() as other:
        LOADS[way](one)
        for _ in range(2):
            assert one.value(shown) == "off"
            used = one.value(PID)
            assert one.value(PID) == used, "a new connection for each transaction"
            assert sqlstate(other, shown) == "42704"
            assert other.value(PID) != used
            assert run(other, "select 7") == ["7"]
        with connect() as third:
            third.run("load 'auto_explain'")
            used = third.value(PID)
            assert one.value(PID) == used, "those who have loaded the same share"
            assert one.value(shown) == "off"


TAKE_AWAY = "create or replace function take_away() returns void language plpgsql as $$ begin deallocate all; end $$"

DEALLOCATIONS = {
    "by name": "select format('deallocate %I', name) from pg_prepared_statements",
    "in a block of code": "do $$ declare r record; begin for r in select name from pg_prepared_statements loop"
    " execute format('deallocate %I', r.name); end loop; end $$",
    "all, in a block of code": "do $$ begin execute 'deallocate all'; end $$",
    "in a block of code that fails": "do $$ begin execute 'deallocate all'; perform 1 / 0; end $$",
    "in a function": "select take_away()",
}


@pytest.mark.parametrize("way", DEALLOCATIONS)
def test_statements_that_another_has_deallocated(connect: Connect, way: str) -> None:
    """Our names can be read, so they can be deallocated: the others do not notice."""
    with connect() as hostile, connect() as other:
        if way == "in a function":
            hostile.run(
                "create or replace function take_away() returns void language plpgsql as $$ begin deallocate all; end $$"
            )
        other.ask(parse("mine", "select $1::int + 1"), sync())
        for _ in range(3):
            batch = (bind("", "mine", ["1"]), execute(), sync())
            assert [reply.kind for reply in other.ask(*batch)] == ["2", "D", "C", "Z"]
            replies = hostile.ask(query(DEALLOCATIONS[way]))
            for reply in replies:
                if reply.kind == "D" and way == "by name":
                    hostile.run((reply.columns()[0] or b"").decode())
            assert [reply.kind for reply in other.ask(*batch)] == ["2", "D", "C", "Z"]


@pytest.mark.parametrize("function", ["remember", "remember_by_another"])
def test_a_trigger_that_sets_something(connect: Connect, function: str) -> None:
    with connect() as one, connect() as other:
        usual = other.value("show work_mem")
        for _ in range(2):
            one.run("insert into plain values ('x')")
            run(one, "insert into plain values ($1)", "y")
        used = one.value(PID)
        one.run(f"create trigger t after insert on watched for each row execute function {function}()")
        for number, batch in ((3, False), (4, True)):
            text = f"insert into watched values ('{number}MB')"
            run(one, text) if batch else one.run(text)
            assert other.value("show work_mem") == usual, "it shows to another"
            assert one.value("show work_mem") == f"{number}MB"
        one.run("insert into plain values ('z')")
        assert other.value(PID) == used
        one.run("drop trigger t on watched")


UNDEFINED = "55000"


def test_numbers_of_others(connect: Connect) -> None:
    """What currval and lastval say comes from the client's own transaction, or is not defined."""
    with connect() as drawer, connect() as reader:
        reader.ask(parse("last", "select lastval()"), parse("cur", "select currval('s')"), sync())
        for _ in range(2):
            drawer.run("select nextval('s'); insert into drawing (t) values ('x')")
            assert sqlstate(reader, "select lastval()") == UNDEFINED
            drawer.run("select nextval('s')")
            for name in ("last", "cur"):
                found = reader.ask(bind("", name), execute(), sync())
                assert [reply.fields()["C"] for reply in found if reply.kind == "E"] == [UNDEFINED], found
                drawer.run("select nextval('s')")
            reader.run("begin")
            assert sqlstate(reader, "select currval('s')") == UNDEFINED
            reader.run("rollback")
            drawer.run("insert into drawing (t) values ('y')")
            reader.run("begin")
            reader.run("insert into plain values ('no sequence')")
            assert sqlstate(reader, "select lastval()") == UNDEFINED
            reader.run("rollback")
            drawer.run("select nextval('s')")
            found = reader.ask(query("select 1"), query("select currval('s')"))
            assert [reply.fields()["C"] for reply in found if reply.kind == "E"] == [UNDEFINED], found
            drawer.run("select nextval('s')")
            found = reader.ask(parse("", "select 1"), bind(), execute(), bind("", "cur"), execute(), sync())
            assert [reply.fields()["C"] for reply in found if reply.kind == "E"] == [UNDEFINED], found


def test_numbers_of_ones_own(connect: Connect) -> None:
    with connect() as one, connect() as other:
        other.run("select nextval('s')")
        for _ in range(2):
            one.run("begin")
            drawn = one.value("insert into drawing (t) values ('mine') returning id")
            assert one.value("select lastval()") == drawn
            assert one.value("select currval('drawing_id_seq')") == drawn
            assert run(one, "select lastval()") == [drawn]
            one.run("commit")
            rows = one.ask(query("insert into drawing (t) values ('a') returning id; select lastval()"))
            assert len({reply.columns()[0] for reply in rows if reply.kind == "D"}) == 1, rows
            rows = one.ask(
                *(parse("", "insert into drawing (t) values ('b') returning id"), bind(), execute()),
                *(parse("", "select lastval()"), bind(), execute(), sync()),
            )
            assert len({reply.columns()[0] for reply in rows if reply.kind == "D"}) == 1, rows
            other.run("select nextval('s')")

"""What no word of a text and no command tag shows of a session: libraries, sequences, triggers, statements taken away,
functions by odd names, views, the seed of random()."""

import itertools
import struct
from collections.abc import Callable
from functools import partial

import pytest

from tests.integration.conftest import StartDoorman
from tests.support.doorman import Doorman, pool, user
from tests.support.postgres import Postgres
from tests.support.wire import ServerError, Wire, bind, execute, function_call, parse, query, sync

Connect = Callable[[], Wire]

CHANGES = "$$ begin set work_mem = '9MB'; return '1'; end $$"
SETTERS = (
    "plainly() returns text",
    '"InCapitals"() returns text',
    '"two words"() returns text',
    '"one (of) these"() returns text',
    "größe() returns text",
    "step(int, int) returns int",
)

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
        *(f"create function {name} language plpgsql as {CHANGES}" for name in SETTERS),
        "create function atomic() returns text language sql begin atomic select set_config('work_mem', '9MB', false); end",
        "create function in_capitals() returns text language plpgsql as $$ begin return PLAINLY(); end $$",
        "create aggregate gathering(int) (sfunc = step, stype = int, initcond = 0)",
        database="hidden",
    )
    one = pool(postgres, user("alice", pool_size=1), server_database="hidden")
    doorman = start_module_doorman(pools={f"hidden{number}": one for number in range(60)})
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


CALLS = {
    "by its name": "select plainly()",
    "in capitals": 'select "InCapitals"()',
    "of two words": 'select "two words"()',
    "with a parenthesis": 'select "one (of) these"()',
    "not in ASCII": "select größe()",
    "in front of a comment": "select plainly/* here */()",
    "in front of a line of comment": "select plainly -- here\n()",
    "in escapes": r'select U&"pl\0061inly"()',
    "called in capitals by another": "select in_capitals()",
    "in a body that is not text": "select atomic()",
    "behind an aggregate": "select gathering(1)",
    "in a text that is run": "select * from ts_stat($q$ select to_tsvector(plain$q$ || $q$ly()) $q$)",
    "set_config in escapes": r"""select U&"set\005fconfig"('work_mem', '9MB', false)""",
}


@pytest.mark.parametrize("way", CALLS)
def test_a_function_that_sets_something(connect: Connect, way: str) -> None:
    """By whatever name it is called, the first time and later; the client keeps the setting, others do not see it."""
    with connect() as one, connect() as other:
        usual = other.value("show work_mem")
        for batch in (False, False, True, True):
            run(one, CALLS[way]) if batch else one.run(CALLS[way])
            assert other.value("show work_mem") == usual, "it shows to another"
            assert one.value("show work_mem") == "9MB"
            one.run("reset work_mem")
            one.run("select count(*) from plain")


READS = {
    "a view": ("create view tempting as select set_config('work_mem', '9MB', false)", "table tempting"),
    "a view that calls a function": ("create view calling as select plainly()", "select * from calling"),
    "an operator": ("create operator === (leftarg = int, rightarg = int, function = step)", "select 1 === 2"),
    "a cast": ("create cast (text as point) with function turned(text)", "select cast(t as point) from plain"),
    "a domain": ("create domain careful as text check (turned(value) is not null)", "select 'x'::careful"),
    "a policy": (
        "create policy p on guarded using (set_config('work_mem', '9MB', false) is not null)",
        "select * from guarded",
    ),
    "an attribute": (
        "create function attribute(plain) returns text language plpgsql as $$ begin set work_mem = '9MB'; return 1; end $$",
        "select p.attribute from plain p",
    ),
    "a name that begins with a digit": (
        """create function "1st"() returns text language plpgsql as $$ begin set work_mem = '9MB'; return 1; end $$""",
        'select "1st"()',
    ),
    "a default": (
        "create table d (t text default set_config('work_mem', '9MB', false))",
        "insert into d default values",
    ),
    "an index": ("create index on ints (step(i, i))", "insert into ints values (1)"),
}


@pytest.fixture(scope="module")
def reading(postgres: Postgres, start_module_doorman: StartDoorman) -> Doorman:
    """A database for each of READS, and a pool of one for it."""
    pools = {}
    for number, (create, _) in enumerate(READS.values()):
        name = f"reads{number}"
        postgres.run(f"drop database if exists {name} with (force)", f"create database {name}")
        postgres.run(
            "create table plain (t text); insert into plain values ('x'); create table ints (i int)",
            "create table guarded (i int); insert into guarded values (1)",
            "alter table guarded enable row level security",
            f"create function plainly() returns text language plpgsql as {CHANGES}",
            "create function step(int, int) returns int immutable language plpgsql as"
            " $$ begin perform set_config('work_mem', '9MB', false); return 1; end $$",
            "create function turned(text) returns point language plpgsql as"
            " $$ begin set work_mem = '9MB'; return point(0, 0); end $$",
            create,
            "grant all on all tables in schema public to public",
            database=name,
        )
        pools[name] = pool(postgres, user("plain", pool_size=1))
    return start_module_doorman(pools=pools)


@pytest.mark.parametrize("way", READS)
def test_what_happens_without_a_call(reading: Doorman, way: str) -> None:
    """Clients that log in after it was made: no text names the function."""
    database = f"reads{list(READS).index(way)}"
    _, text = READS[way]
    with reading.connect(database, "plain") as one, reading.connect(database, "plain") as other:
        usual = other.value("show work_mem")
        for batch in (False, True):
            run(one, text) if batch else one.run(text)
            assert other.value("show work_mem") == usual, "it shows to another"
            assert one.value("show work_mem") == "9MB"
            one.run("reset work_mem")
        late = reading.connect(database, "plain")
        assert late.value("show work_mem") == usual
        late.run(text)
        late.reset()
        assert other.value("show work_mem") == usual, "it shows to another, after the client has left"


def test_a_write_whose_client_leaves_at_once(connect: Connect) -> None:
    """What a trigger sets is found, whether the client has read the answer or not."""
    with connect() as other:
        usual = other.value("show work_mem")
        other.run("create trigger t after insert on watched for each row execute function remember()")
        try:
            for read in (True, False):
                for batch in (False, True):
                    one = connect()
                    text = "insert into watched values ('3MB')"
                    one.send(*((parse("", text), bind(), execute(), sync()) if batch else (query(text),)))
                    if read:
                        one.settle()
                    one.reset()
                    assert other.value("show work_mem") == usual, f"{read=} {batch=}"
        finally:
            other.run("drop trigger t on watched")


SEEDS: dict[str, Callable[[Wire], object]] = {
    "called": lambda wire: wire.run("select setseed(0.25)"),
    "called in a batch": lambda wire: run(wire, "select setseed($1)", "0.25"),
    "set": lambda wire: wire.run("set seed to 0.25"),
    "set in a batch": lambda wire: run(wire, "set seed = 0.25"),
    "in a block of code": lambda wire: wire.run("do $$ begin perform setseed(0.25); end $$"),
    "in a function": lambda wire: (
        wire.run("create or replace function sow() returns void language plpgsql as $$ begin set seed to 0.25; end $$"),
        wire.run("select sow()"),
    ),
    "by a FunctionCall": lambda wire: wire.ask(function_call(1599, [struct.pack("!d", 0.25)])),
}


@pytest.mark.parametrize("way", SEEDS)
def test_a_seed_is_its_clients_own(connect: Connect, way: str, postgres: Postgres) -> None:
    with postgres.connect() as direct:
        direct.run("set seed to 0.25")
        numbers = [direct.value("select random()") for _ in range(3)]
    one = connect()
    SEEDS[way](one)
    assert [one.value("select random()") for _ in range(2)] == numbers[:2]
    used = one.value(PID)
    one.reset()
    with connect() as other:
        assert other.value("select random()") not in numbers
        assert other.value(PID) == used
    one = connect()
    SEEDS[way](one)
    one.reset()
    with connect() as other:
        assert other.value("select random()") not in numbers


def test_a_function_call_that_sets_something(connect: Connect) -> None:
    """The message names the function by its number."""
    with connect() as one, connect() as other:
        usual = other.value("show work_mem")
        one.ask(function_call(2078, ["work_mem", "9MB", "f"], binary=False))
        assert other.value("show work_mem") == usual
        assert one.value("show work_mem") == "9MB"
        one.ask(function_call(2880, [struct.pack("!q", 5)]))
        one.reset()
        locks = "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"
        assert other.value(locks) == "0"


def test_what_cannot_be_undone_goes_with_its_backend(connect: Connect) -> None:
    with connect() as one:
        one.run("select pg_replication_origin_create('leaving')")
        try:
            one.run("select pg_replication_origin_session_setup('leaving')")
            assert one.value("select pg_replication_origin_session_is_setup()") == "t"
            one.terminate()
            with connect() as other:
                assert other.value("select pg_replication_origin_session_is_setup()") == "f"
        finally:
            with connect() as other:
                other.run("select pg_replication_origin_drop('leaving')", patience=30)

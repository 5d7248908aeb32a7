"""Checks of psycopg 3, sync and async, and of psycopg_pool where it is installed."""

import asyncio
import importlib
import json
import os
import threading
import time
import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from tests.drivers.python.checks import (
    NotHere,
    check,
    equal,
    main,
    raising,
    refused,
    refused_later,
    setting,
    together,
    together_later,
    wait_for,
)


def info(**extra: Any) -> dict[str, Any]:
    return {
        "host": setting("PGHOST"),
        "port": setting("PGPORT"),
        "user": setting("PGUSER"),
        "password": setting("PGPASSWORD"),
        "dbname": setting("PGDATABASE"),
        "autocommit": True,
        **extra,
    }


def connect(**extra: Any) -> Any:
    return psycopg.connect(**info(**extra))


def value(conn: Any, query: str, parameters: Any = None, **extra: Any) -> Any:
    return conn.execute(query, parameters, **extra).fetchone()[0]


def run(conn: Any, *statements: str) -> None:
    for statement in statements:
        conn.execute(statement)


@check("simple_query")
def simple_query() -> None:
    with connect() as conn:
        for i in range(50):
            equal(value(conn, f"select {i}"), i)
        cursor = conn.execute("select 1; select 'two'; select 3")
        seen = [cursor.fetchone()[0]]
        while cursor.nextset():
            seen.append(cursor.fetchone()[0])
        equal(seen, [1, "two", 3])
        refused("22012", conn.execute, "select 1; select 1/0; select 3")
        conn.execute("")
        equal(value(conn, "select 4"), 4)


@check("parameters_all_types")
def parameters_all_types() -> None:
    moment = datetime(2024, 2, 29, 12, 34, 56, 789012, tzinfo=UTC)
    sent = [True, -32768, 2147483647, -9223372036854775808, 2.25, Decimal("123456789012345678901234567890.125")]
    sent += [
        "snowman ☃ 'quoted' \\",
        b"\x00\x01\xff\\",
        date(2024, 2, 29),
        moment,
        uuid.UUID(int=7),
        [1, None, 3],
        None,
    ]
    types = [
        "bool",
        "int2",
        "int4",
        "int8",
        "float8",
        "numeric",
        "text",
        "bytea",
        "date",
        "timestamptz",
        "uuid",
        "int4[]",
        "text",
    ]
    query = "select " + ", ".join(f"%s::{kind}" for kind in types)
    with connect() as conn:
        for binary in (False, True):
            for _ in range(8):
                equal(list(conn.execute(query, sent, binary=binary).fetchone()), sent)
        equal(value(conn, "select %s::jsonb", [Jsonb({"k": [1.5, "é", None]})]), {"k": [1.5, "é", None]})


@check("big_text_both_ways")
def big_text_both_ways() -> None:
    big = "0123456789abcdef" * ((10 << 20) // 16)
    with connect() as conn:
        for binary in (False, True):
            assert value(conn, "select %s::text", [big], binary=binary) == big, "10 MB changed on the way"
        assert value(conn, f"select '{big}'") == big, "10 MB changed on the way"


@check("many_parameters")
def many_parameters() -> None:
    count = 65535
    query = "select (array[" + ",".join(["%s::int4"] * count) + f"])[{count}]"
    with connect() as conn:
        equal(value(conn, query, list(range(count))), count - 1)


@check("prepared_automatically")
def prepared_automatically() -> None:
    def work(n: int) -> None:
        # Every connection names its statements _pg3_0, _pg3_1, ...
        with connect(prepare_threshold=2) as conn:
            for i in range(60):
                equal(value(conn, f"select 'client {n} ' || %s::text", [str(i)]), f"client {n} {i}")
                equal(value(conn, f"select {n * 1000} + %s::int4", [i]), n * 1000 + i)

    together(10, work)


@check("statement_cache_overflow")
def statement_cache_overflow() -> None:
    def work(n: int) -> None:
        with connect(prepare_threshold=0) as conn:
            conn.prepared_max = 6
            for round_ in range(3):
                for i in range(40):
                    equal(value(conn, f"select %s::int4 + {i}", [n + round_]), n + round_ + i)

    together(4, work)


@check("reprepare_after_ddl")
def reprepare_after_ddl() -> None:
    with connect(prepare_threshold=0) as conn, connect() as other:
        run(conn, "drop table if exists pg3_ddl", "create table pg3_ddl (a int)", "insert into pg3_ddl values (1)")
        for round_ in range(3):
            for _ in range(5):
                try:
                    equal(len(conn.execute("select * from pg3_ddl").fetchone()), round_ + 1)
                except psycopg.errors.FeatureNotSupported:
                    # psycopg leaves it at that; the program has to say DEALLOCATE ALL.
                    run(conn, "deallocate all")
            equal(len(conn.execute("select * from pg3_ddl").fetchone()), round_ + 1)
            run(other, f"alter table pg3_ddl add column c{round_} int")
        run(conn, "drop table pg3_ddl")


@check("deallocate_all_forgets")
def deallocate_all_forgets() -> None:
    with connect(prepare_threshold=0) as conn:
        for i in range(10):
            equal(value(conn, "select %s::int4", [i]), i)
            run(conn, "deallocate all" if i % 2 else "discard all")


@check("pipeline")
def pipeline() -> None:
    with connect(prepare_threshold=1) as conn:
        for _ in range(5):
            with conn.pipeline() as batch:
                cursors = [conn.execute("select %s::int4 + " + str(i % 7), [i]) for i in range(70)]
                batch.sync()
                cursors += [conn.execute("select %s::text", [str(i)]) for i in range(20)]
            equal(
                [cursor.fetchone()[0] for cursor in cursors],
                [i + i % 7 for i in range(70)] + [str(i) for i in range(20)],
            )


@check("pipeline_error_in_middle")
def pipeline_error_in_middle() -> None:
    with connect() as conn:
        run(conn, "drop table if exists pg3_pipe", "create table pg3_pipe (id int primary key)")
        # Which call raises depends on how soon the answers come; what is left in the table does not.
        for _ in range(4):
            with raising(psycopg.errors.UniqueViolation), conn.pipeline():
                conn.execute("insert into pg3_pipe values (1)")
                conn.execute("insert into pg3_pipe values (1)")
                conn.execute("insert into pg3_pipe values (2)")
            equal(value(conn, "select count(*) from pg3_pipe"), 0)
            with raising(psycopg.errors.UniqueViolation), conn.pipeline() as batch:
                conn.execute("insert into pg3_pipe values (3)")
                batch.sync()
                conn.execute("insert into pg3_pipe values (4)")
                conn.execute("insert into pg3_pipe values (3)")
                conn.execute("insert into pg3_pipe values (5)")
            equal(value(conn, "select array_agg(id) from pg3_pipe"), [3])
            run(conn, "delete from pg3_pipe")
        with conn.transaction(), conn.pipeline():
            for i in range(50):
                conn.execute("insert into pg3_pipe values (%s)", [i])
        equal(value(conn, "select count(*) from pg3_pipe"), 50)
        run(conn, "drop table pg3_pipe")


@check("executemany")
def executemany() -> None:
    with connect() as conn, conn.cursor() as cursor:
        run(conn, "drop table if exists pg3_many", "create table pg3_many (id int primary key, text text)")
        cursor.executemany("insert into pg3_many values (%s, %s)", [(i, f"row {i}") for i in range(3000)])
        equal(cursor.rowcount, 3000)
        cursor.executemany("select text from pg3_many where id = %s", [(i,) for i in range(50)], returning=True)
        seen = []
        while True:
            seen.append(cursor.fetchone()[0])
            if not cursor.nextset():
                break
        equal(seen, [f"row {i}" for i in range(50)])
        refused(
            "23505", cursor.executemany, "insert into pg3_many values (%s, '')", [(i + 2990,) for i in range(20, 0, -1)]
        )
        equal(value(conn, "select count(*) from pg3_many"), 3000)
        run(conn, "drop table pg3_many")


@check("transactions")
def transactions() -> None:
    with connect(autocommit=False) as conn:
        run(conn, "drop table if exists pg3_tx", "create table pg3_tx (a int primary key)")
        conn.commit()
        for i in range(10):
            conn.execute("insert into pg3_tx values (%s)", [i])
            if i % 2:
                conn.rollback()
            else:
                conn.commit()
        equal(value(conn, "select count(*) from pg3_tx"), 5)
        refused("23505", conn.execute, "insert into pg3_tx values (0)")
        equal(conn.info.transaction_status, psycopg.pq.TransactionStatus.INERROR)
        refused("25P02", conn.execute, "select 1")
        conn.commit()
        equal(conn.info.transaction_status, psycopg.pq.TransactionStatus.IDLE)
        with conn.transaction():
            conn.execute("insert into pg3_tx values (100)")
            try:
                with conn.transaction():
                    conn.execute("insert into pg3_tx values (100)")
            except psycopg.errors.UniqueViolation:
                pass
            with conn.transaction("named"):
                conn.execute("insert into pg3_tx values (101)")
        equal(value(conn, "select count(*) from pg3_tx"), 7)
        run(conn, "drop table pg3_tx")


@check("isolation_and_read_only")
def isolation_and_read_only() -> None:
    with connect(autocommit=False) as conn:
        for level in psycopg.IsolationLevel:
            conn.isolation_level = level
            conn.read_only = True
            conn.deferrable = True
            equal(value(conn, "show transaction_isolation"), level.name.lower().replace("_", " "))
            refused("25006", conn.execute, "create table pg3_never (a int)")
            conn.rollback()
    with connect() as conn, connect() as other:
        run(conn, "set default_transaction_read_only = on")
        for _ in range(5):
            refused("25006", conn.execute, "create table pg3_never (a int)")
            run(other, "create table pg3_ro (a int)", "drop table pg3_ro")


@check("server_cursors")
def server_cursors() -> None:
    def work(n: int) -> None:
        with connect(autocommit=False) as conn:
            with conn.cursor("named") as cursor:
                cursor.itersize = 30
                cursor.execute("select i + %s from generate_series(1, 500) i", [n * 1000])
                equal([row[0] for row in cursor], [n * 1000 + i for i in range(1, 501)])
            with conn.cursor("scrolling", scrollable=True) as cursor:
                cursor.execute("select generate_series(1, 100)")
                cursor.scroll(50)
                equal(cursor.fetchone()[0], 51)
                cursor.scroll(9, mode="absolute")
                equal(cursor.fetchone()[0], 10)
            conn.rollback()

    together(3, work)


@check("cursor_with_hold")
def cursor_with_hold() -> None:
    def work(n: int) -> None:
        with connect() as conn, conn.cursor("held", withhold=True) as cursor:
            cursor.execute("select i + %s from generate_series(1, 100) i", [n * 1000])
            for i in range(10):
                equal(cursor.fetchmany(10)[0][0], n * 1000 + i * 10 + 1)
                equal(value(conn, "select 1"), 1)

    together(2, work)


@check("stream_row_by_row")
def stream_row_by_row() -> None:
    with connect() as conn, conn.cursor() as cursor:
        equal(sum(row[0] for row in cursor.stream("select generate_series(1, %s)", [5000])), 5000 * 5001 // 2)
        for row in cursor.stream("select generate_series(1, 5000)"):
            if row[0] == 10:
                break
        equal(value(conn, "select 1"), 1)


@check("copy_both_ways")
def copy_both_ways() -> None:
    with connect() as conn, conn.cursor() as cursor:
        run(conn, "drop table if exists pg3_copy", "create table pg3_copy (id int, text text)")
        with cursor.copy("copy pg3_copy from stdin") as copy:
            for i in range(50000):
                copy.write_row((i, "some text of a row"))
        equal(cursor.rowcount, 50000)
        with cursor.copy("copy pg3_copy from stdin (format binary)") as copy:
            copy.set_types(["int4", "text"])
            for i in range(5000):
                copy.write_row((i, "binary"))
        received = 0
        with cursor.copy("copy pg3_copy to stdout") as copy:
            for row in copy.rows():
                assert row[1] in ("some text of a row", "binary")
                received += 1
        equal(received, 55000)
        run(conn, "drop table pg3_copy")


@check("copy_failures")
def copy_failures() -> None:
    with connect() as conn, conn.cursor() as cursor:
        run(conn, "drop table if exists pg3_copyfail", "create table pg3_copyfail (id int primary key)")

        def duplicates() -> None:
            with cursor.copy("copy pg3_copyfail from stdin") as copy:
                for _ in range(200):
                    copy.write("1\n" * 5000)

        def broken_source() -> None:
            with cursor.copy("copy pg3_copyfail from stdin") as copy:
                copy.write("5\n6\n")
                raise ZeroDivisionError

        def abandoned() -> None:
            with cursor.copy("copy (select generate_series(1, 1000000)) to stdout") as copy:
                copy.read()
                raise ZeroDivisionError

        for _ in range(5):
            refused("23505", duplicates)
            equal(value(conn, "select count(*) from pg3_copyfail"), 0)
            for action in (broken_source, abandoned):
                try:
                    action()
                except ZeroDivisionError:
                    pass
                equal(value(conn, "select count(*) from pg3_copyfail"), 0)
        run(conn, "drop table pg3_copyfail")


@check("listen_notify")
def listen_notify() -> None:
    with connect() as listener, connect() as stranger, connect() as sender:
        run(listener, "listen pg3_channel", "listen pg3_other")
        for i in range(5):
            sender.execute("select pg_notify('pg3_channel', %s)", [f"message {i}"])
            run(stranger, "select 1")
            heard = list(listener.notifies(timeout=5, stop_after=1))
            equal([(note.channel, note.payload) for note in heard], [("pg3_channel", f"message {i}")])
        equal(list(stranger.notifies(timeout=0.2)), [])
        run(listener, "unlisten pg3_channel")
        run(sender, "notify pg3_channel, 'late'", "notify pg3_other, 'kept'")
        equal([note.payload for note in listener.notifies(timeout=5, stop_after=1)], ["kept"])


@check("listen_while_idle")
def listen_while_idle() -> None:
    with connect() as listener, connect() as sender:
        run(listener, "listen pg3_idle")
        timer = threading.Timer(0.8, lambda: run(sender, "notify pg3_idle, 'wake'"))
        timer.start()
        equal([note.payload for note in listener.notifies(timeout=6, stop_after=1)], ["wake"])
        timer.join()


@check("cancel")
def cancel() -> None:
    with connect() as conn:
        for way in ("cancel", "cancel_safe") * 2:
            timer = threading.Timer(0.4, getattr(conn, way))
            timer.start()
            started = time.monotonic()
            refused("57014", conn.execute, "select pg_sleep(20)")
            assert time.monotonic() - started < 8, "the cancel took more than 8 s"
            timer.join()
            time.sleep(0.05)
            equal(value(conn, "select 1"), 1)


@check("large_objects")
def large_objects() -> None:
    content = b"0123456789" * 20000
    with connect() as conn, conn.transaction():
        oid = value(conn, "select lo_from_bytea(0, %s)", [content])
        descriptor = value(conn, "select lo_open(%s, 131072)", [oid])
        assert value(conn, "select loread(%s, 1000000)", [descriptor]) == content, "a large object changed"
        run(conn, f"select lo_unlink({oid})")


@check("search_path_sticks")
def search_path_sticks() -> None:
    with connect() as setup:
        for n in range(4):
            run(setup, f"drop schema if exists pg3_s{n} cascade", f"create schema pg3_s{n}")
            run(setup, f"create table pg3_s{n}.whose as select {n} as owner")

        def work(n: int) -> None:
            with connect(prepare_threshold=1) as conn:
                run(conn, f"set search_path to pg3_s{n}")
                for _ in range(60):
                    equal(value(conn, "select owner from whose"), n)

        together(4, work)
        equal(value(setup, "show search_path"), '"$user", public')
        for n in range(4):
            run(setup, f"drop schema pg3_s{n} cascade")


@check("settings_stick")
def settings_stick() -> None:
    options = "-c geqo=off -c statement_timeout=4321ms"
    with connect(application_name="pg3 one", options=options) as conn, connect(application_name="pg3 two") as other:
        run(
            conn, "set work_mem = '9MB'", "set time zone 'Asia/Tokyo'", "select set_config('app.tenant', 'blue', false)"
        )
        run(conn, "do $$ begin set random_page_cost = 2.5; end $$")
        equal(conn.info.parameter_status("TimeZone"), "Asia/Tokyo")
        equal(conn.info.timezone.key, "Asia/Tokyo")
        wanted = {"geqo": "off", "statement_timeout": "4321ms", "application_name": "pg3 one", "work_mem": "9MB"}
        wanted |= {"app.tenant": "blue", "random_page_cost": "2.5", "timezone": "Asia/Tokyo"}
        foreign = {"geqo": "on", "statement_timeout": "0", "application_name": "pg3 two", "work_mem": "4MB"}
        foreign |= {"random_page_cost": "4"}
        for _ in range(5):
            equal({name: value(conn, f"show {name}") for name in wanted}, wanted)
            equal({name: value(other, f"show {name}") for name in foreign}, foreign)
            equal(value(other, "select coalesce(current_setting('app.tenant', true), '')"), "")
        with conn.transaction():
            run(conn, "set local work_mem = '10MB'")
        with conn.transaction(force_rollback=True):
            run(conn, "set work_mem = '11MB'")
        equal(value(conn, "show work_mem"), "9MB")
        run(conn, "reset all")
        equal(value(conn, "show statement_timeout"), "4321ms")
        equal(value(conn, "show work_mem"), "4MB")


@check("client_encoding")
def client_encoding() -> None:
    with connect(client_encoding="latin1") as conn, connect() as other:
        for _ in range(5):
            equal(conn.info.encoding, "iso8859-1")
            equal(value(conn, "select 'é'"), "é")
            equal(value(conn, "select convert_from('\\xc3a9', 'utf8')"), "é")
            equal(value(other, "select '☃é'"), "☃é")
        run(conn, "set client_encoding to 'utf8'")
        for _ in range(3):
            equal(value(conn, "select '☃é'"), "☃é")


@check("statement_timeout")
def statement_timeout() -> None:
    with connect() as limited, connect() as free:
        run(limited, "set statement_timeout = '150ms'")
        for _ in range(3):
            refused("57014", limited.execute, "select pg_sleep(5)")
            run(free, "select pg_sleep(0.3)")


@check("roles")
def roles() -> None:
    with connect() as conn, connect() as other:
        run(conn, "set role driver_guest")
        for _ in range(5):
            equal(value(conn, "select current_user"), "driver_guest")
            equal(value(other, "select current_user"), setting("PGUSER"))
        run(conn, "reset role")
        equal(value(conn, "select current_user"), setting("PGUSER"))


@check("temp_table")
def temp_table() -> None:
    def work(n: int) -> None:
        with connect() as conn:
            run(conn, "create temp table mine (a int)")
            for i in range(30):
                conn.execute("insert into mine values (%s)", [n * 100 + i])
            equal(conn.execute("select min(a), count(*) from mine").fetchone(), (n * 100, 30))
            run(conn, "drop table mine")
            refused("42P01", conn.execute, "select * from mine")

    together(2, work)


@check("advisory_locks")
def advisory_locks() -> None:
    with connect() as holder:
        run(holder, "select pg_advisory_lock(77006)")
        with connect() as other:
            for _ in range(5):
                equal(value(other, "select pg_try_advisory_lock(77006)"), False)
                run(holder, "select 1")
            equal(value(holder, "select pg_advisory_unlock(77006)"), True)
            equal(value(other, "select pg_try_advisory_lock(77006)"), True)
        # `other` left without unlocking.
        wait_for(lambda: value(holder, "select pg_try_advisory_lock(77006)"), 5, "the lock of a client that left")
        run(holder, "select pg_advisory_unlock_all()")


@check("sql_prepare_execute")
def sql_prepare_execute() -> None:
    def work(n: int) -> None:
        with connect() as conn:
            run(conn, f"prepare plan (int) as select {n * 100} + $1")
            for i in range(20):
                equal(value(conn, f"execute plan({i})"), n * 100 + i)
            refused("42P05", conn.execute, "prepare plan as select 1")
            equal(conn.execute("deallocate plan").statusmessage, "DEALLOCATE")
            refused("26000", conn.execute, "execute plan(1)")
            run(conn, "prepare plan as select 1")
            equal(conn.execute("deallocate all").statusmessage, "DEALLOCATE ALL")
            refused("26000", conn.execute, "execute plan")

    together(4, work)


@check("two_phase_commit")
def two_phase_commit() -> None:
    with connect(autocommit=False) as conn:
        if value(conn, "show max_prepared_transactions") == "0":
            raise NotHere("max_prepared_transactions is 0")
        run(conn, "drop table if exists pg3_2pc", "create table pg3_2pc (a int)")
        conn.commit()
        for i in range(6):
            conn.tpc_begin(conn.xid(1, f"pg3 {os.getpid()} {i}", "branch"))
            conn.execute("insert into pg3_2pc values (%s)", [i])
            conn.tpc_prepare()
            if i % 2:
                conn.tpc_commit()
            else:
                conn.tpc_rollback()
        equal(value(conn, "select count(*) from pg3_2pc"), 3)
        conn.rollback()
        run(conn, "drop table pg3_2pc")
        conn.commit()


@check("sqlstates")
def sqlstates() -> None:
    states = {
        "selec": "42601",
        "select * from pg3_nowhere": "42P01",
        "insert into pg3_states values (1, null)": "23502",
        "insert into pg3_states values (1, 0)": "23514",
        "select 'x'::int": "22P02",
        "select 1/0": "22012",
        "set no_such_thing = 1": "42704",
        "do $$ begin raise exception 'mine' using errcode = 'ZZ001'; end $$": "ZZ001",
    }
    with connect() as conn:
        run(conn, "drop table if exists pg3_states")
        run(conn, "create table pg3_states (id int primary key, n int not null check (n > 0))")
        for statement, state in states.items():
            for prepare in (False, True):
                refused(state, conn.execute, statement, prepare=prepare)
        error = refused("23514", conn.execute, "insert into pg3_states values (1, 0)")
        equal((error.diag.table_name, error.diag.constraint_name), ("pg3_states", "pg3_states_n_check"))
        run(conn, "drop table pg3_states")


@check("notices")
def notices() -> None:
    heard = []
    with connect() as conn:
        conn.add_notice_handler(lambda notice: heard.append(f"{notice.severity} {notice.message_primary}"))
        run(conn, "do $$ begin raise notice 'one'; raise warning 'two'; end $$", "commit")
    equal(heard, ["NOTICE one", "WARNING two", "WARNING there is no transaction in progress"])


@check("threads_tagged_rows")
def threads_tagged_rows() -> None:
    def work(n: int) -> None:
        with connect(prepare_threshold=2) as conn:
            for i in range(60):
                tag = f"worker {n} item {i}"
                equal(value(conn, f"select %s::text where {i % 13} = {i % 13}", [tag]), tag)

    together(20, work)


@check("pool")
def pool() -> None:
    try:
        pools: Any = importlib.import_module("psycopg_pool")
    except ModuleNotFoundError as error:
        raise NotHere("psycopg_pool is not installed") from error
    with pools.ConnectionPool(
        kwargs=info(), min_size=5, max_size=20, timeout=15, check=pools.ConnectionPool.check_connection
    ) as many:
        with many.connection() as conn:
            run(conn, "drop table if exists pg3_bank")
            run(conn, "create table pg3_bank as select i as id, 100 as amount from generate_series(0, 19) i")

        def work(n: int) -> None:
            for i in range(12):
                low, high = sorted((n, (n + i + 1) % 20))
                try:
                    with many.connection() as conn, conn.transaction():
                        conn.execute("update pg3_bank set amount = amount - 1 where id = %s", [low])
                        if i % 4 == 3:
                            conn.execute("select 1/0")
                        conn.execute("update pg3_bank set amount = amount + 1 where id = %s", [high])
                except psycopg.errors.DivisionByZero:
                    assert i % 4 == 3

        together(20, work)
        with many.connection() as conn:
            equal(value(conn, "select sum(amount) from pg3_bank"), 2000)
            run(conn, "drop table pg3_bank")


@check("async_connections")
async def async_connections() -> None:
    async def work(n: int) -> None:
        settings: dict[str, Any] = info(prepare_threshold=1)
        conn: Any = await psycopg.AsyncConnection.connect(**settings)
        async with conn:
            for i in range(40):
                cursor = await conn.execute("select %s::text", [f"{n} {i}"])
                equal((await cursor.fetchone())[0], f"{n} {i}")
            async with conn.pipeline():
                cursors = [await conn.execute("select %s::int4", [i]) for i in range(40)]
            equal([(await cursor.fetchone())[0] for cursor in cursors], list(range(40)))
            await refused_later("22012", conn.execute("select 1/0"))

    await together_later(15, work)


@check("async_cancelled_task")
async def async_cancelled_task() -> None:
    settings: dict[str, Any] = info()
    conn: Any = await psycopg.AsyncConnection.connect(**settings)
    async with conn:
        for _ in range(4):
            try:
                await asyncio.wait_for(conn.execute("select pg_sleep(20)"), 0.4)
                raise AssertionError("no timeout")
            except TimeoutError:
                pass
            cursor = await conn.execute("select 1")
            equal((await cursor.fetchone())[0], 1)


@check("reconnect_loop")
def reconnect_loop() -> None:
    def work(n: int) -> None:
        for i in range(30):
            conn = connect(autocommit=i % 2 == 0)
            equal(value(conn, "select %s::int4", [n * 100 + i]), n * 100 + i)
            conn.close()

    together(4, work)


@check("wrong_password_and_database")
def wrong_password_and_database() -> None:
    for extra, text in (
        ({"password": "certainly wrong"}, "password authentication failed"),
        ({"dbname": "no_such_database"}, "no_such_database"),
    ):
        with raising(psycopg.OperationalError, text):
            connect(**extra)
    with connect() as conn:
        equal(value(conn, "select 1"), 1)


@check("protocol_3_2")
def protocol_3_2() -> None:
    if psycopg.pq.version() < 180000:
        raise NotHere(f"libpq {psycopg.pq.version() // 10000} does not know it")
    with connect(max_protocol_version="latest") as conn:
        equal(value(conn, "select 1"), 1)
        timer = threading.Timer(0.4, conn.cancel_safe)
        timer.start()
        refused("57014", conn.execute, "select pg_sleep(20)")


@check("idle_in_transaction")
def idle_in_transaction() -> None:
    with connect(autocommit=False) as idle:
        pid = value(idle, "select pg_backend_pid()")

        def work(_: int) -> None:
            with connect() as conn:
                for _ in range(20):
                    assert value(conn, "select pg_backend_pid()") != pid, "on the backend of an open transaction"

        together(4, work)
        time.sleep(0.5)
        equal(value(idle, "select pg_backend_pid()"), pid)


@check("backend_terminated")
def backend_terminated() -> None:
    for _ in range(3):
        with connect() as killer:
            victim = connect(autocommit=False)
            pid = value(victim, "select pg_backend_pid()")
            equal(value(killer, "select pg_terminate_backend(%s, 5000)", [pid]), True)
            try:
                victim.execute("select 1")
                raise AssertionError("a statement succeeded in a transaction whose backend was terminated")
            except psycopg.OperationalError:
                pass
            victim.close()
            equal(value(killer, "select 1"), 1)


@check("composed_sql_and_json")
def composed_sql_and_json() -> None:
    with connect() as conn:
        name = 'Odd "name" \' ☃'
        conn.execute(sql.SQL("drop table if exists {}").format(sql.Identifier(name)))
        conn.execute(sql.SQL("create table {} (a jsonb)").format(sql.Identifier(name)))
        for i in range(8):
            conn.execute(sql.SQL("insert into {} values (%s)").format(sql.Identifier(name)), [json.dumps({"i": i})])
        found = conn.execute(sql.SQL("select sum((a->>'i')::int) from {}").format(sql.Identifier(name))).fetchone()
        equal(found[0], 28)
        conn.execute(sql.SQL("drop table {}").format(sql.Identifier(name)))


if __name__ == "__main__":
    main()

"""Checks of psycopg 2: simple protocol only, but with everything that SQL scripts do."""

import contextlib
import io
import os
import select
import threading
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg2
import psycopg2.errors
import psycopg2.extensions
import psycopg2.extras
import psycopg2.pool

from tests.drivers.python.checks import NotHere, check, equal, main, raising, refused, setting, together, wait_for


def connect(**extra: Any) -> Any:
    autocommit = extra.pop("autocommit", True)
    conn = psycopg2.connect(
        **{
            "host": setting("PGHOST"),
            "port": setting("PGPORT"),
            "user": setting("PGUSER"),
            "password": setting("PGPASSWORD"),
            "dbname": setting("PGDATABASE"),
            **extra,
        }
    )
    conn.autocommit = autocommit
    return conn


def connected(**extra: Any) -> Any:
    return contextlib.closing(connect(**extra))


def run(conn: Any, *statements: str) -> None:
    with conn.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def value(conn: Any, query: str, parameters: Any = None) -> Any:
    with conn.cursor() as cursor:
        cursor.execute(query, parameters)
        return cursor.fetchone()[0]


@check("values_both_ways")
def values_both_ways() -> None:
    moment = datetime(2024, 2, 29, 12, 34, 56, 789012, tzinfo=UTC)
    sent = [
        True,
        2147483647,
        Decimal("123456789012345678901234567890.125"),
        "snowman ☃ 'quoted' \\ %",
        moment,
        [1, None, 3],
        None,
    ]
    with connected() as conn, conn.cursor() as cursor:
        for _ in range(5):
            cursor.execute("select %s, %s, %s, %s, %s::timestamptz, %s, %s", sent)
            equal(list(cursor.fetchone()), sent)
            cursor.execute("select %s::jsonb, %s::bytea", [psycopg2.extras.Json({"k": [1.5, None]}), b"\x00\xff\\"])
            json, raw = cursor.fetchone()
            equal((json, bytes(raw)), ({"k": [1.5, None]}, b"\x00\xff\\"))
        big = "0123456789abcdef" * ((10 << 20) // 16)
        assert value(conn, "select %s", [big]) == big, "10 MB changed on the way"
        run(conn, "select 1; select 2")


@check("transactions_and_savepoints")
def transactions_and_savepoints() -> None:
    with connected(autocommit=False) as conn:
        run(conn, "drop table if exists pg2_tx", "create table pg2_tx (a int primary key)")
        conn.commit()
        for i in range(10):
            run(conn, f"insert into pg2_tx values ({i})")
            (conn.rollback if i % 2 else conn.commit)()
        run(conn, "savepoint s")
        refused("23505", run, conn, "insert into pg2_tx values (0)")
        refused("25P02", run, conn, "select 1")
        run(conn, "rollback to savepoint s", "insert into pg2_tx values (100)", "release savepoint s")
        conn.commit()
        equal(value(conn, "select count(*) from pg2_tx"), 6)
        equal(conn.get_transaction_status(), psycopg2.extensions.TRANSACTION_STATUS_INTRANS)
        conn.rollback()
        conn.rollback()
        run(conn, "drop table pg2_tx")
        conn.commit()
        try:
            with conn:
                run(conn, "select 1/0")
        except psycopg2.errors.DivisionByZero:
            equal(conn.get_transaction_status(), psycopg2.extensions.TRANSACTION_STATUS_IDLE)


@check("session_characteristics")
def session_characteristics() -> None:
    with connected() as conn, connected() as other:
        conn.set_session(isolation_level="SERIALIZABLE", readonly=True, autocommit=False)
        for _ in range(4):
            equal(value(conn, "show transaction_isolation"), "serializable")
            refused("25006", run, conn, "create table pg2_never (a int)")
            conn.rollback()
        # In autocommit psycopg 2 sends SET SESSION CHARACTERISTICS.
        conn.set_session(isolation_level="REPEATABLE READ", readonly=True, autocommit=True)
        for _ in range(4):
            equal(value(conn, "show transaction_isolation"), "repeatable read")
            refused("25006", run, conn, "create table pg2_never (a int)")
            equal(value(other, "show transaction_isolation"), "read committed")
            run(other, "create table pg2_ro (a int)", "drop table pg2_ro")


@check("named_cursors")
def named_cursors() -> None:
    def work(n: int) -> None:
        with connected(autocommit=False) as conn:
            with conn.cursor("named") as cursor:
                cursor.itersize = 30
                cursor.execute("select i + %s from generate_series(1, 300) i", [n * 1000])
                equal([row[0] for row in cursor], [n * 1000 + i for i in range(1, 301)])
            with conn.cursor("scrolling", scrollable=True) as cursor:
                cursor.execute("select generate_series(1, 100)")
                cursor.scroll(50)
                equal(cursor.fetchone()[0], 51)
            conn.commit()

    together(3, work)


@check("cursor_with_hold")
def cursor_with_hold() -> None:
    def work(n: int) -> None:
        with connected(autocommit=False) as conn:
            cursor = conn.cursor("held", withhold=True)
            cursor.execute("select i + %s from generate_series(1, 100) i", [n * 1000])
            conn.commit()
            for i in range(10):
                equal(cursor.fetchmany(10)[0][0], n * 1000 + i * 10 + 1)
                conn.commit()
            cursor.close()
            conn.commit()

    together(2, work)


@check("execute_values_and_batch")
def execute_values_and_batch() -> None:
    with connected() as conn, conn.cursor() as cursor:
        run(conn, "drop table if exists pg2_many", "create table pg2_many (id int primary key, text text)")
        psycopg2.extras.execute_values(
            cursor, "insert into pg2_many values %s", [(i, f"row {i}") for i in range(5000)], page_size=500
        )
        psycopg2.extras.execute_batch(
            cursor, "update pg2_many set text = %s where id = %s", [(f"new {i}", i) for i in range(500)]
        )
        equal(value(conn, "select count(*) from pg2_many where text like 'new%'"), 500)
        refused("23505", psycopg2.extras.execute_values, cursor, "insert into pg2_many values %s", [(1, "")])
        run(conn, "drop table pg2_many")


@check("copy")
def copy() -> None:
    with connected() as conn, conn.cursor() as cursor:
        run(conn, "drop table if exists pg2_copy", "create table pg2_copy (id int primary key)")
        cursor.copy_expert("copy pg2_copy from stdin", io.StringIO("".join(f"{i}\n" for i in range(100000))))
        out = io.StringIO()
        cursor.copy_expert("copy pg2_copy to stdout", out)
        equal(out.getvalue().count("\n"), 100000)

        class Broken(io.StringIO):
            def read(self, _size: int | None = -1) -> str:
                raise ZeroDivisionError("the source of the data broke")

        for _ in range(5):
            refused("23505", cursor.copy_expert, "copy pg2_copy from stdin", io.StringIO("7\n" * 500000))
            refused("57014", cursor.copy_expert, "copy pg2_copy from stdin", Broken())
            refused("42P01", cursor.copy_expert, "copy pg2_nowhere from stdin", io.StringIO("7\n"))
            failing = "copy (select 1 / (5000 - i) from generate_series(1, 10000) i) to stdout"
            refused("22012", cursor.copy_expert, failing, io.StringIO())
            equal(value(conn, "select count(*) from pg2_copy"), 100000)
        run(conn, "drop table pg2_copy")


@check("large_objects")
def large_objects() -> None:
    content = b"0123456789" * 30000
    with connected(autocommit=False) as conn:
        large = conn.lobject(0, "wb")
        large.write(content)
        large.close()
        conn.commit()
        again = conn.lobject(large.oid, "rb")
        assert again.read() == content, "a large object changed"
        again.seek(10)
        equal(again.read(5), b"01234")
        again.unlink()
        conn.commit()


@check("listen_notify")
def listen_notify() -> None:
    def heard(conn: Any, seconds: float) -> list[str]:
        if select.select([conn], [], [], seconds)[0]:
            conn.poll()
        notes = [f"{note.channel} {note.payload}" for note in conn.notifies]
        conn.notifies.clear()
        return notes

    with connected() as listener, connected() as stranger, connected() as sender:
        run(listener, "listen pg2_channel")
        for i in range(5):
            run(sender, f"notify pg2_channel, 'message {i}'")
            equal(heard(listener, 5), [f"pg2_channel message {i}"])
        timer = threading.Timer(0.8, lambda: run(sender, "notify pg2_channel, 'wake'"))
        timer.start()
        equal(heard(listener, 6), ["pg2_channel wake"])
        timer.join()
        run(listener, "unlisten *")
        run(sender, "notify pg2_channel, 'late'")
        equal(heard(listener, 0.3), [])
        equal(heard(stranger, 0.1), [])


@check("asynchronous_connection")
def asynchronous_connection() -> None:
    def wait(conn: Any) -> None:
        while (state := conn.poll()) != psycopg2.extensions.POLL_OK:
            reading = [conn] if state == psycopg2.extensions.POLL_READ else []
            select.select(reading, [] if reading else [conn], [], 10)

    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    conn = psycopg2.connect(**{name: setting(variable) for name, variable in names.items()}, async_=True)
    wait(conn)
    with contextlib.closing(conn), conn.cursor() as cursor:
        for i in range(20):
            cursor.execute("select %s", [i])
            wait(conn)
            equal(cursor.fetchone()[0], i)


@check("cancel")
def cancel() -> None:
    with connected() as conn:
        for _ in range(3):
            timer = threading.Timer(0.4, conn.cancel)
            timer.start()
            started = time.monotonic()
            refused("57014", run, conn, "select pg_sleep(20)")
            assert time.monotonic() - started < 8, "the cancel took more than 8 s"
            timer.join()
            time.sleep(0.05)
            equal(value(conn, "select 1"), 1)


@check("settings_stick")
def settings_stick() -> None:
    options = "-c geqo=off -c search_path=pg2_path"
    with connected(application_name="pg2 one", options=options) as conn, connected() as other:
        run(conn, "set work_mem = '9MB'; set time zone 'Asia/Tokyo'", "select set_config('app.tenant', 'blue', false)")
        wanted = {"geqo": "off", "search_path": "pg2_path", "application_name": "pg2 one", "work_mem": "9MB"}
        wanted |= {"app.tenant": "blue", "timezone": "Asia/Tokyo"}
        for _ in range(5):
            equal({name: value(conn, f"show {name}") for name in wanted}, wanted)
            equal(value(other, "show work_mem"), "4MB")
            equal(value(other, "show geqo"), "on")
        equal(conn.get_parameter_status("TimeZone"), "Asia/Tokyo")
        conn.reset()
        equal(value(conn, "show work_mem"), "4MB")
        equal(value(conn, "show search_path"), "pg2_path")


@check("client_encoding")
def client_encoding() -> None:
    with connected() as conn, connected() as other:
        conn.set_client_encoding("LATIN1")
        for _ in range(5):
            equal(value(conn, "select 'é'"), "é")
            equal(value(conn, "show client_encoding"), "LATIN1")
            equal(value(other, "select '☃é'"), "☃é")
        conn.set_client_encoding("UTF8")
        equal(value(conn, "select '☃é'"), "☃é")


@check("sql_prepare_execute")
def sql_prepare_execute() -> None:
    def work(n: int) -> None:
        with connected() as conn:
            run(conn, f"prepare plan (int) as select {n * 100} + $1")
            for i in range(20):
                equal(value(conn, "execute plan(%s)", [i]), n * 100 + i)
            refused("42P05", run, conn, "prepare plan as select 1")
            run(conn, "deallocate plan")
            refused("26000", run, conn, "execute plan(1)")
            run(conn, "prepare plan as select 1", "deallocate all")
            refused("26000", run, conn, "deallocate plan")

    together(4, work)


@check("sql_prepare_in_transaction")
def sql_prepare_in_transaction() -> None:
    with connected(autocommit=False) as conn:
        run(conn, "prepare kept as select 'kept'")
        conn.rollback()  # PREPARE is not undone by this
        equal(value(conn, "execute kept"), "kept")
        conn.commit()
        run(conn, "discard plans", "deallocate kept")
        conn.commit()


@check("temp_table")
def temp_table() -> None:
    def work(n: int) -> None:
        with connected() as conn:
            run(conn, "create temp table mine (a int)")
            for i in range(30):
                run(conn, f"insert into mine values ({n * 100 + i})")
            equal(value(conn, "select min(a) from mine"), n * 100)
            run(conn, "discard temp")
            refused("42P01", run, conn, "select * from mine")

    together(2, work)
    with connected() as conn:
        run(conn, "select 1 as a into temp selected")
        for _ in range(5):
            equal(value(conn, "select a from selected"), 1)


@check("advisory_locks")
def advisory_locks() -> None:
    with connected() as holder:
        run(holder, "select pg_advisory_lock(77007)")
        with connected() as other:
            for _ in range(5):
                equal(value(other, "select pg_try_advisory_lock(77007)"), False)
            run(holder, "select pg_advisory_unlock_all()")
            equal(value(other, "select pg_try_advisory_lock(77007)"), True)
        wait_for(lambda: value(holder, "select pg_try_advisory_lock(77007)"), 5, "the lock of a client that left")
        run(holder, "select pg_advisory_unlock(77007)")


@check("two_phase_commit")
def two_phase_commit() -> None:
    with connected(autocommit=False) as conn:
        if value(conn, "show max_prepared_transactions") == "0":
            raise NotHere("max_prepared_transactions is 0")
        run(conn, "drop table if exists pg2_2pc", "create table pg2_2pc (a int)")
        conn.commit()
        for i in range(4):
            conn.tpc_begin(conn.xid(1, f"pg2 {os.getpid()} {i}", "branch"))
            run(conn, f"insert into pg2_2pc values ({i})")
            conn.tpc_prepare()
            (conn.tpc_commit if i % 2 else conn.tpc_rollback)()
        equal(value(conn, "select count(*) from pg2_2pc"), 2)
        conn.rollback()
        run(conn, "drop table pg2_2pc")
        conn.commit()


@check("notices_and_errors")
def notices_and_errors() -> None:
    with connected() as conn:
        run(conn, "do $$ begin raise notice 'one'; raise warning 'two'; end $$", "commit")
        heard = [notice.strip() for notice in conn.notices]
        equal(heard, ["NOTICE:  one", "WARNING:  two", "WARNING:  there is no transaction in progress"])
        for statement, state in {"selec": "42601", "select * from pg2_nowhere": "42P01", "select 1/0": "22012"}.items():
            refused(state, run, conn, statement)
        error = refused(
            "P0001", run, conn, "do $$ begin raise exception 'mine' using detail = 'more', hint = 'less'; end $$"
        )
        equal((error.diag.message_detail, error.diag.message_hint), ("more", "less"))


@check("pool_tagged_rows")
def pool_tagged_rows() -> None:
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    pool = psycopg2.pool.ThreadedConnectionPool(1, 20, **{name: setting(variable) for name, variable in names.items()})

    def work(n: int) -> None:
        for i in range(40):
            conn = pool.getconn()
            tag = f"worker {n} item {i}"
            equal(value(conn, "select %s", [tag]), tag)
            if i % 5 == 0:
                refused("22012", run, conn, "select 1/0")
            pool.putconn(conn)

    together(20, work)
    pool.closeall()


@check("reconnect_loop")
def reconnect_loop() -> None:
    def work(n: int) -> None:
        for i in range(30):
            with connected(autocommit=i % 2 == 0) as conn:
                equal(value(conn, "select %s", [n * 100 + i]), n * 100 + i)

    together(4, work)


@check("wrong_password_and_database")
def wrong_password_and_database() -> None:
    for extra, text in (
        ({"password": "certainly wrong"}, "password authentication failed"),
        ({"dbname": "no_such_database"}, "no_such_database"),
    ):
        with raising(psycopg2.OperationalError, text):
            connect(**extra)


if __name__ == "__main__":
    main()

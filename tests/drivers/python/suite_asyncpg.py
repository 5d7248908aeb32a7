"""Checks of asyncpg: everything prepared, binary, cached by text; its pool resets with one simple query."""

import asyncio
import io
import json
import time
import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg

from tests.drivers.python.checks import check, equal, main, raising, refused_later, setting, together_later


def info(**extra: Any) -> dict[str, Any]:
    return {
        "host": setting("PGHOST"),
        "port": int(setting("PGPORT")),
        "user": setting("PGUSER"),
        "password": setting("PGPASSWORD"),
        "database": setting("PGDATABASE"),
        **extra,
    }


class connected:  # noqa: N801 - used as a function
    """A connection for one `async with`."""

    def __init__(self, **extra: Any) -> None:
        self._extra = extra
        self._conn: Any = None

    async def __aenter__(self) -> Any:
        self._conn = await asyncpg.connect(**info(**self._extra))
        return self._conn

    async def __aexit__(self, *_: object) -> None:
        await self._conn.close(timeout=10)


async def run(conn: Any, *statements: str) -> None:
    for statement in statements:
        await conn.execute(statement)


@check("simple_and_extended")
async def simple_and_extended() -> None:
    async with connected() as conn:
        for i in range(30):
            equal(await conn.fetchval(f"select {i}"), i)
            equal(await conn.execute("select 1; select 2"), "SELECT 1")
            equal(await conn.fetchval("select $1::int4 + 1", i), i + 1)
        await refused_later("22012", conn.execute("select 1; select 1/0"))


@check("parameters_all_types")
async def parameters_all_types() -> None:
    moment = datetime(2024, 2, 29, 12, 34, 56, 789012, tzinfo=UTC)
    sent = [True, -32768, 2147483647, -9223372036854775808, 2.25, Decimal("123456789012345678901234567890.125")]
    sent += [
        "snowman ☃",
        b"\x00\xff",
        date(2024, 2, 29),
        moment,
        uuid.UUID(int=7),
        [1, None, 3],
        None,
        timedelta(days=2),
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
        "interval",
    ]
    query = "select " + ", ".join(f"${i}::{kind}" for i, kind in enumerate(types, 1))
    async with connected() as conn:
        for _ in range(5):
            equal(list(await conn.fetchrow(query, *sent)), sent)
        await conn.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
        equal(await conn.fetchval("select $1::jsonb", {"k": [1.5, "é", None]}), {"k": [1.5, "é", None]})


@check("big_values")
async def big_values() -> None:
    big = "0123456789abcdef" * ((10 << 20) // 16)
    async with connected() as conn:
        assert await conn.fetchval("select $1::text", big) == big, "10 MB changed on the way"
        count = 32767
        query = "select (array[" + ",".join(f"${i}::int4" for i in range(1, count + 1)) + f"])[{count}]"
        equal(await conn.fetchval(query, *range(count)), count - 1)


@check("names_collide")
async def names_collide() -> None:
    async def work(n: int) -> None:
        # Every connection counts its statements __asyncpg_stmt_1__, ...
        async with connected() as conn:
            for i in range(60):
                equal(await conn.fetchval(f"select 'client {n} ' || $1::text", str(i)), f"client {n} {i}")
                equal(await conn.fetchval(f"select {n * 1000} + $1::int4", i), n * 1000 + i)

    await together_later(12, work)


@check("statement_cache_overflow")
async def statement_cache_overflow() -> None:
    async def work(n: int) -> None:
        async with connected(statement_cache_size=6) as conn:
            for round_ in range(3):
                for i in range(40):
                    equal(await conn.fetchval(f"select $1::int4 + {i}", n + round_), n + round_ + i)

    await together_later(5, work)


@check("statement_cache_off")
async def statement_cache_off() -> None:
    async def work(n: int) -> None:
        async with connected(statement_cache_size=0) as conn:
            for i in range(40):
                equal(await conn.fetchval("select $1::text", f"{n} {i}"), f"{n} {i}")

    await together_later(5, work)


@check("prepared_explicitly")
async def prepared_explicitly() -> None:
    async def work(n: int) -> None:
        async with connected() as conn:
            named = await conn.prepare(f"select {n} + $1::int4", name="mine")
            plain = await conn.prepare("select $1::text, $2::int4")
            equal([kind.name for kind in plain.get_parameters()], ["text", "int4"])
            for i in range(40):
                equal(await named.fetchval(i), n + i)
                equal(tuple(await plain.fetchrow(f"{n}", i)), (f"{n}", i))
            equal(len((await plain.explain("a", 1))[0]), 1)

    await together_later(8, work)


@check("reprepare_after_ddl")
async def reprepare_after_ddl() -> None:
    async with connected() as conn, connected() as other:
        await run(
            conn, "drop table if exists apg_ddl", "create table apg_ddl (a int)", "insert into apg_ddl values (1)"
        )
        for round_ in range(4):
            for _ in range(4):
                # Outside a transaction asyncpg prepares again by itself.
                equal(len(await conn.fetchrow("select * from apg_ddl")), round_ + 1)
            await run(conn if round_ % 2 else other, f"alter table apg_ddl add column c{round_} int")
        transaction = conn.transaction()
        await transaction.start()
        try:
            await conn.fetchrow("select * from apg_ddl")
        except asyncpg.InvalidCachedStatementError:
            pass
        await transaction.rollback()
        equal(len(await conn.fetchrow("select * from apg_ddl")), 5)
        await run(conn, "drop table apg_ddl")


@check("type_changes")
async def type_changes() -> None:
    async with connected() as conn:
        await run(conn, "drop type if exists apg_pair cascade", "create type apg_pair as (a int, b text)")
        await run(conn, "drop type if exists apg_mood cascade", "create type apg_mood as enum ('sad', 'ok')")
        equal(tuple(await conn.fetchval("select row(1, 'x')::apg_pair")), (1, "x"))
        equal(await conn.fetchval("select $1::apg_mood", "ok"), "ok")
        await run(conn, "alter type apg_pair add attribute c int")
        try:
            await conn.fetchval("select row(1, 'x', 3)::apg_pair")
            raise AssertionError("the driver decoded a type that it knew otherwise")
        except asyncpg.OutdatedSchemaCacheError:
            # Asked to, asyncpg reads the catalogue again.
            await conn.reload_schema_state()
        equal(len(await conn.fetchval("select row(1, 'x', 3)::apg_pair")), 3)
        await run(conn, "drop type apg_pair", "drop type apg_mood")


@check("executemany")
async def executemany() -> None:
    async with connected() as conn:
        await run(conn, "drop table if exists apg_many", "create table apg_many (id int primary key, text text)")
        await conn.executemany("insert into apg_many values ($1, $2)", [(i, f"row {i}") for i in range(20000)])
        await refused_later(
            "23505", conn.executemany("insert into apg_many values ($1, '')", [(i,) for i in range(20100, 19990, -1)])
        )
        equal(await conn.fetchval("select count(*) from apg_many"), 20000)
        rows = await conn.fetchmany(
            "update apg_many set text = 'x' where id = $1 returning id", [(i,) for i in range(100)]
        )
        equal([row[0] for row in rows], list(range(100)))
        await run(conn, "drop table apg_many")


@check("errors_in_between")
async def errors_in_between() -> None:
    async with connected() as conn:
        for i in range(10):
            await refused_later("22012", conn.fetchval("select 1 / $1::int4", 0))
            await refused_later("42601", conn.fetchval("selec"))
            await refused_later("42P01", conn.fetchval("select * from apg_nowhere"))
            equal(await conn.fetchval("select $1::int4", i), i)
        error = await refused_later(
            "P0001", conn.execute("do $$ begin raise exception 'mine' using detail = 'more'; end $$")
        )
        equal(error.detail, "more")


@check("transactions")
async def transactions() -> None:
    async with connected() as conn:
        await run(conn, "drop table if exists apg_tx", "create table apg_tx (a int primary key)")
        for i in range(8):
            transaction = conn.transaction()
            await transaction.start()
            await conn.execute("insert into apg_tx values ($1)", i)
            await (transaction.rollback() if i % 2 else transaction.commit())
        async with conn.transaction(isolation="serializable", readonly=True, deferrable=True):
            equal(await conn.fetchval("show transaction_isolation"), "serializable")
        with raising(ZeroDivisionError):
            async with conn.transaction():
                await conn.execute("insert into apg_tx values (100)")
                try:
                    async with conn.transaction():
                        await conn.execute("insert into apg_tx values (100)")
                except asyncpg.UniqueViolationError:
                    await conn.execute("insert into apg_tx values (101)")
                await refused_later("23505", conn.execute("insert into apg_tx values (0)"))
                await refused_later("25P02", conn.execute("select 1"))
                await refused_later("25P02", conn.fetchval("select 'never prepared'"))
                raise ZeroDivisionError
        equal(await conn.fetchval("select count(*) from apg_tx"), 4)
        await run(conn, "drop table apg_tx")


@check("cursors")
async def cursors() -> None:
    async def work(n: int) -> None:
        async with connected() as conn:
            for _ in range(3):
                async with conn.transaction():
                    seen = [
                        row[0]
                        async for row in conn.cursor(
                            "select i + $1::int4 from generate_series(1, 300) i", n * 1000, prefetch=23
                        )
                    ]
                    equal(seen, [n * 1000 + i for i in range(1, 301)])
                    cursor = await conn.cursor("select generate_series(1, 100)")
                    equal((await cursor.fetchrow())[0], 1)
                    equal(await cursor.forward(10), 10)
                    equal([row[0] for row in await cursor.fetch(3)], [12, 13, 14])

    await together_later(3, work)


@check("cursor_with_hold")
async def cursor_with_hold() -> None:
    async def work(n: int) -> None:
        async with connected() as conn:
            await run(
                conn,
                f"begin; declare held cursor with hold for select i + {n * 1000} from generate_series(1, 50) i; commit",
            )
            for i in range(10):
                equal((await conn.fetch("fetch 5 from held"))[0][0], n * 1000 + i * 5 + 1)
            await run(conn, "close held")
            await refused_later("34000", conn.fetch("fetch 5 from held"))

    await together_later(2, work)


@check("copy")
async def copy() -> None:
    async with connected() as conn:
        await run(conn, "drop table if exists apg_copy", "create table apg_copy (id int primary key, text text)")
        equal(
            await conn.copy_records_to_table("apg_copy", records=((i, f"row {i}") for i in range(50000))), "COPY 50000"
        )
        out = io.BytesIO()
        equal(await conn.copy_from_table("apg_copy", output=out), "COPY 50000")
        await run(conn, "truncate apg_copy")
        out.seek(0)
        equal(await conn.copy_to_table("apg_copy", source=out), "COPY 50000")

        async def broken() -> Any:
            yield b"60000\tx\n"
            raise ZeroDivisionError("the source of the data broke")

        for _ in range(5):
            await refused_later("23505", conn.copy_to_table("apg_copy", source=io.BytesIO(b"7\tduplicate\n" * 200000)))
            await refused_later("42P01", conn.copy_to_table("apg_nowhere", source=io.BytesIO(b"7\n")))
            try:
                await conn.copy_to_table("apg_copy", source=broken())
                raise AssertionError("a broken source did not fail")
            except ZeroDivisionError:
                pass
            failing = "select 1 / (5000 - i) from generate_series(1, 10000) i"
            await refused_later("22012", conn.copy_from_query(failing, output=io.BytesIO()))
            equal(await conn.fetchval("select count(*) from apg_copy"), 50000)
        await run(conn, "drop table apg_copy")


@check("listeners")
async def listeners() -> None:
    async with connected() as listener, connected() as stranger, connected() as sender:
        heard: asyncio.Queue[str] = asyncio.Queue()
        wrong: list[object] = []

        def callback(_conn: object, _pid: int, channel: str, payload: object) -> None:
            heard.put_nowait(f"{channel} {payload}")

        await listener.add_listener("apg_channel", callback)
        await stranger.add_listener("apg_else", lambda *note: wrong.append(note))
        for i in range(5):
            await sender.execute("select pg_notify('apg_channel', $1)", f"message {i}")
            await stranger.execute("select 1")
            equal(await asyncio.wait_for(heard.get(), 5), f"apg_channel message {i}")
        await asyncio.sleep(0.5)
        async with sender.transaction():
            await sender.execute("notify apg_channel, 'at commit'")
            await asyncio.sleep(0.2)
            assert heard.empty(), "notified before the sender committed"
        equal(await asyncio.wait_for(heard.get(), 5), "apg_channel at commit")
        await listener.remove_listener("apg_channel", callback)
        await sender.execute("notify apg_channel, 'late'")
        await asyncio.sleep(0.3)
        equal((heard.empty(), wrong), (True, []))


@check("cancel_by_timeout")
async def cancel_by_timeout() -> None:
    async with connected() as conn:
        for i in range(3):
            started = time.monotonic()
            try:
                await conn.fetchval("select pg_sleep(20)", timeout=0.4)
                raise AssertionError("no timeout")
            except TimeoutError:
                pass
            assert time.monotonic() - started < 8, "the cancel took more than 8 s"
            equal(await conn.fetchval("select $1::int4", i), i)
        task = asyncio.ensure_future(conn.execute("select pg_sleep(20)"))
        await asyncio.sleep(0.4)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            pass
        equal(await conn.fetchval("select 1"), 1)


@check("settings_stick")
async def settings_stick() -> None:
    async def work(n: int) -> None:
        settings = {"application_name": f"apg {n}", "search_path": f"apg_path_{n}", "jit": "off", "geqo": "off"}
        async with connected(server_settings=settings) as conn:
            await run(conn, f"set work_mem = '{n + 10}MB'", f"set time zone '{n + 1}'")
            for _ in range(15):
                for name, wanted in {**settings, "work_mem": f"{n + 10}MB"}.items():
                    equal(await conn.fetchval(f"show {name}"), wanted)
                text = await conn.fetchval("select '2024-01-01T00:00:00Z'::timestamptz::text")
                equal(text, f"2024-01-01 0{n + 1}:00:00+0{n + 1}")
            await conn.reset()
            equal(await conn.fetchval("show work_mem"), "4MB")
            equal(await conn.fetchval("show search_path"), f"apg_path_{n}")

    await together_later(4, work)


@check("search_path_and_statements")
async def search_path_and_statements() -> None:
    async with connected() as setup:
        for n in range(4):
            await run(setup, f"drop schema if exists apg_s{n} cascade", f"create schema apg_s{n}")
            await run(setup, f"create table apg_s{n}.whose as select {n} as owner")

        async def work(n: int) -> None:
            async with connected() as conn:
                await run(conn, f"set search_path to apg_s{n}")
                for _ in range(50):
                    equal(await conn.fetchval("select owner from whose"), n)

        await together_later(4, work)
        for n in range(4):
            await run(setup, f"drop schema apg_s{n} cascade")


@check("temp_table_and_locks")
async def temp_table_and_locks() -> None:
    async with connected() as conn, connected() as other:
        await run(conn, "create temp table mine (a int)", "select pg_advisory_lock(77008)")
        for i in range(20):
            await conn.execute("insert into mine values ($1)", i)
            equal(await other.fetchval("select pg_try_advisory_lock(77008)"), False)
        equal(await conn.fetchval("select count(*) from mine"), 20)
        await run(conn, "drop table mine")
        equal(await conn.fetchval("select pg_advisory_unlock(77008)"), True)


@check("sql_prepare_execute")
async def sql_prepare_execute() -> None:
    async def work(n: int) -> None:
        async with connected() as conn:
            await run(conn, f"prepare plan (int) as select {n * 100} + $1")
            for i in range(10):
                equal(await conn.fetchval(f"execute plan({i})"), n * 100 + i)
            await run(conn, "deallocate plan")
            await refused_later("26000", conn.execute("execute plan(1)"))

    await together_later(3, work)


@check("notices")
async def notices() -> None:
    heard: list[str] = []
    async with connected() as conn:
        conn.add_log_listener(lambda _, message: heard.append(f"{message.severity} {message.message}"))
        await run(conn, "do $$ begin raise notice 'one'; raise warning 'two'; end $$")
        await asyncio.sleep(0.05)
    equal(heard, ["NOTICE one", "WARNING two"])


@check("pool_tagged_rows")
async def pool_tagged_rows() -> None:
    async with asyncpg.create_pool(**info(min_size=4, max_size=20)) as pool:

        async def work(n: int) -> None:
            for i in range(60):
                tag = f"worker {n} item {i}"
                equal(await pool.fetchval(f"select $1::text where {i % 13} = {i % 13}", tag), tag)

        await together_later(20, work)


@check("pool_transactions_and_reset")
async def pool_transactions_and_reset() -> None:
    async with asyncpg.create_pool(**info(min_size=4, max_size=20)) as pool:
        await pool.execute("drop table if exists apg_bank")
        await pool.execute("create table apg_bank as select i as id, 100 as amount from generate_series(0, 19) i")

        async def work(n: int) -> None:
            for i in range(12):
                low, high = sorted((n, (n + i + 1) % 20))
                async with pool.acquire() as conn:
                    equal(await conn.fetchval("show work_mem"), "4MB")
                    try:
                        async with conn.transaction():
                            await conn.execute("update apg_bank set amount = amount - 1 where id = $1", low)
                            if i % 4 == 3:
                                await conn.execute("select 1/0")
                            await conn.execute("update apg_bank set amount = amount + 1 where id = $1", high)
                    except asyncpg.DivisionByZeroError:
                        assert i % 4 == 3
                    # Left behind for the pool's reset to undo.
                    await conn.execute("set work_mem = '7MB'")

        await together_later(20, work)
        equal(await pool.fetchval("select sum(amount) from apg_bank"), 2000)
        await pool.execute("drop table apg_bank")


@check("reconnect_loop")
async def reconnect_loop() -> None:
    async def work(n: int) -> None:
        for i in range(25):
            conn = await asyncpg.connect(**info())
            equal(await conn.fetchval("select $1::int4", n * 100 + i), n * 100 + i)
            if i % 3 == 0:
                await conn.execute("begin")
                conn.terminate()
            else:
                await conn.close()

    await together_later(3, work)


@check("wrong_password_and_database")
async def wrong_password_and_database() -> None:
    await refused_later("28P01", asyncpg.connect(**info(password="certainly wrong")))
    await refused_later("3D000", asyncpg.connect(**info(database="no_such_database")))
    async with connected() as conn:
        equal(await conn.fetchval("select 1"), 1)


@check("backend_terminated")
async def backend_terminated() -> None:
    for _ in range(3):
        async with connected() as killer:
            victim = await asyncpg.connect(**info())
            await victim.execute("begin")
            pid = await victim.fetchval("select pg_backend_pid()")
            equal(await killer.fetchval("select pg_terminate_backend($1, 5000)", pid), True)
            try:
                await victim.fetchval("select 1")
                raise AssertionError("a statement succeeded in a transaction whose backend was terminated")
            except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
                pass
            victim.terminate()
            equal(await killer.fetchval("select 1"), 1)


if __name__ == "__main__":
    main()

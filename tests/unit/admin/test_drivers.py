"""Real drivers with their defaults, and psql, talk to the console as they would to PostgreSQL."""

import asyncio
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator

import asyncpg
import psycopg
import psycopg2
import pytest
import sqlalchemy

from tests.support.console_server import ConsoleServer
from tests.support.control import House


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture
def server(house: House) -> Iterator[ConsoleServer]:
    with ConsoleServer(house) as running:
        yield running


def dsn(server: ConsoleServer, database: str = "pgdoorman") -> str:
    return f"host=127.0.0.1 port={server.port} user=operator dbname={database} sslmode=prefer connect_timeout=10"


@pytest.mark.parametrize("database", ["pgdoorman", "pgbouncer"])
@pytest.mark.parametrize("autocommit", [True, False])
def test_psycopg(server: ConsoleServer, house: House, database: str, autocommit: bool) -> None:
    with psycopg.connect(dsn(server, database), autocommit=autocommit) as connection:
        for binary in (False, True):
            rows = connection.execute("SHOW LISTS", binary=binary).fetchall()
            assert rows[0] == ("databases", 2)
        totals = connection.execute("SHOW TOTALS", binary=True).fetchall()
        assert ("total_xact_count", 200) in totals
        cursor = connection.execute("PAUSE shop")
        assert cursor.statusmessage == "PAUSE"
        with pytest.raises(psycopg.Error):
            connection.execute("PAUSE nope")
        if not autocommit:
            connection.rollback()
        for _ in range(10):  # prepares the statement on the way
            connection.execute("SHOW VERSION", prepare=True)
        with connection.transaction():
            assert connection.execute("SELECT 1").fetchone() == (1,)
    assert ("pause", "shop") in house.calls


@pytest.mark.parametrize("database", ["pgdoorman", "pgbouncer"])
@pytest.mark.parametrize("autocommit", [True, False])
def test_psycopg2(server: ConsoleServer, database: str, autocommit: bool) -> None:
    connection = psycopg2.connect(dsn(server, database))
    connection.autocommit = autocommit
    with connection.cursor() as cursor:
        cursor.execute("SHOW POOLS")
        assert [row[0] for row in cursor.fetchall()] == ["bank", "shop"]
        with pytest.raises(psycopg2.Error):
            cursor.execute("nonsense")
        connection.rollback()
        cursor.execute("SHOW STATS")
        assert len(cursor.fetchall()) == 2
    connection.commit()
    connection.close()


@pytest.mark.parametrize("database", ["pgdoorman", "pgbouncer"])
def test_asyncpg(server: ConsoleServer, database: str) -> None:
    async def talk() -> None:
        options = {"host": "127.0.0.1", "port": server.port, "user": "operator", "database": database}
        async with asyncpg.create_pool(**options, min_size=1, max_size=1) as pool:
            for _ in range(2):  # what the pool does when a connection comes back is part of it
                async with pool.acquire() as connection:
                    rows = await connection.fetch("SHOW LISTS")
                    assert dict(rows)["databases"] == 2
                    assert await connection.fetchval("SELECT 1") == 1
                    totals = await connection.fetch("SHOW TOTALS")
                    assert dict(totals)["avg_xact_count"] == 6
                    assert await connection.execute("RECONNECT shop") == "RECONNECT"
                    with pytest.raises(asyncpg.PostgresError):
                        await connection.fetch("SHOW nope")
                    async with connection.transaction():
                        assert len(await connection.fetch("SHOW CLIENTS")) >= 1

    asyncio.run(asyncio.wait_for(talk(), 60))


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_sqlalchemy(server: ConsoleServer, driver: str) -> None:
    engine = sqlalchemy.create_engine(
        f"postgresql+{driver}://operator@127.0.0.1:{server.port}/pgdoorman", pool_pre_ping=True
    )
    for _ in range(2):
        with engine.connect() as connection:
            rows = connection.execute(sqlalchemy.text("SHOW DATABASES"))
            assert [row.name for row in rows] == ["bank", "shop"]
    engine.dispose()


def test_ctrl_c_takes_a_pause_back(server: ConsoleServer, house: House) -> None:
    house.held = {"shop"}
    with psycopg.connect(dsn(server, "pgbouncer"), autocommit=True) as connection:
        timer = threading.Thread(target=_cancel_when_paused, args=(connection, house))
        timer.start()
        with pytest.raises(psycopg.Error, match="canceling statement due to user request"):
            connection.execute("PAUSE shop")
        timer.join(30)
        assert house.paused == set()
        assert connection.execute("SHOW STATE").fetchone() == ("active", "yes")


def _cancel_when_paused(connection: psycopg.Connection[tuple[object, ...]], house: House) -> None:
    deadline = time.monotonic() + 20
    while "shop" not in house.paused and time.monotonic() < deadline:
        time.sleep(0.01)
    while "shop" in house.paused and time.monotonic() < deadline:  # a request may come before the session waits
        connection.cancel_safe(timeout=10)
        time.sleep(0.05)


@pytest.mark.skipif(shutil.which("psql") is None, reason="there is no psql")
@pytest.mark.parametrize("database", ["pgdoorman", "pgbouncer"])
def test_psql(server: ConsoleServer, database: str) -> None:
    script = "SHOW VERSION;\n\\echo ok\nSHOW HELP;\nPAUSE shop;\nRESUME shop;\nSHOW nope;\n\\conninfo\nSHOW LISTS;\n"
    done = subprocess.run(
        ["psql", "-X", "-At", dsn(server, database)],
        input=script,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "pgdoorman 9.8.7" in done.stdout.lower().replace("pgdoorman  ", "")
    assert "PAUSE\nRESUME\n" in done.stdout
    assert "databases|2" in done.stdout
    assert done.stderr.count("ERROR") == 1


def test_a_reader_asks_libpq_for_a_writable_server(server: ConsoleServer) -> None:
    psycopg.connect(dsn(server) + " target_session_attrs=read-write").close()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn(server) + " target_session_attrs=read-only")

"""Replication connections, physical and logical: each has a walsender of its own, and nobody else notices."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import psycopg2.extras
import pytest

from tests.integration.conftest import StartDoorman
from tests.support.doorman import ADMIN_PASSWORD, ADMIN_USER, Doorman, pool, table, user
from tests.support.postgres import Postgres
from tests.support.process import wait_until
from tests.support.wire import ServerError, Wire, cancel_request, query

PATIENCE = 30.0


@pytest.fixture(scope="module")
def doorman(postgres: Postgres, start_module_doorman: StartDoorman) -> Doorman:
    return start_module_doorman(
        pools={
            "app": pool(postgres, user("alice", pool_size=1), pool_mode="transaction"),
            # Where tools for physical replication want to go, whatever they are told.
            "replication": pool(postgres, user("alice", pool_size=1), server_database="app"),
        },
        general={
            "pg_hba": {
                "content": "host all all all trust\nhost replication alice all trust\nhost pgdoorman all all md5\n"
            }
        },
    )


@pytest.fixture
def walsender(doorman: Doorman) -> Iterator[Wire]:
    with doorman.connect("app", "alice", parameters={"replication": "database"}) as wire:
        yield wire


def test_commands_of_a_walsender(doorman: Doorman, walsender: Wire) -> None:
    assert walsender.rows("IDENTIFY_SYSTEM")[0][3] == "app"
    assert walsender.value("select 6 * 7") == "42"
    assert walsender.value("select pg_backend_pid()") == str(walsender.process_id)
    with pytest.raises(ServerError):
        walsender.run("no_such_command")
    with doorman.connect("replication", "alice", parameters={"replication": "true"}) as physical:
        assert physical.rows("IDENTIFY_SYSTEM")[0][3] is None
        with doorman.connect("app", "alice") as plain:
            assert plain.value("select 1") == "1"  # the pool's only backend is not theirs
        with Wire.connect(
            doorman.host, doorman.port, user=ADMIN_USER, database="pgbouncer", password=ADMIN_PASSWORD
        ) as console:
            for what in ("clients", "servers"):
                kinds = {row["replication"] for row in table(console, f"show {what}")}
                assert {"logical", "physical"} <= kinds, what


def test_parameters_and_options_are_passed_on(doorman: Doorman) -> None:
    given = {
        "replication": "database",
        "options": "-c work_mem=5MB",
        "application_name": "walreceiver 7",
        "TimeZone": "Asia/Tokyo",
    }
    with doorman.connect("app", "alice", parameters=given) as wire:
        assert wire.parameters["application_name"] == "walreceiver 7"
        assert wire.parameters["TimeZone"] == "Asia/Tokyo"
        assert wire.value("show work_mem") == "5MB"


def test_logical_stream_both_ways(doorman: Doorman, postgres: Postgres) -> None:
    """COPY BOTH, with a driver: changes arrive, and what the client confirms is confirmed."""
    connection = psycopg2.connect(
        host=doorman.host,
        port=doorman.port,
        user="alice",
        dbname="app",
        connection_factory=psycopg2.extras.LogicalReplicationConnection,
    )
    try:
        cursor = connection.cursor()
        cursor.create_replication_slot("by_driver", output_plugin="test_decoding")
        postgres.run(
            "create table if not exists changed (i int)", "insert into changed values (1), (2)", database="app"
        )
        cursor.start_replication(slot_name="by_driver", decode=True)
        seen: list[str] = []
        deadline = time.monotonic() + PATIENCE
        while sum("INSERT" in one for one in seen) < 2 and time.monotonic() < deadline:
            message = cursor.read_message()
            if message is None:
                time.sleep(0.02)
                continue
            seen.append(message.payload)
            cursor.send_feedback(flush_lsn=message.data_start, force=True)
        assert [one for one in seen if "INSERT" in one] == [
            "table public.changed: INSERT: i[integer]:1",
            "table public.changed: INSERT: i[integer]:2",
        ]
        with postgres.connect("app") as wire:
            wait_until(
                lambda: (
                    wire.value(
                        "select confirmed_flush_lsn > restart_lsn from pg_replication_slots where slot_name = 'by_driver'"
                    )
                    == "t"
                ),
                PATIENCE,
                "the confirmation",
            )
    finally:
        connection.close()
        with postgres.connect("app") as wire:
            gone = "select count(*) from pg_replication_slots where slot_name = 'by_driver' and active"
            wait_until(lambda: wire.value(gone) == "0", PATIENCE, "the walsender to leave")
            wire.run("select pg_drop_replication_slot('by_driver')")


def _run(postgres: Postgres, doorman: Doorman, program: str, *arguments: str) -> subprocess.Popen[bytes]:
    path = postgres.program(program)
    if not path.exists():
        pytest.skip(f"the wheel brings no {program}")
    return subprocess.Popen(
        [path, "-h", doorman.host, "-p", str(doorman.port), "-U", "alice", "--no-password", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_base_backup(doorman: Doorman, postgres: Postgres, tmp_path: Path) -> None:
    """pg_basebackup with the WAL streamed beside it: two connections, one of them physical replication."""
    target = tmp_path / "backup"
    with _run(postgres, doorman, "pg_basebackup", "-D", str(target), "-X", "stream", "--checkpoint=fast") as program:
        output, _ = program.communicate(timeout=100)
    assert program.returncode == 0, output.decode()
    assert (target / "PG_VERSION").read_text().strip() == "17"
    assert list((target / "pg_wal").glob("0*"))


def test_receiving_wal(doorman: Doorman, postgres: Postgres, tmp_path: Path) -> None:
    with _run(postgres, doorman, "pg_receivewal", "-D", str(tmp_path), "--no-loop", "--no-sync") as program:
        try:
            wait_until(lambda: any(tmp_path.glob("0*.partial")), PATIENCE, "a segment to begin")
            postgres.run("select pg_switch_wal()", "create table if not exists changed (i int)", database="app")
            wait_until(lambda: any(not one.suffix for one in tmp_path.glob("0*")), PATIENCE, "a whole segment")
        finally:
            program.terminate()
            program.communicate(timeout=30)


def test_refusals(doorman: Doorman) -> None:
    """By the rules, by the server, by ourselves; and what is no boolean."""
    for database, parameters, code in (
        ("app", {"replication": "perhaps"}, "22023"),
        ("nowhere", {"replication": "database"}, "3D000"),
        ("app", {"replication": "database", "work_mem": "nonsense"}, "22023"),
    ):
        with pytest.raises(ServerError) as refused:
            doorman.connect(database, "alice", parameters=parameters)
        assert refused.value.sqlstate == code, (database, parameters)
    doorman.check_alive()


def test_a_cancel_reaches_its_walsender(doorman: Doorman, walsender: Wire) -> None:
    walsender.send(query("select pg_sleep(30)"))
    time.sleep(0.3)
    process_id, secret = walsender.process_id, walsender.secret
    with doorman.dial() as canceller:
        canceller.send(cancel_request(process_id, secret))
        canceller.wait_closed()
    replies = walsender.settle(PATIENCE)
    assert [reply.fields()["C"] for reply in replies if reply.kind == "E"] == ["57014"]


def test_leaving_and_being_sent_away(doorman: Doorman, postgres: Postgres) -> None:
    """A client's end is its walsender's; and the other way round."""
    count = "select count(*) from pg_stat_activity where application_name = 'leaver'"
    given = {"replication": "database", "application_name": "leaver"}
    with postgres.connect() as watch:
        for leave in (Wire.terminate, Wire.reset, Wire.hang_up):
            wire = doorman.connect("app", "alice", parameters=given)
            assert watch.value(count) == "1"
            leave(wire)
            wait_until(lambda: watch.value(count) == "0", PATIENCE, "the walsender to end")
        with doorman.connect("app", "alice", parameters=given) as wire:
            watch.run("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'leaver'")
            assert [reply.fields()["C"] for reply in wire.wait_closed()] == ["57P01"]
    doorman.check_alive()
    assert "Traceback" not in doorman.log()


def test_a_slow_reader_stops_its_walsender(doorman: Doorman, walsender: Wire) -> None:
    """400 MB on their way to a client that does not read stay with the server."""
    before = doorman.resident_bytes()
    walsender.send(query("select repeat('x', 1000000) from generate_series(1, 400)"))
    time.sleep(1.0)
    assert doorman.resident_bytes() - before < 60_000_000


def test_the_house_closes(postgres: Postgres, start_doorman: StartDoorman) -> None:
    """A stream has no end to wait for: it does not hold up a stop."""
    doorman = start_doorman(pools={"app": pool(postgres, user("alice"))}, general={"shutdown_timeout": "60s"})
    with doorman.connect("app", "alice", parameters={"replication": "database"}) as wire:
        started = time.monotonic()
        assert doorman.stop() == 0
        assert time.monotonic() - started < 15
        assert [reply.fields()["C"] for reply in wire.wait_closed() if reply.kind == "E"] == ["57P01"]

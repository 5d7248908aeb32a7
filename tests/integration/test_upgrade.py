"""A new process in the place of the old one: nobody who comes is refused, nobody who is in is cut off."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import StartDoorman
from tests.support.doorman import Doorman, pool, user
from tests.support.postgres import Postgres
from tests.support.process import wait_until
from tests.support.wire import Wire, cancel_request, query

PATIENCE = 90.0


@pytest.fixture
def upgradable(start_doorman: StartDoorman, postgres: Postgres, workspace: Path) -> Iterator[Doorman]:
    """A pooler whose successors end with the test."""
    doorman = start_doorman(
        pools={"app": pool(postgres, user("alice", pool_size=4))},
        general={"shutdown_timeout": "60s", "unix_socket_dir": str(workspace)},
    )
    yield doorman
    for process in _family(doorman):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _family(doorman: Doorman) -> list[int]:
    """Every process that serves this configuration."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if str(doorman.config_file).encode() in words and b"pgdoorman" in words:
                    found.append(int(entry.name))
    return found


def _who_serves(doorman: Doorman) -> int:
    return int(next(row["value"] or 0 for row in doorman.show("status") if row["key"] == "process_id"))


def _upgrade(process: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "gil=0", "-m", "pgdoorman", "upgrade", "--pid", str(process)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_clients_come_and_go_on_while_processes_change(upgradable: Doorman, postgres: Postgres) -> None:
    doorman = upgradable
    first = doorman.process.process_id
    failures: list[str] = []
    served = 0
    stop = threading.Event()

    def come_and_go() -> None:
        nonlocal served
        while not stop.is_set():
            try:
                with doorman.connect(patience=PATIENCE) as wire:
                    assert wire.value("select 1") == "1"
                served += 1
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told below
                failures.append(repr(error))

    busy = doorman.connect(patience=PATIENCE)
    busy.run("begin; create temporary table mine as select 42 as x")
    newcomer = threading.Thread(target=come_and_go)
    newcomer.start()
    try:
        done = _upgrade(first)
        assert done.returncode == 0, done.stderr + doorman.log()
        second = _who_serves(doorman)
        assert second != first
        before = served
        wait_until(lambda: served > before + 3, PATIENCE, "clients of the new process")
    finally:
        stop.set()
        newcomer.join(PATIENCE)
    assert doorman.process.is_running, "it has a client in a transaction"
    # A cancel request comes to the new process; the query runs in the old one.
    busy.run("savepoint here")
    busy.send(query("select pg_sleep(600)"))
    sleeping = "select count(*) from pg_stat_activity where state = 'active' and query = 'select pg_sleep(600)'"
    with postgres.connect() as direct:
        wait_until(lambda: direct.value(sleeping) == "1", PATIENCE, "the query")
    with doorman.dial() as request:
        request.send(cancel_request(busy.process_id, busy.secret))
        request.wait_closed(PATIENCE)
    assert next(reply.fields()["C"] for reply in busy.settle(PATIENCE) if reply.kind == "E") == "57014"
    busy.run("rollback to here")
    assert busy.value("select x from mine") == "42"
    busy.send(query("commit"))
    assert [reply.kind for reply in busy.wait_closed(PATIENCE)] == ["C", "Z", "E"]
    busy.hang_up()
    wait_until(lambda: not doorman.process.is_running, PATIENCE, "the old one's end")
    # A client that was being let in by the old process at that very moment is told to come again.
    assert [one for one in failures if "57P0" not in one] == []
    assert len(failures) <= 1
    # The old one's end takes nothing along.
    with Wire.connect(doorman.general["unix_socket_dir"], doorman.port, user="alice", database="app") as wire:
        assert wire.value("select 2") == "2"
    os.kill(second, signal.SIGTERM)
    wait_until(lambda: not _family(doorman), PATIENCE, "the new one's end")
    assert not Path(doorman.general["unix_socket_dir"], f".s.PGSQL.{doorman.port}").exists()


def test_a_successor_that_would_not_start_changes_nothing(upgradable: Doorman) -> None:
    doorman = upgradable
    doorman.config_file.write_text("[general]\nnonsense = 1\n")
    done = _upgrade(doorman.process.process_id)
    assert done.returncode == 1
    assert "refuses the configuration" in done.stderr
    assert "nonsense" in doorman.log()
    with doorman.connect(patience=PATIENCE) as wire:
        assert wire.value("select 1") == "1"
    assert _family(doorman) == [doorman.process.process_id]


def test_by_signal_and_the_manager_is_told(start_doorman: StartDoorman, postgres: Postgres, workspace: Path) -> None:
    path = workspace / "notify-upgrade"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(PATIENCE)
        doorman = start_doorman(
            pools={"app": pool(postgres, user("alice"))},
            environment={"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "60000000"},
        )
        first = doorman.process.process_id
        try:
            doorman.process.send_signal(signal.SIGUSR2)
            said = ""
            while "MAINPID=" not in said or f"MAINPID={first}" in said or "READY=1" in said:
                said = manager.recv(4096).decode()
                assert "STOPPING" not in said, "the service goes on"
            assert said == f"MAINPID={_who_serves(doorman)}"
            wait_until(lambda: not doorman.process.is_running, PATIENCE, "the old one's end")
            assert doorman.process.exit_code == 0
        finally:
            for process in _family(doorman):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)

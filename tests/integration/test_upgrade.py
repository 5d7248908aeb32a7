"""A new process in the place of the old one: nobody who comes is refused, nobody who is in is cut off."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import StartDoorman
from tests.support.doorman import Doorman, pool, user
from tests.support.postgres import Postgres
from tests.support.process import wait_until
from tests.support.upgrades import PATIENCE, end_family, family, must_be_cancelled, upgrade, who_serves
from tests.support.wire import Wire


@pytest.fixture
def upgradable(start_doorman: StartDoorman, postgres: Postgres, workspace: Path) -> Iterator[Doorman]:
    """A pooler whose successors end with the test."""
    doorman = start_doorman(
        pools={"app": pool(postgres, user("alice", pool_size=4))},
        general={"shutdown_timeout": "60s", "unix_socket_dir": str(workspace)},
    )
    yield doorman
    end_family(doorman)


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
        done = upgrade(first)
        assert done.returncode == 0, done.stderr + doorman.log()
        second = who_serves(doorman)
        assert second != first
        before = served
        wait_until(lambda: served > before + 3, PATIENCE, "clients of the new process")
    finally:
        stop.set()
        newcomer.join(PATIENCE)
    assert doorman.process.is_running, "it has a client in a transaction"
    # A cancel request comes to the new process; the query runs in the old one.
    busy.run("savepoint here")
    must_be_cancelled(busy, doorman, postgres)
    busy.run("rollback to here")
    assert busy.value("select x from mine") == "42"
    busy.run("drop table mine")
    assert busy.run("commit") == "COMMIT"
    wait_until(lambda: not doorman.process.is_running, PATIENCE, "the old one's end")
    assert busy.value("select 3") == "3"
    busy.terminate()
    assert failures == []
    # The old one's end takes nothing along.
    with Wire.connect(doorman.general["unix_socket_dir"], doorman.port, user="alice", database="app") as wire:
        assert wire.value("select 2") == "2"
    os.kill(second, signal.SIGTERM)
    wait_until(lambda: not family(doorman), PATIENCE, "the new one's end")
    assert not Path(doorman.general["unix_socket_dir"], f".s.PGSQL.{doorman.port}").exists()


def test_a_successor_that_would_not_start_changes_nothing(upgradable: Doorman) -> None:
    doorman = upgradable
    doorman.config_file.write_text("[general]\nnonsense = 1\n")
    done = upgrade(doorman.process.process_id)
    assert done.returncode == 1
    assert "refuses the configuration" in done.stderr
    doorman.wait_logged("nonsense")
    with doorman.connect(patience=PATIENCE) as wire:
        assert wire.value("select 1") == "1"
    assert family(doorman) == [doorman.process.process_id]


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
            assert said == f"MAINPID={who_serves(doorman)}"
            wait_until(lambda: not doorman.process.is_running, PATIENCE, "the old one's end")
            assert doorman.process.exit_code == 0
        finally:
            end_family(doorman)

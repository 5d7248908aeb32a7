"""Clients that stay connected while the process that serves them is replaced by another."""

import os
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import StartDoorman
from tests.support.certificates import Authority
from tests.support.doorman import Doorman, pool, user
from tests.support.postgres import SECRET, Postgres
from tests.support.process import wait_until
from tests.support.upgrades import PATIENCE, descriptors, end_family, family, must_be_cancelled, upgrade, who_serves
from tests.support.wire import (
    Wire,
    bind,
    describe_statement,
    execute,
    parse,
    query,
    sync,
)

CLIENTS = 50
UPGRADES = 5


@pytest.fixture
def start(start_doorman: StartDoorman) -> Iterator[StartDoorman]:
    """Starts poolers whose successors end with the test."""
    started: list[Doorman] = []

    def begin(**settings: Any) -> Doorman:
        started.append(start_doorman(**settings))
        return started[-1]

    yield begin
    for doorman in started:
        end_family(doorman)


@pytest.fixture
def doorman(start: StartDoorman, postgres: Postgres, workspace: Path) -> Doorman:
    return start(
        pools={"app": pool(postgres, user("alice", pool_size=4))},
        general={"shutdown_timeout": "60s", "unix_socket_dir": str(workspace)},
    )


def _replace(doorman: Doorman) -> int:
    """One upgrade. Returns the new process."""
    before = who_serves(doorman)
    os.kill(before, signal.SIGUSR2)
    wait_until(lambda: who_serves(doorman) != before, 2 * PATIENCE, "a new process")
    return who_serves(doorman)


def _served_by(doorman: Doorman, count: int) -> Callable[[], bool]:
    """Whether so many clients are with the process that newcomers come to."""
    return lambda: len([row for row in doorman.show("clients") if row["database"] == "app"]) == count


class Client(threading.Thread):
    """Works, with short pauses, in every manner that a driver has, and looks at each answer."""

    def __init__(self, doorman: Doorman, number: int) -> None:
        super().__init__(name=f"client-{number}")
        self.number = number
        self.wire = doorman.connect(parameters={"application_name": f"client {number}"}, patience=PATIENCE)
        self.rounds = 0
        self.failure = ""
        self.over = threading.Event()

    def run(self) -> None:
        try:
            self._begin()
            while not self.over.wait(0.5):
                self._round()
                self.rounds += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, the test tells it
            self.failure = f"{self.name} in round {self.rounds}: {error!r}"

    def _begin(self) -> None:
        wire = self.wire
        wire.run(f"set work_mem = '{3000 + self.number}kB'; set my.number = '{self.number}'")
        replies = wire.ask(parse("twice", "select $1::int * 2"), parse("", "select $1::int + 1"), sync())
        assert [reply.kind for reply in replies] == ["1", "1", "Z"]

    def _round(self) -> None:
        wire, n = self.wire, self.number
        assert wire.value("select 1") == "1"
        assert wire.value("select current_setting('my.number')") == str(n)
        twice = wire.ask(bind("", "twice", [str(n)]), execute(), sync())
        assert [reply.columns() for reply in twice if reply.kind == "D"] == [[b"%d" % (2 * n)]], twice
        wire.send(query("begin"), query("select set_config('my.round', 'x', true)"), query("commit"))
        assert "E" not in [reply.kind for reply in wire.settle()]
        wire.run("begin")
        assert wire.value("show work_mem") == f"{3000 + n}kB"
        wire.run("rollback")
        more = wire.ask(parse("", "select $1::int + 1"), bind("", "", ["1"]), execute(), sync())
        assert [reply.columns() for reply in more if reply.kind == "D"] == [[b"2"]], more


@pytest.mark.timeout(600)
def test_fifty_clients_work_on_over_five_upgrades(start: StartDoorman, postgres: Postgres) -> None:
    doorman = start(
        pools={"app": pool(postgres, user("alice", pool_size=8))},
        general={"shutdown_timeout": "60s", "worker_threads": 2, "query_wait_timeout": "100s"},
    )
    clients = [Client(doorman, number) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    counts: list[int] = []
    try:
        for _ in range(UPGRADES):
            seen = [client.rounds for client in clients]
            wait_until(
                lambda seen=seen: all(c.rounds > r or c.failure for c, r in zip(clients, seen, strict=True)),  # type: ignore[misc]
                PATIENCE,
                "a round of each",
            )
            process = _replace(doorman)
            wait_until(lambda: len(family(doorman)) == 1, PATIENCE, "the old process's end")  # its deadline is far away
            assert family(doorman) == [process]
            counts.append(len(descriptors(process)))
    finally:
        for client in clients:
            client.over.set()
        for client in clients:
            client.join(PATIENCE)
    assert [client.failure for client in clients if client.failure] == []
    doorman.wait_logged(f"{CLIENTS} clients were handed over")
    assert counts[-1] <= counts[0] + 8, (counts, descriptors(process))  # backends are opened as they are needed
    for client in clients:
        client.wire.terminate()
    wait_until(lambda: len(descriptors(process)) <= counts[0] - CLIENTS + 8, PATIENCE, "descriptors given back")


@pytest.mark.timeout(300)
def test_what_a_client_has_goes_with_it(doorman: Doorman, postgres: Postgres) -> None:
    wire = doorman.connect(parameters={"application_name": "mover", "search_path": "pg_catalog"}, patience=PATIENCE)
    wire.run("set datestyle = 'SQL, DMY'; set my.own = 'it''s mine'; set statement_timeout = '17min'")
    wire.ask(parse("day", "select 'a day', $1::text"), parse("plain", "set local lock_timeout = '3s'"), sync())
    wire.run("set datestyle = 'ISO, MDY'")
    told = dict(wire.parameters)
    by_path = Wire.connect(str(doorman.general["unix_socket_dir"]), doorman.port, user="alice", database="app")
    by_path.patience = PATIENCE
    by_path.run("set my.own = 'by path'")
    wire.run("begin")  # which no server knows of yet
    half = query("select 'in two parts'").data
    by_path.send_bytes(half[:9])
    seen = next(row for row in doorman.show("clients") if row["application_name"] == "mover")

    _replace(doorman)
    wait_until(lambda: not doorman.process.is_running, PATIENCE, "the old one's end: nobody keeps it")
    after = next(row for row in doorman.show("clients") if row["application_name"] == "mover")
    for column in ("addr", "transaction_count", "query_count", "error_count"):
        assert after[column] == seen[column], column
    assert int(after["age_seconds"] or 0) >= int(seen["age_seconds"] or 0)

    assert wire.value("select current_setting('transaction_isolation')") == "read committed"
    assert wire.run("commit") == "COMMIT"
    settings = ("application_name", "search_path", "DateStyle", "my.own", "statement_timeout")
    found = [wire.value(f"show {name}") for name in settings]
    assert found == ["mover", "pg_catalog", "ISO, MDY", "it's mine", "17min"]
    assert wire.parameters == told
    replies = wire.ask(bind("", "day", ["x"]), execute(), describe_statement("plain"), sync())
    assert [reply.columns() for reply in replies if reply.kind == "D"] == [[b"a day", b"x"]]
    assert [reply.kind for reply in replies if reply.kind in "tnE"] == ["t", "n"]
    wire.run("reset search_path")
    assert wire.value("show search_path") == "pg_catalog", "what came with the login is the client's default"
    by_path.send_bytes(half[9:])
    by_path.outstanding.sent("Q")
    assert [reply.columns() for reply in by_path.settle() if reply.kind == "D"] == [[b"in two parts"]]
    assert by_path.value("show my.own") == "by path"
    # The cancel key that it was given by the process before.
    must_be_cancelled(wire, doorman, postgres)
    wire.terminate()
    by_path.terminate()


def test_who_cannot_go_at_once_goes_later(doorman: Doorman) -> None:
    busy, pinned, waiting = (doorman.connect(patience=PATIENCE) for _ in range(3))
    busy.run("begin; select 1")
    pinned.run("create temporary table mine as select 42 as x")
    listener = doorman.connect(patience=PATIENCE)
    listener.run("listen news")
    _replace(doorman)
    wait_until(_served_by(doorman, 1), PATIENCE, "one is new")
    first = doorman.process
    assert pinned.value("select x from mine") == "42"
    assert busy.value("select 2") == "2"
    assert waiting.value("select 3") == "3"
    assert first.is_running
    busy.run("commit")
    wait_until(_served_by(doorman, 2), PATIENCE, "the transaction is over")
    pinned.run("drop table mine")
    wait_until(_served_by(doorman, 3), PATIENCE, "the table is gone")
    assert first.is_running, "somebody listens"
    assert busy.value("select 4") == "4"
    waiting.run("notify news, 'from the other process'")
    assert listener.receive_until("A")[-1].body.endswith(b"news\0from the other process\0")
    listener.run("unlisten *")
    wait_until(_served_by(doorman, 4), PATIENCE, "nobody listens")
    wait_until(lambda: not first.is_running, PATIENCE, "the old process's end")
    assert first.exit_code == 0
    for wire in (busy, pinned, waiting, listener):
        assert wire.value("select 5") == "5"
        wire.terminate()


def test_a_client_that_waits_takes_its_request_along(start: StartDoorman, postgres: Postgres) -> None:
    doorman = start(
        pools={"app": pool(postgres, user("alice", pool_size=1))},
        general={"shutdown_timeout": "60s", "query_wait_timeout": "100s"},
    )
    holder, waiter = doorman.connect(patience=PATIENCE), doorman.connect(patience=PATIENCE)
    holder.run("begin; select 1")
    waiter.send(query("select 'served'"))
    wait_until(lambda: [row["cl_waiting"] for row in doorman.show("pools")] == ["1"], PATIENCE, "it waits")
    _replace(doorman)
    # The only backend of the old process is taken: it is served by one of the new process's.
    replies = waiter.settle()
    assert [reply.columns() for reply in replies if reply.kind == "D"] == [[b"served"]], replies
    assert holder.run("commit") == "COMMIT"
    assert holder.value("select 1") == "1"
    holder.terminate()
    waiter.terminate()


def test_who_cannot_go_stays_until_the_deadline(start: StartDoorman, postgres: Postgres, workspace: Path) -> None:
    folder = workspace / "handover-tls"
    folder.mkdir()
    authority = Authority("Somebody")
    certificate, key = authority.issue("localhost", ["localhost", "127.0.0.1"]).write(folder, "ours")
    doorman = start(
        pools={
            "app": pool(postgres, user("alice", pool_size=4)),
            "kept": pool(postgres, user("alice"), pool_mode="session", server_database="app"),
        },
        general={"shutdown_timeout": "3s", "tls_certificate": str(certificate), "tls_private_key": str(key)},
    )
    context = ssl.create_default_context(cafile=str(authority.write(folder, "ca")))
    pinned, of_session = doorman.connect(patience=PATIENCE), doorman.connect("kept", patience=PATIENCE)
    encrypted = Wire.connect(doorman.host, doorman.port, user="alice", database="app", patience=PATIENCE, tls=context)
    assert encrypted.value("select 1") == of_session.value("select 1") == "1"
    pinned.run("create temporary table mine as select 42 as x")
    _replace(doorman)
    for wire in (encrypted, pinned, of_session):
        assert [reply.fields()["C"] for reply in wire.wait_closed() if reply.kind == "E"] == ["57P01"]
        wire.hang_up()
    wait_until(lambda: not doorman.process.is_running, PATIENCE, "the old process's end")
    log = doorman.log()
    assert _seconds_between(log, "clients are handed over", "client disconnected") >= 2.5, log
    assert "0 clients were handed over" in log
    assert doorman.process.exit_code == 0


def _seconds_between(log: str, first: str, second: str) -> float:
    """By the clock of the lines in which the two stand first."""
    times = [
        datetime.fromisoformat(next(line for line in log.splitlines() if text in line).split()[0])
        for text in (first, second)
    ]
    return (times[1] - times[0]).total_seconds()


def test_what_opens_server_connections_goes_along(start: StartDoorman, postgres: Postgres) -> None:
    """Of users whose passwords nobody knows: a client that has proved itself by SCRAM has given its keys away, and no other
    comes. One is in the file, one has been found by a look-up."""
    with postgres.connect() as direct:
        stored = direct.value("select rolpassword from pg_authid where rolname = 'scram_user'")
    query = "select rolname, rolpassword from pg_authid where rolname = $1"
    looking_up = {"query": query, "user": "alice", "password": "", "database": "postgres"}
    doorman = start(
        pools={
            "app": pool(postgres, user("scram_user", stored or "", pool_size=2)),
            "other": pool(postgres, user("alice"), auth_query=looking_up),
        },
        general={"shutdown_timeout": "60s"},
    )
    listed = doorman.connect("app", "scram_user", SECRET, patience=PATIENCE)
    found = doorman.connect("other", "scram_user", SECRET, patience=PATIENCE)
    for _ in range(2):
        _replace(doorman)
        assert listed.value("select current_user") == "scram_user"
        assert found.value("select current_user || current_database()") == "scram_userother"
    log = doorman.log()
    assert "SCRAM-SHA-256$" not in log
    assert "key" not in log
    listed.terminate()
    found.terminate()


def test_a_client_whose_pool_is_gone_is_told(doorman: Doorman, postgres: Postgres) -> None:
    wire = doorman.connect(patience=PATIENCE)
    doorman.pools = {"other": pool(postgres, user("alice"))}
    doorman.write_config()
    _replace(doorman)
    assert [reply.fields()["C"] for reply in wire.wait_closed() if reply.kind == "E"] == ["3D000"]
    wire.hang_up()
    wait_until(lambda: not doorman.process.is_running, PATIENCE, "the old process's end")


def test_a_successor_that_cannot_open_changes_nothing(start: StartDoorman, postgres: Postgres) -> None:
    doorman = start(pools={"app": pool(postgres, user("alice"))})
    process = doorman.process.process_id
    wire = doorman.connect(patience=PATIENCE)
    wire.run("set my.own = 'kept'")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        doorman.sections["web"] = {"enabled": True, "host": "127.0.0.1", "port": taken.getsockname()[1]}
        doorman.write_config()
        before = descriptors(process)
        done = upgrade(process)
    assert done.returncode == 1
    assert "the new process ended with exit code" in done.stderr
    doorman.wait_logged("cannot listen")
    assert family(doorman) == [process]
    assert wire.value("show my.own") == "kept"
    wait_until(lambda: len(descriptors(process)) <= len(before) + 1, PATIENCE, "nothing is left open")  # a backend's
    wire.terminate()

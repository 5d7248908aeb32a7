"""Large things in small memory: rows, COPY and parameters of hundreds of megabytes pass through without being held, who is
slow stops the other side, and what has to be held whole is counted.

PGDOORMAN_LARGE_MEGABYTES=1000 makes them a gigabyte; with `--log-level info -rP` the growth of each is shown.
"""

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from tests.integration.conftest import StartDoorman
from tests.support.doorman import Doorman, pool, user
from tests.support.postgres import Postgres
from tests.support.process import wait_until
from tests.support.wire import Wire, bind, copy_data, copy_done, execute, frame, parse, query, raw, sync

log = logging.getLogger(__name__)

MEGABYTE: Final = 1_000_000
SIZE: Final = int(os.environ.get("PGDOORMAN_LARGE_MEGABYTES", "200")) * MEGABYTE
PATIENCE: Final = 60.0 + SIZE / (5 * MEGABYTE)
MOST_GROWTH: Final = 40 * MEGABYTE

pytestmark = pytest.mark.timeout(300 + 6 * PATIENCE)


@pytest.fixture(scope="module")
def doorman(postgres: Postgres, start_module_doorman: StartDoorman) -> Doorman:
    doorman = start_module_doorman(
        pools={"app": pool(postgres, user("alice", pool_size=2), pool_mode="transaction")},
        general={"max_memory_usage": "64MB", "message_size_to_be_stream": "1MB"},
    )
    with doorman.connect("app", "alice") as wire:
        wire.run("select 1")
    return doorman


@contextmanager
def flat(doorman: Doorman, most: int = MOST_GROWTH) -> Iterator[None]:
    """Whatever happens meanwhile, the process grows by no more than this."""
    before = peak = doorman.resident_bytes()
    over = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.02):
            peak = max(peak, doorman.resident_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    grown = peak - before
    log.info("grew by %.1f MB, to %.1f MB", grown / 1e6, peak / 1e6)
    assert grown < most, f"the pooler grew by {grown / 1e6:.0f} MB"


def drained(wire: Wire, until: bytes = b"Z\0\0\0\5I", patience: float = PATIENCE) -> int:
    """Reads without keeping anything, up to a ReadyForQuery at the end of what has come. Returns how much it was."""
    deadline = time.monotonic() + patience
    buffer = bytearray(1 << 20)
    tail = b""
    total = 0
    wire.sock.settimeout(patience)
    while not tail.endswith(until):
        assert time.monotonic() < deadline, f"only {total} bytes came in time"
        count = wire.sock.recv_into(buffer)
        assert count, f"closed after {total} bytes"
        total += count
        tail = (tail + buffer[max(0, count - 16) : count])[-16:]
    return total


def poured(wire: Wire, piece: bytes, times: int) -> None:
    wire.sock.settimeout(PATIENCE)
    for _ in range(times):
        wire.sock.sendall(piece)


def test_one_row(doorman: Doorman) -> None:
    with doorman.connect("app", "alice") as wire, flat(doorman):
        wire.send_bytes(query(f"select repeat('x', {SIZE}), 'end'").data)
        assert drained(wire) > SIZE
        assert wire.value("select 1") == "1"


def test_many_rows(doorman: Doorman) -> None:
    with doorman.connect("app", "alice") as wire, flat(doorman):
        text = f"select repeat('x', 1000) from generate_series(1, {SIZE // 1000})"
        wire.send_bytes(b"".join(one.data for one in (parse("", text), bind(), execute(), sync())))
        assert drained(wire) > SIZE
        assert wire.value("select 1") == "1"


def test_copy_out(doorman: Doorman) -> None:
    with doorman.connect("app", "alice") as wire, flat(doorman):
        wire.send_bytes(query(f"copy (select repeat('x', 99) from generate_series(1, {SIZE // 100})) to stdout").data)
        assert drained(wire) > SIZE
        assert wire.value("select 1") == "1"


@pytest.mark.parametrize("row", [99, 9_999_999], ids=["small", "wide"])
def test_copy_in(doorman: Doorman, row: int) -> None:
    line = b"x" * row + b"\n"
    piece = frame("d", line) * max(1, 1_000_000 // row)
    with doorman.connect("app", "alice") as wire, flat(doorman):
        wire.run("drop table if exists poured; create unlogged table poured (t text)")
        wire.send(query("copy poured from stdin"))
        wire.receive_until("G")
        rounds = max(1, SIZE // len(piece))
        poured(wire, piece, rounds)
        wire.send(copy_done())
        assert wire.settle(PATIENCE)[0].kind == "C"
        rows = rounds * max(1, 1_000_000 // row)
        assert wire.rows("select count(*), sum(length(t)) from poured") == [(str(rows), str(rows * row))]
        wire.run("drop table poured")


def test_one_parameter(doorman: Doorman) -> None:
    """A Bind of this size passes as it comes; a client's other messages wait behind it, in order."""
    body = b"\0\0" + (0).to_bytes(2) + (1).to_bytes(2) + SIZE.to_bytes(4)
    length = len(body) + SIZE + 2 + 4
    with doorman.connect("app", "alice") as wire, flat(doorman):
        wire.send(parse("", "select length($1::text)"))
        wire.send(raw(b"B" + length.to_bytes(4) + body, "B"))
        poured(wire, b"x" * MEGABYTE, SIZE // MEGABYTE)
        wire.send_bytes(b"\0\0")
        replies = wire.ask(execute(), sync(), patience=PATIENCE)
        assert [reply.columns()[0] for reply in replies if reply.kind == "D"] == [str(SIZE).encode()]


def test_a_reader_that_stops_stops_the_server(doorman: Doorman, postgres: Postgres) -> None:
    """And nobody else; and gets everything once it goes on."""
    sql = f"select repeat('y', 100000) from generate_series(1, {SIZE // 100000})"
    with doorman.connect("app", "alice") as slow, doorman.connect("app", "alice") as other:
        with flat(doorman):
            slow.send_bytes(query(sql).data)
            with postgres.connect("app") as watch:
                waits = "select count(*) from pg_stat_activity where wait_event = 'ClientWrite' and query ~ 'repeat'"
                wait_until(lambda: watch.value(waits) == "1", 30, "the server to wait")
            for _ in range(20):
                assert other.value("select 1") == "1"
        with flat(doorman):
            assert drained(slow) > SIZE
        assert slow.value("select 1") == "1"


def test_a_server_that_stops_stops_the_writer(doorman: Doorman) -> None:
    """A COPY whose server does not read on takes only what buffers hold; when it goes on, everything arrives."""
    with doorman.connect("app", "alice") as wire, doorman.connect("app", "alice") as other:
        wire.run(
            "drop table if exists held; create table held (t text);"
            "create or replace function hold() returns trigger language plpgsql as"
            " $$ begin if new.t = 'wait' then perform pg_sleep(2.5); end if; return new; end $$;"
            "create trigger hold before insert on held for each row execute function hold()"
        )
        piece = frame("d", b"z" * 9999 + b"\n") * 100
        done = threading.Event()
        sent = 0

        def pour() -> None:
            nonlocal sent
            wire.sock.settimeout(PATIENCE)
            for _ in range(60):
                wire.sock.sendall(piece)
                sent += len(piece)
            done.set()

        with flat(doorman):
            wire.send(query("copy held from stdin"), copy_data("wait\n"))
            writer = threading.Thread(target=pour)
            writer.start()
            time.sleep(1.0)
            assert not done.is_set(), "60 MB went into a COPY that nobody reads"
            assert sent < 30 * MEGABYTE
            assert other.value("select 1") == "1"
            writer.join(PATIENCE)
        wire.send(copy_done())
        assert wire.settle(PATIENCE)[-1].kind == "Z"
        assert wire.value("select count(*) from held") == "6001"
        wire.run("drop table held; drop function hold")


def _parse_of(size: int) -> bytes:
    text = b"select length('" + b"x" * size + b"')"
    return parse("", text).data


def test_what_must_be_held_whole_is_counted(doorman: Doorman) -> None:
    """Texts of statements cannot be passed on in parts. Of 64 MB that all clients share, 40 and 40 are too much: 53200 for
    the second, and for nobody else; what was held is given back."""
    big = _parse_of(40 * MEGABYTE)
    with doorman.connect("app", "alice") as other:
        for _ in range(3):
            with doorman.connect("app", "alice") as first, doorman.connect("app", "alice") as second:
                first.send_bytes(big[: 30 * MEGABYTE])
                wait_until(lambda: _used(doorman) >= 40 * MEGABYTE, 30, "the first to be counted")
                second.send_bytes(big[:MEGABYTE])
                refusal = second.wait_closed(30)
                assert [reply.fields()["C"] for reply in refusal if reply.kind == "E"] == ["53200"]
                assert other.value("select 1") == "1"
                first.send_bytes(big[30 * MEGABYTE :])
                replies = first.ask(bind(), execute(), sync(), patience=PATIENCE)
                assert [reply.columns()[0] for reply in replies if reply.kind == "D"] == [str(40 * MEGABYTE).encode()]
            wait_until(lambda: _used(doorman) == 0, 30, "the budget to be free")


def _used(doorman: Doorman) -> int:
    rows = {row["name"]: row for row in doorman.show("mem")}
    return int(rows["large_messages"]["memtotal"] or 0)


def test_a_message_beyond_the_limit(doorman: Doorman) -> None:
    """One that would never fit is refused by its header, before anything of it is kept."""
    with doorman.connect("app", "alice") as wire, flat(doorman, 10 * MEGABYTE):
        wire.send_bytes(b"P" + (0x30000000).to_bytes(4) + b"\0select 1")
        assert [reply.fields()["C"] for reply in wire.wait_closed(30) if reply.kind == "E"] == ["53200"]


def test_memory_is_given_back(doorman: Doorman) -> None:
    """Thirty clients that have each sent a statement of 8 MB and idle on cost no more than thirty others."""
    text = query("select length('" + "x" * 8 * MEGABYTE + "')").data
    wires = [doorman.connect("app", "alice") for _ in range(30)]
    try:
        for wire in wires:
            wire.run("select 1")
        before = doorman.resident_bytes()
        for wire in wires:
            wire.send_bytes(text)
            wire.settle(PATIENCE)
        wait_until(lambda: doorman.resident_bytes() - before < MOST_GROWTH, 30, "memory to be given back")
    finally:
        for wire in wires:
            wire.terminate()

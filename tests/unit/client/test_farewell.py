"""The care for a backend whose client left: whatever state it is in, it comes back clean or not at all."""

from collections.abc import Callable, Iterator
from functools import partial
from threading import Event
from typing import Final

import pytest

from pgdoorman.backend.cancel import wait_cancelled
from pgdoorman.backend.connection import Backend
from pgdoorman.backend.settings import DEFAULTS, audit_sql, pins_of_audit, settings_of, settings_of_audit
from pgdoorman.client import farewell
from pgdoorman.client.farewell import Farewell
from pgdoorman.client.stickiness import Marks
from pgdoorman.prepared.statement import Statement
from pgdoorman.protocol import codes
from pgdoorman.protocol.exchange import (
    A_BIND,
    A_PARSE,
    A_SYNC,
    AN_EXECUTE,
    Exchange,
)
from pgdoorman.protocol.framing import FrameReader
from pgdoorman.transport.sockets import SocketOptions
from tests.support import fake_server as fake
from tests.support.fake_server import FakeServer, Peer
from tests.support.postgres import Postgres
from tests.support.wire import Request, bind, copy_data, copy_done, execute, flush, parse, query, sync
from tests.unit.backend.hands import ask
from tests.unit.pool.hall import PATIENCE, Hall, settings_for

CLEAN: Final[Marks] = Marks()


@pytest.fixture
def hall(postgres: Postgres) -> Iterator[Hall]:
    postgres.run("truncate kept", database="app")
    with Hall(settings_for(postgres, pool_size=1), workers=1) as hall:
        yield hall


class Client:
    """As much of a client as its backend sees: it sends, and notes in the exchange what it sent."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.came = Event()
        self.awaited = ""

    def send(self, backend: Backend, *requests: Request) -> None:
        exchange = backend.exchange
        for request in requests:
            note(exchange, request.kind)
            backend.push(request.data)

    def on_backend_readable(self, backend: Backend) -> None:
        reader = FrameReader()
        reader.feed(backend.tail + backend.recv(65536, 0))
        while (found := reader.next()) is not None:
            kind, body = found
            letter = chr(kind)
            match letter:
                case "Z":
                    backend.status = body[0]
                    assert backend.exchange.ready()
                case "E":
                    backend.exchange.error()
                case "G":
                    backend.exchange.copy_in_begins()
                case _ if backend.exchange.completes(kind):
                    backend.exchange.complete()
            self.heard.append(letter)
            if letter == self.awaited:
                self.came.set()
        backend.tail = reader.rest()

    def on_backend_event(self, backend: Backend, events: int) -> None:
        self.on_backend_readable(backend)

    def on_backend_crash(self, backend: Backend, error: Exception) -> None:
        raise error

    def on_notification(self, backend: Backend, message: bytes) -> None:
        """None comes here."""


def note(exchange: Exchange, kind: str) -> None:
    match kind:
        case "Q":
            exchange.ask_query()
        case "d":
            exchange.mark_copy_data()
        case "c" | "f":
            exchange.mark_copy_end()
        case "P" | "B" | "E" | "S":
            exchange.ask({"P": A_PARSE, "B": A_BIND, "E": AN_EXECUTE, "S": A_SYNC}[kind])
        case _:
            assert kind == "H"


def play(
    hall: Hall,
    backend: Backend,
    *requests: Request,
    until: str = "",
    marks: Marks = CLEAN,
    passing: bool = False,
    cancel: bool = False,
) -> None:
    """A client sends these, and goes: at once, or after the first answer of a kind. The farewell is the backend's holder
    from then on."""
    client = Client()
    client.awaited = until
    worker = hall.workers[0]
    hall.leases.remove(backend)

    def send() -> None:
        backend.holder = client
        client.send(backend, *requests)
        if not until:
            leave()

    def leave() -> None:
        Farewell(
            backend,
            hall.pool,
            worker,
            passing=passing,
            marks=marks,
            deliver=partial(deliver, hall) if cancel else None,
        ).begin()

    hall.on(worker, send)
    if until:
        assert client.came.wait(PATIENCE), client.heard
        hall.on(worker, leave)


def deliver(hall: Hall, backend: Backend) -> None:
    """Cancels what runs, as a session does."""
    backend.cancels_under_way += 1

    def job() -> None:
        Event().wait(0.1)  # it is to run by then
        wait_cancelled(backend.address, backend.process_id, backend.cancel_secret, PATIENCE, SocketOptions())
        hall.workers[0].post(partial(delivered, backend))

    assert hall.helpers.submit(job)


def delivered(backend: Backend) -> None:
    backend.cancels_under_way -= 1
    if isinstance(backend.holder, Farewell):
        backend.holder.on_cancel_delivered(backend)


def comes_back(hall: Hall, backend: Backend) -> None:
    """It is idle again before any patience ends, and the next client finds nothing of the last one."""
    hall.wait_for(lambda counts: counts.examined == 0)
    assert backend.is_open, "it was closed"
    assert hall.lease() is backend
    assert backend.is_clean
    assert backend.exchange.is_settled
    assert not backend.exchange.copying
    assert backend.exchange.unanswered_syncs == 0
    assert ask(backend, "select 42") == ([("42",)], None)
    rows, error = ask(backend, audit_sql({"app.x"}))
    assert error is None
    assert pins_of_audit(rows) == frozenset()
    found = settings_of_audit(rows, backend.role)
    assert {name: value for name, value in found.by_name.items() if value} == {}
    assert ask(backend, "select count(*) from kept") == ([("0",)], None)


def is_closed(hall: Hall, backend: Backend) -> None:
    hall.wait_for(lambda counts: counts.total == 0)
    assert not backend.is_open


INSERT: Final = "insert into kept values (1)"

# What the client sends, and after which answer it leaves (none: at once).
STATES: Final[dict[str, tuple[list[Request], str]]] = {
    "nothing": ([], ""),
    "a query answered": ([query("select 1")], "Z"),
    "a query under way": ([query("select 1")], ""),
    "several queries under way": ([query("select 1"), query("select 1/0"), query("select 2")], ""),
    "a transaction": ([query(f"begin; {INSERT}")], "Z"),
    "a transaction under way": ([query("begin"), query(INSERT)], ""),
    "a failed transaction": ([query(f"begin; {INSERT}; select 1/0")], "Z"),
    "a large result": ([query("select repeat('x', 1000) from generate_series(1, 20000)")], "T"),
    "an extended batch": ([parse("", "select 1"), bind(), execute(), sync()], ""),
    "no Sync yet": ([parse("", INSERT), bind(), execute(), flush()], "C"),
    "no Sync yet, nothing answered": ([parse("", INSERT), bind(), execute()], ""),
    "no Sync yet, in a block": ([query("begin"), parse("", INSERT), bind(), execute()], ""),
    "an error and no Sync": ([parse("", "nonsense"), flush()], "E"),
    "an error and no Sync, more behind": ([parse("", "nonsense"), bind(), execute(), flush()], "E"),
    "an error under way": ([parse("", "nonsense"), bind(), execute()], ""),
    "an error under way, synced": ([parse("", "nonsense"), bind(), execute(), sync()], ""),
    "COPY begun": ([query("copy kept from stdin")], "G"),
    "COPY beginning": ([query("copy kept from stdin")], ""),
    "COPY with data": ([query("copy kept from stdin"), copy_data("1\n")], "G"),
    "COPY refused": ([query("copy nothing from stdin"), copy_data("1\n")], ""),
    "extended COPY begun": ([parse("", "copy kept from stdin"), bind(), execute(), flush()], "G"),
    "extended COPY beginning": ([parse("", "copy kept from stdin"), bind(), execute()], ""),
    "extended COPY, synced too early": ([parse("", "copy kept from stdin"), bind(), execute(), sync()], "G"),
    "extended COPY, synced too early, beginning": ([parse("", "copy kept from stdin"), bind(), execute(), sync()], ""),
    "extended COPY done and not synced": (
        [parse("", "copy kept from stdin"), bind(), execute(), copy_data("1\n"), copy_done(), flush()],
        "C",
    ),
    "extended COPY done, under way": (
        [parse("", "copy kept from stdin"), bind(), execute(), copy_data("1\n"), copy_done()],
        "",
    ),
    "COPY to the client": ([query("copy (select repeat('x', 1000) from generate_series(1, 20000)) to stdout")], ""),
}


@pytest.mark.parametrize("state", STATES)
def test_in_every_state_it_comes_back_clean(hall: Hall, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farewell, "PATIENCE", 1.0)
    requests, until = STATES[state]
    backend = hall.lease()
    play(hall, backend, *requests, until=until)
    comes_back(hall, backend)


def test_what_was_committed_stays(hall: Hall) -> None:
    backend = hall.lease()
    play(hall, backend, query(INSERT))
    hall.wait_for(lambda counts: counts.idle == 1)
    assert hall.lease() is backend
    assert ask(backend, "select count(*) from kept") == ([("1",)], None)


@pytest.mark.parametrize("request_", [query("select pg_sleep(60)"), query("begin; select pg_sleep(60)")], ids=repr)
def test_what_runs_is_cancelled(hall: Hall, request_: Request) -> None:
    backend = hall.lease()
    play(hall, backend, request_, cancel=True)
    comes_back(hall, backend)


def test_while_a_cancel_request_is_under_way_it_is_nobody_elses(hall: Hall) -> None:
    backend = hall.lease()
    backend.cancels_under_way = 1
    play(hall, backend)
    Event().wait(0.1)
    assert hall.counts.examined == 1
    waiter = hall.ask()
    assert waiter.is_waiting
    hall.on(hall.workers[0], lambda: delivered(backend))
    assert waiter.backend() is backend
    hall.leases.append(backend)


def test_half_a_message_was_sent(hall: Hall) -> None:
    backend = hall.lease()
    play(hall, backend, passing=True)
    is_closed(hall, backend)


def test_a_backend_that_is_to_be_closed(hall: Hall) -> None:
    backend = hall.lease()
    backend.close_wanted = True
    play(hall, backend)
    is_closed(hall, backend)


def test_a_sync_in_copy_data_that_may_or_may_not_be_answered(hall: Hall) -> None:
    backend = hall.lease()
    backend.exchange.unanswered_syncs = 1
    play(hall, backend)
    is_closed(hall, backend)


def test_a_backend_that_is_ended_meanwhile(hall: Hall, postgres: Postgres) -> None:
    backend = hall.lease()
    play(hall, backend, query("select pg_sleep(60)"))
    with postgres.connect() as wire:
        wire.rows(f"select pg_terminate_backend({backend.process_id})")
    is_closed(hall, backend)


def test_patience_ends(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farewell, "PATIENCE", 0.1)
    backend = hall.lease()
    play(hall, backend, query("select pg_sleep(60)"))
    is_closed(hall, backend)


# What may have been left behind.

LEFT: Final = {
    "prepared statement": "prepare p as select 1",
    "cursor with hold": "declare c cursor with hold for select 1",
    "temporary object": "create temp table t ()",
    "advisory lock": "select pg_advisory_lock(1)",
    "listen": "listen news",
}


@pytest.mark.parametrize("reason", LEFT)
def test_what_pinned_the_client_is_undone(hall: Hall, reason: str) -> None:
    backend = hall.lease()
    ask(backend, LEFT[reason])
    play(hall, backend, marks=Marks(pins=frozenset({reason})))
    comes_back(hall, backend)


def test_everything_at_once(hall: Hall) -> None:
    backend = hall.lease()
    for statement in LEFT.values():
        ask(backend, statement)
    play(hall, backend, marks=Marks(pins=frozenset(LEFT)))
    comes_back(hall, backend)


def test_under_suspicion_everything_goes(hall: Hall) -> None:
    backend = hall.lease()
    statement = Statement(b"select 1\0\0\0")
    backend.names.confirmed(statement)
    backend.settings = settings_of({"work_mem": "1024"})
    for sql in (
        *LEFT.values(),
        "set work_mem = 1024",
        "set app.x = 'y'",
        "set timezone = 'Asia/Tokyo'",
        "set role plain",
    ):
        ask(backend, sql)
    play(hall, backend, marks=Marks(suspect=True))
    comes_back(hall, backend)
    assert statement not in backend.names
    assert backend.settings is DEFAULTS
    assert backend.reported.by_name["TimeZone"] == "UTC"


@pytest.mark.parametrize(
    "sql",
    ["set work_mem = '1MB'", "prepare p as select 1", "listen news", "set role tenant", "set timezone = 'Asia/Tokyo'"],
)
def test_what_it_did_while_it_left_counts_too(hall: Hall, sql: str) -> None:
    """Nobody has seen the answer when the client leaves, and its own marks are clean."""
    backend = hall.lease()
    play(hall, backend, query(sql))
    comes_back(hall, backend)


def test_a_transaction_with_settings_is_rolled_back_first(hall: Hall) -> None:
    backend = hall.lease()
    ask(backend, "begin")
    ask(backend, "set work_mem = '1MB'")
    assert backend.status == codes.IN_TRANSACTION
    play(hall, backend, marks=Marks(suspect=True))
    comes_back(hall, backend)


# Servers that misbehave.


def against(*parts: bytes) -> Callable[[Peer], None]:
    def script(peer: Peer) -> None:
        peer.greet()
        if peer.number > 1:
            peer.serve()
        peer.receive()
        for part in parts:
            peer.send(part)
        peer.serve()

    return script


@pytest.mark.parametrize(
    "parts",
    [
        (fake.answer("1") + fake.ready(),),
        (b"Z\0\0\0\1",),
        (b"T\x7f\xff\xff\xff",),
    ],
    ids=["more than asked", "length", "endless"],
)
def test_a_server_that_is_out_of_step_loses_its_connection(parts: tuple[bytes, ...]) -> None:
    with FakeServer(against(*parts)) as server:
        settings = settings_for((server.host, server.port), pool_size=1)
        with Hall(settings, workers=1) as hall:
            backend = hall.lease()
            play(hall, backend, query("select 1"))
            is_closed(hall, backend)


@pytest.mark.parametrize("answer", [fake.answer("x" * 50)])
def test_answers_in_pieces(answer: bytes) -> None:
    """Wherever they are cut."""

    def script(peer: Peer) -> None:
        peer.greet()
        peer.receive()
        for byte in answer:
            peer.send(bytes([byte]))
            Event().wait(0.0005)
        peer.serve()

    with FakeServer(script) as server, Hall(settings_for((server.host, server.port), pool_size=1), workers=1) as hall:
        backend = hall.lease()
        play(hall, backend, query("select 1"))
        hall.wait_for(lambda counts: counts.idle == 1)
        assert backend.is_open

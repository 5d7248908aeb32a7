"""Questions of our own, asked of PostgreSQL and of servers that misbehave."""

import struct
from collections.abc import Iterator
from functools import partial
from queue import SimpleQueue

import pytest

from pgdoorman.backend.connection import Backend
from pgdoorman.backend.inquiry import Inquiry, codec_of, note_parameter, read_row
from pgdoorman.backend.settings import MOST_REPORTED, reported_of
from pgdoorman.errors import BackendRefused, BackendUnavailable, ProtocolViolation
from pgdoorman.protocol import codes
from pgdoorman.runtime.worker import Worker
from tests.support import fake_server as fake
from tests.support.fake_server import FakeServer, Peer
from tests.support.postgres import Postgres
from tests.support.wire import frame
from tests.unit.backend.hands import PATIENCE, ask, on, opened


class Keeper:
    """Whoever had the backend before."""

    def __init__(self) -> None:
        self.notifications: SimpleQueue[bytes] = SimpleQueue()
        self.heard: SimpleQueue[str] = SimpleQueue()

    def on_backend_readable(self, backend: Backend) -> None:
        self.heard.put("readable")

    def on_backend_event(self, backend: Backend, events: int) -> None:
        self.heard.put("event")

    def on_backend_crash(self, backend: Backend, error: Exception) -> None:
        self.heard.put("crash")

    def on_notification(self, backend: Backend, message: bytes) -> None:
        self.notifications.put(message)


@pytest.fixture
def backend(postgres: Postgres, worker: Worker) -> Iterator[Backend]:
    backend = opened(postgres, worker)
    yield backend
    on(worker, backend.close)


def test_rows_come_back(backend: Backend) -> None:
    keeper = Keeper()
    backend.holder = keeper
    backend.unnamed = object()
    assert ask(backend, "select 1, null, '', 'größe' union all select 2, 'x', 'y', 'z' order by 1") == (
        [("1", None, "", "größe"), ("2", "x", "y", "z")],
        None,
    )
    assert backend.holder is keeper
    assert backend.unnamed is None, "a simple Query drops the unnamed statement"
    assert ask(backend, ";") == ([], None)
    assert backend.is_clean


def test_the_transaction_status_is_known_afterwards(backend: Backend) -> None:
    assert ask(backend, "begin")[1] is None
    assert backend.status == codes.IN_TRANSACTION
    rows, error = ask(backend, "select 1/0")
    assert isinstance(error, BackendRefused)
    assert error.sqlstate_of_server == "22012"
    assert rows == []
    assert backend.status == codes.FAILED
    assert ask(backend, "rollback")[1] is None
    assert backend.status == codes.IDLE


def test_reported_parameters_are_noted(backend: Backend) -> None:
    before = backend.reported
    assert ask(backend, "set application_name = 'inquired'; set timezone = 'Europe/Berlin'")[1] is None
    assert backend.reported is not before
    assert backend.reported.by_name["application_name"] == "inquired"
    assert backend.reported.by_name["TimeZone"] == "Europe/Berlin"
    ask(backend, "reset all")
    assert backend.reported is before


@pytest.mark.parametrize("encoding", ["LATIN1", "WIN1252", "EUC_JP", "UTF8", "KOI8R", "SJIS"])
def test_the_connections_encoding_is_spoken(backend: Backend, encoding: str) -> None:
    text = {"EUC_JP": "漢字", "SJIS": "漢字", "KOI8R": "привет"}.get(encoding, "größe")
    ask(backend, f"set client_encoding = {encoding}")
    assert ask(backend, f"select '{text}', length('{text}')") == ([(text, str(len(text)))], None)


def test_every_encoding_of_postgresql_is_known_by_some_name(backend: Backend) -> None:
    rows, _ = ask(
        backend,
        "select pg_encoding_to_char(n) from generate_series(0, 50) n where pg_encoding_to_char(n) <> ''",
    )
    assert len(rows) > 35
    strangers = []
    for (name,) in rows:
        backend.reported = reported_of({"client_encoding": name or ""})
        if codec_of(backend) == codec_of_nothing() and name not in ("LATIN1", "SQL_ASCII", "MULE_INTERNAL"):
            strangers.append(name)
    assert strangers == []


def codec_of_nothing() -> str:
    return "iso8859-1"


def test_a_notification_goes_to_the_holder(backend: Backend, postgres: Postgres) -> None:
    keeper = Keeper()
    backend.holder = keeper
    ask(backend, "listen news")
    ask(backend, "notify news, 'hello'")
    message = keeper.notifications.get(timeout=PATIENCE)
    assert message[:1] == b"A"
    assert message.endswith(b"news\0hello\0")


def test_a_server_that_does_not_answer_in_time(backend: Backend) -> None:
    rows, error = ask(backend, "select pg_sleep(30)", timeout=0.05)
    assert isinstance(error, BackendUnavailable)
    assert "in time" in str(error)
    assert rows == []


def test_a_backend_that_is_ended(backend: Backend, postgres: Postgres) -> None:
    _, error = ask(backend, "select pg_terminate_backend(pg_backend_pid())")
    assert isinstance(error, BackendUnavailable)
    assert "administrator command" in str(error), "the server's own last word"


def misbehaving(*answer: bytes, then_close: bool = False) -> FakeServer:
    def script(peer: Peer) -> None:
        peer.greet()
        while peer.receive().kind == "Q":
            for part in answer:
                peer.send(part)
            if then_close:
                return

    return FakeServer(script)


def answer_of(server: FakeServer, worker: Worker) -> tuple[object, object, Backend]:
    backend = opened(server, worker)  # type: ignore[arg-type]  # it has a host and a port, which is all that is needed
    rows, error = ask(backend, "select 1", timeout=1.0)
    return rows, error, backend


@pytest.mark.parametrize(
    "answer",
    [
        b"Z\0\0\0\3",
        b"Z\xff\xff\xff\xff",
        fake.answer("1") + fake.ready(),
        fake.answer("1") + fake.complete(),
        frame("D", struct.pack("!Hi", 1, 100)) + fake.complete() + fake.ready(),
    ],
    ids=["short", "endless", "twice", "more", "broken row"],
)
def test_a_server_that_breaks_the_protocol(worker: Worker, answer: bytes) -> None:
    with misbehaving(answer) as server:
        _, error, backend = answer_of(server, worker)
        assert isinstance(error, BackendUnavailable)
        assert "protocol" in str(error)
        on(worker, backend.close)


def test_a_server_that_ends_behind_its_answer(worker: Worker) -> None:
    """It says why: that is told, and the server is not blamed for it."""
    with misbehaving(fake.answer("1") + fake.error("57P01", "told to go")) as server:
        _, error, backend = answer_of(server, worker)
        assert isinstance(error, BackendUnavailable)
        assert "told to go" in str(error)
        assert "protocol" not in str(error)
        on(worker, backend.close)


def test_a_server_that_hangs_up(worker: Worker) -> None:
    with misbehaving(fake.row_description("a"), then_close=True) as server:
        _, error, backend = answer_of(server, worker)
        assert isinstance(error, BackendUnavailable)
        assert "closed the connection" in str(error)
        on(worker, backend.close)


def test_what_may_come_at_any_time_may_come_behind_the_answer(worker: Worker) -> None:
    late = fake.parameter_status("TimeZone", "Mars")
    with misbehaving(fake.answer("1") + late[:7], late[7:]) as server:
        rows, error, backend = answer_of(server, worker)
        assert (rows, error) == ([("1",)], None)
        assert backend.reported.by_name["TimeZone"] == "Mars"
        on(worker, backend.close)


def test_done_is_called_once(worker: Worker, postgres: Postgres) -> None:
    backend = opened(postgres, worker)
    calls: SimpleQueue[object] = SimpleQueue()

    def begin() -> None:
        inquiry = Inquiry(backend, "select 1", 0.001, lambda *_: calls.put(1))
        inquiry.on_backend_crash(backend, ValueError("on purpose"))
        inquiry.on_backend_event(backend, 0)

    on(worker, begin)
    assert calls.get(timeout=PATIENCE) == 1
    on(worker, partial(backend.close))
    assert calls.empty()


@pytest.mark.parametrize("row", [b"", b"\0", b"\0\1", b"\0\1\0\0", b"\0\1\0\0\0\5abc", b"\0\2\0\0\0\1a"])
def test_broken_rows(row: bytes) -> None:
    if row in (b"", b"\0"):
        assert read_row(row) == ()
        return
    with pytest.raises(ProtocolViolation):
        read_row(row)


def test_noting_a_parameter(backend: Backend) -> None:
    before = backend.reported
    assert note_parameter(backend, b"TimeZone\0UTC\0") == ("TimeZone", "UTC")
    assert backend.reported is before
    note_parameter(backend, b"TimeZone\0Mars\0")
    assert list(backend.reported.by_name) == list(before.by_name), "in the server's order"
    note_parameter(backend, b"new\0value\0")
    assert backend.reported.by_name["new"] == "value"


def test_only_so_many_parameters_are_noted(backend: Backend) -> None:
    """Each new one copies all the others: a server that reports thousands would keep the worker busy for minutes."""
    for number in range(2 * MOST_REPORTED):
        note_parameter(backend, b"p%d\0value\0" % number)
    note_parameter(backend, b"TimeZone\0Mars\0")
    assert len(backend.reported.by_name) == MOST_REPORTED
    assert backend.reported.by_name["TimeZone"] == "Mars"

"""Opening backends: at PostgreSQL, at nobody, and at servers that misbehave."""

import socket
import struct
from collections.abc import Callable
from pathlib import Path
from time import sleep
from typing import Any

import pytest

from pgdoorman.auth.backend_login import BackendCredentials, CredentialsMissing
from pgdoorman.backend.connection import next_number
from pgdoorman.backend.startup import OpeningPlan, wait_opened
from pgdoorman.errors import BackendRefused, BackendUnavailable, PgDoormanError, ProtocolViolation
from pgdoorman.protocol import codes
from pgdoorman.transport.connect import Address
from tests.support import fake_server as fake
from tests.support.fake_server import FakeServer, Peer
from tests.support.pace import Stopwatch
from tests.support.postgres import SECRET, Postgres
from tests.support.wire import frame
from tests.unit.backend.hands import plan_for


@pytest.mark.parametrize(
    ("user", "password"), [("alice", ""), ("md5_user", SECRET), ("scram_user", SECRET), ("clear_user", SECRET)]
)
def test_every_way_to_log_in(postgres: Postgres, user: str, password: str) -> None:
    plan = plan_for(postgres, user, password, parameters=[("application_name", "startup"), ("work_mem", "1MB")])
    backend = wait_opened(plan)
    try:
        assert backend.role == user
        assert backend.is_clean
        assert backend.is_open
        assert backend.reported.by_name["application_name"] == "startup"
        assert backend.reported.by_name["session_authorization"] == user
        assert backend.process_id in postgres.backends("app")
        assert len(backend.cancel_secret) == 4
        assert backend.sock.gettimeout() is None
    finally:
        backend.close()


def test_through_the_unix_socket(postgres: Postgres) -> None:
    plan = OpeningPlan(Address(postgres.socket_directory, postgres.port), "app", BackendCredentials("bob"))
    backend = wait_opened(plan)
    assert backend.sock.family == socket.AF_UNIX
    backend.close()


def test_numbers_are_unique(postgres: Postgres) -> None:
    one, other = wait_opened(plan_for(postgres)), wait_opened(plan_for(postgres))
    assert one.id < other.id < next_number()
    one.close()
    other.close()


@pytest.mark.parametrize(
    ("user", "password", "database", "sqlstate"),
    [
        ("locked", SECRET, "app", "28000"),
        ("scram_user", "wrong", "app", "28P01"),
        ("alice", "", "no such database", "3D000"),
        ("nobody", "", "app", "28000"),
    ],
)
def test_the_server_refuses(postgres: Postgres, user: str, password: str, database: str, sqlstate: str) -> None:
    with pytest.raises(BackendRefused) as refused:
        wait_opened(plan_for(postgres, user, password, database=database))
    assert refused.value.sqlstate_of_server == sqlstate


def test_without_a_password(postgres: Postgres) -> None:
    with pytest.raises(CredentialsMissing):
        wait_opened(plan_for(postgres, "scram_user"))


def test_nobody_listens(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for address in (Address("127.0.0.1", port), Address(str(tmp_path), 5432), Address("no.such.host.invalid", 1)):
        with pytest.raises(BackendUnavailable):
            wait_opened(OpeningPlan(address, "app", BackendCredentials("alice")))


def script(*parts: bytes, pause: float = 0.0) -> Callable[[Peer], None]:
    def run(peer: Peer) -> None:
        peer.receive_startup()
        for part in parts:
            peer.send(part)
            sleep(pause)

    return run


MISBEHAVIOUR: dict[str, tuple[Callable[[Peer], None], type[PgDoormanError]]] = {
    "hangs up": (script(), BackendUnavailable),
    "hangs up in the middle": (script(fake.authentication(0)[:4]), BackendUnavailable),
    "speaks HTTP": (script(b"HTTP/1.1 400 Bad Request\r\n\r\n"), ProtocolViolation),
    "wrong length": (script(b"R\0\0\0\1"), ProtocolViolation),
    "endless message": (script(b"R\x7f\xff\xff\xff"), ProtocolViolation),
    "says more": (script(fake.greeting() + fake.ready()), ProtocolViolation),
    "begins in a transaction": (script(fake.greeting(status="T")), ProtocolViolation),
    "starts up": (script(fake.error("57P03", "the database system is starting up", "FATAL")), BackendRefused),
}


@pytest.mark.parametrize("how", MISBEHAVIOUR)
def test_servers_that_misbehave(how: str) -> None:
    answer, error = MISBEHAVIOUR[how]
    with FakeServer(answer) as server, pytest.raises(error):
        wait_opened(OpeningPlan(Address(server.host, server.port), "app", BackendCredentials("alice")))


@pytest.mark.parametrize("drip", [False, True])
def test_a_silent_server_costs_the_timeout_and_no_more(drip: bool) -> None:
    """A server that sends a byte now and then must not extend it."""

    def wait(peer: Peer) -> None:
        peer.receive_startup()
        for byte in fake.greeting():
            sleep(0.05)
            peer.send(bytes([byte]) if drip else b"")

    with FakeServer(wait) as server:
        watched = Stopwatch()
        with pytest.raises(BackendUnavailable, match="in time"):
            wait_opened(plan_at(server, timeout=0.4))
        assert watched.seconds > 0.3
        watched.must_be_below(1.5, "a time limit of 0.4 s")
        server.cut()


def plan_at(server: FakeServer, **changes: Any) -> OpeningPlan:
    return OpeningPlan(Address(server.host, server.port), "app", BackendCredentials("alice"), **changes)


def test_a_server_of_protocol_3_2_gives_a_longer_secret() -> None:
    secret = bytes(range(32))

    def greet(peer: Peer) -> None:
        peer.receive_startup()
        peer.send(fake.authentication(0), frame("K", struct.pack("!I", 77) + secret), fake.ready())
        peer.receive()

    with FakeServer(greet) as server:
        backend = wait_opened(plan_at(server, version=codes.PROTOCOL_3_2))
        assert (backend.process_id, backend.cancel_secret) == (77, secret)
        backend.close()

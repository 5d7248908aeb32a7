"""Clients that are gone before they have heard the answer to what they said."""

import socket
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import pytest

from pgdoorman.auth.client_login import LoginKnobs
from pgdoorman.auth.hba import HbaRules, parse_hba
from pgdoorman.auth.scram import MadeVerifiers
from pgdoorman.auth.secrets import PlainSecret
from pgdoorman.client.login import Arrived, Login
from pgdoorman.errors import PgDoormanError
from pgdoorman.protocol import codes
from pgdoorman.protocol.dialogue import FindSecret
from pgdoorman.protocol.startup import StartupMessage
from pgdoorman.runtime.helpers import Helpers
from pgdoorman.runtime.worker import Worker
from pgdoorman.transport.handshake_rate import HandshakeRate
from pgdoorman.transport.peer import Peer
from pgdoorman.transport.tls_accept import TlsDoor
from tests.support.wire import password_message, startup

PATIENCE = 20.0


@pytest.fixture
def helpers() -> Iterator[Helpers]:
    helpers = Helpers(2, "test-helper")
    yield helpers
    helpers.close(PATIENCE)


class Desk:
    """What a login asks of the house; it writes down who was welcomed and that it was over."""

    login_timeout = 0.0
    tls: TlsDoor | None = None
    handshakes = HandshakeRate()
    has_room = True

    def __init__(self, method: str, helpers: Helpers) -> None:
        self.rules: HbaRules = parse_hba(f"local all all {method}\n")
        self.patient_helpers = helpers
        self.welcomed: list[Arrived] = []
        self.failed: list[PgDoormanError] = []
        self.ended: SimpleQueue[Login] = SimpleQueue()

    def admit(self, message: StartupMessage, peer: Peer, *, encrypted: bool = False) -> None:
        pass

    def knobs_for(self, database: str) -> LoginKnobs:
        return LoginKnobs(MadeVerifiers(iterations=1))

    def find_secret(self, wanted: FindSecret, told: Any) -> PlainSecret:
        return PlainSecret(b"pencil")

    def welcome(self, arrived: Arrived) -> None:
        self.welcomed.append(arrived)
        arrived.sock.close()

    def cancel(self, request: Any, done: Any) -> None:
        raise AssertionError("nobody cancels here")

    def login_failed(self, peer: Peer, user: str, database: str, error: PgDoormanError) -> None:
        self.failed.append(error)

    def login_ended(self, login: Login) -> None:
        self.ended.put(login)


@pytest.mark.parametrize("version", [codes.PROTOCOL_3_0, codes.PROTOCOL_3_2 + 1], ids=["known", "negotiated"])
@pytest.mark.parametrize("method", ["trust", "password", "md5", "scram-sha-256"])
def test_who_says_all_and_is_gone(worker: Worker, helpers: Helpers, method: str, version: int) -> None:
    """What it said can be read, but no answer can be sent: nobody is welcomed with a socket that is closed already."""
    desk = Desk(method, helpers)
    ours, theirs = socket.socketpair()
    said = startup({"user": "alice", "database": "app"}, version).data + password_message("pencil").data
    theirs.sendall(said)
    theirs.close()
    Login(ours, Peer("unix", 0, is_unix=True), worker, desk, helpers).begin()
    desk.ended.get(timeout=PATIENCE)
    worker.stop()
    worker.join(PATIENCE)
    if method == "trust" and version == codes.PROTOCOL_3_0:
        assert len(desk.welcomed) == 1, "nothing was to be said before the welcome"
    else:
        assert desk.welcomed == []
    assert ours.fileno() == -1
    assert worker.crashes == 0

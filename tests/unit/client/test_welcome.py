"""From a proved identity to a session: what others may rely on while it is on the way."""

import socket
from collections.abc import Callable, Iterator
from threading import Event
from typing import Any

import pytest

from pgdoorman.auth.client_login import ClientIdentity
from pgdoorman.client.budget import Budget
from pgdoorman.client.cancel_keys import CancelKeys
from pgdoorman.client.login import Arrived
from pgdoorman.client.services import Services
from pgdoorman.client.session import Session
from pgdoorman.client.welcome import Welcome
from pgdoorman.protocol import codes
from pgdoorman.protocol.startup import StartupMessage
from pgdoorman.transport.peer import Peer
from tests.support.postgres import Postgres
from tests.support.wire import Wire
from tests.unit.pool.hall import Hall, settings_for

PATIENCE = 20.0


@pytest.fixture
def hall(postgres: Postgres) -> Iterator[Hall]:
    with Hall(settings_for(postgres)) as hall:
        yield hall


def _arrive(hall: Hall, settled: Callable[[Any], None], pool_of: Callable[[str, str], Any]) -> Wire:
    """A client that has just proved who it is; what it is told comes here."""
    ours, theirs = socket.socketpair()
    message = StartupMessage(codes.PROTOCOL_3_0, (("user", "alice"), ("database", "app")))
    arrived = Arrived(
        sock=ours,
        peer=Peer("unix", 0, is_unix=True),
        message=message,
        version=codes.PROTOCOL_3_0,
        identity=ClientIdentity("alice", "trust", None),
        rest=b"",
    )
    services = Services(hall.helpers, CancelKeys(), Budget(1 << 20), lambda _: None, pool_of)
    worker = hall.workers[0]
    assert worker.post(Welcome(arrived, hall.pool, services, worker, settled).begin)
    theirs.settimeout(PATIENCE)
    return Wire(theirs, PATIENCE)


def test_who_can_find_a_session_can_ask_something_of_it(hall: Hall) -> None:
    """It is listed before its greeting goes out. Whoever looks through the list then posts to its worker."""
    asked = Event()
    sessions: list[Session] = []

    def settled(session: Session | None) -> None:
        assert session is not None
        sessions.append(session)
        session.worker.post(asked.set)

    with _arrive(hall, settled, lambda *_: hall.pool) as wire:
        assert wire.receive_until("Z")
        assert asked.wait(PATIENCE)
        assert wire.value("select 1") == "1"
        assert sessions[0].worker is hall.workers[0]


def test_a_pool_that_goes_while_its_client_is_greeted(hall: Hall) -> None:
    """The reload that took it away has asked all others to follow before this one was among them."""

    def settled(session: Session | None) -> None:
        hall.pool.close()

    with _arrive(hall, settled, lambda *_: None) as wire:
        replies = wire.wait_closed(PATIENCE)
    assert replies[-1].kind == "E"
    assert (replies[-1].fields()["S"], replies[-1].fields()["M"]) == ("FATAL", "database removed")

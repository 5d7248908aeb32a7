"""Cancel requests, delivered."""

import socket
import struct
from threading import Thread
from time import monotonic

import pytest

from pgdoorman.backend.cancel import CancelAdrift, cancel_message, wait_cancelled
from pgdoorman.errors import BackendUnavailable
from pgdoorman.transport.connect import Address
from pgdoorman.transport.sockets import SocketOptions
from tests.support import wire
from tests.support.pace import Stopwatch
from tests.support.postgres import Postgres

OPTIONS = SocketOptions()


@pytest.mark.parametrize("length", [4, 32, 256])
def test_the_message(length: int) -> None:
    secret = bytes(length)
    assert cancel_message(0xFFFFFFFF, secret) == wire.cancel_request(0xFFFFFFFF, secret).data


def test_what_runs_is_cancelled_when_it_returns(postgres: Postgres) -> None:
    address = Address(postgres.host, postgres.port)
    with postgres.connect("app") as client, postgres.connect() as watch:
        client.send(wire.query("select pg_sleep(60)"))
        began = monotonic()
        # Itself and the other.
        while watch.value("select count(*) from pg_stat_activity where query like '%pg_sleep(60)%'") != "2":
            assert monotonic() - began < 60
        wait_cancelled(address, client.process_id, client.secret, 5.0, OPTIONS)
        replies = client.settle()
        assert [reply.fields()["C"] for reply in replies if reply.kind == "E"] == ["57014"]
        assert monotonic() - began < 60, "the query was to run for a minute"


def test_a_wrong_secret_cancels_nothing(postgres: Postgres) -> None:
    with postgres.connect("app") as client:
        client.send(wire.query("select pg_sleep(0.2)"))
        wait_cancelled(Address(postgres.host, postgres.port), client.process_id, b"wron", 5.0, OPTIONS)
        assert [reply.kind for reply in client.settle()] == ["T", "D", "C", "Z"]


def test_a_server_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(BackendUnavailable) as refused:
        wait_cancelled(Address("127.0.0.1", port), 1, b"abcd", 1.0, OPTIONS)
    assert not isinstance(refused.value, CancelAdrift)  # nothing was sent


def test_a_server_that_never_closes() -> None:
    """It may still act on the request, later."""
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(CancelAdrift, match="in time"):
        wait_cancelled(Address(*listener.getsockname()), 1, b"abcd", 0.1, OPTIONS)


def test_a_server_that_drips_does_not_extend_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            with listener.accept()[0] as sock:
                while True:
                    try:
                        sock.send(b"x")
                        sock.settimeout(0.05)
                        sock.recv(100)
                    except TimeoutError:
                        continue
                    except OSError:
                        return

        thread = Thread(target=drip, daemon=True)
        thread.start()
        watched = Stopwatch()
        with pytest.raises(BackendUnavailable):
            wait_cancelled(Address(*listener.getsockname()), 1, b"abcd", 0.3, OPTIONS)
        watched.must_be_below(2.0, "a time limit of 0.3 s")


def test_a_reset_counts_as_delivered() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def reset() -> None:
            sock = listener.accept()[0]
            sock.recv(64)  # one that is reset before may fail to connect at all
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()

        thread = Thread(target=reset, daemon=True)
        thread.start()
        wait_cancelled(Address(*listener.getsockname()), 1, b"abcd", 2.0, OPTIONS)
        thread.join(5.0)

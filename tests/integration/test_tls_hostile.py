"""TLS of those who mean no good, or whose connections break: on the clients' side and on the servers'.

The watchdog is `Watch`: afterwards the pooler serves, has given everything back, and does not spin.
"""

import contextlib
import random
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.integration.conftest import StartDoorman
from tests.integration.watch import Watch
from tests.support.certificates import self_signed
from tests.support.doorman import pool, stand_in, user
from tests.support.fake_server import FakeServer, Gone, Peer, answer, row_description
from tests.support.postgres import Postgres
from tests.support.process import wait_until
from tests.support.raw_tls import PLAIN_ALERT, RawTls, trusting_context
from tests.support.wire import ServerError, WireError, query, ssl_request, startup

pytestmark = pytest.mark.skipif(bool(stand_in()), reason="about pgdoorman's own way")

ALICE: Final = {"user": "alice", "database": "app"}
LOGIN_SECONDS: Final = 3
HUGE_RECORD: Final = b"\x17\x03\x03\xff\xff" + bytes(70_000)


@pytest.fixture(scope="module")
def certificate(workspace: Path) -> tuple[Path, Path]:
    return self_signed().write(workspace, "hostile")


@pytest.fixture(scope="module")
def watch(postgres: Postgres, start_module_doorman: StartDoorman, certificate: tuple[Path, Path]) -> Watch:
    doorman = start_module_doorman(
        pools={"app": pool(postgres, user("alice", pool_size=2))},
        general={
            "tls_certificate": str(certificate[0]),
            "tls_private_key": str(certificate[1]),
            "client_login_timeout": f"{LOGIN_SECONDS}s",
        },
    )
    watch = Watch(doorman)
    with contextlib.closing(dial(watch)) as sock:
        RawTls(sock, trusting_context()).shake()  # OpenSSL opens what it opens once
    return Watch(doorman)


def dial(watch: Watch, *, asked: bool = True) -> socket.socket:
    """A connection on which the pooler awaits a handshake: after a request for it, or at once."""
    sock = socket.create_connection((watch.doorman.host, watch.doorman.port), timeout=20)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if asked:
        sock.sendall(ssl_request().data)
        assert sock.recv(1) == b"S"
    return sock


def must_close(sock: socket.socket, story: object) -> bytes:
    """What still comes. The connection is closed soon."""
    came = b""
    sock.settimeout(LOGIN_SECONDS + 15)
    try:
        while data := sock.recv(65536):
            came += data
    except ConnectionError:
        pass
    except TimeoutError:
        pytest.fail(f"{story}: the connection was left open")
    return came


# Handshakes of clients.


def hello() -> bytes:
    with contextlib.closing(socket.socket()) as sock:
        context = trusting_context()
        context.set_alpn_protocols(["postgresql"])
        return RawTls(sock, context).flight()


def damaged(data: bytes, chance: random.Random) -> bytes:
    """One to four bytes are others."""
    mutable = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        mutable[chance.randrange(len(mutable))] = chance.randrange(256)
    return bytes(mutable)


def cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(1, len(data))]


def split(data: bytes, chance: random.Random) -> bytes:
    """The same in records of a few bytes each."""
    body, records = data[5:], b""
    while body:
        size = min(len(body), chance.randint(1, 40))
        records += data[:3] + struct.pack("!H", size) + body[:size]
        body = body[size:]
    return records


@pytest.mark.parametrize("asked", [True, False], ids=["after a request", "at once"])
def test_broken_handshakes_of_clients(watch: Watch, asked: bool) -> None:
    """Hellos cut, damaged and in crumbs, with and without an end; whoever waits is not waited for."""
    chance = random.Random(7)
    good = hello()
    beginnings = [
        b"\x16",
        b"\x16\x03",
        good[:5],
        good[:-1],
        PLAIN_ALERT,
        b"\x16\x03\x01\xff\xff",
        b"\x16" + HUGE_RECORD[1:],
    ]
    beginnings += [change(good, chance) for change in (damaged, cut) for _ in range(25)]
    beginnings += [split(good, chance) for _ in range(3)] + [good * 40, b"\x16\x03\x01\0\0" * 3000]
    left: list[socket.socket] = []
    for number, beginning in enumerate(beginnings):
        sock = dial(watch, asked=asked)
        with contextlib.suppress(OSError):
            sock.sendall(beginning if asked else good[:1] + beginning[1:])
        match number % 3:
            case 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()
            case 1:
                sock.shutdown(socket.SHUT_WR)
                left.append(sock)
            case _:
                left.append(sock)
    watch.must_serve()
    for sock in left:
        came = must_close(sock, "a broken handshake")
        assert b"R\0\0\0" not in came
        sock.close()
    watch.after()


def test_clients_that_stop_in_the_handshake(watch: Watch) -> None:
    """They have sent all that was asked for, and read nothing, or never send the rest: their time ends all the same."""
    socks = [dial(watch) for _ in range(8)]
    for number, sock in enumerate(socks):
        tls = RawTls(sock, trusting_context())
        sock.sendall(tls.flight())
        if number % 2:
            tls.hear()
            sock.sendall(tls.flight()[:-1])  # all but the last byte of Finished
    watch.must_serve()
    began = time.monotonic()
    for sock in socks:
        must_close(sock, "half a handshake")
        sock.close()
    assert time.monotonic() - began < LOGIN_SECONDS + 15
    watch.after()


# Clients that are inside.


def inside(watch: Watch) -> RawTls:
    tls = RawTls(dial(watch), trusting_context())
    tls.shake()
    tls.sendall(startup(ALICE).data)
    came = b""
    while not came.endswith(b"Z\0\0\0\5I"):
        came += tls.recv(65536)
    return tls


SLEEP: Final = query("select pg_sleep(30)").data
INTRUSIONS: Final[dict[str, Callable[[RawTls], bytes]]] = {
    "a query in clear": lambda tls: query("select 'intruder'").data,
    "a query in clear behind a good one": lambda tls: (
        tls.seal(query("select 1").data) + query("select 'intruder'").data
    ),
    "a damaged record": lambda tls: tls.seal(query("select 'intruder'").data)[:-1] + b"x",
    "a record twice": lambda tls: tls.seal(query("select 1").data) * 2,
    "a huge record": lambda tls: HUGE_RECORD,
    "a record of nothing": lambda tls: b"\x17\x03\x03\0\0",
    "half a record": lambda tls: tls.seal(query("select 'intruder'").data)[:-4],
    "an alert in clear": lambda tls: PLAIN_ALERT,
    "a hello in clear": lambda tls: hello(),
    "a farewell, and more": lambda tls: tls.farewell() + query("select 'intruder'").data,
    "a farewell in the middle of a query": lambda tls: tls.seal(SLEEP) + tls.farewell(),
    "noise in the middle of a query": lambda tls: tls.seal(SLEEP) + bytes(range(256)),
}


@pytest.mark.parametrize("name", INTRUSIONS)
def test_broken_records_of_clients(watch: Watch, name: str) -> None:
    """Nothing but what came encrypted and whole is heard; the backend is free again."""
    tls = inside(watch)
    came = b""
    with contextlib.suppress(OSError):
        tls.sock.sendall(INTRUSIONS[name](tls))
        tls.sock.shutdown(socket.SHUT_WR)
        while data := tls.recv(65536):
            came += data
    assert b"intruder" not in came
    tls.sock.close()
    watch.after()


def test_random_damage_to_clients_records(watch: Watch) -> None:
    chance = random.Random(11)
    for number in range(30):
        tls = inside(watch)
        record = tls.seal(query(f"select 'intruder {number}'").data)
        with contextlib.suppress(OSError):
            tls.sock.sendall(damaged(record, chance) if number % 2 else cut(record, chance))
            tls.sock.shutdown(socket.SHUT_WR)
            tls.sock.settimeout(10)
            came = tls.recv(65536)
            # Damage may hit nothing: then it was a good record.
            assert not came or number % 2, f"half of a record was heard: {came!r}"
        tls.sock.close()
    watch.after()


# Servers.


def asked_for_tls(peer: Peer) -> None:
    if peer.sock.recv(8, socket.MSG_WAITALL) != ssl_request().data:
        raise Gone("not a request for TLS")
    peer.send(b"S")


def first_flight(peer: Peer, context: ssl.SSLContext) -> bytes:
    """What an honest server would answer to the hello."""
    tls = RawTls(peer.sock, context, server=True)
    while True:
        tls.hear()
        if flight := tls.flight():
            return flight


def stay(peer: Peer) -> None:
    """Until the other side leaves."""
    with contextlib.suppress(OSError):
        while peer.sock.recv(65536):
            pass


HANDSHAKES: Final[dict[str, Callable[[bytes], bytes | None]]] = {
    "silence": lambda flight: b"",
    "it hangs up": lambda flight: None,
    "noise": lambda flight: bytes(range(256)) * 4,
    "PostgreSQL in clear": lambda flight: b"R\0\0\0\x08\0\0\0\0Z\0\0\0\5I",
    "an alert": lambda flight: PLAIN_ALERT,
    "a huge record": lambda flight: b"\x16" + HUGE_RECORD[1:],
    "records of nothing": lambda flight: b"\x16\x03\x03\0\0" * 2000,
    "half of it": lambda flight: flight[: len(flight) // 2],
    "all but a byte": lambda flight: flight[:-1],
    "a damaged hello": lambda flight: flight[:20] + b"\xff" + flight[21:],
    "a damaged certificate": lambda flight: flight[:-100] + b"\xff\xfe" + flight[-98:],
    "a hello twice": lambda flight: flight + flight,
}


@pytest.fixture(scope="module")
def server_context(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


def tried(watch: Watch, database: str, sql: str = "select 'asked'") -> str:
    """The value, or SQLSTATE and text of the refusal."""
    try:
        with watch.doorman.connect(database, "alice", patience=25) as wire:
            return str(wire.value(sql))
    except ServerError as error:
        return f"{error.sqlstate} {error.fields['M']}"
    except WireError as error:
        said = [reply.fields() for reply in error.replies if reply.kind == "E"]
        if not said:
            pytest.fail(f"{database}: not a word: {error}")
        return f"{said[0]['C']} {said[0]['M']}"


@pytest.fixture(scope="module")
def broken(
    postgres: Postgres, start_module_doorman: StartDoorman, server_context: ssl.SSLContext
) -> Iterator[Callable[[str], Watch]]:
    """A pooler with a pool for each kind of handshake and each kind of answer. It is watched from the first use on."""
    with contextlib.ExitStack() as stack:
        fakes = {f"handshake {name}": _shakes(reply, server_context) for name, reply in HANDSHAKES.items()}
        fakes |= {f"answer {name}": _answers(name, server_context) for name in ANSWERS}
        pools: dict[str, Any] = {"app": pool(postgres, user("alice", pool_size=1))}
        for name, script in fakes.items():
            server = stack.enter_context(FakeServer(script))
            pools[name] = pool((server.host, server.port), user("alice", pool_size=1), server_tls_mode="require")
        general = {"connect_timeout": "2s", "query_wait_timeout": "8s"}
        doorman = start_module_doorman(pools=pools, general=general)
        tried(Watch(doorman), "answer in records of one byte")  # OpenSSL is loaded
        wait_until(lambda: not [row for row in doorman.show("clients") if row["database"] == "app"], 5, "all have left")
        watch = Watch(doorman)
        yield lambda _name: watch
        doorman.kill()  # before its servers


def _shakes(reply: Callable[[bytes], bytes | None], context: ssl.SSLContext) -> Callable[[Peer], None]:
    def script(peer: Peer) -> None:
        with contextlib.suppress(OSError, Gone):
            asked_for_tls(peer)
            data = reply(first_flight(peer, context))
            if data is not None:
                peer.send(data)
                stay(peer)

    return script


@pytest.mark.parametrize("name", HANDSHAKES)
def test_broken_handshakes_of_servers(broken: Callable[[str], Watch], name: str) -> None:
    """The client hears why; others do not notice."""
    watch = broken(name)
    told = tried(watch, f"handshake {name}")
    assert told[:5] in {"08006", "08P01", "58000"}, told
    assert "TLS" in told, told
    watch.must_serve().must_rest()


ANSWERS: Final[dict[str, Callable[[RawTls], bytes]]] = {
    "in clear": lambda tls: answer("intruder"),
    "in clear behind a good beginning": lambda tls: tls.seal(row_description("value")) + answer("intruder"),
    "damaged": lambda tls: tls.seal(answer("intruder"))[:-1] + b"x",
    "twice the same record": lambda tls: tls.seal(row_description("value")) * 2,
    "in a huge record": lambda tls: HUGE_RECORD,
    "half a record": lambda tls: tls.seal(answer("intruder"))[:-3],
    "an alert in clear": lambda tls: PLAIN_ALERT,
    "a farewell": lambda tls: tls.seal(row_description("value")) + tls.farewell(),
    "an end without a farewell": lambda tls: tls.seal(row_description("value")),
    "a hello in clear": lambda tls: hello(),
    "in records of one byte": lambda tls: b"".join(tls.seal(bytes((byte,))) for byte in answer("crumbs")),
}


ENDS: Final = ("half a record", "an end without a farewell")
"""After these the server hangs up."""


def _answers(name: str, context: ssl.SSLContext) -> Callable[[Peer], None]:
    def script(peer: Peer) -> None:
        with contextlib.suppress(OSError, Gone):
            asked_for_tls(peer)
            tls = RawTls(peer.sock, context, server=True)
            tls.shake()
            within = Peer(tls, peer.number)  # type: ignore[arg-type]  # a socket in all that a Peer needs
            within.greet()
            while True:
                message = within.receive()
                if message.kind == "X":
                    return
                if "asked" not in message.sql:
                    within.send(*within.good_answer(message))
                    continue
                peer.send(ANSWERS[name](tls))
                if name in ENDS:
                    return

    return script


@pytest.mark.parametrize("name", ANSWERS)
def test_broken_records_of_servers(broken: Callable[[str], Watch], name: str) -> None:
    """What did not come encrypted and whole is not passed on; the client is told, and the backend is gone."""
    watch = broken(name)
    told = tried(watch, f"answer {name}")
    if name == "in records of one byte":
        assert told == "crumbs"
    else:
        assert told.startswith("08006 "), told
        assert not [row for row in watch.doorman.show("servers") if row["database_name"] == f"answer {name}"]
    watch.must_serve().must_rest()


def test_nothing_is_left_of_broken_servers(broken: Callable[[str], Watch]) -> None:
    broken("").must_serve().must_be_clean()

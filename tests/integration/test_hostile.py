"""Whatever a stranger sends, the pooler answers with a clean error or hangs up, and goes on serving everybody else.

After each attack (see tests/integration/watch.py): a normal client is served, nothing stays open, no counter is off, no
thread spins.
"""

import contextlib
import random
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.integration.conftest import StartDoorman
from tests.integration.watch import Watch, must_be_refused, what_came
from tests.support.doorman import Doorman, pool, stand_in, user
from tests.support.pace import Stopwatch
from tests.support.postgres import SECRET, Postgres
from tests.support.wire import (
    CANCEL_REQUEST,
    PROTOCOL_3_0,
    HungUp,
    Reply,
    ScramClient,
    ServerError,
    Silence,
    Wire,
    WireError,
    bind,
    cancel_request,
    copy_data,
    execute,
    first_message,
    flush,
    frame,
    gssenc_request,
    md5_answer,
    md5_secret,
    parse,
    password_message,
    query,
    sasl_initial,
    sasl_response,
    scram_secret,
    ssl_request,
    startup,
    sync,
)

ALICE: Final = {"user": "alice", "database": "app", "application_name": "hostile"}
FOREIGN_FIELDS: Final = (0, 1, 3, 4, -1, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1)


@pytest.fixture(scope="module")
def house(postgres: Postgres, start_module_doorman: StartDoorman) -> "House":
    return House(postgres, start_module_doorman)


class House:
    """The pooler that is attacked: one backend a user, so that whatever sticks to it is met by the next client."""

    def __init__(self, server: Postgres, start: StartDoorman) -> None:
        self._server = server
        self._start = start
        self._watch: Watch | None = None

    def watch(self) -> Watch:
        if self._watch is None or not self._watch.doorman.is_running:
            self._watch = Watch(self._start(pools=self._pools(), general={"client_login_timeout": "20s"}))
        return self._watch

    def _pools(self) -> dict[str, dict[str, object]]:
        users = (
            user("alice", pool_size=1),
            user("md5_user", md5_secret("md5_user", SECRET), pool_size=1),
            user("scram_user", scram_secret(SECRET), pool_size=1, server_username="clear_user", server_password=SECRET),
        )
        return {"app": pool(self._server, *users)}


@pytest.fixture
def watch(house: House) -> Iterator[Watch]:
    """The pooler as it should be; afterwards it must be so again."""
    watch = house.watch()
    yield watch
    watch.after()


def attack(watch: Watch, data: bytes, story: str, patience: float = 15.0) -> list[Reply]:
    """Sends bytes on a new connection, says no more, and reads whatever comes."""
    wire = watch.doorman.dial(patience)
    try:
        wire.send_bytes(data)
        wire.sock.shutdown(socket.SHUT_WR)
        return what_came(wire, patience)
    except (HungUp, OSError):
        return []
    except Silence as error:
        pytest.fail(f"{story}: the connection was not closed within {patience} s; {error}")
    finally:
        wire.hang_up()


# --- The first message of a connection ------------------------------------------------------------------------------


def _pairs(*parts: bytes) -> bytes:
    return struct.pack("!I", PROTOCOL_3_0) + b"".join(part + b"\0" for part in parts)


def _with(name: str, value: str) -> bytes:
    return startup({**ALICE, name: value}).data


STARTUPS: Final[dict[str, bytes]] = {
    **{
        f"length {size}": first_message(struct.pack("!I", PROTOCOL_3_0) + b"user\0alice\0\0", size)
        for size in FOREIGN_FIELDS
    },
    **{f"length {size} and nothing else": struct.pack("!I", size & 0xFFFFFFFF) for size in FOREIGN_FIELDS},
    **{
        f"length {size}, all of it there": first_message(bytes(size - 4))
        for size in (5, 7, 8, 9, 12, 10_001, 65_536, 200_000)
    },
    "nothing": b"",
    "one byte": b"\0",
    "seven bytes": b"\0\0\0\x08\0\3\0",
    "zeros": bytes(5000),
    "ones": b"\xff" * 5000,
    "a web browser": b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n",
    "a TLS ClientHello": bytes.fromhex("160301010001") + bytes(255),
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "no terminator at all": first_message(struct.pack("!I", PROTOCOL_3_0) + b"user\0alice"),
    "no last terminator": first_message(_pairs(b"user", b"alice")),
    "more behind the terminator": first_message(_pairs(b"user", b"alice", b"") + b"more"),
    "a name without a value": first_message(_pairs(b"user", b"alice", b"database") + b"\0"),
    "an empty name": first_message(_pairs(b"", b"alice", b"user", b"alice") + b"\0"),
    "no user": first_message(_pairs(b"database", b"app") + b"\0"),
    "an empty user": first_message(_pairs(b"user", b"", b"database", b"app") + b"\0"),
    "nothing but the version": first_message(struct.pack("!I", PROTOCOL_3_0)),
    "no parameters": first_message(struct.pack("!I", PROTOCOL_3_0) + b"\0"),
    "user twice": first_message(_pairs(b"user", b"nobody", b"user", b"nobody either", b"database", b"app") + b"\0"),
    "a user of 60 kB": first_message(_pairs(b"user", b"u" * 60_000, b"database", b"app") + b"\0"),
    "a database of 9 kB": first_message(_pairs(b"user", b"alice", b"database", b"d" * 9_000) + b"\0"),
    "names that are no UTF-8": first_message(_pairs(b"user", b"\xff\xfe\x80", b"database", b"\xc3\x28") + b"\0"),
    "control characters": first_message(_pairs(b"user", b"a\x01\x1b[2J\r\n", b"database", b"%s%n\n") + b"\0"),
    "a thousand parameters": first_message(
        _pairs(b"user", b"nobody", *(b"p%d" % (i // 2) for i in range(2000))) + b"\0"
    ),
    "a thousand protocol options": first_message(
        _pairs(b"user", b"nobody", *(b"_pq_.%d" % (i // 2) for i in range(900))) + b"\0"
    ),
    **{
        f"version {major}.{minor}": startup({"user": "nobody"}, (major << 16) | minor).data
        for major, minor in ((0, 0), (1, 0), (2, 0), (3, 1), (3, 9999), (3, 65535), (4, 0), (99, 99), (65535, 65535))
    },
    **{
        f"a CancelRequest of {size} bytes": first_message(
            (struct.pack("!I", CANCEL_REQUEST) + bytes(range(256)) * 2)[: size - 4]
        )
        for size in (8, 9, 12, 15, 16, 17, 47, 48, 300)
    },
    "a CancelRequest and a StartupMessage": cancel_request(1, b"\0\0\0\1").data + startup({"user": "alice"}).data,
    "half a CancelRequest": cancel_request(1, b"\0\0\0\1").data[:10],
    "SSLRequest with a tail": first_message(ssl_request().data[4:] + b"tail"),
    "SSLRequest twice": ssl_request().data * 2,
    "GSSENCRequest twice": gssenc_request().data * 2,
    "a hundred SSLRequests": ssl_request().data * 100,
    "SSLRequest, then a CancelRequest": ssl_request().data + cancel_request(1, b"\0\0\0\1").data,
    "SSLRequest, then noise": ssl_request().data + b"\x16\x03\x01" + bytes(300),
    "a typed message first": query("select 1").data,
    "a typed message with a wrong length first": frame("Q", b"select 1\0", 2**31),
    "unknown database": startup({"user": "alice", "database": "nowhere"}).data,
    "unknown user": startup({"user": "nobody", "database": "app"}).data,
    "replication of nonsense": _with("replication", "perhaps") + query("select 1").data,
}

OPTIONS: Final = (
    "-c=",
    "-c",
    "-c ",
    "-c =",
    "-c =x",
    "-c a",
    "-c a=",
    "-ca=b",
    "-c a=b=c",
    "--",
    "--=",
    "--a",
    "--a=",
    "--=b",
    "-",
    "- -",
    "=",
    "-d",
    "-c-c-c-c",
    "-c  -c",
    "\\",
    "\\\\",
    "-c a=\\",
    "-c a=b\\ c",
    "-c\ta=b",
    "-c a='b",
    '-c search_path="',
    "x" * 6000,
    "-c " + "a" * 6000 + "=b",
    "-c a=b " * 500,
    " " * 6000,
    "-c work_mem=5MB -c",
    "-c role=postgres",
    "-c session_authorization=postgres",
    "-W",
    "-f x",
    "-c ä=ö",
    "-c a\nb=c",
    "-c is_superuser=on",
    "-c _pq_.x=y",
    "-c user=bob",
    "-c work_mem=5MB --work_mem=6MB --work-mem=7MB",
)


@pytest.mark.parametrize("name", STARTUPS)
def test_broken_first_message(watch: Watch, name: str) -> None:
    """It is refused or ignored, and the connection closed."""
    data = STARTUPS[name]
    wire = watch.doorman.dial(15.0)
    try:
        wire.send_bytes(data)
        wire.sock.shutdown(socket.SHUT_WR)
        replies: list[Reply] = []
        if _asks_for_encryption(data):
            answers = len(data) // 8 if name != "SSLRequest with a tail" else 0
            while answers and (byte := _byte(wire)) in (b"N", b"S", b"G"):
                answers -= 1
                if byte != b"N":
                    return  # it wants to talk TLS now
        replies = what_came(wire, 15.0)
        must_be_refused(replies, name)
    except (HungUp, OSError):
        pass
    finally:
        wire.hang_up()


def _asks_for_encryption(data: bytes) -> bool:
    return data[4:8] in (ssl_request().data[4:8], gssenc_request().data[4:8])


def _byte(wire: Wire) -> bytes:
    """The next byte without taking it for a message; E stays where it is."""
    first = wire.sock.recv(1, socket.MSG_PEEK)
    return wire.sock.recv(1) if first in (b"N", b"S", b"G") else first


@pytest.mark.parametrize("options", OPTIONS, ids=lambda text: repr(text)[:40])
def test_odd_options(watch: Watch, options: str) -> None:
    """`options` is parsed without a hang and without a crash; the client gets an error or a working session."""
    wire = watch.doorman.dial(15.0)
    try:
        wire.log_in({**ALICE, "options": options})
        assert wire.value("select 'in'", patience=30.0) == "in"
    except ServerError as error:
        if error.fields["S"] not in ("FATAL", "ERROR"):
            pytest.fail(f"neither refused nor let in: {error}")
    finally:
        wire.terminate()


def test_random_first_messages(watch: Watch) -> None:
    """Mutations of good ones, from a seed."""
    chance = random.Random(4)
    good = [
        startup(ALICE).data,
        startup({"user": "scram_user", "database": "app"}).data,
        ssl_request().data,
        cancel_request(7, b"abcd").data,
    ]
    for number in range(400):
        data = bytearray(chance.choice(good))
        for _ in range(chance.choice((1, 1, 2, 5))):
            _mutate(data, chance)
        wire = watch.doorman.dial(15.0)
        try:
            wire.send_bytes(bytes(data))
            if chance.random() < 0.5:
                wire.sock.shutdown(socket.SHUT_WR)
                wire.sock.settimeout(15.0)
                while wire.sock.recv(65536):
                    pass
        except TimeoutError:
            pytest.fail(f"mutation {number}, {bytes(data)!r}: no end within 15 s of our end")
        except (OSError, WireError):
            pass
        finally:
            wire.reset()


def _mutate(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data)) if data else 0
    kind = chance.randrange(4)
    if kind == 0 and data:
        data[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
    elif kind == 1 and data:
        del data[at : at + chance.choice((1, 3, 8))]
    elif kind == 2:
        data[at:at] = chance.randbytes(chance.choice((1, 4, 40)))
    else:
        data[at:at] = data[: chance.randrange(30)]


def test_first_message_byte_by_byte(watch: Watch) -> None:
    wire = watch.doorman.dial(10.0)
    for byte in startup(ALICE).data:
        wire.send_bytes(bytes([byte]))
        time.sleep(0.001)
    assert wire.receive_until("Z")[-1].kind == "Z"
    assert wire.value("select 'slow but right'") == "slow but right"
    wire.terminate()


def test_first_message_and_queries_in_one_segment(watch: Watch) -> None:
    """A client that does not wait for its log-in (allowed where no password is asked) is served, like by PostgreSQL."""
    wire = watch.doorman.dial(15.0)
    wire.send(startup(ALICE))
    wire.send(query("select 'eager'"), sync())
    replies = wire.receive_until("Z") + wire.receive_until("Z") + wire.receive_until("Z")
    assert next(reply for reply in replies if reply.kind == "D").columns() == [b"eager"]
    wire.terminate()


# --- While logging in -----------------------------------------------------------------------------------------------

STATES: Final = ("before anything", "asked for md5", "asked for SCRAM", "inside SCRAM", "logged in")

INTRUDERS: Final[dict[str, bytes]] = {
    "a StartupMessage": startup(ALICE).data,
    "a StartupMessage for nowhere": startup({"user": "alice", "database": "nowhere"}).data,
    "a StartupMessage for another user": startup({"user": "md5_user", "database": "app"}).data,
    "an SSLRequest": ssl_request().data,
    "a CancelRequest": cancel_request(1, b"\0\0\0\1").data,
    "a Query": query("select 'unauthenticated'").data,
    "a batch": parse("", "select 1").data + bind().data + execute().data + sync().data,
    "a Sync": sync().data,
    "CopyData": copy_data("x").data,
    "an unknown type": frame("!", b"x"),
    "a NUL type": frame("\0", b"x"),
    **{f"a password of length field {size}": frame("p", b"md5 something\0", size) for size in FOREIGN_FIELDS},
    "a password without its end": frame("p", b"md5 something"),
    "an empty password": frame("p", b"\0"),
    "a password message with nothing in it": frame("p", b""),
    "a password with a NUL in it": frame("p", b"a\0b\0"),
    "a password of 70 kB": frame("p", b"p" * 70_000 + b"\0"),
    "a password of 5 MB": frame("p", b"p" * 5_000_000 + b"\0"),
    "noise": bytes(range(255, 0, -1)) * 20,
}


@pytest.mark.parametrize("intruder", INTRUDERS)
@pytest.mark.parametrize("state", STATES[1:4])
def test_out_of_place_while_logging_in(watch: Watch, state: str, intruder: str) -> None:
    """Nothing but the proof that was asked for moves a log-in on, least of all a second StartupMessage."""
    wire = _bring_to(watch.doorman, state)
    try:
        wire.send_bytes(INTRUDERS[intruder])
        wire.sock.shutdown(socket.SHUT_WR)
        must_be_refused(what_came(wire, 15.0), f"{intruder} when {state}")
    except (HungUp, OSError):
        pass
    finally:
        wire.hang_up()


def _bring_to(doorman: Doorman, state: str) -> Wire:
    wire = doorman.dial(15.0)
    who = "md5_user" if state == "asked for md5" else "scram_user"
    wire.send(startup({"user": who, "database": "app"}))
    assert wire.receive().kind == "R"
    if state == "inside SCRAM":
        wire.send(sasl_initial("SCRAM-SHA-256", ScramClient(SECRET).first()))
        assert wire.receive().kind == "R"
    return wire


def _scram(
    watch: Watch, who: str, first: bytes, final: Callable[[bytes], bytes], mechanism: str = "SCRAM-SHA-256"
) -> list[Reply]:
    """A SCRAM log-in with messages of our own making; everything that came."""
    wire = watch.doorman.dial(15.0)
    try:
        wire.send(startup({"user": who, "database": "app"}))
        replies = [wire.receive()]
        assert replies[0].kind in "RE"
        if replies[0].kind == "E":
            return replies
        wire.send(sasl_initial(mechanism, first))
        reply = wire.receive()
        replies.append(reply)
        if reply.kind != "R":
            return replies + wire.wait_closed(15.0)
        wire.send(sasl_response(final(reply.body[4:])))
        with contextlib.suppress(OSError):  # it may have closed already
            wire.sock.shutdown(socket.SHUT_WR)
        return replies + wire.wait_closed(15.0)
    except HungUp as error:
        return error.replies
    finally:
        wire.hang_up()


FIRSTS: Final[dict[str, bytes]] = {
    "empty": b"",
    "a NUL": b"\0",
    "only the flag": b"n",
    "no commas": b"n=,r=x",
    "no header": b"n=,r=abcdefgh",
    "no nonce": b"n,,n=",
    "an empty nonce": b"n,,n=,r=",
    "a nonce with a comma": b"n,,n=,r=ab,cd",
    "a nonce of 64 kB": b"n,,n=,r=" + b"x" * 65536,
    "a nonce of 1 MB": b"n,,n=,r=" + b"x" * 1_000_000,
    "a nonce that is no text": b"n,,n=,r=\xff\xfe\0\x80",
    "nonce first": b"n,,r=abcdefgh,n=",
    "two nonces": b"n,,n=,r=abcdefgh,r=ijklmnop",
    "two names": b"n,,n=,n=,r=abcdefgh",
    "no name": b"n,,r=abcdefgh",
    "a reserved extension": b"n,,m=x,n=,r=abcdefgh",
    "an extension": b"n,,n=,r=abcdefgh,x=y",
    "channel binding wanted": b"p=tls-server-end-point,,n=,r=abcdefgh",
    "channel binding of nothing": b"p=,,n=,r=abcdefgh",
    "channel binding, no TLS here": b"p=tls-unique,,n=,r=abcdefgh",
    "flag y": b"y,,n=,r=abcdefgh",
    "an unknown flag": b"q,,n=,r=abcdefgh",
    "an authorisation name": b"n,a=bob,n=,r=abcdefgh",
    "a broken authorisation name": b"n,a=,n=,r=abcdefgh",
    "an escaped name": b"n,,n=a=2Cb=3D,r=abcdefgh",
    "a badly escaped name": b"n,,n=a=b,r=abcdefgh",
    "commas": b"," * 1000,
    "equals": b"=" * 1000,
    "spaces": b"n, ,n= ,r= abc",
    "capitals": b"N,,N=,R=abcdefgh",
    "only r": b"r=",
    "a tail of NULs": b"n,,n=,r=abcdefgh" + bytes(10),
}


@pytest.mark.parametrize("who", ["scram_user", "nobody"])
@pytest.mark.parametrize("name", FIRSTS)
def test_odd_scram_first_message(watch: Watch, name: str, who: str) -> None:
    """No form of the client's first message lets anyone in or brings anything down."""
    replies = _scram(
        watch, who, FIRSTS[name], lambda challenge: b"c=biws," + challenge.split(b",")[0] + b",p=" + b"A" * 43 + b"="
    )
    must_be_refused(replies, f"first message {name} of {who}")


def _right_parts(client: ScramClient, challenge: bytes) -> list[bytes]:
    return client.final(challenge).split(b",")


FINALS: Final[dict[str, Callable[[list[bytes]], list[bytes]]]] = {
    "nothing": lambda _: [],
    "without the channel": lambda parts: parts[1:],
    "without the nonce": lambda parts: [parts[0], parts[2]],
    "without the proof": lambda parts: parts[:2],
    "only the proof": lambda parts: parts[2:],
    "only the nonce": lambda parts: parts[1:2],
    "channel twice": lambda parts: [parts[0], *parts],
    "nonce twice": lambda parts: [parts[0], parts[1], parts[1], parts[2]],
    "proof twice": lambda parts: [*parts, parts[2]],
    "proof before nonce": lambda parts: [parts[0], parts[2], parts[1]],
    "nonce before channel": lambda parts: [parts[1], parts[0], parts[2]],
    "another channel": lambda parts: [b"c=eSws", *parts[1:]],
    "an empty channel": lambda parts: [b"c=", *parts[1:]],
    "a channel that is no base64": lambda parts: [b"c=!!!!", *parts[1:]],
    "another nonce": lambda parts: [parts[0], parts[1] + b"x", parts[2]],
    "half the nonce": lambda parts: [parts[0], parts[1][:12], parts[2]],
    "an empty nonce": lambda parts: [parts[0], b"r=", parts[2]],
    "a nonce of 64 kB": lambda parts: [parts[0], b"r=" + b"x" * 65536, parts[2]],
    "an empty proof": lambda parts: [*parts[:2], b"p="],
    "a proof of zeros": lambda parts: [*parts[:2], b"p=" + b"A" * 43 + b"="],
    "a short proof": lambda parts: [*parts[:2], b"p=AAAA"],
    "a long proof": lambda parts: [*parts[:2], b"p=" + b"AAAA" * 20_000],
    "a proof that is no base64": lambda parts: [*parts[:2], b"p=***"],
    "a proof with bad padding": lambda parts: [*parts[:2], parts[2][:-1]],
    "a proof with a tail": lambda parts: [*parts[:2], parts[2] + b"AAAA"],
    "a changed proof": lambda parts: [*parts[:2], b"p=" + bytes([parts[2][2] ^ 1]) + parts[2][3:]],
    "no equals sign": lambda parts: [part.replace(b"=", b"") for part in parts],
    "NULs": lambda _: [bytes(100)],
    "commas": lambda _: [b"," * 500],
}


@pytest.mark.parametrize("name", FINALS)
def test_odd_scram_final_message(watch: Watch, name: str) -> None:
    """Nor does any form of the final one, even where the proof in it is right."""
    client = ScramClient(SECRET)
    replies = _scram(
        watch, "scram_user", client.first(), lambda challenge: b",".join(FINALS[name](_right_parts(client, challenge)))
    )
    must_be_refused(replies, f"final message {name}")


def test_random_scram_messages(watch: Watch) -> None:
    """Mutations of right messages: only an untouched pair may get in."""
    chance = random.Random(11)
    for number in range(150):
        client = ScramClient(SECRET)
        first = bytearray(client.first())
        touched_first = chance.random() < 0.5
        if touched_first:
            _mutate(first, chance)

        def final(challenge: bytes, client: ScramClient = client, touched: bool = touched_first) -> bytes:
            try:
                data = bytearray(client.final(challenge))
            except WireError:
                return b"c=biws,r=x,p=x"
            if not touched:
                _mutate(data, chance)
            return bytes(data)

        replies = _scram(watch, "scram_user", bytes(first), final)
        if not (touched_first and bytes(first).startswith(b"n,,n=")):  # another name or extension may be tolerated
            must_be_refused(replies, f"mutation {number}")


@pytest.mark.parametrize(
    "mechanism", ["", "SCRAM-SHA-256-PLUS", "SCRAM-SHA-1", "PLAIN", "x" * 5000, "SCRAM-SHA-256 ", "scram-sha-256"]
)
def test_odd_mechanism(watch: Watch, mechanism: str) -> None:
    client = ScramClient(SECRET)
    must_be_refused(
        _scram(watch, "scram_user", client.first(), client.final, mechanism), f"mechanism {mechanism[:30]!r}"
    )


@pytest.mark.parametrize("size", [-1, -2, 0, 1, 2**31 - 1, -(2**31)])
def test_odd_length_inside_sasl_initial_response(watch: Watch, size: int) -> None:
    wire = _bring_to(watch.doorman, "asked for SCRAM")
    wire.send_bytes(frame("p", b"SCRAM-SHA-256\0" + struct.pack("!i", size) + ScramClient(SECRET).first()))
    wire.sock.shutdown(socket.SHUT_WR)
    must_be_refused(wire.wait_closed(15.0), f"an initial response of {size} bytes")
    wire.hang_up()


@pytest.mark.parametrize("size", [0, 1, 72, 73, 999, 1000, 1023, 1024, 1025, 4096, 8191, 8192, 65_535, 65_536, 70_000])
@pytest.mark.parametrize("who", ["md5_user", "scram_user"])
def test_wrong_passwords_of_every_length(watch: Watch, who: str, size: int) -> None:
    with pytest.raises(ServerError, match=r"28P01|08P01"):
        watch.doorman.connect("app", who, "p" * size, patience=30.0)


def test_a_right_log_in_after_wrong_and_abandoned_ones(watch: Watch) -> None:
    """A proof that fails, or never comes, spoils nothing for the next client (pass-through learns keys at log-in)."""
    for state in STATES[1:4]:
        _bring_to(watch.doorman, state).reset()
    for who in ("md5_user", "scram_user"):
        with pytest.raises(ServerError, match="28P01"):
            watch.doorman.connect("app", who, "wrong")
        with watch.doorman.connect("app", who, SECRET) as wire:
            assert wire.value("select 'in'") == "in"


def test_scram_pass_through_after_wrong_and_abandoned_log_ins(postgres: Postgres, start_doorman: StartDoorman) -> None:
    """The very first log-ins of a user whose key the pooler must learn fail; the right one then works."""
    with postgres.connect() as wire:
        stored = wire.value("select rolpassword from pg_authid where rolname = 'scram_user'")
    doorman = start_doorman(pools={"app": pool(postgres, user("scram_user", str(stored), pool_size=1))})
    _bring_to(doorman, "inside SCRAM").reset()
    with pytest.raises(ServerError, match="28P01"):
        doorman.connect("app", "scram_user", "wrong")
    with doorman.connect("app", "scram_user", SECRET) as wire:
        assert wire.value("select current_user") == "scram_user"


def test_md5_answer_cannot_be_replayed(watch: Watch) -> None:
    """The salt differs each time."""
    salts = set()
    for _ in range(5):
        wire = watch.doorman.dial()
        wire.send(startup({"user": "md5_user", "database": "app"}))
        reply = wire.receive()
        salts.add(reply.body[4:8])
        wire.send(password_message(md5_answer("md5_user", SECRET, b"\0\0\0\0")))
        must_be_refused(wire.wait_closed(15.0), "an answer to another salt", ("28P01",))
        wire.hang_up()
    assert len(salts) == 5


# --- Once logged in -------------------------------------------------------------------------------------------------

LETTERS: Final = "QPBDECFHSXdcfp"


@pytest.mark.parametrize("kind", [*LETTERS, "R", "Z", "\0", "\x7f"])
def test_odd_length_fields(watch: Watch, kind: str) -> None:
    """A length that cannot be ends the connection, or waits for what it promises, and holds no backend meanwhile."""
    for size in FOREIGN_FIELDS:
        with _logged_in(watch) as wire:
            wire.run("select 1")
            wire.send_bytes(frame(kind, b"x\0", size))
            if size == 4 and kind in LETTERS:  # a whole message; some begin a batch, which rightly holds the backend
                wire.reset()
                watch.must_serve()
                continue
            watch.must_serve()
            wire.sock.shutdown(socket.SHUT_WR)
            replies = wire.wait_closed(15.0)
            assert not replies or replies[-1].kind == "E", f"length {size}: {replies}"


MALFORMED: Final[dict[str, bytes]] = {
    **{f"{letter} with nothing in it": frame(letter, b"") for letter in LETTERS if letter not in "HSXdc"},
    "Query without its end": frame("Q", b"select 1"),
    "Query with a tail": frame("Q", b"select 1\0tail\0"),
    "Query that is no text": frame("Q", b"\xff\xfe\x80 select\0"),
    "Parse without its name's end": frame("P", b"name"),
    "Parse without its text's end": frame("P", b"\0select 1"),
    "Parse without a number of types": frame("P", b"\0select 1\0"),
    "Parse with fewer types than promised": frame("P", b"\0select 1\0\0\5\0\0\0\x17"),
    "Parse with 65535 types promised": frame("P", b"\0select 1\0\xff\xff"),
    "Parse with a tail": frame("P", b"\0select 1\0\0\0tail"),
    "Bind of names only": frame("B", b"\0\0"),
    "Bind with 65535 formats promised": frame("B", b"\0\0\xff\xff"),
    "Bind with fewer values than promised": frame("B", b"\0\0\0\0\0\2\0\0\0\1x"),
    "Bind with a value of -2 bytes": frame("B", b"\0\0\0\0\0\1\xff\xff\xff\xfe\0\0"),
    "Bind with a value of 2 GB": frame("B", b"\0\0\0\0\0\1\x7f\xff\xff\xffx\0\0"),
    "Bind with a tail": bind().data[:1] + struct.pack("!I", len(bind().data) + 3) + bind().data[5:] + b"tail",
    "Describe of neither": frame("D", b"X\0"),
    "Describe without its end": frame("D", b"Sname"),
    "Describe with a tail": frame("D", b"S\0tail"),
    "Close of neither": frame("C", b"\0\0"),
    "Close without its end": frame("C", b"P"),
    "Close with a tail": frame("C", b"S\0tail"),
    "Execute without a limit": frame("E", b"\0"),
    "Execute with a negative limit": frame("E", b"\0\xff\xff\xff\xff"),
    "Execute without its name's end": frame("E", b"name"),
    "FunctionCall cut short": frame("F", b"\0\0\0\1\0\0"),
    "FunctionCall with many arguments promised": frame("F", b"\0\0\0\xb1\0\0\xff\xff"),
    "Sync with a body": frame("S", b"x"),
    "Flush with a body": frame("H", b"x"),
    "CopyFail without its end": frame("f", b"why"),
    "CopyDone with a body": frame("c", b"x"),
    "Terminate with a body": frame("X", b"x"),
    "an unknown type": frame("!", b"x\0"),
    "a type of servers": frame("Z", b"I"),
    "a password": frame("p", b"secret\0"),
    "a StartupMessage": startup(ALICE).data,
    "an SSLRequest": ssl_request().data,
    "a CancelRequest": cancel_request(1, b"\0\0\0\1").data,
    "a name of 1 MB": parse("n" * 1_000_000, "select 1").data,
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_messages(watch: Watch, name: str) -> None:
    """Any answer that PostgreSQL could give is good, as long as it is well formed; the next client is not touched."""
    for where in ("idle", "inside a block", "inside a batch", "inside a COPY"):
        with _logged_in(watch) as wire:
            _go_to(wire, where)
            wire.send_bytes(MALFORMED[name])
            wire.send_bytes(sync().data)
            try:
                came = wire.poll(0.03)
            except WireError as error:
                pytest.fail(f"{name}, {where}: {error}")
            malformed = [reply for reply in came if "MALFORMED" in repr(reply)]
            assert not malformed, f"{name}, {where}: {malformed}"
        watch.must_serve()


def _go_to(wire: Wire, where: str) -> None:
    if where == "inside a block":
        wire.run("begin; select 1")
    elif where == "inside a batch":
        wire.ask(parse("s", "select 1"), bind("p", "s"), flush())
    elif where == "inside a COPY":
        wire.run("create table if not exists hostile_copy (i int)")
        wire.ask(query("copy hostile_copy from stdin"))


@pytest.mark.parametrize("data", [b"Q\0\0\0\3", b"!\0\0\0\4", b"Q\x70\0\0\0x"], ids=["short", "unknown", "huge"])
@pytest.mark.parametrize(
    "good", [query("select 1").data, parse("", "select 1").data + sync().data], ids=["query", "batch"]
)
def test_backend_is_free_at_once_behind_a_violation(watch: Watch, good: bytes, data: bytes) -> None:
    """What breaks the protocol right behind a good request ends its own client; the backend, whose answer is whole, is
    the next one's without delay."""
    wire = _logged_in(watch)
    wire.send_bytes(good + data)
    wire.sock.shutdown(socket.SHUT_WR)
    wire.wait_closed(15.0)
    wire.hang_up()
    watch.must_serve(within=1.5)


def test_random_messages(watch: Watch) -> None:
    """Mutations of a good conversation, from a seed; whatever comes back must be well formed."""
    chance = random.Random(23)
    good = b"".join(
        one.data
        for one in (
            parse("s", "select $1::int"),
            bind("", "s", ["1"]),
            execute(),
            sync(),
            query("select 1"),
            flush(),
            sync(),
        )
    )
    for number in range(200):
        data = bytearray(good)
        for _ in range(chance.choice((1, 2, 4))):
            _mutate(data, chance)
        with _logged_in(watch) as wire:
            try:
                wire.send_bytes(bytes(data))
                wire.sock.shutdown(socket.SHUT_WR)
                wire.wait_closed(15.0)
            except HungUp:
                pass
            except Silence as error:
                pytest.fail(f"mutation {number}, {bytes(data)!r}: not closed within 15 s of our end: {error}")
            wire.reset()


def _logged_in(watch: Watch) -> Wire:
    return watch.doorman.connect("app", "alice", parameters={"application_name": "hostile"}, patience=30.0)


# --- Many, slow, greedy ---------------------------------------------------------------------------------------------


def _storm(threads: int, seconds: float, work: Callable[[random.Random], None]) -> None:
    """Runs `work` over and over in several threads. The first error of any is raised."""
    problems: list[BaseException] = []
    end = time.monotonic() + seconds

    def run(seed: int) -> None:
        chance = random.Random(seed)
        try:
            while time.monotonic() < end and not problems:
                work(chance)
        except BaseException as problem:  # noqa: BLE001 - raised again in the test's own thread
            problems.append(problem)

    running = [threading.Thread(target=run, args=(seed,)) for seed in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(seconds + 30)
    if problems:
        raise problems[0]


@pytest.mark.timeout(60)
def test_connect_and_reset_storm(watch: Watch) -> None:
    """Sockets that die at every moment of a log-in."""
    data = startup(ALICE).data

    def come_and_go(chance: random.Random) -> None:
        wire = watch.doorman.dial(10.0)
        try:
            if chance.random() < 0.7:
                wire.send_bytes(data[: chance.randrange(len(data) + 1)])
            if chance.random() < 0.3:
                time.sleep(chance.random() * 0.003)
            if chance.random() < 0.2:
                wire.send_bytes(query("select pg_sleep(0.01)").data)
        except WireError:
            pass
        finally:
            chance.choice((wire.reset, wire.hang_up))()

    _storm(8, 3.0, come_and_go)


@pytest.mark.timeout(60)
def test_log_in_and_vanish_storm(watch: Watch) -> None:
    """Clients that vanish at every moment of a query, a batch, a block, a COPY."""
    doings = (
        query("select 1").data,
        query("begin; select 1").data,
        parse("", "select 1").data + bind().data + execute().data,
        query("select repeat('x', 2000000)").data,
        query("copy (select generate_series(1, 100000)) to stdout").data,
        query("select pg_sleep(0.05)").data,
        query("begin").data + query("select 1/0").data,
    )

    def come_and_go(chance: random.Random) -> None:
        wire = watch.doorman.dial(20.0)
        try:
            wire.log_in(ALICE)
            doing = chance.choice(doings)
            wire.send_bytes(doing[: chance.choice((len(doing), len(doing), chance.randrange(len(doing))))])
            if chance.random() < 0.5:
                time.sleep(chance.random() * 0.02)
            if chance.random() < 0.3:
                wire.sock.recv(100)
        except (WireError, ServerError, OSError):
            pass
        finally:
            chance.choice((wire.reset, wire.hang_up, wire.terminate))()

    _storm(6, 4.0, come_and_go)
    watch.must_serve(within=8.0)


@pytest.mark.timeout(60)
def test_failed_log_ins_leave_nothing(watch: Watch) -> None:
    """Counters of clients and memory do not creep with log-ins that fail."""
    attempts = (
        lambda: watch.doorman.connect("app", "md5_user", "wrong"),
        lambda: watch.doorman.connect("app", "scram_user", "wrong"),
        lambda: watch.doorman.connect("nowhere", "alice"),
        lambda: watch.doorman.connect("app", "nobody"),
    )

    def fail(chance: random.Random) -> None:
        with pytest.raises((ServerError, HungUp)):
            chance.choice(attempts)()

    _storm(4, 3.0, fail)
    watch.must_serve().must_be_clean().must_not_have_grown(48)


@pytest.mark.timeout(90)
def test_slow_loris(postgres: Postgres, start_doorman: StartDoorman) -> None:
    """Two hundred clients that never finish their first message hold up nobody, and are sent away."""
    doorman = start_doorman(
        pools={"app": pool(postgres, user("alice", pool_size=1))}, general={"client_login_timeout": "3s"}
    )
    watch = Watch(doorman)
    data = startup(ALICE).data
    slow = [doorman.dial(15.0) for _ in range(200)]
    try:
        watched = Stopwatch()
        for number in range(10):
            for wire in slow:
                wire.send_bytes(data[number : number + 1])
            watch.must_serve(within=2.0)
            time.sleep(0.05)
        for wire in slow:
            must_be_refused(wire.wait_closed(15.0), "a log-in that takes too long")
        watched.must_be_below(9, "they were sent away (client_login_timeout is 3 s)")
    finally:
        for wire in slow:
            wire.hang_up()
    watch.after()


@pytest.mark.timeout(90)
def test_slow_inside_the_password(postgres: Postgres, start_doorman: StartDoorman) -> None:
    """The same for clients that never send their proof."""
    users = (user("alice", pool_size=1), user("scram_user", scram_secret(SECRET), pool_size=1))
    doorman = start_doorman(pools={"app": pool(postgres, *users)}, general={"client_login_timeout": "2s"})
    watch = Watch(doorman)
    slow = [_bring_to(doorman, state) for state in ("asked for SCRAM", "inside SCRAM") for _ in range(30)]
    watch.must_serve(within=2.0)
    for wire in slow:
        must_be_refused(wire.wait_closed(15.0), "a proof that never comes")
        wire.hang_up()
    watch.after()


FLOODS: Final[dict[str, bytes]] = {
    "queries": query("select repeat('x', 500)").data * 2000,
    "batches": (parse("", "select repeat('y', 500)").data + bind().data + execute().data + sync().data) * 1000,
    "batches without Sync": (parse("", "select repeat('y', 500)").data + bind().data + execute().data) * 1000,
    "errors": query("selec").data * 2000,
    "Syncs": sync().data * 50_000,
    "Flushes": flush().data * 50_000,
    "stray CopyData": copy_data("z" * 10_000).data * 100,
    "empty queries": query("").data * 20_000,
    "log messages": query("do $$ begin raise notice '%', repeat('n', 500); end $$").data * 1000,
}


@pytest.mark.timeout(90)
@pytest.mark.parametrize("name", FLOODS)
def test_flood_without_reading(postgres: Postgres, start_doorman: StartDoorman, name: str) -> None:
    """A client that sends and sends and never reads is stopped by its own socket: memory stays, others are served."""
    doorman = start_doorman(pools={"app": pool(postgres, user("alice", pool_size=2))})
    watch = Watch(doorman)
    wire = doorman.connect("app", "alice")
    wire.sock.settimeout(0.5)
    sent = 0
    end = time.monotonic() + 5
    try:
        while time.monotonic() < end and sent < 200_000_000:
            sent += wire.sock.send(FLOODS[name])
    except TimeoutError:
        pass  # it does not take more: that is the point
    watch.must_serve().must_not_have_grown(128)
    wire.reset()
    watch.after()


@pytest.mark.timeout(90)
@pytest.mark.parametrize(
    "sql",
    [
        "select repeat('x', 100000) from generate_series(1, 10000)",
        "select repeat('x', 500000000)",
        "copy (select repeat('c', 100000) from generate_series(1, 10000)) to stdout",
    ],
    ids=["many rows", "one row", "copy"],
)
def test_answer_that_nobody_reads(postgres: Postgres, start_doorman: StartDoorman, sql: str) -> None:
    """A large answer stays with the server until the client reads; it is not piled up in the pooler."""
    doorman = start_doorman(pools={"app": pool(postgres, user("alice", pool_size=2))})
    watch = Watch(doorman)
    wire = doorman.connect("app", "alice")
    wire.send(query(sql))
    time.sleep(2.5)
    watch.must_serve().must_not_have_grown(48)
    wire.reset()
    watch.after()


@pytest.mark.timeout(90)
def test_many_distinct_statements(postgres: Postgres, start_doorman: StartDoorman) -> None:
    """Statements that are never closed do not fill the memory of the pooler, nor of the server."""
    doorman = start_doorman(
        pools={"app": pool(postgres, user("alice", pool_size=1))},
        general={"prepared_statements_cache_size": 100, "client_anonymous_prepared_cache_size": 100},
    )
    watch = Watch(doorman)
    with doorman.connect("app", "alice") as wire:
        for start in range(0, 10_000, 250):
            batch = [
                one
                for i in range(start, start + 250)
                for one in (parse("", f"select {i}, '{'q' * 200}'"), bind(), execute())
            ]
            replies = wire.ask(*batch, sync(), patience=20)
            assert sum(reply.kind == "D" for reply in replies) == 250
        held = int(wire.value("select count(*) from pg_prepared_statements") or 0)
        assert held <= 101, f"{held} statements are prepared on the backend, 100 are allowed"
    watch.must_not_have_grown(32)
    watch.after()


# --- Cancel ---------------------------------------------------------------------------------------------------------


def test_cancel_keys_cannot_be_guessed(watch: Watch) -> None:
    with _logged_in(watch) as wire:
        others = [_logged_in(watch) for _ in range(20)]
        keys = {(other.process_id, other.secret) for other in others}
        assert len(keys) == 20
        for other in others:
            other.terminate()
        wire.send(query("select pg_sleep(1.0), 'undisturbed'"))
        for number in range(200):
            guess = (wire.process_id, struct.pack("!I", number)) if number % 2 else (number, wire.secret)
            attack(watch, cancel_request(*guess).data, "a guessed cancel", 5.0)
        replies = wire.settle(8.0)
        assert not [reply for reply in replies if reply.kind == "E"], f"a guessed key cancelled it: {replies}"


@pytest.mark.timeout(60)
def test_cancel_storm(watch: Watch) -> None:
    """Right keys at wrong moments: a cancel meets its own client's query or nobody's."""

    def work(chance: random.Random) -> None:
        wire = watch.doorman.connect("app", "alice", patience=20.0)
        tag = f"{chance.random()}"
        wire.send(query(f"select '{tag}' from pg_sleep({chance.choice((0, 0, 0.01))})"))
        if chance.random() < 0.6:
            killer = watch.doorman.dial(10.0)
            killer.send_bytes(cancel_request(wire.process_id, wire.secret).data)
            killer.hang_up()
            cancelled = True
        else:
            cancelled = False
        for reply in wire.settle(20.0):
            if reply.kind == "D":
                assert reply.columns()[0] == tag.encode(), f"{reply} instead of {tag}"
            if reply.kind == "E":
                assert cancelled, f"nobody cancelled this one: {reply}"
                assert reply.fields()["C"] == "57014", reply
        wire.terminate()

    _storm(6, 3.0, work)


# --- TLS ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(workspace: Path) -> tuple[Path, Path]:
    """A certificate for localhost and its key."""
    tool = shutil.which("openssl")
    if tool is None:
        pytest.skip("openssl is not installed")
    cert, key = workspace / "server.crt", workspace / "server.key"
    command = [tool, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    return cert, key


@pytest.fixture
def tls_watch(postgres: Postgres, start_doorman: StartDoorman, certificate: tuple[Path, Path]) -> Watch:
    if stand_in():
        pytest.skip("the stand-in is not set up for TLS")
    cert, key = certificate
    doorman = start_doorman(
        pools={"app": pool(postgres, user("alice", pool_size=1))},
        general={"tls_certificate": str(cert), "tls_private_key": str(key)},
    )
    return Watch(doorman)


@pytest.mark.parametrize(
    "data",
    [startup(ALICE).data, startup(ALICE).data + query("select 1").data, b"\x16\x03\x01" + bytes(200), b"x"],
    ids=["startup", "startup and query", "half a hello", "one byte"],
)
def test_plaintext_behind_ssl_request(tls_watch: Watch, data: bytes) -> None:
    """Bytes that came before the handshake are never taken for what is said inside of it (CVE-2021-3935 class)."""
    wire = tls_watch.doorman.dial(15.0)
    wire.send_bytes(ssl_request().data + data)
    wire.sock.shutdown(socket.SHUT_WR)
    wire.sock.settimeout(15.0)
    came = b""
    try:
        while chunk := wire.sock.recv(65536):
            came += chunk
    except OSError:
        pass
    assert b"Z\0\0\0\5" not in came, f"it was let in: {came!r}"
    assert b"R\0\0\0\x08\0\0\0\0" not in came, f"it was let in: {came!r}"
    wire.hang_up()
    tls_watch.after()


def test_tls_still_works_after_broken_handshakes(tls_watch: Watch) -> None:
    for noise in (b"", b"\x16", b"\x16\x03\x01\x02\0\x01", bytes(1000), b"\x15\x03\x01\0\2\2\x28", b"\x80\x2e\x01"):
        wire = tls_watch.doorman.dial(15.0)
        wire.send(ssl_request())
        assert wire.receive_bytes(1) == b"S"
        wire.send_bytes(noise)
        wire.reset()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    doorman = tls_watch.doorman
    with Wire.connect(doorman.host, doorman.port, user="alice", database="app", tls=context) as inside:
        assert inside.value("select 'inside'") == "inside"
    tls_watch.after()

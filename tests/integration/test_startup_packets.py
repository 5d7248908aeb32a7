"""First packets of all kinds, sent to PostgreSQL and to the pooler: the same answers.

Not compared are the pooler's own words about databases that it does not serve, and packets at which PostgreSQL says
nothing at all (a length that cannot be), where the pooler says why.
"""

import socket
import struct
from dataclasses import dataclass

import pytest

from tests.integration.conftest import StartDoorman
from tests.support.doorman import Doorman, pool, user
from tests.support.postgres import Postgres

SSL, GSS = 80877103, 80877104
WHO = ("user", "alice", "database", "app")
HERE = ("application_name", "the same")


def _packet(body: bytes, code: int = 3 << 16) -> bytes:
    return struct.pack("!II", len(body) + 8, code) + body


def _pairs(*words: str) -> bytes:
    return b"".join(word.encode() + b"\0" for word in words) + b"\0"


def _with(*words: str, code: int = 3 << 16) -> bytes:
    return _packet(_pairs(*WHO, *HERE, *words), code)


def _options(text: str) -> bytes:
    return _with("options", text)


PACKETS = {
    "a usual one": _with(),
    "user twice": _packet(_pairs("user", "nobody", *WHO, *HERE)),
    "application_name that is no text": _packet(_pairs(*WHO)[:-1] + b"application_name\0\xff\xfe\n\0\0"),
    "another terminator": _with()[:-1] + b"x",
    "no terminator": _packet(_pairs(*WHO)[:-1] + b"xy"),
    "a name without a value": _packet(_pairs(*WHO, "application_name")[:-1]),
    "an empty name": _packet(b"user\0alice\0\0x\0\0"),
    "something behind the end": _packet(_pairs(*WHO) + b"xx\0"),
    "an empty body": _packet(b""),
    "no user": _packet(_pairs("database", "app")),
    "an empty user": _packet(_pairs("user", "", "database", "app")),
    "an unknown user": _packet(_pairs("user", "nosuch", "database", "app")),
    "version 0": _with(code=0),
    "version 1": _with(code=1 << 16),
    "version 2": _with(code=2 << 16),
    "version 4": _with(code=4 << 16),
    "version 3.2": _with(code=(3 << 16) + 2),
    "version 3.9999": _with(code=(3 << 16) + 9999),
    "options of the protocol": _with("_pq_.x", "1", "_pq_.y", "2"),
    "an unknown parameter": _with("nosuch", "x"),
    "a name with a blank": _with("a b", "c"),
    "a name with a quote": _with('a"b', "c"),
    "a custom parameter": _with("a.b", "x"),
    "capitals": _with("TIMEZONE", "Asia/Tokyo", "datestyle", "German, DMY"),
    "a value that cannot be": _with("work_mem", "x"),
    "a truth that cannot be": _with("enable_seqscan", "perhaps"),
    "a number out of range": _with("extra_float_digits", "99"),
    "an unknown time zone": _with("timezone", "Nowhere/Here"),
    "an unknown encoding": _with("client_encoding", "nope"),
    "an encoding": _with("client_encoding", "latin1"),
    "what needs a restart": _with("max_connections", "5"),
    "replication that cannot be": _with("replication", "maybe"),
    "no replication": _with("replication", "off"),
    "options": _options("-c timezone=UTC --work-mem=2MB -cdatestyle=German"),
    "options of blanks": _options("  \t "),
    "options with an escape": _options("-c search_path=a\\ b"),
    "options end in a backslash": _options("-c search_path=a\\"),
    "an option without a value": _options("-c work_mem"),
    "a long option without a value": _options("--work-mem"),
    "an option without anything": _options("-c"),
    "an option without a name": _options("-c =x"),
    "an unknown option": _options("-z"),
    "a word among the options": _options("word"),
    "an option with a bad value": _options("-c work_mem=x"),
    "an option for an unknown parameter": _options("-c nosuch=x"),
    "a query behind it": _with() + b"Q\0\0\0\rselect 1\0",
    "garbage behind it": _with() + b"garbage!",
    "a farewell behind it": _with() + b"X\0\0\0\4",
}


@dataclass(frozen=True, slots=True)
class Heard:
    """What came until the first ReadyForQuery, or to the end: messages, less those that differ by nature."""

    offers: bytes
    messages: tuple[tuple[bytes, object], ...]
    rest: bytes


def _ask(port: int, steps: tuple[bytes, ...]) -> Heard:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        offers = b""
        for step in steps[:-1]:
            sock.sendall(step)
            offers += sock.recv(1)
        sock.sendall(steps[-1])
        heard = b""
        while b"Z\0\0\0\5I" not in heard:
            try:
                data = sock.recv(65536)
            except ConnectionResetError:
                break
            if not data:
                break
            heard += data
    messages: list[tuple[bytes, object]] = []
    while len(heard) >= 5 and heard[:1] in b"RSKZENv" and len(heard) >= 1 + (size := _size(heard)):
        kind, body = heard[:1], heard[5 : 1 + size]
        heard = heard[1 + size :]
        if kind in b"EN":
            fields = {part[:1]: part[1:] for part in body.split(b"\0") if part}
            messages.append((kind, {name: fields.get(name) for name in (b"S", b"V", b"C", b"M")}))
        elif kind == b"S":
            messages.append((kind, tuple(body.split(b"\0")[:2])))
        elif kind == b"K":
            messages.append((kind, len(body)))
        elif kind != b"R":
            # (Where a parameter is refused PostgreSQL says first that the log-in as such was good.)
            messages.append((kind, body))
        if kind == b"Z":
            break
    return Heard(offers, tuple(sorted(messages, key=repr)), heard if not messages else b"")


def _size(heard: bytes) -> int:
    return int.from_bytes(heard[1:5])


@pytest.fixture(scope="module")
def doorman(start_module_doorman: StartDoorman, postgres18: Postgres) -> Doorman:
    return start_module_doorman(pools={"app": pool(postgres18, user("alice", pool_size=3))})


@pytest.mark.parametrize("name", PACKETS)
def test_first_packet(doorman: Doorman, postgres18: Postgres, name: str) -> None:
    steps = (PACKETS[name],)
    if name == "an unknown user":  # the pooler knows its own users only, and PostgreSQL says the same of them
        assert _ask(doorman.port, steps).messages[0][0] == b"E"
    assert _ask(doorman.port, steps) == _ask(postgres18.port, steps)
    doorman.check_alive()


@pytest.mark.parametrize("codes", [(SSL,), (GSS,), (SSL, GSS), (GSS, SSL)], ids=str)
def test_encryption_is_asked_for_first(doorman: Doorman, postgres18: Postgres, codes: tuple[int, ...]) -> None:
    steps = (*(_packet(b"", code) for code in codes), _with())
    assert _ask(doorman.port, steps) == _ask(postgres18.port, steps)


@pytest.mark.parametrize("codes", [(SSL, SSL), (GSS, GSS)], ids=str)
def test_encryption_is_asked_for_twice(doorman: Doorman, postgres18: Postgres, codes: tuple[int, ...]) -> None:
    steps = tuple(_packet(b"", code) for code in codes)
    for port in (doorman.port, postgres18.port):
        heard = _ask(port, steps)
        assert [kind for kind, _ in heard.messages] == [b"E"]
    doorman.check_alive()

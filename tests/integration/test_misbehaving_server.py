"""A server that breaks the protocol, lies, stalls or dies: its own client is told, nobody else notices.

After each case a client of a sane pool beside it is served, the broken server's next client gets nothing that was not
meant for it, and nothing stays open.
"""

import base64
import itertools
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import pytest

from tests.integration.conftest import StartDoorman
from tests.integration.watch import Watch
from tests.support.doorman import pool, user
from tests.support.fake_server import (
    PARAMETERS,
    FakeServer,
    Peer,
    Script,
    answer,
    authentication,
    backend_key,
    complete,
    data_row,
    error,
    error_fields,
    greeting,
    parameter_status,
    ready,
    row_description,
    well_meant,
)
from tests.support.pace import Stopwatch
from tests.support.postgres import Postgres
from tests.support.process import free_port
from tests.support.wire import (
    HungUp,
    Reply,
    ServerError,
    Silence,
    Wire,
    bind,
    execute,
    frame,
    parse,
    query,
    sync,
)


class Stage:
    """One pooler, one sane pool `app` and many pools in front of one fake server, which plays for each the script that
    the test has given it. The pooler is started anew if it has died."""

    _POOLS: Final = 320

    def __init__(self, server: Postgres, start: StartDoorman) -> None:
        self._server = server
        self._start = start
        self._scripts: dict[str, Script] = {}
        self._numbers = itertools.count()
        self._watch: Watch | None = None
        self.fake = FakeServer(self._dispatch)

    def _dispatch(self, peer: Peer) -> None:
        database = peer.receive_startup().get("database", "")
        self._scripts.get(database, _silent)(peer)

    def play(self, script: Script, *, scram: bool = False) -> "Bad":
        """A pool of its own whose server behaves like this."""
        if self._watch is None or not self._watch.doorman.is_running:
            self._watch = Watch(self._start(pools=self._pools(), general=self._general()))
        number = next(self._numbers)
        assert number < self._POOLS, "more tests than pools"
        name = f"scram{number}" if scram else f"bad{number}"
        self._scripts[name] = script
        return Bad(self._watch, name)

    def must_serve(self) -> None:
        if self._watch is not None:
            self._watch.must_serve().must_rest()

    def _general(self) -> dict[str, object]:
        return {"connect_timeout": "2s", "query_wait_timeout": "4s", "proxy_copy_data_timeout": "3s"}

    def _pools(self) -> dict[str, dict[str, object]]:
        fake = (self.fake.host, self.fake.port)
        secret = {"server_username": "someone", "server_password": "secret"}
        pools = {
            "app": pool(self._server, user("alice", pool_size=1)),
            "nobody": pool((fake[0], free_port()), user("alice", pool_size=1)),
        }
        for number in range(self._POOLS):
            pools[f"bad{number}"] = pool(fake, user("alice", pool_size=1))
            pools[f"scram{number}"] = pool(fake, user("alice", pool_size=1, **secret))
        return pools


@dataclass(frozen=True, slots=True)
class Bad:
    """One pool with a misbehaving server behind it."""

    watch: Watch
    name: str

    def connect(self, patience: float = 60.0) -> Wire:
        named = {"application_name": "victim"}
        return self.watch.doorman.connect(self.name, "alice", parameters=named, patience=patience)

    def ask(self, sql: str) -> str:
        """What a new client gets: the value, or `error SQLSTATE: text`. Fails on silence and on anything that is
        not an answer of the right form."""
        try:
            wire = self.connect()
        except ServerError as refused:
            return f"error {refused.sqlstate}: {refused.fields.get('M')}"
        except Silence as silence:
            pytest.fail(f"no answer to a log-in: {silence}")
        except (HungUp, OSError) as problem:
            pytest.fail(f"the connection was cut without a word: {problem}")
        with wire:
            return _value(wire, sql)


def _value(wire: Wire, sql: str) -> str:
    try:
        return str(wire.value(sql))
    except ServerError as refused:
        return f"error {refused.sqlstate}: {refused.fields.get('M')}"
    except Silence as silence:
        pytest.fail(f"no answer to {sql!r}: {silence}")
    except HungUp as problem:
        replies, story = problem.replies, str(problem)
    if not replies or replies[-1].kind != "E":
        pytest.fail(f"{sql}: the connection was cut without an error: {story}")
    fields = replies[-1].fields()
    return f"error {fields.get('C')}: {fields.get('M')}"


def _is_error(text: str) -> bool:
    return text.startswith("error ")


@pytest.fixture(scope="module")
def stage(postgres: Postgres, start_module_doorman: StartDoorman) -> Iterator[Stage]:
    opened = Stage(postgres, start_module_doorman)
    with opened.fake:
        yield opened


@pytest.fixture(autouse=True)
def others_are_served(stage: Stage) -> Iterator[None]:
    """Whatever a server does, clients of another one do not notice, and no thread spins."""
    yield
    stage.must_serve()


def _silent(peer: Peer) -> None:
    """Reads and never says a word."""
    while True:
        peer.receive()


# --- Log-in ---------------------------------------------------------------------------------------------------------


def _behind_startup(*parts: bytes) -> Script:
    """Sends this instead of a log-in, then waits for the end."""

    def script(peer: Peer) -> None:
        peer.receive_startup()
        peer.send(*parts)
        while True:
            peer.receive()

    return script


def _cut_behind(*parts: bytes) -> Script:
    def script(peer: Peer) -> None:
        peer.receive_startup()
        peer.send(*parts)

    return script


LOGINS: Final[dict[str, Script]] = {
    "silence": _silent,
    "cut at once": lambda _: None,
    "cut behind the StartupMessage": _cut_behind(),
    "cut behind AuthenticationOk": _cut_behind(authentication(0)),
    "cut inside a message": _cut_behind(authentication(0) + parameter_status("a", "b")[:7]),
    "silence behind AuthenticationOk": _behind_startup(authentication(0)),
    "ReadyForQuery without AuthenticationOk": _behind_startup(ready()),
    "everything but AuthenticationOk": _behind_startup(greeting()[9:]),
    "ReadyForQuery in a transaction": _behind_startup(greeting(status="T")),
    "ReadyForQuery with a strange status": _behind_startup(authentication(0), frame("Z", b"?")),
    "ReadyForQuery without a status": _behind_startup(authentication(0), frame("Z", b"")),
    "noise": _behind_startup(bytes(range(256)) * 10),
    "a web server": _behind_startup(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
    "length 0": _behind_startup(b"R\0\0\0\0"),
    "length 3": _behind_startup(b"R\0\0\0\3\0\0\0\0"),
    "length -1": _behind_startup(b"R\xff\xff\xff\xff" + bytes(100)),
    "length 2 GB": _behind_startup(b"R\x7f\xff\xff\xff" + bytes(100)),
    "an error of 1 GB announced": _behind_startup(b"E\x40\0\0\0SFATAL\0"),
    "an unknown authentication": _behind_startup(authentication(77)),
    "an authentication of no kind": _behind_startup(frame("R", b"")),
    "Kerberos": _behind_startup(authentication(7)),
    "md5 without a salt": _behind_startup(authentication(5)),
    "md5 with half a salt": _behind_startup(authentication(5, b"ab")),
    "cleartext wanted, none known": _behind_startup(authentication(3)),
    "SASL with no mechanism": _behind_startup(authentication(10, b"\0")),
    "SASL with unknown mechanisms": _behind_startup(authentication(10, b"GSSAPI\0PLAIN\0\0")),
    "SASL, unterminated": _behind_startup(authentication(10, b"SCRAM-SHA-256")),
    "SASLContinue out of the blue": _behind_startup(authentication(11, b"r=x,s=eA==,i=4096")),
    "SASLFinal out of the blue": _behind_startup(authentication(12, b"v=eA==")),
    "an error without fields": _behind_startup(frame("E", b"\0")),
    "an error with nothing in it": _behind_startup(frame("E", b"")),
    "an error without its end": _behind_startup(frame("E", b"SFATAL\0C28000\0Mno")),
    **{
        f"an error without {letter}": _behind_startup(
            error_fields(
                {
                    k: v
                    for k, v in {"S": "FATAL", "V": "FATAL", "C": "28000", "M": "fake says no"}.items()
                    if k != letter
                }
            )
        )
        for letter in "SVCM"
    },
    "an error that is no text": _behind_startup(frame("E", b"S\xff\0C\xfe\xfe\0M\x80\x81\0\0")),
    "an error with strange fields": _behind_startup(
        error_fields({"S": "FATAL", "C": "28000", "M": "no", "!": "x", "1": "y"})
    ),
    "an error of 300 kB": _behind_startup(error("28000", "m" * 300_000, "FATAL")),
    "a parameter without a value": _behind_startup(authentication(0), frame("S", b"name\0"), ready()),
    "a parameter that is nothing": _behind_startup(authentication(0), frame("S", b""), ready()),
    "half a key": _behind_startup(authentication(0), frame("K", b"\0\0"), ready()),
    "rows during the log-in": _behind_startup(authentication(0), row_description("x"), data_row("x"), ready()),
    "AuthenticationOk twice": _behind_startup(authentication(0), authentication(0), authentication(3)),
    "NegotiateProtocolVersion of nonsense": _behind_startup(frame("v", b"\0\0\0"), greeting()),
    "no end of notices": lambda peer: _endless(peer, error_fields({"S": "NOTICE", "C": "00000", "M": "n" * 1000}, "N")),
    "no end of parameters": lambda peer: _endless(peer, parameter_status("name", "v" * 1000)),
}


def _endless(peer: Peer, part: bytes) -> None:
    peer.send(authentication(0))
    end = time.monotonic() + 20
    while time.monotonic() < end:
        peer.send(part * 50)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", LOGINS)
def test_log_in_gone_wrong(stage: Stage, name: str) -> None:
    """The client is told within connect_timeout or query_wait_timeout, and memory stays."""
    bad = stage.play(LOGINS[name])
    got = bad.ask("select 'hello'")
    assert _is_error(got), f"a server that logs in by {name} was used: {got!r}"
    bad.watch.must_serve().must_not_have_grown(64)


def test_odd_but_right_log_ins(stage: Stage) -> None:
    """What a server may do is taken: no key, notices, unknown parameters, an empty value, many parameters."""

    def script(peer: Peer) -> None:
        peer.receive_startup()
        many = {**PARAMETERS, "odd": "", **{f"many{i}": "v" * 100 for i in range(100)}}
        notice = error_fields({"S": "WARNING", "V": "WARNING", "C": "01000", "M": "welcome"}, "N")
        reports = b"".join(parameter_status(name, value) for name, value in many.items())
        peer.send(authentication(0), notice, reports, notice, ready())
        peer.serve()

    bad = stage.play(script)
    assert bad.ask("select 'fine'") == "select 'fine'"


def test_log_in_byte_by_byte(stage: Stage) -> None:
    """Split anywhere, the same bytes mean the same."""

    def script(peer: Peer) -> None:
        peer.receive_startup()
        for byte in greeting():
            peer.send(bytes([byte]))
        while (message := peer.receive()).kind != "X":
            for byte in b"".join(peer.good_answer(message)):
                peer.send(bytes([byte]))

    bad = stage.play(script)
    assert bad.ask("select 'slow'") == "select 'slow'"


# --- SCRAM from the server's side -----------------------------------------------------------------------------------


def _scram(first: Callable[[str], bytes], final: bytes = b"v=eA==") -> Script:
    """Asks for SCRAM and answers the client's nonce with whatever `first` makes of it."""

    def script(peer: Peer) -> None:
        peer.receive_startup()
        peer.send(authentication(10, b"SCRAM-SHA-256\0\0"))
        nonce = peer.receive().body.split(b"r=")[-1].decode("latin-1")
        peer.send(authentication(11, first(nonce)))
        peer.receive()
        peer.send(authentication(12, final), greeting())
        while True:
            peer.receive()

    return script


SALT: Final = base64.b64encode(b"sixteen  bytes!!").decode()


def _with_iterations(count: str) -> Callable[[str], bytes]:
    return lambda nonce: f"r={nonce}abc,s={SALT},i={count}".encode()


SCRAMS: Final[dict[str, Script]] = {
    **{
        f"{count} iterations": _scram(_with_iterations(count))
        for count in ("2147483647", "4294967296", "99999999999999999999", "0", "-1", "", "x", "1e9", "100000000")
    },
    "another nonce": _scram(lambda _: f"r=abcdefgh,s={SALT},i=4096".encode()),
    "only our nonce": _scram(lambda nonce: f"r={nonce},s={SALT},i=4096".encode()),
    "a nonce of 64 kB": _scram(lambda nonce: f"r={nonce}{'x' * 65_536},s={SALT},i=4096".encode()),
    "a salt of 64 kB": _scram(lambda nonce: f"r={nonce}abc,s={'AAAA' * 16_384},i=4096".encode()),
    "no salt": _scram(lambda nonce: f"r={nonce}abc,i=4096".encode()),
    "an empty salt": _scram(lambda nonce: f"r={nonce}abc,s=,i=4096".encode()),
    "a salt that is no base64": _scram(lambda nonce: f"r={nonce}abc,s=***,i=4096".encode()),
    "nothing": _scram(lambda _: b""),
    "another order": _scram(lambda nonce: f"i=4096,s={SALT},r={nonce}abc".encode()),
    "an error in it": _scram(lambda _: b"e=other-error"),
    "an extension": _scram(lambda nonce: f"m=x,r={nonce}abc,s={SALT},i=4096".encode()),
    "no text": _scram(lambda _: b"\xff\xfe\0"),
    "a wrong signature": _scram(
        lambda nonce: f"r={nonce}abc,s={SALT},i=4096".encode(), b"v=" + base64.b64encode(bytes(32))
    ),
    "no signature": _scram(lambda nonce: f"r={nonce}abc,s={SALT},i=4096".encode(), b""),
    "an error for a signature": _scram(lambda nonce: f"r={nonce}abc,s={SALT},i=4096".encode(), b"e=invalid-proof"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", SCRAMS)
def test_scram_gone_wrong(stage: Stage, name: str) -> None:
    """The server must prove itself too, and cannot make us calculate for hours."""
    bad = stage.play(SCRAMS[name], scram=True)
    before = bad.watch.doorman.process.processor_seconds()
    watched = Stopwatch()
    got = bad.ask("select 'hello'")
    assert _is_error(got), f"a server whose SCRAM has {name} was trusted: {got!r}"
    watched.must_be_below(6.5, "a log-in that has to fail")
    used = bad.watch.doorman.process.processor_seconds() - before
    assert used < 3.0, f"{used:.1f} s of processor time went into this log-in"


# --- Answers --------------------------------------------------------------------------------------------------------

NOTICE: Final = error_fields({"S": "NOTICE", "V": "NOTICE", "C": "00000", "M": "by the way"}, "N")


def _instead(*parts: bytes, cut: bool = False) -> Script:
    """Answers `select 'trap'` with this; behaves well otherwise."""

    def script(peer: Peer) -> None:
        peer.greet()
        while (message := peer.receive()).kind != "X":
            if b"trap" in message.body:
                peer.send(*parts)
                if cut:
                    return
            else:
                peer.send(*peer.good_answer(message))

    return script


# What the client that asked may get, and whether the answer is one that a server may give.
ANSWERS: Final[dict[str, Script]] = {
    "cut without an answer": _instead(cut=True),
    "cut inside a row": _instead(row_description("value"), data_row("half")[:9], cut=True),
    "cut behind the rows": _instead(row_description("value"), data_row("whole"), complete(), cut=True),
    "a FATAL error, then cut": _instead(error("57P01", "terminated", "FATAL"), cut=True),
    "a FATAL error, then silence": _instead(error("57P01", "terminated", "FATAL")),
    "bytes behind ReadyForQuery": _instead(answer("first"), answer("second")),
    "one byte behind ReadyForQuery": _instead(answer("first"), b"D"),
    "noise behind ReadyForQuery": _instead(answer("first"), b"\xff\xfe"),
    "20,000 parameters": _instead(*(parameter_status(f"p{number}", "v") for number in range(20_000)), answer("first")),
    "a row behind ReadyForQuery": _instead(answer("first"), data_row("stray")),
    "half a message behind ReadyForQuery": _instead(answer("first"), data_row("stray")[:6]),
    "an error behind ReadyForQuery": _instead(answer("first"), error("57P01", "stray")),
    "ReadyForQuery twice": _instead(answer("first"), ready()),
    "ReadyForQuery at once": _instead(ready()),
    "an unknown type": _instead(frame("!", b"what"), ready()),
    "a NUL type": _instead(b"\0\0\0\0\4", ready()),
    "length 0": _instead(b"D\0\0\0\0"),
    "length 3": _instead(b"D\0\0\0\3"),
    "length -1": _instead(b"D\xff\xff\xff\xff"),
    "length 2 GB": _instead(b"D\x7f\xff\xff\xff" + bytes(50)),
    "length 1 GB and then cut": _instead(b"D\x40\0\0\0" + bytes(50), cut=True),
    "ReadyForQuery of six bytes": _instead(answer("first")[:-6], frame("Z", b"IT")),
    "ReadyForQuery without a status": _instead(answer("first")[:-6], frame("Z", b"")),
    "ReadyForQuery with a strange status": _instead(answer("first")[:-6], frame("Z", b"?")),
    "an error without fields": _instead(frame("E", b"\0"), ready()),
    "an error with nothing in it": _instead(frame("E", b""), ready()),
    **{
        f"an error without {letter}": _instead(
            error_fields(
                {k: v for k, v in {"S": "ERROR", "V": "ERROR", "C": "22012", "M": "fake"}.items() if k != letter}
            ),
            ready(),
        )
        for letter in "SVCM"
    },
    "an authentication request": _instead(authentication(3)),
    "AuthenticationOk again": _instead(authentication(0), answer("first")),
    "another key": _instead(backend_key(1, b"zzzz"), answer("first")),
    "CopyIn out of the blue": _instead(frame("G", b"\0\0\0"), error("57014", "copy failed"), ready()),
    "CopyOut without an end": _instead(frame("H", b"\0\0\0"), frame("d", b"x"), error("57014", "copy failed"), ready()),
    "CopyBoth": _instead(frame("W", b"\0\0\0"), error("57014", "copy failed"), ready()),
    "answers of the extended protocol": _instead(frame("1", b""), frame("2", b""), answer("first")),
    "a malformed ParameterStatus": _instead(frame("S", b"TimeZone"), answer("first")),
    "a malformed row description": _instead(frame("T", b"\xff\xff"), answer("first")),
    "a malformed notification": _instead(frame("A", b"\0"), answer("first")),
    "a notification that nobody asked for": _instead(frame("A", b"\0\0\0\1news\0text\0"), answer("first")),
    "NegotiateProtocolVersion": _instead(frame("v", bytes(8)), answer("first")),
    "a thousand notices": _instead(NOTICE * 1000, answer("first")),
    "an empty answer": _instead(),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ANSWERS)
def test_answer_gone_wrong(stage: Stage, name: str) -> None:
    """Whatever the client that asked gets, the next ones get their own answers only."""
    bad = stage.play(ANSWERS[name])
    trapped = bad.connect(60.0)
    trapped.send(query("select 'trap'"))
    came = trapped.poll(0.4)
    others = [f"select 'next {number}'" for number in range(3)]
    if _holds_the_server(trapped, came):
        trapped.reset()  # a server that owes an answer keeps its client; with the client gone it must come free
    for sql in others:
        got = bad.ask(sql)
        assert got == sql or _is_error(got), f"behind {name} a client that asked {sql!r} got {got!r}"
    assert bad.ask("select 'at last'") == "select 'at last'", f"the pool has not recovered from {name}"
    trapped.hang_up()


def _holds_the_server(wire: Wire, came: list[Reply]) -> bool:
    return not wire.closed and not any(reply.kind == "Z" for reply in came)


@pytest.mark.parametrize("data", [b"T\0\0\0\0", b"C\0\0\0\1", b"Z\0\x10\0\0", b"1\0\0\0\5x?"])
def test_an_answer_that_can_be_none_is_not_waited_for(stage: Stage, data: bytes) -> None:
    bad = stage.play(_instead(data))
    with bad.connect(60.0) as trapped:
        trapped.send(query("select 'trap'"))
        while trapped.sock.recv(65536):  # whatever it is told: in the end it is closed, though the server hangs
            pass
        trapped.hang_up()


def test_the_last_word_of_a_server_is_not_followed_by_ours(stage: Stage) -> None:
    bad = stage.play(_instead(error("XX000", "crash", "PANIC"), cut=True))
    with bad.connect(60.0) as trapped:
        trapped.send(query("select 'trap'"))
        assert [reply.fields()["V"] for reply in trapped.wait_closed()] == ["PANIC"]


UNASKED: Final[dict[str, bytes]] = {
    "a notice": NOTICE,
    "a parameter": parameter_status("TimeZone", "Mars"),
    "a notification": frame("A", b"\0\0\0\1news\0text\0"),
    "an error": error("57P01", "going down"),
    "a FATAL error": error("57P01", "going down", "FATAL"),
    "a row": data_row("unasked"),
    "a whole answer": answer("unasked"),
    "ReadyForQuery": ready(),
    "ReadyForQuery in a transaction": ready("T"),
    "half a message": data_row("unasked")[:7],
    "noise": bytes(range(1, 100)),
    "length -1": b"D\xff\xff\xff\xff",
    "an authentication request": authentication(3),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("pause", [0.0, 0.3], ids=["at once", "later"])
@pytest.mark.parametrize("name", UNASKED)
def test_unasked_messages_on_an_idle_backend(stage: Stage, name: str, pause: float) -> None:
    """What an idle backend says is never the answer to the next client's question."""

    def script(peer: Peer) -> None:
        peer.greet()
        while (message := peer.receive()).kind != "X":
            peer.send(*peer.good_answer(message))
            if b"arm" in message.body:
                time.sleep(pause)
                peer.send(UNASKED[name])

    bad = stage.play(script)
    assert bad.ask("select 'arm'") == "select 'arm'"
    time.sleep(pause * 2)
    for number in range(4):
        sql = f"select 'next {number}'"
        got = bad.ask(sql)
        assert got == sql or (_is_error(got) and number < 2), f"behind {name} a client that asked {sql!r} got {got!r}"


# --- Dying at every point of a conversation -------------------------------------------------------------------------

POINTS: Final = (
    "idle",
    "inside a query",
    "inside a batch",
    "idle in a block",
    "inside a COPY",
    "between Parse and Bind",
)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("reset", [False, True], ids=["closes", "resets"])
@pytest.mark.parametrize("point", POINTS)
def test_server_dies(stage: Stage, point: str, reset: bool) -> None:
    """The client that holds it is told with 08006 or 57P01; the next one gets a new backend."""

    def script(peer: Peer) -> None:
        peer.greet()
        while (message := peer.receive()).kind != "X":
            text = message.body
            if b"die" in text:
                _die(peer, reset)
                return
            if b"begin" in text.lower() and message.kind == "Q":
                peer.send(complete("BEGIN"), ready("T"))
            elif b"in block" in text:
                peer.send(answer("in block", "T"))
            elif b"copy" in text.lower():
                peer.send(frame("G", b"\0\0\0"))
            elif message.kind == "d":
                _die(peer, reset)
                return
            else:
                peer.send(*peer.good_answer(message))
            if b"soon" in text:
                time.sleep(0.1)
                _die(peer, reset)
                return

    bad = stage.play(script)
    wire = bad.connect(60.0)
    told = _meet_death(wire, point)
    if point != "idle":
        assert told in ("08006", "57P01", "08P01", "08003"), f"{point}: the client was told {told!r}"
    wire.hang_up()
    for number in range(3):
        sql = f"select 'next {number}'"
        assert bad.ask(sql) == sql, f"after a death {point} the next client is not served"


def _die(peer: Peer, reset: bool) -> None:
    if reset:
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.sock.close()


def _meet_death(wire: Wire, point: str) -> str:
    """Brings the conversation there, has the server die, and returns the SQLSTATE that the client is told."""
    try:
        match point:
            case "idle":
                wire.value("select 'soon'")
                time.sleep(0.5)
                return ""
            case "inside a query":
                replies = wire.ask(query("select 'die'"))
            case "inside a batch":
                replies = wire.ask(parse("", "select 'die'"), bind(), execute(), sync())
            case "idle in a block":
                wire.ask(query("begin"))
                wire.ask(query("select 'in block, soon'"))
                time.sleep(0.5)
                replies = wire.ask(query("select 'in block'"))
            case "inside a COPY":
                wire.ask(query("copy t from stdin"))
                wire.send(frame("d", b"1\n") * 10)
                replies = wire.wait_closed(5.0)
            case _:
                wire.ask(parse("s", "select 'fine'"), sync())
                replies = wire.ask(bind("die", "s"), execute("die"), sync())
    except HungUp as end:
        replies = end.replies
    except Silence as silence:
        pytest.fail(f"the server died {point} and the client was told nothing: {silence}")
    errors = [reply.fields().get("C", "") for reply in replies if reply.kind == "E"]
    return errors[0] if errors else f"nothing but {replies}"


@pytest.mark.timeout(60)
def test_server_that_stalls_inside_an_answer(stage: Stage) -> None:
    """Its client waits, as with PostgreSQL itself; when the client leaves, the backend is cancelled or closed in time."""

    def script(peer: Peer) -> None:
        peer.greet()
        while (message := peer.receive()).kind != "X":
            if b"stall" in message.body:
                peer.send(row_description("value"), data_row("half")[:9])
            else:
                peer.send(*peer.good_answer(message))

    bad = stage.play(script)
    for leave in (Wire.reset, Wire.terminate, Wire.hang_up):
        wire = bad.connect(3.0)
        wire.send(query("select 'stall'"))
        wire.poll(0.2)
        leave(wire)
        started = time.monotonic()
        got = "nothing"
        while time.monotonic() - started < 12 and got != "select 'next'":
            got = bad.ask("select 'next'")
        assert got == "select 'next'", (
            f"12 s after its client had left ({leave.__name__}) the pool is still stuck: {got}"
        )


@pytest.mark.timeout(60)
def test_server_that_refuses_in_turns(stage: Stage) -> None:
    """Refusals are told truthfully and at once, and do not stay when the server has changed its mind."""
    tries = itertools.count(1)

    def script(peer: Peer) -> None:
        if next(tries) <= 2:
            peer.send(error("53300", "sorry, too many clients already", "FATAL"))
        else:
            peer.greet()
            peer.serve()

    bad = stage.play(script)
    got: list[str] = []
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and (not got or got[-1] != "select 'in'"):
        watched = Stopwatch()
        got.append(bad.ask("select 'in'"))
        watched.must_be_below(5.5, f"{got}")
    assert got[-1] == "select 'in'", got
    assert all("too many clients" in text for text in got[:-1]), f"the server's own words were to be told: {got}"


def test_big_answers_in_odd_pieces(stage: Stage) -> None:
    """Messages cut around every likely buffer size arrive whole."""
    sizes = (1, 4, 5, 6, 8191, 8192, 8193, 16383, 16385, 65535, 65536, 65537, 262143, 1_048_577, 3_000_000)

    def script(peer: Peer) -> None:
        peer.greet()
        while (message := peer.receive()).kind != "X":
            found = message.sql.split("size ")
            if len(found) == 2:
                size = int(found[1].split("'")[0])
                whole = answer("v" * size)
                for at in range(0, len(whole), max(1, min(size, 70_001))):
                    peer.send(whole[at : at + max(1, min(size, 70_001))])
            else:
                peer.send(well_meant(message.sql))

    bad = stage.play(script)
    with bad.connect(60.0) as wire:
        for size in sizes:
            got = wire.value(f"select 'size {size}'")
            assert got == "v" * size, f"{size} bytes became {len(str(got))}"


def test_nobody_listens(stage: Stage) -> None:
    """A truthful error, quickly."""
    watch = stage.play(_silent).watch
    watched = Stopwatch()
    got = Bad(watch, "nobody").ask("select 1")
    assert got[6:11] in ("08006", "08001", "57P03"), got
    watched.must_be_below(5.5, "nobody listens")


def test_nothing_is_left_open(stage: Stage) -> None:
    """After all of the above, and with the fake server gone: descriptors and counters are as at the start."""
    watch = stage.play(_silent).watch
    stage.fake.cut()
    watch.must_serve().must_be_clean(patience=10.0).must_not_have_grown(100)

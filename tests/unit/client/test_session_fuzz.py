"""Any bytes from a client, any bytes from a server: nothing but protocol comes of it.

A session, its pool and one backend, all real but for the other ends: the server is a few lines that answer each message
as PostgreSQL might, and the thread of the test does what the poller says, one event at a time.

PGDOORMAN_FUZZ_EXAMPLES=100000 makes a long run.
"""

import contextlib
import os
import socket
from collections.abc import Callable
from threading import get_ident
from time import monotonic
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pgdoorman.backend.connection import Backend, next_number
from pgdoorman.backend.settings import reported_of
from pgdoorman.client.budget import Budget
from pgdoorman.client.cancel_keys import CancelKeys
from pgdoorman.client.holds import WAITING
from pgdoorman.client.services import Services
from pgdoorman.client.session import Session
from pgdoorman.pool.pool import Pool, Surroundings
from pgdoorman.protocol.framing import length_at, message
from pgdoorman.protocol.results import ready_for_query
from pgdoorman.runtime.helpers import Helpers
from pgdoorman.runtime.worker import Worker
from pgdoorman.transport.connect import Address
from pgdoorman.transport.peer import Peer
from tests.unit.pool.hall import settings_for

READY = ready_for_query()
REPORTED = reported_of({"client_encoding": "UTF8", "server_encoding": "UTF8", "server_version": "17.0"})
CLIENT_TEXTS = (
    b"select 1", b"begin", b"commit", b"set a.b = 1", b"listen x", b"deallocate s", b"select f(1)", b"", b"discard all",
)  # fmt: skip
KINDS_OF_CLIENTS = b"BCDEFHPQSXcdf"
KINDS_OF_SERVERS = b"123ACDEGHIKNRSTVWZcdnstv"


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """Whole messages; a last one may be cut. Raises AssertionError at what is none."""
    found = []
    position = 0
    while len(data) - position >= 5:
        length = length_at(data, position + 1)[0]
        assert length >= 4, f"length {length} at {position} of {data[:200]!r}"
        found.append((data[position], data[position + 5 : position + 1 + length]))
        position += 1 + length
    return found


class Rig:
    """One client, one backend, and the other ends of both."""

    def __init__(self, mode: str) -> None:
        self.worker = Worker("fuzz", 0)
        self.worker._thread = get_ident()  # the test is the worker
        helpers = Helpers(0)
        pool_settings = settings_for(("127.0.0.1", 1), pool_size=1, pool__pool_mode=mode)
        self.pool = Pool(pool_settings, Surroundings([self.worker], helpers))
        ours, self.server = socket.socketpair()
        self.backend = Backend(
            ours,
            Address("127.0.0.1", 1),
            role="alice",
            process_id=1,
            cancel_secret=b"0000",
            reported=REPORTED,
            number=next_number(),
        )
        self.backend.pool = self.pool
        self.backend.on_idle_event = self.pool._on_idle_event
        self.pool.ledger._opening += 1
        self.backend.move_to(self.worker)
        self.pool.ledger.opened(self.backend, 0, monotonic())
        self.ended: list[Any] = []
        services = Services(helpers, CancelKeys(), Budget(1 << 20), self.ended.append, lambda *_: self.pool)
        ours, self.client = socket.socketpair()
        self.session = Session(next_number(), ours, Peer("unix", 0, is_unix=True), self.pool, services, told=REPORTED)
        self.session.begin_serving(self.worker, b"")
        self.heard = b""  # by the client
        self.asked = b""  # of the server

    def close(self) -> None:
        if not self.ended:
            self.session._end()
        self.backend.close()
        for sock in (self.server, self.client):
            sock.close()
        self.worker.poller.close()
        self.worker.poller.unwatch(self.worker.inbox.fd)

    def say(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self.client.sendall(data)

    def answer(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self.server.sendall(data)

    def turn(self) -> bool:
        """Handle what is ready. An exception of a handler is the test's failure: no worker guards it."""
        events = self.worker.poller.wait(0)
        for fd, mask in events:
            handler: Callable[..., Any] | None = self.worker.poller.handlers.get(fd)
            if handler is not None:
                handler(self.worker, mask)
        return bool(events)

    def listen(self) -> bytes:
        """Both ends take what has come. Returns what is new for the server."""
        self.heard += _all_of(self.client)
        new = _all_of(self.server)
        self.asked += new
        return new


def _all_of(sock: socket.socket) -> bytes:
    found = b""
    with contextlib.suppress(OSError):
        while data := sock.recv(1 << 20, socket.MSG_DONTWAIT):
            found += data
    return found


_COUNT = message(ord("D"), b"\0\3" + b"".join(len(one).to_bytes(4) + one for one in (b"n", b"statements", b"0")))


class Model:
    """A server: what it answers to whole messages, by PostgreSQL's rules for errors, skipping and COPY."""

    def __init__(self, choices: list[int]) -> None:
        self._choices = iter(choices)
        self._input = b""
        self._skipping = False
        self._copying = ""  # the kind of message that began it
        self.status = b"I"
        self.asked = 0  # for a ReadyForQuery
        self.over = False  # it closes the connection

    def choose(self, most: int) -> int:
        return next(self._choices, 0) % most

    def hear(self, data: bytes) -> bytes:
        self._input += data
        said = b""
        while len(self._input) >= 5 and not self.over:
            size = 1 + length_at(self._input, 1)[0]
            if len(self._input) < size:
                break
            kind, body, self._input = chr(self._input[0]), self._input[5:size], self._input[size:]
            if kind == "Q" and body[:-1] not in CLIENT_TEXTS and not self._copying and not self._skipping:
                self.status = b"I" if body.startswith(b"ROLLBACK") else self.status
                # The pooler asks for itself.
                said += _COUNT if b"pg_prepared_statements" in body else b""
                said += message(ord("C"), b"OK\0") + self._ready()
            else:
                said += self._answer(kind)
        return said

    def _ready(self) -> bytes:
        self.asked += 1
        self._skipping = False
        return message(ord("Z"), self.status)

    def _error(self, *, simple: bool) -> bytes:
        if self.status == b"T":
            self.status = b"E"
        failed = message(ord("E"), b"SERROR\0VERROR\0C42601\0Mno\0\0")
        if simple:
            return failed + self._ready()
        self._skipping = True
        return failed

    def _answer(self, kind: str) -> bytes:
        if self._copying:
            if kind in "dHS":
                return b""
            if kind not in "cf":
                self.over = True
                return b"".join(
                    message(ord("E"), b"S%b\0V%b\0C08P01\0Mno\0\0" % (level, level)) for level in (b"ERROR", b"FATAL")
                )
            begun, self._copying = self._copying, ""
            done = message(ord("C"), b"COPY 1\0")
            if kind == "c":
                return done + self._ready() if begun == "Q" else done
            return self._error(simple=begun == "Q")
        if self._skipping and kind != "S":
            return b""
        match kind:
            case "Q" | "F":
                return self._run(kind)
            case "S":
                return self._ready()
            case "P" | "B" | "C":
                if kind != "C" and self.choose(6) == 5:
                    return self._error(simple=False)
                return message({"P": 49, "B": 50, "C": 51}[kind])
            case "D":
                return [message(ord("n")), message(ord("t"), b"\0\0") + message(ord("n"))][self.choose(2)]
            case "E":
                return self._execute()
        return b""

    def _run(self, kind: str) -> bytes:
        what = self.choose(8)
        if kind == "F":
            return message(ord("V"), b"\xff" * 4) + self._ready()
        if what == 1:
            return self._error(simple=True)
        if what == 2:
            return message(ord("I")) + self._ready()
        if what == 3:
            self._copying = "Q"
            return message(ord("G"), b"\0\0\0")
        if what == 4:
            self.status = b"I" if self.status != b"I" else b"T"
            return message(ord("C"), b"BEGIN\0") + self._ready()
        tag = [b"SELECT 1\0", b"SET\0", b"LISTEN\0", b"DISCARD ALL\0", b"CREATE TABLE\0"][self.choose(5)]
        row = message(ord("T"), b"\0\0") + message(ord("D"), b"\0\0") * self.choose(3)
        return row + message(ord("C"), tag) + self._ready()

    def _execute(self) -> bytes:
        what = self.choose(7)
        if what == 1:
            return self._error(simple=False)
        if what == 2:
            return message(ord("s"))
        if what == 3:
            self._copying = "E"
            return message(ord("G"), b"\0\0\0")
        return message(ord("D"), b"\0\0") * self.choose(3) + message(ord("C"), b"SELECT 1\0")


def converse(rig: Rig, model: Model, pieces: list[bytes]) -> None:
    """The client's pieces, each when nothing else happens, and the model's answers."""
    for piece in [*pieces, b""]:
        rig.say(piece)
        quiet = 0
        while quiet < 2:
            new = rig.listen()
            if new:
                rig.answer(model.hear(new))
                if model.over:
                    rig.server.shutdown(socket.SHUT_WR)
            quiet = 0 if rig.turn() or new else quiet + 1


NAMES = st.sampled_from([b"", b"s", b"t"])
TEXTS = st.sampled_from(CLIENT_TEXTS)
WHOLE = st.one_of(
    st.builds(lambda text: message(ord("Q"), text + b"\0"), TEXTS),
    st.builds(lambda name, text: message(ord("P"), name + b"\0" + text + b"\0\0\0"), NAMES, TEXTS),
    st.builds(lambda name: message(ord("B"), b"\0" + name + b"\0\0\0\0\0\0\0"), NAMES),
    st.builds(lambda what, name: message(ord("D"), what + name + b"\0"), st.sampled_from([b"S", b"P"]), NAMES),
    st.builds(lambda what, name: message(ord("C"), what + name + b"\0"), st.sampled_from([b"S", b"P"]), NAMES),
    st.just(message(ord("E"), b"\0\0\0\0\0")),
    st.just(message(ord("S"))),
    st.just(message(ord("H"))),
    st.just(message(ord("d"), b"row\n")),
    st.just(message(ord("c"))),
    st.just(message(ord("f"), b"no\0")),
)
WILD = st.one_of(
    WHOLE,
    st.builds(message, st.sampled_from(list(KINDS_OF_CLIENTS)), st.binary(max_size=40)),
    st.builds(message, st.integers(0, 255), st.binary(max_size=10)),
    st.binary(max_size=20),
)
CUTS = st.lists(st.integers(1, 60), max_size=12)
CHOICES = st.lists(st.integers(0, 1000), max_size=60)
MODES = st.sampled_from(["transaction", "session", "statement"])
EXAMPLES = int(os.environ.get("PGDOORMAN_FUZZ_EXAMPLES", "150"))
FUZZ = settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    pieces = []
    for size in cuts:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


@pytest.mark.timeout(120 + EXAMPLES)
@FUZZ
@given(st.lists(WHOLE, max_size=14), CUTS, CHOICES, MODES)
def test_good_messages_get_their_answers(messages: list[bytes], cuts: list[int], choices: list[int], mode: str) -> None:
    """However they are cut, and whatever the server says to them: what is passed on is whole, and at its end a Sync brings
    the client to where it can go on."""
    rig, model = Rig(mode), Model(choices)
    try:
        converse(rig, model, cut(b"".join(messages), cuts))
        asked = frames(rig.asked)
        assert all(kind in KINDS_OF_CLIENTS for kind, _ in asked)
        said = frames(rig.heard)
        if rig.ended:
            # Statement pooling allows no blocks; nothing else here is a reason.
            assert mode == "statement" or any(kind == ord("E") and b"FATAL" in body for kind, body in said)
            return
        before = sum(kind == ord("Z") for kind, _ in said)
        converse(rig, model, [message(ord("f"), b"\0"), message(ord("S")), message(ord("S"))])
        said = frames(rig.heard)
        waits = rig.session.held & WAITING and not rig.backend.is_open  # an audit that found what cannot be cost it
        assert rig.ended or waits or sum(kind == ord("Z") for kind, _ in said) > before
        assert all(kind in KINDS_OF_SERVERS for kind, _ in said)
    finally:
        rig.close()


@pytest.mark.timeout(120 + EXAMPLES)
@FUZZ
@given(st.lists(WILD, max_size=10), CUTS, CHOICES, MODES)
@example([message(ord("D"))], [], [], "transaction")
@example([message(ord("P"))], [], [], "transaction")
def test_any_bytes_of_a_client(messages: list[bytes], cuts: list[int], choices: list[int], mode: str) -> None:
    """What is passed on is framed, however broken the rest; the client hears messages, or is closed."""
    rig, model = Rig(mode), Model(choices)
    try:
        converse(rig, model, cut(b"".join(messages), cuts))
        asked = rig.asked
        if asked.endswith(b"\0\0\0\0"):
            asked = asked[
                :-5
            ]  # into a COPY a broken message is passed on as such: the server says what it thinks of it
        assert all(kind in KINDS_OF_CLIENTS for kind, _ in frames(asked))
        assert all(kind in KINDS_OF_SERVERS for kind, _ in frames(rig.heard))
        if rig.session.backend is None and rig.backend.is_open and rig.backend.holder is None:
            assert rig.backend.is_clean
            assert rig.backend.exchange.is_settled
    finally:
        rig.close()


SAID = st.one_of(
    st.just(READY),
    st.builds(lambda status: message(ord("Z"), status), st.sampled_from([b"I", b"T", b"E", b"", b"X", b"II"])),
    st.builds(lambda tag: message(ord("C"), tag + b"\0"), st.sampled_from([b"SELECT 1", b"SET", b"LISTEN", b"", b"COPY 1"])),
    st.builds(message, st.sampled_from(list(KINDS_OF_SERVERS)), st.binary(max_size=30)),
    st.builds(message, st.integers(0, 255), st.binary(max_size=10)),
    st.builds(lambda kind, length: bytes([kind]) + length.to_bytes(4), st.sampled_from(list(KINDS_OF_SERVERS)),
              st.sampled_from([0, 1, 3, 4, 0x10000, 0x3FFFFFFF, 0x40000000, 0x7FFFFFFF, 0xFFFFFFFF])),
    st.binary(max_size=20),
)  # fmt: skip


@pytest.mark.timeout(120 + EXAMPLES)
@FUZZ
@given(st.lists(WHOLE, min_size=1, max_size=5), st.lists(SAID, max_size=10), CUTS, MODES)
def test_any_bytes_of_a_server(asked: list[bytes], said: list[bytes], cuts: list[int], mode: str) -> None:
    """Nothing crashes; and a backend that goes back into the pool has answered what it was asked, and no more."""
    rig = Rig(mode)
    try:
        rig.say(b"".join(asked))
        for piece in cut(b"".join(said), cuts):
            for _ in range(3):
                rig.turn()
                rig.listen()
            rig.answer(piece)
        for _ in range(4):
            rig.turn()
            rig.listen()
        if rig.session.backend is None and rig.backend.is_open and rig.backend.holder is None:
            assert rig.backend.is_clean
            assert rig.backend.exchange.is_settled
        rig.say(message(ord("X")))
        for _ in range(3):
            rig.turn()
        assert rig.ended or rig.session.held
    finally:
        rig.close()


def test_the_model_answers() -> None:
    """The fuzz proves nothing if nobody speaks."""
    rig, model = Rig("transaction"), Model([0] * 20)
    try:
        converse(rig, model, [message(ord("Q"), b"select 1\0")])
        assert [kind for kind, _ in frames(rig.heard)] == list(b"TCZ")
        assert rig.backend.is_clean
        with pytest.raises(AssertionError):
            frames(b"Q\0\0\0\3x")
    finally:
        rig.close()

"""The first packet and the whole log-in, fuzzed: whatever comes, what leaves is an error of ours, soon, and no identity.

A watchdog bounds the processor time of each example; an endless loop prints every stack and fails.
"""

import base64
import contextlib
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgdoorman.auth.client_login import LoginAttempt, LoginKnobs, authenticate
from pgdoorman.auth.hba import parse_hba
from pgdoorman.auth.scram import MadeVerifiers
from pgdoorman.auth.secrets import Md5Secret, NoSecret, PlainSecret, StoredSecret, build_scram_secret
from pgdoorman.errors import PgDoormanError
from pgdoorman.protocol import authentication as wire
from pgdoorman.protocol.dialogue import FindSecret, Offload, Receive, Runner
from pgdoorman.protocol.startup import StartupMessage, first_packet_size, negotiate, parse_first_packet, parse_options

pytestmark = pytest.mark.timeout(90)

LONGEST = 0.5
"""Seconds of processor time for one example; each takes about a millisecond."""

VERIFIER = build_scram_secret(b"pencil", 1)
SECRETS: tuple[StoredSecret | None, ...] = (None, NoSecret(), PlainSecret(b"pencil"), VERIFIER, Md5Secret("0" * 32))


@contextlib.contextmanager
def watchdog() -> Iterator[None]:
    began = time.thread_time()
    yield
    took = time.thread_time() - began
    assert took < LONGEST, f"one example took {took:.2f} s"


# The first packet.

_pieces = st.one_of(
    st.binary(max_size=30),
    st.sampled_from([b"user", b"database", b"options", b"replication", b"application_name", b"_pq_.x", b"a" * 5000]),
    st.sampled_from([b"", b"=", b"-c", b"-c=", b"--=", b"-c a=b", b"\\", b"true", b"\xff", b"postgres", b"-c " * 2000]),
)


@st.composite
def _startups(draw: st.DrawFn) -> bytes:
    code = draw(st.sampled_from([0x30000, 0x30001, 0x30002, 0x3FFFF, 0x20000, 0x40000, 80877102, 80877103, 80877104]))
    body = b"\0".join(draw(st.lists(_pieces, max_size=12))) + draw(st.sampled_from([b"", b"\0", b"\0\0", b"\0\0\0"]))
    length = draw(st.one_of(st.just(len(body) + 8), st.sampled_from([0, 7, 8, 2**31 - 1, 2**31, 2**32 - 1])))
    return length.to_bytes(4) + code.to_bytes(4) + body


@given(st.one_of(_startups(), st.binary(max_size=100)))
def test_first_packets(packet: bytes) -> None:
    with watchdog(), contextlib.suppress(PgDoormanError):
        if first_packet_size(packet[:4]) == len(packet):
            message = parse_first_packet(packet)
            if isinstance(message, StartupMessage):
                negotiate(message)
                message.settings()
                assert message.replication is not None


@given(st.one_of(st.text(max_size=60), st.text("-c =\\'\"a.\t\n", max_size=200), st.text("-c=\\ ", max_size=9000)))
def test_options(text: str) -> None:
    """CVE-2026-107349: an option without a name took for ever."""
    with watchdog(), contextlib.suppress(PgDoormanError):
        for name, _ in parse_options(text):
            assert name


# The log-in.


def _attempt(method: str) -> LoginAttempt:
    return LoginAttempt(
        "alice", "shop", "10.0.0.1", parse_hba(f"host all all all {method}"), LoginKnobs(MadeVerifiers(1))
    )


def _refused(method: str, secret: StoredSecret | None, said: list[bytes], cut: int) -> None:
    """The messages are given in pieces; the answers of the one who asks are as they would be."""
    runner = Runner(authenticate(_attempt(method)))
    stream = b"".join(said)
    for start in range(0, max(1, len(stream)), cut):
        while isinstance(runner.wants, Offload | FindSecret):
            asked = runner.wants
            runner.answer(asked.work() if isinstance(asked, Offload) else secret)
        if runner.wants is None:
            break
        runner.feed(stream[start : start + cut])
    while isinstance(runner.wants, Offload | FindSecret):
        asked = runner.wants
        runner.answer(asked.work() if isinstance(asked, Offload) else secret)
    if isinstance(runner.wants, Receive):
        runner.close()
        return
    with pytest.raises(PgDoormanError):
        runner.result()


_methods = st.sampled_from(["md5", "password", "scram-sha-256"])
_secrets = st.sampled_from(SECRETS)
_cuts = st.integers(1, 300)


@st.composite
def _messages(draw: st.DrawFn) -> bytes:
    kind = draw(st.sampled_from([b"p", b"p", b"p", b"Q", b"X", b"\0", b"R"]))
    body: bytes = draw(
        st.one_of(
            st.binary(max_size=60),
            st.just(b"\0"),
            st.builds(lambda data: b"SCRAM-SHA-256\0" + len(data).to_bytes(4) + data, st.binary(max_size=40)),
            st.builds(lambda size: b"SCRAM-SHA-256\0" + size.to_bytes(4) + b"n,,n=,r=x", st.integers(0, 2**32 - 1)),
            st.just(wire.sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=abcdef")[5:]),
            st.just(b"wrong\0"),
        )
    )
    length = draw(st.one_of(st.just(len(body) + 4), st.just(len(body) + 4), st.sampled_from([0, 3, 2**31, 2**32 - 1])))
    return kind + length.to_bytes(4) + body


@given(_methods, _secrets, st.lists(_messages(), max_size=4), _cuts)
def test_messages_of_all_kinds(method: str, secret: StoredSecret | None, said: list[bytes], cut: int) -> None:
    with watchdog():
        _refused(method, secret, said, cut)


def _edited(draw: st.DrawFn, attributes: list[bytes]) -> bytes:
    """Attributes dropped, repeated, put elsewhere, damaged."""
    edited = list(attributes)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(0, len(edited) - 1)))
        match draw(st.integers(0, 4)):
            case 0 if edited:
                edited.pop(place)
            case 1 if edited:
                edited.insert(draw(st.integers(0, len(edited))), edited[place])
            case 2 if edited:
                edited.insert(0, edited.pop(place))
            case 3 if edited:
                edited[place] = draw(st.binary(max_size=8)) + edited[place][draw(st.integers(0, 4)) :]
            case _:
                edited.insert(
                    place, draw(st.sampled_from([b"", b"=", b"m=x", b"r=", b"p=", b"e=other-error", b"x" * 2000]))
                )
    return b",".join(edited)


@st.composite
def _first_messages(draw: st.DrawFn) -> bytes:
    return _edited(draw, [b"n", b"", b"n=alice", b"r=fyko+d2lbbFgONRv9qkxdawL"])


@st.composite
def _final_messages(draw: st.DrawFn) -> bytes:
    return _edited(draw, [b"c=biws", b"r=fyko+d2lbbFgONRv9qkxdawL", b"p=" + base64.b64encode(bytes(32))])


@given(_secrets, _first_messages(), _final_messages(), _cuts)
def test_scram_messages(secret: StoredSecret | None, first: bytes, final: bytes, cut: int) -> None:
    """CVE-2026-19888 and its kin: a message that lacks, repeats or disorders what it should have."""
    said = [wire.sasl_initial_response("SCRAM-SHA-256", first), wire.sasl_response(final)]
    with watchdog():
        _refused("scram-sha-256", secret, said, cut)


@given(_secrets, _final_messages(), st.booleans())
def test_scram_final_messages_behind_a_good_first_one(
    secret: StoredSecret | None, final: bytes, with_nonce: bool
) -> None:
    """With the server's own nonce in it, as far as the edits have left a place for it."""
    runner = Runner(authenticate(_attempt("scram-sha-256")))
    with watchdog():
        while isinstance(runner.wants, FindSecret):
            runner.answer(secret)
        runner.take_output()
        runner.feed(wire.sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=fyko+d2lbbFgONRv9qkxdawL"))
        nonce = runner.take_output()[9:].split(b",")[0]
        if with_nonce:
            final = final.replace(b"r=fyko+d2lbbFgONRv9qkxdawL", nonce)
        runner.feed(wire.sasl_response(final))
        while isinstance(runner.wants, Offload | FindSecret):
            asked = runner.wants
            runner.answer(asked.work() if isinstance(asked, Offload) else secret)
        with pytest.raises(PgDoormanError):
            runner.result()


@given(st.data())
def test_a_right_log_in_is_only_let_in_undamaged(data: st.DataObject) -> None:
    """The counterpart, without which refusing everything would pass: an md5 answer, whole or with one bit turned."""
    from pgdoorman.auth.md5 import md5_answer, md5_digest  # noqa: PLC0415

    secret = Md5Secret(md5_digest("alice", b"pencil"))
    runner = Runner(authenticate(_attempt("md5")))
    runner.answer(secret)
    answer = bytearray(wire.password_message(md5_answer(secret.digest, runner.take_output()[-4:])))
    turned = data.draw(st.integers(-1, len(answer) * 8 - 1))
    if turned >= 0:
        answer[turned // 8] ^= 1 << turned % 8
    runner.feed(bytes(answer))
    while isinstance(runner.wants, Offload | FindSecret):
        asked = runner.wants
        runner.answer(asked.work() if isinstance(asked, Offload) else secret)
    if turned < 0:
        assert runner.result().user == "alice"
    elif isinstance(runner.wants, Receive):
        runner.close()
    else:
        with pytest.raises(PgDoormanError):
            runner.result()

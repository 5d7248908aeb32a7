"""Our log-in to servers: what good ones answer, and that bad ones get nothing out of us but clean errors."""

import base64
import time
from collections.abc import Iterator
from itertools import chain, islice, repeat

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pgdoorman.auth.backend_login import (
    MAX_BYTES,
    MAX_MESSAGES,
    BackendCredentials,
    BackendGreeting,
    CredentialsMissing,
    LoginPolicy,
    log_in,
)
from pgdoorman.auth.md5 import md5_answer, md5_digest
from pgdoorman.auth.scram import MECHANISM, MECHANISM_PLUS, ServerExchange
from pgdoorman.auth.secrets import (
    Md5Secret,
    NoSecret,
    PlainSecret,
    ScramKeys,
    StoredSecret,
    derive_keys,
    verifier_of,
)
from pgdoorman.errors import BackendRefused, PgDoormanError, ProtocolViolation
from pgdoorman.protocol import authentication as wire
from pgdoorman.protocol import codes
from pgdoorman.protocol.dialogue import Dialogue, Runner, Send, receive
from pgdoorman.protocol.startup import negotiate_protocol_version, startup_message
from tests.support.script import Outcome, Pair, drive, receives, run_script, sends, sends_into, works

STARTUP = startup_message({"user": "alice", "database": "shop"})
STARTUP_3_2 = startup_message({"user": "alice", "database": "shop"}, codes.PROTOCOL_3_2)
SALT = b"0123456789abcdef"
KEYS = derive_keys(b"pencil", SALT, 16)
DIGEST = md5_digest("alice", b"pencil")
PASSWORD = BackendCredentials("alice", password=b"pencil")
HASH = BackendCredentials("alice", md5_digest=DIGEST)
SCRAM = BackendCredentials("alice", scram_keys=KEYS)
NOTHING = BackendCredentials("alice")
BINDINGS = {"tls-server-end-point": b"e" * 32, "tls-exporter": b"x" * 32}


def frame(kind: str, body: bytes = b"", length: int | None = None) -> bytes:
    return kind.encode("latin-1") + (len(body) + 4 if length is None else length).to_bytes(4) + body


OK = wire.ok()
KEY = frame("K", b"\0\0\0\x07keys")
READY = frame("Z", b"I")
REST = frame("S", b"TimeZone\0UTC\0") + frame("S", b"server_version\x0018\0") + KEY + READY


def answer(data: bytes, credentials: BackendCredentials = PASSWORD, **policy: object) -> Outcome[BackendGreeting]:
    """How log_in ends against a server that says this."""
    return drive(log_in(STARTUP, credentials, LoginPolicy(**policy)), data)  # type: ignore[arg-type]


def refusal(data: bytes, credentials: BackendCredentials = PASSWORD, **policy: object) -> PgDoormanError:
    outcome = answer(data, credentials, **policy)
    assert outcome.error is not None, "it did not end in an error"
    return outcome.error


# Good servers.


def test_trust() -> None:
    greeting = run_script(
        log_in(STARTUP, NOTHING),
        sends(STARTUP),
        receives("R", OK[5:]),
        receives("S", b"TimeZone\0UTC\0"),
        receives("N", b"SWARNING\0Mbe careful\0\0"),
        receives("S", b"search_path\0\0"),
        receives("K", b"\xff\xff\xff\xffkeys"),
        receives("S", b"TimeZone\0UTC\0"),
        receives("Z", b"I"),
    )
    assert greeting == BackendGreeting(
        parameters=(("TimeZone", "UTC"), ("search_path", ""), ("TimeZone", "UTC")),
        process_id=-1,
        cancel_secret=b"keys",
        version=codes.PROTOCOL_3_0,
        status=codes.IDLE,
        method="trust",
    )
    assert "keys" not in repr(greeting)


def test_cleartext() -> None:
    greeting = run_script(
        log_in(STARTUP, PASSWORD),
        sends(STARTUP),
        receives("R", wire.cleartext()[5:]),
        sends(b"p\0\0\0\x0bpencil\0"),
        receives("R", OK[5:]),
        receives("Z", b"I"),
    )
    assert (greeting.method, greeting.process_id, greeting.cancel_secret) == ("password", 0, b"")


@pytest.mark.parametrize("credentials", [PASSWORD, HASH])
def test_md5(credentials: BackendCredentials) -> None:
    greeting = run_script(
        log_in(STARTUP, credentials),
        sends(STARTUP),
        receives("R", wire.md5(b"salt")[5:]),
        sends(wire.password_message(md5_answer(DIGEST, b"salt"))),
        receives("R", OK[5:]),
        receives("Z", b"I"),
    )
    assert greeting.method == "md5"


@pytest.mark.parametrize("length", [0, 1, 1023, 1024, 65_535])
def test_passwords_of_every_length(length: int) -> None:
    password = b"x" * length
    run_script(
        log_in(STARTUP, BackendCredentials("alice", password=password)),
        sends(STARTUP),
        receives("R", wire.cleartext()[5:]),
        sends(wire.password_message(password)),
        receives("R", OK[5:]),
        receives("Z", b"I"),
    )


def scram_server(mechanisms: tuple[str, ...] = (MECHANISM,), bindings: dict[str, bytes] | None = None) -> Dialogue[str]:
    """A server that knows alice's verifier. Returns the channel binding flag that it was sent."""
    yield Send(wire.sasl(mechanisms))
    message = yield from receive(b"p")
    mechanism, first = wire.parse_sasl_initial_response(message.body)
    assert first is not None
    exchange = ServerExchange(mechanism, bindings or {})
    yield Send(wire.sasl_continue(exchange.first(first, SALT, 16)))
    message = yield from receive(b"p")
    claim = exchange.final(message.body)
    assert exchange.judge(claim, verifier_of(KEYS)) is not None
    yield Send(wire.sasl_final(exchange.last(claim, verifier_of(KEYS))) + OK + REST)
    return first.partition(b",")[0].decode()


def meet(server: Dialogue[str], credentials: BackendCredentials, policy: LoginPolicy) -> tuple[BackendGreeting, str]:
    pair = Pair(log_in(STARTUP, credentials, policy), server)
    assert pair.left.take_output() == STARTUP
    greeting, flag = pair.run()
    return greeting.get(), flag.get()


@pytest.mark.parametrize("credentials", [PASSWORD, SCRAM])
@pytest.mark.parametrize(
    ("offered", "policy", "mechanism", "flag"),
    [
        ((MECHANISM,), LoginPolicy(), MECHANISM, "n"),
        ((MECHANISM,), LoginPolicy(BINDINGS), MECHANISM, "y"),
        ((MECHANISM,), LoginPolicy(BINDINGS, channel_binding="disable"), MECHANISM, "n"),
        ((MECHANISM_PLUS, MECHANISM), LoginPolicy(BINDINGS), MECHANISM_PLUS, "p=tls-server-end-point"),
        ((MECHANISM, MECHANISM_PLUS), LoginPolicy(BINDINGS), MECHANISM_PLUS, "p=tls-server-end-point"),
        ((MECHANISM_PLUS,), LoginPolicy(BINDINGS, channel_binding="require"), MECHANISM_PLUS, "p=tls-server-end-point"),
        (
            (MECHANISM_PLUS, MECHANISM),
            LoginPolicy({"tls-exporter": b"x" * 32}),
            MECHANISM_PLUS,
            "p=tls-exporter",
        ),
        (("OAUTHBEARER", MECHANISM), LoginPolicy(), MECHANISM, "n"),
    ],
)
def test_scram(
    credentials: BackendCredentials, offered: tuple[str, ...], policy: LoginPolicy, mechanism: str, flag: str
) -> None:
    bindings = BINDINGS if mechanism == MECHANISM_PLUS else None
    greeting, said = meet(scram_server(offered, bindings), credentials, policy)
    assert (greeting.method, said) == (mechanism.lower(), flag)
    assert dict(greeting.parameters) == {"TimeZone": "UTC", "server_version": "18"}


def test_scram_without_tls_when_the_server_offers_both() -> None:
    greeting, said = meet(scram_server((MECHANISM_PLUS, MECHANISM)), PASSWORD, LoginPolicy())
    assert (greeting.method, said) == ("scram-sha-256", "n")


def test_the_key_derivation_is_offloaded_and_keys_need_none() -> None:
    for credentials, offloads in ((PASSWORD, 1), (SCRAM, 0)):
        pair = Pair(log_in(STARTUP, credentials), scram_server())
        pair.left.take_output()
        pair.run()
        assert pair.offloads == [offloads, 0]


# Versions.


def test_protocol_3_2_with_a_long_cancel_key() -> None:
    outcome = drive(log_in(STARTUP_3_2, NOTHING), OK + frame("K", b"\0\0\0\x07" + b"k" * 256) + READY)
    assert outcome.get().version == codes.PROTOCOL_3_2
    assert outcome.get().cancel_secret == b"k" * 256


def test_3_2_asked_and_3_0_accepted() -> None:
    told = negotiate_protocol_version(codes.PROTOCOL_3_0, [])
    outcome = drive(log_in(STARTUP_3_2, NOTHING), told + OK + KEY + READY)
    assert outcome.get().version == codes.PROTOCOL_3_0


def test_a_long_cancel_key_needs_3_2() -> None:
    long_key = frame("K", b"\0\0\0\x07" + b"k" * 32)
    told = negotiate_protocol_version(codes.PROTOCOL_3_0, [])
    for startup, said in ((STARTUP, OK), (STARTUP_3_2, told + OK)):
        assert isinstance(drive(log_in(startup, NOTHING), said + long_key + READY).error, ProtocolViolation)


@pytest.mark.parametrize("version", [0, 0x0002_0000, 0x0003_0001, 0x0003_0003, 0x0003_FFFF, 0x0004_0000, 0xFFFF_FFFF])
def test_a_version_that_cannot_be_negotiated(version: int) -> None:
    told = negotiate_protocol_version(version, [])
    assert isinstance(drive(log_in(STARTUP_3_2, NOTHING), told + OK + READY).error, ProtocolViolation)


def test_negotiation_happens_once_and_before_authentication() -> None:
    told = negotiate_protocol_version(codes.PROTOCOL_3_0, [])
    for said in (told + told + OK + READY, OK + told + READY, wire.cleartext() + told + OK + READY):
        assert isinstance(drive(log_in(STARTUP_3_2, PASSWORD), said).error, ProtocolViolation)


# Refusals.

FIELDS = {"S": "FATAL", "V": "FATAL", "C": "28P01", "M": "no", "D": "detail", "H": "hint"}


def error_response(fields: dict[str, str]) -> bytes:
    return frame("E", b"".join(f"{letter}{text}".encode() + b"\0" for letter, text in fields.items()) + b"\0")


@pytest.mark.parametrize("missing", ["", *FIELDS])
@pytest.mark.parametrize("before", [b"", wire.cleartext(), OK, OK + frame("S", b"a\0b\0")])
def test_an_error_comes_out_with_the_fields_that_it_has(missing: str, before: bytes) -> None:
    fields = {letter: text for letter, text in FIELDS.items() if letter != missing}
    error = refusal(before + error_response(fields))
    assert isinstance(error, BackendRefused)
    assert error.fields == fields
    assert error.sqlstate_of_server == ("XX000" if missing == "C" else "28P01")


@pytest.mark.parametrize("body", [b"", b"\0", b"M", b"\0\0\0", b"Mno terminator", b"\xff\xff\0", b"C\0M\0\0"])
def test_an_error_without_form_is_still_one(body: bytes) -> None:
    error = refusal(frame("E", body))
    assert isinstance(error, BackendRefused)
    assert str(error) is not None


# What we do not have.

SASL = wire.sasl([MECHANISM])


@pytest.mark.parametrize(
    ("said", "credentials", "text"),
    [
        (wire.cleartext(), NOTHING, 'asks for a password in clear of "alice": set server_password'),
        (wire.cleartext(), HASH, "a password in clear"),
        (wire.cleartext(), SCRAM, "a password in clear"),
        (wire.md5(b"salt"), NOTHING, "asks for an MD5 answer"),
        (wire.md5(b"salt"), SCRAM, "asks for an MD5 answer"),
        (SASL, NOTHING, "asks for SCRAM .*let the user log in here by SCRAM once"),
        (SASL, HASH, "asks for SCRAM .*an md5 hash cannot answer it"),
        (wire.sasl(["OAUTHBEARER"]), PASSWORD, "none of the server's SASL authentication mechanisms"),
        (wire.sasl([MECHANISM_PLUS]), PASSWORD, "none of the server's SASL authentication mechanisms"),
        *(
            (frame("R", code.to_bytes(4) + data), PASSWORD, "which is not supported")
            for code, data in ((2, b""), (7, b""), (8, b"x"), (9, b""), (6, b"xx"), (999, b""), (0xFFFF_FFFF, b""))
        ),
    ],
)
def test_what_is_missing_is_named(said: bytes, credentials: BackendCredentials, text: str) -> None:
    error = refusal(said, credentials)
    assert isinstance(error, CredentialsMissing)
    assert error.sqlstate == "28000"
    with pytest.raises(CredentialsMissing, match=text):
        raise error


def test_keys_of_another_verifier_are_noticed_before_they_are_used() -> None:
    for keys in (ScramKeys(17, SALT, KEYS.client_key, KEYS.server_key), ScramKeys(16, b"x", b"c" * 32, b"s" * 32)):
        pair = Pair(log_in(STARTUP, BackendCredentials("alice", scram_keys=keys)), scram_server())
        pair.left.take_output()
        outcome = pair.run()[0]
        assert isinstance(outcome.error, CredentialsMissing)
        assert "was the password changed?" in str(outcome.error)


def test_cleartext_may_be_forbidden() -> None:
    assert isinstance(refusal(wire.cleartext(), allow_cleartext=False), CredentialsMissing)


def test_a_password_that_cannot_be_sent() -> None:
    error = refusal(wire.cleartext(), BackendCredentials("alice", password=b"a\0b"))
    assert isinstance(error, ProtocolViolation)


@pytest.mark.parametrize(
    ("secret", "keys", "wanted"),
    [
        (PlainSecret(b"pencil"), None, PASSWORD),
        (Md5Secret(DIGEST), None, HASH),
        (verifier_of(KEYS), KEYS, SCRAM),
        (verifier_of(KEYS), None, NOTHING),
        (NoSecret(), None, NOTHING),
        (None, None, NOTHING),
    ],
)
def test_pass_through(secret: StoredSecret | None, keys: ScramKeys | None, wanted: BackendCredentials) -> None:
    assert BackendCredentials.from_secret("alice", secret, keys) == wanted


def test_credentials_show_no_secret() -> None:
    shown = repr([PASSWORD, HASH, SCRAM, LoginPolicy(BINDINGS)])
    for hidden in ("pencil", DIGEST, repr(KEYS.client_key), "eeee"):
        assert hidden not in shown


# Servers that do not keep to the protocol.


@pytest.mark.parametrize(
    "said",
    [
        READY,  # ReadyForQuery without AuthenticationOk
        REST,
        KEY,
        frame("S", b"a\0b\0"),
        frame("T"),
        frame("A", b"\0\0\0\0x\0y\0"),
        b"S",  # what an SSLRequest is answered with
        b"H",  # HTTP
        b"\0\0\0\0\0",
        OK + OK,
        OK + wire.cleartext(),
        OK + frame("T"),
        OK + frame("Z"),
        OK + frame("Z", b"II"),
        OK + frame("Z", b"X"),
        OK + KEY + KEY,
        OK + frame("K"),
        OK + frame("K", b"\0\0\0\x07"),
        OK + frame("K", b"\0\0\0\x07key"),
        OK + frame("K", b"\0\0\0\x07keyss"),
        OK + frame("K", bytes(400)),
        OK + frame("S"),
        OK + frame("S", b"a"),
        OK + frame("S", b"\0\0"),
        frame("R"),
        frame("R", b"\0"),
        frame("R", b"\0\0\0\5sal"),
        wire.sasl_continue(b"r=x"),
        wire.sasl_final(b"v=x"),
        wire.cleartext() + wire.cleartext(),
        wire.cleartext() + READY,
        wire.cleartext() + wire.md5(b"salt"),
        wire.cleartext() + SASL,
        wire.md5(b"salt") + wire.md5(b"salt"),
        frame("R", b"\0\0\0\x0a"),
        frame("R", b"\0\0\0\x0aSCRAM-SHA-256"),
        SASL + OK + REST,  # a server that believes anybody, halfway through
        SASL + SASL,
        SASL + wire.cleartext(),  # an attempt to get the password in clear after all
        SASL + wire.md5(b"salt"),
        SASL + wire.sasl_final(b"v="),
        SASL + wire.sasl_continue(b""),
        SASL + wire.sasl_continue(b"r=abc,s=AAAA,i=1"),
        SASL + READY,
        *(
            before + kind + length.to_bytes(4)
            for before in (b"", wire.cleartext(), OK)
            for kind in (b"R", b"E", b"N", b"S", b"Z")
            for length in (0, 3, 0x7FFF_FFFF, 0x8000_0000, 0x8000_0001, 0xFFFF_FFFF)
        ),
    ],
)
def test_a_violation(said: bytes) -> None:
    assert isinstance(refusal(said), ProtocolViolation)


def scram_until_final(last: bytes, *, iterations: int = 16, nonce_tail: bytes = b"server") -> Outcome[BackendGreeting]:
    """A server that plays SCRAM along and then says `last` instead of its proof."""

    def play() -> Dialogue[None]:
        yield Send(SASL)
        message = yield from receive(b"p")
        nonce = wire.parse_sasl_initial_response(message.body)[1] or b""
        nonce = nonce.rpartition(b"r=")[2] + nonce_tail
        yield Send(wire.sasl_continue(b"r=%b,s=%b,i=%d" % (nonce, base64.b64encode(SALT), iterations)))
        yield from receive(b"p")
        yield Send(last)

    pair = Pair(log_in(STARTUP, PASSWORD), play())
    pair.left.take_output()
    return pair.run()[0]


@pytest.mark.parametrize(
    "last",
    [
        OK + REST,  # no proof at all
        wire.sasl_final(b"v=" + base64.b64encode(bytes(32))) + OK + REST,
        wire.sasl_final(b"") + OK + REST,
        wire.sasl_final(b"e=other-error") + OK + REST,
        wire.sasl_final(b"v=" + b"A" * 60_000) + OK + REST,
        wire.sasl_continue(b"") + OK + REST,
        SASL,
        READY,
    ],
)
def test_a_server_that_does_not_know_the_password(last: bytes) -> None:
    assert isinstance(scram_until_final(last).error, ProtocolViolation)


def test_a_refusal_in_place_of_the_proof() -> None:
    assert isinstance(scram_until_final(error_response(FIELDS)).error, BackendRefused)


@pytest.mark.parametrize("iterations", [1_000_001, 2_147_483_647, 2_147_483_648, 2**32 + 1, 10**100])
def test_an_absurd_iteration_count_is_not_computed(iterations: int) -> None:
    started = time.monotonic()
    assert isinstance(scram_until_final(OK, iterations=iterations).error, ProtocolViolation)
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("length", [0, 600, 4096, 65_000])
def test_a_nonce_of_impossible_length(length: int) -> None:
    assert isinstance(scram_until_final(OK, nonce_tail=b"x" * length).error, ProtocolViolation)


def test_channel_binding_that_is_required_cannot_be_talked_away() -> None:
    for said in (OK + REST, wire.cleartext(), wire.md5(b"salt"), SASL):
        error = refusal(said, bindings=BINDINGS, channel_binding="require")
        assert isinstance(error, ProtocolViolation)
        assert "channel binding is required" in str(error)
    error = refusal(wire.sasl([MECHANISM_PLUS, MECHANISM]), channel_binding="require")
    assert isinstance(error, ProtocolViolation)


# Servers that never end.


def spoken(stream: Iterator[bytes]) -> tuple[Outcome[BackendGreeting], int]:
    """Feed an endless stream; how log_in ends and how many bytes that took."""
    runner = Runner(log_in(STARTUP, PASSWORD))
    taken = 0
    for piece in stream:
        runner.feed(piece)
        taken += len(piece)
        if runner.done:
            break
        assert taken < 8 * MAX_BYTES, "it reads on and on"
    try:
        return Outcome(runner.result()), taken
    except PgDoormanError as error:
        return Outcome(error=error), taken


@pytest.mark.parametrize(
    ("before", "again"),
    [
        (b"", frame("N", b"SNOTICE\0\0")),
        (b"", frame("N", b"M" + b"x" * 60_000)),
        (OK, frame("N", b"\0")),
        (OK, frame("S", b"a\0b\0")),
        (OK, frame("S", b"a\0" + b"b" * 60_000 + b"\0")),
        (SASL, frame("N", b"\0")),
        (wire.cleartext(), frame("N", b"\0")),
    ],
)
def test_a_server_that_never_gets_ready(before: bytes, again: bytes) -> None:
    started = time.monotonic()
    outcome, _ = spoken(chain([before], repeat(again)))
    assert isinstance(outcome.error, ProtocolViolation)
    assert "says too much" in str(outcome.error)
    assert time.monotonic() - started < 5


def test_as_much_as_is_admitted() -> None:
    parameters = islice(repeat(frame("S", b"a\0b\0")), MAX_MESSAGES - 2)
    outcome, _ = spoken(chain([OK], parameters, [READY]))
    assert len(outcome.get().parameters) == MAX_MESSAGES - 2


# Damage.

GOOD_STREAMS = [
    OK + REST,
    wire.cleartext() + OK + REST,
    wire.md5(b"salt") + OK + REST,
    SASL + wire.sasl_continue(b"r=x,s=AAAA,i=1") + wire.sasl_final(b"v=AAAA") + OK + REST,
    negotiate_protocol_version(codes.PROTOCOL_3_0, ["_pq_.x"]) + OK + REST,
    error_response(FIELDS),
]


@given(st.sampled_from(GOOD_STREAMS), st.data())
@settings(max_examples=400)
def test_a_damaged_stream_brings_nothing_but_clean_errors(stream: bytes, data: st.DataObject) -> None:
    damaged = bytearray(stream)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged)))
        match data.draw(st.sampled_from(["set", "insert", "delete", "cut"])):
            case "set" if at < len(damaged):
                damaged[at] = data.draw(st.integers(0, 255))
            case "insert":
                damaged[at:at] = data.draw(st.binary(max_size=12))
            case "delete":
                del damaged[at : at + data.draw(st.integers(1, 8))]
            case "cut":
                del damaged[at:]
    started = time.monotonic()
    outcome = drive(log_in(STARTUP_3_2, PASSWORD), bytes(damaged))
    assert outcome.error is None or isinstance(outcome.error, ProtocolViolation | BackendRefused | CredentialsMissing)
    assert time.monotonic() - started < 2


@given(st.binary(max_size=300))
@example(b"")
def test_bytes_from_anywhere(stream: bytes) -> None:
    outcome = drive(log_in(STARTUP, PASSWORD), stream)
    assert outcome.error is None or isinstance(outcome.error, ProtocolViolation | BackendRefused | CredentialsMissing)


def test_every_prefix_of_a_good_stream_just_waits() -> None:
    stream = OK + REST
    for length in range(len(stream)):
        outcome = drive(log_in(STARTUP, PASSWORD), stream[:length])
        assert outcome == Outcome()
    assert drive(log_in(STARTUP, PASSWORD), stream).value is not None


def test_the_proof_goes_out_before_the_answer_is_waited_for() -> None:
    sink: list[bytes] = []
    with pytest.raises(ProtocolViolation):
        run_script(
            log_in(STARTUP, PASSWORD),
            sends(STARTUP),
            receives("R", SASL[5:]),
            sends_into(sink),
            receives(
                "R",
                lambda: b"\0\0\0\x0br=" + sink[0].rpartition(b"r=")[2] + b"S,s=" + base64.b64encode(SALT) + b",i=16",
            ),
            works(),
            sends_into(sink),
            receives("R", b"\0\0\0\x0cv=AAAA"),
        )
    assert b"c=biws,r=" in sink[1]

"""SCRAM: the RFC's example, our client against our server, and every way to get a message wrong."""

import base64
import time
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgdoorman.auth.scram import (
    MECHANISM,
    MECHANISM_PLUS,
    NO_BINDINGS,
    ClientExchange,
    MadeVerifiers,
    Proof,
    ServerExchange,
    offered_mechanisms,
)
from pgdoorman.auth.secrets import MAX_ITERATIONS, ScramKeys, build_scram_secret, derive_keys, verifier_of
from pgdoorman.errors import AuthorizationDenied, ProtocolViolation

SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
BINDINGS = {"tls-server-end-point": b"e" * 32, "tls-exporter": b"x" * 32}
KEYS = derive_keys(b"pencil", SALT, 4096)
VERIFIER = verifier_of(KEYS)


def serve(
    mechanism: str = MECHANISM, bindings: Mapping[str, bytes] = NO_BINDINGS, nonce: bytes = b"server"
) -> ServerExchange:
    return ServerExchange(mechanism, bindings, nonce=nonce)


def meet(client: ClientExchange, server: ServerExchange, keys: ScramKeys = KEYS) -> ScramKeys | None:
    """A whole exchange against VERIFIER; what the server learns, None if the proof does not fit."""
    challenge = client.challenge(server.first(client.first(), SALT, 4096))
    assert (challenge.salt, challenge.iterations) == (SALT, 4096)
    claim = server.final(client.final(keys))
    learnt = server.judge(claim, VERIFIER)
    if learnt is not None:
        client.check(server.last(claim, VERIFIER))
    return learnt


# RFC 7677, section 3.

RFC_CLIENT_FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
RFC_SERVER_FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
RFC_CLIENT_FINAL = (
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)
RFC_SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def test_the_rfc_example_as_server() -> None:
    server = serve(nonce=b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
    assert server.first(RFC_CLIENT_FIRST, SALT, 4096) == RFC_SERVER_FIRST
    claim = server.final(RFC_CLIENT_FINAL)
    assert server.judge(claim, VERIFIER) == KEYS
    assert server.last(claim, VERIFIER) == RFC_SERVER_FINAL


def test_the_rfc_example_as_client() -> None:
    client = ClientExchange(nonce=b"rOprNGfwEbeRWgbNEkqO")
    client._first_bare = b"n=user,r=rOprNGfwEbeRWgbNEkqO"  # we send no name, the example does
    assert client.first() == RFC_CLIENT_FIRST
    assert client.challenge(RFC_SERVER_FIRST).iterations == 4096
    assert client.final(KEYS) == RFC_CLIENT_FINAL
    client.check(RFC_SERVER_FINAL)


# Pairs.


def test_the_server_learns_the_clients_key() -> None:
    assert meet(ClientExchange(), serve()) == KEYS


def test_keys_that_were_learnt_log_in_again() -> None:
    learnt = meet(ClientExchange(), serve())
    assert learnt is not None
    assert meet(ClientExchange(), serve(), learnt) == KEYS


def test_a_wrong_password_is_not_believed() -> None:
    assert meet(ClientExchange(), serve(), derive_keys(b"pencil2", SALT, 4096)) is None


def test_a_stored_verifier_is_not_enough_to_log_in() -> None:
    stolen = ScramKeys(4096, SALT, VERIFIER.stored_key, VERIFIER.server_key)
    assert meet(ClientExchange(), serve(), stolen) is None


@pytest.mark.parametrize("kind", list(BINDINGS))
def test_channel_binding(kind: str) -> None:
    assert meet(ClientExchange(kind, BINDINGS[kind]), serve(MECHANISM_PLUS, BINDINGS)) == KEYS


def test_another_tls_connection_is_noticed() -> None:
    server = serve(MECHANISM_PLUS, BINDINGS)
    client = ClientExchange("tls-server-end-point", b"m" * 32)
    client.challenge(server.first(client.first(), SALT, 4096))
    with pytest.raises(AuthorizationDenied, match="channel binding check failed"):
        server.final(client.final(KEYS))


def test_a_type_of_binding_that_we_do_not_have() -> None:
    with pytest.raises(ProtocolViolation, match='unsupported SCRAM channel-binding type "tls-unique"'):
        serve(MECHANISM_PLUS, BINDINGS).first(b"p=tls-unique,,n=,r=abc", SALT, 1)


def test_a_hidden_offer_of_channel_binding_is_noticed() -> None:
    """The client could have bound but was told that we cannot: somebody cut our offer."""
    with pytest.raises(AuthorizationDenied, match="negotiation error"):
        serve(MECHANISM, BINDINGS).first(ClientExchange("y").first(), SALT, 4096)
    assert meet(ClientExchange("y"), serve()) == KEYS


def test_a_client_that_changes_its_mind_about_binding() -> None:
    server = serve()
    server.first(b"n,,n=,r=abc", SALT, 4096)
    with pytest.raises(ProtocolViolation, match="unexpected channel-binding attribute"):
        server.final(b"c=eSws,r=abcserver,p=" + base64.b64encode(bytes(32)))


@pytest.mark.parametrize(
    ("mechanism", "bindings"), [(MECHANISM_PLUS, {}), ("", {}), ("SCRAM-SHA-1", BINDINGS), ("scram-sha-256", {})]
)
def test_a_mechanism_that_was_not_offered(mechanism: str, bindings: Mapping[str, bytes]) -> None:
    with pytest.raises(ProtocolViolation, match="invalid SASL authentication mechanism"):
        serve(mechanism, bindings)


def test_offers() -> None:
    assert offered_mechanisms({}) == (MECHANISM,)
    assert offered_mechanisms(BINDINGS) == (MECHANISM_PLUS, MECHANISM)


@given(st.binary(min_size=1, max_size=64), st.integers(1, 50), st.binary(min_size=1, max_size=32))
@settings(max_examples=50)
def test_any_password_salt_and_count(password: bytes, iterations: int, salt: bytes) -> None:
    secret = build_scram_secret(password, iterations, salt)
    client, server = ClientExchange(), serve()
    challenge = client.challenge(server.first(client.first(), salt, iterations))
    claim = server.final(client.final(derive_keys(password, challenge.salt, challenge.iterations)))
    assert server.judge(claim, secret) is not None
    client.check(server.last(claim, secret))


# What a client may not say.

PROOF = b"p=" + base64.b64encode(bytes(32))


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"n",
        b"n,",
        b"n,,",
        b"n,,n=",
        b"n,,n=,r=",
        b"n,,r=abc",
        b"n,,r=abc,n=",
        b"n,,n=,n=,r=abc",
        b"n,,n=,r=abc,r=abc",
        b"n,,n=,r=abc,",
        b"n,,n=,r=abc,x",
        b"n,,n=,r=abc,1=x",
        b"n,,n=,r=abc,p=x",
        b"n,,n=,r=abc,n=x",
        b"n,,n=,r=abc,x=1,x=2",
        b"n,,m=ext,n=,r=abc",
        b"n,a=bob,n=,r=abc",
        b"n,,n=,r=a\x7fc",
        b"n,,n=,r=a c",
        b"n,,n=,r=\xff",
        b"n,,n=\0,r=abc",
        b"n,,n=,r=" + b"x" * 513,
        b"n,,n=,r=abc,x=" + b"x" * 1024,
        b"z,,n=,r=abc",
        b"N,,n=,r=abc",
        b",,n=,r=abc",
        b"p=tls-server-end-point,,n=,r=abc",
        b"p=,,n=,r=abc",
        b"\0",
        b"n=,r=abc",
    ],
)
def test_first_messages_that_are_refused(message: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        serve().first(message, SALT, 4096)


@pytest.mark.parametrize("message", [b"n,,n=,r=abc", b"y,,n=,r=abc", b"p=tls-server-end-point\0,,n=,r=abc"])
def test_plus_without_binding_data_is_refused(message: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        serve(MECHANISM_PLUS, BINDINGS).first(message, SALT, 4096)


def test_a_name_and_extensions_are_ignored() -> None:
    assert serve().first(b"n,,n=somebody=2Celse,r=abc,x=1,y=2", SALT, 4096).startswith(b"r=abcserver,")


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"c=biws",
        b"c=biws,r=abcserver",
        b"c=biws," + PROOF,  # no nonce
        b"r=abcserver," + PROOF,
        PROOF,
        b"r=abcserver,c=biws," + PROOF,
        b"c=biws,r=abcserver,r=abcserver," + PROOF,
        b"c=biws,c=biws,r=abcserver," + PROOF,
        b"c=biws,r=abcserver," + PROOF + b"," + PROOF,
        b"c=biws,r=abcserver," + PROOF + b",x=1",
        b"c=biws,r=abcserver," + PROOF + b",",
        b"c=biws,r=abcserver,x," + PROOF,
        b"c=biws,r=abcserver,i=1," + PROOF,
        b"c=biws,r=," + PROOF,
        b"c=biws,r=abcserve," + PROOF,
        b"c=biws,r=abcserver2," + PROOF,
        b"c=biws,r=ABCserver," + PROOF,
        b"c=,r=abcserver," + PROOF,
        b"c=eSws,r=abcserver," + PROOF,
        b"c=bi ws,r=abcserver," + PROOF,
        b"c=biws=,r=abcserver," + PROOF,
        b"c=biws,r=abcserver,p=",
        b"c=biws,r=abcserver,p=AAAA",
        b"c=biws,r=abcserver," + PROOF[:-1],
        b"c=biws,r=abcserver,p=" + base64.b64encode(bytes(33)),
        b"c=biws,r=abcserver,p=\xff",
        b"c=biws,r=abcserver,p=" + b"A" * 42 + b"B=",  # bits behind the last byte
        b"c=biws\0,r=abcserver," + PROOF,
        b"c=biws,r=abcserver,x=" + b"x" * 1024 + b"," + PROOF,
    ],
)
def test_last_messages_that_are_refused(message: bytes) -> None:
    server = serve()
    server.first(b"n,,n=,r=abc", SALT, 4096)
    with pytest.raises(ProtocolViolation):
        server.final(message)


def test_extensions_in_the_last_message_are_signed_along() -> None:
    server = serve()
    server.first(b"n,,n=,r=abc", SALT, 4096)
    claim = server.final(b"c=biws,r=abcserver,x=,p=" + base64.b64encode(bytes(32)))
    assert claim.auth_message.endswith(b",c=biws,r=abcserver,x=")


# What a server may not say.


def challenged(message: bytes) -> int:
    return ClientExchange(nonce=b"abc").challenge(message).iterations


@pytest.mark.parametrize("count", [1, 4096, MAX_ITERATIONS])
def test_iteration_counts_that_are_admitted(count: int) -> None:
    assert challenged(b"r=abcdef,s=AAAA,i=%d" % count) == count


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"r=abcdef",
        b"r=abcdef,s=AAAA",
        b"s=AAAA,i=1",
        b"r=abcdef,i=1",
        b"s=AAAA,r=abcdef,i=1",
        b"r=abcdef,s=AAAA,i=1,x=1",
        b"r=abcdef,s=AAAA,i=1,",
        b"r=abcdef,r=abcdef,s=AAAA,i=1",
        b"m=x,r=abcdef,s=AAAA,i=1",
        b"r=abc,s=AAAA,i=1",  # the server added nothing
        b"r=ab,s=AAAA,i=1",
        b"r=xabcdef,s=AAAA,i=1",
        b"r=abc" + b"x" * 510 + b",s=AAAA,i=1",
        b"r=abc" + b"x" * 65_536 + b",s=AAAA,i=1",
        b"r=abc\0,s=AAAA,i=1",
        b"r=abcdef,s=,i=1",
        b"r=abcdef,s=A,i=1",
        b"r=abcdef,s=AA A,i=1",
        b"r=abcdef,s=" + base64.b64encode(bytes(513)) + b",i=1",
        b"r=abcdef,s=AAAA,i=",
        b"r=abcdef,s=AAAA,i=0",
        b"r=abcdef,s=AAAA,i=-1",
        b"r=abcdef,s=AAAA,i=+1",
        b"r=abcdef,s=AAAA,i=1e3",
        b"r=abcdef,s=AAAA,i= 1",
        b"r=abcdef,s=AAAA,i=01",
        b"r=abcdef,s=AAAA,i=%d" % (MAX_ITERATIONS + 1),
        b"r=abcdef,s=AAAA,i=2147483648",
        b"r=abcdef,s=AAAA,i=4294967297",
        b"r=abcdef,s=AAAA,i=" + b"9" * 4000,
    ],
)
def test_challenges_that_are_refused_without_computing(message: bytes) -> None:
    started = time.monotonic()
    with pytest.raises(ProtocolViolation):
        challenged(message)
    assert time.monotonic() - started < 1


def test_the_cap_is_ours_to_choose() -> None:
    with pytest.raises(ProtocolViolation, match="more than the 10 allowed"):
        ClientExchange(max_iterations=10, nonce=b"abc").challenge(b"r=abcdef,s=AAAA,i=11")


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"v=",
        b"v=AAAA",
        b"v=" + base64.b64encode(bytes(32)),
        b"v=" + base64.b64encode(bytes(31)),
        b"x=1",
        RFC_SERVER_FINAL + b",x=1",
        RFC_SERVER_FINAL + b",",
        RFC_SERVER_FINAL + b"," + RFC_SERVER_FINAL,
        b"e=invalid-proof",
        b"e=" + b"\xff" * 4000,
        b"v=" + b"A" * 65_536,
    ],
)
def test_a_server_that_does_not_prove_itself(message: bytes) -> None:
    client = ClientExchange(nonce=b"rOprNGfwEbeRWgbNEkqO")
    client.challenge(RFC_SERVER_FIRST)
    client.final(KEYS)
    with pytest.raises(ProtocolViolation):
        client.check(message)


def test_a_signature_before_our_proof_is_not_one() -> None:
    with pytest.raises(ProtocolViolation):
        ClientExchange().check(RFC_SERVER_FINAL)


# Drop, repeat, reorder, damage.


def mangled(message: bytes, data: st.DataObject) -> bytes:
    parts = message.split(b",")
    action = data.draw(st.sampled_from(["drop", "repeat", "swap", "insert", "cut", "flip"]))
    at, other = (data.draw(st.integers(0, len(parts) - 1)) for _ in range(2))
    match action:
        case "drop":
            del parts[at]
        case "repeat":
            parts.insert(other, parts[at])
        case "swap":
            parts[at], parts[other] = parts[other], parts[at]
        case "insert":
            parts.insert(at, data.draw(st.binary(max_size=8)))
        case "cut":
            parts[at] = parts[at][: data.draw(st.integers(0, len(parts[at])))]
        case "flip":
            parts[at] = bytes(byte ^ data.draw(st.integers(0, 255)) for byte in parts[at])
    return b",".join(parts)


@given(st.data(), st.sampled_from(["n", "y", "tls-server-end-point"]))
def test_a_mangled_client_gets_no_further_than_its_proof(data: st.DataObject, flag: str) -> None:
    bindings = BINDINGS if flag.startswith("tls") else NO_BINDINGS
    server = serve(MECHANISM_PLUS if bindings else MECHANISM, bindings)
    client = ClientExchange(flag, bindings.get(flag, b""), nonce=b"abc")
    try:
        client.challenge(server.first(mangled(client.first(), data), SALT, 4096))
        claim = server.final(mangled(client.final(KEYS), data))
    except (ProtocolViolation, AuthorizationDenied):
        return
    assert isinstance(claim, Proof)
    server.judge(claim, VERIFIER)


@given(st.data())
def test_a_mangled_server_is_believed_only_if_nothing_was_changed(data: st.DataObject) -> None:
    client, server = ClientExchange(nonce=b"abc"), serve()
    server_first = server.first(client.first(), SALT, 4096)
    first = mangled(server_first, data) if data.draw(st.booleans()) else server_first
    try:
        client.challenge(first)
        claim = server.final(client.final(KEYS))
        last = server.last(claim, VERIFIER)
        final = mangled(last, data)
        client.check(final)
    except ProtocolViolation:
        return
    assert (first, final) == (server_first, last)


@given(st.binary(max_size=200))
def test_bytes_from_anywhere_raise_nothing_else(message: bytes) -> None:
    client = ClientExchange(nonce=b"abc")
    for take in (
        lambda: serve().first(message, SALT, 1),
        lambda: client.challenge(message),
        lambda: client.check(message),
    ):
        with pytest.raises((ProtocolViolation, AuthorizationDenied)):
            take()


# What this process makes up.


def test_a_made_up_salt_is_the_same_for_a_name_and_differs_between_processes() -> None:
    made, other = MadeVerifiers(), MadeVerifiers()
    assert made.salt_for("alice") == made.salt_for("alice")
    assert len(made.salt_for("alice")) == 16
    assert made.salt_for("alice") != made.salt_for("bob")
    assert made.salt_for("alice") != other.salt_for("alice")


def test_a_derived_verifier_shows_the_salt_that_the_name_would_have_anyway() -> None:
    made = MadeVerifiers(iterations=1)
    assert made.derive("alice", b"pw").salt == made.pretended("alice").salt


def test_derived_verifiers_are_remembered_up_to_a_limit() -> None:
    made = MadeVerifiers(iterations=1, limit=2)
    secrets = {user: made.derive(user, b"pw") for user in ("a", "b")}
    assert made.remembered("a", b"pw") == secrets["a"]
    assert made.remembered("a", b"other") is None
    made.derive("c", b"pw")
    assert made.remembered("b", b"pw") is None
    assert made.remembered("a", b"pw") == secrets["a"]


def test_nothing_fits_a_pretended_verifier() -> None:
    made = MadeVerifiers(iterations=1)
    assert ServerExchange.judge(Proof(b"x", bytes(32)), made.pretended("u")) is None

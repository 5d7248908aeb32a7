"""The log-in of clients: every method against every stored secret, and what clients do that they should not."""

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from pgdoorman.auth import client_login
from pgdoorman.auth.backend_login import BackendCredentials, BackendGreeting, LoginPolicy, log_in
from pgdoorman.auth.client_login import (
    ClientCertificate,
    ClientIdentity,
    LoginAttempt,
    LoginDenied,
    LoginKnobs,
    LoginRefused,
    TlsFacts,
    UsualSecret,
    authenticate,
    usual_secret,
)
from pgdoorman.auth.hba import HbaRules, parse_hba, rules_from_networks
from pgdoorman.auth.ident import parse_ident
from pgdoorman.auth.md5 import md5_digest
from pgdoorman.auth.pam import PamQuestion, pam_refusal
from pgdoorman.auth.scram import MadeVerifiers
from pgdoorman.auth.secrets import (
    Md5Secret,
    NoSecret,
    PamSecret,
    PlainSecret,
    ScramKeys,
    ScramSecret,
    StoredSecret,
    TokenKeySecret,
    derive_keys,
    verifier_of,
)
from pgdoorman.errors import AuthorizationDenied, PgDoormanError, ProtocolViolation
from pgdoorman.protocol import authentication as wire
from pgdoorman.protocol.dialogue import Dialogue, FindSecret, Runner, Send
from pgdoorman.protocol.startup import Replication, startup_message
from tests.support.script import Outcome, Pair, drive, finds, receives, run_script, sends, sends_into, works

PASSWORD = b"pencil"
KEYS = derive_keys(PASSWORD, b"0123456789abcdef", 4096)
BINDINGS = {"tls-server-end-point": b"e" * 32}
STARTUP = startup_message({"user": "alice"})
READY = b"S\0\0\0\x08a\0b\0K\0\0\0\x0c\0\0\0\x07keysZ\0\0\0\x05I"

SECRETS: dict[str, StoredSecret | None] = {
    "nobody": None,
    "none": NoSecret(),
    "plain": PlainSecret(PASSWORD),
    "md5": Md5Secret(md5_digest("alice", PASSWORD)),
    "scram": verifier_of(KEYS),
}


def always(secret: StoredSecret | None) -> Callable[[FindSecret], StoredSecret | None]:
    """Whoever is asked for, and however often."""
    return lambda _: secret


def attempt(
    method: str = "scram-sha-256", *, tls: TlsFacts | None = None, rules: HbaRules | None = None, iterations: int = 16
) -> LoginAttempt:
    """alice from 10.0.0.1, met by a rule of this method. Few iterations: what is tested here is not PBKDF2."""
    kind = "hostssl" if tls else "host"
    return LoginAttempt(
        user="alice",
        database="shop",
        address="10.0.0.1",
        rules=rules or parse_hba(f"{kind} all all all {method}"),
        knobs=LoginKnobs(MadeVerifiers(iterations)),
        tls=tls,
    )


def admit(login: LoginAttempt) -> Dialogue[ClientIdentity]:
    """What a server does: authenticate, and go on."""
    identity = yield from authenticate(login)
    yield Send(wire.ok() + READY)
    return identity


def meet(
    login: LoginAttempt,
    secret: StoredSecret | None,
    password: bytes = PASSWORD,
    policy: LoginPolicy | None = None,
) -> tuple[Outcome[ClientIdentity], Pair[ClientIdentity, BackendGreeting]]:
    """Our client, with this password, at our server."""
    pair = Pair(
        admit(login),
        log_in(STARTUP, BackendCredentials("alice", password=password), policy or LoginPolicy()),
        find=always(secret),
    )
    # The first thing that the client says is its start-up packet, which is not authenticate's to read.
    assert pair.right.take_output() == STARTUP
    return pair.run()[0], pair


# Every method, every secret.

CONVERSATIONS = {
    ("password", "plain"): "password",
    ("password", "md5"): "password",
    ("password", "scram"): "password",
    ("md5", "plain"): "md5",
    ("md5", "md5"): "md5",
    ("md5", "scram"): "scram-sha-256",
    ("scram-sha-256", "plain"): "scram-sha-256",
    ("scram-sha-256", "scram"): "scram-sha-256",
    ("as stored", "plain"): "scram-sha-256",
    ("as stored", "md5"): "md5",
    ("as stored", "scram"): "scram-sha-256",
}


def by_method(method: str) -> LoginAttempt:
    return attempt(rules=rules_from_networks([])) if method == "as stored" else attempt(method)


@pytest.mark.parametrize(("method", "kind"), list(product(["password", "md5", "scram-sha-256", "as stored"], SECRETS)))
def test_right_and_wrong_passwords(method: str, kind: str) -> None:
    outcome, _ = meet(by_method(method), SECRETS[kind])
    if (method, kind) in CONVERSATIONS:
        assert outcome.get().method == CONVERSATIONS[method, kind]
        assert outcome.get().user == "alice"
    else:
        assert isinstance(outcome.error, LoginRefused)
    for wrong in (b"pencil2", b"PENCIL", b"penci", b"x" * 65_535, bytes(range(1, 256))):
        outcome, _ = meet(by_method(method), SECRETS[kind], wrong)
        assert isinstance(outcome.error, LoginRefused), wrong
        assert str(outcome.error) == 'password authentication failed for user "alice"'


@pytest.mark.parametrize("method", ["password", "md5", "scram-sha-256"])
@pytest.mark.parametrize("kind", ["plain", "scram", "md5"])
@pytest.mark.parametrize("length", [1, 63, 64, 1023, 1024, 1025, 4096, 65_535])
def test_passwords_of_every_length(method: str, kind: str, length: int) -> None:
    if (method, kind) not in CONVERSATIONS:
        return
    password = b"p" * length
    keys = derive_keys(password, b"salt", 16)
    secrets: dict[str, StoredSecret] = {
        "plain": PlainSecret(password),
        "scram": verifier_of(keys),
        "md5": Md5Secret(md5_digest("alice", password)),
    }
    outcome, _ = meet(attempt(method), secrets[kind], password)
    assert outcome.get().user == "alice"


def test_every_message_in_pieces() -> None:
    pair = Pair(
        admit(attempt()),
        log_in(STARTUP, BackendCredentials("alice", password=PASSWORD)),
        find=always(SECRETS["scram"]),
        byte_by_byte=True,
    )
    pair.right.take_output()
    identity, greeting = pair.run()
    assert identity.get().method == greeting.get().method == "scram-sha-256"


@pytest.mark.parametrize("kind", ["plain", "scram"])
def test_channel_binding(kind: str) -> None:
    outcome, pair = meet(
        attempt(tls=TlsFacts(BINDINGS)), SECRETS[kind], policy=LoginPolicy(BINDINGS, channel_binding="require")
    )
    assert outcome.get().method == "scram-sha-256-plus"
    assert pair.right.result().method == "scram-sha-256-plus"


def test_somebody_in_the_middle_of_two_tls_connections() -> None:
    outcome, _ = meet(
        attempt(tls=TlsFacts(BINDINGS)), SECRETS["scram"], policy=LoginPolicy({"tls-server-end-point": b"m" * 32})
    )
    assert isinstance(outcome.error, AuthorizationDenied)


def test_tls_without_binding_data_offers_no_plus() -> None:
    outcome, _ = meet(attempt(tls=TlsFacts()), SECRETS["scram"], policy=LoginPolicy(BINDINGS))
    assert outcome.get().method == "scram-sha-256"


def test_a_derived_verifier_is_derived_once() -> None:
    login = attempt()
    _, first = meet(login, SECRETS["plain"])
    _, second = meet(login, SECRETS["plain"])
    assert (first.offloads[0], second.offloads[0]) == (1, 0)


# What is learnt.


def test_keys_are_learnt_from_a_stored_verifier_only() -> None:
    assert meet(attempt(), SECRETS["scram"])[0].get().scram_keys == KEYS
    assert meet(attempt(), SECRETS["plain"])[0].get().scram_keys is None
    assert meet(attempt("password"), SECRETS["scram"])[0].get().password == PASSWORD
    assert meet(attempt("md5"), SECRETS["md5"])[0].get().password is None


def test_keys_that_were_learnt_open_a_server_with_the_same_verifier() -> None:
    keys = meet(attempt(), SECRETS["scram"])[0].get().scram_keys
    assert keys is not None
    pair = Pair(
        admit(attempt()),
        log_in(STARTUP, BackendCredentials("alice", scram_keys=keys)),
        find=always(SECRETS["scram"]),
    )
    pair.right.take_output()
    identity, greeting = pair.run()
    assert identity.get().scram_keys == KEYS
    assert greeting.get().method == "scram-sha-256"
    assert pair.offloads == [0, 0]


def test_an_identity_shows_no_secret() -> None:
    for method, kind in CONVERSATIONS:
        shown = repr(meet(by_method(method), SECRETS[kind])[0].get())
        assert "pencil" not in shown
        assert "0123456789abcdef" not in shown
        assert repr(KEYS.client_key) not in shown


# Nobody learns who exists.


def shape(pair: Pair[ClientIdentity, BackendGreeting]) -> list[tuple[bytes, int]]:
    """What a client saw, as types and lengths."""
    return [(data[:9], len(data)) for data in pair.heard[1]]


@pytest.mark.parametrize(
    ("method", "kinds"),
    [
        ("password", ["nobody", "none", "plain", "md5", "scram"]),
        ("scram-sha-256", ["nobody", "none", "plain", "md5", "scram"]),
        ("md5", ["nobody", "none", "scram"]),  # by default a user that does not exist is taken for one with SCRAM
    ],
)
def test_a_wrong_password_looks_the_same_for_everybody(method: str, kinds: list[str]) -> None:
    seen = {}
    for kind in kinds:
        login = attempt(method, iterations=4096)
        for _ in range(2):
            outcome, pair = meet(login, SECRETS[kind], b"wrong")
            assert isinstance(outcome.error, LoginRefused)
            # One derivation each, whatever was stored and whatever is remembered.
            assert pair.offloads[0] == 1, kind
        seen[kind] = repr((shape(pair), outcome.error))
    assert len(set(seen.values())) == 1, seen


def test_the_salt_of_a_user_that_does_not_exist_stays_the_same() -> None:
    login = attempt()
    salts = {meet(login, secret, b"wrong")[1].heard[1][1].partition(b",s=")[2] for secret in (None, SECRETS["plain"])}
    assert len(salts) == 1
    other = meet(replace(login, user="bob"), None, b"wrong")[1].heard[1][1].partition(b",s=")[2]
    assert other not in salts


def test_an_unknown_user_on_an_md5_line_may_be_taken_for_an_md5_user() -> None:
    login = attempt("md5")
    login = replace(login, knobs=replace(login.knobs, unknown_users=(("md5", 1),)))
    _, unknown = meet(login, None)
    _, known = meet(login, SECRETS["md5"], b"wrong")
    assert shape(unknown) == shape(known)


def test_the_reason_is_for_the_log_only() -> None:
    reasons = {}
    for kind, secret in SECRETS.items():
        error = meet(attempt(), secret, b"wrong")[0].error
        assert isinstance(error, LoginRefused)
        assert error.reason not in error.message + error.detail + error.hint
        reasons[kind] = error.reason
    assert reasons == {
        "nobody": "no such user",
        "none": "the user has no password, or an expired one",
        "plain": "wrong password",
        "md5": "the user has an md5 hash, which cannot be used for SCRAM",
        "scram": "wrong password",
    }


# A password that changed behind a cache.


def cached(old: StoredSecret | None, new: StoredSecret | None) -> Callable[[FindSecret], StoredSecret | None]:
    return lambda asked: new if asked.stale else old


@pytest.mark.parametrize(
    ("method", "old", "new", "admitted"),
    [
        ("password", PlainSecret(b"old"), SECRETS["plain"], True),
        ("password", PlainSecret(b"old"), SECRETS["scram"], True),
        ("password", None, SECRETS["md5"], True),
        ("password", PlainSecret(b"old"), None, False),
        ("md5", PlainSecret(b"old"), SECRETS["md5"], True),
        ("md5", Md5Secret("0" * 32), SECRETS["plain"], True),
        ("md5", Md5Secret("0" * 32), SECRETS["scram"], False),
        ("scram-sha-256", PlainSecret(b"old"), SECRETS["scram"], False),  # the salt was another; the next one works
    ],
)
def test_the_same_proof_is_judged_again_by_a_newer_secret(
    method: str, old: StoredSecret | None, new: StoredSecret | None, admitted: bool
) -> None:
    pair = Pair(
        admit(attempt(method)), log_in(STARTUP, BackendCredentials("alice", password=PASSWORD)), find=cached(old, new)
    )
    pair.right.take_output()
    outcome = pair.run()[0]
    assert (outcome.value is not None) is admitted
    assert admitted or isinstance(outcome.error, LoginRefused)


def test_what_fits_is_not_looked_up_again() -> None:
    run_script(
        authenticate(attempt("password")),
        finds(SECRETS["plain"], user="alice"),
        sends(wire.cleartext()),
        receives("p", b"pencil\0"),
    )


def test_a_newer_secret_is_asked_for_once() -> None:
    with pytest.raises(LoginRefused):
        run_script(
            authenticate(attempt("password")),
            finds(SECRETS["plain"]),
            sends(wire.cleartext()),
            receives("p", b"wrong\0"),
            finds(SECRETS["plain"], stale=True),
            works(),
        )


# Verifiers that a role may have set itself.


@pytest.mark.parametrize("method", ["password", "md5", "scram-sha-256"])
def test_an_absurd_iteration_count_costs_us_nothing(method: str) -> None:
    keys = ScramKeys(900_000_000, b"salt", KEYS.client_key, KEYS.server_key)
    started = time.monotonic()
    pair = Pair(
        admit(attempt(method)),
        log_in(STARTUP, BackendCredentials("alice", password=PASSWORD)),
        find=always(verifier_of(keys)),
    )
    pair.right.take_output()
    outcome, client = pair.run()
    assert time.monotonic() - started < 2
    # Either we refuse, or (by SCRAM) it is the client that will not compute so long.
    assert isinstance(outcome.error, LoginRefused) or isinstance(client.error, ProtocolViolation)


# Rules.


def test_no_line_and_a_reject_line_refuse_alike() -> None:
    for rules in (HbaRules(()), parse_hba("host all all all reject")):
        with pytest.raises(LoginDenied) as caught:
            run_script(authenticate(attempt(rules=rules)))
        assert caught.value.sqlstate == "28000"
        assert str(caught.value) == (
            "Connection from 10.0.0.1 to alice@shop (TLS: false) is not permitted by HBA configuration. "
            "Please contact your database administrator."
        )


def test_the_first_line_decides_even_if_it_fails() -> None:
    outcome, _ = meet(
        attempt(rules=parse_hba("host all all all scram-sha-256\nhost all all all trust")), SECRETS["scram"], b"wrong"
    )
    assert isinstance(outcome.error, LoginRefused)


def test_replication_needs_its_own_line() -> None:
    login = replace(attempt("trust"), replication=Replication.PHYSICAL)
    with pytest.raises(LoginDenied):
        run_script(authenticate(login))


def test_trust_asks_nothing_of_the_client() -> None:
    identity = run_script(authenticate(attempt("trust")), finds(NoSecret(), user="alice"))
    assert (identity.user, identity.method) == ("alice", "trust")


def test_trust_does_not_make_users() -> None:
    with pytest.raises(LoginDenied, match='role "alice" does not exist'):
        run_script(authenticate(attempt("trust")), finds(None))


def local(rule: str, os_user: str) -> LoginAttempt:
    login = replace(attempt(rules=parse_hba(rule)), address=None, os_user=os_user)
    maps = parse_ident("m root alice\nm /^(.*)_os$ \\1\nany /^ all")
    return replace(login, knobs=replace(login.knobs, ident_maps=maps))


@pytest.mark.parametrize(
    ("rule", "os_user", "admitted"),
    [
        ("local all all peer", "alice", True),
        ("local all all peer", "root", False),
        ("local all all peer", "", False),
        ("local all all peer map=m", "root", True),
        ("local all all peer map=m", "alice_os", True),
        ("local all all peer map=m", "bob_os", False),
        ("local all all peer map=m", "alice", False),
        ("local all all peer map=none", "alice", False),
        ("local all all peer map=any", "whoever", True),
        ("local all all peer map=any", "", False),  # a pattern that fits nothing at all is no proof
    ],
)
def test_peer(rule: str, os_user: str, admitted: bool) -> None:
    if admitted:
        identity = run_script(authenticate(local(rule, os_user)), finds(NoSecret()))
        assert (identity.user, identity.system_user) == ("alice", os_user)
    else:
        with pytest.raises(LoginDenied, match='Peer authentication failed for user "alice"') as caught:
            run_script(authenticate(local(rule, os_user)), finds(NoSecret()))
        assert "map" not in str(caught.value)


def with_certificate(rule: str, certificate: ClientCertificate | None) -> LoginAttempt:
    login = attempt(rules=parse_hba(rule), tls=TlsFacts(BINDINGS, certificate))
    return replace(login, knobs=replace(login.knobs, ident_maps=parse_ident('m "CN=Alice,O=Shop" alice')))


ALICE = ClientCertificate("alice", "CN=alice,O=Shop")
BIG_ALICE = ClientCertificate("Alice", "CN=Alice,O=Shop")
NAMELESS = ClientCertificate("", "O=Shop")


@pytest.mark.parametrize(
    ("rule", "certificate", "admitted"),
    [
        ("hostssl all all all cert", ALICE, True),
        ("hostssl all all all cert", BIG_ALICE, False),
        ("hostssl all all all cert", NAMELESS, False),
        ("hostssl all all all cert", None, False),
        ("hostssl all all all cert clientname=DN", ALICE, False),
        ("hostssl all all all cert clientname=DN map=m", BIG_ALICE, True),
        ("hostssl all all all cert clientname=DN map=m", ALICE, False),
        ("hostssl all all all trust clientcert=verify-ca", BIG_ALICE, True),
        ("hostssl all all all trust clientcert=verify-ca", None, False),
        ("hostssl all all all trust clientcert=verify-full", ALICE, True),
        ("hostssl all all all trust clientcert=verify-full", BIG_ALICE, False),
        ("hostssl all all all trust clientcert=verify-full", None, False),
    ],
)
def test_certificates(rule: str, certificate: ClientCertificate | None, admitted: bool) -> None:
    outcome, _ = meet(with_certificate(rule, certificate), NoSecret())
    if admitted:
        assert outcome.get().user == "alice"
    else:
        assert isinstance(outcome.error, LoginDenied)


@pytest.mark.parametrize(("password", "certificate"), [(b"wrong", ALICE), (PASSWORD, BIG_ALICE), (PASSWORD, None)])
def test_a_password_and_a_certificate_must_both_be_right(
    password: bytes, certificate: ClientCertificate | None
) -> None:
    rule = "hostssl all all all scram-sha-256 clientcert=verify-full"
    assert meet(with_certificate(rule, ALICE), SECRETS["scram"])[0].get().user == "alice"
    outcome, _ = meet(with_certificate(rule, certificate), SECRETS["scram"], password)
    assert isinstance(outcome.error, LoginRefused | LoginDenied)


# Judged by others.


def services(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PAM's own services, in which `admits` admits and `denies` denies, instead of the system's."""
    for name, module in (("admits", "pam_permit"), ("denies", "pam_deny")):
        (directory / name).write_text(f"auth required {module}.so\naccount required {module}.so\n")

    def ask(question: PamQuestion) -> str:
        return pam_refusal(replace(question, directory=str(directory)))

    monkeypatch.setattr(client_login, "pam_refusal", ask)


@pytest.mark.parametrize(
    ("method", "secret", "admitted"),
    [
        ("pam pamservice=admits", NoSecret(), True),
        ("pam pamservice=denies", None, False),
        ("pam pamservice=nosuchservice", None, False),
        ("pam", None, False),  # there is no service called pgdoorman here
        ("scram-sha-256", PamSecret("admits"), True),
        ("md5", PamSecret("denies"), False),
        ("as stored", PamSecret("admits"), True),
    ],
)
def test_pam(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, secret: StoredSecret | None, admitted: bool
) -> None:
    if not Path("/etc/pam.d").exists():
        pytest.skip("no PAM here")
    services(tmp_path, monkeypatch)
    outcome, pair = meet(by_method(method), secret)
    assert pair.offloads[0] == 1
    if admitted:
        assert (outcome.get().method, outcome.get().password) == ("pam", PASSWORD)
    else:
        assert isinstance(outcome.error, LoginRefused)
        assert str(outcome.error) == 'PAM authentication failed for user "alice"'


@pytest.mark.parametrize(
    ("subject", "rest", "admitted"),
    [
        ("alice", "", True),
        ("bob", "", False),
        ("Alice", "", False),
        ("alice@example.com", "map=m", True),
        ("bob@example.com", "map=m", False),
        ("alice", "map=m", False),
        ("alice", "audience=shop", False),
    ],
)
@pytest.mark.parametrize("stored", [False, True])
def test_tokens(tmp_path: Path, subject: str, rest: str, admitted: bool, stored: bool) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    (tmp_path / "key.pem").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    token = jwt.encode({"preferred_username": subject, "exp": 2**40}, key, "EdDSA").encode()
    if stored and rest:
        return
    login = attempt("scram-sha-256" if stored else f"jwt key={tmp_path}/key.pem {rest}")
    login = replace(login, knobs=replace(login.knobs, ident_maps=parse_ident("m /^(.*)@example\\.com$ \\1")))
    secret = TokenKeySecret(f"{tmp_path}/key.pem") if stored else NoSecret()
    outcome, _ = meet(login, secret, token)
    if admitted:
        assert (outcome.get().method, outcome.get().system_user) == ("jwt", subject)
        assert outcome.get().password is None
    else:
        assert isinstance(outcome.error, LoginRefused)
    assert isinstance(meet(login, secret, token[:-8])[0].error, LoginRefused)


def test_who_is_proved_by_others_must_be_known_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/etc/pam.d").exists():
        pytest.skip("no PAM here")
    services(tmp_path, monkeypatch)
    outcome, _ = meet(by_method("pam pamservice=admits"), None)
    assert isinstance(outcome.error, LoginDenied)
    assert str(outcome.error) == 'role "alice" does not exist'
    assert isinstance(meet(by_method("pam pamservice=denies"), None)[0].error, LoginRefused)


@pytest.mark.parametrize(
    ("usual", "method", "asked"),
    [
        ("scram-sha-256", "md5", b"\0\0\0\n"),
        ("md5", "md5", b"\0\0\0\5"),
        ("plain", "md5", b"\0\0\0\5"),
        ("md5", "scram-sha-256", b"\0\0\0\n"),
        ("plain", "as stored", b"\0\0\0\n"),
        ("md5", "as stored", b"\0\0\0\5"),
    ],
)
def test_an_unknown_user_is_asked_as_most_are(usual: UsualSecret, method: str, asked: bytes) -> None:
    login = by_method(method)
    runner = Runner(authenticate(replace(login, knobs=replace(login.knobs, unknown_users=((usual, 1),)))))
    runner.answer(None)
    assert runner.take_output()[5:9] == asked


def test_unknown_users_are_asked_in_as_many_ways_as_known_ones() -> None:
    """Whatever is asked, it may be because there is nobody of this name; and it is asked again tomorrow."""
    login = by_method("md5")
    login = replace(login, knobs=replace(login.knobs, unknown_users=(("md5", 1), ("scram-sha-256", 3))))

    def asked(number: int) -> bytes:
        runner = Runner(authenticate(replace(login, user=f"nobody{number}")))
        runner.answer(None)
        return runner.take_output()[5:9]

    first = [asked(number) for number in range(400)]
    assert first == [asked(number) for number in range(400)]
    assert 50 < first.count(b"\0\0\0\5") < 150
    assert first.count(b"\0\0\0\n") == 400 - first.count(b"\0\0\0\5")


def test_the_usual_secret() -> None:
    scram = ScramSecret(4096, b"s", bytes(32), bytes(32))
    assert usual_secret([]) == "scram-sha-256"
    assert usual_secret([NoSecret(), PamSecret("x")]) == "scram-sha-256"
    assert usual_secret([Md5Secret("0" * 32), NoSecret(), scram, Md5Secret("1" * 32)]) == "md5"
    assert usual_secret([PlainSecret(b"x"), NoSecret()]) == "plain"


def test_the_name_of_the_system_user_is_only_looked_for_where_it_counts() -> None:
    asked: list[int] = []

    def find() -> str:
        asked.append(1)
        return "alice"

    login = replace(attempt(rules=parse_hba("local all all trust")), address=None, find_os_user=find)
    assert run_script(authenticate(login), finds(NoSecret())).method == "trust"
    assert not asked
    login = replace(login, rules=parse_hba("local all all peer"))
    assert run_script(authenticate(login), finds(NoSecret()), works()).system_user == "alice"
    assert asked


def test_trust_lets_everybody_in_whatever_is_stored() -> None:
    for secret in (PamSecret("denies"), TokenKeySecret("/nowhere")):
        assert run_script(authenticate(attempt("trust")), finds(secret)).method == "trust"


# Clients that do not keep to the protocol.


def until(method: str, steps: int) -> bytes:
    """The first messages of a good client: what it says before it turns bad."""
    client_first = b"n,,n=,r=abcdefgh"
    messages = {
        "password": [],
        "md5": [],
        "scram-sha-256": [wire.sasl_initial_response("SCRAM-SHA-256", client_first)],
    }
    return b"".join(messages[method][:steps])


STATES = [("password", 0), ("md5", 0), ("scram-sha-256", 0), ("scram-sha-256", 1)]


@pytest.mark.parametrize(("method", "steps"), STATES)
@pytest.mark.parametrize(
    "bad",
    [
        startup_message({"user": "bob", "database": "shop"}),
        startup_message({"user": "alice"}, 0x0003_0002),
        (8).to_bytes(4) + (80877103).to_bytes(4),
        b"Q\0\0\0\x0dselect 1\0",
        b"X\0\0\0\x04",
        b"S\0\0\0\x04",
        b"\x16\x03\x01\x02\x00",
        b"P\0\0\0\x08\0\0\0\0",
        *(b"p" + length.to_bytes(4) for length in (0, 1, 3, 0x7FFF_FFFF, 0x8000_0000, 0x8000_0001, 0xFFFF_FFFF)),
        b"p\0\1\0\5",
        b"p\0\0\0\4",
        b"p\0\0\0\5x",
        b"p\0\0\0\7a\0b",
    ],
)
def test_anything_else_is_a_protocol_error_in_every_state(method: str, steps: int, bad: bytes) -> None:
    for secret in SECRETS.values():
        if method == "md5" and not isinstance(secret, Md5Secret | PlainSecret):
            continue
        outcome = drive(authenticate(attempt(method)), until(method, steps) + bad, always(secret))
        assert isinstance(outcome.error, ProtocolViolation), bad


@pytest.mark.parametrize("method", ["password", "md5"])
def test_an_empty_password_is_refused_whatever_is_stored(method: str) -> None:
    for secret in (PlainSecret(b""), PlainSecret(PASSWORD), Md5Secret(md5_digest("alice", b""))):
        outcome = drive(authenticate(attempt(method)), b"p\0\0\0\5\0", always(secret))
        assert isinstance(outcome.error, LoginRefused)


def test_a_client_that_wants_to_be_asked_first() -> None:
    """SASLInitialResponse without data: RFC 4422 lets the client wait for an empty challenge."""
    sink: list[bytes] = []
    with pytest.raises(ProtocolViolation):
        run_script(
            authenticate(attempt()),
            finds(SECRETS["scram"]),
            sends(wire.sasl(["SCRAM-SHA-256"])),
            receives("p", b"SCRAM-SHA-256\0\xff\xff\xff\xff"),
            sends(wire.sasl_continue(b"")),
            receives("p", b"n,,n=,r=abc"),
            sends_into(sink),
            receives("p", b""),
        )
    assert b"r=abc" in sink[0]


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-1", "x" * 900, "PLAIN"])
def test_a_mechanism_that_was_not_offered(mechanism: str) -> None:
    outcome = drive(authenticate(attempt()), wire.sasl_initial_response(mechanism, b"n,,n=,r=abc"))
    assert isinstance(outcome.error, ProtocolViolation)


@given(
    st.sampled_from(["password", "md5", "scram-sha-256"]),
    st.sampled_from(list(SECRETS)),
    st.lists(
        st.binary(max_size=40)
        | st.builds(wire.sasl_initial_response, st.just("SCRAM-SHA-256"), st.binary(max_size=40))
        | st.builds(wire.sasl_response, st.text("crpsni=,biws", max_size=40).map(str.encode))
        | st.just(wire.sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=abc")),
        max_size=4,
    ).map(b"".join),
)
@settings(max_examples=150)
def test_whatever_a_client_says_it_gets_a_clean_error(method: str, kind: str, said: bytes) -> None:
    started = time.monotonic()
    outcome = drive(authenticate(attempt(method)), said, always(SECRETS[kind]))
    assert outcome.value is None
    assert outcome.error is None or isinstance(outcome.error, ProtocolViolation | LoginRefused | AuthorizationDenied)
    assert time.monotonic() - started < 2


def test_a_client_that_leaves_leaves_nothing_behind() -> None:
    """A first log-in that is abandoned or wrong must not spoil the next one."""
    login = attempt()
    for said in (b"", until("scram-sha-256", 1), wire.sasl_initial_response("SCRAM-SHA-256", b"x")):
        drive(authenticate(login), said, always(SECRETS["plain"]))
    meet(login, SECRETS["plain"], b"wrong")
    assert meet(login, SECRETS["plain"])[0].get().user == "alice"
    assert meet(login, SECRETS["scram"])[0].get().scram_keys == KEYS


def test_errors_know_what_a_client_is_told() -> None:
    refused: PgDoormanError = LoginRefused("m", "r")
    denied: PgDoormanError = LoginDenied("m", "r")
    assert (refused.sqlstate, denied.sqlstate) == ("28P01", "28000")
    assert isinstance(SECRETS["scram"], ScramSecret)

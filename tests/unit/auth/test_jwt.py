"""Tokens: every algorithm, every claim that can be wrong, keys in every form, and the old tricks."""

import base64
import hashlib
import hmac
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt as pyjwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from pgdoorman.auth.jwt import judge_token, load_keys, mint_token, talos_role, token_user, verify_token
from pgdoorman.auth.tokens import PublicKey, TokenKeys, TokenRefused, TokenRules
from pgdoorman.errors import ConfigError

NOW = 1_700_000_000.0
CLAIMS: dict[str, Any] = {"preferred_username": "alice", "exp": NOW + 60}

RSA = rsa.generate_private_key(65537, 2048)
OTHER_RSA = rsa.generate_private_key(65537, 2048)
SMALL_RSA = rsa.generate_private_key(65537, 1024)
P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
ED = ed25519.Ed25519PrivateKey.generate()


def public_pem(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def private_pem(key: Any) -> bytes:
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem


def token(
    claims: Mapping[str, Any] = CLAIMS, key: Any = RSA, algorithm: str = "RS256", kid: str | None = None
) -> bytes:
    return pyjwt.encode(dict(claims), key, algorithm, {"kid": kid} if kid is not None else None).encode()


def public(key: Any = RSA, kid: str = "") -> PublicKey:
    algorithms = {rsa.RSAPrivateKey: ("RS256", "RS384", "RS512"), ec.EllipticCurvePrivateKey: ("ES256",)}
    found = next((names for kind, names in algorithms.items() if isinstance(key, kind)), ("EdDSA",))
    return PublicKey(kid, found, key.public_key())


def verified(data: bytes, *keys: PublicKey, **rules: Any) -> Mapping[str, Any]:
    return verify_token(data, keys or (public(),), TokenRules("", **rules), NOW)


# Algorithms.


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [(RSA, "RS256"), (RSA, "RS384"), (RSA, "RS512"), (P256, "ES256"), (ED, "EdDSA")],
)
def test_algorithms(key: Any, algorithm: str) -> None:
    assert verified(token(key=key, algorithm=algorithm), public(key))["preferred_username"] == "alice"


@pytest.mark.parametrize("algorithm", ["PS256", "PS512"])
def test_algorithms_that_are_not_offered(algorithm: str) -> None:
    with pytest.raises(TokenRefused, match="no key goes"):
        verified(token(algorithm=algorithm))


def by_hand(header: object, claims: object, signature: bytes = b"") -> bytes:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()) for part in (header, claims)]
    return b".".join(part.rstrip(b"=") for part in (*parts, base64.urlsafe_b64encode(signature)))


def test_an_unsigned_token_is_refused() -> None:
    for name in ("none", "None", "NONE", "", None):
        with pytest.raises(TokenRefused):
            verified(by_hand({"alg": name}, CLAIMS))


def test_a_public_key_is_no_shared_secret() -> None:
    """The old trick: an HMAC over the public key's text, which anybody has."""
    pem = public_pem(RSA)
    signed = by_hand({"alg": "HS256"}, CLAIMS).rpartition(b".")[0]
    signature = base64.urlsafe_b64encode(hmac.digest(pem, signed, "sha256")).rstrip(b"=")
    with pytest.raises(TokenRefused):
        verified(signed + b"." + signature)
    assert hashlib.sha256(pem).digest()


def test_another_key_is_noticed() -> None:
    with pytest.raises(TokenRefused, match="signature of the token is wrong"):
        verified(token(key=OTHER_RSA))


def test_a_key_that_comes_with_the_token_is_not_used() -> None:
    key = json.loads(pyjwt.algorithms.RSAAlgorithm.to_jwk(OTHER_RSA.public_key()))
    data = pyjwt.encode(CLAIMS, OTHER_RSA, "RS256", {"jwk": key, "jku": "http://127.0.0.1/"}).encode()
    with pytest.raises(TokenRefused):
        verified(data)


def test_every_changed_byte_is_noticed() -> None:
    good = token(key=ED, algorithm="EdDSA")
    for at in range(len(good) - 1):  # the last letter has bits that no byte uses
        changed = bytearray(good)
        changed[at] = ord("A") if changed[at] != ord("A") else ord("B")
        with pytest.raises(TokenRefused):
            verified(bytes(changed), public(ED))


# Claims.


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"exp": None}, "has no expiry"),
        ({"exp": NOW}, "has expired"),
        ({"exp": NOW - 1}, "has expired"),
        ({"exp": "soon"}, "is not a time"),
        ({"exp": True}, "is not a time"),
        ({"exp": float("nan")}, "is not a time"),
        ({"exp": float("inf")}, "is not a time"),
        ({"exp": [NOW + 60]}, "is not a time"),
        ({"nbf": NOW + 1}, "is not valid yet"),
        ({"nbf": "x"}, "is not a time"),
    ],
)
def test_times(change: dict[str, Any], reason: str) -> None:
    claims = {name: value for name, value in {**CLAIMS, **change}.items() if value is not None}
    with pytest.raises(TokenRefused, match=reason):
        verified(by_hand_signed(claims))


def by_hand_signed(claims: Mapping[str, Any]) -> bytes:
    """Signed, with claims that the library would not let pass."""
    return pyjwt.PyJWS().encode(json.dumps(claims).encode(), RSA, "RS256").encode()


@pytest.mark.parametrize("change", [{"nbf": NOW}, {"nbf": NOW - 1}, {"exp": NOW + 0.5}, {"iat": NOW + 1000}])
def test_times_that_are_right(change: dict[str, Any]) -> None:
    assert verified(by_hand_signed({**CLAIMS, **change}))


def test_leeway() -> None:
    assert verified(by_hand_signed({**CLAIMS, "exp": NOW - 5, "nbf": NOW + 5}), leeway=6.0)


@pytest.mark.parametrize(
    ("audience", "wanted", "admitted"),
    [
        ("a", (), True),
        (None, (), True),
        (None, ("a",), False),
        ("a", ("a",), True),
        ("b", ("a",), False),
        (["b", "a"], ("a",), True),
        (["b"], ("a", "b"), True),
        ([], ("a",), False),
        ("ab", ("a",), False),
        ({"a": 1}, ("a",), False),
    ],
)
def test_audience(audience: Any, wanted: tuple[str, ...], admitted: bool) -> None:
    data = by_hand_signed({**CLAIMS, "aud": audience} if audience is not None else CLAIMS)
    if admitted:
        assert verified(data, audiences=wanted)
    else:
        with pytest.raises(TokenRefused, match="another audience"):
            verified(data, audiences=wanted)


def test_issuer() -> None:
    assert verified(by_hand_signed({**CLAIMS, "iss": "me"}), issuer="me")
    for claims in (CLAIMS, {**CLAIMS, "iss": "you"}, {**CLAIMS, "iss": ["me"]}):
        with pytest.raises(TokenRefused, match="another issuer"):
            verified(by_hand_signed(claims), issuer="me")


@pytest.mark.parametrize(
    ("claims", "claim", "user"),
    [
        ({"sub": "alice"}, "sub", "alice"),
        ({"realm": {"name": "alice"}}, "realm.name", "alice"),
        ({"realm.name": "bob", "realm": {"name": "alice"}}, "realm.name", "bob"),
        ({}, "sub", None),
        ({"sub": ""}, "sub", None),
        ({"sub": 7}, "sub", None),
        ({"sub": ["alice"]}, "sub", None),
        ({"sub": None}, "sub", None),
        ({"realm": "alice"}, "realm.name", None),
    ],
)
def test_user(claims: dict[str, Any], claim: str, user: str | None) -> None:
    if user is None:
        with pytest.raises(TokenRefused):
            token_user(claims, claim)
    else:
        assert token_user(claims, claim) == user


@pytest.mark.parametrize(
    "data",
    [b"", b".", b"..", b"...", b"a.b.c", b"\xff.\xff.\xff", b"{}.{}.{}", by_hand([], {}), by_hand({}, {}), b"." * 1000],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(TokenRefused) as caught:
        verified(data)
    assert not data or data.decode("latin-1") not in str(caught.value) or len(data) < 4


def test_claims_that_are_no_object() -> None:
    for payload in (b"[]", b"1", b'"x"', b"null", b"[" * 30_000):
        with pytest.raises(TokenRefused):
            verified(pyjwt.PyJWS().encode(payload, RSA, "RS256").encode())


@given(st.binary(max_size=60) | st.text('eyJ.{}"ahlgRS0', max_size=60).map(str.encode))
def test_bytes_from_anywhere(data: bytes) -> None:
    with pytest.raises(TokenRefused):
        verified(data)


# Which key.


@pytest.mark.parametrize(
    ("kid", "keys", "admitted"),
    [
        (None, [("", RSA)], True),
        ("a", [("", RSA)], True),
        (None, [("a", RSA)], True),
        ("a", [("a", RSA), ("b", OTHER_RSA)], True),
        ("b", [("a", RSA), ("b", OTHER_RSA)], False),
        ("c", [("a", RSA), ("b", OTHER_RSA)], False),
        ("c", [("a", RSA)], False),
        (None, [("a", RSA), ("b", OTHER_RSA)], False),
        ("a", [("a", RSA), ("a", OTHER_RSA)], False),
        ("a", [("a", P256)], False),
        (None, [], False),
    ],
)
def test_the_key_that_is_meant(kid: str | None, keys: list[tuple[str, Any]], admitted: bool) -> None:
    usable = [public(key, name) for name, key in keys]
    if admitted:
        assert verify_token(token(kid=kid), usable, TokenRules(""), NOW)
    else:
        with pytest.raises(TokenRefused):
            verify_token(token(kid=kid), usable, TokenRules(""), NOW)


# Keys in files.


def certificate(key: Any) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    start = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(start).not_valid_after(start + timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def jwk(key: Any, **members: str) -> dict[str, Any]:
    kind: Any = pyjwt.algorithms.OKPAlgorithm
    if isinstance(key, rsa.RSAPrivateKey):
        kind = pyjwt.algorithms.RSAAlgorithm
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        kind = pyjwt.algorithms.ECAlgorithm
    return {**json.loads(kind.to_jwk(key.public_key())), **members}


@pytest.mark.parametrize("data", [public_pem(RSA), public_pem(P256), public_pem(ED), certificate(RSA)])
def test_a_file_with_one_key(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "key.pem").write_bytes(data)
    (key,) = load_keys(str(tmp_path / "key.pem"))
    assert key.key_id == ""


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense",
        private_pem(RSA),
        public_pem(SMALL_RSA),
        public_pem(P384),
        ed448.Ed448PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        b"{}",
        b'{"keys": []}',
        b'{"keys": {}}',
        b'{"keys": [{"kty": "oct", "k": "AAAA"}]}',
        b'{"keys": [1]}',
        b"{" * 50_000,
        b'{"a":' * 50_000,
        public_pem(RSA)[:100],
    ],
    ids=range(14),
)
def test_files_without_a_key_that_can_be_used(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "key").write_bytes(data)
    with pytest.raises(ConfigError):
        load_keys(str(tmp_path / "key"))


def test_a_directory_of_keys_by_their_id(tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_bytes(public_pem(RSA))
    (tmp_path / "b.crt").write_bytes(certificate(OTHER_RSA))
    (tmp_path / "README").write_text("not a key")
    keys = load_keys(str(tmp_path))
    assert [key.key_id for key in keys] == ["a", "b"]
    assert verify_token(token(kid="b", key=OTHER_RSA), keys, TokenRules(""), NOW)


def test_a_key_set(tmp_path: Path) -> None:
    entries = [
        jwk(RSA, kid="a", alg="RS256", use="sig"),
        jwk(P256, kid="b"),
        jwk(ED, kid="c"),
        jwk(OTHER_RSA, kid="d", use="enc"),
        jwk(P384, kid="e"),
        {"kty": "oct", "k": "AAAA", "kid": "f"},
        {"kty": "RSA", "n": "!", "e": "AQAB"},
    ]
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": entries}))
    keys = load_keys(str(path))
    assert [(key.key_id, key.algorithms[0]) for key in keys] == [("a", "RS256"), ("b", "ES256"), ("c", "EdDSA")]
    path.write_text(json.dumps(jwk(ED)))
    assert load_keys(str(path))[0].algorithms == ("EdDSA",)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(ConfigError):
            load_keys(str(path))


def test_keys_are_read_again_when_they_change(tmp_path: Path) -> None:
    path, keys = tmp_path / "key.pem", TokenKeys()
    path.write_bytes(public_pem(RSA))
    first = keys.at(str(path), load_keys)
    assert keys.at(str(path), load_keys) is first
    path.write_bytes(public_pem(ED))
    os.utime(path, ns=(1, 1))
    assert keys.at(str(path), load_keys)[0].algorithms == ("EdDSA",)
    path.write_bytes(b"half a file")
    os.utime(path, ns=(2, 2))
    assert keys.at(str(path), load_keys)[0].algorithms == ("EdDSA",)  # the old ones stand


def test_keys_of_a_directory_are_read_again_when_it_changes(tmp_path: Path) -> None:
    keys = TokenKeys()
    (tmp_path / "a.pem").write_bytes(public_pem(RSA))
    assert len(keys.at(str(tmp_path), load_keys)) == 1
    (tmp_path / "b.pem").write_bytes(public_pem(RSA))
    assert len(keys.at(str(tmp_path), load_keys)) == 2


def test_no_key_shows() -> None:
    assert "RSAPublicKey" not in repr(public())


def test_rules_from_an_hba_line() -> None:
    options = {"jwks": "/etc/jwks", "audience": "a b,c", "issuer": "i", "claim": "sub"}
    assert TokenRules.from_options(options) == TokenRules("/etc/jwks", "sub", ("a", "b", "c"), "i")
    assert TokenRules.from_options({"key": "/k"}) == TokenRules("/k")


# Whole.


def test_judging(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(public_pem(RSA))
    assert judge_token(token({**CLAIMS, "exp": 2**40}), TokenRules(str(path)), TokenKeys()) == "alice"
    with pytest.raises(TokenRefused):
        judge_token(token(), TokenRules(str(path)), TokenKeys())  # its time was years ago
    with pytest.raises(TokenRefused, match="could not read"):
        judge_token(token(), TokenRules(str(tmp_path / "nothing")), TokenKeys())


def test_a_minted_token_is_believed(tmp_path: Path) -> None:
    (tmp_path / "private").write_bytes(private_pem(RSA))
    minted = mint_token(str(tmp_path / "private"), "bob", now=NOW)
    assert token_user(verified(minted), "preferred_username") == "bob"
    with pytest.raises(TokenRefused, match="expired"):
        verify_token(minted, [public()], TokenRules(""), NOW + 120)


@pytest.mark.parametrize("data", [None, b"", b"x", public_pem(RSA), private_pem(ED)])
def test_keys_that_mint_nothing(tmp_path: Path, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / "private").write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        mint_token(str(tmp_path / "private"), "bob")
    assert "BEGIN" not in str(caught.value)


# The Talos scheme.


@pytest.mark.parametrize(
    ("access", "wanted"),
    [
        ({"app:shop": {"roles": ["read_only"]}}, ("shop", "read_only")),
        ({"app:shop": {"roles": ["read_only", "owner", "read_write"]}}, ("shop", "owner")),
        ({"a:shop": {"roles": ["read_only"]}, "b:bank": {"roles": ["read_write"]}}, ("bank", "read_write")),
        ({"app:other": {"roles": ["owner"]}}, None),
        ({"shop": {"roles": ["owner"]}}, None),
        ({"app:shop": {"roles": ["admin"]}}, None),
        ({"app:shop": {"roles": "owner"}}, None),
        ({"app:shop": ["owner"]}, None),
        ({"app:shop": {}}, None),
        ([], None),
        (None, None),
    ],
)
def test_talos(access: Any, wanted: tuple[str, str] | None) -> None:
    assert talos_role({"resource_access": access}, ["shop", "bank"]) == wanted

"""OAUTHBEARER: its one message, its refusal, and a whole log-in."""

import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from pgdoorman.auth import oauth
from pgdoorman.auth.client_login import ClientIdentity, LoginAttempt, LoginKnobs, LoginRefused, authenticate
from pgdoorman.auth.hba import parse_hba
from pgdoorman.auth.ident import parse_ident
from pgdoorman.auth.scram import MadeVerifiers
from pgdoorman.auth.secrets import NoSecret
from pgdoorman.errors import ProtocolViolation
from pgdoorman.protocol import authentication as wire
from tests.support.script import Outcome, drive, receives, run_script, sends, works


@pytest.mark.parametrize(
    ("message", "token"),
    [
        (b"n,,\x01auth=Bearer abc\x01\x01", b"abc"),
        (b"y,,\x01auth=Bearer abc\x01\x01", b"abc"),
        (b"n,,\x01auth=bearer   a.b-c_d~e+f/g==\x01\x01", b"a.b-c_d~e+f/g=="),
        (b"n,,\x01host=h\x01port=5432\x01auth=Bearer abc\x01\x01", b"abc"),
        (b"n,,\x01auth=\x01\x01", None),
        (b"n,,\x01auth=Basic abc\x01\x01", b""),
        (b"n,,\x01auth=Bearer\x01\x01", b""),
        (b"n,,\x01auth=Bearer a b\x01\x01", b""),
        (b"n,,\x01auth=Bearer =\x01\x01", b""),
    ],
)
def test_messages(message: bytes, token: bytes | None) -> None:
    assert oauth.parse_client_message(message) == token


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"n",
        b"n,,",
        b"n,,\x01",
        b"n,,\x01\x01",
        b"n,,\x01\x01\x01",
        b"n,,\x01auth=Bearer abc",
        b"n,,\x01auth=Bearer abc\x01",
        b"n,,\x01auth=Bearer abc\x01\x01\x01",
        b"n,,\x01auth=Bearer abc\x01\x01x",
        b"n,,\x01host=h\x01\x01",
        b"n,,\x01auth=Bearer a\x01auth=Bearer b\x01\x01",
        b"n,,\x01auth=Bearer a\0\x01\x01",
        b"n,,\x01auth=\xff\x01\x01",
        b"n,,\x01=x\x01\x01",
        b"n,,\x01auth\x01\x01",
        b"n,,auth=Bearer abc\x01\x01",
        b"n,a=bob,\x01auth=Bearer abc\x01\x01",
        b"p=tls-server-end-point,,\x01auth=Bearer abc\x01\x01",
        b"n,,\x01auth=Bearer " + b"a" * 65_535 + b"\x01\x01",
    ],
)
def test_malformed_messages(message: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        oauth.parse_client_message(message)


@given(st.binary(max_size=80) | st.text("n,\x01auth=Ber e", max_size=60).map(str.encode))
def test_bytes_from_anywhere(message: bytes) -> None:
    try:
        oauth.parse_client_message(message)
    except ProtocolViolation:
        pass


@pytest.mark.parametrize(
    ("issuer", "place"),
    [
        ("https://id.example.com", "https://id.example.com/.well-known/openid-configuration"),
        ("https://id.example.com/", "https://id.example.com/.well-known/openid-configuration"),
        (
            "https://id.example.com/.well-known/oauth-authorization-server",
            "https://id.example.com/.well-known/oauth-authorization-server",
        ),
    ],
)
def test_a_refusal_says_where_to_ask(issuer: str, place: str) -> None:
    told = json.loads(oauth.refusal({"issuer": issuer, "scope": "openid shop"}))
    assert told == {"status": "invalid_token", "openid-configuration": place, "scope": "openid shop"}
    assert oauth.issuer_name(issuer).rstrip("/") == "https://id.example.com"


KEY = ed25519.Ed25519PrivateKey.generate()
CLAIMS: dict[str, Any] = {
    "preferred_username": "alice",
    "iss": "https://id",
    "scope": "openid shop",
    "exp": time.time() + 3600,
}
ACKNOWLEDGED = wire.sasl_response(b"\x01")


def attempt(directory: Path, options: str = "") -> LoginAttempt:
    path = directory / "key.pem"
    path.write_bytes(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    rules = parse_hba(f'host all all all oauth key={path} issuer=https://id "scope=openid shop" {options}')
    knobs = LoginKnobs(MadeVerifiers(1), parse_ident("m alice@x alice"))
    return LoginAttempt("alice", "shop", "10.0.0.1", rules, knobs)


def first(token: bytes) -> bytes:
    return wire.sasl_initial_response("OAUTHBEARER", b"n,,\x01auth=Bearer " + token + b"\x01\x01")


def log_in(login: LoginAttempt, **claims: Any) -> Outcome[ClientIdentity]:
    said = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not None}
    token = jwt.encode(said, KEY, "EdDSA").encode()
    return drive(authenticate(login), first(token) + ACKNOWLEDGED, lambda _: NoSecret())


def test_a_good_token(tmp_path: Path) -> None:
    identity = log_in(attempt(tmp_path)).get()
    assert (identity.user, identity.method, identity.system_user) == ("alice", "oauth", "alice")
    assert log_in(attempt(tmp_path), scope=None, scp=["shop", "openid", "x"]).get().user == "alice"


@pytest.mark.parametrize(
    ("options", "claims"),
    [
        ("", {"preferred_username": "bob"}),
        ("", {"exp": 1}),
        ("", {"iss": "https://other"}),
        ("", {"scope": "openid"}),
        ("", {"scope": None}),
        ("", {"scope": 7}),
        ("map=m", {}),
        ("audience=me", {"aud": "you"}),
    ],
)
def test_tokens_that_do_not_do(tmp_path: Path, options: str, claims: dict[str, Any]) -> None:
    error = log_in(attempt(tmp_path, options), **claims).error
    assert isinstance(error, LoginRefused)
    assert str(error) == 'OAuth bearer authentication failed for user "alice"'


def test_a_map(tmp_path: Path) -> None:
    assert log_in(attempt(tmp_path, "map=m"), preferred_username="alice@x").get().user == "alice"


def test_a_client_that_asks_where_tokens_come_from(tmp_path: Path) -> None:
    told = oauth.refusal({"issuer": "https://id", "scope": "openid shop"})
    with pytest.raises(LoginRefused):
        run_script(
            authenticate(attempt(tmp_path)),
            sends(wire.sasl(["OAUTHBEARER"])),
            receives("p", wire.sasl_initial_response("OAUTHBEARER", b"n,,\x01auth=\x01\x01")[5:]),
            sends(wire.sasl_continue(told)),
            receives("p", b"\x01"),
        )


def test_a_refusal_waits_for_its_acknowledgement(tmp_path: Path) -> None:
    with pytest.raises(ProtocolViolation):
        run_script(
            authenticate(attempt(tmp_path)),
            sends(wire.sasl(["OAUTHBEARER"])),
            receives("p", first(b"abc")[5:]),
            works(),
            sends(wire.sasl_continue(oauth.refusal({"issuer": "https://id", "scope": "openid shop"}))),
            receives("p", b"\x01\x01"),
        )


@pytest.mark.parametrize(
    "said",
    [
        wire.sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=abc"),
        wire.sasl_initial_response("OAUTHBEARER", b""),
        b"p\0\0\0\4",
        b"p\0\1\0\x80",
        b"Q\0\0\0\4",
        b"\0\0\0\x08",
    ],
)
def test_violations(tmp_path: Path, said: bytes) -> None:
    assert isinstance(drive(authenticate(attempt(tmp_path)), said).error, ProtocolViolation)


def test_a_large_token(tmp_path: Path) -> None:
    assert log_in(attempt(tmp_path), groups=["g" * 50] * 700).get().user == "alice"

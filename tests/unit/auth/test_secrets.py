"""Stored secrets: their text, what fits them, and that none of them shows itself."""

import base64
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgdoorman.auth.md5 import md5_digest
from pgdoorman.auth.secrets import (
    Md5Secret,
    NoSecret,
    PamSecret,
    PlainSecret,
    ScramKeys,
    ScramSecret,
    StoredSecret,
    TokenKeySecret,
    build_scram_secret,
    derive_keys,
    hash_password,
    is_heavy,
    parse_secret,
    password_fits,
    verifier_of,
)
from pgdoorman.errors import ConfigError

SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")

# create role foo password 'pencil', with the salt of RFC 7677's example.
RFC_VERIFIER = (
    "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$"
    "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
)


def test_kinds() -> None:
    digest = md5_digest("u", b"pw")
    assert parse_secret("") == NoSecret()
    assert parse_secret("pencil") == PlainSecret(b"pencil")
    assert parse_secret("md5" + digest) == Md5Secret(digest)
    assert parse_secret("jwt-pkey-fpath:/etc/key.pem") == TokenKeySecret("/etc/key.pem")
    assert isinstance(parse_secret(RFC_VERIFIER), ScramSecret)


@pytest.mark.parametrize("text", ["md5", "md5" + "A" * 32, "md5" + "a" * 31, "md5" + "a" * 33, "md5" + "g" * 32, " "])
def test_what_only_looks_like_a_hash_is_a_password(text: str) -> None:
    assert parse_secret(text) == PlainSecret(text.encode())


def test_the_rfc_example_is_what_its_password_gives() -> None:
    assert build_scram_secret(b"pencil", 4096, SALT).text() == RFC_VERIFIER
    assert parse_secret(RFC_VERIFIER) == build_scram_secret(b"pencil", 4096, SALT)


@pytest.mark.parametrize(
    "text",
    [
        "SCRAM-SHA-256$",
        RFC_VERIFIER[:-1],
        RFC_VERIFIER + "=",
        RFC_VERIFIER + "\n",
        RFC_VERIFIER.replace("4096", "0"),
        RFC_VERIFIER.replace("4096", "-1"),
        RFC_VERIFIER.replace("4096", "99999999999"),
        RFC_VERIFIER.replace("4096", ""),
        RFC_VERIFIER.replace("4096:W22ZaJ0SNY7soEsUEjb6gQ==", "4096:"),
        RFC_VERIFIER.replace("W22Z", "W22é"),
        RFC_VERIFIER.replace(":wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=", ":AAAA"),
        RFC_VERIFIER.replace("$WG5d", "$\nG5d"),
    ],
)
def test_a_damaged_verifier_is_an_error_that_does_not_show_it(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_secret(text)
    assert str(caught.value) == "malformed SCRAM-SHA-256 verifier"


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_a_password_that_no_message_carries(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_secret(text)


@given(st.text())
def test_parsing_raises_nothing_else(text: str) -> None:
    try:
        parse_secret(text)
    except ConfigError:
        pass


@pytest.mark.parametrize(
    "secret",
    [
        PlainSecret(b"hunter2"),
        parse_secret(RFC_VERIFIER),
        Md5Secret("a" * 32),
        ScramKeys(1, b"hunter2", b"hunter2", b"hunter2"),
    ],
)
def test_no_secret_shows_in_its_repr(secret: object) -> None:
    for hidden in ("hunter2", "aaaa", "W22Z", "WG5d", "[m"):
        assert hidden not in repr(secret)


@pytest.mark.parametrize("method", ["md5", "scram-sha-256"])
@pytest.mark.parametrize("password", ["pencil", "p\u00e4ss", "a\u00a0b", "x" * 70_000])
def test_a_hashed_password_fits_and_no_other_does(method: str, password: str) -> None:
    secret = parse_secret(hash_password("alice", password, method, iterations=10))
    assert password_fits(secret, "alice", password.encode())
    assert not password_fits(secret, "alice", password.encode() + b"x")
    assert not password_fits(secret, "alice", b"")


def test_a_hash_belongs_to_its_user_and_a_verifier_to_its_salt() -> None:
    assert not password_fits(parse_secret(hash_password("alice", "pw", "md5")), "bob", b"pw")
    assert hash_password("u", "pw", iterations=1) != hash_password("u", "pw", iterations=1)


@pytest.mark.parametrize(
    ("password", "method", "iterations"),
    [("", "md5", 1), ("x", "crypt", 1), ("x", "scram-sha-256", 0), ("x", "scram-sha-256", 1_000_001), ("\0", "md5", 1)],
)
def test_what_cannot_be_hashed(password: str, method: str, iterations: int) -> None:
    with pytest.raises(ConfigError):
        hash_password("u", password, method, iterations)


@pytest.mark.parametrize("secret", [None, NoSecret(), PamSecret("x"), TokenKeySecret("x")])
@pytest.mark.parametrize("password", [b"", b"x"])
def test_no_password_fits_what_has_none(secret: StoredSecret | None, password: bytes) -> None:
    assert not password_fits(secret, "u", password)
    assert not is_heavy(secret)


def test_a_verifier_beyond_the_cap_costs_nothing_and_never_fits() -> None:
    keys = derive_keys(b"pw", SALT, 1)
    expensive = verifier_of(ScramKeys(900_000_000, SALT, keys.client_key, keys.server_key))
    started = time.monotonic()
    assert not password_fits(expensive, "u", b"pw")
    assert time.monotonic() - started < 1

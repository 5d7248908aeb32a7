"""Secrets that have strayed into a text are struck out, and nothing else is."""

import time

import pytest

from pgdoorman.admin.masking import MASK, is_secret_key, masked_text, masked_value


@pytest.mark.parametrize(
    "text",
    [
        "ALTER ROLE a PASSWORD 'hunter2'",
        "create user a encrypted password E'hun\\'ter2' valid until 'x'",
        "ALTER ROLE a PASSWORD 'it''s hunter2'",
        "ALTER ROLE a PASSWORD $$hunter2$$ ",
        "ALTER ROLE a\nPassword\n$x$hunter2 $$ hunter2$x$",
        "ALTER ROLE a PASSWORD 'hunter2",
        "host=x password=hunter2 user=y",
        "host=x password = 'hun ter2 hunter2' user=y",
        "select dblink('password=hunter2')",
        "postgresql://app:hunter2@db:5432/x?y",
        "md5" + "0123456789abcdef" * 2,
        "x SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy y",
        "-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nhunter2",
    ],
)
def test_struck_out(text: str) -> None:
    shown = masked_text(text)
    assert MASK in shown
    for secret in ("hunter2", "ter2", "0123456789abcdef", "c3RvcmVk"):
        assert secret not in shown


@pytest.mark.parametrize(
    "text",
    ["select 1", "select password from accounts", "md5", "select 'md5'", "postgres://app@db/x", "http://host:80/path",
     "-----BEGIN CERTIFICATE-----\nabc"],
)  # fmt: skip
def test_left_alone(text: str) -> None:
    assert masked_text(text) == text


def test_keys() -> None:
    secret = ["admin_password", "pools.shop.users[0].server_password", "tls_key_passphrase", "web.sso_client_secret"]
    assert all(is_secret_key(key) for key in secret)
    open_ = ["tls_private_key", "auth_query", "password_file", "max_tokens", "server_lifetime", "tls_key_file"]
    assert not any(is_secret_key(key) for key in open_)
    assert masked_value("admin_password", "") == ""
    assert masked_value("admin_password", None) is None


@pytest.mark.parametrize(
    "text",
    [
        "password " * 20_000,
        "password'" * 20_000,
        "password=" * 20_000,
        "PASSWORD $" + "a" * 99_999,
        "-----BEGIN PRIVATE KEY-----" * 5_000,
        "a://b:" * 20_000,
    ],
    ids=lambda text: text[:10],
)
def test_long_texts_take_no_long_time(text: str) -> None:
    begin = time.monotonic()
    masked_text(text)
    assert time.monotonic() - begin < 5.0

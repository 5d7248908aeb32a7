"""Rules between keys: what is refused, what is only warned of, and that one mistake is told once."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgdoorman.auth.secrets import build_scram_secret, parse_secret
from pgdoorman.config import keys as table
from pgdoorman.config import load_text
from pgdoorman.config.keys import Feature, Section
from pgdoorman.errors import ConfigError
from tests.unit.config import sample
from tests.unit.config.sample import configuration, error_of, errors_of

G, P, U, A = Section.GENERAL, Section.POOL, Section.USER, Section.AUTH_QUERY
KEY = "A" * 43 + "="


@pytest.fixture
def every_feature(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(table, "FEATURES", frozenset(Feature))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some.pem").write_text("x")


REFUSED: list[tuple[Section, dict[str, Any], str, str]] = [
    (U, {"min_pool_size": 11}, "min_pool_size", "cannot be more than pool_size, which is 10"),
    (A, {"min_pool_size": 41}, "min_pool_size", "cannot be more than pool_size, which is 40"),
    (G, {"prepared_statements_cache_size": 0}, "prepared_statements_cache_size", "at least 1"),
    (P, {"prepared_statements_cache_size": 0}, "prepared_statements_cache_size", "at least 1"),
    (G, {"hba": ["::/0"], "pg_hba": "host all all all trust"}, "hba", "cannot stand together with pg_hba"),
    (G, {"host": "0.0.0.0,,::"}, "host", "empty"),
    (G, {"unix_socket_dir": "/" + "x" * 120}, "unix_socket_dir", "the kernel takes 107"),
    (P, {"server_host": "/" + "x" * 120}, "server_host", "the kernel takes 107"),
    (G, {"tls_certificate": "some.pem"}, "tls_certificate", "needs tls_private_key as well"),
    (G, {"tls_private_key": "some.pem"}, "tls_private_key", "needs tls_certificate as well"),
    (G, {"tls_mode": "require"}, "tls_mode", "needs tls_certificate"),
    (
        G,
        {"tls_mode": "verify-full", "tls_certificate": "some.pem", "tls_private_key": "some.pem"},
        "tls_mode",
        "needs tls_ca_cert",
    ),
    (G, {"tls_rate_limit_per_second": 50}, "tls_rate_limit_per_second", "multiple of 100"),
    (G, {"tls_rate_limit_per_second": 250}, "tls_rate_limit_per_second", "multiple of 100"),
    (G, {"server_tls_mode": "verify-ca"}, "server_tls_mode", "needs server_tls_ca_cert"),
    (P, {"server_tls_mode": "verify-full"}, "server_tls_mode", "needs server_tls_ca_cert"),
    (P, {"server_tls_certificate": "some.pem"}, "server_tls_certificate", "needs server_tls_private_key"),
    (U, {"server_password": "x"}, "server_password", "needs server_username"),
    (A, {"server_password": "x"}, "server_password", "needs server_user"),
    (A, {"query": "select 1"}, "query", "$1"),
    (U, {"password": "SCRAM-SHA-256$4096:abc$short:short"}, "password", "begins like a SCRAM secret"),
    (P, {"max_db_connections": 3}, "max_db_connections", "min_pool_size together, which is 4"),
    (G, {"startup_parameters": {"a": "x" * 9500}}, "startup_parameters", "room for 9488"),
    (P, {"startup_parameters": {"a": "x" * 9500}}, "startup_parameters", "room for 9488"),
    (P, {"server_database": "x" * 10_000}, "username", "PostgreSQL takes 10000"),
]


@pytest.mark.usefixtures("every_feature")
@pytest.mark.parametrize(("section", "keys", "blamed", "words"), REFUSED)
def test_refused(section: Section, keys: dict[str, Any], blamed: str, words: str) -> None:
    text = configuration(section, **keys)
    if "max_db_connections" in keys:
        text += "min_pool_size = 4\n"
    error = error_of(text)
    assert error.key.endswith(blamed)
    assert words in error.message
    assert error.line > 0


ALLOWED: list[tuple[Section, dict[str, Any]]] = [
    (U, {"min_pool_size": 10}),
    (G, {"prepared_statements_cache_size": 0, "prepared_statements": False}),
    (P, {"prepared_statements_cache_size": 0, "prepared_statements": False}),
    (G, {"hba": [], "pg_hba": "host all all all trust"}),
    (G, {"host": "0.0.0.0, ::1, localhost"}),
    (G, {"unix_socket_dir": "/" + "x" * (107 - len("/" + "/.s.PGSQL.6432"))}),
    (G, {"tls_mode": "allow"}),
    (G, {"tls_rate_limit_per_second": 100}),
    (G, {"server_tls_mode": "verify-full", "server_tls_ca_cert": "some.pem"}),
    (U, {"server_password": "x", "server_username": "role"}),
    (U, {"password": f"SCRAM-SHA-256$4096:c2FsdA==${KEY}:{KEY}"}),
    (U, {"password": "md5" + "0" * 32}),
    (U, {"password": ""}),
    (P, {"max_db_connections": 10}),
    (P, {"startup_parameters": {"a": "x" * 9000}}),
]


@pytest.mark.usefixtures("every_feature")
@pytest.mark.parametrize(("section", "keys"), ALLOWED)
def test_allowed_without_a_word(section: Section, keys: dict[str, Any]) -> None:
    assert sample.load_with(section, **keys).warnings == ()


WARNED: list[tuple[Section, dict[str, Any], str, str]] = [
    (P, {"reserve_pool_size": 11, "max_db_connections": 10}, "reserve_pool_size", "more than max_db_connections"),
    (P, {"max_db_connections": 5}, "max_db_connections", 'less than pool_size of user "alice", which is 10'),
    (P, {"min_connection_lifetime": "11m"}, "min_connection_lifetime", "more than idle_timeout"),
    (P, {"idle_timeout": "10s"}, "min_connection_lifetime", "more than idle_timeout"),
    (P, {"min_guaranteed_pool_size": 11}, "min_guaranteed_pool_size", "smallest pool_size, 10"),
    (P, {"reserve_pool_size": 1, "reserve_pool_timeout": "6s"}, "reserve_pool_timeout", "query_wait_timeout"),
    (G, {"fallback_cooldown": "500ms"}, "fallback_cooldown", "less than a second"),
    (P, {"fallback_cooldown": 0}, "fallback_cooldown", "less than a second"),
    (G, {"hba": ["::/0"], "unix_socket_dir": "/run"}, "hba", "always pass"),
    (G, {"tcp_socket_buffer_size": "32KB"}, "tcp_socket_buffer_size", "less than 64KB"),
    (G, {"unix_socket_buffer_size": 1}, "unix_socket_buffer_size", "less than 64KB"),
    (G, {"client_anonymous_prepared_cache_size": 0}, "client_anonymous_prepared_cache_size", "memory"),
    (P, {"client_anonymous_prepared_cache_size": 0}, "client_anonymous_prepared_cache_size", "memory"),
    (U, {"password": "md5" + "0" * 31}, "password", "looks like an md5 secret"),
    (U, {"password": "md5" + "A" * 32}, "password", "looks like an md5 secret"),
]


@pytest.mark.usefixtures("every_feature")
@pytest.mark.parametrize(("section", "keys", "blamed", "words"), WARNED)
def test_warned_of(section: Section, keys: dict[str, Any], blamed: str, words: str) -> None:
    warnings = sample.load_with(section, **keys).warnings
    assert len(warnings) == 1
    assert warnings[0].startswith("pgdoorman.toml:")
    assert f".{blamed}: " in warnings[0].replace("general.", ".")
    assert words in warnings[0]


@pytest.mark.usefixtures("every_feature")
def test_a_general_cache_of_0_is_refused_where_a_pool_turns_statements_on() -> None:
    text = configuration(P, prepared_statements=True).replace(
        "[general]", "[general]\nprepared_statements = false\nprepared_statements_cache_size = 0"
    )
    assert error_of(text).key == "pools.shop.prepared_statements_cache_size"


@pytest.mark.usefixtures("every_feature")
def test_a_pool_may_rely_on_the_general_certificates() -> None:
    text = configuration(P, server_tls_mode="verify-full").replace(
        "[general]", '[general]\nserver_tls_ca_cert = "some.pem"'
    )
    assert load_text(text).warnings == ()


def test_parameters_are_measured_together() -> None:
    text = configuration(P, startup_parameters={"b": "x" * 5000}).replace(
        "[general]", '[general]\nstartup_parameters = {a = "' + "x" * 5000 + '"}'
    )
    assert "together with the general ones take 10006 bytes" in error_of(text).message
    same = text.replace("b = ", "a = ").replace('"b" = ', '"a" = ')
    assert load_text(same).warnings == ()


def test_one_mistake_is_told_once() -> None:
    assert [error.key for error in errors_of(configuration(U, pool_size="x", min_pool_size=20))] == [
        "pools.shop.users[0].pool_size"
    ]
    assert [error.key for error in errors_of(configuration(G, hba="x", pg_hba="host"))] == ["general.hba"]


@pytest.mark.parametrize("name", ["pgdoorman", "pgbouncer"])
def test_pools_behind_the_admin_console(name: str) -> None:
    settings = load_text(configuration().replace("pools.shop", f"pools.{name}"))
    assert "admin console" in settings.warnings[0]


@pytest.mark.parametrize(
    ("key", "value"), [("password", "jwt-pkey-fpath:/key.pem"), ("server_password", "jwt-priv-key-fpath:/key.pem")]
)
def test_keys_of_tokens_wait_for_their_feature(key: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = configuration(U, **{"server_username": "role", key: value})
    monkeypatch.setattr(table, "FEATURES", frozenset[Feature]())
    assert "not available in this version (JWT)" in error_of(text).message
    monkeypatch.setattr(table, "FEATURES", frozenset({Feature.JWT}))
    assert load_text(text).pools["shop"].users[0].username == "alice"


VERIFIER = build_scram_secret(b"secret", 4096).text()


@given(st.data())
def test_damaged_verifiers_are_found_when_the_file_is_read(data: st.DataObject) -> None:
    """Exactly those at which a log-in would fail, with their place, and without showing them."""
    text = list(VERIFIER)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(text) - 1))
        text[place : place + data.draw(st.integers(0, 2))] = data.draw(st.text("aZ0+/=$: é", max_size=2))
    damaged = "".join(text)
    try:
        parse_secret(damaged)
    except ConfigError:
        written = configuration(U, password=damaged)
        error = error_of(written)
        assert error.key == "pools.shop.users[0].password"
        assert written.splitlines()[error.line - 1].startswith('password = "SCRAM')
        assert damaged not in str(error)
    else:
        load_text(configuration(U, password=damaged))


@pytest.mark.parametrize(
    ("section", "key"), [(G, "admin_password"), (U, "password")], ids=["of the admin", "of a user"]
)
@pytest.mark.parametrize(
    "damaged",
    [
        VERIFIER[:-1],
        VERIFIER + "=",
        VERIFIER.replace("$4096:", "$0:"),
        VERIFIER.replace("$4096:", "$4096000000:"),
        VERIFIER.replace("$4096:", "$4096:="),
        "SCRAM-SHA-256$",
    ],
)
def test_damaged_verifiers(section: Section, key: str, damaged: str) -> None:
    text = configuration(section, **{key: damaged})
    error = error_of(text)
    assert "begins like a SCRAM secret" in error.message
    assert error.key.endswith(key)
    assert text.splitlines()[error.line - 1].startswith(f'{key} = "SCRAM')


@pytest.mark.parametrize("stored", [VERIFIER, "md5" + "0" * 32])
def test_what_a_server_stores_is_no_password_for_it(stored: str) -> None:
    settings = load_text(configuration(U, server_username="role", server_password=stored))
    assert "not a password" in settings.warnings[0]
    assert stored not in settings.warnings[0]


def test_the_one_role_of_auth_query_may_be_a_user_of_the_file() -> None:
    text = configuration(A, server_user="alice", server_password="x")
    (warning,) = load_text(text).warnings
    assert "auth_query.server_password: has no effect" in warning
    assert load_text(configuration(A, server_user="alice")).warnings == ()
    assert load_text(configuration(A, server_user="bob", server_password="x")).warnings == ()


def test_a_pool_needs_a_name() -> None:
    assert "needs a name" in error_of(configuration() + '[pools.""]\n').message

"""A PgBouncer installation in our words: what is carried over means the same, what is not is told."""

from pathlib import Path

import pytest

from pgdoorman.cli.from_pgbouncer import convert
from pgdoorman.config.load import load_text
from pgdoorman.config.settings import PoolMode, Settings

USERS = '"alice" "md539c4422cad2e8aa743c2904bf0925538"\n"bob" "pl""ain"\n"looker" "x"\n"nosecret" ""\n'


def _converted(tmp_path: Path, ini: str, language: str = "toml", users: str = USERS) -> tuple[Settings, list[str]]:
    (tmp_path / "pgbouncer.ini").write_text(ini)
    (tmp_path / "userlist.txt").write_text(users)
    draft, notes = convert(tmp_path / "pgbouncer.ini")
    return load_text(draft.text(language), file=f"x.{language}", folder=tmp_path), notes


FULL = """\
[databases]
shop = host=db.example port=5433 dbname=shop_prod pool_size=7 pool_mode=statement client_encoding=UTF8
forced = host=/run/postgresql user=owner password='se cret'
[users]
bob = pool_mode=session query_timeout=5 max_user_client_connections=3
[pgbouncer]
listen_addr = 127.0.0.1, ::1
listen_port = 6543
unix_socket_dir = /run/pgb
unix_socket_mode = 0770
auth_type = scram-sha-256
auth_file = userlist.txt
admin_users = bob, root
pool_mode = transaction
max_client_conn = 500
default_pool_size = 33
min_pool_size = 2
max_db_connections = 50
reserve_pool_size = 3
query_wait_timeout = 7.5
idle_transaction_timeout = 60
client_tls_sslmode = disable
server_tls_sslmode = require
max_prepared_statements = 0
log_connections = 0
ignore_startup_parameters = extra_float_digits
pidfile = /run/pgb.pid
"""


@pytest.mark.parametrize("language", ["toml", "yaml"])
def test_everything_that_has_a_word_here(tmp_path: Path, language: str) -> None:
    settings, notes = _converted(tmp_path, FULL, language)
    general = settings.general
    assert general.hosts == ("127.0.0.1", "::1")
    assert (general.port, general.unix_socket_dir, general.unix_socket_mode) == (6543, "/run/pgb", 0o770)
    assert (general.admin_username, general.admin_password.reveal()) == ("bob", 'pl"ain')
    assert (general.max_connections, general.query_wait_timeout) == (500, 7.5)
    assert (general.idle_transaction_timeout, general.prepared_statements) == (60.0, False)
    assert (general.log_client_connections, general.daemon_pid_file) == (False, "/run/pgb.pid")
    assert general.server_tls_mode == "require"
    assert general.pg_hba is not None
    assert general.pg_hba.text.split("\n")[0].split() == ["local", "all", "all", "scram-sha-256"]

    pools = settings.effective_pools()
    assert set(settings.pools) == {"shop", "forced"}
    assert {user for _, user in pools} == {"alice", "bob", "looker"}, "who has no password cannot prove anything"
    alice, bob = pools["shop", "alice"], pools["shop", "bob"]
    assert (alice.server_host, alice.server_port, alice.server_database) == ("db.example", 5433, "shop_prod")
    assert (alice.pool_size, alice.min_pool_size, alice.pool_mode) == (7, 2, PoolMode.STATEMENT)
    assert (bob.pool_mode, bob.query_timeout, bob.max_user_client_connections) == (PoolMode.SESSION, 5.0, 3)
    assert (alice.max_db_connections, settings.pools["shop"].reserve_pool_size) == (50, 3)
    assert ("client_encoding", "UTF8") in alice.startup_parameters
    forced = pools["forced", "alice"]
    assert (forced.server_username, forced.pool_size) == ("owner", 33)
    assert forced.server_password is not None
    assert forced.server_password.reveal() == "se cret"
    assert "of admin_users only the first is carried over: bob" in notes
    assert any("ignore_startup_parameters" in note for note in notes)


def test_what_pgbouncer_does_without_being_told(tmp_path: Path) -> None:
    settings, _ = _converted(tmp_path, "[databases]\na = host=b\n[pgbouncer]\nauth_file = userlist.txt\n")
    general = settings.general
    assert (general.port, general.max_connections, general.pool_mode) == (6432, 100, PoolMode.SESSION)
    assert (general.query_wait_timeout, general.server_lifetime, general.connect_timeout) == (120.0, 3600.0, 15.0)
    assert settings.effective_pools()["a", "alice"].pool_size == 20
    assert general.unix_socket_dir == "/tmp"


def test_no_limit_there_is_a_large_one_here(tmp_path: Path) -> None:
    ini = "[databases]\na = host=b\n[pgbouncer]\nauth_file=userlist.txt\nquery_wait_timeout=0\ndefault_pool_size=0\n"
    settings, notes = _converted(tmp_path, ini)
    assert settings.general.query_wait_timeout == 7 * 86400
    assert settings.effective_pools()["a", "alice"].pool_size == 1000
    assert any("pool_size 0" in note for note in notes)


def test_a_query_that_looks_users_up(tmp_path: Path) -> None:
    ini = (
        "[databases]\na = host=b user=owner\n"
        "[pgbouncer]\nauth_file=userlist.txt\nauth_user=looker\nauth_query=select u, p from f($1)\nauth_dbname=x\n"
    )
    settings, _ = _converted(tmp_path, ini)
    lookup = settings.pools["a"].auth_query
    assert lookup is not None
    assert (lookup.query, lookup.user, lookup.password.reveal()) == ("select u, p from f($1)", "looker", "x")
    assert (lookup.database, lookup.server_user, lookup.pool_size) == ("x", "owner", 20)


@pytest.mark.parametrize(
    ("line", "note"),
    [
        ("[databases]\n* = host=c", "the database *"),
        ("[databases]\nb = host=c,d", "of the hosts c,d only the first"),
        ("[databases]\nb = host=c connect_query='select 1'", "connect_query"),
        ("[peers]\n1 = host=c", "[peers]"),
        ("[pgbouncer]\nauth_file=userlist.txt\nlogfile=/var/log/x", "logfile"),
        ("[pgbouncer]\nauth_file=userlist.txt\nsome_new_key=1", "some_new_key = 1 (has no counterpart)"),
        ("[pgbouncer]\nauth_file=userlist.txt\nreserve_pool_size=4", "reserve_pool_size (it belongs to"),
        ("[pgbouncer]\nauth_file=userlist.txt\nlisten_port=many", "listen_port = many"),
        ("[pgbouncer]\nauth_file=userlist.txt\nclient_tls_cert_file=/nowhere.pem", "client_tls_cert_file"),
        ("[pgbouncer]\nauth_file=nowhere.txt", "auth_file"),
        ("[pgbouncer]\nauth_file=userlist.txt\nunix_socket_dir=@pgb", "an abstract unix_socket_dir"),
        ("[pgbouncer]\nauth_file=userlist.txt", "listen_addr is empty"),
    ],
)
def test_what_is_not_carried_over_is_told(tmp_path: Path, line: str, note: str) -> None:
    base = "[databases]\na = host=b\n[pgbouncer]\nauth_file = userlist.txt\n"
    settings, notes = _converted(tmp_path, f"{base}{line}\n")
    assert any(note in one for one in notes), notes
    assert "a" in settings.pools


@pytest.mark.parametrize(
    ("kind", "rules"),
    [
        ("trust", "local all all trust\nhost all all all trust\n"),
        ("any", "local all all trust\nhost all all all trust\n"),
        ("plain", "local all all password\nhost all all all password\n"),
        ("md5", "local all all md5\nhost all all all md5\n"),
        ("cert", "hostssl all all all cert\n"),
    ],
)
def test_ways_to_log_in(tmp_path: Path, kind: str, rules: str) -> None:
    ini = f"[databases]\na = host=b\n[pgbouncer]\nauth_file = userlist.txt\nauth_type = {kind}\n"
    settings, _ = _converted(tmp_path, ini)
    assert settings.general.pg_hba is not None
    assert settings.general.pg_hba.text == rules


def test_rules_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "hba").write_text("host all all all md5\n")
    (tmp_path / "ident").write_text("m root alice\n")
    ini = "[databases]\na = host=b\n[pgbouncer]\nauth_file = userlist.txt\nauth_type = hba\nauth_hba_file = hba\n"
    settings, _ = _converted(tmp_path, ini + "auth_ident_file = ident\n")
    assert settings.general.pg_hba is not None
    assert settings.general.pg_hba.text == "host all all all md5\n"
    assert settings.general.pg_ident is not None
    assert settings.general.pg_ident.text == "m root alice\n"


def test_the_notes_stand_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "pgbouncer.ini").write_text("[databases]\n* = host=c\n[pgbouncer]\n")
    draft, _ = convert(tmp_path / "pgbouncer.ini")
    for language in ("toml", "yaml"):
        assert "# - not carried over: the database *" in draft.text(language)
        assert "#" not in draft.text(language, comments=False)

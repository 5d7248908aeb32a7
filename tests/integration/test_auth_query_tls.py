"""auth_query where only TLS leads to the server, and where clients show certificates or insist on channel binding."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.integration.conftest import StartDoorman
from tests.support.certificates import Authority
from tests.support.doorman import Doorman, pool, stand_in
from tests.support.postgres import SECRET
from tests.support.process import wait_until
from tests.support.tls_postgres import TlsPostgres
from tests.support.wire import ServerError

pytestmark = pytest.mark.skipif(bool(stand_in()), reason="about pgdoorman's own way")

QUERY = "SELECT usename, passwd FROM pg_shadow WHERE usename = $1"
RULES = """\
host pgdoorman all all md5
hostssl each all all scram-sha-256
hostssl one all all cert map=people
"""


@pytest.fixture(scope="module")
def papers(workspace: Path) -> Path:
    folder = workspace / "lookup-papers"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def authority(papers: Path) -> Authority:
    authority = Authority("People")
    authority.write(papers, "ca")
    authority.issue("localhost", ["localhost", "127.0.0.1"]).write(papers, "ours")
    for name in ("scram@example.org", "eve@example.org"):
        authority.issue(name, for_clients=True).write(papers, name.partition("@")[0])
    return authority


@pytest.fixture(scope="module")
def server(authority: Authority) -> Iterator[TlsPostgres]:
    with TlsPostgres(authority.issue("postgres", ["localhost", "127.0.0.1"]), authority) as server:
        server.populate()
        server.run("grant select on pg_shadow to only_tls")
        yield server


@pytest.fixture(scope="module")
def house(server: TlsPostgres, papers: Path, start_module_doorman: StartDoorman) -> Doorman:
    section = {"query": QUERY, "user": "only_tls", "password": SECRET, "database": "postgres"}
    tls = {"server_tls_mode": "verify-full", "server_tls_ca_cert": f"{papers}/ca.crt", "server_database": "app"}
    return start_module_doorman(
        pools={
            "each": pool(server, **tls, auth_query=section),
            "one": pool(server, **tls, auth_query={**section, "server_user": "only_tls", "server_password": SECRET}),
            "plain": pool(server, server_tls_mode="disable", auth_query=section),
        },
        general={
            "pg_hba": {"content": RULES + "host plain all all md5\n"},
            "pg_ident": {"content": "people /^(.*)@example\\.org$ \\1_user\n"},
            "tls_certificate": f"{papers}/ours.crt",
            "tls_private_key": f"{papers}/ours.key",
            "tls_ca_cert": f"{papers}/ca.crt",
        },
    )


def ask(house: Doorman, database: str, user: str, **options: Any) -> tuple[Any, ...]:
    sql = "select current_user::text, ssl from pg_stat_ssl where pid = pg_backend_pid()"
    with psycopg.connect(
        host="127.0.0.1", port=house.port, dbname=database, user=user, sslmode="require", **options
    ) as connection:
        row: tuple[Any, ...] | None = connection.execute(sql).fetchone()
    assert row is not None
    return row


def test_look_ups_and_pools_use_tls(house: Doorman) -> None:
    """With channel binding on the way in, and the keys that it yields on the way on."""
    assert ask(house, "each", "scram_user", password=SECRET, channel_binding="require") == ("scram_user", True)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        ask(house, "each", "scram_user", password="wrong", channel_binding="require")


def test_without_tls_the_server_refuses_the_look_up(house: Doorman) -> None:
    with pytest.raises(ServerError) as caught:
        house.connect("plain", "scram_user", SECRET)
    assert caught.value.sqlstate == "58000"
    wait_until(lambda: "[plain] auth_query failed: cannot connect:" in house.log(), 10, "the reason stands in the log")


def test_certificates_and_a_map(house: Doorman, papers: Path) -> None:
    """The certificate's name is mapped to a user, who has to be known to the database."""
    files = {"sslcert": f"{papers}/scram.crt", "sslkey": f"{papers}/scram.key"}
    assert ask(house, "one", "scram_user", **files) == ("only_tls", True)
    with pytest.raises(psycopg.OperationalError, match="certificate authentication failed"):
        ask(house, "one", "md5_user", **files)
    eve = {"sslcert": f"{papers}/eve.crt", "sslkey": f"{papers}/eve.key"}
    with pytest.raises(psycopg.OperationalError, match='role "eve_user" does not exist'):
        ask(house, "one", "eve_user", **eve)
    with pytest.raises(psycopg.OperationalError, match="valid client certificate"):
        ask(house, "one", "scram_user", password=SECRET)

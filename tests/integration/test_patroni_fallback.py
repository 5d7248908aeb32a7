"""The local PostgreSQL goes down and Patroni knows another one."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from time import monotonic

import pytest

from tests.integration.conftest import StartDoorman
from tests.support.doorman import Doorman, pool, user
from tests.support.patroni import FakePatroni, member
from tests.support.postgres import Postgres
from tests.support.process import free_port, wait_until
from tests.support.wire import ServerError, WireError, cancel_request, query

PORT = "select inet_server_port()"


@pytest.fixture
def patroni(postgres: Postgres) -> Iterator[FakePatroni]:
    with FakePatroni(
        member("gone", "127.0.0.1", free_port(), "sync_standby"),
        member("other", postgres.host, postgres.port, "replica"),
    ) as fake:
        yield fake


def _value(doorman: Doorman, database: str = "app", user: str = "alice") -> str | None:
    with doorman.connect(database, user, patience=20) as client:
        return client.value(PORT)


def _running(postgres: Postgres) -> str:
    with postgres.connect() as wire:
        return wire.value("select string_agg(query, ';') from pg_stat_activity where pid <> pg_backend_pid()") or ""


def test_another_host_serves_until_the_local_one_is_back(
    start_doorman: StartDoorman, own_postgres: Postgres, postgres: Postgres, patroni: FakePatroni
) -> None:
    local, other = str(own_postgres.port), str(postgres.port)
    text = "select usename as user, passwd as password from pg_shadow where usename = $1"
    doorman = start_doorman(
        pools={
            "app": pool(own_postgres, user("alice", pool_size=2), patroni_api_urls=[patroni.url]),
            "other": pool(own_postgres, patroni_api_urls=[patroni.url], auth_query={"query": text, "user": "postgres"}),
        },
        general={"fallback_cooldown": "3s", "retain_connections_time": "1s", "server_tls_mode": "allow"},
        sections={"web": {"enabled": True, "host": "127.0.0.1", "port": 0}},
    )
    assert _value(doorman) == local
    assert patroni.paths == []
    own_postgres.kill()
    with suppress(ServerError, WireError):
        _value(doorman)  # the idle connection may not have been found dead yet
    wait_until(lambda: _value(doorman) == other, 20, "a query at the other host")
    wait_until(
        lambda: _value(doorman) == other and doorman.show("pools")[0]["fallback_active"] == "1",
        20,
        "the fallback to show",
    )
    assert _value(doorman, database="other", user="bob") == other, "auth_query and its users follow"
    with doorman.connect(patience=20) as client:
        client.send(query("select pg_sleep(60)"))
        wait_until(lambda: "pg_sleep" in _running(postgres), 20, "a query at the other host")
        with doorman.dial(20) as killer:
            killer.send_bytes(cancel_request(client.process_id, client.secret).data)
            killer.wait_closed(20)
        assert [reply.fields()["C"] for reply in client.settle(20) if reply.kind == "E"] == ["57014"]
    for words in ("wave 1", "wave 2", "winner other (replica)", "is put aside for 3 s"):
        doorman.wait_logged(words)
    own_postgres.start()
    wait_until(lambda: _value(doorman) == local, 30, "a query at the local host")
    wait_until(lambda: doorman.show("pools")[0]["fallback_active"] == "0", 20, "the end of the fallback")
    wait_until(lambda: not postgres.backends("app"), 20, "the end of the other host's connections")


def test_nobody_else_will_do(start_doorman: StartDoorman, patroni: FakePatroni) -> None:
    with socket.socket() as silent:  # takes connections, says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        patroni.members[1]["port"] = silent.getsockname()[1]
        port = free_port()
        doorman = start_doorman(
            pools={"app": pool(("127.0.0.1", port), user("alice"), patroni_api_urls=[patroni.url])},
            general={"fallback_connect_timeout": "1s"},
        )
        began = monotonic()
        with pytest.raises(ServerError, match=f"127.0.0.1:{port}: Connection refused"):
            _value(doorman)
        assert monotonic() - began < 9
        doorman.wait_logged("all fallback candidates rejected")
        doorman.wait_logged("1 timeout")


def test_the_api_is_down_and_comes_back(start_doorman: StartDoorman, postgres: Postgres, patroni: FakePatroni) -> None:
    port = free_port()
    doorman = start_doorman(
        pools={
            "app": pool(
                ("127.0.0.1", port), user("alice"), patroni_api_urls=[f"http://127.0.0.1:{free_port()}/cluster"]
            )
        },
    )
    with pytest.raises(ServerError, match=f"127.0.0.1:{port}: Connection refused"):
        _value(doorman)
    doorman.wait_logged("no Patroni API has answered")
    doorman.pools["app"]["patroni_api_urls"] = [patroni.url]
    doorman.reload()

    def serves() -> bool:
        with suppress(ServerError, WireError):
            return _value(doorman) == str(postgres.port)
        return False

    wait_until(serves, 20, "a query by the new settings")


def test_a_wrong_password_is_no_outage(start_doorman: StartDoorman, postgres: Postgres, patroni: FakePatroni) -> None:
    doorman = start_doorman(
        pools={
            "app": pool(
                postgres,
                user("alice", server_username="scram_user", server_password="wrong"),
                patroni_api_urls=[patroni.url],
            )
        },
    )
    with pytest.raises(ServerError, match="password authentication failed"):
        _value(doorman)
    assert patroni.paths == []

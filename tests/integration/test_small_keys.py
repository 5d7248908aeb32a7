"""Keys that change little things: what a user sees of each."""

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.integration.conftest import StartDoorman
from tests.support.doorman import Doorman, pool, user
from tests.support.postgres import Postgres
from tests.support.process import wait_until
from tests.support.wire import (
    ServerError,
    bind,
    cancel_request,
    describe_statement,
    execute,
    parse,
    query,
    startup,
    sync,
)

Start = Callable[..., Doorman]


@pytest.fixture(scope="module")
def _house(start_module_doorman: StartDoorman, postgres: Postgres) -> Doorman:
    return start_module_doorman(pools={"app": pool(postgres, user("alice", pool_size=1))})


@pytest.fixture
def configured(_house: Doorman, postgres: Postgres) -> Iterator[Start]:
    """Gives the pooler these general keys, and those of the pool `app`; with new backends. It is one for all tests."""
    general = dict(_house.general)

    def configure(keys: dict[str, object], **settings: object) -> Doorman:
        _house.general = {**general, **keys}
        _house.pools = {"app": pool(postgres, user("alice", pool_size=1), **settings)}
        _reload(_house)
        with _house.admin() as admin:
            admin.run("reconnect")
        return _house

    yield configure
    _house.general = general


def _reload(doorman: Doorman) -> None:
    doorman.write_config()
    with doorman.admin() as admin:
        admin.run("reload")


# pooler_check_query


def _transactions(doorman: Doorman) -> int:
    return int(doorman.show("stats")[0]["total_xact_count"] or 0)


@pytest.mark.parametrize("text", [";", "SELECT 1 AS alive"])
def test_the_check_query_takes_no_backend(configured: Start, postgres: Postgres, text: str) -> None:
    doorman = configured({"pooler_check_query": text})
    with postgres.connect("app", "alice") as direct:
        expected = [(reply.kind, reply.body) for reply in direct.ask(query(text))]
    with doorman.connect() as holder, doorman.connect() as client:
        holder.run("begin")
        holder.value("select 1")
        before = _transactions(doorman)
        for _ in range(3):
            assert [(reply.kind, reply.body) for reply in client.ask(query(text))] == expected
        assert _transactions(doorman) == before
        holder.run("commit")
        # In a block it is a query like any other.
        client.run("begin")
        assert client.ask(query(text))[-1].body == b"T"
        client.run("commit")
        assert client.value("select 'other'") == "other"
        client.ask(parse("", "select 'unnamed'"), sync())
        client.ask(query(text))
        assert [r.kind for r in client.ask(bind("", "", []), execute(), sync())] == ["E", "Z"], "a Query drops it"


def test_a_check_query_that_fails_fails_each_time(configured: Start) -> None:
    doorman = configured({"pooler_check_query": "SELECT nonsense"})
    with doorman.connect() as client:
        for _ in range(2):
            assert [reply.kind for reply in client.ask(query("SELECT nonsense"))] == ["E", "Z"]
        assert client.value("select 1") == "1"


def test_another_check_query_at_a_reload(configured: Start) -> None:
    doorman = configured({})
    with doorman.connect() as client:
        assert client.value("SELECT 2") == "2"
        doorman.general["pooler_check_query"] = "SELECT 2"
        _reload(doorman)
        with doorman.admin() as admin:
            admin.run("reconnect")
        assert client.value("select 'opens a backend'")
        before = _transactions(doorman)
        assert client.value("SELECT 2") == "2"
        assert _transactions(doorman) == before


# log_client_parameter_status_changes


def test_changes_of_parameters_are_logged(configured: Start) -> None:
    doorman = configured({}, log_client_parameter_status_changes=True)
    with doorman.connect() as client:
        client.run("set timezone = 'Asia/Tokyo'")
    wait_until(lambda: "TimeZone: UTC -> Asia/Tokyo" in doorman.log(), 10, "the change to be logged")


def test_they_are_not_unless_asked(configured: Start) -> None:
    doorman = configured({})
    with doorman.connect() as client:
        client.run("set timezone = 'Asia/Seoul'")
        client.value("select 1")
    assert "Asia/Seoul" not in doorman.log()


# cancel_wait_timeout


@pytest.mark.parametrize(("limit", "ends"), [("500ms", "DCZ"), ("0", "EZ")])
def test_a_cancel_that_cannot_be_sent_in_time_is_dropped(
    start_doorman: StartDoorman, postgres: Postgres, limit: str, ends: str
) -> None:
    """The only helper is busy for two seconds, with a server that says nothing; the cancel stands behind that."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        doorman = start_doorman(
            pools={
                "app": pool(postgres, user("alice", pool_size=1)),
                "mute": pool(silent.getsockname(), user("alice", pool_size=1), connect_timeout="2s"),
            },
            general={"helper_threads": 1, "cancel_wait_timeout": limit},
        )
        with doorman.connect(patience=30) as client, doorman.dial() as stuck:
            client.value("select 1")
            client.send(query("select pg_sleep(5)"))
            stuck.send(startup({"user": "alice", "database": "mute"}))
            with silent.accept()[0], doorman.dial(20) as killer:
                killer.send_bytes(cancel_request(client.process_id, client.secret).data)
                killer.wait_closed(20)
            assert "".join(reply.kind for reply in client.settle()).endswith(ends)


# client_anonymous_prepared_cache_size, query_interner_*


def test_unused_texts_are_forgotten_and_used_ones_are_not(configured: Start) -> None:
    doorman = configured(
        {"query_interner_gc_interval_seconds": "1s", "query_interner_anon_idle_ttl_seconds": "1s"},
    )

    def texts() -> set[str | None]:
        return {row["query"] for row in doorman.show("prepared_statements")}

    with doorman.connect() as client:
        client.ask(parse("mine", "select 'kept'"), sync())
        assert "select 'kept'" in texts()
        wait_until(lambda: texts() == set(), 20, "the text to rest")
        for _ in range(3):
            kinds = [r.kind for r in client.ask(bind("", "mine", []), execute(), sync())]
            assert kinds == ["2", "D", "C", "Z"], "who has it goes on with it"
        with doorman.connect() as other:
            other.ask(parse("its", "select 'kept'"), describe_statement("its"), sync())
            assert texts() == {"select 'kept'"}
            assert other.value("select count(*) from pg_prepared_statements") == "1", "and it is the same one"


def test_small_caches_of_clients_change_nothing_that_they_see(configured: Start) -> None:
    doorman = configured({"client_anonymous_prepared_cache_size": 1})
    with doorman.connect() as client:
        for turn in range(4):
            for number in range(5):
                replies = client.ask(parse("", f"select {number}"), bind("", "", []), execute(), sync())
                (row,) = [reply for reply in replies if reply.kind == "D"]
                assert row.columns() == [str(number).encode()], f"turn {turn}"


# scaling_warm_pool_ratio, max_concurrent_creates, scaling_max_parallel_creates


def test_a_crowd_at_a_cold_pool_is_served(start_doorman: StartDoorman, postgres: Postgres) -> None:
    doorman = start_doorman(
        pools={"app": pool(postgres, user("alice", pool_size=10), scaling_warm_pool_ratio=50, max_concurrent_creates=8)}
    )
    clients = [doorman.connect(patience=30) for _ in range(10)]
    began = time.monotonic()
    threads = [threading.Thread(target=lambda c=c: c.value("select pg_sleep(0.5)")) for c in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert time.monotonic() - began < 20
    (row,) = doorman.show("pool_scaling")
    assert 2 <= int(row["creates"] or 0) <= 10
    for client in clients:
        client.hang_up()


# pin_policy


def _temporary(doorman: Doorman) -> str | None:
    """How many temporary tables the one backend has."""
    with doorman.connect(patience=20) as other:
        return other.value("select count(*) from pg_class where relpersistence = 't'")


def test_refusing_what_would_pin_is_sending_away_behind_the_transaction(configured: Start, postgres: Postgres) -> None:
    doorman = configured({"pin_policy": "refuse"})
    postgres.run("create table if not exists made_beside (x int)", "truncate made_beside", database="app")
    with doorman.connect() as client:
        client.run("begin")
        client.run("create temp table mine (x int)")
        client.run("insert into made_beside values (1)")
        client.send(query("commit"))
        replies = client.wait_closed()
    assert [reply.kind for reply in replies] == ["C", "Z", "E"], "the transaction stands, and its client hears so"
    fields = replies[-1].fields()
    assert (fields["S"], fields["C"]) == ("FATAL", "0A000")
    assert "not available in transaction pooling: temporary" in fields["M"]
    assert _temporary(doorman) == "0"
    with doorman.connect() as client:
        assert client.value("select count(*) from made_beside") == "1"
        client.run("begin")
        client.run("create temp table mine (x int)")
        client.run("rollback")
        assert client.value("select 'still here'") == "still here", "nothing was left behind"
        client.run("begin")
        client.run("create temp table mine (x int) on commit drop")
        client.run("commit")
        assert client.value("select 'still here'") == "still here"
    assert _temporary(doorman) == "0"


def test_ignoring_it_is_removing_it_behind_the_transaction(configured: Start) -> None:
    doorman = configured({"pin_policy": "ignore"})
    with doorman.connect() as client:
        client.run("begin")
        client.run("create temp table mine (x int)")
        assert client.value("select count(*) from mine") == "0"
        client.run("commit")
        with pytest.raises(ServerError, match='relation "mine" does not exist'):
            client.value("select count(*) from mine")
        assert _temporary(doorman) == "0"
        assert client.value("select 'still here'") == "still here"


def test_another_policy_at_a_reload(configured: Start) -> None:
    doorman = configured({"pin_policy": "refuse"})
    with doorman.connect() as client:
        doorman.general["pin_policy"] = "pin"
        _reload(doorman)
        client.run("create temp table mine (x int)")
        assert client.value("select count(*) from mine") == "0"

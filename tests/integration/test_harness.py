"""The harness itself: what judges must be right first."""

import socket
import tomllib

import pytest

from tests.support.doorman import toml
from tests.support.postgres import SECRET, Postgres
from tests.support.wire import (
    HungUp,
    Normaliser,
    Outstanding,
    Reply,
    ServerError,
    Silence,
    Wire,
    bind,
    copy_data,
    copy_done,
    copy_fail,
    describe,
    describe_portal,
    execute,
    flush,
    parse,
    query,
    sync,
)


@pytest.mark.parametrize("user", ["md5_user", "scram_user", "clear_user"])
def test_every_password_method_logs_in(postgres: Postgres, user: str) -> None:
    with postgres.connect("app", user, SECRET) as wire:
        assert wire.value("select current_user") == user
        assert wire.parameters["server_version"].startswith("17")
        assert len(wire.secret) == 4
    with pytest.raises(ServerError, match="28P01"):
        postgres.connect("app", user, "wrong")


def test_eighteen_speaks_3_2_with_long_keys(postgres18: Postgres) -> None:
    wire = Wire.connect(
        postgres18.host,
        postgres18.port,
        user="postgres",
        database="app",
        version=196610,
        parameters={"DateStyle": "SQL"},
    )
    with wire:
        assert len(wire.secret) == 32
        assert wire.parameters["DateStyle"].startswith("SQL")


def test_unix_socket(postgres: Postgres) -> None:
    with Wire.connect(postgres.socket_directory, postgres.port, user="postgres", database="app") as wire:
        assert wire.value("select inet_client_addr()") is None


def test_settle_reads_exactly_what_is_owed(postgres: Postgres) -> None:
    with postgres.connect("app") as wire:
        kinds = "".join(reply.kind for reply in wire.ask(parse("", "select 1"), bind(), describe_portal(), flush()))
        assert kinds == "12T"
        assert not wire.outstanding.is_empty  # the Sync is missing
        kinds = "".join(reply.kind for reply in wire.ask(execute(), sync(), parse("", "nonsense"), bind(), sync()))
        assert kinds == "DCZEZ"
        assert wire.outstanding.is_empty
        wire.send(parse("", "select 2"))
        assert wire.settle() == []  # not flushed: nothing is sure to come
        assert not wire.outstanding.is_empty
        assert [reply.kind for reply in wire.ask(sync())] == ["1", "Z"]


def test_settle_knows_copy(postgres: Postgres) -> None:
    with postgres.connect("app") as wire:
        wire.run("create temp table t (i int)")
        assert [reply.kind for reply in wire.ask(query("copy t from stdin"))] == ["G"]
        assert [reply.kind for reply in wire.ask(copy_data("1\n"), copy_done())] == ["C", "Z"]
        # A Sync behind the Execute is swallowed: the answer comes with the one behind CopyDone.
        replies = wire.ask(parse("", "copy t from stdin"), bind(), execute(), sync())
        assert [reply.kind for reply in replies] == ["1", "2", "G"]
        assert wire.ask(copy_data("2\n"), copy_done()) == []
        assert [reply.kind for reply in wire.ask(sync())] == ["C", "Z"]
        everything = (parse("", "copy t from stdin"), bind(), execute(), sync(), copy_data("3\n"), copy_done(), sync())
        assert [reply.kind for reply in wire.ask(*everything)] == ["1", "2", "G", "C", "Z"]
        assert [reply.kind for reply in wire.ask(parse("", "copy t from stdin"), bind(), execute())] == []
        wire.send(flush())
        assert [reply.kind for reply in wire.settle()] == ["1", "2", "G"]
        assert [reply.kind for reply in wire.ask(copy_fail())] == ["E"]
        assert [reply.kind for reply in wire.ask(sync())] == ["Z"]
        # The COPY fails before it begins: the data that follows is ignored, both Syncs are answered.
        refused = (parse("", "copy none from stdin"), bind(), execute(), sync(), copy_data("3\n"), copy_done(), sync())
        assert [reply.kind for reply in wire.ask(*refused)] == ["1", "2", "E", "Z", "Z"]
        assert [reply.kind for reply in wire.ask(query("copy t to stdout"))] == ["H", "d", "d", "d", "c", "C", "Z"]


def test_after_an_error_everything_up_to_sync_is_skipped(postgres: Postgres) -> None:
    with postgres.connect("app") as wire:
        assert [reply.kind for reply in wire.ask(bind("", "none"), flush())] == ["E"]
        assert wire.ask(query("select 1"), parse("", "select 1"), flush()) == []
        assert [reply.kind for reply in wire.ask(sync())] == ["Z"]
        assert wire.value("select 1") == "1"


def test_silence_and_hang_up_tell_what_came(postgres: Postgres) -> None:
    with postgres.connect("app") as wire:
        wire.send(query("select 1; select pg_sleep(30)"))
        with pytest.raises(Silence, match="until then came"):
            wire.settle(0.3)
        postgres.run(f"select pg_terminate_backend({wire.process_id})")
        with pytest.raises(HungUp, match="57P01") as caught:
            wire.settle()
        assert caught.value.replies[-1].kind == "E"


def test_reset_really_resets() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        wire = Wire.dial("127.0.0.1", listener.getsockname()[1])
        accepted, _ = listener.accept()
        with accepted:
            wire.reset()
            with pytest.raises(ConnectionResetError):
                accepted.recv(1)


def test_normaliser_hides_only_what_must_differ() -> None:
    line = Normaliser().line
    notification = Reply("A", b"\0\0\x12\x34chan\0text\0")
    assert line(notification) == "NotificationResponse from * 'chan' 'text'"
    description = Reply("t", b"\0\2\0\0\0\x17\0\0\x40\x01")
    assert describe(description) == "ParameterDescription [23, 16385]"
    assert line(description) == "ParameterDescription [23, #1]"


def test_outstanding_holds_across_pipelined_syncs() -> None:
    owed = Outstanding()
    for kind in "PBESPBES":
        owed.sent(kind)
    for kind in "12C":
        owed.received(Reply(kind, b"SELECT 1\0"))
    owed.received(Reply("Z", b"I"))
    assert not owed.settled
    owed.received(Reply("E", b"SERROR\0\0"))
    assert not owed.settled
    owed.received(Reply("Z", b"I"))
    assert owed.settled
    assert owed.is_empty


def test_toml_writer_round_trips() -> None:
    settings = {
        "general": {"port": 1, "pg_hba": {"content": "a\nb"}},
        "pools": {"a.b": {"users": [{"u": "x"}, {"u": "y"}]}},
    }
    assert tomllib.loads(toml(settings)) == settings

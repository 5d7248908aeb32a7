"""The session: both protocols, errors that leave it usable, and what it says first."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgdoorman.admin.flavour import Flavour, is_console
from pgdoorman.control import ReloadOutcome
from pgdoorman.protocol import codes
from tests.support import wire
from tests.support.console import ADMIN_ID, Desk, error, kinds, replies, texts
from tests.support.control import House


def raw(kind: str, body: bytes) -> wire.Request:
    return wire.raw(wire.frame(kind, body))


# --- greeting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flavour", "version"), [(Flavour.PGDOORMAN, "9.8.7/pgdoorman"), (Flavour.PGBOUNCER, "1.25.2/bouncer")]
)
def test_greeting(flavour: Flavour, version: str) -> None:
    secret = b"\1\2\3\4"
    answer = replies(Desk(flavour).console.greeting(secret, {"application_name": "psql", "options": "-c x=y"}))
    parameters = dict(reply.parameter() for reply in answer if reply.kind == "S")
    assert parameters["server_version"] == version
    assert parameters["client_encoding"] == "UTF8"
    assert parameters["standard_conforming_strings"] == "on"
    assert parameters["application_name"] == "psql"
    assert parameters["is_superuser"] == "on"
    assert "options" not in parameters
    assert kinds(answer[-2:]) == "KZ"
    assert answer[-2].body == struct.pack("!I", ADMIN_ID) + secret


def test_a_stats_user_is_no_superuser_and_a_long_key_is_passed_on() -> None:
    answer = replies(Desk(admin=False).console.greeting(bytes(32)))
    assert ("is_superuser", "off") in [reply.parameter() for reply in answer if reply.kind == "S"]
    assert len(answer[-2].body) == 36


def test_the_names_of_the_console() -> None:
    assert [is_console(name) for name in ("pgdoorman", "pgbouncer", "PgBouncer", "postgres", "")] == [
        True, True, False, False, False,
    ]  # fmt: skip


# --- the simple protocol ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", ";", " \n", "-- ping", "/**/"])
def test_an_empty_query_is_answered_as_one(text: str) -> None:
    assert kinds(Desk().query(text)) == "IZ"


def test_several_statements_in_one_query() -> None:
    desk = Desk()
    assert kinds(desk.query("SHOW VERSION; PAUSE shop; SHOW STATE;")) == "TDCCTDDDDDCZ"
    assert desk.house.calls == [("pause", "shop")]


def test_nothing_is_done_if_any_statement_is_wrong() -> None:
    desk = Desk()
    assert kinds(desk.query("PAUSE shop; nonsense")) == "EZ"
    assert desk.house.calls == []


def test_a_statement_that_fails_ends_the_script() -> None:
    desk = Desk()
    answer = desk.query("SHOW VERSION; PAUSE nope; RECONNECT")
    assert kinds(answer) == "TDCEZ"
    assert desk.house.calls == [("pause", "nope")]
    assert kinds(desk.query("SHOW VERSION")) == "TDCZ"


def test_a_script_goes_on_behind_a_statement_that_waits() -> None:
    desk = Desk()
    assert kinds(desk.query("SHOW VERSION; RELOAD; SHOW LOG_LEVEL")) == "TDC"
    with pytest.raises(RuntimeError):
        desk.console.settle()
    desk.house.reloads[0].finish(ReloadOutcome())
    assert kinds(desk.settle()) == "CTDCZ"


def test_a_shutdown_in_a_script_ends_it() -> None:
    desk = Desk(Flavour.PGBOUNCER)
    assert kinds(desk.query("SHOW VERSION; SHUTDOWN; PAUSE")) == "TDC"
    assert desk.closed
    assert [call[0] for call in desk.house.calls] == ["shutdown"]


def test_feeding_while_pending_is_a_mistake_of_the_caller() -> None:
    desk = Desk()
    desk.query("RELOAD")
    with pytest.raises(RuntimeError):
        desk.console.receive(codes.SYNC, b"")


def test_terminate() -> None:
    desk = Desk()
    assert desk.ask(wire.terminate()) == []
    assert desk.closed


# --- the extended protocol --------------------------------------------------------------------------------------------


def test_a_show_with_everything_that_a_driver_sends() -> None:
    desk = Desk()
    answer = desk.ask(
        wire.parse("s", "SHOW VERSION"), wire.describe_statement("s"), wire.bind("p", "s"), wire.describe_portal("p"),
        wire.execute("p"), wire.close_portal("p"), wire.close_statement("s"), wire.sync(),
    )  # fmt: skip
    assert kinds(answer) == "1tT2TDC33Z"
    assert texts(answer[5]) == ["PgDoorman 9.8.7"]
    assert kinds(desk.ask(wire.bind("", "s"), wire.sync())) == "EZ"


def test_a_verb_has_no_rows_and_an_empty_query_no_tag() -> None:
    desk = Desk()
    answer = desk.ask(wire.parse("", "PAUSE shop"), wire.describe_statement(), wire.bind(), wire.execute(), wire.sync())
    assert kinds(answer) == "1tn2CZ"
    answer = desk.ask(wire.parse("", "-- ping"), wire.describe_statement(), wire.bind(), wire.execute(), wire.sync())
    assert kinds(answer) == "1tn2IZ"


def test_a_notice_stands_before_the_tag() -> None:
    desk = Desk()
    answer = desk.ask(wire.parse("", "SET extra_float_digits = 3"), wire.bind(), wire.execute(), wire.sync())
    assert kinds(answer) == "12NCZ"


def test_rows_in_portions() -> None:
    desk = Desk()
    answer = desk.ask(
        wire.parse("", "SHOW LISTS"), wire.bind(), wire.execute("", 5), wire.execute("", 6), wire.execute(),
        wire.execute(), wire.sync(),
    )  # fmt: skip
    assert kinds(answer) == "12" + "DDDDDs" + "DDDDDDs" + "DC" + "C" + "Z"


def test_a_verb_is_not_done_twice_by_one_portal() -> None:
    desk = Desk()
    answer = desk.ask(wire.parse("", "RECONNECT"), wire.bind(), wire.execute(), wire.execute(), wire.sync())
    assert kinds(answer) == "12CEZ"
    assert error(answer)["C"] == "55000"
    assert desk.house.calls == [("reconnect", None)]


def test_binary_results() -> None:
    desk = Desk(Flavour.PGBOUNCER)
    bind = wire.raw(wire.frame("B", b"\0\0" + struct.pack("!HHHH", 0, 0, 1, 1)))
    answer = desk.ask(wire.parse("", "SHOW LISTS"), bind, wire.describe_portal(), wire.execute(), wire.sync())
    assert answer[3].columns() == [b"databases", struct.pack("!i", 2)]
    assert answer[2].body.endswith(struct.pack("!IhIhih", 0, 0, 23, 4, -1, 1))


def test_a_wait_in_the_extended_protocol() -> None:
    house = House()
    house.held = {"shop"}
    desk = Desk(Flavour.PGBOUNCER, house=house)
    assert kinds(desk.ask(wire.parse("", "PAUSE shop"), wire.bind(), wire.execute())) == "12"
    house.pauses["shop"].finish(None)
    assert kinds(desk.settle()) == "C"
    assert kinds(desk.ask(wire.sync())) == "Z"

    desk.query("RESUME shop")
    desk.ask(wire.parse("", "PAUSE shop"), wire.bind(), wire.execute())
    desk.console.cancel()
    assert kinds(desk.settle()) == "E"
    assert kinds(desk.ask(wire.bind(), wire.execute(), wire.sync())) == "Z"  # skipped until Sync


def test_a_shutdown_in_the_extended_protocol_closes() -> None:
    desk = Desk(Flavour.PGBOUNCER)
    assert kinds(desk.ask(wire.parse("", "SHUTDOWN"), wire.bind(), wire.execute())) == "12"
    assert desk.closed


@pytest.mark.parametrize(
    ("requests", "code"),
    [
        ([wire.parse("", "nonsense")], "42601"),
        ([wire.parse("", "SHOW VERSION; SHOW STATE")], "42601"),
        ([wire.parse("", "SHOW VERSION", [25])], "0A000"),
        ([wire.parse("s", "SHOW VERSION"), wire.parse("s", "SHOW STATE")], "42P05"),
        ([wire.bind("", "nope")], "26000"),
        ([wire.parse("", "PAUSE $1"), wire.bind("", "", ["x"])], "08P01"),
        ([wire.parse("", "SHOW STATE"), wire.bind("p"), wire.bind("p")], "42P03"),
        ([wire.describe_statement("nope")], "26000"),
        ([wire.describe_portal("nope")], "34000"),
        ([wire.execute("nope")], "34000"),
        ([wire.parse("", "PAUSE nope"), wire.bind(), wire.execute()], "3D000"),
        ([wire.raw(wire.frame("P", b"no terminator"))], "08P01"),
        ([wire.raw(wire.frame("P", b"\0SHOW VERSION\0"))], "08P01"),
        ([wire.raw(wire.frame("P", b"\0SHOW \xff\0\0\0"))], "22021"),
        ([wire.raw(wire.frame("B", b"\0\0\0"))], "08P01"),
        ([wire.raw(wire.frame("D", b"X\0"))], "08P01"),
        ([wire.raw(wire.frame("D", b""))], "08P01"),
        ([wire.raw(wire.frame("C", b"Sx\0y"))], "08P01"),
        ([wire.raw(wire.frame("E", b"\0\0"))], "08P01"),
    ],
)
def test_errors_of_the_extended_protocol_are_skipped_to_the_next_sync(requests: list[wire.Request], code: str) -> None:
    desk = Desk()
    answer = desk.ask(*requests, wire.execute(), wire.query("SHOW VERSION"), wire.flush(), wire.sync())
    assert kinds(answer).lstrip("12") == "EZ"
    assert error(answer)["C"] == code
    assert error(answer)["S"] == "ERROR"
    assert kinds(desk.query("SHOW VERSION")) == "TDCZ"


def test_a_lookup_of_types_finds_none_and_may_have_parameters() -> None:
    desk = Desk()
    text = "SELECT typname AS name, oid FROM pg_type t WHERE t.oid = to_regtype($1)"
    answer = desk.ask(
        wire.parse("", text, [25]),
        wire.describe_statement(),
        wire.bind("", "", ["hstore"]),
        wire.execute(),
        wire.sync(),
    )
    assert kinds(answer) == "1tT2CZ"
    assert answer[1].body == struct.pack("!HI", 1, 25)
    assert kinds(desk.ask(wire.parse("", text, [25]), wire.bind("", "", [None]), wire.execute(), wire.sync())) == "12CZ"
    assert error(desk.ask(wire.parse("", text, [25]), wire.bind(), wire.sync()))["C"] == "08P01"


def test_result_formats_that_do_not_fit() -> None:
    desk = Desk()
    for formats in ((1, 1, 1), (2,)):
        bind = wire.raw(wire.frame("B", b"\0\0" + struct.pack(f"!HHH{len(formats)}H", 0, 0, len(formats), *formats)))
        answer = desk.ask(wire.parse("", "SHOW STATE"), bind, wire.sync())
        assert kinds(answer) == "1EZ"
        assert error(answer)["C"] == "08P01"


def test_a_simple_query_ends_the_unnamed_statement() -> None:
    desk = Desk()
    desk.ask(wire.parse("", "SHOW STATE"))
    desk.query("SHOW VERSION")
    assert error(desk.ask(wire.bind(), wire.sync()))["C"] == "26000"


def test_portals_end_with_sync_and_statements_do_not() -> None:
    desk = Desk()
    desk.ask(wire.parse("s", "SHOW STATE"), wire.bind("p", "s"), wire.sync())
    assert error(desk.ask(wire.execute("p"), wire.sync()))["C"] == "34000"
    assert kinds(desk.ask(wire.bind("p", "s"), wire.sync())) == "2Z"


def test_closing_what_is_not_there_is_no_error() -> None:
    assert kinds(Desk().ask(wire.close_statement("x"), wire.close_portal("x"), wire.sync())) == "33Z"


def test_names_without_end_are_refused() -> None:
    desk = Desk()
    answer = desk.ask(*(wire.parse(f"s{number}", "SHOW STATE") for number in range(1001)), wire.sync())
    assert kinds(answer) == "1" * 1000 + "EZ"
    assert error(answer)["C"] == "54000"


# --- what has no business here ----------------------------------------------------------------------------------------


def test_copy_messages_are_ignored_and_a_function_call_refused() -> None:
    desk = Desk()
    assert desk.ask(wire.copy_data("x"), wire.copy_done(), wire.copy_fail()) == []
    assert kinds(desk.ask(wire.function_call(1))) == "EZ"
    assert kinds(desk.query("SHOW VERSION")) == "TDCZ"


def test_an_unknown_message_ends_the_session() -> None:
    desk = Desk()
    answer = desk.ask(wire.password_message("x"))
    assert error(answer)["S"] == "FATAL"
    assert desk.closed


@pytest.mark.parametrize("body", [b"SHOW VERSION", b"SHOW VERSION\0x", b"", b"SHOW \xff\0"])
def test_a_query_that_is_malformed_leaves_the_session_usable(body: bytes) -> None:
    desk = Desk()
    answer = desk.ask(raw("Q", body))
    assert kinds(answer) == "EZ"
    assert error(answer)["C"] in ("08P01", "22021")
    assert kinds(desk.query("SHOW VERSION")) == "TDCZ"


TYPES = st.sampled_from(b"QPBDECSHFdcf") | st.integers(0, 255)
BODIES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(["SHOW POOLS", "RELOAD", "PAUSE shop", "SHUTDOWN", "x'", "SELECT 1"]).map(
        lambda t: t.encode() + b"\0"
    ),
    st.sampled_from([b"\0SHOW STATE\0\0\0", b"\0\0\0\0\0\0\0\0", b"S\0", b"P\0", b"\0\0\0\0\0", b""]),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(TYPES, BODIES), max_size=8), st.sampled_from(list(Flavour)), st.booleans())
def test_any_messages_at_all(messages: list[tuple[int, bytes]], flavour: Flavour, admin: bool) -> None:
    desk = Desk(flavour, admin=admin)
    for kind, body in messages:
        replies(desk._take(desk.console.receive(kind, body)))
        if desk.last.pending is not None:
            desk.console.cancel()
            desk.settle()
        if desk.closed:
            return
    assert kinds(desk.ask(wire.sync())) == "Z"
    assert kinds(desk.query("SHOW VERSION")) == "TDCZ"

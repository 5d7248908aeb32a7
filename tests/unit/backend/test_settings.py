"""What a session has set, asked of PostgreSQL and put on another backend of it."""

import gc
import weakref
from collections.abc import Iterable, Iterator, Mapping
from threading import Barrier, Thread
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgdoorman.backend.reset import undo_sql
from pgdoorman.backend.settings import (
    DEFAULTS,
    IDENTITIES,
    SessionSettings,
    audit_sql,
    clean_ascii,
    custom_names_in,
    harmful_of_audit,
    lower_name,
    move_sql,
    pins_of_audit,
    quote_name,
    quote_text,
    reported_of,
    settings_of,
    settings_of_audit,
    sql_bytes,
)
from tests.support.postgres import Postgres
from tests.support.wire import ServerError, Wire, bind, execute, parse, query, sync

LOGIN: Final = "alice"
CUSTOM: Final = frozenset({"app.tenant", "app.user_2", "a.b.c"})

Rows = list[tuple[str | None, ...]]


@pytest.fixture(scope="module")
def wires(postgres: Postgres) -> Iterator[tuple[Wire, Wire]]:
    """Two connections of a role that may set anything."""
    with postgres.connect("app", LOGIN) as one, postgres.connect("app", LOGIN) as other:
        yield one, other


@pytest.fixture
def wire(postgres: Postgres) -> Iterator[Wire]:
    """A fresh one: custom parameters that were once set stay, empty, as long as a connection lives."""
    with postgres.connect("app", LOGIN) as wire:
        yield wire


def cleaned(wire: Wire) -> Wire:
    for statement in ("ROLLBACK", "RESET ROLE", "DISCARD ALL"):
        wire.run(statement)
    return wire


def audited(wire: Wire, custom: Iterable[str] = CUSTOM) -> SessionSettings:
    return settings_of_audit(wire.rows(audit_sql(custom)), LOGIN)


def in_effect(found: SessionSettings) -> dict[str, str]:
    """Without custom parameters that were reset."""
    return {name: value for name, value in found.by_name.items() if value or "." not in name}


def put(wire: Wire, values: Mapping[str, str]) -> None:
    """Sets each by itself, as a client would: the role last."""
    plain = [name for name in values if name not in IDENTITIES]
    for name in (*plain, *(name for name in IDENTITIES if name in values)):
        wire.ask(
            parse("", "select pg_catalog.set_config($1, $2, false)"),
            bind("", "", [name, values[name]]),
            execute(),
            sync(),
        )


# From anything to anything.

NASTY: Final = st.text(
    st.one_of(st.sampled_from("'\"\\;$ ,.-/*%{}"), st.characters(codec="utf-8", exclude_characters="\0")), max_size=12
)
SCHEMAS: Final = st.lists(NASTY.filter(bool), min_size=1, max_size=3).map(
    lambda names: ", ".join('"' + name.replace('"', '""') + '"' for name in names)
)
VALUES: Final[Mapping[str, st.SearchStrategy[str]]] = {
    "work_mem": st.integers(64, 9999).map(str),
    "statement_timeout": st.sampled_from(["0", "100000", "200000"]),
    "search_path": st.one_of(SCHEMAS, st.just('"$user", public'), st.just("")),
    "datestyle": st.sampled_from(["German, DMY", "ISO, MDY", "SQL, DMY"]),
    "timezone": st.sampled_from(["Europe/Berlin", "UTC", "<-04>+04", "<+02:30>-02:30"]),
    "application_name": NASTY.filter(str.isascii),
    "extra_float_digits": st.sampled_from(["-15", "0", "3"]),
    "standard_conforming_strings": st.sampled_from(["on", "off"]),
    "backslash_quote": st.sampled_from(["on", "off", "safe_encoding"]),
    "bytea_output": st.sampled_from(["hex", "escape"]),
    "default_transaction_isolation": st.sampled_from(["serializable", "read committed"]),
    "vacuum_cost_delay": st.sampled_from(["0.5", "2"]),
    "session_replication_role": st.sampled_from(["replica", "origin"]),  # a superuser's
    "log_min_duration_statement": st.sampled_from(["100000", "-1"]),  # a superuser's
    "app.tenant": NASTY,
    "app.user_2": NASTY,
    "a.b.c": NASTY,
    "role": st.sampled_from(["tenant", "alice", "bob", "plain"]),
    "session_authorization": st.sampled_from(["bob", "postgres"]),
}


@st.composite
def wanted(draw: st.DrawFn) -> dict[str, str]:
    names = draw(st.lists(st.sampled_from(sorted(VALUES)), unique=True, max_size=8))
    return {name: draw(VALUES[name]) for name in names}


@given(wanted(), wanted())
@settings(max_examples=60)
def test_any_settings_become_any_others(
    wires: tuple[Wire, Wire], before: dict[str, str], after: dict[str, str]
) -> None:
    """What a client with these settings has on one backend is exactly what it gets on one that somebody else had."""
    ours, others = wires
    put(cleaned(others), after)
    there = audited(others)
    assert set(after) - {"role", "session_authorization"} <= set(there.by_name)
    put(cleaned(ours), before)
    present = audited(ours)
    sql = move_sql(present, there)
    assert bool(sql) == (present is not there)
    if sql:
        ours.rows(sql)
    moved = audited(ours)
    assert in_effect(moved) == in_effect(there)
    assert present is there or move_sql(there, there) == ""
    # And what cannot be seen in the audit: current_setting of everything that either of them touched.
    for name in {*before, *after} - CUSTOM:
        shown = ours.value(f"select current_setting({quote_text(name)})")
        assert shown == others.value(f"select current_setting({quote_text(name)})"), name


@given(wanted())
@settings(max_examples=20)
def test_an_audit_says_what_was_set(wires: tuple[Wire, Wire], values: dict[str, str]) -> None:
    wire = wires[0]
    put(cleaned(wire), values)
    found = in_effect(audited(wire))
    expected = {name: value for name, value in values.items() if value or "." not in name}
    if "application_name" in expected:
        expected["application_name"] = clean_ascii(expected["application_name"])
    assert found == expected
    # What it says can be set again, and is the same then.
    again = settings_of(found)
    cleaned(wire)
    if again is not DEFAULTS:
        wire.rows(move_sql(DEFAULTS, again))
    assert in_effect(audited(wire)) == found


def test_all_or_nothing(wire: Wire) -> None:
    present = settings_of({"work_mem": "1024"})
    wire.rows(move_sql(DEFAULTS, present))
    impossible = settings_of({"statement_timeout": "5000", "role": "nobody at all"})
    with pytest.raises(ServerError):
        wire.rows(move_sql(present, impossible))
    assert audited(wire) is present


def test_many_surplus_settings_go_at_once() -> None:
    present = settings_of(dict.fromkeys("abcd", "1") | {"work_mem": "64"})
    assert move_sql(present, DEFAULTS) == "RESET ALL"
    assert move_sql(present, settings_of({"work_mem": "64"})).startswith("RESET ALL; SELECT ")


def test_what_a_superuser_set_moves_although_a_lesser_role_is_in_force(wire: Wire) -> None:
    present = settings_of({"role": "plain"})
    there = settings_of({"role": "plain", "session_replication_role": "replica"})
    wire.rows(move_sql(DEFAULTS, present))
    wire.rows(move_sql(present, there))
    assert audited(wire) is there
    wire.rows(move_sql(there, present))
    assert audited(wire) is present


# The audit.


def test_a_fresh_connection_has_nothing(wire: Wire) -> None:
    rows = wire.rows(audit_sql(()))
    assert settings_of_audit(rows, LOGIN) is DEFAULTS
    assert pins_of_audit(rows) == frozenset()


def test_what_belongs_to_the_transaction_or_the_login_is_not_carried(wire: Wire) -> None:
    wire.run("select setseed(0.5)")
    wire.run("begin")
    wire.run("set local work_mem = '1MB'")
    wire.run("set transaction isolation level serializable")
    wire.run("commit")
    assert audited(wire) is DEFAULTS


PINNING: Final = {
    "prepare p as select 1": "prepared statement",
    "declare c cursor with hold for select 1": "cursor with hold",
    "create temp table t (a int)": "temporary object",
    "create temp view v as select 1": "temporary object",
    "create temp sequence s": "temporary object",
    "create function pg_temp.f() returns int language sql as 'select 1'": "temporary object",
    "create type pg_temp.mood as enum ('a')": "temporary object",
    "create domain pg_temp.d as int": "temporary object",
    "select 1 as a into temp t": "temporary object",
    "select pg_advisory_lock(1)": "advisory lock",
    "select pg_advisory_lock_shared(1, 2)": "advisory lock",
    "listen news": "listen",
}


@pytest.mark.parametrize("statement", PINNING)
def test_what_pins_is_seen_and_undone(wire: Wire, statement: str) -> None:
    wire.run(statement)
    reason = PINNING[statement]
    pins = pins_of_audit(wire.rows(audit_sql(())))
    assert pins == {reason}
    assert undo_sql(pins)
    for part in undo_sql(pins).split("; "):
        wire.rows(part)
    assert pins_of_audit(wire.rows(audit_sql(()))) == frozenset()
    assert wire.run("select 1") == "SELECT 1"


def test_all_pins_at_once_are_undone_by_one_query(wire: Wire) -> None:
    for statement in ("prepare p as select 1", "create temp table t ()", "select pg_advisory_lock(1)", "listen news"):
        wire.run(statement)
    wire.run("declare c cursor with hold for select 1")
    pins = pins_of_audit(wire.rows(audit_sql(())))
    assert len(pins) == 5
    wire.rows(undo_sql(pins))
    assert pins_of_audit(wire.rows(audit_sql(()))) == frozenset()
    assert undo_sql(frozenset()) == ""
    assert undo_sql(frozenset({"loaded library"})) == ""


@pytest.mark.parametrize(
    "statement",
    [
        "begin; declare c cursor for select 1; commit",
        "begin; select pg_advisory_xact_lock(1); commit",
        "begin; create temp table t () on commit drop; commit",
        "listen news; unlisten news",
    ],
)
def test_what_does_not_stay_pins_nobody(wire: Wire, statement: str) -> None:
    for part in statement.split("; "):
        wire.rows(part)
    assert pins_of_audit(wire.rows(audit_sql(()))) == frozenset()


def test_our_own_prepared_statements_pin_nobody(wire: Wire) -> None:
    wire.ask(parse("ours", "select 1"), sync())
    assert pins_of_audit(wire.rows(audit_sql(()))) == frozenset()


def test_a_hostile_search_path_deceives_no_audit(wire: Wire) -> None:
    wire.run("drop schema if exists evil cascade")
    wire.run("create schema evil")
    for lie in (
        "create function evil.current_setting(text) returns text language sql as $$ select 'lie' $$",
        "create function evil.current_setting(text, boolean) returns text language sql as $$ select 'lie' $$",
        "create function evil.set_config(text, text, boolean) returns text language sql as $$ select 'lie' $$",
        "create function evil.pg_backend_pid() returns int language sql as $$ select 0 $$",
        "create function evil.liar(text, text) returns boolean language sql as $$ select true $$",
        "create operator evil.= (leftarg = text, rightarg = text, function = evil.liar)",
        "create view evil.pg_settings as select 'lie'::text as name, 'lie'::text as setting, 'session'::text as source",
        "create view evil.pg_locks as select 1 as x",
    ):
        wire.run(lie)
    try:
        wire.run("set search_path = evil, pg_catalog")
        wire.run("select pg_advisory_lock(7)")
        rows = wire.rows(audit_sql(CUSTOM))
        present = settings_of_audit(rows, LOGIN)
        assert present is settings_of({"search_path": "evil, pg_catalog"})
        assert pins_of_audit(rows) == {"advisory lock"}
        wire.rows(move_sql(present, settings_of({"work_mem": "128"})))
        assert audited(wire) is settings_of({"work_mem": "128"})
    finally:
        cleaned(wire).run("drop schema evil cascade")


@pytest.mark.parametrize(
    "text",
    [
        "set app.tenant = 'x'",
        "SET App.Tenant TO 'x'",
        "set app . tenant = 'x'",
        'set "app"."tenant" = \'x\'',
        "set \"app.tenant\" = 'x'",
        'set session "App" . "Tenant" = x',
        "\n\tset\tapp.tenant=x",
        "/* c */ set app.tenant = x",
        "select set_config('app.tenant', 'x', false)",
        "select set_config('APP.tenant', 'x', false)",
        "select 1; set app.tenant = x; select 2",
        "do $$ begin set app.tenant = x; end $$",
    ],
)
def test_names_of_custom_parameters_are_found_however_they_are_written(wire: Wire, text: str) -> None:
    wire.rows(text)
    names = custom_names_in(text.encode())
    assert "app.tenant" in names
    assert audited(wire, names) is settings_of({"app.tenant": "x"})


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("set größe.x = 1", {"größe.x"}),
        ("set a.b.c = 1", {"a.b.c"}),
        ("set a$1.b_2 = 1", {"a$1.b_2"}),
        ("select 1.5, .5, 1.", set()),
        ("select a.", set()),
        ("set Ä.Ö = 1", {"Ä.Ö"}),  # PostgreSQL knows no other case of these
    ],
)
def test_names_that_could_be_custom_parameters(text: str, names: set[str]) -> None:
    assert custom_names_in(text.encode()) == names


def test_custom_names_of_others_are_not_invented(wire: Wire) -> None:
    assert audited(wire, {"never.set", "größe.x", "1.2", "a'b.c\\"}) is DEFAULTS


def test_a_text_full_of_names_is_bounded() -> None:
    assert len(custom_names_in(b" ".join(b"a%d.b" % number for number in range(5000)))) == 200
    for text in (b"a" * 200_000, b"a." * 100_000, b'a"' * 100_000, b"a " * 100_000, b"a . " * 60_000):
        custom_names_in(text)


# Functions.

FUNCTIONS: Final = {
    "harmless": "select 1",
    "sets": "begin set work_mem = '1MB'; end",
    "configures": "begin perform set_config('a.b', 'c', false); end",
    "locks": "begin perform pg_advisory_lock(1); end",
    "makes_temp": "begin create temp table if not exists t (); end",
    "executes": "begin execute 'select 1'; end",
    "calls_sets": "begin perform sets(); end",
    "calls_calls_sets": "begin perform calls_sets(); end",
    "calls_harmless": "begin perform harmless(); end",
    "updates": "begin update t set a = 1; end",
}
HARMFUL: Final = {"sets", "configures", "locks", "makes_temp", "executes", "calls_sets", "calls_calls_sets"}


def test_functions_that_may_change_the_session(wire: Wire) -> None:
    wire.run("create schema if not exists functions")
    try:
        for name, body in FUNCTIONS.items():
            language = "plpgsql" if body.startswith("begin") else "sql"
            wire.run(f"create function functions.{name}() returns void language {language} as $body$ {body} $body$")
        asked = [name.encode() for name in (*FUNCTIONS, "no_such", "count", "x'y\\")]
        found = harmful_of_audit(wire.rows(audit_sql((), asked)))
        assert found == {name.encode() for name in HARMFUL}
    finally:
        wire.run("drop schema functions cascade")


# Quoting.


@given(NASTY)
@settings(max_examples=40)
def test_literals_mean_the_same_under_either_convention(wires: tuple[Wire, Wire], text: str) -> None:
    wire = wires[0]
    for convention in ("on", "off"):
        wire.run(f"set standard_conforming_strings = {convention}")
        assert wire.value(f"select {quote_text(text)}") == text


@pytest.mark.parametrize("encoding", ["LATIN1", "WIN1251", "EUC_JP", "UTF8"])
def test_literals_mean_the_same_in_any_encoding_of_the_connection(wire: Wire, encoding: str) -> None:
    """A backend that still speaks another client's encoding is given settings which that cannot express."""
    codec = {"LATIN1": "iso8859-1", "WIN1251": "cp1251", "EUC_JP": "euc_jp", "UTF8": "utf-8"}[encoding]
    wire.run(f"set client_encoding = {encoding}")
    for text in ("größe", "price in €", "кириллица", "漢字", "\U0001f600 '\\'", "plain"):
        wire.ask(query(sql_bytes(move_sql(DEFAULTS, settings_of({"app.tenant": text})), codec)))
        wire.run("set client_encoding = UTF8")
        assert wire.value("show app.tenant") == text
        wire.run(f"set client_encoding = {encoding}")


@pytest.mark.parametrize(
    ("name", "quoted"), [("work_mem", '"work_mem"'), ("a.b", '"a"."b"'), ('a".b', '"a"""."b"'), ("", '""')]
)
def test_names(name: str, quoted: str) -> None:
    assert quote_name(name) == quoted


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20))
@settings(max_examples=30)
def test_application_names_are_shown_as_postgresql_shows_them(wires: tuple[Wire, Wire], name: str) -> None:
    wire = wires[0]
    wire.rows(f"select set_config('application_name', {quote_text(name)}, false)")
    assert wire.value("show application_name") == clean_ascii(name)


def test_the_case_of_names() -> None:
    assert lower_name("TimeZone") == "timezone"
    assert lower_name("GRÖSSE") == "grÖsse"


# One object for one value.


def test_equal_settings_are_the_same_object() -> None:
    one = settings_of({"Work_Mem": "1", "a.b": "2"})
    assert settings_of({"a.b": "2", "work_mem": "1"}) is one
    assert one.with_(work_mem="2") is settings_of({"work_mem": "2", "a.b": "2"})
    assert settings_of({"work_mem": "1", "a.b": "3"}) is not one
    assert settings_of({}) is DEFAULTS
    reported = reported_of({"TimeZone": "UTC"})
    assert reported_of({"TimeZone": "UTC"}) is reported
    assert reported_of({"timezone": "UTC"}) is not reported


def test_what_nobody_has_any_more_is_forgotten() -> None:
    gone = weakref.ref(settings_of({"only.here": "1"}))
    gc.collect()
    assert gone() is None
    again = settings_of({"only.here": "1"})
    assert settings_of({"only.here": "1"}) is again


def test_what_plans_depend_on() -> None:
    assert settings_of({"application_name": "x", "statement_timeout": "1"}).planning is None
    assert settings_of({"search_path": "x", "lock_timeout": "1"}).planning == frozenset({("search_path", "x")})
    assert settings_of({"application_name": "x"}).to_prove == frozenset()
    assert settings_of({"application_name": "x", "role": "y"}).to_prove == frozenset({("role", "y")})


def test_interning_among_threads() -> None:
    barrier = Barrier(6)
    found: list[list[SessionSettings]] = [[] for _ in range(6)]

    def work(mine: list[SessionSettings]) -> None:
        barrier.wait(10.0)
        for number in range(500):
            mine.append(settings_of({"interned.here": str(number % 50)}))  # noqa: PERF401 - the race is in the loop

    threads = [Thread(target=work, args=(mine,)) for mine in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    for mine in found:
        assert all(ours is theirs for ours, theirs in zip(mine, found[0], strict=True))

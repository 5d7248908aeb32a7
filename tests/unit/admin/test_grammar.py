"""Text to statements, and nothing but a clean refusal for everything else."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pgdoorman.admin.commands import plan
from pgdoorman.admin.flavour import BadArgument, Flavour, InvalidCommand
from pgdoorman.admin.grammar import Order, Reset, Select, Set, Show, Statement, parse


def one(text: str) -> Statement:
    (statement,) = parse(text)
    return statement


def test_words_without_regard_to_case_and_names_as_typed() -> None:
    assert one("show Pools ;") == Show("show Pools", "POOLS")
    assert one("pause Shop") == Order("pause Shop", "PAUSE", ("Shop",))
    assert one("PAUSE my-db.v2") == Order("PAUSE my-db.v2", "PAUSE", ("my-db.v2",))
    assert one('PAUSE "a ""b"" ; c"') == Order('PAUSE "a ""b"" ; c"', "PAUSE", ('a "b" ; c',))
    assert one("SHOW INTERNER 5") == Show("SHOW INTERNER 5", "INTERNER", "5")


@pytest.mark.parametrize("text", ["", " ", ";", ";;\n;", "-- ping", "/* a /* nested */ one */", "  ; -- x\n;"])
def test_nothing_is_no_statement(text: str) -> None:
    assert parse(text) == []


def test_comments_and_several_statements() -> None:
    statements = parse("SHOW /* which? */ POOLS; -- done\nPAUSE shop;RESUME")
    assert statements == [
        Show("SHOW /* which? */ POOLS", "POOLS"), Order("PAUSE shop", "PAUSE", ("shop",)), Order("RESUME", "RESUME"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("SET a = b", "a", "b"),
        ("SET A TO 'b c'", "a", "b c"),
        ("set a='it''s'", "a", "it's"),
        ("SET a = E'x\\\\y'", "a", "x\\y"),
        ("SET server_lifetime=1.5", "server_lifetime", "1.5"),
        ("SET a = DEFAULT", "a", None),
        ("SET SESSION a = b", "a", "b"),
        ("SET session = b", "session", "b"),
        ("SET log_level = info,pool=debug", "log_level", "info,pool=debug"),
        ("SET log_level = 'info,pool=debug'", "log_level", "info,pool=debug"),
        ("SET datestyle TO ISO, MDY", "datestyle", "ISO, MDY"),
        ("SET TIME ZONE 'UTC'", "timezone", "UTC"),
        ("SET NAMES 'UTF8'", "client_encoding", "UTF8"),
        ("SET SESSION AUTHORIZATION bob", "session_authorization", "bob"),
        ("SET ROLE none", "role", "none"),
        ("SET role = none", "role", "none"),
        ('SET "A" = b', "a", "b"),
        ("SET a = ''", "a", ""),
    ],
)
def test_set(text: str, key: str, value: str | None) -> None:
    assert one(text) == Set(text, key, value)


def test_set_of_a_transaction_is_an_order() -> None:
    assert one("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY") == Order(
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "SET SESSION"
    )


def test_reset() -> None:
    assert one("RESET Interner") == Reset("RESET Interner", "interner")
    assert one("RESET SESSION AUTHORIZATION") == Reset("RESET SESSION AUTHORIZATION", "session_authorization")


@pytest.mark.parametrize(
    "text",
    [
        "SHOW", "SHOW a b c", "SHOW pools,", "SET", "SET a", "SET a =", "SET a b", "SET = b", "SET 'a' = b", "RESET",
        "RESET a b", "'PAUSE'", '"PAUSE"', "(", "=", "PAUSE (a)", "PAUSE a, b", "SHOW 'unclosed", 'PAUSE "unclosed',
        "/* unclosed", "/* /* */", "SET TIME ZONE", "SHOW TRANSACTION ISOLATION LEVEL x",
    ],
)  # fmt: skip
def test_what_is_no_statement(text: str) -> None:
    with pytest.raises(InvalidCommand) as caught:
        parse(text)
    assert caught.value.text


WORDS = st.sampled_from(
    ["SHOW", "SELECT", "SET", "RESET", "PAUSE", "KILL_CLIENT", "SHUTDOWN", "WAIT_FOR_CLIENTS", "BEGIN", "POOLS",
     "INTERNER", "TO", "TIME", "ZONE", "SESSION", "AUTHORIZATION", "DEFAULT", "version", "current_user", "pg_settings",
     "pg_catalog.version", "all", "AS", "x", "1", "-2", "99999999999", "(", ")", ",", "=", ";", "'", "''", '"', "--",
     "/*", "*/", "'a'", '"b"', "E'\\\\'", "$1", "\N{SNOWMAN}", "\0", "\ud800"]
)  # fmt: skip
TEXTS = st.one_of(
    st.text(max_size=60), st.lists(WORDS, max_size=12).map(" ".join), st.lists(WORDS, max_size=8).map("".join)
)


@given(TEXTS, st.sampled_from(list(Flavour)))
@example("SELECT 1 AS", Flavour.PGDOORMAN)
@example("SELECT ,", Flavour.PGDOORMAN)
@example("SELECT )(", Flavour.PGBOUNCER)
@example("SHOW INTERNER \N{SUPERSCRIPT TWO}", Flavour.PGDOORMAN)
@example("KILL_CLIENT \N{SUPERSCRIPT TWO}", Flavour.PGDOORMAN)
def test_any_text_is_understood_or_refused(text: str, flavour: Flavour) -> None:
    try:
        plans = [plan(statement, flavour) for statement in parse(text)]
    except (InvalidCommand, BadArgument):
        return
    assert all(found.columns is None or len(found.columns) > 0 for found in plans)


@given(st.text(max_size=40))
def test_a_quoted_name_comes_back_as_it_was(name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    assert one(f"PAUSE {quoted}") == Order(f"PAUSE {quoted}", "PAUSE", (name,))


@given(st.text(alphabet=st.characters(exclude_characters="\\"), max_size=40))
def test_a_quoted_value_comes_back_as_it_was(value: str) -> None:
    literal = "'" + value.replace("'", "''") + "'"
    statement = one(f"SET a = {literal}")
    assert isinstance(statement, Set)
    assert statement.value == value


@pytest.mark.parametrize(
    "text",
    [
        "'" * 60_001,
        "/*" * 30_000,
        "/* */" * 12_000,
        "(" * 60_000,
        "SELECT " + "1," * 30_000,
        "a " * 30_000,
        '"' * 60_001,
    ],
    ids=len,
)
def test_long_nonsense_takes_no_long_time(text: str) -> None:
    begin = time.monotonic()
    try:
        for statement in parse(text):
            plan(statement, Flavour.PGDOORMAN)
    except (InvalidCommand, BadArgument):
        pass
    assert time.monotonic() - begin < 5.0


def test_select_keeps_its_tokens_for_the_courtesies() -> None:
    statement = one("SELECT current_setting('x')")
    assert isinstance(statement, Select)
    assert [token.text for token in statement.tokens] == ["current_setting", "(", "x", ")"]

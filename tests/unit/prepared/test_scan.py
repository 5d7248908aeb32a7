"""What texts may do, by table. A wrong suspicion is allowed, a missed one is not."""

from time import thread_time
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgdoorman.prepared.scan import (
    CALLS,
    LONGEST_SCANNED,
    PINS,
    READS_SEQUENCES,
    SET_LOCAL,
    SETS,
    SETTINGS,
    USES_SEQUENCES,
    names_called,
    scan,
)
from pgdoorman.prepared.statement import Statement

TABLE: Final = {
    # nothing
    "": 0,
    "select 1": 0,
    "select * from t where a = $1": 0,
    "insert into t values (1, 2)": 0,
    "insert into t (val) values (1)": 0,
    "update t set a = 1": 0,
    "update t\nset a = 1 where b in (select c from d)": 0,
    "select * from settings": 0,
    "select template, attempt, temperature from t": 0,
    "select threshold from households": 0,
    "select interval '1 day'": 0,
    "commit": 0,
    "select currvalue, lastvalue from t": READS_SEQUENCES,  # false, and harmless
    # settings
    "select set_config('a.b', 'c', false)": SETTINGS,
    "SELECT PG_CATALOG.SET_CONFIG('a', 'b', true)": SETTINGS,
    "update pg_settings set setting = '1' where name = 'work_mem'": SETTINGS,
    "set work_mem = '1MB'": SETS,
    "SET work_mem = '1MB'": SETS,
    "  \n\tset x to 1": SETS,
    "reset all": SETS,
    "RESET role": SETS,
    "set session authorization bob": SETS,
    "set time zone 'UTC'": SETS,
    "begin; set x = 1": SETS,
    "begin;set x = 1; commit": SETS,
    "select 1;\n\nreset x": SETS,
    "/* application: shop */ set x = 1": SETS,
    "-- comment\nset x = 1": SETS,
    "/*/**/*/set x = 1": SETS,
    "set/**/local x = 1": SETS,
    "set local x = 1": SET_LOCAL,
    "  SET  LOCAL x = 1 ;  ": SET_LOCAL,
    "set\nlocal role bob;": SET_LOCAL,
    "set local x = 1; set y = 2": SETS,
    "set local x = 1; reset y": SETS,
    "set local x = ';'": 0,  # not known to be one SET LOCAL: its tag will be looked at
    "set localx = 1": SETS,
    "set x = 1; set local y = 2": SETS,
    # pins
    "create temp table t (a int)": PINS,
    "CREATE TEMPORARY VIEW v AS SELECT 1": PINS,
    "create local temp table t()": PINS,
    "select 1 into temp t": PINS,
    "select * from pg_temp.t": PINS,
    "create table pg_temp_3.t ()": PINS,
    "select pg_advisory_lock(1)": PINS,
    "select pg_try_advisory_lock_shared(1, 2)": PINS,
    "declare c cursor with hold for select 1": PINS,
    "DECLARE c CURSOR WITH\n HOLD FOR SELECT 1": PINS,
    # sequences
    "select nextval('s')": USES_SEQUENCES,
    "select setval('s', 1)": USES_SEQUENCES,
    "select currval('s')": READS_SEQUENCES,
    "select lastval()": READS_SEQUENCES,
    "select lastval  ()": READS_SEQUENCES,
    "select lastval\n()": READS_SEQUENCES,
    "select \"currval\"('s')": READS_SEQUENCES,
    "select NEXTVAL('s'), CURRVAL('s')": USES_SEQUENCES | READS_SEQUENCES,
    # several
    "select set_config('a.b', 'c', false), pg_advisory_lock(1)": SETTINGS | PINS,
}


@pytest.mark.parametrize("text", TABLE)
def test_the_table(text: str) -> None:
    assert scan(text.encode()) == TABLE[text]


@pytest.mark.parametrize("text", [text for text in TABLE if TABLE[text]])
def test_the_case_does_not_matter(text: str) -> None:
    assert scan(text.upper().encode()) == TABLE[text]


def test_bytes_that_are_no_text() -> None:
    assert scan(bytes(range(256))) == 0


def test_very_long_texts_are_suspected_of_everything_that_is_not_a_promise() -> None:
    flags = scan(b"x" * (LONGEST_SCANNED + 1))
    assert flags == SETTINGS | PINS | CALLS | USES_SEQUENCES | SETS
    assert not flags & SET_LOCAL, "that would say that nothing stays"
    assert scan(b"x" * LONGEST_SCANNED) == 0


@pytest.mark.parametrize(
    "text",
    [
        b"set " * 16000,
        b"set" + b" " * 65000,
        b";" * 65000,
        b"; " * 32000,
        b"set local " + b"x " * 32000,
        b"temp" * 16000,
        b"with " * 13000,
        b"hold with " * 6500,
        b"a" * 65000,
        b"a(" * 32000,
        b'"' * 65000,
    ],
    ids=lambda text: text[:8].decode(),
)
def test_no_text_takes_long(text: bytes) -> None:
    """A millisecond would do."""
    began = thread_time()
    scan(text)
    names_called(text)
    assert thread_time() - began < 0.25


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("select 1", set()),
        ("select f(1)", {"f"}),
        ("select F (1), g\n(2)", {"f", "g"}),
        ('select "Quoted"(1)', {"quoted"}),
        ("select s.f(1)", {"f"}),
        ("insert into t (a) values (1)", {"t", "values"}),
        ("select a_$1(2)", {"a_$1"}),
        ("select größe(1)", {"größe"}),
        ("select 1(2)", set()),
    ],
)
def test_what_may_be_called(text: str, names: set[str]) -> None:
    assert names_called(text.encode()) == {name.encode() for name in names}


def test_very_long_texts_call_everything() -> None:
    assert names_called(b"(" * (LONGEST_SCANNED + 1)) == {b""}


@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                [b"set ", b"local ", b"select ", b"(", b")", b".", b'"', b"'", b"--", b"/*", b"*/", b"$$", b"$a$", b";", b"\n",
                 b"temp ", b"with hold", b"nextval", b"set_config", b"advisory", b"\\", b"E'", b"U&\"", b"\xff", b"a"]
            ),
            st.binary(max_size=6),
        ),
        max_size=60,
    )
)  # fmt: skip
def test_any_text_can_be_looked_at(pieces: list[bytes]) -> None:
    """Flags and names of functions come of it, and never an error."""
    text = b"".join(pieces)
    assert scan(text) >= 0
    assert all(name for name in names_called(text))
    statement = Statement(text.replace(b"\0", b" ") + b"\0\0\0")
    assert statement.text == text.replace(b"\0", b" ")

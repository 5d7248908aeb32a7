"""Texts that reset what came with a login."""

import pytest

from pgdoorman.client.defaults import Inserted, is_discard_all, is_worth_a_look, statements_of, what_it_resets

LOGIN = {"timezone": "Asia/Tokyo", "my.own": "x", "client_encoding": "UTF8"}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", []),
        (" ; ;; -- nothing", []),
        ("select 1", ["select 1"]),
        ("select 1; ; select 2;", ["select 1", " select 2"]),
        ("select ';' ; select E'\\';' ; select \";\"", ["select ';' ", " select E'\\';' ", ' select ";"']),
        ("select 'it''s; so'; x", ["select 'it''s; so'", " x"]),
        ("select $$;$$, $a$;$$;$a$; select $1", ["select $$;$$, $a$;$$;$a$", " select $1"]),
        ("create rule r as on insert to t do (a; b); c", ["create rule r as on insert to t do (a; b)", " c"]),
        ("-- a; b\nselect 1 /* ; */; x", ["-- a; b\nselect 1 /* ; */", " x"]),
        ("select a$b; c$d", ["select a$b", " c$d"]),
    ],
)
def test_statements(text: str, wanted: list[str]) -> None:
    found = statements_of(text.encode())
    assert found is not None
    assert [text[begin:end] for begin, end in found] == wanted


@pytest.mark.parametrize(
    "text",
    [
        "select 'a\\'; b'",
        "select 'open",
        'select "open',
        "/* open",
        "/* a /* b */ c */ x",
        "$a$ open",
        "begin atomic; end",
    ],
)
def test_what_cannot_be_told_apart_for_certain(text: str) -> None:
    assert statements_of(text.encode()) is None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("reset timezone", {"timezone"}),
        (' ReSet "TimeZone" ', {"timezone"}),
        ("reset time  zone", {"timezone"}),
        ("reset /* now */ all -- really", set(LOGIN)),
        ("discard all", set(LOGIN)),
        ("set timezone to default", {"timezone"}),
        ("set session timezone=default", {"timezone"}),
        ("SET TIME ZONE LOCAL", {"timezone"}),
        ("set names", {"client_encoding"}),
        ('reset my . "own"', {"my.own"}),
        ("reset work_mem", None),
        ("set timezone to 'default'", None),
        ("set timezone = defaults", None),
        ("reset", None),
        ("reset timezone now", None),
        ("select 'reset all'", None),
    ],
)
def test_what_a_statement_resets(text: str, wanted: set[str] | None) -> None:
    found = what_it_resets(text.encode(), LOGIN)
    assert (None if found is None else found[0]) == (wanted and frozenset(wanted))
    assert wanted is None or is_worth_a_look(text.encode())


def test_for_its_transaction_only() -> None:
    assert what_it_resets(b"set local timezone to default", LOGIN) == (frozenset({"timezone"}), True)


def test_discard_all_alone() -> None:
    assert is_discard_all(b" discard  ALL ;")
    assert not is_discard_all(b"discard all; select 1")
    assert not is_discard_all(b"discard plans")


def test_positions_are_those_of_the_clients_text() -> None:
    inserted = Inserted(frozenset({2, 4}), [(10, 100), (30, 50)])
    for position, wanted in ((1, 1), (10, 10), (111, 11), (130, 30), (181, 31), (60, 10)):
        assert inserted.own_position(position) == wanted, position

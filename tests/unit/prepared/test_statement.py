"""The book of shared statements."""

import gc
from threading import Barrier, Thread

import pytest

from pgdoorman.prepared.statement import PREFIX, Carried, Statement, StatementBook, absent, new_name, parameter_count

SETTINGS = frozenset({("datestyle", "German")})


def tail(text: bytes, *types: int) -> bytes:
    """A Parse behind its statement name."""
    return text + b"\0" + len(types).to_bytes(2) + b"".join(number.to_bytes(4) for number in types)


def test_a_statement_knows_its_text() -> None:
    statement = Statement(tail(b"select $1", 23))
    assert statement.text == b"select $1"
    assert statement.name.startswith(PREFIX)
    assert "select $1" in repr(statement)
    assert Statement(tail(b"")).text == b""


PARAMETERS = {
    b"select 1": 0,
    b"select $1 + $2, $10": 10,
    b"select '$3', \"$4\", E'\\'$5', $1 -- $6\n, /* $7 */ $2": 2,
    b"select a$3, U&'$4', x'$5', 'it''s $6'": 0,
    b"select '\\$3', $1": None,  # an escape or not: that depends on a setting
    b"select $$ $3 $$, $1": None,
    b"select $x$ $3 $x$": None,
    b"select /* /* $3 */ $4 */ $1": None,
    b"select '$3": None,
    b"select $1" + b" " * 9000: None,
}


@pytest.mark.parametrize("text", PARAMETERS)
def test_parameters_are_counted_where_that_is_certain(text: bytes) -> None:
    assert parameter_count(Statement(tail(text))) == PARAMETERS[text]


def test_declared_parameters_count() -> None:
    assert parameter_count(Statement(tail(b"select $1", 23, 25, 0))) == 3
    stand_in = absent(Statement(tail(b"select $1", 23, 25, 0)))
    assert stand_in is not None
    assert parameter_count(stand_in) == 3


def test_names_are_never_used_twice_not_even_among_threads() -> None:
    barrier = Barrier(8)
    names: list[list[bytes]] = [[] for _ in range(8)]

    def draw(mine: list[bytes]) -> None:
        barrier.wait(10.0)
        for _ in range(2000):
            mine.append(new_name())  # noqa: PERF401 - the race is in the loop

    threads = [Thread(target=draw, args=(mine,)) for mine in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    assert len({name for mine in names for name in mine}) == 16000


def test_equal_texts_with_equal_types_and_settings_share_one() -> None:
    book = StatementBook(10)
    statement = book.find(tail(b"select $1", 23), None)
    assert book.find(tail(b"select $1", 23), None) is statement
    others = [
        book.find(tail(b"select $1", 25), None),
        book.find(tail(b"select $1"), None),
        book.find(tail(b"select  $1", 23), None),
        book.find(tail(b"select $1", 23), SETTINGS),
    ]
    assert len({statement, *others}) == 5
    assert len({one.name for one in (statement, *others)}) == 5
    assert statement.uses == 2
    assert len(book) == 5


def test_the_least_recently_parsed_is_forgotten_first() -> None:
    book = StatementBook(2)
    first, second = book.find(tail(b"1"), None), book.find(tail(b"2"), None)
    assert book.find(tail(b"1"), None) is first
    book.find(tail(b"3"), None)
    assert book.evictions == 1
    assert book.find(tail(b"1"), None) is first
    assert book.find(tail(b"2"), None) is not second
    assert set(book.statements()) == {first, book.find(tail(b"2"), None)}


def test_after_ddl_texts_are_new_statements() -> None:
    book = StatementBook(10)
    before = book.find(tail(b"select * from t"), None)
    book.renew()
    assert book.statements() == []
    assert book.find(tail(b"select * from t"), None) is not before
    assert book.generation == 1


def test_only_what_came_by_before_is_familiar() -> None:
    book = StatementBook(2)
    assert not book.is_familiar(b"1")
    assert book.is_familiar(b"1")
    assert not book.is_familiar(b"2")
    assert book.is_familiar(b"1")
    assert not book.is_familiar(b"3")  # 2 has to go
    assert book.is_familiar(b"1")
    assert not book.is_familiar(b"2")


def test_a_smaller_book() -> None:
    book = StatementBook(4)
    statements = [book.find(tail(b"%d" % number), None) for number in range(4)]
    for number in range(4):
        book.is_familiar(b"%d" % number)
    book.resize(2)
    assert book.statements() == statements[2:]
    assert book.evictions == 2
    assert not book.is_familiar(b"new")
    assert not book.is_familiar(b"0")
    assert not book.is_familiar(b"1")
    assert not book.is_familiar(b"2"), "only two are remembered now"


@pytest.mark.parametrize("limit", [0, 1])
def test_a_book_without_room_still_makes_statements(limit: int) -> None:
    book = StatementBook(limit)
    assert book.find(tail(b"1"), None).text == b"1"
    assert book.find(tail(b"2"), None).text == b"2"
    assert len(book) == limit
    assert not book.is_familiar(b"x")
    assert book.is_familiar(b"x") == bool(limit)


def test_one_book_among_threads() -> None:
    """Two at the same text must get the same statement, or backends would prepare it twice."""
    book = StatementBook(1000)
    barrier = Barrier(6)
    found: list[list[Statement]] = [[] for _ in range(6)]

    def work(mine: list[Statement]) -> None:
        barrier.wait(10.0)
        for number in range(300):
            mine.append(book.find(tail(b"select %d" % number), None))  # noqa: PERF401 - the race is in the loop

    threads = [Thread(target=work, args=(mine,)) for mine in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    assert all(mine == found[0] for mine in found)
    assert all(statement.uses == 6 for statement in found[0])


# Rounds of forgetting.


def test_what_nobody_asks_for_and_nobody_has_is_forgotten() -> None:
    book = StatementBook(10)
    kept = book.find(tail(b"kept"), None)
    gone = book.find(tail(b"gone"), None).name
    book.sweep(0.0, 60.0)
    book.find(tail(b"asked"), None)
    book.sweep(59.0, 60.0)
    assert len(book) == 3
    book.sweep(60.0, 60.0)
    assert [statement.text for statement in book.statements()] == [b"asked"]
    assert book.find(tail(b"kept"), None) is kept, "somebody has it"
    gc.collect()
    assert book.find(tail(b"gone"), None).name != gone


def test_each_use_begins_the_time_anew() -> None:
    book = StatementBook(10)
    for now in (0.0, 50.0, 100.0, 150.0):
        book.find(tail(b"1"), None)
        book.sweep(now, 60.0)
    assert len(book) == 1
    book.sweep(209.0, 60.0)
    assert len(book) == 1
    book.sweep(210.0, 60.0)
    assert len(book) == 0


def test_ddl_holds_for_what_rests_too() -> None:
    book = StatementBook(10)
    before = book.find(tail(b"1"), None)
    book.sweep(0.0, 1.0)
    book.sweep(5.0, 1.0)
    assert len(book) == 0
    book.renew()
    assert book.find(tail(b"1"), None) is not before


def test_texts_that_came_once_are_forgotten() -> None:
    book = StatementBook(10)
    book.is_familiar(b"once")
    book.is_familiar(b"often")
    book.sweep(0.0, 60.0)
    assert book.is_familiar(b"often")
    book.sweep(1.0, 60.0)
    book.sweep(2.0, 60.0)
    assert not book.is_familiar(b"once")
    assert book.is_familiar(b"often")


def test_a_statement_is_current_while_it_would_be_found() -> None:
    book = StatementBook(1)
    first = book.find(tail(b"1"), None)
    assert book.is_current(first, None)
    assert not book.is_current(first, "other settings")
    assert not book.is_current(Statement(tail(b"1")), None)
    book.sweep(0.0, 1.0)
    book.sweep(5.0, 1.0)
    assert book.is_current(first, None), "it rests"
    book.renew()
    assert not book.is_current(first, None)


def test_statements_from_elsewhere_are_shared_as_they_were_there() -> None:
    carried = Carried()
    first = carried.find(b"pgdoorman_x_1", tail(b"1"))
    assert carried.find(b"pgdoorman_x_1", tail(b"1")) is first
    assert carried.find(b"pgdoorman_x_2", tail(b"1")) is not first
    assert carried.find(b"pgdoorman_x_1", tail(b"2")) is not first

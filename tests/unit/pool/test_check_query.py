"""A query that is asked of a server once."""

import pytest

from pgdoorman.pool.check_query import CheckQuery


@pytest.mark.parametrize("text", ["", ";"])
def test_what_needs_no_server(text: str) -> None:
    check = CheckQuery(text)
    assert not check.is_special
    assert not check.is_wanted
    assert check.answer_to(text.encode()) is None


def test_an_answer_is_given_to_the_same_text_only() -> None:
    check = CheckQuery("SELECT 1 -- ü")
    assert check.is_special
    assert check.is_wanted
    assert check.answer_to("SELECT 1 -- ü".encode()) is None
    check.learn(b"answer")
    assert not check.is_wanted
    assert check.answer_to("SELECT 1 -- ü".encode()) == b"answer"
    for other in (b"SELECT 1", b"select 1 -- \xc3\xbc", b"SELECT 1 -- \xfc", b""):
        assert check.answer_to(other) is None


def test_what_was_an_error_is_not_asked_again() -> None:
    check = CheckQuery("SELECT nonsense")
    check.learn(None)
    assert not check.is_wanted
    assert check.answer_to(b"SELECT nonsense") is None

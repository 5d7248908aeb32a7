"""Rewritten messages, read by the tests' own protocol client."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgdoorman.prepared.rewrite import (
    STAND_IN,
    STAND_IN_NAME,
    close_message,
    describe_message,
    guard_name,
    parse_message,
    prepare_message,
    query_message,
    restore_names,
)
from pgdoorman.prepared.statement import PREFIX, Statement, new_name
from pgdoorman.protocol.framing import message, messages_in
from tests.support import wire

NAMES = st.binary(max_size=20).filter(lambda name: 0 not in name)


@given(st.text(max_size=20).filter(lambda text: "\0" not in text), st.lists(st.integers(0, 2**32 - 1), max_size=4))
def test_messages_as_a_client_would_write_them(text: str, types: list[int]) -> None:
    theirs = wire.parse("name", text, types).data
    tail = theirs[5 + len("name") + 1 :]
    assert parse_message(b"name", tail) == theirs
    statement = Statement(tail)
    assert prepare_message(statement) == wire.parse(statement.name.decode(), text, types).data
    assert close_message(text.encode()) == wire.close_statement(text).data
    assert describe_message(text.encode()) == wire.describe_statement(text).data
    assert query_message(text.encode()) == wire.query(text).data


def test_the_stand_in() -> None:
    assert wire.close_statement(STAND_IN_NAME.decode()).data == STAND_IN
    assert new_name() != STAND_IN_NAME


def error(*fields: bytes) -> bytes:
    return message(ord("E"), b"".join(field + b"\0" for field in fields) + b"\0")


def test_our_names_become_the_clients() -> None:
    ours, other = new_name(), new_name()
    own = {ours: b"get \xe4 user", other: b""}
    frame = error(b"SERROR", b'Mprepared statement "%b" already exists (not "%b")' % (ours, other), b"D" + ours)
    restored = restore_names(frame, own.get)
    assert restored == error(
        b"SERROR", b'Mprepared statement "get \xe4 user" already exists (not "")', b"Dget \xe4 user"
    )
    assert len(list(messages_in(restored))) == 1, "the length is right"


def test_a_name_that_nobody_knows_is_not_shown() -> None:
    assert restore_names(error(b"M" + new_name()), lambda _: None) == error(b"M")


def test_other_errors_are_the_same_object() -> None:
    frame = error(b"SERROR", b"Msyntax error")
    assert restore_names(frame, lambda _: b"never") is frame


@given(NAMES)
def test_guarded_names_cannot_be_ours_and_come_back(name: bytes) -> None:
    assert guard_name(name) == name
    ours = new_name()
    assert guard_name(ours) != ours
    assert guard_name(ours).startswith(ours)
    assert guard_name(STAND_IN_NAME) != STAND_IN_NAME


@pytest.mark.parametrize(
    "guessed",
    [new_name(), STAND_IN_NAME, PREFIX + b"7", PREFIX + b"x", PREFIX + b"7xx"],
    ids=("new", "stand-in", "number", "letter", "both"),
)
def test_a_client_that_guesses_our_prefix_gets_its_own_name_back(guessed: bytes) -> None:
    frame = error(b'Mprepared statement "%b" does not exist' % guard_name(guessed))
    assert restore_names(frame, lambda _: None) == error(b'Mprepared statement "%b" does not exist' % guessed)


@given(
    st.lists(
        st.one_of(st.just(PREFIX), st.just(PREFIX + b"1"), st.just(PREFIX + b"2x"), st.binary(max_size=8)), max_size=10
    )
)
def test_names_are_put_back_into_any_message(pieces: list[bytes]) -> None:
    """What comes out is one message, without a name of ours."""
    restored = restore_names(message(ord("E"), b"".join(pieces)), {PREFIX + b"1": b"own"}.get)
    assert len(list(messages_in(restored))) == 1

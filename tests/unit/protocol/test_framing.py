"""Message boundaries, wherever the bytes are cut."""

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgdoorman.errors import ProtocolViolation
from pgdoorman.protocol.framing import FrameReader, end_of_run, length_at, message, messages_in, table_of

MESSAGES = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40)), max_size=8)
CONVERSATION = [(ord("Q"), b"select 1\0"), (ord("S"), b""), (ord("d"), b"x" * 300), (0, b"\0"), (255, b"\xff\xff")]


def everything(reader: FrameReader) -> list[tuple[int, bytes]]:
    found = []
    while (one := reader.next()) is not None:
        found.append(one)
    return found


def test_one_message() -> None:
    assert message(ord("S")) == b"S\0\0\0\4"
    assert message(ord("Q"), b"x\0") == b"Q\0\0\0\6x\0"


@given(MESSAGES)
def test_what_was_put_together_is_taken_apart(messages: list[tuple[int, bytes]]) -> None:
    data = b"".join(message(kind, body) for kind, body in messages)
    assert list(messages_in(data)) == messages
    reader = FrameReader()
    reader.feed(data)
    assert everything(reader) == messages
    assert len(reader) == 0


def test_split_at_every_byte() -> None:
    data = b"".join(message(kind, body) for kind, body in CONVERSATION)
    for cut in range(len(data) + 1):
        reader = FrameReader()
        reader.feed(data[:cut])
        found = everything(reader)
        reader.feed(data[cut:])
        assert found + everything(reader) == CONVERSATION, f"cut at {cut}"


def test_byte_by_byte() -> None:
    reader = FrameReader()
    found = []
    for byte in b"".join(message(kind, body) for kind, body in CONVERSATION):
        reader.feed(bytes([byte]))
        found += everything(reader)
    assert found == CONVERSATION


@given(MESSAGES, st.lists(st.integers(0, 400)))
def test_any_pieces(messages: list[tuple[int, bytes]], cuts: list[int]) -> None:
    data = b"".join(message(kind, body) for kind, body in messages)
    reader = FrameReader()
    found = []
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    for begin, end in itertools.pairwise(places):
        reader.feed(data[begin:end])
        found += everything(reader)
    assert found == messages


def test_an_incomplete_end() -> None:
    data = message(ord("Q"), b"select 1\0")
    for cut in range(1, len(data)):
        with pytest.raises(ProtocolViolation):
            list(messages_in(data[:cut]))
        reader = FrameReader()
        reader.feed(data[:cut])
        assert reader.next() is None
        assert len(reader) == cut
        assert reader.rest() == data[:cut]
        assert len(reader) == 0


@pytest.mark.parametrize("length", [0, 1, 3, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_lengths_that_cannot_be(length: int) -> None:
    data = b"Q" + struct.pack("!I", length) + b"rest of it"
    reader = FrameReader()
    reader.feed(data)
    with pytest.raises(ProtocolViolation):
        reader.next()
    with pytest.raises(ProtocolViolation):
        list(messages_in(data))


def test_lengths_are_unsigned() -> None:
    assert length_at(b"Q\xff\xff\xff\xff", 1) == (0xFFFFFFFF,)


def test_a_message_that_is_too_long_is_refused_by_its_header() -> None:
    reader = FrameReader(limit=10)
    reader.feed(message(ord("Q"), b"0123456789"))
    assert reader.next() == (ord("Q"), b"0123456789")
    reader.feed(message(ord("Q"), b"0123456789x")[:5])
    with pytest.raises(ProtocolViolation):
        reader.next()


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=8), MESSAGES, st.integers(0, 400))
def test_a_run_ends_where_another_kind_begins(run: list[bytes], others: list[tuple[int, bytes]], cut: int) -> None:
    """Or, where the data has been cut, behind the end of what is there; the same as walking one by one."""
    data = b"".join(message(100, body) for body in run)
    data = (data + b"".join(message(kind, body) for kind, body in others))[:cut]
    position = 0
    while len(data) - position >= 5 and data[position] == 100:
        position += 1 + length_at(data, position + 1)[0]
    assert end_of_run(data, 100, 0) == position


@pytest.mark.parametrize("length", [0, 3])
def test_a_run_ends_at_a_length_that_cannot_be(length: int) -> None:
    data = message(100, b"row") + b"d" + struct.pack("!I", length) + message(100, b"row")
    assert end_of_run(data, 100, 0) == 8


def test_a_table_of_kinds() -> None:
    table = table_of(b"DZ\xff")
    assert [kind for kind in range(256) if table[kind]] == [ord("D"), ord("Z"), 255]
    assert set(table) == {0, 1}

"""The runs of CopyData that are passed on in one piece end where a message-by-message walk says so."""

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pgdoorman.client.serving import _end_of_copy_data
from pgdoorman.protocol.framing import LARGEST_MESSAGE


def _session(limit: int) -> Any:
    return SimpleNamespace(pool=SimpleNamespace(settings=SimpleNamespace(max_message_size=limit)))


def _framed(kind: bytes, size: int) -> bytes:
    return kind + (4 + size).to_bytes(4) + bytes(size)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.integers(0, 40), st.integers(4, 60), st.booleans())
def test_a_run_ends_at_a_message_that_has_to_be_looked_at(sizes: list[int], cut: int, limit: int, other: bool) -> None:
    whole = b"".join(_framed(b"d", size) for size in sizes) + (_framed(b"c", 0) if other else b"")
    first = 5 + sizes[0]
    data = whole[: max(first, len(whole) - cut)]
    end = _end_of_copy_data(_session(limit), data, first)
    bounds = [first]
    for size in sizes[1:]:
        if bounds[-1] + 5 > len(data):
            break
        bounds.append(bounds[-1] + 5 + size)
    assert end in bounds, "never in the middle of a message, never beyond the run"
    if end != bounds[-1]:
        # It stops early only before a message that may be longer than it is allowed to be.
        assert bounds[-1] - first > limit
        assert end == bounds[-2]


def test_a_length_that_cannot_be_is_not_passed_over() -> None:
    data = _framed(b"d", 3) * 2 + b"d" + (0x7FFFFFFF).to_bytes(4) + b"xyz"
    assert _end_of_copy_data(_session(LARGEST_MESSAGE), data, 8) == 16
    data = _framed(b"d", 3) * 2 + b"d" + (3).to_bytes(4) + b"xyz"
    assert _end_of_copy_data(_session(LARGEST_MESSAGE), data, 8) == 16

"""SASLprep: the RFC's examples, and PostgreSQL's own ways around it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgdoorman.auth.saslprep import saslprep


@pytest.mark.parametrize(
    ("password", "prepared"),
    [
        ("I\u00adX", "IX"),  # RFC 4013, section 3: a soft hyphen is mapped to nothing
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),  # a space that is not ASCII
        ("a\u200bb", "a b"),  # in both tables; spaces come first
        ("e\u0301", "\u00e9"),
        ("\u0627\u0628", "\u0627\u0628"),  # right to left throughout
        ("пароль", "пароль"),
    ],
)
def test_prepared(password: str, prepared: str) -> None:
    assert saslprep(password.encode()) == prepared.encode()


@pytest.mark.parametrize(
    "password",
    [
        "\x07",  # a control character, but pure ASCII is never looked at
        "",
        "é\x07",  # prohibited
        "\u0627\u0031",  # RFC 4013: right-to-left that does not end so
        "\u0627a\u0628",  # left-to-right letters among right-to-left
        "\u00ad",  # nothing would be left
        "é\u0221",  # not assigned in Unicode 3.2
        "é\ue000",  # private use
    ],
)
def test_used_as_it_is(password: str) -> None:
    assert saslprep(password.encode()) == password.encode()


def test_not_utf_8_is_used_as_it_is() -> None:
    assert saslprep(b"M\xfcller") == b"M\xfcller"


@given(st.binary() | st.text().map(lambda text: text.encode(errors="replace")))
def test_never_raises(password: bytes) -> None:
    saslprep(password)

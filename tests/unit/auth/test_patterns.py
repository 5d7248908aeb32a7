"""PostgreSQL's regular expressions on Python's engine: what is translated, what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgdoorman.auth.patterns import compile_pattern, search


@pytest.mark.parametrize(
    ("pattern", "name", "found"),
    [
        ("b", "abc", True),  # anywhere
        ("^abc$", "abc", True),
        ("^abc$", "abc\n", False),  # Python's own $ would match
        ("^a.c$", "a\nc", True),
        ("^db[0-9]{1,3}$", "db42", True),
        ("^[[:alpha:]]+$", "abc", True),
        ("^[[:alpha:]]+$", "a[:", False),
        ("^[[:digit:]_]+$", "1_2", True),
        ("^[^[:digit:]]+$", "abc", True),
        ("^[]a]+$", "]a", True),
        ("^[^]a]+$", "b]", False),
        ("^[a[]$", "[", True),
        (r"^\d+$", "12", True),
        (r"^\d+$", "\u0661", False),  # digits are ASCII
        (r"\mdoor\M", "a door b", True),
        (r"\mdoor\M", "adoor", False),
        (r"\ydoor\y", "door", True),
        (r"^a\$", "a$", True),
        (r"^[\]]$", "]", True),
        ("^(?:a|b)$", "b", True),
        ("(?i)^ABC$", "abc", True),
    ],
)
def test_matches(pattern: str, name: str, found: bool) -> None:
    assert (search(compile_pattern(pattern), name) is not None) is found


@pytest.mark.parametrize(
    "pattern", ["(", "[", "[a", "a\\", "[a\\", "*", "***=a", "[[.a.]]", "[[=a=]]", "[[:nope:]]", "(?<=a+)b", "a{2,1}"]
)
def test_what_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        compile_pattern(pattern)


def test_a_name_that_postgresql_cannot_have_never_matches() -> None:
    pattern = compile_pattern("^a*$")
    assert search(pattern, "a" * 63)
    assert not search(pattern, "a" * 64)
    assert not search(pattern, "é" * 32)


@given(st.text(alphabet=r"ab[](){}^$\.*+?:-|=,1y", max_size=12))
def test_compiling_raises_nothing_but_value_errors(pattern: str) -> None:
    try:
        compile_pattern(pattern)
    except ValueError:
        pass

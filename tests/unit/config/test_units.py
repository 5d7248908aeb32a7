"""Durations, sizes and permissions: every way to write them, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgdoorman.config.units import (
    format_duration,
    format_mode,
    format_size,
    parse_duration,
    parse_mode,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("250", 0.25),
        (" 250 ", 0.25),
        ("250ms", 0.25),
        ("250 MS", 0.25),
        ("5s", 5.0),
        ("1.5s", 1.5),
        ("0.25s", 0.25),
        ("10m", 600.0),
        ("1h30m", 5400.0),
        ("1h 30m", 5400.0),
        ("1.5h", 5400.0),
        ("7d", 604_800.0),
        ("1d2h3m4s5ms", 93_784.005),
        ("2M", 120.0),  # a unit in any case: minutes, not months
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


def test_a_bare_integer_counts_in_the_keys_own_unit() -> None:
    assert parse_duration("60", "s") == 60.0
    assert parse_duration("60ms", "s") == 0.06


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "-1",
        "-1s",
        "1.5",
        "s",
        "1x",
        "1h30",
        "30m1h",
        "1m1m",
        "1,5s",
        "1e3",
        ".5s",
        "5.s",
        "1h,30m",
        "٣s",
        "٣",
        "1 2s",
    ],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=10**13))
def test_a_formatted_duration_reads_back(milliseconds: int) -> None:
    assert round(parse_duration(format_duration(milliseconds / 1000)) * 1000) == milliseconds


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("1048576", 1024**2),
        ("64KB", 65_536),
        ("64 kb", 65_536),
        ("64K", 65_536),
        ("64KiB", 65_536),
        ("17B", 17),
        ("1.5GB", 3 * 1024**3 // 2),
        ("0.5M", 512 * 1024),
        ("2TB", 2 * 1024**4),
    ],
)
def test_sizes(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "KB", "-1", "1.5", "1.5B", "1PB", "1 2K", "0x10", "iB", "1iB", "٣K"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(text)


@given(st.integers(min_value=0, max_value=2**50))
def test_a_formatted_size_reads_back(count: int) -> None:
    assert parse_size(format_size(count)) == count


@pytest.mark.parametrize(
    ("text", "mode"), [("0600", 0o600), ("600", 0o600), ("0o660", 0o660), ("0", 0), ("0777", 0o777)]
)
def test_modes(text: str, mode: int) -> None:
    assert parse_mode(text) == mode


@pytest.mark.parametrize("text", ["", "0888", "1777", "0x1ff", "rw-------", "-600"])
def test_what_is_no_mode(text: str) -> None:
    with pytest.raises(ValueError, match=r"mode|permission"):
        parse_mode(text)


@given(st.integers(min_value=0, max_value=0o777))
def test_a_formatted_mode_reads_back(mode: int) -> None:
    assert parse_mode(format_mode(mode)) == mode

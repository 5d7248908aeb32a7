"""Messages byte for byte, and cells in both formats as PostgreSQL has them."""

import struct
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pgdoorman.errors import BackendRefused, ConfigError, PoolFull, ProtocolViolation
from pgdoorman.protocol import codes, results
from pgdoorman.protocol.results import BINARY_FORMAT, BOOL, BYTEA, FLOAT8, INT4, INT8, NUMERIC, TEXT, Column, encode


def test_row_description() -> None:
    message = results.row_description([Column("a", INT4), Column("b")], [1, 0])
    assert message == (
        b"T\x00\x00\x00\x2e\x00\x02"
        b"a\x00" + b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x17\x00\x04\xff\xff\xff\xff\x00\x01"
        b"b\x00" + b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x19\xff\xff\xff\xff\xff\xff\x00\x00"
    )


@pytest.mark.parametrize(
    ("oid", "size"), [(BOOL, 1), (BYTEA, -1), (INT8, 8), (INT4, 4), (TEXT, -1), (FLOAT8, 8), (NUMERIC, -1)]
)
def test_sizes_of_types(oid: int, size: int) -> None:
    assert results.row_description([Column("x", oid)])[9:] == struct.pack("!IhIhih", 0, 0, oid, size, -1, 0)


def test_data_row() -> None:
    assert results.data_row(["a", None, b"", b"\x00\xff"]) == (
        b"D\x00\x00\x00\x19\x00\x04\x00\x00\x00\x01a\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x02\x00\xff"
    )
    assert results.data_row([]) == b"D\x00\x00\x00\x06\x00\x00"


def test_formats() -> None:
    columns = [Column("a", INT4), Column("b", INT4)]
    row = [[1, 2]]
    assert results.data_rows(columns, row) == results.data_row([b"1", b"2"])
    assert results.data_rows(columns, row, [1]) == results.data_row([b"\0\0\0\1", b"\0\0\0\2"])
    assert results.data_rows(columns, row, [0, 1]) == results.data_row([b"1", b"\0\0\0\2"])
    for wrong in ([0, 1, 0], [2], [0, 2]):
        with pytest.raises(ValueError, match="format"):
            results.expand_formats(wrong, 2)


def test_small_messages() -> None:
    assert results.command_complete("SHOW") == b"C\0\0\0\x09SHOW\0"
    assert results.ready_for_query() == b"Z\0\0\0\5I"
    assert results.ready_for_query(codes.FAILED) == b"Z\0\0\0\5E"
    assert results.empty_query_response() == b"I\0\0\0\4"
    assert results.parse_complete() == b"1\0\0\0\4"
    assert results.bind_complete() == b"2\0\0\0\4"
    assert results.close_complete() == b"3\0\0\0\4"
    assert results.no_data() == b"n\0\0\0\4"
    assert results.portal_suspended() == b"s\0\0\0\4"
    assert results.parameter_description([23, 25]) == b"t\0\0\0\x0e\0\2\0\0\0\x17\0\0\0\x19"
    assert results.parameter_status("a", "b") == b"S\0\0\0\x08a\0b\0"
    assert results.backend_key_data(1, b"\2\3\4\5") == b"K\0\0\0\x0c\0\0\0\1\2\3\4\5"


# --- cells ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "oid", "text", "binary"),
    [
        (None, INT4, None, None),
        (7, INT4, b"7", b"\0\0\0\7"),
        (-1, INT8, b"-1", b"\xff" * 8),
        (2**31, INT4, b"2147483647", b"\x7f\xff\xff\xff"),
        (-(2**63) - 5, INT8, b"-9223372036854775808", b"\x80" + b"\0" * 7),
        (True, BOOL, b"t", b"\1"),
        (False, BOOL, b"f", b"\0"),
        ("\N{EURO SIGN}", TEXT, b"\xe2\x82\xac", b"\xe2\x82\xac"),
        (5, TEXT, b"5", b"5"),
        (b"a\0\xff", TEXT, b"a\xef\xbf\xbd\xef\xbf\xbd", b"a\xef\xbf\xbd\xef\xbf\xbd"),
        (b"\x01\xff", BYTEA, b"\\x01ff", b"\x01\xff"),
        (1.5, FLOAT8, b"1.5", struct.pack("!d", 1.5)),
        (0, NUMERIC, b"0", struct.pack("!hhHh", 0, 0, 0, 0)),
        (True, NUMERIC, b"1", struct.pack("!hhHhh", 1, 0, 0, 0, 1)),
        (1.25, NUMERIC, b"1.25", struct.pack("!hhHhhh", 2, 0, 0, 2, 1, 2500)),
        (1e20, NUMERIC, b"100000000000000000000", struct.pack("!hhHhh", 1, 5, 0, 0, 1)),
        (Decimal("-0.00012"), NUMERIC, b"-0.00012", struct.pack("!hhHhhh", 2, -1, 0x4000, 5, 1, 2000)),
        (Decimal("NaN"), NUMERIC, b"NaN", struct.pack("!hhHh", 0, 0, 0xC000, 0)),
        (Decimal("-Infinity"), NUMERIC, b"-Infinity", struct.pack("!hhHh", 0, 0, 0xF000, 0)),
        (float("inf"), NUMERIC, b"Infinity", struct.pack("!hhHh", 0, 0, 0xD000, 0)),
    ],
)
def test_cells(value: results.Value, oid: int, text: bytes | None, binary: bytes | None) -> None:
    assert encode(value, oid) == text
    assert encode(value, oid, BINARY_FORMAT) == binary


def read_numeric(data: bytes) -> Fraction:
    """numeric_recv, written from its description and not from what is tested."""
    count, weight, sign, scale = struct.unpack_from("!hhHh", data)
    digits = struct.unpack_from(f"!{count}h", data, 8)
    assert len(data) == 8 + 2 * count
    assert all(0 <= digit < 10_000 for digit in digits)
    assert not digits or (digits[0] and digits[-1])  # stripped of zeros on both sides
    value = sum((digit * Fraction(10_000) ** (weight - place) for place, digit in enumerate(digits)), Fraction(0))
    assert (value * 10**scale).denominator == 1  # nothing stands behind the digits that it says it has
    return -value if sign == 0x4000 else value


@given(st.decimals(allow_nan=False, allow_infinity=False) | st.integers())
@example(10**40 + 1)
@example(Decimal("-0.000001"))
def test_binary_numerics_are_read_back(number: Decimal | int) -> None:
    assume(abs(Decimal(number).adjusted()) < 5_000)  # numeric has at most 131072 digits, and this is slow before that
    data = encode(number, NUMERIC, BINARY_FORMAT)
    assert data is not None
    assert read_numeric(data) == Fraction(number)


@given(st.text())
def test_text_never_carries_a_nul_or_broken_utf8(text: str) -> None:
    raw = results.safe_bytes(text)
    assert b"\0" not in raw
    assert len(raw.decode()) == len(text)


# --- errors -----------------------------------------------------------------------------------------------------------


def fields(message: bytes) -> list[tuple[str, str]]:
    assert int.from_bytes(message[1:5]) == len(message) - 1
    assert message.endswith(b"\0\0")
    return [(chr(part[0]), part[1:].decode()) for part in message[5:-2].split(b"\0")]


def test_fields_stand_in_postgresqls_order() -> None:
    message = results.error_response("m", sqlstate="42601", detail="d", hint="h", position=3)
    assert message[:1] == b"E"
    assert fields(message) == [
        ("S", "ERROR"), ("V", "ERROR"), ("C", "42601"), ("M", "m"), ("D", "d"), ("H", "h"), ("P", "3"),
    ]  # fmt: skip
    message = results.notice_response("m")
    assert message[:1] == b"N"
    assert fields(message) == [("S", "NOTICE"), ("V", "NOTICE"), ("C", "00000"), ("M", "m")]


def test_one_of_our_errors() -> None:
    message = results.error_response_for(PoolFull("full", hint="later"))
    assert fields(message) == [("S", "FATAL"), ("V", "FATAL"), ("C", "53300"), ("M", "full"), ("H", "later")]
    message = results.error_response_for(ProtocolViolation("x"), severity="ERROR")
    assert fields(message)[:3] == [("S", "ERROR"), ("V", "ERROR"), ("C", "08P01")]
    message = results.error_response_for(ConfigError("bad", file="f", line=2, key="k"))
    assert ("M", "f:2: k: bad") in fields(message)


def test_the_servers_own_fields_are_forwarded_untouched() -> None:
    own = {
        "M": "no",
        "C": "28P01",
        "V": "FATAL",
        "S": "FATALE",
        "R": "auth_failed",
        "F": "auth.c",
        "L": "9",
        "~": "new",
    }
    message = results.error_response_for(BackendRefused(own), severity="ERROR")
    assert fields(message) == [
        ("S", "FATALE"), ("V", "FATAL"), ("C", "28P01"), ("M", "no"), ("F", "auth.c"), ("L", "9"), ("R", "auth_failed"),
        ("~", "new"),
    ]  # fmt: skip
    assert fields(results.error_response_for(BackendRefused({"M": "x", "": "y", "\0": "z"}))) == [("M", "x")]


def test_an_error_text_cannot_forge_a_field() -> None:
    message = results.error_response("a\0Ctrue", sqlstate="08P01")
    assert fields(message)[-1] == ("M", "a\N{REPLACEMENT CHARACTER}Ctrue")

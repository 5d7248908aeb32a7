"""Results, errors and notices as messages: what a server says to a client, built from Python values.

Every function returns whole messages, ready to send. Text is UTF-8; what UTF-8 or a C string cannot carry (lone
surrogates, NUL) is replaced by U+FFFD, so that no value can end a message early or shift the ones behind it.

Protocol chapter, sections "Message Formats" and "Error and Notice Message Fields".
"""

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from pgdoorman.errors import BackendRefused, ConfigError, PgDoormanError
from pgdoorman.protocol import codes

# Type OIDs (pg_type.dat) and, below, their typlen: -1 is variable.
BOOL: Final = 16
BYTEA: Final = 17
INT8: Final = 20
INT4: Final = 23
TEXT: Final = 25
FLOAT8: Final = 701
NUMERIC: Final = 1700

_TYPE_SIZES: Final = {BOOL: 1, BYTEA: -1, INT8: 8, INT4: 4, TEXT: -1, FLOAT8: 8, NUMERIC: -1}

TEXT_FORMAT: Final = 0
BINARY_FORMAT: Final = 1

type Value = str | int | float | bool | Decimal | bytes | None
"""What one cell of a result can be; None is NULL."""

_PACK_COUNT: Final = struct.Struct("!H").pack
_PACK_LENGTH: Final = struct.Struct("!I").pack
_NULL: Final = b"\xff\xff\xff\xff"

_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"

# The order in which PostgreSQL sends the fields (send_message_to_frontend in elog.c).
_FIELD_ORDER: Final = "SVCMDHPpqWstcdnFLR"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a result; `type_oid` is one of the constants above."""

    name: str
    type_oid: int = TEXT


def safe_bytes(text: str) -> bytes:
    """UTF-8 of the text without NUL; what cannot be encoded becomes U+FFFD."""
    if "\0" in text:
        text = text.replace("\0", _REPLACEMENT)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def message(message_type: int, body: bytes) -> bytes:
    """One message: type, length (which counts itself), body."""
    return struct.pack("!BI", message_type, len(body) + 4) + body


def _c_string(text: str) -> bytes:
    return safe_bytes(text) + b"\0"


# --- results ----------------------------------------------------------------------------------------------------------


def row_description(columns: Sequence[Column], formats: Sequence[int] = ()) -> bytes:
    """RowDescription ('T'). The columns belong to no table; `formats` as in Bind: none, one for all, or one each."""
    parts = [struct.pack("!H", len(columns))]
    for column, code in zip(columns, expand_formats(formats, len(columns)), strict=True):
        parts.append(_c_string(column.name))
        parts.append(struct.pack("!IhIhih", 0, 0, column.type_oid, _TYPE_SIZES[column.type_oid], -1, code))
    return message(codes.ROW_DESCRIPTION, b"".join(parts))


def data_row(cells: Sequence[bytes | str | None]) -> bytes:
    """DataRow ('D') from encoded cells: bytes go out as they are, a str as `safe_bytes`, None is NULL."""
    return _data_row([safe_bytes(cell) if isinstance(cell, str) else cell for cell in cells])


def data_rows(columns: Sequence[Column], rows: Iterable[Sequence[Value]], formats: Sequence[int] = ()) -> bytes:
    """One DataRow for each row of Python values, each encoded for its column in the format that was asked for."""
    plan = list(zip(columns, expand_formats(formats, len(columns)), strict=True))
    encoders = [_encoder(column.type_oid, code) for column, code in plan]
    return b"".join(
        _data_row([None if value is None else make(value) for make, value in zip(encoders, row, strict=True)])
        for row in rows
    )


def _data_row(cells: Sequence[bytes | None]) -> bytes:
    parts = [_PACK_COUNT(len(cells))]
    for cell in cells:
        if cell is None:
            parts.append(_NULL)
        else:
            parts.append(_PACK_LENGTH(len(cell)))
            parts.append(cell)
    return message(codes.DATA_ROW, b"".join(parts))


def expand_formats(formats: Sequence[int], columns: int) -> Sequence[int]:
    """One format code for each column: none given means text, one means that one for all (Bind, "result-column
    format codes"). Raises `ValueError` for another number of codes or a code other than 0 and 1."""
    if any(code not in (TEXT_FORMAT, BINARY_FORMAT) for code in formats):
        raise ValueError("unsupported format code")
    if not formats:
        return [TEXT_FORMAT] * columns
    if len(formats) == 1:
        return [formats[0]] * columns
    if len(formats) != columns:
        raise ValueError(f"bind message has {len(formats)} result formats but query has {columns} columns")
    return formats


def encode(value: Value, type_oid: int, code: int = TEXT_FORMAT) -> bytes | None:
    """One cell as PostgreSQL would send it for this type, in text (code 0) or binary (1). None stays None.

    An int4 or int8 that is out of range is sent as the nearest number that fits: a wrong but huge number is worth more
    to someone who watches a counter than an error instead of all rows.
    """
    return None if value is None else _encoder(type_oid, code)(value)


def _encoder(type_oid: int, code: int) -> Callable[[Value], bytes]:
    return (_BINARY if code == BINARY_FORMAT else _TEXT)[type_oid]


def _text(value: Value) -> bytes:
    if isinstance(value, str):
        return safe_bytes(value)
    return safe_bytes(value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value))


def _clamped(value: Value, limit: int) -> int:
    return max(-limit - 1, min(limit, int(value)))  # type: ignore[arg-type]  # NULL never comes here


def _clamped_text(limit: int) -> Callable[[Value], bytes]:
    return lambda value: b"%d" % _clamped(value, limit)


def _clamped_binary(layout: str, limit: int) -> Callable[[Value], bytes]:
    pack = struct.Struct(layout).pack
    return lambda value: pack(_clamped(value, limit))


def _numeric_text(value: Value) -> bytes:
    if type(value) is int:
        return b"%d" % value
    return _plain_number(value).encode()


def _as_bytes(value: Value) -> bytes:
    return value if isinstance(value, bytes) else safe_bytes(str(value))


def _plain_number(value: Value) -> str:
    """A numeric without an exponent, which is how PostgreSQL prints it."""
    return format(Decimal(str(int(value) if isinstance(value, bool) else value)), "f")


def _numeric(number: Decimal) -> bytes:
    """Binary numeric (numeric_send): base 10000 digits, weight of the first, sign, digits after the point."""
    if not number.is_finite():
        sign = {"NaN": 0xC000, "Infinity": 0xD000, "-Infinity": 0xF000}[str(number).replace("sNaN", "NaN").lstrip("+")]
        return struct.pack("!hhHh", 0, 0, sign, 0)
    text = format(number.copy_abs(), "f")  # abs() would round to 28 digits
    whole, _, fraction = text.partition(".")
    scale = len(fraction)
    whole = whole.zfill(-(-len(whole) // 4) * 4)
    fraction = fraction.ljust(-(-len(fraction) // 4) * 4, "0")
    digits = [int((whole + fraction)[i : i + 4]) for i in range(0, len(whole) + len(fraction), 4)]
    weight = len(whole) // 4 - 1
    while digits and digits[0] == 0:
        del digits[0]
        weight -= 1
    while digits and digits[-1] == 0:
        del digits[-1]
    if not digits:
        weight = 0
    sign = 0x4000 if number < 0 else 0
    return struct.pack(f"!hhHh{len(digits)}h", len(digits), weight, sign, scale, *digits)


_MAX_INT4: Final = 2**31 - 1
_MAX_INT8: Final = 2**63 - 1

_TEXT: Final[Mapping[int, Callable[[Value], bytes]]] = {
    BOOL: lambda value: b"t" if value else b"f",
    BYTEA: lambda value: b"\\x" + _as_bytes(value).hex().encode(),
    INT8: _clamped_text(_MAX_INT8),
    INT4: _clamped_text(_MAX_INT4),
    TEXT: _text,
    FLOAT8: _text,
    NUMERIC: _numeric_text,
}

_BINARY: Final[Mapping[int, Callable[[Value], bytes]]] = {
    BOOL: lambda value: b"\1" if value else b"\0",
    BYTEA: _as_bytes,
    INT8: _clamped_binary("!q", _MAX_INT8),
    INT4: _clamped_binary("!i", _MAX_INT4),
    TEXT: _text,
    FLOAT8: lambda value: struct.pack("!d", float(value)),  # type: ignore[arg-type]
    NUMERIC: lambda value: _numeric(Decimal(_plain_number(value))),
}


def command_complete(tag: str) -> bytes:
    """CommandComplete ('C')."""
    return message(codes.COMMAND_COMPLETE, _c_string(tag))


def ready_for_query(status: int = codes.IDLE) -> bytes:
    """ReadyForQuery ('Z') with one of `codes.IDLE`, `codes.IN_TRANSACTION`, `codes.FAILED`."""
    return message(codes.READY_FOR_QUERY, bytes((status,)))


def empty_query_response() -> bytes:
    """EmptyQueryResponse ('I'), which stands in for CommandComplete."""
    return message(codes.EMPTY_QUERY_RESPONSE, b"")


def parse_complete() -> bytes:
    """ParseComplete ('1')."""
    return message(codes.PARSE_COMPLETE, b"")


def bind_complete() -> bytes:
    """BindComplete ('2')."""
    return message(codes.BIND_COMPLETE, b"")


def close_complete() -> bytes:
    """CloseComplete ('3')."""
    return message(codes.CLOSE_COMPLETE, b"")


def no_data() -> bytes:
    """NoData ('n'): what Describe answers for something that returns no rows."""
    return message(codes.NO_DATA, b"")


def portal_suspended() -> bytes:
    """PortalSuspended ('s'): the row limit of Execute was reached."""
    return message(codes.PORTAL_SUSPENDED, b"")


def parameter_description(type_oids: Sequence[int]) -> bytes:
    """ParameterDescription ('t')."""
    return message(codes.PARAMETER_DESCRIPTION, struct.pack(f"!H{len(type_oids)}I", len(type_oids), *type_oids))


def parameter_status(name: str, value: str) -> bytes:
    """ParameterStatus ('S')."""
    return message(codes.PARAMETER_STATUS, _c_string(name) + _c_string(value))


def backend_key_data(process_id: int, secret: bytes) -> bytes:
    """BackendKeyData ('K'). The secret has 4 bytes in protocol 3.0, 4 to 256 in 3.2."""
    return message(codes.BACKEND_KEY_DATA, struct.pack("!I", process_id) + secret)


# --- errors and notices -----------------------------------------------------------------------------------------------


def error_response(
    text: str, *, sqlstate: str, severity: str = "ERROR", detail: str = "", hint: str = "", position: int = 0
) -> bytes:
    """ErrorResponse ('E') with the fields S, V, C, M and, where given, D, H and P (1-based, in characters)."""
    return message(codes.ERROR_RESPONSE, _fields(_of_text(text, sqlstate, severity, detail, hint, position)))


def notice_response(
    text: str, *, sqlstate: str = "00000", severity: str = "NOTICE", detail: str = "", hint: str = ""
) -> bytes:
    """NoticeResponse ('N'), with the same fields as an error."""
    return message(codes.NOTICE_RESPONSE, _fields(_of_text(text, sqlstate, severity, detail, hint, 0)))


def error_response_for(error: PgDoormanError, *, severity: str | None = None) -> bytes:
    """ErrorResponse for one of our errors, with its own severity unless another is given.

    `BackendRefused` carries the server's own fields, and those are forwarded as they are.
    """
    if isinstance(error, BackendRefused):
        return message(codes.ERROR_RESPONSE, _fields(error.fields))
    # A ConfigError's text names its file and line only in str(); its `message` alone would not say where.
    text = str(error) if isinstance(error, ConfigError) else error.message
    return error_response(
        text, sqlstate=error.sqlstate, severity=severity or error.severity, detail=error.detail, hint=error.hint
    )


def _of_text(text: str, sqlstate: str, severity: str, detail: str, hint: str, position: int) -> dict[str, str]:
    fields = {"S": severity, "V": severity, "C": sqlstate, "M": text}
    if detail:
        fields["D"] = detail
    if hint:
        fields["H"] = hint
    if position:
        fields["P"] = str(position)
    return fields


def _fields(fields: Mapping[str, str]) -> bytes:
    known = [letter for letter in _FIELD_ORDER if letter in fields]
    # A letter that this version of the protocol does not name is passed on all the same: readers skip what they
    # do not know (protocol, "Error and Notice Message Fields"). Whatever is not one ASCII letter is not a field.
    unknown = [letter for letter in fields if letter not in known and len(letter) == 1 and letter.isascii()]
    parts = [letter.encode() + _c_string(fields[letter]) for letter in known + unknown if letter != "\0"]
    return b"".join(parts) + b"\0"

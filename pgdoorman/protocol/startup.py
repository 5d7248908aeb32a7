"""The first packet of a connection, and what else is said only while a connection starts.

Protocol chapter, sections "Start-up", "SSL Session Encryption", "Canceling Requests in Progress" and "Message Formats".
Everything here is fed by peers that have proved nothing yet. So every size is bounded, every loop consumes its input,
and whatever is malformed is a `ProtocolViolation` and never another exception.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Final

from pgdoorman.errors import ProtocolViolation, UnsupportedProtocol
from pgdoorman.protocol import codes


class InvalidOptions(ProtocolViolation):
    """`options` has something else than settings."""

    sqlstate = "42601"


class UnknownStartupParameter(ProtocolViolation):
    """No run-time parameter can be called so."""

    sqlstate = "42704"


class InvalidStartupValue(ProtocolViolation):
    """A parameter of the start-up packet itself has a value that it cannot have."""

    sqlstate = "22023"


MAX_FIRST_PACKET: Final = 10_000
"""PostgreSQL's own limit for a start-up packet, in bytes with its length. A larger one could not be passed on."""

MIN_CANCEL_SECRET: Final = 4
MAX_CANCEL_SECRET: Final = 256
"""Bytes of a cancel key. Protocol 3.0 has exactly four, 3.2 has up to 256."""

TLS_HANDSHAKE: Final = 0x16
"""The first byte of a client that begins with TLS at once (direct TLS) and sends no SSLRequest."""

SUPPORTED_VERSIONS: Final = (codes.PROTOCOL_3_0, codes.PROTOCOL_3_2)


@dataclass(frozen=True, slots=True)
class SslRequest:
    """Asks for TLS; answered with one byte, 'S' or 'N'."""


@dataclass(frozen=True, slots=True)
class GssEncRequest:
    """Asks for GSSAPI encryption; answered with one byte, 'G' or 'N'."""


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """Asks to cancel the query of the connection that was given this key. Never answered."""

    process_id: int
    secret: bytes

    def __repr__(self) -> str:
        # Whoever knows the secret can cancel.
        return f"CancelRequest(process_id={self.process_id})"


class Replication(Enum):
    """What a walsender connection wants; the value is the text of an HBA keyword or error."""

    NONE = "no"
    PHYSICAL = "physical"
    LOGICAL = "database"


@dataclass(frozen=True, slots=True)
class StartupMessage:
    """A client's wish to log in. `parameters` are as sent: in order, repetitions and all."""

    version: int
    parameters: tuple[tuple[str, str], ...]
    user: str = field(init=False, repr=False, compare=False)
    """"" if the client sent none."""
    database: str = field(init=False, repr=False, compare=False)
    """A client that names none means the one that is called like the user."""
    protocol_options: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """Names of the `_pq_.` options asked for, without repetitions."""
    _by_name: dict[str, str] = field(init=False, repr=False, compare=False)
    _settings: Mapping[str, str] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_name = dict(self.parameters)
        options = tuple(name for name in by_name if name.startswith("_pq_."))
        user = by_name.get("user", "")
        for name, value in (
            ("_by_name", by_name),
            ("_settings", None),
            ("user", user),
            ("database", by_name.get("database") or user),
            ("protocol_options", options),
        ):
            object.__setattr__(self, name, value)

    @property
    def replication(self) -> Replication:
        """Whether this is to be a walsender. Raises ProtocolViolation for a value that PostgreSQL does not know."""
        return parse_replication(self.last("replication"))

    def last(self, name: str) -> str:
        """The value of a parameter, the last one where it is repeated, "" if it is absent."""
        return self._by_name.get(name, "")

    def settings(self) -> Mapping[str, str]:
        """The run-time parameters asked for, in PostgreSQL's order of precedence: those in `options` come first and a
        parameter sent under its own name wins over them. Names are compared without regard to case; the spelling of
        the last one is kept. Raises ProtocolViolation for malformed options and for names that no parameter can have.
        """
        if self._settings is None:
            named = ((name, value) for name, value in self.parameters if not _is_connection_field(name))
            merged: dict[str, tuple[str, str]] = {}
            options = self.last("options")
            for name, value in (*(parse_options(options) if options else ()), *named):
                merged[name.lower()] = (check_setting_name(name), value)
            object.__setattr__(self, "_settings", dict(merged.values()))
        assert self._settings is not None
        return self._settings


type FirstPacket = SslRequest | GssEncRequest | CancelRequest | StartupMessage


def first_packet_size(header: bytes, limit: int = MAX_FIRST_PACKET) -> int:
    """How many bytes the first packet has altogether, from its first four. Raises ProtocolViolation unless the length
    is between 8 and `limit`, so nothing is buffered for a length that cannot be meant."""
    if len(header) < 4:
        raise ProtocolViolation("incomplete startup packet")
    size = int.from_bytes(header[:4])
    if not 8 <= size <= limit:
        raise ProtocolViolation(f"invalid length of startup packet: {size}")
    return size


def parse_first_packet(packet: bytes) -> FirstPacket:
    """The first packet of a connection, given whole and with its length field.

    Raises ProtocolViolation. The start-up message may have any version; `negotiate` judges it."""
    if len(packet) < 8 or int.from_bytes(packet[:4]) != len(packet):
        raise ProtocolViolation("invalid length of startup packet")
    code = int.from_bytes(packet[4:8])
    body = packet[8:]
    if code == codes.CANCEL_REQUEST:
        return _parse_cancel_request(body)
    if code in (codes.SSL_REQUEST, codes.GSSENC_REQUEST):
        if body:
            raise ProtocolViolation("invalid length of encryption request")
        return SslRequest() if code == codes.SSL_REQUEST else GssEncRequest()
    return _parse_startup_message(packet)


@lru_cache(maxsize=128)  # an application that connects anew for each transaction says the same each time
def _parse_startup_message(packet: bytes) -> StartupMessage:
    version = int.from_bytes(packet[4:8])
    # A version 2 packet has another layout altogether, so its body is not looked at.
    return StartupMessage(version, _parse_parameters(packet[8:]) if version >> 16 == 3 else ())


def _parse_cancel_request(body: bytes) -> CancelRequest:
    secret = body[4:]
    if not MIN_CANCEL_SECRET <= len(secret) <= MAX_CANCEL_SECRET:
        raise ProtocolViolation("invalid length of cancel request")
    return CancelRequest(int.from_bytes(body[:4], signed=True), secret)


def _parse_parameters(body: bytes) -> tuple[tuple[str, str], ...]:
    if body[-2:-1] in (b"", b"\0") and body:
        body = body[:-1] + b"\0"  # PostgreSQL takes any single byte for the terminator
    if not body.endswith(b"\0"):
        raise ProtocolViolation("invalid startup packet layout: expected terminator as last byte")
    pieces = body[:-1].split(b"\0")
    if pieces.pop() or len(pieces) % 2 or not all(pieces[::2]):
        raise ProtocolViolation("invalid startup packet layout: expected terminator as last byte")
    return tuple(map(_decode_parameter, pieces[::2], pieces[1::2]))


def _decode_parameter(raw_name: bytes, raw_value: bytes) -> tuple[str, str]:
    # application_name is free text in whatever encoding the client happens to use, and PostgreSQL itself replaces its
    # non-ASCII bytes by escapes: refusing a log-in over it would be a new failure. Everything else is looked up or
    # passed on, so it has to be exact.
    lenient = raw_name == b"application_name"
    try:
        return raw_name.decode(), raw_value.decode(errors="backslashreplace" if lenient else "strict")
    except UnicodeDecodeError:
        raise ProtocolViolation("startup parameters must be UTF-8") from None


def parse_replication(value: str) -> Replication:
    """The parameter `replication`: "database", or any spelling of a boolean that PostgreSQL accepts."""
    if not value:
        return Replication.NONE
    if value == "database":
        return Replication.LOGICAL
    if _is_boolean(value, false=True):
        return Replication.NONE
    if _is_boolean(value, false=False):
        return Replication.PHYSICAL
    raise InvalidStartupValue(f'invalid value for parameter "replication": "{value[:127]}"')


def _is_boolean(value: str, *, false: bool) -> bool:
    # PostgreSQL takes any unambiguous prefix; "o" alone would be ambiguous between on and off.
    word = value.lower()
    if word == "o":
        return False
    return any(
        spelling.startswith(word) for spelling in (("false", "no", "off", "0") if false else ("true", "yes", "on", "1"))
    )


_CONNECTION_FIELDS: Final = frozenset({"user", "database", "options", "replication"})


def _is_connection_field(name: str) -> bool:
    return name in _CONNECTION_FIELDS or name.startswith("_pq_.")


_SETTING_NAME: Final = re.compile(r"[A-Za-z_\x80-\U0010ffff][\w$]*(?:\.[A-Za-z_\x80-\U0010ffff][\w$]*)*\Z")


def check_setting_name(name: str) -> str:
    """`name` again, if a run-time parameter can be called so. Raises ProtocolViolation otherwise; names end up in SQL
    text, and a name that PostgreSQL would refuse need not travel that far."""
    if not _SETTING_NAME.match(name) or len(name) > 127:
        raise UnknownStartupParameter(f'unrecognized configuration parameter "{name[:127]}"')
    return name


def parse_options(text: str) -> tuple[tuple[str, str], ...]:
    """The parameter `options`: command-line switches, of which `-c name=value`, `-cname=value` and `--name=value` are
    understood. Words are separated by blanks and a backslash makes the next character literal, in names too. In a
    name '-' means '_'.

    Raises ProtocolViolation for any other switch, a missing value and an empty name."""
    words = _split_options(text)
    settings: list[tuple[str, str]] = []
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if word == "-c":
            if position == len(words):
                raise InvalidOptions("invalid command-line argument for server process: -c")
            word = "-c" + words[position]
            position += 1
        if not word.startswith(("-c", "--")):
            raise InvalidOptions(f"invalid command-line argument for server process: {word[:127]}")
        settings.append(_split_assignment(word))
    return tuple(settings)


def _split_options(text: str) -> list[str]:
    words: list[str] = []
    word: list[str] | None = None
    escaped = False
    for character in text:
        if not escaped and character in " \t\n\v\f\r":
            if word is not None:
                words.append("".join(word))
            word = None
            continue
        if word is None:
            word = []
        escaped = not escaped and character == "\\"
        if not escaped:
            word.append(character)
    if word is not None:
        words.append("".join(word))
    return words


def _split_assignment(word: str) -> tuple[str, str]:
    switch, assignment = word[:2], word[2:]
    name, equals, value = assignment.partition("=")
    if not name:
        raise UnknownStartupParameter('unrecognized configuration parameter ""')
    if not equals:
        written = f"-c {name[:127]}" if switch == "-c" else f"--{name[:127]}"
        raise InvalidOptions(f"{written} requires a value")
    return check_setting_name(name.replace("-", "_")), value


# Versions.


@dataclass(frozen=True, slots=True)
class Negotiation:
    """The version that is spoken from here on, and the message that tells the client so; b"" if it gets what it asked
    for. The message is sent once, before the first authentication request."""

    version: int
    reply: bytes


_AS_ASKED: Final = Negotiation(codes.PROTOCOL_3_0, b"")


def negotiate(message: StartupMessage, newest: int = codes.PROTOCOL_3_2) -> Negotiation:
    """Which protocol version to speak with this client. Raises UnsupportedProtocol for a major version other than 3.

    3.1 was never released and gets 3.0. No `_pq_.` option is understood, so each is named in the reply."""
    if message.version >> 16 != 3:
        raise UnsupportedProtocol(
            f"unsupported frontend protocol {message.version >> 16}.{message.version & 0xFFFF}: "
            f"server supports 3.0 to {newest >> 16}.{newest & 0xFFFF}"
        )
    unknown = message.protocol_options
    if message.version == codes.PROTOCOL_3_0 and not unknown:
        return _AS_ASKED
    version = max(known for known in SUPPORTED_VERSIONS if known <= min(message.version, newest))
    if version == message.version and not unknown:
        return Negotiation(version, b"")
    return Negotiation(version, negotiate_protocol_version(version, unknown))


def negotiate_protocol_version(version: int, unknown_options: Iterable[str]) -> bytes:
    """NegotiateProtocolVersion: the newest version that we speak and the protocol options that we do not know."""
    names = [name.encode() + b"\0" for name in unknown_options]
    return _message(codes.NEGOTIATE_PROTOCOL_VERSION, version.to_bytes(4) + len(names).to_bytes(4) + b"".join(names))


def parse_negotiate_protocol_version(body: bytes) -> tuple[int, tuple[str, ...]]:
    """The version and the unknown options of a NegotiateProtocolVersion. Raises ProtocolViolation."""
    if len(body) < 8:
        raise ProtocolViolation("NegotiateProtocolVersion message is too short")
    names = body[8:].split(b"\0")
    if names.pop() or len(names) != int.from_bytes(body[4:8]):
        raise ProtocolViolation("malformed NegotiateProtocolVersion message")
    return int.from_bytes(body[:4]), tuple(name.decode(errors="backslashreplace") for name in names)


# What we say first to a server.


def ssl_request() -> bytes:
    """SSLRequest."""
    return _first_packet(codes.SSL_REQUEST, b"")


def cancel_request(process_id: int, secret: bytes) -> bytes:
    """CancelRequest. Raises ProtocolViolation for a secret that cannot be one."""
    if not MIN_CANCEL_SECRET <= len(secret) <= MAX_CANCEL_SECRET:
        raise ProtocolViolation("invalid length of cancel key")
    return _first_packet(codes.CANCEL_REQUEST, (process_id & 0xFFFF_FFFF).to_bytes(4) + secret)


def startup_message(
    parameters: Mapping[str, str] | Iterable[tuple[str, str]],
    version: int = codes.PROTOCOL_3_0,
    limit: int = MAX_FIRST_PACKET,
) -> bytes:
    """StartupMessage with these parameters in this order. Raises ProtocolViolation for an empty name, a zero byte
    inside a name or value, and a packet of more than `limit` bytes, which PostgreSQL would not read."""
    pairs = parameters.items() if isinstance(parameters, Mapping) else parameters
    body = b"".join(_encode_parameter(name, value) for name, value in pairs) + b"\0"
    if 8 + len(body) > limit:
        raise ProtocolViolation(f"startup packet of {8 + len(body)} bytes is larger than the {limit} that are allowed")
    return _first_packet(version, body)


def _encode_parameter(name: str, value: str) -> bytes:
    if not name or "\0" in name or "\0" in value:
        raise ProtocolViolation(f"startup parameter {name[:127]!r} cannot be sent")
    try:
        return name.encode() + b"\0" + value.encode() + b"\0"
    except UnicodeEncodeError:
        raise ProtocolViolation(f"startup parameter {name[:127]!r} cannot be sent as UTF-8") from None


# What a server says while it starts.


def parse_parameter_status(body: bytes) -> tuple[str, str]:
    """Name and value of a ParameterStatus. Raises ProtocolViolation.

    Values are in the connection's encoding, which need not be UTF-8; other bytes become escapes."""
    pieces = body.split(b"\0")
    if len(pieces) != 3 or pieces[2] or not pieces[0]:
        raise ProtocolViolation("malformed ParameterStatus message")
    return pieces[0].decode(errors="backslashreplace"), pieces[1].decode(errors="backslashreplace")


def parse_backend_key_data(body: bytes, version: int) -> tuple[int, bytes]:
    """Process id and cancel secret of a BackendKeyData: four bytes up to protocol 3.0, 4 to 256 from 3.2.
    Raises ProtocolViolation."""
    secret = body[4:]
    longest = MAX_CANCEL_SECRET if version >= codes.PROTOCOL_3_2 else MIN_CANCEL_SECRET
    if not MIN_CANCEL_SECRET <= len(secret) <= longest:
        raise ProtocolViolation("invalid length of BackendKeyData message")
    return int.from_bytes(body[:4], signed=True), secret


def parse_error_fields(body: bytes) -> dict[str, str]:
    """The fields of an ErrorResponse or NoticeResponse by their letter, in the server's order.

    Any field may be missing and the list may be cut short: what a server says on its way out is worth more than its
    form. So this never raises; bytes that are not UTF-8 become escapes, and of a repeated field the first counts."""
    fields: dict[str, str] = {}
    for piece in body.split(b"\0"):
        if not piece:
            break
        fields.setdefault(chr(piece[0]), piece[1:].decode(errors="backslashreplace"))
    return fields


def _message(code: int, body: bytes) -> bytes:
    return bytes((code,)) + (4 + len(body)).to_bytes(4) + body


def _first_packet(code: int, body: bytes) -> bytes:
    return (8 + len(body)).to_bytes(4) + code.to_bytes(4) + body

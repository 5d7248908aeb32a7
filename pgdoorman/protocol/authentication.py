"""Authentication messages: 'R' from a server and 'p' from a client, built and parsed.

Protocol chapter, section "Message Formats" (Authentication*, PasswordMessage, SASLInitialResponse, SASLResponse).
Parsers raise ProtocolViolation for anything malformed. The contents of SASL messages belong to `auth.scram`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pgdoorman.errors import ProtocolViolation
from pgdoorman.protocol import codes

MAX_PASSWORD: Final = 65_535
"""Bytes of a password or token, without its terminating zero."""

_MAX_MECHANISMS: Final = 32
"""PostgreSQL offers at most three; a list that does not end is not read to its end."""


@dataclass(frozen=True, slots=True)
class Ok:
    """AuthenticationOk."""


@dataclass(frozen=True, slots=True)
class Cleartext:
    """AuthenticationCleartextPassword."""


@dataclass(frozen=True, slots=True)
class Md5:
    """AuthenticationMD5Password with its four bytes of salt."""

    salt: bytes


@dataclass(frozen=True, slots=True)
class Sasl:
    """AuthenticationSASL: the mechanisms, in the server's order of preference."""

    mechanisms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SaslContinue:
    """AuthenticationSASLContinue."""

    data: bytes


@dataclass(frozen=True, slots=True)
class SaslFinal:
    """AuthenticationSASLFinal."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A request that we cannot answer: Kerberos, GSSAPI, SSPI or a number from the future."""

    code: int

    @property
    def name(self) -> str:
        """What an error text calls it."""
        return _UNSUPPORTED_NAMES.get(self.code, f"authentication request {self.code}")


_UNSUPPORTED_NAMES: Final = {2: "Kerberos V5", 6: "SCM credentials", 7: "GSSAPI", 8: "GSSAPI", 9: "SSPI"}

type Request = Ok | Cleartext | Md5 | Sasl | SaslContinue | SaslFinal | Unsupported


def parse_request(body: bytes) -> Request:
    """The body of an 'R' message."""
    if len(body) < 4:
        raise ProtocolViolation("authentication request is too short")
    code, data = int.from_bytes(body[:4]), body[4:]
    match code:
        case codes.AUTH_SASL:
            return Sasl(_parse_mechanisms(data))
        case codes.AUTH_SASL_CONTINUE:
            return SaslContinue(data)
        case codes.AUTH_SASL_FINAL:
            return SaslFinal(data)
        case codes.AUTH_MD5 if len(data) == 4:
            return Md5(data)
        case codes.AUTH_OK if not data:
            return Ok()
        case codes.AUTH_CLEARTEXT if not data:
            return Cleartext()
        case codes.AUTH_OK | codes.AUTH_CLEARTEXT | codes.AUTH_MD5:
            raise ProtocolViolation("authentication request has a wrong length")
    return Unsupported(code)


def _parse_mechanisms(data: bytes) -> tuple[str, ...]:
    names = data.split(b"\0", _MAX_MECHANISMS + 2)
    if len(names) < 3 or len(names) > _MAX_MECHANISMS + 2 or names[-2:] != [b"", b""] or not all(names[:-2]):
        raise ProtocolViolation("malformed list of SASL mechanisms")
    return tuple(name.decode(errors="backslashreplace") for name in names[:-2])


def _request(code: int, data: bytes = b"") -> bytes:
    return bytes((codes.AUTHENTICATION,)) + (8 + len(data)).to_bytes(4) + code.to_bytes(4) + data


def ok() -> bytes:
    """AuthenticationOk."""
    return _request(codes.AUTH_OK)


def cleartext() -> bytes:
    """AuthenticationCleartextPassword."""
    return _request(codes.AUTH_CLEARTEXT)


def md5(salt: bytes) -> bytes:
    """AuthenticationMD5Password; the salt is four bytes."""
    if len(salt) != 4:
        raise ValueError("the salt of an MD5 request is four bytes")
    return _request(codes.AUTH_MD5, salt)


def sasl(mechanisms: Iterable[str]) -> bytes:
    """AuthenticationSASL."""
    return _request(codes.AUTH_SASL, b"".join(name.encode() + b"\0" for name in mechanisms) + b"\0")


def sasl_continue(data: bytes) -> bytes:
    """AuthenticationSASLContinue."""
    return _request(codes.AUTH_SASL_CONTINUE, data)


def sasl_final(data: bytes) -> bytes:
    """AuthenticationSASLFinal."""
    return _request(codes.AUTH_SASL_FINAL, data)


def _response(body: bytes) -> bytes:
    return bytes((codes.PASSWORD,)) + (4 + len(body)).to_bytes(4) + body


def password_message(password: bytes) -> bytes:
    """PasswordMessage: a password in clear, a token, or the answer to an MD5 request. Raises ProtocolViolation for what
    the message cannot carry: a zero byte, or more than 65,535 bytes."""
    if b"\0" in password or len(password) > MAX_PASSWORD:
        raise ProtocolViolation("the password contains a zero byte or is longer than 65535 bytes")
    return _response(password + b"\0")


def parse_password_message(body: bytes) -> bytes:
    """The password, which may be empty. PostgreSQL too insists that the zero stands at the end and nowhere else."""
    if body.find(b"\0") != len(body) - 1 or not body:
        raise ProtocolViolation("invalid password packet size")
    return body[:-1]


def sasl_initial_response(mechanism: str, data: bytes) -> bytes:
    """SASLInitialResponse."""
    return _response(mechanism.encode() + b"\0" + len(data).to_bytes(4) + data)


def parse_sasl_initial_response(body: bytes) -> tuple[str, bytes | None]:
    """Mechanism and initial response; None if the client sent a length of -1, that is none."""
    name, zero, rest = body.partition(b"\0")
    if not zero or not name or len(rest) < 4:
        raise ProtocolViolation("malformed SASLInitialResponse message")
    length, data = int.from_bytes(rest[:4], signed=True), rest[4:]
    if length == -1 and not data:
        return _mechanism_name(name), None
    if length != len(data):
        raise ProtocolViolation("malformed SASLInitialResponse message")
    return _mechanism_name(name), data


def _mechanism_name(name: bytes) -> str:
    # RFC 4422: 1 to 20 of upper-case letters, digits, hyphen, underscore. Only shown and compared, so the rest is
    # made harmless and not judged.
    return name[:64].decode("ascii", errors="backslashreplace")


def sasl_response(data: bytes) -> bytes:
    """SASLResponse."""
    return _response(data)

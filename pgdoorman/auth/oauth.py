"""OAUTHBEARER (RFC 7628) as PostgreSQL 18 speaks it: a token in one SASL message, or a hint where to get one.

client: gs2 header, ^A, pairs of key=value each ended by ^A, ^A. Only `auth` counts: "Bearer" and the token; empty, the
client asks where tokens come from. A refusal is told in JSON, which the client acknowledges with a single ^A before it
is turned away (RFC 7628, section 3.2.2).
"""

import json
import re
from collections.abc import Mapping
from typing import Final

from pgdoorman.errors import ProtocolViolation

MECHANISM: Final = "OAUTHBEARER"
MAX_MESSAGE: Final = 65_535
"""Bytes of the client's message; tokens with many groups in them are large. PostgreSQL's own limit."""

ACKNOWLEDGEMENT: Final = b"\x01"

_HEADER: Final = re.compile(rb"[ny],,\x01")
_PAIR: Final = re.compile(rb"([A-Za-z]+)=([\x21-\x7e \t\r\n]*)\Z")
_BEARER: Final = re.compile(rb"Bearer +([A-Za-z0-9._~+/-]+=*)\Z", re.IGNORECASE)
_WELL_KNOWN: Final = "/.well-known/"


def parse_client_message(message: bytes) -> bytes | None:
    """The token in a client's initial response; None if it asks where to get one. Raises ProtocolViolation.

    What stands in place of a token but cannot be one comes out as b"", which no key admits."""
    header = _HEADER.match(message)
    if header is None:
        raise _malformed("the header is wrong; channel binding and authorization identities are not supported")
    if not message.endswith(b"\x01\x01") or len(message) > MAX_MESSAGE:
        raise _malformed("the terminator is missing, or it is too long")
    values = [value for name, value in map(_pair, message[header.end() : -2].split(b"\x01")) if name == b"auth"]
    if len(values) != 1:
        raise _malformed('one "auth" expected')
    if not values[0]:
        return None
    bearer = _BEARER.match(values[0])
    return bearer[1] if bearer else b""


def _pair(text: bytes) -> tuple[bytes, bytes]:
    match = _PAIR.match(text)
    if match is None:
        raise _malformed("key and value expected")
    return match[1], match[2]


def _malformed(what: str) -> ProtocolViolation:
    return ProtocolViolation(f"malformed OAUTHBEARER message: {what}")


def refusal(options: Mapping[str, str]) -> bytes:
    """What a client is told whose token does not do, or who has none: where to ask (`issuer` of the HBA line) and for
    what (`scope`)."""
    issuer = options.get("issuer", "")
    place = issuer if _WELL_KNOWN in issuer else issuer.rstrip("/") + "/.well-known/openid-configuration"
    told = {"status": "invalid_token", "openid-configuration": place, "scope": options.get("scope", "")}
    return json.dumps(told).encode()


def issuer_name(issuer: str) -> str:
    """The issuer as tokens name it: an HBA line may give the address of its discovery document instead."""
    return issuer.partition(_WELL_KNOWN)[0]

"""Errors as messages: what a client is told when the pooler itself has to say something, or passes on a refusal."""

from contextlib import suppress
from typing import Any

from pgdoorman.errors import BackendRefused, PgDoormanError
from pgdoorman.protocol.results import error_response_for
from pgdoorman.transport.sockets import DONT_WAIT, close_quietly


def error_message(error: PgDoormanError, severity: str = "") -> bytes:
    """The ErrorResponse for an error. A server's own refusal is passed on field by field; `severity` overrides (a FATAL
    that does not end this client's connection must not claim so)."""
    if isinstance(error, BackendRefused):
        fields = {"S": "FATAL", "V": "FATAL", "C": "XX000", "M": error.message} | error.fields
        if severity:
            fields |= {"S": severity, "V": severity}
        return error_response_for(BackendRefused(fields))
    return error_response_for(error, severity=severity or None)


def error_before_version_3(error: PgDoormanError) -> bytes:
    """The same for a client that speaks version 1 or 2 of the protocol: an 'E' and a line of text. It could read no other."""
    return b"EFATAL:  " + error.message.encode() + b"\n\0"


def turn_away(sock: Any, reason: PgDoormanError) -> None:
    """Tell a client that nobody serves why, if it takes that at once, and close."""
    with suppress(OSError):
        sock.send(error_message(reason, "FATAL"), DONT_WAIT)
    close_quietly(sock)

"""Everything that can go wrong, as one tree. Exceptions carry data and render themselves.

    PgDoormanError
      ConfigError                a setting that cannot be used: file, line, key (never reaches a client)
        ConfigErrors             all of them for one load
      ProtocolViolation          08P01  a peer broke the protocol
      AuthenticationFailed       28P01  a wrong password, token or proof
      AuthorizationDenied        28000  the rules do not let this client in
      UnknownDatabase            3D000
      BackendUnavailable         08006  no connection to PostgreSQL (57P03 while it starts)
      BackendRefused             the server's own ErrorResponse, forwarded untouched
      CheckoutTimeout            57014  no backend came free in time
      PoolFull                   53300
      TooManyClients             53300
      OutOfBudget                53200  the memory budget for buffered messages is used up
      ShuttingDown               57P01
      HandoverError              an old and a new process could not agree (never reaches a client)

Blame is assigned once, at the border: `client.closing` turns an error into an ErrorResponse, `backend.connection`
turns what a server did into an error.
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar


class PgDoormanError(Exception):
    """Root of the tree. `sqlstate` and `severity` are what a client is told, if it is told at all."""

    sqlstate: ClassVar[str] = "XX000"
    severity: ClassVar[str] = "FATAL"

    def __init__(self, message: str, *, detail: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class ConfigError(PgDoormanError):
    """One setting that cannot be used. `line` is 1-based, 0 when the place is not known."""

    sqlstate = "F0000"

    def __init__(self, message: str, *, file: str = "", line: int = 0, key: str = "") -> None:
        super().__init__(message)
        self.file = file
        self.line = line
        self.key = key

    def __str__(self) -> str:
        place = self.file
        if self.line:
            place = f"{place}:{self.line}" if place else f"line {self.line}"
        parts = [part for part in (place, self.key, self.message) if part]
        return ": ".join(parts)


class ConfigErrors(ConfigError):
    """Every error of one load, in the order in which they stand in the files."""

    def __init__(self, errors: Iterable[ConfigError]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(str(error) for error in self.errors))


class ProtocolViolation(PgDoormanError):
    """A peer sent what the protocol does not allow here."""

    sqlstate = "08P01"


class UnsupportedProtocol(ProtocolViolation):
    """A client speaks another major version of the protocol."""

    sqlstate = "0A000"


class AuthenticationFailed(PgDoormanError):
    """The proof of identity is wrong. The message never says whether the user exists."""

    sqlstate = "28P01"


class AuthorizationDenied(PgDoormanError):
    """The host-based rules, or a limit on who may log in, refuse this client."""

    sqlstate = "28000"


class UnknownDatabase(PgDoormanError):
    """No pool is configured for this database, or not for this user in it."""

    sqlstate = "3D000"


class BackendUnavailable(PgDoormanError):
    """PostgreSQL could not be reached, or the connection to it was lost."""

    sqlstate = "08006"


class BackendRefused(PgDoormanError):
    """PostgreSQL answered with an ErrorResponse; `fields` are its own, by field letter (protocol, "Error and Notice
    Message Fields"), and `sqlstate_of_server` is its C field, XX000 if it sent none."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__(fields.get("M", "the server refused without a message"))
        self.fields = dict(fields)

    @property
    def sqlstate_of_server(self) -> str:
        """The server's SQLSTATE, XX000 if its message had none."""
        return self.fields.get("C", "XX000")


class CheckoutTimeout(PgDoormanError):
    """No backend came free within query_wait_timeout."""

    sqlstate = "57014"


class PoolFull(PgDoormanError):
    """The pool may not grow and this request may not wait."""

    sqlstate = "53300"


class TooManyClients(PgDoormanError):
    """The limit on connected clients is reached."""

    sqlstate = "53300"


class OutOfBudget(PgDoormanError):
    """The memory budget for buffered messages is used up."""

    sqlstate = "53200"


class ShuttingDown(PgDoormanError):
    """The pooler is going down; the client may connect again elsewhere or later."""

    sqlstate = "57P01"


class HandoverError(PgDoormanError):
    """An old and a new process could not agree on a hand-over."""

"""The two consoles in one: whose columns, texts and SQLSTATEs a session gets."""

import enum
from typing import Final

from pgdoorman.admin.masking import masked_text
from pgdoorman.control import (
    AlreadyPaused,
    ConsoleDatabase,
    NoSuchClient,
    NoSuchDatabase,
    NotPaused,
    Refused,
    SettingRefused,
)
from pgdoorman.errors import ConfigError, PgDoormanError
from pgdoorman.protocol import results

PGBOUNCER_VERSION: Final = "1.25.2"
"""The version of PgBouncer whose console the other flavour speaks. Tools pick columns by it."""


class Flavour(enum.Enum):
    """The value is the name of the database that a client logs in to."""

    PGDOORMAN = "pgdoorman"
    PGBOUNCER = "pgbouncer"


def is_console(database: str) -> bool:
    """Whether this database name means the console."""
    return database in _NAMES


_NAMES = frozenset(flavour.value for flavour in Flavour)


class InvalidCommand(PgDoormanError):
    """What was sent is not a command of the console."""

    sqlstate = "42601"
    severity = "ERROR"

    def __init__(self, text: str, *, message: str = "", hint: str = "") -> None:
        super().__init__(message or "Unsupported query against the admin database", hint=hint or "Use SHOW HELP.")
        self.text = text


class BadArgument(PgDoormanError):
    """A command of the console with an argument that it cannot use."""

    sqlstate = "22023"
    severity = "ERROR"


class NotAllowed(PgDoormanError):
    """A stats user asked for what only an admin may do."""

    sqlstate = "42501"
    severity = "ERROR"


def error_message(error: PgDoormanError, flavour: Flavour, *, verb: str = "", target: str = "") -> bytes:
    """ErrorResponse in the words of this flavour, with severity ERROR: the session always goes on.

    `verb` is the command and `target` the database that it named, if any. PgBouncer has one SQLSTATE for everything
    (08P01; F0000 for a failed reload), and scripts written for it look at the text.
    """
    if flavour is Flavour.PGBOUNCER:
        text = _pgbouncer_text(error, verb, target)
        sqlstate = "F0000" if isinstance(error, ConfigError) else "08P01"
    else:
        text, sqlstate = _pgdoorman_text(error, verb, target), error.sqlstate
    detail = error.detail
    if isinstance(error, ConfigError):
        detail = str(error)  # with file, line and key, one error a line
    elif isinstance(error, SettingRefused):
        detail = error.message
    detail = masked_text(detail) if detail != text else ""
    return results.error_response(text, sqlstate=sqlstate, detail=detail, hint=error.hint)


def _pgdoorman_text(error: PgDoormanError, verb: str, target: str) -> str:
    match error:
        case NoSuchDatabase():
            return f'No pool for database "{target}"'
        case ConfigError() if verb == "RELOAD":
            return "RELOAD failed, the settings in force are unchanged"
        case _:
            return masked_text(error.message)


def _pgbouncer_text(error: PgDoormanError, verb: str, target: str) -> str:
    action = "wait in" if verb == "WAIT_CLOSE" else verb.lower()
    match error:
        case InvalidCommand():
            return f"invalid command '{_shortened(error.text)}', use SHOW HELP;"
        case NotAllowed():
            return "admin access needed"
        case AlreadyPaused():
            return "already suspended/paused"
        case NotPaused():
            return f"database {target} is not paused" if target else "pooler is not paused/suspended"
        case NoSuchDatabase():
            return f"no such database: {target}"
        case ConsoleDatabase():
            return f"cannot {action} admin db: {target}"
        case NoSuchClient():
            return "client not found"
        case ConfigError() if verb == "RELOAD":
            return "RELOAD failed, see logs for additional details"
        case SettingRefused() | ConfigError() if verb in ("SET", "RESET"):
            return f"{verb} failed"
        case Refused() if verb == "RESUME":
            return "pooler is shutting down"
        case _:
            return masked_text(error.message)


def _shortened(text: str, limit: int = 400) -> str:
    return text if len(text) <= limit else text[:limit] + "..."

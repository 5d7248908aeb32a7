"""Users that a query has found: what its row says, and what the server's catalog says of the role.

The query is the owner's. Its password column is called `passwd`, `password` or `rolpassword`; else it is the only column,
or the second of two, as PgBouncer has it. A column `startup_parameters` holds a JSON object of texts. Whether the role
may log in, and until when its password holds, is read from pg_roles by us, since a query seldom asks for it.
"""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from pgdoorman.auth.secrets import NoSecret, StoredSecret, TokenKeySecret, parse_secret
from pgdoorman.errors import ConfigError, PgDoormanError

log = logging.getLogger(__name__)

MAX_NAME: Final = 63
"""Bytes of a role's name; a longer one is nobody's."""

_PASSWORD_COLUMNS: Final = ("passwd", "password", "rolpassword")
_PARAMETERS: Final = "startup_parameters"

FACTS_SQL: Final = (
    "SELECT r.rolcanlogin, (extract(epoch FROM r.rolvaliduntil)::pg_catalog.float8 OPERATOR(pg_catalog.-) "
    "extract(epoch FROM pg_catalog.now())::pg_catalog.float8) FROM pg_catalog.pg_roles r "
    "WHERE r.rolname OPERATOR(pg_catalog.=) $1::pg_catalog.name"
)
"""Whether a role may log in, and for how many seconds its password still holds (NULL: for ever)."""

type Rows = Sequence[Sequence[str | None]]


class LookupRefused(PgDoormanError):
    """The query did not answer as it should. The message is for the log."""


@dataclass(frozen=True, slots=True)
class FoundUser:
    """A user that exists. `seconds_valid` counts from the look-up; `parameters` are in the row's order and unchecked."""

    secret: StoredSecret = field(repr=False)
    seconds_valid: float = math.inf
    parameters: tuple[tuple[str, str], ...] = ()


def read_user(user: str, columns: Sequence[str], rows: Rows, facts: Rows) -> FoundUser | None:
    """The user that a query has found, None for nobody. `facts` is the answer to `FACTS_SQL`, empty if there is no such
    role. A role that may not log in is nobody; one whose password has expired has none.

    Raises LookupRefused for an answer that means nothing."""
    if not rows:
        return None
    if len(rows) > 1:
        raise LookupRefused(f"expected 0 or 1 row, got {len(rows)}")
    row = dict(zip(columns, rows[0], strict=True))
    can_login, seconds = _facts(facts)
    if not can_login:
        return None
    text = rows[0][_password_column(columns)]
    secret = _secret(user, text or "") if seconds > 0 else NoSecret()
    return FoundUser(secret, seconds if seconds > 0 else math.inf, _parameters(user, row.get(_PARAMETERS)))


def _facts(facts: Rows) -> tuple[bool, float]:
    if not facts:
        return True, math.inf  # a name that only the owner's table knows
    can_login, seconds = facts[0]
    return can_login == "t", math.inf if seconds is None else float(seconds)


def _password_column(columns: Sequence[str]) -> int:
    for name in _PASSWORD_COLUMNS:
        if name in columns:
            return columns.index(name)
    others = [index for index, name in enumerate(columns) if name != _PARAMETERS]
    if len(others) in (1, 2):
        return others[-1]
    raise LookupRefused(f"none of its {len(columns)} columns is called {', '.join(_PASSWORD_COLUMNS)}")


def _secret(user: str, text: str) -> StoredSecret:
    try:
        secret = parse_secret(text)
    except ConfigError as error:
        log.warning('the secret that the look-up gave for user "%s" cannot be used: %s', user, error)
        return NoSecret()
    if isinstance(secret, TokenKeySecret):
        # A file of this machine is named by those who may write the configuration, not by whoever fills a table.
        log.warning('the look-up gave a key file as the secret of user "%s": that is not allowed', user)
        return NoSecret()
    return secret


def _parameters(user: str, text: str | None) -> tuple[tuple[str, str], ...]:
    if not text:
        return ()
    try:
        table = json.loads(text)
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict) or not all(isinstance(value, str) for value in table.values()):
        log.warning('startup_parameters of user "%s" are ignored: a JSON object of texts is expected', user)
        return ()
    return tuple(table.items())

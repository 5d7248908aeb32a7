"""Which parameters may be sent in a backend's StartupMessage, how they are spelt, and how much room they take.

PostgreSQL takes a StartupMessage of at most 10,000 bytes (MAX_STARTUP_PACKET_LENGTH) and never says which parameter was
too much, so the sizes are checked when the file is read.
"""

import re
from collections.abc import Iterable

from pgdoorman.config.settings import Parameters

LONGEST_MESSAGE = 10_000
# What is left for one level's parameters once user, database and the like have 512 bytes.
LONGEST_BODY = LONGEST_MESSAGE - 512

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_RESERVED = frozenset({"user", "database", "replication", "options", "role", "session_authorization"})

# Parameters that a server reports under these spellings; everything else is lower case.
_SPELLINGS = {name.lower(): name for name in ("DateStyle", "IntervalStyle", "TimeZone")}


def canonical_name(name: str) -> str:
    """The name as the server spells it."""
    return _SPELLINGS.get(name.lower(), name.lower())


def refuse_parameter(name: str, value: object, known: Iterable[str]) -> str:
    """Why this parameter may not be given, or nothing. `known` are the canonical names given before it."""
    lower = name.lower()
    if _NAME.fullmatch(name) is None:
        return f'"{name}" is not the name of a parameter: letters, digits, "_" and ".", not beginning with a digit'
    if lower in _RESERVED or lower.startswith("_pq_."):
        return f'"{name}" is reserved and may not be set here'
    if canonical_name(name) in known:
        return f'"{name}" is given twice, in different cases'
    if not isinstance(value, str):
        return f'the value of "{name}" must be a text, in quotes'
    if "\0" in value:
        return f'the value of "{name}" holds a zero byte'
    return ""


def encoded_length(parameters: Parameters) -> int:
    """Bytes that these take in a StartupMessage: each name and value with its zero byte."""
    return sum(len(name.encode()) + len(value.encode()) + 2 for name, value in parameters)


def message_length(user: str, database: str, parameters: Parameters) -> int:
    """Bytes of the whole StartupMessage: length, version, user, database, parameters, final zero."""
    return 8 + encoded_length((("user", user), ("database", database), *parameters)) + 1

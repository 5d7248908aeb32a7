"""Reading PgBouncer's files: pgbouncer.ini with its includes, and userlist.txt. Reading only: what the keys mean to us is
the business of whoever converts them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pgdoorman.errors import ConfigError

SECTIONS = ("pgbouncer", "databases", "users", "peers")

_DEEPEST = 10  # levels of %include
_KEY = re.compile(r"(?P<bare>[A-Za-z0-9_.*-]+)|'(?P<quoted>[^']*)'")
_PAIR = re.compile(r" *([A-Za-z0-9_]+) *= *('(?:[^']|'')*'|[^ ']*)")
_ENTRY = re.compile(r'\s*"((?:[^"]|"")*)"[^"]*"((?:[^"]|"")*)"')


@dataclass(slots=True)
class PgBouncerIni:
    """The sections, in the order of the file; of a key that stands twice the last value."""

    settings: dict[str, str] = field(default_factory=dict)
    databases: dict[str, dict[str, str]] = field(default_factory=dict)
    users: dict[str, dict[str, str]] = field(default_factory=dict)
    peers: dict[str, dict[str, str]] = field(default_factory=dict)


def read_ini(path: Path) -> PgBouncerIni:
    """Everything in the file and in what it includes; a relative include is looked for in the working directory, as
    PgBouncer does, and then beside the file. Raises ConfigError."""
    ini = PgBouncerIni()
    section = ""
    for file, number, line in _lines(path, 0):
        text = line.strip()
        if not text or text[0] in ";#":
            continue
        if text.startswith("["):
            section = text[1:].partition("]")[0].strip()
            if section not in SECTIONS or not text.endswith("]"):
                raise ConfigError(f"no such section: {text}", file=str(file), line=number)
            continue
        key, value = _split(text, file, number)
        if not section:
            raise ConfigError("a value without a section", file=str(file), line=number, key=key)
        if section == "pgbouncer":
            ini.settings[key] = value
        else:
            getattr(ini, section)[key] = read_pairs(value, file, number)
    return ini


def _lines(path: Path, depth: int) -> Iterator[tuple[Path, int, str]]:
    if depth > _DEEPEST:
        raise ConfigError("include nesting level too deep", file=str(path))
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}", file=str(path)) from None
    except UnicodeDecodeError:
        raise ConfigError("is not UTF-8", file=str(path)) from None
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("%include") and line[8:9] in (" ", "\t"):
            named = Path(line[8:].strip())
            beside = path.parent / named
            yield from _lines(named if named.exists() or not beside.exists() else beside, depth + 1)
        else:
            yield path, number, line


def _split(text: str, file: Path, number: int) -> tuple[str, str]:
    found = _KEY.match(text)
    rest = text[found.end() :].lstrip() if found else ""
    if found is None or not rest.startswith("="):
        raise ConfigError("is neither a section nor `key = value`", file=str(file), line=number)
    return found["bare"] if found["quoted"] is None else found["quoted"], rest[1:].strip()


def read_pairs(text: str, file: Path = Path("pgbouncer.ini"), line: int = 0) -> dict[str, str]:
    """`host=a port=5433 dbname='x y'`. Raises ConfigError."""
    pairs = {}
    position = 0
    text = text.strip()
    while position < len(text):
        found = _PAIR.match(text, position)
        if found is None:
            raise ConfigError("syntax error in connection string", file=str(file), line=line)
        value = found[2]
        pairs[found[1]] = value[1:-1].replace("''", "'") if value.startswith("'") else value
        position = found.end()
    return pairs


def read_userlist(path: Path) -> dict[str, str]:
    """The secrets in an auth_file by user; reading ends at the first line that is broken, as in PgBouncer.

    Raises ConfigError if the file cannot be read.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", file=str(path)) from None
    users = {}
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith(";"):
            continue
        found = _ENTRY.match(line)
        if found is None:
            break
        users[found[1].replace('""', '"')] = found[2].replace('""', '"')
    return users

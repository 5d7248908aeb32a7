"""`pgdoorman config`: keys of a configuration file read, set and taken out, and its comments left where they are."""

import getpass
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pgdoorman.cli.files import replace_file
from pgdoorman.cli.terminal import print_table
from pgdoorman.config.changes import Changes, compare
from pgdoorman.config.document import Path as Steps
from pgdoorman.config.edit import read, with_value, without_value
from pgdoorman.config.kinds import SecretText, human
from pgdoorman.config.load import load, parts
from pgdoorman.config.names import KeyName, file_form, find_key
from pgdoorman.config.rows import rows
from pgdoorman.config.settings import Settings
from pgdoorman.doorman.access import read_access
from pgdoorman.doorman.encryption import check_tls
from pgdoorman.errors import ConfigError

EX_CANTCREAT = 73
EX_CONFIG = 78

_BOM = "\ufeff"


def get(path: Path, key: str | None, *, as_json: bool) -> int:
    """Print what holds for a key, or every key that has a value. Secrets are not shown."""
    try:
        settings = load(path)
        name = None if key is None else find_key(key)
        value = None if name is None else _shown(name, name.value_in(settings))
    except ConfigError as error:
        return _refuse(error)
    if name is None:
        _print_all(settings, as_json=as_json)
    elif as_json:
        default = name.key.default_words
        found = {"key": str(name), "value": value, "default": default, "change_needs": name.key.change.words}
        print(json.dumps(found, indent=2, ensure_ascii=False))
    elif value is not None:
        print(value)
    return 0


def _shown(name: KeyName, value: Any) -> str | None:
    if value is None:
        return None
    return str(value) if name.part else human(name.key.kind, value)


def _print_all(settings: Settings, *, as_json: bool) -> None:
    names = [find_key(row.key) for row in rows(settings)]
    found = [(str(name), _shown(name, name.value_in(settings)), name.key.default_words) for name in names]
    if as_json:
        print(json.dumps([{"key": key, "value": value, "default": default} for key, value, default in found], indent=2))
    else:
        print_table(("key", "value", "default"), found, (False, False, False))


def put(path: Path, key: str, words: Sequence[str]) -> int:
    """Give a key a value, in the file (of those that the main one includes) that decides about it."""
    try:
        name = find_key(key)
        value = _typed(name, list(words))
        return _edit(path, name, value)
    except ConfigError as error:
        return _refuse(error)


def take_out(path: Path, key: str) -> int:
    """Take a key out of the file that decides about it, so that its default holds, or what an earlier file says."""
    try:
        return _edit(path, find_key(key), None)
    except ConfigError as error:
        return _refuse(error)


def _typed(name: KeyName, words: list[str]) -> Any:
    if not isinstance(name.key.kind, SecretText):
        if not words:
            raise ConfigError(f"give it a value: {name.key.kind.allowed}", key=str(name))
        return file_form(name, words)
    if not words:
        return _asked(name)
    if len(words) == 1 and (not words[0] or words[0].startswith(("${", "file:", "jwt-"))):
        return words[0]
    message = (
        "a secret is not taken from the command line, where others could see it: leave it out and type it, or pipe it"
    )
    raise ConfigError(message, key=str(name))


def _asked(name: KeyName) -> str:
    if sys.stdin.isatty():
        return getpass.getpass(f"{name}: ")
    return sys.stdin.readline().removesuffix("\n").removesuffix("\r")


def _edit(path: Path, name: KeyName, value: Any) -> int:
    texts = parts(path)
    said = {file: read(text, str(file)) for file, text in texts.items()}
    file, place = _deciding(name, said, removing=value is None)
    steps = (*place, *name.steps_in(_at(said[file], place)))
    if value is None:
        changed = without_value(texts[file], str(file), steps)
    else:
        changed = with_value(texts[file], str(file), steps, value)
    after = load(path, instead=texts | {file: changed})
    read_access(after)
    check_tls(after)
    try:
        before: Settings | None = load(path)
    except ConfigError:
        before = None  # it was wrong, and now it is not
    if changed != texts[file] and (code := _write(file, changed)):
        return code
    for warning in after.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    _tell(file, name, None if before is None else compare(before, after))
    return 0


def _deciding(name: KeyName, said: dict[Path, Any], *, removing: bool) -> tuple[Path, Steps]:
    """The file that is to be changed, and where in it the key's table is: the last file that has the key, for that one decides,
    else the first one that has the table, else the main one."""
    candidates = [(file, place) for file, what in said.items() if (place := name.place_in(what)) is not None]
    having = [pair for pair in candidates if _has(said[pair[0]], pair[1], name)]
    if having:
        return having[-1]
    if removing:
        raise ConfigError("is not in the file: its default holds already", key=str(name))
    if not candidates:
        message = (
            f'pool "{name.pool}" has no user "{name.user}" in the file; a new one takes several keys: add it by hand'
        )
        raise ConfigError(message, key=str(name))
    there = [pair for pair in candidates if _at(said[pair[0]], pair[1]) is not None]
    return there[0] if there else candidates[0]


def _has(said: Any, place: Steps, name: KeyName) -> bool:
    table = _at(said, place)
    return _at(table, name.steps_in(table)) is not None


def _at(said: Any, steps: Steps) -> Any:
    """What stands there, None for nothing."""
    for step in steps:
        try:
            said = said[step]
        except (LookupError, TypeError):
            return None
    return said


def _write(file: Path, text: str) -> int:
    try:
        before = file.read_bytes()
        mark = _BOM if before.startswith(_BOM.encode()) else ""
        replace_file(file, (mark + text).encode(), before)
    except OSError as error:
        print(f"pgdoorman: cannot write {file}: {error.strerror}", file=sys.stderr)
        return EX_CANTCREAT
    return 0


def _tell(file: Path, name: KeyName, changes: Changes | None) -> None:
    if changes is None:
        print(f"{file}: {name} changed")
        return
    lines = changes.lines()
    for line in lines:
        print(f"{file}: {line}")
    if not lines:
        print(f"{file}: what holds has not changed")


def _refuse(error: ConfigError) -> int:
    print(f"pgdoorman: nothing was changed:\n{error}" if "\n" in str(error) else f"pgdoorman: {error}", file=sys.stderr)
    return EX_CONFIG

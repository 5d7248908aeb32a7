"""Keys as people name them: `general.port`, `pools.shop.server_host`, `pools.shop.users.alice.pool_size`."""

import re
from dataclasses import dataclass
from typing import Any, Final

from pgdoorman.config.document import Path, spell
from pgdoorman.config.keys import Key, Section, Since, keys_of
from pgdoorman.config.kinds import Duration, Flag, Integer, Kind, ListOf, ParameterTable, Rules, Size, suggest
from pgdoorman.config.read import hint
from pgdoorman.config.settings import PoolSettings, Settings
from pgdoorman.errors import ConfigError

_STEP: Final = re.compile(r'(?:^|\.)(?:"((?:[^"\\]|\\.)*)"|([^."\[\]]+))|\[(\d+)\]')
_TOP: Final = {
    "general": Section.GENERAL,
    "web": Section.WEB,
    "prometheus": Section.WEB,
    "talos": Section.TALOS,
}
_TRUE: Final = frozenset({"1", "on", "true", "yes", "t"})
_FALSE: Final = frozenset({"0", "off", "false", "no", "f"})


@dataclass(frozen=True, slots=True)
class KeyName:
    """One key in one place. `user` is a name or, as messages have it, a position; `part` is a name inside the key's table
    (of `startup_parameters`, `pg_hba`)."""

    section: Section
    key: Key
    pool: str = ""
    user: str | int = ""
    part: str = ""

    def __str__(self) -> str:
        steps: tuple[str | int, ...] = (*self._owner, self.key.name)
        return spell((*steps, self.part) if self.part else steps)

    @property
    def _owner(self) -> Path:
        match self.section:
            case Section.POOL:
                return ("pools", self.pool)
            case Section.AUTH_QUERY:
                return ("pools", self.pool, "auth_query")
            case Section.USER:
                return ("pools", self.pool, "users", self.user)
            case _:
                return (str(self.section.value),)

    def place_in(self, said: Any) -> Path | None:
        """Where a file has the table in which this key stands, or would stand; `said` is what the file says. None for a
        user that the file does not have."""
        match self.section:
            case Section.WEB if isinstance(said, dict) and "prometheus" in said:
                return ("prometheus",)
            case Section.USER:
                return self._place_of_user(said)
            case _:
                return self._owner

    def _place_of_user(self, said: Any) -> Path | None:
        try:
            users = said["pools"][self.pool]["users"]
        except (LookupError, TypeError):
            return None
        pairs = list(users.items() if isinstance(users, dict) else enumerate(users))
        for position, (step, user) in enumerate(pairs):
            if isinstance(user, dict) and self.user in (user.get("username"), position):
                return ("pools", self.pool, "users", step)
        return None

    def steps_in(self, table: Any) -> Path:
        """The key's own steps, by the name that a file uses; `table` is the one in which it stands."""
        known = table if isinstance(table, dict) else {}
        name = next((name for name in (self.key.name, *self.key.aliases) if name in known), self.key.name)
        return (name, self.part) if self.part else (name,)

    def value_in(self, settings: Settings) -> Any:
        """What holds: the key's own value, or the one that it inherits. Raises ConfigError if there is no such place."""
        if self.section in (Section.GENERAL, Section.WEB, Section.TALOS):
            owner: Any = getattr(settings, self.section.value)
        else:
            owner = self._owner_in(settings)
        value = getattr(owner, self.key.name)
        if self.part:
            return dict(value).get(self.part) if isinstance(self.key.kind, ParameterTable) else None
        return value

    def _owner_in(self, settings: Settings) -> Any:
        pool = settings.pools.get(self.pool)
        if pool is None:
            raise ConfigError(f'there is no pool "{self.pool}"{suggest(self.pool, settings.pools)}', key=str(self))
        if self.section is Section.AUTH_QUERY:
            if pool.auth_query is None:
                raise ConfigError(f'pool "{self.pool}" has no auth_query', key=str(self))
            return pool.auth_query
        if self.section is Section.USER:
            return self._inherited(settings, pool, self._user_in(pool))
        return self._inherited(settings, pool, pool)

    def _user_in(self, pool: PoolSettings) -> Any:
        for position, user in enumerate(pool.users):
            if self.user in (user.username, position):
                return user
        names = [user.username for user in pool.users]
        raise ConfigError(
            f'pool "{pool.name}" has no user "{self.user}"{suggest(str(self.user), names)}', key=str(self)
        )

    def _inherited(self, settings: Settings, pool: PoolSettings, own: Any) -> Any:
        for owner in (own, pool, settings.general):
            if getattr(owner, self.key.name, None) not in (None, ()):
                return owner
        return own


def find_key(text: str) -> KeyName:
    """The key of this name. A general one may stand alone. Raises ConfigError with what might have been meant."""
    steps = _steps(text)
    first = str(steps[0])
    if first in _TOP:
        return _find(_TOP[first], steps[1:], text)
    if first != "pools":
        return _find(Section.GENERAL, steps, text)
    if len(steps) < 3:
        raise ConfigError("name a key of the pool: pools.NAME.server_host", key=text)
    pool, rest = str(steps[1]), steps[2:]
    if rest[0] == "auth_query" and len(rest) > 1:
        return _find(Section.AUTH_QUERY, rest[1:], text, pool)
    if rest[0] == "users":
        if len(rest) < 3:
            raise ConfigError("name a key of one user: pools.NAME.users.USER.pool_size", key=text)
        return _find(Section.USER, rest[2:], text, pool, rest[1])
    return _find(Section.POOL, rest, text, pool)


def _steps(text: str) -> list[str | int]:
    steps: list[str | int] = []
    at = 0
    while at < len(text):
        found = _STEP.match(text, at)
        if found is None:
            raise ConfigError('is no name of a key; quote what has a dot in it: pools."my.db".server_host', key=text)
        quoted, plain, number = found.groups()
        steps.append(int(number) if number else plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
        at = found.end()
    if not steps:
        raise ConfigError("name a key, such as general.port")
    return steps


def _find(section: Section, steps: list[str | int], text: str, pool: str = "", user: str | int = "") -> KeyName:
    keys = keys_of(section)
    if not steps:
        raise ConfigError("names a section; name a key in it", key=text)
    name = str(steps[0])
    key = next((key for key in keys.values() if name in (key.name, *key.aliases)), None)
    if key is None:
        raise ConfigError("there is no such key" + hint(name, section, set(keys)), key=text)
    if key.since is Since.LATER:
        raise ConfigError("not available in this version", key=text)
    if len(steps) > 2 or (len(steps) == 2 and not isinstance(key.kind, ParameterTable | Rules)):
        raise ConfigError(f"{name} has no keys in it", key=text)
    return KeyName(section, key, pool, user, str(steps[1]) if len(steps) == 2 else "")


def file_form(name: KeyName, words: list[str]) -> Any:
    """What a file holds for a value that was typed: a list for a key that takes one, else one word as what it looks like.

    Raises ConfigError if there are too many words; whether the value is allowed is not looked at here.
    """
    kind = name.key.kind
    if isinstance(kind, ListOf):
        return [word for word in words if word]
    if len(words) != 1:
        raise ConfigError(f"takes one value; it must be {kind.allowed}", key=str(name))
    return as_typed(kind, words[0])


def as_typed(kind: Kind, word: str) -> str | int | bool:
    """What a file holds for a word: true or false, a number, or the word itself, as the key's kind has it."""
    plain = word.strip()
    if isinstance(kind, Flag) and plain.lower() in _TRUE | _FALSE:
        return plain.lower() in _TRUE
    if isinstance(kind, Integer | Duration | Size) and plain.isascii() and plain.lstrip("-").isdigit():
        return int(plain)
    return word
